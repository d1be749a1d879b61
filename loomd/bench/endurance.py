"""What only time shows: the neighbours of constant crashes, an idle root, and growth.

These take minutes, so they run only when they are named.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from loomd.bench.instance import Bench
from loomd.bench.report import Figure
from loomd.wire.errors import LoomError

MS = 1000.0
CRASH_EVERY_S = 0.06
"""A thousand a minute."""
CRASHES = 500
VICTIMS = 10
IDLE_S = 20.0
CHILDREN_PER_AGENT = 10
RESTARTS_PER_AGENT = 100
PATIENCE_S = 60.0


def crashes(bench: Bench, agents: int) -> Iterator[Figure]:
    """A bystander's ping while a thousand actors a minute are killed and come back."""
    session = bench.session()
    quiet = bench.spawn(session, "quiet")
    victims = [bench.spawn(session, f"victim-{i}") for i in range(VICTIMS)]
    for name in [quiet, *victims]:
        bench.client.ask(name, op="echo", value=0)
    samples = []
    killed: dict[str, int] = {}
    count = min(CRASHES, 5 * agents)
    began = time.monotonic()
    for i in range(count):
        name = victims[i % VICTIMS]
        pid = _new_pid(bench, session, name, killed.get(name, 0))
        killed[name] = pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        while time.monotonic() < began + (i + 1) * CRASH_EVERY_S:
            sent = time.perf_counter()
            bench.client.ask(quiet, op="echo", value=i)
            samples.append((time.perf_counter() - sent) * MS)
    rate = count / (time.monotonic() - began) * 60
    bench.clear()
    yield Figure(
        "crashes", "ms", samples, 2.0, judged="p99", note=f"beside {rate:.0f} crashes a minute"
    )


def root_idle(bench: Bench, agents: int) -> Iterator[Figure]:
    """What the root uses of one processor while all its children are idle."""
    session = bench.session()
    count = CHILDREN_PER_AGENT * agents
    names = [bench.spawn(session, f"idle-{i}") for i in range(count)]
    for name in names:
        bench.client.ask(name, op="echo", value=0)
    root = int(bench.client.request("status")["pid"])
    _settle(root)
    before, began = _used_ns(root), time.monotonic_ns()
    time.sleep(IDLE_S)
    share = (_used_ns(root) - before) / (time.monotonic_ns() - began) * 100
    bench.clear()
    yield Figure("root_idle", "% of core", [share], 0.5, note=f"{count} children")


def restarts_10000(bench: Bench, agents: int) -> Iterator[Figure]:
    """By how much the root has grown after ten thousand restarts (a hundred per agent)."""
    session = bench.session()
    victims = [bench.spawn(session, f"victim-{i}") for i in range(VICTIMS)]
    for name in victims:
        bench.client.ask(name, op="echo", value=0)
    root = int(bench.client.request("status")["pid"])
    count = RESTARTS_PER_AGENT * agents
    _restart(bench, session, victims, count // 10)  # until caches and pools have their size
    before = _holdings(bench, root, victims)
    began = time.monotonic()
    _restart(bench, session, victims, count - count // 10)
    rate = (count - count // 10) / (time.monotonic() - began)
    after = _holdings(bench, root, victims)
    bench.clear()
    grown = {what: after[what] - before[what] for what in before}
    note = f"of {count - count // 10} restarts, {rate:.0f} a second"
    for what, unit, goal in (
        ("descriptors", "n", 0.0),
        ("zombies", "n", 0.0),
        ("sockets", "n", 0.0),
        ("memory", "MB", 1.0),
    ):
        yield Figure(f"restarts_{what}", unit, [grown[what]], goal, judged="max", note=note)


def _restart(bench: Bench, session: str, victims: list[str], count: int) -> None:
    """Kills whoever has come back, until `count` have."""
    killed: dict[str, int] = {}
    done = 0
    end = time.monotonic() + PATIENCE_S
    while done < count:
        for row in bench.client.request("ps", session=session):
            name, pid = row["name"], int(row["pid"] or 0)
            if name not in victims or not pid or killed.get(name) == pid or done >= count:
                continue
            killed[name] = pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            done += 1
            end = time.monotonic() + PATIENCE_S
        if time.monotonic() > end:
            raise LoomError("timeout", f"nobody came back after {done} kills")


def _new_pid(bench: Bench, session: str, name: str, old: int) -> int:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for row in bench.client.request("ps", session=session):
            if row["name"] == name and row["pid"] and row["pid"] != old:
                return int(row["pid"])
    raise LoomError("timeout", f"{name} did not come back")


def _holdings(bench: Bench, root: int, victims: list[str]) -> dict[str, float]:
    """What the root holds when all is quiet again."""
    for name in victims:
        _ask_until_answered(bench, name)
    _settle(root)
    places = bench.places
    return {
        "descriptors": len(os.listdir(f"/proc/{root}/fd")),
        "zombies": _zombies(root),
        "sockets": sum(path.is_socket() for path in places.runtime.rglob("*")),
        "memory": _resident_mb(root),
    }


def _ask_until_answered(bench: Bench, name: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            bench.client.ask(name, op="echo", value=0)
            return
        except LoomError as error:
            if error.code != "actor_died" or time.monotonic() > end:
                raise


def _settle(root: int) -> None:
    """Until the root has had nothing to do for a moment."""
    last = -1
    while (used := _used_ns(root)) - last > 20_000_000:
        last = used
        time.sleep(2.0)


def _used_ns(pid: int) -> int:
    """Nanoseconds on a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _zombies(root: int) -> int:
    children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
    found = 0
    for pid in children:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/stat").read_text()
            found += text.rpartition(")")[2].split()[0] == "Z"
    return found
