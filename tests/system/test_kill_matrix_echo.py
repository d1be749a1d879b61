"""Exactly once, whoever is killed and when: sources number their messages, sinks check them.

Every sink notes a number that is missing, doubled or out of order; its log has one entry per
message. Effects end exactly once in the state, however often they were started.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from loomd.store.env import Store
from tests.support import BOUND_S, Client, Daemon, TestInstance, eventually

SESSION = "s-kill00"
SOURCES = [f"{SESSION}/source-{i}" for i in (1, 2)]
SINKS = [f"{SESSION}/sink-{i}" for i in (1, 2)]
WORKER = f"{SESSION}/worker-1"
MESSAGES = 25
EFFECTS = 4
KILLS = 8
LENIENT = "[supervision]\nintensity = 1000\nperiod_s = 1\n"
"""The matrix is about mail; giving up is tested elsewhere."""

POINTS = [
    "hub.before_commit:3",
    "hub.before_commit:20",
    "hub.after_commit:3",
    "hub.after_commit:20",
    "hub.before_ack:1",
    "hub.before_ack:15",
    "hub.before_publish:2",
    "host.before_step@source-1:7",
    "host.before_step@sink-1:9",
    "host.after_step@source-1:7",
    "host.after_step@sink-1:9",
    "host.after_step@worker-1:2",
    "host.after_commit@source-1:7",
    "host.after_commit@sink-2:9",
    "host.before_effect@worker-1:2",
    "host.after_effect@worker-1:2",
    "child.before_ready@sink-1:1",
    "child.before_ready@worker-1:1",
    "template.before_fork@source-1:1",
    "child.before_ready@hub:1",
    "child.before_ready@models:1",
    "child.before_ready@gateway-1:1",
    "template.before_fork@hub:1",
    "template.before_fork@gateway-1:1",
    "root.before_fork@sink-1:1",
    "root.after_fork@source-2:1",
]


def note(**data: Any) -> dict[str, Any]:
    return {"t": "note", "data": data}


@dataclass
class Work:
    """Sources, sinks and a performer on a daemon; knows when they are done and what is right."""

    daemon: Daemon
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = Client(self.daemon.instance.places)

    def begin(self) -> None:
        """Idempotent: every request has the same id after a restart of the daemon."""
        for name in SINKS:
            self._spawn(name, "echo", None)
        self._spawn(WORKER, "echo-performer", None)
        for i in range(EFFECTS):
            self._post(WORKER, note(op="effect", id=f"e{i}", do={"do": "now"}))
        for name in SOURCES:
            self._spawn(name, "echo", note(op="flood", to=SINKS, n=MESSAGES))

    def _spawn(self, name: str, kind: str, mail: dict[str, Any] | None) -> None:
        spec = {"name": name, "kind": kind, "session": SESSION}
        self._request("spawn", spec=spec, mail=mail)

    def _post(self, to: str, body: dict[str, Any]) -> None:
        self._request("post", to=to, body=body)

    def _request(self, op: str, **args: Any) -> None:
        """A request that outlives the hub; if the root dies under it, it is started again."""
        self.client._count += 1
        id = self.client._count

        def done() -> bool:
            self.revive()
            self.client._count = id - 1
            try:
                self.client.request(op, timeout=2.0, **args)
            except AssertionError:
                self.client.close()
                return False
            return True

        eventually(done, what=f"{op} {args}")

    def revive(self) -> bool:
        """Starts the daemon again if its root was killed by a crash point."""
        process = self.daemon.process
        if process is None or process.poll() is None:
            return False
        assert process.returncode == -signal.SIGKILL, self.daemon.tail()
        self.daemon.instance.killed = True
        self.daemon.process = None
        self.daemon.assert_nothing_left()
        self.daemon.start()
        return True

    def state(self, name: str, timeout: float = BOUND_S) -> dict[str, Any]:
        value: dict[str, Any] = self.client.request("fetch_state", timeout, name=name)
        return value

    def is_done(self) -> bool:
        self.revive()
        try:
            states = {name: self.state(name, 2.0) for name in (*SINKS, *SOURCES, WORKER)}
        except AssertionError:
            self.client.close()
            return False
        saved = {name: (value["state"] or {}) for name, value in states.items()}
        return (
            all(saved[name].get("count", 0) >= MESSAGES * len(SOURCES) for name in SINKS)
            and all("flood" in saved[name].get("done", ()) for name in SOURCES)
            and len(saved[WORKER].get("ended", ())) >= EFFECTS
            and all(value["mailbox"] == 0 for value in states.values())
        )

    def finish(self, disturb: Callable[[], bool] | None = None) -> None:
        """`disturb` is called until it says that it is through."""

        def done() -> bool:
            if disturb is not None and not disturb():
                return False
            return self.is_done()

        eventually(done, timeout=4 * BOUND_S, what=self.describe, pause=0.01)
        self.check()

    def check(self) -> None:
        """Each message once, in order, none lost; in the state and in the log."""
        with contextlib.closing(Store.read_only(self.daemon.instance.places)) as store:
            for name in SINKS:
                saved = self.state(name)["state"]
                assert saved["wrong"] == []
                assert saved["seen"] == dict.fromkeys(SOURCES, MESSAGES)
                assert saved["count"] == MESSAGES * len(SOURCES)
                texts = [entry.text for _, entry in store.entries(name, 1, 10_000)]
                for source in SOURCES:
                    numbers = [text.split()[1] for text in texts if text.startswith(source)]
                    assert numbers == [str(n) for n in range(1, MESSAGES + 1)]
        ended = self.state(WORKER)["state"]["ended"]
        assert sorted(ended) == [f"e{i}" for i in range(EFFECTS)]

    def describe(self) -> str:
        said = []
        for name in (*SINKS, *SOURCES, WORKER):
            try:
                said.append(repr(self.state(name, 2.0)))
            except AssertionError as error:
                said.append(f"{name}: {error}")
        return "\n".join(said) + "\n" + self.daemon.tail(30)


@pytest.fixture
def crashing(instance: TestInstance) -> Iterator[Callable[[str], Daemon]]:
    """A maker of a daemon with crash points; each fires once in the life of the instance."""
    instance.config.write_text(LENIENT)
    folder = instance.base / "crashes"
    folder.mkdir()
    made: list[Daemon] = []

    def make(points: str) -> Daemon:
        env = {"LOOM_CRASH_AT": points, "LOOM_CRASH_DIR": str(folder)} if points else {}
        daemon = Daemon(instance, env=env)
        made.append(daemon)
        daemon.start()
        return daemon

    yield make
    try:
        for daemon in made:
            daemon.stop()
    finally:
        for daemon in made:
            daemon.kill()


@pytest.mark.parametrize("point", POINTS)
def test_each_message_once_whichever_instant_kills(
    crashing: Callable[[str], Daemon], instance: TestInstance, point: str
) -> None:
    work = Work(crashing(point))
    try:
        work.begin()
        work.finish()
        count = int(point.partition(":")[2])
        passed = sum(f.stat().st_size for f in (instance.base / "crashes").iterdir())
        assert passed >= count, "the crash point never fired"
    finally:
        work.client.close()


def test_each_message_once_when_everything_crashes_in_one_life(
    crashing: Callable[[str], Daemon],
) -> None:
    work = Work(crashing(",".join(p for p in POINTS if not p.startswith("root."))))
    try:
        work.begin()
        work.finish()
    finally:
        work.client.close()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("victims", ["actors", "hub", "template", "all"])
def test_each_message_once_under_kills_at_random_instants(
    crashing: Callable[[str], Daemon], victims: str, seed: int
) -> None:
    work = Work(crashing(""))
    chance = random.Random(f"{victims}-{seed}")
    kills = [0]

    def disturb() -> bool:
        if kills[0] < KILLS and chance.random() < 0.7 and kill_one(work.daemon, victims, chance):
            kills[0] += 1
        return kills[0] == KILLS

    try:
        work.begin()
        work.finish(disturb)
    finally:
        work.client.close()


@pytest.mark.parametrize("seed", range(3))
def test_nothing_outlives_a_killed_root_and_a_new_one_goes_on(
    crashing: Callable[[str], Daemon], seed: int
) -> None:
    work = Work(crashing(""))
    chance = random.Random(seed)
    try:
        work.begin()
        for _ in range(2):
            wanted = chance.randrange(1, MESSAGES)

            def far_enough(wanted: int = wanted) -> bool:
                saved = work.state(SINKS[0])["state"] or {}
                return int(saved.get("count", 0)) >= wanted

            eventually(far_enough)
            work.client.close()
            work.daemon.kill()
            work.daemon.start()
        work.finish()
    finally:
        work.client.close()


def kill_one(daemon: Daemon, victims: str, chance: random.Random) -> bool:
    """SIGKILL to one process of a group; False if there is none just now."""
    groups = {"actors": "s-kill00/", "hub": "hub", "template": "template", "all": ""}
    named = []
    for process in daemon.children():
        with contextlib.suppress(psutil.Error):
            title = (process.cmdline() or [""])[0]  # read once: it may be dying
            name = title.removeprefix("loomd: ").strip()
            if title.startswith("loomd: ") and name.startswith(groups[victims]):
                named.append(process)
    if not named:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(sorted(named, key=lambda p: p.pid)).pid, signal.SIGKILL)
        return True
    return False
