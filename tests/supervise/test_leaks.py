"""Restarts leave nothing: the counts after hundreds of them are those after a few."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import psutil

from loomd.supervise import cgroup, kernel
from loomd.supervise.sweep import noted_cgroup
from tests.supervise.test_containment import BOTH, rooted
from tests.supervise.test_root import TEMPLATE, Rooted
from tests.support import eventually

__all__ = ["rooted"]

FEW, MANY = 20, 300


@BOTH
def test_hundreds_of_restarts_leave_no_descriptor_no_zombie_and_no_cgroup(
    rooted: Rooted, cgroups: bool
) -> None:
    go = rooted.folder / "go"
    # It leaves somebody in the background each time it ends, in a session of his own.
    shell = f"setsid sleep 1000 & test -e {go} && exit 3; exec sleep 1000"
    rooted.start(
        TEMPLATE,
        rooted.toy("a", "crash_while_told"),
        {"id": "b", "start": {"command": ["sh", "-c", shell], "ready": "none"}},
        intensity=100_000,
        cgroups=cgroups,
    )
    rooted.wait_line("ready")
    restarts(rooted, FEW)
    before = settled(rooted)
    restarts(rooted, MANY)
    eventually(lambda: holdings(rooted) == before, what=lambda: f"{holdings(rooted)} == {before}")
    assert rooted.stop() == 0


def restarts(rooted: Rooted, count: int) -> None:
    """Lets both crash until the toy has been born so often again, then live."""
    assert rooted.process is not None
    go = rooted.folder / "go"
    go.touch()
    wanted = rooted.births().count("a") + count
    for pid in kernel.children_of(rooted.process.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just been reaped
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
            if name.startswith((b"loomd: a", b"sleep")) and os.getsid(pid) == pid:
                os.kill(pid, signal.SIGKILL)
    eventually(lambda: rooted.births().count("a") >= wanted, timeout=60.0, what=f"{count} restarts")
    go.unlink()


def settled(rooted: Rooted) -> dict[str, Any]:
    """What it holds, once that stands still although the root has turned meanwhile."""
    assert rooted.process is not None
    root = psutil.Process(rooted.process.pid)
    seen: list[dict[str, Any]] = []
    waits: list[int] = []

    def still() -> dict[str, Any]:
        seen.append(holdings(rooted))
        waits.append(root.num_ctx_switches().voluntary)
        stands = len(seen) > 5 and seen[-5:] == [seen[-1]] * 5
        return seen[-1] if stands and waits[-1] > waits[-5] else {}

    return eventually(still, what=lambda: f"no change any more: {seen[-5:]}", pause=0.3)


def holdings(rooted: Rooted) -> dict[str, Any]:
    """Exact counts: descriptors by kind, children by state, and cgroups."""
    assert rooted.process is not None
    pid = rooted.process.pid
    kinds: dict[str, int] = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            kind = os.readlink(f"/proc/{pid}/fd/{fd}").partition(":[")[0]
            kinds[kind] = kinds.get(kind, 0) + 1
    states: dict[str, int] = {}
    for child in kernel.children_of(pid):
        now = kernel.stat_of(child)
        over = "gone" if now is None else "zombie" if now.over else "alive"
        states[over] = states.get(over, 0) + 1
    return {
        "descriptors": kinds,
        "children": states,
        "cgroups": len(cgroup.below(noted_cgroup(rooted.base) or "/nowhere")),
    }
