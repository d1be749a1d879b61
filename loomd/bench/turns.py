"""Figures of whole turns: a model's calls, through a real agent and its session's tool host."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from loomd.bench import model
from loomd.bench.instance import Bench, running
from loomd.bench.report import Figure
from loomd.wire.errors import LoomError

MS = 1000.0
BOUND_S: Final = 60.0

NAPS: Final = '''
import subprocess
import time

from loomd.tools import tool


@tool
def nap(seconds: float) -> str:
    """Sleeps."""
    time.sleep(seconds)
    return "rested"


@tool
def stay(seconds: str) -> str:
    """Does not end, nor does what it has started in a session of its own."""
    subprocess.Popen(["sleep", seconds], start_new_session=True)
    time.sleep(1000)
    return ""
'''


@contextlib.contextmanager
def _talking() -> Iterator[tuple[Bench, model.Model, Path]]:
    """A daemon whose model says what it is told, with the tools above; and a checkout."""
    with (
        model.serving() as said,
        running(said.config(), "none is needed", {"naps.py": NAPS}) as bench,
    ):
        repo = bench.places.state.parent / "repo"
        repo.mkdir()
        (repo / "a.txt").write_text("one\n")
        said.calls = [("nap", {"seconds": 0.0})]
        _until_over(bench, _open(bench, repo))  # the gateway has imported what it needs
        yield bench, said, repo


def _open(bench: Bench, repo: Path) -> str:
    opened = bench.client.request(
        "open_session", repo=str(repo), goal="go", yes=True, env={"PATH": os.environ["PATH"]}
    )
    return str(opened["session"])


def _events(bench: Bench, session: str) -> list[dict[str, Any]]:
    from loomd.store.schema import name_key

    return [row for _, row in bench.store.rows("events", name_key(session))]


def _until_over(bench: Bench, session: str) -> dict[str, Any]:
    end = time.monotonic() + BOUND_S
    while True:
        found = bench.client.request("session", session=session)
        if found["state"] in ("done", "failed", "stopped"):
            break
        if time.monotonic() > end:
            raise LoomError("timeout", f"{session} is {found['state']} after {BOUND_S:g} s")
        time.sleep(0.01)
    if found["state"] == "failed":
        raise LoomError("failed", f"{session}: {found.get('kind')}: {found.get('answer')}")
    return dict(found)


def calls_8(bench: Bench, agents: int) -> Iterator[Figure]:
    """Eight calls of one turn that sleep for a second: from the agent's step that makes them until
    its step with the last result."""
    samples = []
    with _talking() as (own, said, repo):
        for _ in range(5):
            said.calls = [("nap", {"seconds": 1.0}) for _ in range(8)]
            session = _open(own, repo)
            _until_over(own, session)
            times: dict[str, list[float]] = {"tool_call": [], "tool_result": []}
            for event in _events(own, session):
                if event["type"] in times:
                    times[event["type"]].append(event["ts"])
                    if event["data"].get("ok") is False:
                        raise LoomError("failed", str(event["data"]))
            if len(times["tool_result"]) != 8:
                raise LoomError("failed", f"{len(times['tool_result'])} of 8 calls were answered")
            samples.append((max(times["tool_result"]) - min(times["tool_call"])) * MS)
    yield Figure("calls_8", "ms", samples, 1100.0, floor=1000.0, note="eight that sleep 1 s")


def cancel(bench: Bench, agents: int) -> Iterator[Figure]:
    """From the client's verb until the processes of a running call are dead, the one in a session
    of its own too."""
    with _talking() as (own, said, repo):
        for figures, verb in enumerate(("cancel", "stop")):
            samples = []
            for n in range(20):
                mark = f"1000.{os.getpid()}{figures}{n:02}"
                said.calls = [("stay", {"seconds": mark})]
                session = _open(own, repo)
                pids = _sleeping(mark)
                samples.append(_until_dead(own, session, verb, pids))
                _until_over(own, session)
            yield Figure(
                "cancel" if verb == "cancel" else f"cancel_by_{verb}",
                "ms",
                samples,
                100.0,
                judged="max",
                note=f"loomctl {verb}: verb to the death of two processes",
            )


def model_cancel(bench: Bench, agents: int) -> Iterator[Figure]:
    """From the client's verb until the server of a running call sees its connection closed."""
    samples = []
    with _talking() as (own, said, repo):
        said.calls, said.holds = [], True
        for _ in range(30):
            session = _open(own, repo)
            said.begun.get(timeout=BOUND_S)
            began = time.perf_counter()
            request = own.client.post("control", session=session, op="cancel")
            samples.append((said.closed.get(timeout=BOUND_S) - began) * MS)
            own.client.wait(request)
            _until_over(own, session)
    yield Figure(
        "model_cancel",
        "ms",
        samples,
        200.0,
        judged="max",
        note="loomctl cancel: verb to the closed connection of a call",
    )


def _sleeping(mark: str) -> list[int]:
    """The process `sleep MARK` and its parent, once they are there. A sandbox has numbers of its
    own, so they are looked for from outside."""
    wanted = f"sleep\0{mark}\0".encode()
    end = time.monotonic() + BOUND_S
    while time.monotonic() < end:
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and (entry / "cmdline").read_bytes() == wanted:
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    return [int(entry.name), int(parent)]
        time.sleep(0.01)
    raise LoomError("timeout", "the call to be cancelled did not begin")


def _until_dead(bench: Bench, session: str, verb: str, pids: list[int]) -> float:
    fds = [os.pidfd_open(pid) for pid in pids]
    try:
        began = time.perf_counter()
        request = bench.client.post("control", session=session, op=verb)
        left = list(fds)
        while left:
            ready, _, _ = select.select(left, [], [], BOUND_S)
            if not ready:
                raise LoomError("timeout", f"processes of a call live on after {verb}")
            left = [fd for fd in left if fd not in ready]
        spent = (time.perf_counter() - began) * MS
        bench.client.wait(request)
        return spent
    finally:
        for fd in fds:
            os.close(fd)
