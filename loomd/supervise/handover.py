"""How a root becomes its own successor: it freezes itself and executes the new code in its place.

Same pid: its children stay its children, locks stay held, no PDEATHSIG fires. What it knows goes
into a memfd as JSON; descriptors (links, pidfds, the memfds of slots and keys, locks, listeners)
stay open and are named there by number. Signals are blocked from here until the new image can take
them. Done between two turns of the loop, when no event is half worked off, so that nothing is lost:
datagrams that wait in a link are in the kernel, those that wait for a link are frozen.

If the kernel refuses the `execve`, the old image goes on. If the new image fails before its loop
turns, which the preflight has ruled out for exactly this state, the process ends, every child with
it, and the next start resumes from what is on disk: what happens at any death of a root.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import signal
import socket
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from loomd.supervise import freeze as freezing
from loomd.supervise import spec as s
from loomd.supervise.cgroup import Leaf
from loomd.supervise.crash import crash_point
from loomd.supervise.freeze import FreezeError
from loomd.supervise.link import Link
from loomd.supervise.notes import Notes
from loomd.supervise.process import Process

if TYPE_CHECKING:
    from loomd.supervise.root import Root

FORMAT: Final = 1
VARIABLE: Final = "LOOM_ROOT_FD"
KEYS_VARIABLE: Final = "LOOM_KEYS_FD"
NAME: Final = "loomd-root"
SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})


def freeze(root: Root) -> dict[str, Any]:
    """All that a root knows, as JSON-able data."""
    config = root.config
    return {
        "format": FORMAT,
        "policy": freezing.freeze(root.policy),
        "processes": [_freeze_process(process) for process in root.processes.values()],
        "orders": [
            [[*line], [process.name for process in queue]]
            for line, queue in root.births.orders.items()
            if queue
        ],
        "kills": [[name, [*key], count] for name, (key, count) in root.ends.kills.items()],
        "slots": root.slots.fd,
        "services": root.services.freeze(),
        "hubline": root.hubline.freeze(),
        "upgrade": root.upgrade.freeze(),
        "log": root.log.freeze(),
        "announced": root._announced,
        "boot": config.boot,
        "secret": config.secret,
        "base_args": config.base_args,
        "keys_fd": config.keys_fd,
        "lock_fds": list(config.lock_fds),
        "listen_fd": config.listen_fd,
        "cgroups": None if config.cgroups is None else config.cgroups.freeze(),
    }


def pack(frozen: Mapping[str, Any]) -> int:
    """A memfd that holds it, not inheritable."""
    fd = os.memfd_create(NAME, os.MFD_CLOEXEC)
    with open(os.dup(fd), "wb") as file:
        file.write(json.dumps(frozen).encode())
    return fd


def unpack(fd: int) -> dict[str, Any]:
    """What `pack` has put there. Raises FreezeError."""
    try:
        frozen = json.loads(os.pread(fd, os.fstat(fd).st_size, 0))
    except (OSError, ValueError) as error:
        raise FreezeError(f"what was handed on is not readable: {error}") from error
    if not isinstance(frozen, dict) or frozen.get("format") != FORMAT:
        raise FreezeError(f"this code reads format {FORMAT} of what a root hands on")
    return frozen


def received() -> dict[str, Any] | None:
    """What a predecessor in this process has handed on; None: there was none. FreezeError."""
    text = os.environ.pop(VARIABLE, "")
    if not text.isdecimal():
        return None
    fd = int(text)
    try:
        if not os.readlink(f"/proc/self/fd/{fd}").startswith(f"/memfd:{NAME}"):
            return None
    except OSError:
        return None
    try:
        return unpack(fd)
    finally:
        os.close(fd)


def descriptors(frozen: Mapping[str, Any]) -> Iterator[int]:
    """Every descriptor that is named there."""
    for process in frozen["processes"]:
        yield from (process["link"], process["theirs"], process["pidfd"])
    for service in frozen["services"]:
        yield from (service["out"], service["told"], service["notify"])
    yield from (frozen["slots"], frozen["keys_fd"], *frozen["lock_fds"], frozen["listen_fd"])


def execute(root: Root) -> OSError:
    """Executes the program of the root's config. Comes back only if that cannot be."""
    crash_point("root.before_exec")
    root.log.flush()
    frozen = freeze(root)
    open_fds = [fd for fd in descriptors(frozen) if fd >= 0]
    fd = pack(frozen)
    env = {**os.environ, **root.notify.kept, VARIABLE: str(fd)}
    if root.config.keys_fd >= 0:
        env[KEYS_VARIABLE] = str(root.config.keys_fd)
    program = root.config.program
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for number in set(root.caught()) & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
        os.kill(root.pid, number)  # caught in this very turn: waits for the successor
    try:
        for one in (fd, *open_fds):
            os.set_inheritable(one, True)
        if not program:
            raise FileNotFoundError("there is no program to execute")
        os.execve(program[0], program, env)
    except OSError as error:
        failed = error
    for one in open_fds:
        with contextlib.suppress(OSError):
            os.set_inheritable(one, False)
    os.close(fd)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return failed


