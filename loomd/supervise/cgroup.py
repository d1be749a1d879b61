"""The instance's part of the cgroup v2 tree, where it may have one.

    loomd-XXXXXXXX/         made in the cgroup that the root was started in
      root/                 the root itself: a cgroup with controllers in force has no own processes
      births/               templates, and what they have forked that has none of its own yet
      PID-TIME/             one actor and all that it ever starts, wherever that has gone
      NAME#INCARNATION/     the same of a command

A process makes and enters its cgroup before it does anything else, so no double fork and no session
of its own leads out of it; `cgroup.kill` ends all in it at once, even while it forks. `memory.max`
and `pids.max` hold for all of it together.

A move waits for an RCU grace period (measured: 10 ms) and keeps every other change of the
hierarchy waiting meanwhile. So it is made by the process itself, by a spare ahead of its order; the
root makes and removes nothing while its tree is up. It only reads `cgroup.events`, which takes no
lock and can be polled, and kills what a dead child has left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import select
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loomd.supervise import kernel

PREFIX = "loomd-"
CONTROLLERS = ("memory", "pids")
_OWN_NAME = re.compile(r"\d+-[0-9a-f]+")
TRIES = 5
MAX_PIDS = 4096
"""Processes of one actor with all its tool calls: a fork bomb meets it before the machine does."""


class Unavailable(Exception):
    """There is no cgroup v2 that this process may divide; says why."""


class Leaf:
    """The cgroup of one incarnation."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = os.path.basename(path)

    def limit(self, memory: int, pids: int) -> None:
        """At most that many bytes and processes, where the controllers are in force; 0: any."""
        if memory:
            _try_write(f"{self.path}/memory.max", str(memory))
            _try_write(f"{self.path}/memory.swap.max", "0")
            _try_write(f"{self.path}/memory.oom.group", "1")
        if pids:
            _try_write(f"{self.path}/pids.max", str(pids))

    def kill(self) -> None:
        """SIGKILL to all that is in it, and to what these are just forking."""
        _try_write(f"{self.path}/cgroup.kill", "1")

    def pids(self) -> set[int]:
        """Who lives in it and below."""
        folders = [self.path]
        for path in folders:
            folders += below(path)
        return {int(pid) for path in folders for pid in _words(f"{path}/cgroup.procs")} - {0}

    def populated(self) -> bool:
        """Whether something lives in it or below."""
        try:
            return "populated 1" in Path(self.path, "cgroup.events").read_text()
        except OSError:
            return False

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for `memory.max`."""
        try:
            text = Path(self.path, "memory.events").read_text()
        except OSError:
            return 0
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        return int(found.group(1)) if found else 0


class Cgroups:
    """All of an instance's. `base`: its folder; `home`: where the root came from."""

    def __init__(self, home: str, base: str, given: tuple[str, ...] = ()) -> None:
        self.home = home
        self.base = base
        self.births = f"{base}/births"
        self._given = given  # controllers that `home` did not pass on before

    @property
    def controllers(self) -> list[str]:
        """What can be limited."""
        return [c for c in _words(f"{self.base}/cgroup.subtree_control") if c in CONTROLLERS]

    @classmethod
    def create(cls) -> Cgroups:
        """Makes them and moves this process in. Raises Unavailable."""
        home = own()
        base = f"{home}/{PREFIX}{secrets.token_hex(4)}"
        try:
            for path in (base, f"{base}/root", f"{base}/births"):
                os.mkdir(path, 0o755)
            if not os.path.exists(f"{base}/births/cgroup.kill"):
                raise Unavailable("this kernel has no cgroup.kill")
            kernel.enter_cgroup(f"{base}/root")
        except (OSError, Unavailable) as error:
            for path in (f"{base}/births", f"{base}/root", base):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            raise Unavailable(str(error)) from error
        given = []
        for name in CONTROLLERS:
            # Refused where others share `home` with us: then there are no limits, but all the rest.
            if name not in _words(f"{home}/cgroup.subtree_control"):
                if not _try_write(f"{home}/cgroup.subtree_control", f"+{name}"):
                    continue
                given.append(name)
            _try_write(f"{base}/cgroup.subtree_control", f"+{name}")
        return cls(home, base, tuple(given))

    def freeze(self) -> dict[str, Any]:
        """For a root that executes itself: this process stays where it is."""
        return {"home": self.home, "base": self.base, "given": list(self._given)}

    @classmethod
    def thaw(cls, frozen: Mapping[str, Any]) -> Cgroups:
        return cls(frozen["home"], frozen["base"], tuple(frozen["given"]))

    def of_command(self, name: str, incarnation: int) -> Leaf:
        """The cgroup that a command is to make and enter."""
        return Leaf(f"{self.base}/{name.replace('/', '.')}#{incarnation}")

    def told(self, name: object) -> Leaf | None:
        """The cgroup that an actor says it has entered."""
        known = isinstance(name, str) and _OWN_NAME.fullmatch(name)
        return Leaf(f"{self.base}/{name}") if known else None

    def leaf_name_of(self, pid: int) -> str:
        """The name of the leaf that a process (perhaps a dead one) is in; "" if in none of ours."""
        path = cgroup_of(pid)
        _, mine, rest = path.partition(f"/{os.path.basename(self.base)}/")
        return rest.split("/")[0].removesuffix(" (deleted)") if mine else ""

    def kill_all(self) -> None:
        """Kills whatever is in any of them, this process apart."""
        for path in below(self.base):
            if os.path.basename(path) != "root":
                Leaf(path).kill()

    def close(self) -> bool:
        """Leaves and removes them all; False while something lives in one."""
        others = [path for path in below(self.base) if os.path.basename(path) != "root"]
        if not all([remove(path) for path in others]):
            return False
        for name in self._given:  # in force, they would keep everybody from going back
            _try_write(f"{self.base}/cgroup.subtree_control", f"-{name}")
            _try_write(f"{self.home}/cgroup.subtree_control", f"-{name}")
        with contextlib.suppress(OSError):
            kernel.enter_cgroup(self.home)
        return remove(self.base)


