"""At the start: ends what a killed predecessor has left behind, and nobody else.

A root that is killed takes its children with it, and they what is below them; but what was stopped
cannot react, and what has left every tree nobody looks for. It is found by

    the cgroup that the predecessor has noted in its state directory
    the mark of the instance: a variable in the environment of everything that was executed, and the
    name of the slots' memory in all that was forked and has kept it mapped

and by being below such a process. The mark is made of the state directory itself, so no other
instance, and no process of anybody else's, has it. Before the tree is up, this may wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path

from loomd.supervise import cgroup, kernel
from loomd.supervise.brood import Hunt
from loomd.supervise.slots import MEMFD

VARIABLE = "LOOM_INSTANCE"
NOTE = "cgroup"
"""File in the state directory: the path of the cgroup in use."""
WAIT_S = 5.0
LOOK_S = 0.02


@dataclass(frozen=True)
class Swept:
    """Pids that were killed, one by one or with their cgroup; those that would not die in time; the
    cgroup that was removed."""

    killed: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    cgroup: str = ""


def mark_of(state: Path) -> str:
    """What all processes of the instance with that state directory are known by."""
    status = state.stat()
    text = f"{status.st_dev}:{status.st_ino}:{state.resolve()}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def note_cgroup(state: Path, base: str) -> None:
    """For the successor. Not durable: what it names does not outlive the machine either."""
    new = state / f"{NOTE}.new"
    new.write_text(base)
    os.replace(new, state / NOTE)


def noted_cgroup(state: Path) -> str:
    """What was noted last; "" if nothing was."""
    try:
        return (state / NOTE).read_text().strip()
    except (OSError, ValueError):
        return ""


def sweep(state: Path) -> Swept:
    """Kills whatever is left of the instance. To be called by the holder of its lock only."""
    end = time.monotonic() + WAIT_S
    killed, removed = _sweep_cgroup(noted_cgroup(state), end)
    mark = mark_of(state)
    while True:
        found = marked(mark)
        if not found:
            return Swept(tuple(sorted(killed)), (), removed)
        if time.monotonic() > end:
            return Swept(tuple(sorted(killed)), tuple(found), removed)
        hunt = Hunt()
        while not hunt.round(found):
            pass
        killed.update(hunt.held)
        _await(hunt.held, end)


def marked(mark: str) -> list[int]:
    """Living processes of this user with the mark; not this one, nor who is above or below it."""
    spared = {os.getpid(), *_above(), *_below()}
    uid = os.getuid()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in spared:
            continue
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{entry}").st_uid == uid and _has(f"/proc/{entry}", mark):
                found.append(int(entry))
    return found


def _has(proc: str, mark: str) -> bool:
    with open(f"{proc}/environ", "rb") as file:
        if f"{VARIABLE}={mark}".encode() in file.read().split(b"\0"):
            return True
    if "python" not in os.readlink(f"{proc}/exe"):
        return False  # to look at everybody's map would take long
    with open(f"{proc}/maps", "rb") as file:
        return f"/memfd:{MEMFD}{mark} ".encode() in file.read()


def _above() -> set[int]:
    found: set[int] = set()
    pid = os.getppid()
    while pid > 0 and pid not in found:
        found.add(pid)
        now = kernel.stat_of(pid)
        pid = now.parent if now is not None else 0
    return found


def _below() -> set[int]:
    found: set[int] = set()
    queue = [os.getpid()]
    while queue:
        children = kernel.children_of(queue.pop())
        found.update(children)
        queue += children
    return found


def _await(killed: dict[int, int], end: float) -> None:
    """Until they are dead; whose child they are is nothing to us."""
    for pid, start in killed.items():
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            now = kernel.stat_of(pid)
            if now is not None and now.start == start:
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                poll.poll(max(0.0, end - time.monotonic()) * 1000)
        finally:
            os.close(fd)


def _sweep_cgroup(base: str, end: float) -> tuple[set[int], str]:
    """Kills all that is in the predecessor's cgroup, and removes it; who was seen there, and its
    path."""
    killed: set[int] = set()
    if not os.path.basename(base).startswith(cgroup.PREFIX) or not os.path.isdir(base):
        return killed, ""
    try:
        mine = cgroup.own()
    except cgroup.Unavailable:
        mine = ""
    for path in cgroup.below(base):
        # Whoever was started from inside of it must not end itself.
        if f"{mine}/".startswith(f"{path}/"):
            continue
        leaf = cgroup.Leaf(path)
        killed |= leaf.pids()
        leaf.kill()
        while not cgroup.remove(path) and time.monotonic() < end:
            time.sleep(LOOK_S)
    return killed, base if cgroup.remove(base) else ""
