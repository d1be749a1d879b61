"""The system calls that Python's `os` does not have, and the few steps that every child takes."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from loomd.supervise.spec import COULD_NOT_START

MAX_OUTPUT = 4 * 1024 * 1024
OLDER = "~"
"""Ends the name of the one older file of output: in no child's name, so it is no other's file."""
"""A child's output file is put aside when it is born and finds it longer."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)
_fork = ctypes.PyDLL(None).fork  # PyDLL: the interpreter's lock stays held over it
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def plain_fork() -> int:
    """libc's fork without what Python does around it, -1 if there can be no process.

    Only for a single-threaded process: no lock can be held by a thread that the child lacks.
    """
    return int(_fork())


def become_subreaper() -> None:
    """Orphans of every descendant come to this process. Not inherited by its children."""
    if _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def die_with(parent: int, number: int = signal.SIGKILL) -> bool:
    """A signal for this process when `parent` dies; False if `parent` is not its parent (any more).

    To be called by the child of `parent` itself: set before a re-parenting, it would fire when the
    process in between exits. It outlives an exec, and no fork.
    """
    if _prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        return False
    return os.getppid() == parent  # it may have died before the call


def name_process(name: str) -> None:
    """What `ps` shows as the command's name; the kernel takes 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _prctl(_PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0)


def wait_for_parent(parent: int, middle: int) -> bool:
    """Waits until the process in between has exited; True if `parent` is the parent now."""
    while True:
        now = os.getppid()
        if now != middle:
            return now == parent
        try:
            fd = os.pidfd_open(middle)
        except ProcessLookupError:
            continue  # it has just been reaped: look again
        try:
            if os.getppid() == middle:
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                poll.poll()  # the kernel re-parents us before it wakes us
        finally:
            os.close(fd)


def close_all_but(keep: Iterable[int]) -> None:
    """Closes every descriptor but these and 0-2."""
    low = 3
    for fd in sorted(set(keep)):
        if fd >= low:
            if fd > low:
                os.closerange(low, fd)
            low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def own_children() -> list[int]:
    """Pids of the children of this (single-threaded) process, the adopted ones too."""
    with open("/proc/thread-self/children", "rb") as file:
        return [int(pid) for pid in file.read().split()]


class Stat(NamedTuple):
    """What /proc says of a process. `start`: ticks since boot; (pid, start) names it for ever."""

    state: str
    parent: int
    group: int
    session: int
    threads: int
    start: int

    @property
    def over(self) -> bool:
        """It has ended, and nobody has asked how. (A leader may end before its other threads.)"""
        return self.state in "ZX" and self.threads <= 1


def stat_of(pid: int) -> Stat | None:
    """None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # its name may hold anything
    except OSError:
        return None
    return Stat(fields[0].decode(), *(int(fields[i]) for i in (1, 2, 3, 17, 19)))


def memory_of(pid: int) -> int:
    """Bytes of anonymous memory that a process holds, shared or not; 0 if it is gone."""
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        open(f"/proc/{pid}/statm", "rb", buffering=0) as file,
    ):
        fields = file.read(200).split()
        return (int(fields[1]) - int(fields[2])) * _PAGE
    return 0


def children_of(pid: int) -> list[int]:
    """Pids of the children of any process; [] if it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(child) for child in file.read().split()]
    return found


def signal_exactly(pid: int, start: int, number: int) -> bool:
    """Signals process `pid` if it is still the one that started at `start`."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        now = stat_of(pid)
        if now is None or now.start != start:
            return False
        signal.pidfd_send_signal(fd, number)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def be_nice(increment: int) -> None:
    """Lowers the priority of this process, which leads a session of its own.

    With autogroup a session is one group to the scheduler, and `nice` counts only inside it: two
    processors shared by four busy groups left a neighbour's ping at 5 ms (p99). So the group's own
    nice is set too. Best effort: without privilege the kernel takes one such write in 0.1 s.
    """
    with contextlib.suppress(OSError):
        nice = os.getpriority(os.PRIO_PROCESS, 0) + increment
        for thread in os.listdir("/proc/self/task"):  # to Linux each has a priority of its own
            os.setpriority(os.PRIO_PROCESS, int(thread), nice)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
        group.write(str(increment))


