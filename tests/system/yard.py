"""A daemon with services of the test's own, driven by `loomctl` alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import BOUND_S, TestInstance, eventually, make_instance, remove_instance

PROGRAM = str(Path(__file__).parents[1] / "children" / "service.py")
LOOP = Path(__file__).parents[1] / "children" / "loomctl_loop.py"


class Yard:
    """One daemon for many tests: each has a folder and a configuration of its own."""

    def __init__(self, instance: TestInstance) -> None:
        self.instance = instance
        self.folder = instance.base
        self._tests = 0
        self._loop = subprocess.Popen(
            [sys.executable, str(LOOP)],
            env=instance.environment(PYTHONPATH=str(LOOP.parents[2])),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._loop.communicate(timeout=BOUND_S)

    # --- loomctl ---

    def loomctl(self, *args: str) -> tuple[int, str, str]:
        """(exit status, stdout, stderr)"""
        assert self._loop.stdin is not None and self._loop.stdout is not None
        self._loop.stdin.write(json.dumps(args) + "\n")
        self._loop.stdin.flush()
        code, out, err = json.loads(self._loop.stdout.readline())
        return code, out, err

    def run(self, *args: str) -> None:
        """A `loomctl` of its own that must succeed."""
        subprocess.run(
            [sys.executable, "-m", "loomctl", *args],
            env=self.instance.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=60,
            check=True,
        )

    def ask(self, *args: str) -> Any:
        """The one JSON value of a verb, whatever its exit status."""
        _, out, err = self.loomctl("--json", *args)
        assert out, err
        return json.loads(out)

    def child(self, call: str, id: str) -> Any:
        return self.ask("child", call, id)["result"]

    def node(self, id: str) -> dict[str, Any] | None:
        """A node of the tree, None if it is not there."""
        found = [self.ask("tree")]
        for node in found:
            if node["id"] == id:
                return node
            found += node["children"]
        return None

    def state(self, id: str) -> str | None:
        node = self.node(id)
        return None if node is None else str(node["state"])

    def wait_state(self, id: str, *states: str | None) -> None:
        eventually(lambda: self.state(id) in states, what=f"{id} is {states}")

    # --- configurations ---

    def configure(self, *trees: dict[str, Any]) -> dict[str, Any]:
        """A new folder, and a configuration of these trees in force."""
        self._tests += 1
        self.folder = self.instance.base / f"t{self._tests}"
        self.folder.mkdir()
        return self.change(*trees)

    def change(self, *trees: dict[str, Any]) -> dict[str, Any]:
        text = "\n".join(line for tree in trees for line in self._toml("supervisor", tree))
        self.instance.config.write_text(text + "\n")
        code, out, err = self.loomctl("--json", "reload", "config")
        assert code == 0, (out, err, text)
        answer: dict[str, Any] = json.loads(out)
        return answer

    def _toml(self, key: str, table: dict[str, Any]) -> Iterator[str]:
        yield f"[[{key}]]"
        below = table.get("child", [])
        for name, value in table.items():
            if name == "words":
                value = [sys.executable, PROGRAM, str(self.folder), table["id"], *value]
                yield f"command = {json.dumps(value)}"
            elif name == "env":
                pairs = ", ".join(f"{key} = {json.dumps(text)}" for key, text in value.items())
                yield f"env = {{ {pairs} }}"
            elif name != "child":
                yield f"{name} = {json.dumps(value)}"
        for child in below:
            yield from self._toml(f"{key}.child", child)

    # --- the children's own story ---

    def story(self) -> list[str]:
        path = self.folder / "story"
        return path.read_text().splitlines() if path.exists() else []

    def steps(self) -> list[str]:
        """The story without pids."""
        return [line.split()[0] for line in self.story()]

    def started(self, id: str, n: int = 1) -> int:
        """The pid of its n-th incarnation, once that says that it runs."""

        def lives() -> list[str]:
            return [line for line in self.story() if line.startswith(f"+{id} ")]

        found = eventually(
            lambda: lives()[n - 1 : n], what=lambda: f"start {n} of {id} in {self.story()}"
        )
        return int(found[0].split()[1])

    def wait_steps(self, *steps: str) -> None:
        eventually(lambda: self.steps() == list(steps), what=lambda: f"{steps}, but {self.steps()}")

    def order(self, id: str, text: str) -> None:
        """Tells the running incarnation of `id` what to do."""
        fd = os.open(self.folder / id, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, f"{text}\n".encode())
        os.close(fd)


def sup(id: str, *children: dict[str, Any], **flags: Any) -> dict[str, Any]:
    return {"id": id, **flags, "child": list(children)}


def service(id: str, *words: str, **fields: Any) -> dict[str, Any]:
    """A program that is ready when it has said so: it is steered by then."""
    return {"id": id, "words": list(words), "ready": "line:^up$", **fields}


@contextmanager
def yard() -> Iterator[Yard]:
    """A daemon that `loomctl` has started and stops."""
    instance = make_instance()
    made = Yard(instance)
    try:
        made.run("daemon", "start")
        try:
            yield made
        finally:
            made.run("daemon", "stop")
            made.close()
        eventually(lambda: not instance.processes(), BOUND_S, what="nothing left")
    finally:
        remove_instance(instance)
