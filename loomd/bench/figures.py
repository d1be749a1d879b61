"""One function per figure, on echo actors. Goals: what loomd is built to reach."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from loomd.bench import calls, endurance, floors, reloads, search, thoughts, turns
from loomd.bench.instance import Bench
from loomd.bench.report import Figure
from loomd.wire.errors import LoomError

Measure = Callable[[Bench, int], Iterator[Figure]]
MS = 1000.0


def spawn(bench: Bench, agents: int) -> Iterator[Figure]:
    """From the order until the new process has answered; then all in one burst."""
    session = bench.session()
    bench.client.ask(bench.spawn(session, "first"), op="echo", value=0)
    samples = []
    for i in range(agents):
        began = time.perf_counter()
        bench.client.ask(bench.spawn(session, f"one-{i}"), op="echo", value=0)
        samples.append((time.perf_counter() - began) * MS)
    bench.clear()
    yield Figure("spawn", "ms", samples, 4.0, floor=floors.fork(), note="floor: bare fork")
    session = bench.session()
    began = time.perf_counter()
    names = [bench.spawn(session, f"all-{i}") for i in range(agents)]
    for name in names:
        bench.client.ask(name, op="echo", value=0)
    spent = (time.perf_counter() - began) * MS
    bench.clear()
    yield Figure("spawn_burst", "ms", [spent], 4.0 * agents, note=f"{agents} at once, all answered")


def restart(bench: Bench, agents: int) -> Iterator[Figure]:
    """From kill -9 until the successor has answered with the last state."""
    session = bench.session()
    name = bench.spawn(session, "victim")
    samples = []
    for n in range(1, 31):
        bench.tell(name, op="add", n=n)
        while bench.client.ask(name, op="state")["state"]["count"] != n:
            pass
        pid = bench.pid(name)
        began = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        while True:
            try:
                state = bench.client.ask(name, op="state")["state"]
                break
            except LoomError as error:
                if error.code != "actor_died":
                    raise
        samples.append((time.perf_counter() - began) * MS)
        if state["count"] != n:
            raise LoomError("internal", f"the successor has {state['count']}, not {n}")
    bench.clear()
    yield Figure("restart", "ms", samples, 6.0)


def obituary(bench: Bench, agents: int) -> Iterator[Figure]:
    """From kill -9 until a caller of a plain ask is told."""
    session = bench.session()
    name = bench.spawn(session, "victim", kind="echo-performer")
    samples = []
    for _ in range(20):
        bench.client.ask(name, op="state")
        pid = bench.pid(name)
        os.kill(pid, signal.SIGSTOP)
        id = bench.client.post(
            "ask", actor=name, body={"t": "note", "data": {"op": "echo", "value": 1}}
        )
        began = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        try:
            bench.client.wait(id)
        except LoomError as error:
            if error.code != "actor_died":
                raise
            samples.append((time.perf_counter() - began) * MS)
    bench.clear()
    if samples:
        yield Figure("obituary", "ms", samples, 10.0)


def rtt(bench: Bench, agents: int) -> Iterator[Figure]:
    """Ask and reply, nothing durable: client, hub, actor, hub, client."""
    name = bench.spawn(bench.session(), "echo")
    bench.client.ask(name, op="echo", value=0)
    yield Figure(
        "rtt",
        "ms",
        _pings(bench, name, 2000),
        0.3,
        floor=2 * floors.round_trip(),
        note="floor: two zmq round trips",
    )
    bench.clear()


def _pings(bench: Bench, name: str, n: int) -> list[float]:
    samples = []
    for i in range(n):
        began = time.perf_counter()
        bench.client.ask(name, op="echo", value=i)
        samples.append((time.perf_counter() - began) * MS)
    return samples


def rtt_durable(bench: Bench, agents: int) -> Iterator[Figure]:
    """A mail and its answer between two actors: two steps, two fsyncs, exactly once."""
    session = bench.session()
    one, two = bench.spawn(session, "one"), bench.spawn(session, "two")
    bench.client.ask(two, op="echo", value=0)
    bench.tell(one, op="ping", to=two, n=500)
    bench.until(one, "ping")
    times = [now for kind, now in bench.times(one) if kind == "mail"]
    samples = [(b - a) * MS for a, b in itertools.pairwise(times)]
    bench.clear()
    yield Figure(
        "rtt_durable",
        "ms",
        samples,
        1.2,
        floor=2 * floors.durable_write() + floors.round_trip() * 2,
        note="floor: two LMDB commits, two zmq round trips",
    )


def broadcast_10(bench: Bench, agents: int) -> Iterator[Figure]:
    """From a publication until the last of 10 processes has it."""
    yield from _broadcast(bench, 10, 0.4)


def broadcast_100(bench: Bench, agents: int) -> Iterator[Figure]:
    """From a publication until the last of 100 processes has it."""
    yield from _broadcast(bench, 100, 4.0)


def _broadcast(bench: Bench, count: int, goal: float) -> Iterator[Figure]:
    session = bench.session()
    topic = f"d/{session}/"
    source = bench.spawn(session, "source", kind="echo-performer")
    names = [bench.spawn(session, f"n-{i}", kind="echo-performer") for i in range(count)]
    for name in names:
        bench.tell(name, op="effect", id="ear", do={"do": "listen", "topic": topic})
    warm = 0
    while True:  # until every subscription is in force
        bench.client.ask(source, op="publish", topic=topic, n=f"warm-{warm}")
        if all(f"warm-{warm}" in bench.client.ask(name, op="heard") for name in names):
            break
        warm += 1
    rounds = 30
    for i in range(rounds):
        bench.client.ask(source, op="publish", topic=topic, n=i)
        while str(i) not in bench.client.ask(names[-1], op="heard"):
            pass
    heard = [bench.client.ask(name, op="heard") for name in names]
    samples = [max(one[str(i)] for one in heard) / 1e6 for i in range(rounds)]
    bench.clear()
    yield Figure(f"broadcast_{count}", "ms", samples, goal)


def broadcast_durable_10(bench: Bench, agents: int) -> Iterator[Figure]:
    """From the sender's step until the last of 10 has begun its own with the mail."""
    session = bench.session()
    source = bench.spawn(session, "source")
    names = [bench.spawn(session, f"n-{i}") for i in range(10)]
    for name in [source, *names]:
        bench.client.ask(name, op="echo", value=0)
    rounds = 40
    for n in range(1, rounds + 1):
        bench.tell(source, op="broadcast", to=names, n=n)
        for name in names:
            while bench.saved(name).get("count", 0) < n:
                pass
    sent = [now for kind, now in bench.times(source) if kind == "mail"]
    got = [[now for kind, now in bench.times(name) if kind == "mail"] for name in names]
    samples = [(max(one[i] for one in got) - sent[i]) * MS for i in range(rounds)]
    bench.clear()
    yield Figure("broadcast_durable_10", "ms", samples)


