"""A daemon that runs from a copy of the package, so that a test can put new code on its disk."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loomd
from tests.support import Client, Daemon, TestInstance, eventually, make_instance, remove_instance

PACKAGE = Path(loomd.__file__).parents[1]
SESSION = "s-upgr00"
CONFIG = "[supervision]\nintensity = 2\nperiod_s = 60\nheartbeat_s = 2\n"
UPGRADE_S = 100.0
DEATHS = (
    "root.before_exec",
    "root.after_exec",
    "root.before_templates",
    "root.before_move@/a",
    "hub.after_commit@:9",
    "template.before_fork@models:2",
    "child.before_ready@hub:2",
)
"""Instants of an upgrade at which somebody is killed."""


def note(**data: Any) -> dict[str, Any]:
    return {"t": "note", "data": data}


class Copy:
    """The copied package."""

    def __init__(self, base: Path) -> None:
        self.home = base / "code"
        for name in ("loomd", "loomctl"):
            shutil.copytree(
                PACKAGE / name, self.home / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        self._before: dict[Path, str] = {}

    def change(self, name: str, old: str, new: str) -> None:
        """Replaces `old` in a module; "" appends."""
        path = self.home / name
        text = path.read_text()
        self._before.setdefault(path, text)
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new, 1) if old else text + new)

    def keep(self) -> None:
        """What has been changed so far is not put back."""
        self._before.clear()

    def undo(self) -> None:
        """Puts everything back."""
        for path, text in self._before.items():
            path.write_text(text)
        self._before.clear()


class Upgrading:
    """Such a daemon, with echo actors in it."""

    def __init__(self, instance: TestInstance, **env: str) -> None:
        self.instance = instance
        self.code = Copy(instance.base)
        environment = {
            "PYTHONPATH": str(self.code.home),
            "PYTHONSAFEPATH": "1",
            # A change within one second that keeps the size would not be seen in a cache.
            "PYTHONDONTWRITEBYTECODE": "1",
            **env,
        }
        self.daemon = Daemon(instance, env=environment)
        self.client = Client(instance.places)

    def start(self) -> Upgrading:
        self.daemon.start()
        self.client.connect()
        return self

    def upgrade(self) -> dict[str, Any]:
        """As a client asks for it; RequestFailed if the new code is refused."""
        value: dict[str, Any] = self.client.request("upgrade", UPGRADE_S)
        return value

    def loomctl(self, *args: str, code: int = 0) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "loomctl", "--json", *args],
            env=self.instance.environment(**self.daemon.env),
            capture_output=True,
            text=True,
            timeout=UPGRADE_S,
            check=False,
        )
        said = f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.daemon.tail(20)}"
        assert done.returncode == code, said
        return json.loads(done.stdout)

    def spawn(self, name: str, kind: str = "echo") -> str:
        full = f"{SESSION}/{name}"
        self.client.request("spawn", spec={"name": full, "kind": kind, "session": SESSION})
        eventually(lambda: self.row(full)["state"], what=lambda: f"born: {self.row(full)}")
        return full

    def tell(self, to: str, /, **data: Any) -> None:
        self.client.request("post", to=to, body=note(**data))

    def ask(self, to: str, **data: Any) -> Any:
        return self.client.request("ask", actor=to, body=note(**data))["data"]

    def row(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = self.client.request("fetch_state", name=name)
        return value

    def until(self, name: str, true: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        return eventually(
            lambda: (lambda row: row if row["state"] and true(row) else None)(self.row(name)),
            what=lambda: f"{self.row(name)}\n{self.daemon.tail(20)}",
        )

    def ps(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.client.request("ps")}

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Of the root's log."""
        found = []
        for line in self.daemon.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and said.get("event") == event:
                    found.append(said)
        return found

    def incarnations(self) -> dict[str, int]:
        """Of every process that lives."""
        return {name: row["incarnation"] for name, row in self.ps().items() if row["pid"]}


@contextlib.contextmanager
def upgrading(config: str = CONFIG, *, begin: bool = True, **env: str) -> Iterator[Upgrading]:
    """One that is ready, or (not `begin`) is still to be started; gone afterwards, with nothing
    left."""
    instance = make_instance(config)
    made = Upgrading(instance, **env)
    try:
        if begin:
            made.start()
        yield made
        made.client.close()
        made.daemon.stop()
    finally:
        made.client.close()
        made.daemon.kill()
        remove_instance(instance)
