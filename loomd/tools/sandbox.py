"""How a call is confined: which back end there is, what it lacks, and the way in.

    bubblewrap   the disk read-only with covers, tables of processes, network and IPC of its own;
                 Landlock and a filter of system calls under it
    landlock     an allow-list of folders; under it namespaces of our own where the kernel lets
                 users make them, and a filter that takes their place where it does not

A call is foreign if it runs code that does not ship with loomd. The others (`read`, `grep`, ...) do
what they say and start nothing of the checkout's: Landlock is enough for them where there is one.
Nothing is ever silently left out: a call that cannot be confined is refused, with what to do.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from loomd.tools import bubblewrap, landlock, namespaces, seccomp
from loomd.tools.profile import Mount, Rules, mounts
from loomd.wire.errors import LoomError

Backend = Literal["bubblewrap", "landlock"]
BACKENDS: Final[tuple[str, ...]] = ("auto", "bubblewrap", "landlock")

PROBE_S: Final = 20.0

HINT: Final = (
    "install bubblewrap, or boot a kernel with Landlock (5.13 or newer, `landlock` in the boot "
    "parameter lsm=...). `loomctl doctor` shows what is missing. To run calls without any "
    'confinement: `sandbox = "full"` under [permissions]'
)


@dataclass(frozen=True)
class Facts:
    """What this kernel, for this user, lets a sandbox be made of. bwrap: a path, "" if there is
    none; bwrap_error: why it does not work, "" if it does; landlock: its version, 0 = none;
    namespaces: a process may make its own; seccomp: filters can be installed."""

    bwrap: str = ""
    bwrap_error: str = ""
    landlock: int = 0
    namespaces: bool = False
    seccomp: bool = False


def choose(wanted: str, facts: Facts) -> Backend:
    """The back end that is in force. LoomError(failed) if there is none, or not the one that the
    settings demand."""
    bubble = bool(facts.bwrap) and not facts.bwrap_error
    if wanted == "bubblewrap" and not bubble:
        why = facts.bwrap_error or "there is no `bwrap` on the daemon's PATH"
        raise LoomError("failed", f"bubblewrap cannot confine calls here: {why}", HINT)
    if wanted == "landlock" and not facts.landlock:
        raise LoomError("failed", "this kernel has no Landlock to confine calls with", HINT)
    if bubble and wanted != "landlock":
        return "bubblewrap"
    if facts.landlock:
        return "landlock"
    why = f"bubblewrap: {facts.bwrap_error or 'not installed'}; this kernel has no Landlock"
    raise LoomError(
        "failed", f"no sandbox can confine tool calls here, so none is made ({why})", HINT
    )


def lacking(backend: Backend, facts: Facts) -> tuple[str, ...]:
    """What this back end does not keep from a call on this kernel, a sentence each."""
    said = []
    own = facts.namespaces
    if backend == "bubblewrap":
        if not facts.landlock:
            said.append("there is no Landlock under bubblewrap: one wall instead of two")
    else:
        if not own and not facts.seccomp:
            said.append("Unix sockets and UDP are open: no namespaces, and no filter of calls")
            if facts.landlock < 4:
                said.append("TCP is open: it needs Landlock 4")
        if not own:
            said.append("new files at the root of a checkout cannot be made where no review is")
            said.append("/dev/shm is shared with your other programs")
        if facts.landlock < 6:
            said.append("your other processes can be signalled: that needs Landlock 6")
        if facts.landlock < 3:
            said.append("files that may only be read can be cut to nothing: that needs Landlock 3")
        said.append("the command lines of other processes can be read")
    if not facts.seccomp:
        said.append("rare system calls (io_uring, keyrings, TIOCSTI) are not filtered")
    return tuple(said)


# --- the way in ----------------------------------------------------------------------------------


def enter(rules: Rules, backend: Backend, bwrap: str, close: Sequence[int]) -> bool:
    """Confines this (single-threaded) process and all that it will ever start. Irreversible. True
    if its processes are counted apart from the user's others, so that they can be limited.

    With bubblewrap what returns may be a child of the caller's process: that waits for it, with
    the descriptors `close` closed, and ends as it does. LoomError(failed) if it cannot be: the
    caller must then not go on.
    """
    if not rules.confined:
        return False
    foreign = bool(rules.own)
    under = landlock.abi() > 0
    inside = processes = False
    lists = landlock.Lists(rules.read, rules.write, rules.network)
    if backend == "bubblewrap" and (foreign or not under):
        cell = _cell(bwrap, rules)
        try:
            bubblewrap.join(cell, network=rules.network)
        except LoomError:
            bubblewrap.leave(cell)
            raise
        bubblewrap.fork_inside(cell, close)
        inside = processes = True
        lists = landlock.Lists(("/",), _temporary(rules), True, True)
    elif foreign:
        own = (*_present(rules), Mount("write", "/dev/shm", rules.own))
        inside = namespaces.enter(own, network=rules.network)
        if inside:
            lists = landlock.Lists(rules.read, _temporary(rules), True, True)
        else:
            hide = (*rules.hide_folders, *rules.hide_files)
            read = [path for one in rules.read for path in landlock.without(one, hide)]
            keep = (*rules.keep, *hide)
            write = [path for one in rules.write for path in landlock.without(one, keep)]
            lists = landlock.Lists(tuple(read), tuple(write), rules.network)
    if under:
        landlock.confine(lists)
    else:
        landlock.no_new_privileges()
    landlock.drop_capabilities(landlock.KEPT if os.geteuid() == 0 else 0)
    if seccomp.available():
        seccomp.install(seccomp.Filter(processes, inside, rules.network))
    # In a namespace of users of its own, as everybody but root has; before 5.14 they were not.
    return inside and os.geteuid() != 0 and _kernel() >= (5, 14)


def rehearse(rules: Rules) -> None:
    """What `enter` computes, without entering."""
    landlock.Lists(rules.read, _temporary(rules), True, True)
    _present(rules)
    if landlock.abi() and seccomp.available():
        for processes in (True, False):
            seccomp.program(seccomp.Filter(processes, True, rules.network), platform.machine())


def _kernel() -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return tuple(map(int, found.groups())) if found else (0, 0)


def _cell(bwrap: str, rules: Rules) -> bubblewrap.Cell:
    """LoomError(failed), unless what was to be covered has gone meanwhile: once more without it."""
    plan = _present(rules)
    while True:
        try:
            return bubblewrap.build(bwrap, plan, network=rules.network)
        except LoomError:
            tried, plan = plan, _present(rules)
            if len(plan) >= len(tried):
                raise


def _present(rules: Rules) -> list[Mount]:
    """The mounts, without covers for what has just gone."""
    plan = mounts(rules)
    return [one for one in plan if one.source or os.path.lexists(one.target)]


def _temporary(rules: Rules) -> tuple[str, ...]:
    return (*rules.write, *(("/tmp", "/var/tmp") if rules.own else ()))


# --- the probe -----------------------------------------------------------------------------------


def probe() -> Facts:
    """Tries all of it, in a process of its own (this one may have threads). A second at most; what
    does not come back is taken as not there."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "PYTHONPATH": root}
    try:
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name if __spec__ else __name__],
            env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, check=True,
            timeout=PROBE_S,
        )  # fmt: skip
        return Facts(**json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        return Facts(bwrap_error=f"the probe failed: {error}", landlock=landlock.abi())


def _probe() -> Facts:
    program = bubblewrap.found()
    error = ""
    if program:
        error = _in_child(lambda: _try_bubblewrap(program))
    return Facts(
        bwrap=program,
        bwrap_error=error,
        landlock=landlock.abi(),
        namespaces=not _in_child(_try_namespaces),
        seccomp=seccomp.available(),
    )


def _try_bubblewrap(program: str) -> None:
    """A whole way in, with a cover and what is shown below it."""
    plan = (Mount("cover", "/run"), Mount("blank", "/etc/passwd"))
    cell = bubblewrap.build(program, plan, network=False)
    try:
        bubblewrap.join(cell, network=False)
    except LoomError:
        bubblewrap.leave(cell)
        raise
    bubblewrap.fork_inside(cell, [])
    if os.listdir("/run"):
        raise LoomError("failed", "a covered folder can be seen")


def _try_namespaces() -> None:
    if not namespaces.enter((Mount("cover", "/run"),), network=False):
        raise LoomError("failed", "no namespaces")
    if os.listdir("/run"):
        raise LoomError("failed", "a covered folder can be seen")


def _in_child(attempt: Any) -> str:
    """What went wrong with `attempt`, made in a child; "" if nothing did."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "it ended half way"
        try:
            os.close(reading)
            attempt()
            said = ""
        except LoomError as error:
            said = error.message
        except OSError as error:
            said = str(error)
        finally:
            os.write(writing, said.encode() or b"\0")
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode("utf-8", "replace")
    os.waitpid(pid, 0)
    return "" if said == "\0" else said or "it ended half way"


if __name__ == "__main__":
    print(json.dumps(asdict(_probe())))