def memory_agent(bench: Bench, agents: int) -> Iterator[Figure]:
    """Private memory of an idle actor's process; then after a full garbage collection."""
    session = bench.session()
    names = [bench.spawn(session, f"m-{i}") for i in range(agents)]
    for name in names:
        bench.client.ask(name, op="state")
    pids = {row["name"]: row["pid"] for row in bench.client.request("ps") if row["name"] in names}
    samples = [private_mb(pid) for pid in pids.values()]
    yield Figure("memory_agent", "MB", samples, 2.0, note="private, idle")
    for name in names:
        bench.tell(name, op="collect")
    for name in names:
        bench.until(name, "collect")
    samples = [private_mb(pid) for pid in pids.values()]
    bench.clear()
    yield Figure("memory_agent_collected", "MB", samples, 2.0, note="after gc.collect()")


def private_mb(pid: int) -> float:
    """What only this process holds."""
    kb = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            kb += int(line.split()[1])
    return kb / 1024


def commits(bench: Bench, agents: int) -> Iterator[Figure]:
    """Durable commits per second of many actors at once, each mailing itself."""
    session = bench.session()
    steps = 200
    names = [bench.spawn(session, f"c-{i}") for i in range(agents)]
    for name in names:
        bench.client.ask(name, op="echo", value=0)
    for id in [
        bench.client.post("post", to=name, body={"t": "note", "data": {"op": "loop", "n": steps}})
        for name in names
    ]:
        bench.client.wait(id)
    for name in names:
        bench.until(name, "loop")
    times = [now for name in names for kind, now in bench.times(name) if kind == "mail"]
    bench.clear()
    # Between the first tenth and the last: neither the start nor the stragglers.
    times.sort()
    low, high = len(times) // 10, len(times) - len(times) // 10 - 1
    rate = (high - low) / (times[high] - times[low])
    yield Figure("commits", "1/s", [rate], 8000.0, note=f"{agents} actors", more=True)


def tool_call(bench: Bench, agents: int) -> Iterator[Figure]:
    """From the tool host's step that opens a call until its step with the result.

    A real session's host, with the sandbox on: a process per call, and one durable commit between
    the two steps.
    """
    samples = calls.samples(bench, "list", {"path": "."})
    yield Figure(
        "tool_call",
        "ms",
        samples,
        6.0,
        floor=floors.fork() + floors.durable_write(),
        note="sandbox on, one durable commit; floor: bare fork, LMDB commit",
    )


def grep(bench: Bench, agents: int) -> Iterator[Figure]:
    """A search over 10,000 files by the tool, and by ripgrep alone: in turn, on the same tree."""
    yield from search.grep(bench.places.state.parent / "grep")


def starvation(bench: Bench, agents: int) -> Iterator[Figure]:
    """A neighbour's ping beside one actor, then four, that burn the processors."""
    for hogs, goal in ((1, 1.0), (4, 2.0)):
        session = bench.session()
        name = bench.spawn(session, "quiet")
        bench.client.ask(name, op="echo", value=0)
        burning = [bench.spawn(session, f"hog-{i}", nice=10) for i in range(hogs)]
        for hog in burning:
            bench.client.ask(hog, op="echo", value=0)
            for _ in range(100):
                bench.tell(hog, op="burn", s=0.1)
        samples = _pings(bench, name, 2000)
        bench.clear()
        yield Figure(
            "starvation" if hogs == 4 else f"starvation_{hogs}",
            "ms",
            samples,
            goal,
            judged="p99",
            note=f"beside {hogs} at nice +10",
        )


FIGURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (
        spawn,
        restart,
        obituary,
        rtt,
        rtt_durable,
        broadcast_10,
        broadcast_100,
        broadcast_durable_10,
        memory_agent,
        commits,
        tool_call,
        turns.calls_8,
        turns.cancel,
        grep,
        reloads.reload,
        starvation,
    )
}
"""Those that run when none is named, in their order."""

LONG: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (
        calls.sandboxes,
        thoughts.model_overhead,
        thoughts.first_delta,
        turns.model_cancel,
        thoughts.model_streams,
        endurance.crashes,
        endurance.root_idle,
        endurance.restarts_10000,
    )
}
"""Those that take minutes, or daemons of their own."""
