"""Named instants at which a kill test ends a process, so that tests hit instants and not luck.

`LOOM_CRASH_AT` is a comma-separated list of `point[@name-substring][:n]`: the process that passes
`point` (of an actor whose name contains the substring) for the n-th time (default: the first) kills
itself with SIGKILL. `LOOM_CRASH_DIR` names a folder in which passages are counted for all processes
of the instance together, so that each entry fires exactly once; without it every process counts for
itself. Unset, a crash point costs one test of an empty tuple.
"""

from __future__ import annotations

import fcntl
import os
import signal
from dataclasses import dataclass

POINTS = frozenset(
    {
        "hub.before_commit",
        "hub.after_commit",
        "hub.before_ack",
        "hub.before_publish",
        "host.before_step",
        "host.after_step",
        "host.after_commit",
        "host.before_effect",
        "host.after_effect",
        "root.before_fork",
        "root.after_fork",
        "root.before_exec",
        "root.after_exec",
        "root.before_templates",
        "root.before_move",
        "template.before_fork",
        "child.before_ready",
        "apply.before_rename",
        "apply.after_rename",
        "gateway.before_call",
        "gateway.after_call",
    }
)


@dataclass(frozen=True)
class Plan:
    """One entry of `LOOM_CRASH_AT`."""

    point: str
    name: str
    count: int
    id: str


def parse(text: str) -> tuple[Plan, ...]:
    """The entries of `LOOM_CRASH_AT`. Raises ValueError for an unknown point or a bad count."""
    plans = []
    for i, entry in enumerate(part.strip() for part in text.split(",")):
        if not entry:
            continue
        head, _, count = entry.partition(":")
        point, _, name = head.partition("@")
        if point not in POINTS:
            raise ValueError(f"LOOM_CRASH_AT: no such point: {point!r}")
        if count and (not count.isdecimal() or int(count) < 1):
            raise ValueError(f"LOOM_CRASH_AT: {entry!r}: the count must be a number from 1")
        safe = "".join(c if c.isalnum() or c in ".-" else "_" for c in head)
        plans.append(Plan(point, name, int(count or 1), f"{i}-{safe}"))
    return tuple(plans)


_plans = parse(os.environ.get("LOOM_CRASH_AT", ""))
_folder = os.environ.get("LOOM_CRASH_DIR", "")
_passed: dict[str, int] = {}


def _passage(plan: Plan) -> int:
    """Counts this passage; its number, from 1."""
    if not _folder:
        _passed[plan.id] = _passed.get(plan.id, 0) + 1
        return _passed[plan.id]
    fd = os.open(os.path.join(_folder, plan.id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # two processes must never read the same number
        size = os.fstat(fd).st_size
        os.pwrite(fd, b".", size)
        return size + 1
    finally:
        os.close(fd)


def crash_point(point: str, name: str = "") -> None:
    """Ends this process here, if the environment says so."""
    if not _plans:
        return
    for plan in _plans:
        if plan.point == point and plan.name in name and _passage(plan) == plan.count:
            os.kill(os.getpid(), signal.SIGKILL)
