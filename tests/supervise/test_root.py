"""A real root with toy children and real signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import BOUND_S, eventually, processes_naming, whole_lines

REPO = Path(__file__).parents[2]
TEMPLATE = {
    "id": "template",
    "start": {"serves": "actors", "preload": ["tests.children.toys"], "spares": 2},
}


class Rooted:
    """A root process, its log, and the end of its hub's line.

    Its times are those of a test: only what a test sets itself runs out on a machine that stalls.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.folder = base / "flags"
        self.output = base / "output"
        self.folder.mkdir()
        self.output.mkdir()
        self.process: subprocess.Popen[bytes] | None = None
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(base / "hub"))
        self.listener.listen()
        self.listener.settimeout(BOUND_S)
        self.hub: socket.socket | None = None
        self.notes: list[dict[str, Any]] = []

    def toy(self, id: str, do: str = "live", **more: Any) -> dict[str, Any]:
        fields = {"shutdown_s": BOUND_S} | {
            k: more.pop(k) for k in ("restart", "shutdown_s", "significant") if k in more
        }
        start = {"ready_s": BOUND_S} | {
            k: more.pop(k) for k in ("ready_s", "keys", "nice", "cold", "memory_mb") if k in more
        }
        args = {"folder": str(self.folder), "do": do, **more}
        entry = "tests.children.toys:main"
        return {
            "id": id,
            **fields,
            "start": {"template": "actors", "entry": entry, "args": args, **start},
        }

    def hub_spec(self) -> dict[str, Any]:
        program = str(REPO / "tests/children/puppet_hub.py")
        return {
            "id": "hub",
            "start": {"command": [sys.executable, program, str(self.base / "hub")]},
        }

    def start(self, *children: dict[str, Any], env: dict[str, str] | None = None, **config: Any):
        flags = {k: config.pop(k) for k in ("strategy", "intensity", "period_s") if k in config}
        tree = {
            "id": "root",
            "type": "supervisor",
            "intensity": 10,
            "period_s": 3600,
            **flags,
            "children": list(children),
        }
        path = self.base / "config.json"
        path.write_text(
            json.dumps({"tree": tree, "output": str(self.output), "secret": "ab", **config})
        )
        with open(self.base / "log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(REPO / "tests/children/rooted.py"), str(path)],
                cwd=REPO,
                env={**os.environ, "PYTHONPATH": str(REPO), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if any(child["id"] == "hub" for child in children):
            self.accept_hub()
        return self

    def accept_hub(self) -> None:
        if self.hub is not None:
            self.hub.close()
        try:
            self.hub, _ = self.listener.accept()
        except TimeoutError:
            raise AssertionError(f"no hub:\n{(self.base / 'log').read_text()}") from None
        self.hub.settimeout(BOUND_S)

    # --- what it says

    def lines(self, event: str = "", **facts: Any) -> list[dict[str, Any]]:
        found = []
        for text in whole_lines(self.base / "log"):
            if not text.startswith("{"):
                continue
            line = json.loads(text)
            if (not event or line["event"] == event) and all(
                line.get(k) == v for k, v in facts.items()
            ):
                found.append(line)
        return found

    def wait_line(self, event: str, n: int = 1, **facts: Any) -> dict[str, Any]:
        return eventually(
            lambda: self.lines(event, **facts)[n - 1 : n],
            what=lambda: f"line {event} {facts} in\n{(self.base / 'log').read_text()}",
        )[0]

    def wait_started(self, name: str, n: int = 1) -> int:
        """The pid of the n-th incarnation of `name` that has said ready."""
        return int(self.wait_line("started", n, name=name)["pid"])

    def births(self) -> list[str]:
        return [line.split()[0] for line in whole_lines(self.folder / "births") if line]

    def read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    # --- the hub's line

    def tell(self, **message: Any) -> None:
        assert self.hub is not None
        self.hub.send(json.dumps(message).encode())

    def wait_note(self, op: str, **facts: Any) -> dict[str, Any]:
        """The next note like that; all earlier ones are passed over (and kept in `notes`)."""
        assert self.hub is not None
        while True:
            note = json.loads(self.hub.recv(1 << 20))
            self.notes.append(note)
            if note["op"] == op and all(note.get(k) == v for k, v in facts.items()):
                return note

    def ask(self, **message: Any) -> dict[str, Any]:
        self.tell(**message)
        return self.wait_note("result", id=message["id"])

    # --- the end

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(BOUND_S)

    def left(self) -> list[psutil.Process]:
        return processes_naming(str(self.base))

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for sock in (self.hub, self.listener):
            if sock is not None:
                sock.close()
        eventually(lambda: not self.left(), what=lambda: f"nothing left, but {self.left()}")


@pytest.fixture
def rooted() -> Iterator[Rooted]:
    with tempfile.TemporaryDirectory(prefix="loom-root-", dir="/tmp") as base:
        made = Rooted(Path(base))
        try:
            yield made
        finally:
            made.close()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def group(id: str, *children: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "supervisor", "children": list(children), **more}


# --- life and death of a worker ------------------------------------------------------------------


def test_children_start_in_order_and_stop_in_reverse(rooted):
    rooted.start(TEMPLATE, *(rooted.toy(name) for name in ("c", "a", "b")))
    rooted.wait_line("ready")
    assert rooted.births() == ["c", "a", "b"]
    assert rooted.stop() == 0
    assert rooted.read("ends").split() == ["b", "a", "c"]
    assert rooted.left() == []


def test_a_killed_child_is_replaced_by_a_new_incarnation_of_the_root(rooted):
    rooted.start(TEMPLATE, rooted.toy("a"), rooted.toy("b"))
    first, other = rooted.wait_started("a"), rooted.wait_started("b")
    os.kill(first, signal.SIGKILL)
    second = rooted.wait_started("a", 2)
    assert second != first and not alive(first) and alive(other)
    process = psutil.Process(second)
    assert process.ppid() == rooted.process.pid
    assert os.getsid(second) == second
    assert process.cmdline()[0].startswith("loomd: a")
    one, two = rooted.lines("started", name="a")
    assert two["incarnation"] > one["incarnation"] >> 32 << 32
    assert rooted.wait_line("exited", name="a")["reason"] == "killed by SIGKILL"


def test_a_crash_is_reported_with_its_error(rooted):
    rooted.start(TEMPLATE, rooted.toy("a", "raise", text="no luck", restart="temporary"))
    line = rooted.wait_line("exited", name="a")
    assert (line["status"], line["reason"]) == (1, "RuntimeError: no luck")
    assert "no luck" in (rooted.output / "a").read_text()


def test_too_many_crashes_end_the_root_with_status_1(rooted):
    rooted.start(TEMPLATE, rooted.toy("a", "exit", status=3), intensity=2)
    assert rooted.wait() == 1
    assert rooted.births() == ["a", "a", "a"]
    assert rooted.lines("gave_up", supervisor="root")
    assert rooted.left() == []


def test_a_failing_start_is_retried_until_it_succeeds(rooted):
    rooted.start(TEMPLATE, rooted.toy("a"), rooted.hub_spec(), group("sessions", dynamic=True))
    rooted.tell(
        op="ensure",
        name="s-1/x",
        session="s-1",
        group="agents",
        spec=rooted.toy("s-1/x", "fail_starts", times=3),
    )
    rooted.wait_started("s-1/x")
    assert rooted.births().count("s-1/x") == 4


def test_a_start_that_takes_too_long_is_killed_and_counts_as_failed(rooted):
    rooted.start(TEMPLATE, rooted.toy("a", "never_ready", ready_s=0.05))
    assert rooted.wait() == 1
    assert rooted.wait_line("start_error", name="a")["reason"] == "time-out"
    assert rooted.left() == []


def test_status_74_ends_its_supervisor_without_a_retry(rooted):
    rooted.start(TEMPLATE, rooted.toy("a", "cannot_start"))
    assert rooted.wait() == 1
    assert rooted.births() == ["a"]


def test_an_entry_point_that_does_not_exist_can_never_start(rooted):
    spec = rooted.toy("a")
    spec["start"]["entry"] = "tests.children.nowhere:main"
    rooted.start(TEMPLATE, spec)
    assert rooted.wait() == 1
    assert "nowhere" in rooted.wait_line("exited", name="a")["reason"]


def test_a_command_that_does_not_exist_is_a_failed_start(rooted):
    rooted.start({"id": "a", "start": {"command": ["/no/such/program"]}})
    assert rooted.wait() == 1
    assert rooted.wait_line("exited", name="a")["status"] == 73
    assert "cannot execute" in (rooted.output / "a").read_text()


def test_a_child_that_does_not_stop_is_killed_at_its_time(rooted):
    rooted.start(TEMPLATE, rooted.toy("a", "stubborn", shutdown_s=0.05), rooted.toy("b"))
    rooted.wait_line("ready")
    assert rooted.stop() == 0
    assert rooted.wait_line("exited", name="a")["reason"] == "stop time-out"


def test_a_second_signal_ends_everything_at_once(rooted):
    rooted.start(TEMPLATE, rooted.toy("a", "stubborn", shutdown_s="infinity"))
    rooted.wait_line("ready")
    rooted.process.send_signal(signal.SIGTERM)
    rooted.wait_line("stopping")
    rooted.process.send_signal(signal.SIGINT)
    assert rooted.wait() == 0


# --- nothing survives ----------------------------------------------------------------------------


def test_kill_9_of_the_root_leaves_nothing(rooted):
    rooted.start(TEMPLATE, rooted.toy("a"), rooted.toy("b", "stubborn"), rooted.hub_spec())
    rooted.wait_line("ready")
    assert len(rooted.left()) >= 3
    rooted.process.kill()
    rooted.process.wait()
    eventually(lambda: not rooted.left(), what=lambda: f"nothing left: {rooted.left()}")


def test_the_brood_of_a_dead_child_is_dead_before_its_successor_starts(rooted):
    rooted.start(TEMPLATE, rooted.toy("a", "brood"))
    first = rooted.wait_started("a")
    eventually(lambda: rooted.read("brood"), what="the brood")
    pids = [int(pid) for pid in rooted.read("brood").split()]
    assert all(alive(pid) for pid in pids)
    (rooted.folder / "brood").unlink()
    os.kill(first, signal.SIGKILL)
    rooted.wait_started("a", 2)
    assert not any(alive(pid) for pid in pids)
    eventually(lambda: rooted.read("brood"), what="the second brood")
    second = [int(pid) for pid in rooted.read("brood").split()]
    assert rooted.stop() == 0
    assert not any(alive(pid) for pid in second)


@pytest.mark.parametrize(
    "point", ["root.before_fork@a", "root.after_fork@a", "root.before_fork@template"]
)
def test_the_root_killed_at_a_birth_leaves_nothing(rooted, point):
    rooted.start(TEMPLATE, rooted.toy("a"), env={"LOOM_CRASH_AT": point})
    assert rooted.wait() == -signal.SIGKILL
    eventually(lambda: not rooted.left(), what=lambda: f"nothing left: {rooted.left()}")


# --- the template --------------------------------------------------------------------------------


def test_a_killed_template_is_replaced_and_its_children_live_on(rooted):
    rooted.start(TEMPLATE, rooted.toy("a"), rooted.toy("b"))
    template, a, b = (rooted.wait_started(name) for name in ("template", "a", "b"))
    os.kill(template, signal.SIGKILL)
    os.kill(b, signal.SIGKILL)
    assert rooted.wait_started("template", 2) != template
    rooted.wait_started("b", 2)
    assert alive(a)
    assert rooted.lines("start_error") == []


def test_orders_open_at_the_template_s_death_are_placed_again_and_not_counted(rooted):
    env = {"LOOM_CRASH_AT": "template.before_fork@b", "LOOM_CRASH_DIR": str(rooted.folder)}
    rooted.start(TEMPLATE, rooted.toy("a"), rooted.toy("b"), env=env, intensity=1)
    rooted.wait_started("b")
    assert rooted.births() == ["a", "b"]
    assert len(rooted.lines("started", name="template")) == 2
    assert rooted.lines("start_error") == []


def test_a_child_killed_before_ready_is_a_failed_start(rooted):
    env = {"LOOM_CRASH_AT": "child.before_ready@x", "LOOM_CRASH_DIR": str(rooted.folder)}
    rooted.start(TEMPLATE, rooted.hub_spec(), group("services", dynamic=True, intensity=3), env=env)
    rooted.tell(op="ensure", name="x", session="", group="", spec=rooted.toy("x"))
    rooted.wait_started("x")
    assert rooted.births() == ["x", "x"]
    assert rooted.wait_line("start_error", name="x")


def test_a_burst_of_births_and_an_order_all_arrive(rooted):
    rooted.start(TEMPLATE, rooted.hub_spec(), group("sessions", dynamic=True))
    names = [f"s-1/a{i}" for i in range(40)]
    for name in names:
        rooted.tell(op="ensure", name=name, session="s-1", group="agents", spec=rooted.toy(name))
    for name in names:
        rooted.wait_started(name)
    assert sorted(rooted.births()) == sorted(names)
    assert rooted.stop() == 0


def spares(rooted) -> list[int]:
    """Children of the root that nobody has ordered yet."""
    known = {line["pid"] for line in rooted.lines("started")}
    children = psutil.Process(rooted.process.pid).children()
    template = rooted.lines("started", name="template")[-1]["pid"]
    return [c.pid for c in children if c.pid not in known and session_of(c.pid) == template]


def session_of(pid: int) -> int:
    """0: it is gone."""
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)
    return 0


def test_spares_are_made_in_advance_replaced_and_gone_with_their_template(rooted):
    rooted.start(TEMPLATE, rooted.hub_spec(), group("services", dynamic=True))
    template = rooted.wait_started("template")
    eventually(lambda: len(spares(rooted)) == 2, what="two spares")
    first = spares(rooted)
    rooted.tell(op="ensure", name="x", session="", group="", spec=rooted.toy("x"))
    assert rooted.wait_started("x") in first
    eventually(lambda: len(spares(rooted)) == 2, what="two spares again")
    for pid in spares(rooted):
        os.kill(pid, signal.SIGKILL)
    for name in ("y", "z"):
        rooted.tell(op="ensure", name=name, session="", group="", spec=rooted.toy(name))
    assert {rooted.wait_started("y"), rooted.wait_started("z")}.isdisjoint(first)
    eventually(lambda: len(spares(rooted)) == 2, what="two spares at last")
    last = spares(rooted)
    os.kill(template, signal.SIGKILL)
    rooted.wait_started("template", 2)
    eventually(lambda: not any(alive(pid) for pid in last), what="old spares gone")
    eventually(lambda: len(spares(rooted)) == 2, what="two spares of the new one")
    assert rooted.stop() == 0
    assert not rooted.lines("orphans_killed")  # their end is no fault


def ahead() -> dict[str, Any]:
    return {
        "id": "template",
        "start": {**TEMPLATE["start"], "ahead": "tests.children.toys:prepare"},
    }


def test_a_spare_is_prepared_before_its_order_and_a_cold_child_takes_none(rooted):
    rooted.start(ahead(), rooted.hub_spec(), group("services", dynamic=True))
    rooted.wait_started("template")
    eventually(lambda: len(spares(rooted)) == 2, what="two spares")
    for name, more in (("warm", {"nice": 5}), ("cold", {"cold": True})):
        spec = rooted.toy(name, "prepared", **more)
        rooted.tell(op="ensure", name=name, session="", group="", spec=spec)
    assert eventually(lambda: rooted.read("warm")) == "True {5}"
    assert eventually(lambda: rooted.read("cold")) == "False {0}"


def test_a_spare_that_cannot_be_prepared_serves_all_the_same(rooted):
    base_args = {"unprepared": True}
    rooted.start(ahead(), rooted.hub_spec(), group("services", dynamic=True), base_args=base_args)
    rooted.wait_started("template")
    eventually(lambda: len(spares(rooted)) == 2, what="two spares")
    rooted.tell(op="ensure", name="x", session="", group="", spec=rooted.toy("x"))
    rooted.wait_started("x")
    assert "cannot be prepared" in (rooted.output / "template").read_text()


def test_without_spares_every_child_is_forked_on_its_order(rooted):
    start = {k: v for k, v in TEMPLATE["start"].items() if k != "spares"}
    rooted.start({"id": "template", "start": start}, rooted.toy("a"), rooted.toy("b"))
    os.kill(rooted.wait_started("a"), signal.SIGKILL)
    rooted.wait_started("a", 2)
    assert spares(rooted) == []


def test_a_child_has_no_descriptors_but_its_own(rooted):
    rooted.start(TEMPLATE, rooted.toy("a"), rooted.toy("b", "descriptors"))
    listed = eventually(lambda: rooted.read("descriptors"), what="descriptors").split("\n")
    assert len([name for name in listed if name.startswith("socket:")]) == 1  # its link
    assert not any("slots" in name or "eventpoll" in name for name in listed)


def test_a_nice_child_is_nice_beyond_its_own_session(rooted):
    rooted.start(TEMPLATE, rooted.toy("a", nice=10), rooted.toy("b"))
    nice, plain = rooted.wait_started("a"), rooted.wait_started("b")
    assert (os.getpriority(os.PRIO_PROCESS, nice), os.getpriority(os.PRIO_PROCESS, plain)) == (
        10,
        0,
    )
    group = Path(f"/proc/{nice}/autogroup")
    if group.exists() and os.getuid() == 0:  # others may write it only now and then
        assert group.read_text().endswith("nice 10\n")


def test_only_a_child_with_keys_gets_the_memfd(rooted):
    rooted.start(TEMPLATE, rooted.toy("a", "keys", keys=True), keys={"SECRET": "x"})
    eventually(lambda: rooted.read("keys"), what="keys")
    assert json.loads(rooted.read("keys")) == {"SECRET": "x"}


# --- liveness and blame --------------------------------------------------------------------------


def test_a_child_busy_for_longer_than_the_heartbeat_is_killed_and_blamed(rooted):
    rooted.start(
        TEMPLATE,
        rooted.hub_spec(),
        group("services", dynamic=True),
        heartbeat_s=0.2,
    )
    spec = rooted.toy("x", "hang_in_step", restart="temporary")
    rooted.tell(op="ensure", name="x", session="", group="", spec=spec)
    note = rooted.wait_note("exited", name="x")
    assert note["reason"] == "hung"
    assert note["blame"] == {"kind": "mail", "lane": 1, "seq": 7}
    assert note["final"] is True


@pytest.mark.parametrize(("do", "seq"), [("raise_in_step", 9), ("segv_in_step", 8)])
def test_a_death_in_a_step_by_its_own_fault_is_blamed(rooted, do, seq):
    rooted.start(TEMPLATE, rooted.hub_spec(), group("services", dynamic=True))
    spec = rooted.toy("x", do, restart="temporary")
    rooted.tell(op="ensure", name="x", session="", group="", spec=spec)
    assert rooted.wait_note("exited", name="x")["blame"]["seq"] == seq


def test_an_idle_child_that_is_killed_is_not_blamed(rooted):
    rooted.start(TEMPLATE, rooted.hub_spec(), group("services", dynamic=True))
    rooted.tell(op="ensure", name="x", session="", group="", spec=rooted.toy("x"))
    os.kill(rooted.wait_started("x"), signal.SIGKILL)
    note = rooted.wait_note("exited", name="x")
    assert (note["blame"], note["signal"], note["final"]) == (None, signal.SIGKILL, False)


# --- the hub's line ------------------------------------------------------------------------------


def test_the_hub_hears_of_births_and_ends_and_may_ask_which(rooted):
    rooted.start(TEMPLATE, rooted.hub_spec(), group("sessions", dynamic=True))
    spec = rooted.toy("s-1/team", restart="transient")
    rooted.tell(op="ensure", name="s-1/team", session="s-1", group="", spec=spec, after=0)
    born = rooted.wait_note("born", name="s-1/team")
    rooted.wait_started("s-1/team")
    rooted.tell(op="which", id=5)
    which = rooted.wait_note("which", id=5)
    row = next(r for r in which["children"] if r[0] == "s-1/team")
    assert row[:4] == ["s-1/team", born["incarnation"], born["pid"], "up"] and which["last"]
    rooted.tell(op="stop", name="s-1/team")
    assert rooted.wait_note("exited", name="s-1/team")["final"] is True
    rooted.tell(op="tree", id=6)
    tree = json.loads(rooted.wait_note("tree", id=6)["part"])
    ids = [c["id"] for c in tree["children"][2]["children"][0]["children"]]
    assert ids == ["s-1/agents", "s-1/keepers"]
    rooted.tell(op="end_session", session="s-1")
    rooted.tell(op="tree", id=7)
    tree = json.loads(rooted.wait_note("tree", id=7)["part"])
    assert tree["children"][2]["children"] == []


def test_an_ensured_actor_is_started_again_after_it_slept(rooted):
    rooted.start(TEMPLATE, rooted.hub_spec(), group("sessions", dynamic=True))
    spec = rooted.toy("s-1/a", "exit", status=72)
    rooted.tell(op="ensure", name="s-1/a", session="s-1", group="agents", spec=spec)
    note = rooted.wait_note("exited", name="s-1/a")
    assert (note["status"], note["final"]) == (72, True)
    spec = rooted.toy("s-1/a")
    rooted.tell(
        op="ensure",
        name="s-1/a",
        session="s-1",
        group="agents",
        spec=spec,
        after=note["incarnation"],
    )
    assert rooted.wait_note("born", name="s-1/a")["incarnation"] > note["incarnation"]


def test_calls_of_the_hub_are_answered(rooted):
    rooted.start(TEMPLATE, rooted.toy("a"), rooted.hub_spec())
    first = rooted.wait_started("a")
    again = rooted.ask(op="restart", id=1, name="a")
    assert again["ok"] and again["pid"] not in (0, first)
    assert rooted.ask(op="child", id=2, name="a", call="delete")["error"] == "running"
    assert rooted.ask(op="child", id=3, name="a", call="terminate")["ok"]
    assert rooted.ask(op="child", id=4, name="a", call="start")["error"] == "already_present"
    assert rooted.ask(op="child", id=5, name="a", call="restart")["ok"]
    assert rooted.ask(op="child", id=6, name="a", call="terminate")["ok"]
    assert rooted.ask(op="child", id=7, name="a", call="delete")["ok"]
    assert rooted.ask(op="child", id=8, name="a", call="restart")["error"] == "not_found"
    assert rooted.ask(op="signal", id=9, name="a", signal=9)["error"] == "not_found"
    sent = rooted.ask(op="signal", id=10, name="template", signal=9)
    assert sent["ok"] and sent["pid"] == rooted.lines("started", name="template")[0]["pid"]
    rooted.wait_started("template", 2)


def test_nonsense_from_the_hub_is_answered_and_harms_nothing(rooted):
    rooted.start(TEMPLATE, rooted.hub_spec(), group("sessions", dynamic=True))
    for i, wrong in enumerate(
        [
            {"op": "fly"},
            {"op": None},
            {"op": "ensure"},
            {"op": "ensure", "name": "x", "spec": {"id": "y"}},
            {"op": "ensure", "name": "x", "spec": {"start": 3}},
            {"op": "child", "name": "x", "call": "adopt"},
            {"op": "epoch", "epoch": "soon"},
            {"op": "signal", "name": "hub", "signal": "hard"},
        ]
    ):
        answer = rooted.ask(id=i, **wrong)
        assert not answer["ok"] and answer["error"], wrong
    assert rooted.stop() == 0


def test_the_hub_s_epoch_is_passed_to_the_links(rooted):
    rooted.start(TEMPLATE, rooted.toy("a"), rooted.toy("b"), rooted.hub_spec())
    rooted.wait_line("ready")
    rooted.tell(op="epoch", epoch=3)
    eventually(lambda: sorted(rooted.read("epochs").split()) == ["3", "3", "a", "b"], what="epoch")


def test_a_killed_hub_is_replaced_and_may_ask_again(rooted):
    rooted.start(TEMPLATE, rooted.toy("a"), rooted.hub_spec())
    os.kill(rooted.wait_started("hub"), signal.SIGKILL)
    rooted.accept_hub()
    rooted.tell(op="which", id=1)
    names = [row[0] for row in rooted.wait_note("which", id=1)["children"]]
    assert names == ["template", "a", "hub"]


def test_the_hub_may_end_the_daemon(rooted):
    rooted.start(TEMPLATE, rooted.hub_spec())
    rooted.tell(op="shutdown")
    assert rooted.wait() == 0


# --- the root itself -----------------------------------------------------------------------------


def test_the_root_has_one_thread_and_none_of_the_libraries(rooted):
    rooted.start(TEMPLATE, rooted.toy("a"))
    rooted.wait_line("ready")
    assert len(os.listdir(f"/proc/{rooted.process.pid}/task")) == 1
    maps = Path(f"/proc/{rooted.process.pid}/maps").read_text()
    for library in ("zmq", "lmdb", "msgspec", "msgpack", "litellm", "setproctitle"):
        assert library not in maps
    code = (
        "import sys, loomd.boot; "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('zmq', 'lmdb', 'msgspec', 'msgpack', 'litellm', 'setproctitle', 'asyncio')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_systemd_is_told_and_children_cannot_speak_for_the_root(rooted):
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.bind(str(rooted.base / "notify"))
        systemd.settimeout(BOUND_S)
        env = {"NOTIFY_SOCKET": str(rooted.base / "notify"), "WATCHDOG_USEC": "100000"}
        rooted.start(
            TEMPLATE, rooted.hub_spec(), rooted.toy("a", "keys", keys=True), env=env, keys={}
        )
        said: list[str] = []  # the dog may be fed any number of times before all is ready
        while not (any(t.startswith("READY=1") for t in said) and "WATCHDOG=1" in said):
            said.append(systemd.recv(4096).decode())
        eventually(lambda: rooted.read("environ"), what="environ")
        assert "NOTIFY_SOCKET" not in rooted.read("environ")
        rooted.tell(op="status", sessions=2, actors=9, blocked=1)
        while systemd.recv(4096) != b"STATUS=2 sessions, 9 actors, 1 blocked":
            pass
        rooted.process.send_signal(signal.SIGTERM)
        while not systemd.recv(4096).decode().startswith("STOPPING=1"):
            pass
        assert rooted.wait() == 0