class Empties:
    """Says when killed cgroups have become empty. `fileno` is readable when one may have."""

    def __init__(self) -> None:
        self._epoll = select.epoll()  # cgroup.events is told by EPOLLPRI, which `selectors` lacks
        self._waiting: dict[int, Leaf] = {}

    def fileno(self) -> int:
        return self._epoll.fileno()

    def watch(self, leaf: Leaf) -> None:
        """It has been killed. Raises OSError."""
        try:
            fd = os.open(f"{leaf.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        os.read(fd, 4096)  # changes count from here
        self._waiting[fd] = leaf
        self._epoll.register(fd, select.EPOLLPRI)

    def look(self) -> None:
        """Forgets those that have become empty."""
        with contextlib.suppress(OSError):
            self._epoll.poll(0)
        for fd in list(self._waiting):
            try:
                empty = b"populated 1" not in os.pread(fd, 4096, 0)
            except OSError:
                empty = True  # it is gone
            if empty:
                self._forget(fd)

    @property
    def waiting(self) -> list[Leaf]:
        return list(self._waiting.values())

    def _forget(self, fd: int) -> None:
        del self._waiting[fd]
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)
        os.close(fd)

    def close(self) -> None:
        for fd in list(self._waiting):
            self._forget(fd)
        self._epoll.close()


# --- what a new process does ---------------------------------------------------------------------


def settle_anew(base: str) -> Leaf | None:
    """Moves this process into a new cgroup of its own below `base`; None if that cannot be."""
    leaf = Leaf(f"{base}/{os.getpid()}-{time.monotonic_ns():x}")
    try:
        settle(leaf)
    except OSError:
        return None
    return leaf


def settle(leaf: Leaf, memory: int = 0, pids: int = 0) -> None:
    """Makes the cgroup and moves this process in. Raises OSError."""
    for _ in range(TRIES):
        with contextlib.suppress(FileExistsError):
            os.mkdir(leaf.path, 0o755)
        leaf.limit(memory, pids)
        try:
            kernel.enter_cgroup(leaf.path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            continue  # removed as an empty one
        return
    raise OSError(errno.ENOENT, "was removed", leaf.path)


def remove_empty(base: str) -> None:
    """Removes what the dead have left behind."""
    for path in below(base):
        if os.path.basename(path) not in ("root", "births") and not Leaf(path).populated():
            remove(path)


# --- the tree of folders -------------------------------------------------------------------------


def own() -> str:
    """The folder of this process's cgroup. Raises Unavailable."""
    path = cgroup_of(os.getpid())
    if not path or path.startswith("/.."):
        raise Unavailable("no cgroup v2, or one that cannot be seen from here")
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.split(" ")[0] != "cgroup2":
                continue
            root, mount = (_unescaped(field) for field in before.split(" ")[3:5])
            if path == root or path.startswith(root.rstrip("/") + "/"):
                return (mount + "/" + path[len(root.rstrip("/")) :].lstrip("/")).rstrip("/")
    raise Unavailable("no cgroup v2 is mounted")


def cgroup_of(pid: int) -> str:
    """The path of a process's cgroup in the v2 hierarchy; "" if it has none."""
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""
    found = re.search(r"^0::(.*)$", text, re.MULTILINE)
    return found.group(1) if found else ""


def below(path: str) -> list[str]:
    """The cgroups directly below one."""
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def remove(path: str) -> bool:
    """Removes a cgroup and those below it; False while something lives in one."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        inner = below(path) if error.errno in (errno.EBUSY, errno.ENOTEMPTY) else []
        return bool(inner) and all([remove(one) for one in inner]) and remove(path)
    return True


def _words(path: str) -> list[str]:
    try:
        return Path(path).read_text().split()
    except OSError:
        return []


def _try_write(path: str, text: str) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), field)