def default_signals() -> None:
    """What a fresh program expects: default dispositions, nothing blocked."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@contextlib.contextmanager
def limited(seconds: float, error: BaseException, *, own: bool = False) -> Iterator[None]:
    """Raises `error` in what takes longer, wherever that is by then; 0: as long as it likes. For
    the main thread. C code that never looks for signals is not interrupted.

    own   of the time counts what this process computes, not how long others keep it waiting
    """

    def late(number: int, frame: object) -> None:
        raise error

    real, virtual = (signal.ITIMER_REAL, signal.SIGALRM), (signal.ITIMER_VIRTUAL, signal.SIGVTALRM)
    timer, number = virtual if own else real
    before = signal.signal(number, late)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0.0)
        signal.signal(number, before)


def redirect_output(path: str, limit: int = MAX_OUTPUT) -> None:
    """stdin from nowhere; stdout and stderr appended to `path`, one older file kept."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    try:
        if os.stat(path).st_size > limit:
            os.replace(path, path + OLDER)
    except FileNotFoundError:
        pass
    try:
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        out = os.open(os.devnull, os.O_WRONLY)  # a full disk must not keep anyone from living
    os.dup2(out, 1)
    os.dup2(out, 2)
    if out > 2:
        os.close(out)


def enter_cgroup(path: str) -> None:
    """Moves this process into the cgroup at `path`. Raises OSError.

    Each enters by itself: what is forked later is inside from its first instruction.
    """
    fd = os.open(os.path.join(path, "cgroup.procs"), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)


def start_program(
    argv: list[str],
    env: dict[str, str],
    fds: list[int],
    root: int,
    output: str,
    nice: int,
    settle: Callable[[], None] | None = None,
) -> int:
    """Forks and executes `argv`; its pid. It gets `fds` as descriptors 3, 4, ... and dies with us.

    `settle` is called in it, and may raise OSError. A program that cannot be executed exits with
    status 73 and says why in its output.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        if die_with(root):
            os.setsid()
            default_signals()
            redirect_output(output, MAX_OUTPUT)
            if settle is not None:
                settle()
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in fds]  # clear of the targets
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i)
            os.closerange(3 + len(fds), os.sysconf("SC_OPEN_MAX"))
            if nice:
                os.nice(nice)
            os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(2, f"cannot execute {argv[0]}: {error}\n".encode())
    finally:
        os._exit(COULD_NOT_START)


def start_service(
    argv: list[str],
    env: dict[str, str],
    cwd: str,
    output: int,
    told: int,
    root: int,
    nice: int = 0,
    settle: Callable[[], None] | None = None,
) -> int:
    """Forks and executes a program that knows nothing of us; its pid. It dies with us.

    stdin is nothing, stdout and stderr are `output`, no other descriptor is open. `told`, a pipe,
    ends without a word when the program is executed; else it says why that could not be.
    """
    pid = os.fork()
    if pid:
        return pid
    doing = f"execute {argv[0]}"
    try:
        if die_with(root):
            os.setsid()
            signal.set_wakeup_fd(-1)
            default_signals()
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (output, told)]
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.dup2(high[0], 1)
            os.dup2(high[0], 2)
            told = os.dup2(high[1], 3, inheritable=False)
            os.closerange(4, os.sysconf("SC_OPEN_MAX"))
            if settle is not None:
                doing = "enter its cgroup"
                settle()
            if nice:
                be_nice(nice)
            doing = f"enter {cwd}"
            os.chdir(cwd)
            doing = f"execute {argv[0]}"
            os.execvpe(argv[0], argv, env)
    except (OSError, ValueError) as error:
        os.write(told, f"cannot {doing}: {getattr(error, 'strerror', '') or error}".encode())
    finally:
        os._exit(COULD_NOT_START)
