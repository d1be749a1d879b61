"""bubblewrap: it builds the sandbox, and the call's process enters it.

A call is a forked Python process that holds the imported tools; executed anew under `bwrap` it
would have to import them again, a tenth of a second each time. So `bwrap` makes the namespaces and
the mounts around a shell that only waits; the worker joins them through the shell's pidfd (`setns`)
and forks once more, for only a child lives in another table of processes. All that any tool runs is
inside then, whether it is a command or a Python function, and no tool has to know of it.

When the worker ends the shell reads the end of its input, and with the first process of its table
the kernel ends all the others.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loomd.supervise import kernel
from loomd.tools import namespaces as ns
from loomd.tools.profile import Mount
from loomd.wire.errors import LoomError

_libc = ctypes.CDLL(None, use_errno=True)

HINT: Final = (
    "see: bwrap --unshare-all --ro-bind / / true. Where a distribution forbids user namespaces "
    "(Ubuntu 24.04: kernel.apparmor_restrict_unprivileged_userns) bwrap needs a profile of its "
    'own, or use Landlock alone: `sandbox_backend = "landlock"` under [permissions]'
)


def found() -> str:
    """The path of `bwrap`, "" if there is none. By the daemon's PATH: a session's may be
    anybody's."""
    return shutil.which("bwrap") or ""


def argv(
    program: str, mounts: Sequence[Mount], *, network: bool, root: bool, info: int
) -> list[str]:
    """The command line. Real root needs no user namespace, in which it would lose the files of all
    others; capabilities are dropped later. `info`: where bwrap says the pid of its child."""
    made = [program, "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    if not root:
        made.append("--unshare-user")
    if not network:
        made.append("--unshare-net")
    made += ["--die-with-parent", "--info-fd", str(info)]
    made += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    made += ["--ro-bind", "/proc/sys", "/proc/sys"]  # it leaves that to a user namespace
    covers = []
    for mount in mounts:
        match mount.kind:
            case "cover":
                made += ["--tmpfs", mount.target]
                covers.append(mount.target)
            case "blank":
                made += ["--ro-bind", "/dev/null", mount.target]
            case "read":
                made += ["--ro-bind-try", mount.source, mount.target]
            case "write":
                made += ["--bind", mount.source, mount.target]
    for cover in covers:
        made += ["--remount-ro", cover]
    return [*made, "--", "/bin/sh", "-c", "echo; read _"]


@dataclass(frozen=True)
class Cell:
    """A sandbox that waits: its first process, and the end of a pipe that holds it open."""

    bwrap: subprocess.Popen[bytes]
    pid: int
    hold: int


def build(program: str, mounts: Sequence[Mount], *, network: bool) -> Cell:
    """Starts bwrap and waits until its mounts are made. LoomError(failed), with what it says."""
    info, info_ = os.pipe()
    ready, ready_ = os.pipe()
    hold_, hold = os.pipe()
    said = os.memfd_create("bwrap", os.MFD_CLOEXEC)
    line = argv(program, mounts, network=network, root=os.geteuid() == 0, info=info_)
    try:
        bwrap = subprocess.Popen(
            line, stdin=hold_, stdout=ready_, stderr=said, pass_fds=[info_],
            cwd="/", env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
    except OSError as error:
        for fd in (info, ready, hold, said):
            os.close(fd)
        raise LoomError("failed", f"{program} cannot be started: {error}", HINT) from None
    finally:
        for fd in (info_, ready_, hold_):
            os.close(fd)
    try:
        if os.read(ready, 1):
            return Cell(bwrap, int(json.loads(_all(info))["child-pid"]), hold)
        status = bwrap.wait()
        text = os.pread(said, 2000, 0).decode("utf-8", "replace").strip()
        os.close(hold)
        text = text or f"it ended with status {status}"
        raise LoomError("failed", f"the sandbox could not be built: {text}", HINT)
    finally:
        for fd in (info, ready, said):
            os.close(fd)


def _all(fd: int) -> bytes:
    data = b""
    while chunk := os.read(fd, 4096):
        data += chunk
    return data


def join(cell: Cell, *, network: bool) -> None:
    """Moves this (single-threaded) process into the cell; what it forks next is in all of it.
    LoomError(failed): then nothing has changed."""
    flags = ns.NEWNS | ns.NEWIPC | ns.NEWUTS | ns.NEWPID
    flags |= 0 if network else ns.NEWNET
    flags |= 0 if os.geteuid() == 0 else ns.NEWUSER
    fd = os.pidfd_open(cell.pid)
    try:
        if _libc.setns(fd, flags) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise LoomError("failed", f"the sandbox could not be entered: setns: {reason}", HINT)
    finally:
        os.close(fd)


def leave(cell: Cell) -> None:
    """Ends a cell that nobody entered."""
    os.close(cell.hold)
    cell.bwrap.kill()
    cell.bwrap.wait()


def fork_inside(cell: Cell, close: Sequence[int]) -> None:
    """Returns in the child, the only one that is in the cell's table of processes. This process
    waits for it, ends as it did and so ends the cell."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(cell.hold)
        if not kernel.die_with(0):  # a parent outside of the table has no number in it
            os._exit(1)
        os.setsid()
        return
    status = 1
    try:
        for fd in close:  # the guard reads their end when the child's are closed
            os.close(fd)
        _, waited = os.waitpid(pid, 0)
        status = os.waitstatus_to_exitcode(waited)
        if status < 0:
            if -status not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(-status, signal.SIG_DFL)
            os.kill(parent, -status)
    finally:
        os._exit(status if status >= 0 else 1)