def check(frozen: Mapping[str, Any]) -> None:
    """Whether this code can go on from it; touches no descriptor. Raises FreezeError."""
    try:
        policy = freezing.thaw(frozen["policy"])
        for one in frozen["processes"]:
            s.parse_worker(one["spec"])
            if one["name"] not in policy.nodes:
                raise FreezeError(f"a process {one['name']} that no node stands for")
        list(descriptors(frozen))
        for key in ("orders", "kills", "services", "hubline", "upgrade", "log"):
            frozen[key]
        if "notes" in frozen["hubline"]:
            Notes.thaw(frozen["hubline"]["notes"])
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, FreezeError):
            raise
        raise FreezeError(f"{type(error).__name__}: {error}") from error


def restore(root: Root, frozen: Mapping[str, Any]) -> None:
    """Makes a fresh root what the frozen one was. Raises FreezeError."""
    for fd in descriptors(frozen):
        if fd >= 0:
            os.set_inheritable(fd, False)
    root.policy = freezing.thaw(frozen["policy"])
    for one in frozen["processes"]:
        process = _thaw_process(one)
        root.processes[process.name] = process
        if process.pid:
            root.watch(process)
        if one["watched"]:
            root.watch_link(process)
    root.slots.reserve({process.slot for process in root.processes.values()})
    for line, names in frozen["orders"]:
        root.births.orders[(line[0], line[1])] = deque(root.processes[name] for name in names)
    for name, key, count in frozen["kills"]:
        root.ends.kills[name] = ((key[0], key[1], key[2]), count)
    for timer, at in root.policy.timers.items():
        root._serial += 1
        root._armed[timer] = root._serial
        heapq.heappush(root._timers, (at, root._serial, timer))
    root.services.thaw(frozen["services"])
    root.hubline.thaw(frozen["hubline"])
    root.upgrade.thaw(frozen["upgrade"])
    root.log.thaw(frozen["log"])
    root._announced = frozen["announced"]
    root.look_around = True  # orphans that were watched are found again, each by its owner


def _freeze_process(process: Process) -> dict[str, Any]:
    return {
        "name": process.name,
        "incarnation": process.incarnation,
        "spec": s.plain(process.spec),
        "link": process.link.fileno(),
        "queued": process.link.queued(),
        "max_queue": process.link.max_queue,
        "theirs": -1 if process.theirs is None else process.theirs.fileno(),
        "watched": bool(process.watched),
        "slot": process.slot,
        "leaf": "" if process.leaf is None else process.leaf.path,
        "memory_mb": process.memory_mb,
        "pid": process.pid,
        "pidfd": process.pidfd,
        "lost": process.lost,
        "begun": process.begun,
        "killed": process.killed,
        "stopping": process.stopping,
        "crash": process.crash,
        "generation": process.generation,
        "trial": process.trial,
        "settled": process.settled,
        "told": process.told,
    }


def _thaw_process(frozen: Mapping[str, Any]) -> Process:
    link = Link(socket.socket(fileno=frozen["link"]), frozen["max_queue"])
    link.requeue(frozen["queued"])
    theirs = frozen["theirs"]
    return Process(
        name=frozen["name"],
        incarnation=frozen["incarnation"],
        spec=s.parse_worker(frozen["spec"]),
        link=link,
        theirs=None if theirs < 0 else socket.socket(fileno=theirs),
        slot=frozen["slot"],
        leaf=Leaf(frozen["leaf"]) if frozen["leaf"] else None,
        memory_mb=frozen["memory_mb"],
        pid=frozen["pid"],
        pidfd=frozen["pidfd"],
        lost=frozen["lost"],
        begun=frozen["begun"],
        killed=frozen["killed"],
        stopping=frozen.get("stopping", False),
        crash=frozen["crash"],
        generation=frozen["generation"],
        trial=frozen["trial"],
        settled=frozen["settled"],
        told=frozen["told"],
    )
