"""The main job for system tests: a small repo, a session on it, and what must hold at its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from loomd.store.env import Store
from tests.support import BOUND_S, Client, Daemon, RequestFailed, eventually

JOB_S = 90.0
"""How long one job may take on a busy machine; it takes one or two seconds."""

GOAL = "rename parse_cfg to parse_config"

SOURCES = {
    "conf/__init__.py": "from conf.parser import parse_cfg\n\n__all__ = ['parse_cfg']\n",
    "conf/parser.py": (
        "def parse_cfg(text):\n"
        '    """parse_cfg reads `a=b` lines."""\n'
        "    return dict(line.split('=') for line in text.split())\n"
    ),
    "conf/use.py": (
        "import conf\n"
        "from conf.parser import parse_cfg as read\n\n\n"
        "def both(text, parse_cfg=None):\n"
        "    assert parse_cfg is None\n"
        "    return read(text), conf.parse_cfg(text)\n"
    ),
    "test_conf.py": (
        "from conf import parse_cfg\n"
        "from conf.use import both\n\n\n"
        "def test_both():\n"
        "    assert both('a=b') == ({'a': 'b'}, parse_cfg('a=b'))\n"
    ),
}

RENAMED = {
    "conf/__init__.py": "from conf.parser import parse_config\n\n__all__ = ['parse_config']\n",
    "conf/parser.py": (
        "def parse_config(text):\n"
        '    """parse_cfg reads `a=b` lines."""\n'
        "    return dict(line.split('=') for line in text.split())\n"
    ),
    "conf/use.py": (
        "import conf\n"
        "from conf.parser import parse_config as read\n\n\n"
        "def both(text, parse_cfg=None):\n"
        "    assert parse_cfg is None\n"
        "    return read(text), conf.parse_config(text)\n"
    ),
    "test_conf.py": (
        "from conf import parse_config\n"
        "from conf.use import both\n\n\n"
        "def test_both():\n"
        "    assert both('a=b') == ({'a': 'b'}, parse_config('a=b'))\n"
    ),
}

QUICK = SOURCES | {
    "pytest.py": (
        "import test_conf\n\n"
        "test_conf.test_both()\n"
        "print('1 passed in 0.00s')\n"
    )
}  # fmt: skip
"""With a runner of its own, found before the installed one, which takes a second to import."""

ONCE = {
    "model_request": "request",
    "model_outcome": "request",
    "tool_call": "call",
    "tool_result": "call",
    "task_created": "task",
    "task_ended": "task",
    "claim_granted": "claim",
    "claim_released": "claim",
    "edit_proposed": "edit",
    "edit_approved": "edit",
    "edit_applied": "edit",
    "agent_started": "name",
    "agent_ended": "name",
    "actor_started": "name",
    "actor_ended": "name",
    "keeper_started": "log",
    "decision": "id",
}
"""Type of event -> the field of its data that says of which thing it happens once."""


def make_repo(root: Path, sources: dict[str, str] | None = None) -> Path:
    """A git checkout with one commit."""
    for name, text in (SOURCES if sources is None else sources).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for args in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *args], cwd=root, check=True, capture_output=True)
    return root


def contents(root: Path, names: dict[str, str]) -> dict[str, str]:
    return {name: (root / name).read_text() for name in names}


def opener_env() -> dict[str, str]:
    """The Python of the test run first, so that the repo's tests find pytest."""
    here = Path(sys.executable).parent
    return {"PATH": f"{here}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


@dataclass
class Job:
    """One session of the main job on `daemon`, followed event by event."""

    daemon: Daemon
    client: Client
    repo: Path
    session: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    seen: int = 0
    patience: float = BOUND_S
    """Seconds until a request is given up."""

    def open(self, goal: str = GOAL, **more: Any) -> Job:
        args: dict[str, Any] = {
            "repo": str(self.repo),
            "goal": goal,
            "model": "",
            "team": 6,
            "yes": True,
            "budget_usd": None,
            "timeout_s": None,
            "env": opener_env(),
        }
        self.session = self.client.request("open_session", self.patience, **{**args, **more})[
            "session"
        ]
        return self

    def row(self) -> dict[str, Any]:
        row = self.client.request("session", session=self.session)
        assert isinstance(row, dict)
        return row

    def new_events(self) -> list[dict[str, Any]]:
        """Reads on in the log; what `follow` has not seen yet."""
        after = self.events[-1]["seq"] if self.events else 0
        page = self.client.request(
            "events", self.patience, session=self.session, after=after, limit=500
        )
        self.events += page["events"]
        return self.events[self.seen :]

    def follow(
        self,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
        until: Callable[[dict[str, Any]], bool] = lambda event: event["type"] == "session_ended",
    ) -> dict[str, Any]:
        """The next event on which `until` holds, each event seen once in the life of the job;
        AssertionError with the story if none comes."""

        def found() -> dict[str, Any] | None:
            for event in self.new_events():
                self.seen += 1
                on_event(event)
                if until(event):
                    return event
            return None

        event = eventually(
            found, JOB_S, what=lambda: f"the job went on:\n{self.story()}", pause=0.01
        )
        assert event is not None
        return event

    def story(self) -> str:
        lines = [
            f"{event['seq']} {event['actor']} {event['type']} {str(event['data'])[:200]}"
            for event in self.events[-60:]
        ]
        return "\n".join([*lines, self.daemon.tail(30)])

    def pid(self, name: str) -> int | None:
        for row in self.client.request("ps", session="", memory=False):
            if row["name"] == name and row["pid"]:
                return int(row["pid"])
        return None

    def kill(self, name: str) -> bool:
        """SIGKILL to one process; False if it is not there any more."""
        try:
            self.client.request("kill", name=name, signal=9)
        except RequestFailed as failed:
            if failed.code not in ("not_found", "not_running", "no_such_actor"):
                raise
            return False
        return True

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Living processes of this session whose title goes on with `title` after its id."""
        found = []
        for process in self.daemon.children():
            with contextlib.suppress(psutil.Error):
                said = (process.cmdline() or [""])[0].strip()
                if said.startswith(f"loomd: {self.session}/{title}"):
                    found.append(process)
        return found

    def check_done(self, *, gateway_died: bool = False) -> None:
        """Everything that must hold after the rename, whatever was killed on the way."""
        row = self.row()
        assert row["state"] == "done", f"{row}\n{self.story()}"
        assert contents(self.repo, RENAMED) == RENAMED
        self.new_events()
        assert [event["seq"] for event in self.events] == list(range(1, len(self.events) + 1))
        self.check_nothing_is_doubled()
        self.check_paid_once(gateway_died=gateway_died)
        applied = [e["data"]["edit"] for e in self.events if e["type"] == "edit_applied"]
        assert len(applied) == len(RENAMED)
        self.check_boards()
        eventually(lambda: not self.processes(), what=lambda: f"all gone: {self.processes()}")

    def check_nothing_is_doubled(self) -> None:
        """What happens once per thing was told once, and what was asked was answered."""
        told: dict[str, Counter[str]] = {type: Counter() for type in ONCE}
        for event in self.events:
            if event["type"] in ONCE:
                told[event["type"]][event["data"][ONCE[event["type"]]]] += 1
        for type, counts in told.items():
            assert set(counts.values()) <= {1}, f"{type}: {counts}"
        for asked, answered in (
            ("model_request", "model_outcome"),
            ("tool_call", "tool_result"),
            ("task_created", "task_ended"),
            ("edit_proposed", "edit_applied"),
        ):
            assert told[asked] == told[answered], f"{asked} and {answered}\n{self.story()}"

    def check_paid_once(self, *, gateway_died: bool) -> None:
        """One row of the ledger per request; others only for calls that died with the gateway."""
        asked = {e["data"]["request"] for e in self.events if e["type"] == "model_request"}
        with contextlib.closing(Store.read_only(self.daemon.instance.places)) as store:
            rows = [row for _, row in store.rows("ledger", b"") if row["session"] == self.session]
        assert Counter(r["request"] for r in rows if not r["lost"]) == dict.fromkeys(asked, 1)
        assert gateway_died or not any(row["lost"] for row in rows)

    def check_boards(self) -> None:
        """Tasks done, claims released, edits applied, no mail left behind or given up."""
        for table, states in (
            ("tasks", {"done"}),
            ("claims", {"released"}),
            ("edits", {"applied"}),
        ):
            board = self.client.request("board", session=self.session, table=table)
            assert {one["state"] for one in board} == states, f"{table}: {board}"
        assert self.client.request("dead", action="list", id="") == []


def strike(process: psutil.Process) -> bool:
    """SIGKILL; False if it had ended by itself."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True
