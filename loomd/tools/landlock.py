"""Landlock: an allow-list of folders that a process may read or write, for good.

What the kernel cannot do is not silently left out: `confine` refuses, and `sandbox` says which of
its promises this kernel's version lacks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

from loomd.wire.errors import LoomError

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_DROP = 24

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_ALL_V1 = (1 << 13) - 1  # up to MAKE_SYM
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV
READ_ONLY: Final = EXECUTE | READ_FILE | READ_DIR

SYSTEM: Final = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/proc",
    "/sys/devices/system/cpu", "/sys/fs/cgroup", "/nix/store", "/run/systemd/resolve",
)  # fmt: skip
DEVICES: Final = (
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty",
    "/dev/ptmx",
)  # fmt: skip

HINT: Final = (
    "Landlock is needed (Linux 5.13 or newer, with `landlock` among the modules of the boot "
    "parameter lsm=...); see: cat /sys/kernel/security/lsm"
)


@dataclass(frozen=True)
class Lists:
    """read: readable and executable, beside the system's folders; write: everything; tcp: it may
    be used; terminals: those below /dev/pts are the call's own. (Otherwise they are where people
    type: only a new one can be had, from /dev/ptmx.)"""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    tcp: bool = False
    terminals: bool = False


@cache
def abi() -> int:
    """The kernel's Landlock version; 0 if there is none."""
    version = int(_syscall(_CREATE_RULESET, None, 0, 1))
    return max(version, 0)


def _handled(version: int) -> int:
    rights = _ALL_V1
    if version >= 2:
        rights |= _REFER
    if version >= 3:
        rights |= _TRUNCATE
    if version >= 5:
        rights |= _IOCTL_DEV
    return rights


def confine(lists: Lists) -> None:
    """Confines this (single-threaded) process and all that it will ever start. Irreversible.

    LoomError(failed) if the kernel does not do it; the caller must then not go on.
    """
    version = abi()
    if version < 1:
        raise LoomError("failed", "this kernel has no Landlock", HINT)
    handled = _handled(version)
    attributes = struct.pack("=Q", handled)
    if version >= 4:
        attributes += struct.pack("=Q", 0 if lists.tcp else 3)  # TCP bind and connect
    if version >= 6:
        attributes += struct.pack("=Q", 3)  # abstract sockets and signals stay inside
    ruleset = int(_syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    if ruleset < 0:
        raise _failed("landlock_create_ruleset")
    try:
        for path in (*SYSTEM, *lists.read):
            _allow(ruleset, path, READ_ONLY & handled)
        for path in DEVICES:
            _allow(ruleset, path, (READ_FILE | WRITE_FILE | _TRUNCATE | _IOCTL_DEV) & handled)
        for path in ("/dev/fd", *(["/dev/pts"] if lists.terminals else ())):
            _allow(ruleset, path, (READ_FILE | WRITE_FILE | READ_DIR | _IOCTL_DEV) & handled)
        _allow(ruleset, "/dev/shm", handled)
        for path in lists.write:
            _allow(ruleset, path, handled)
        no_new_privileges()
        if _syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            raise _failed("landlock_restrict_self")
    finally:
        os.close(ruleset)


def no_new_privileges() -> None:
    """A program that is set-uid gives nothing any more. LoomError(failed)."""
    if _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise _failed("PR_SET_NO_NEW_PRIVS")


KEPT: Final = sum(1 << number for number in (0, 1, 3, 4, 6, 7))
"""Capabilities of root that files need: CHOWN DAC_OVERRIDE FOWNER FSETID SETGID SETUID."""


def drop_capabilities(keep: int) -> None:
    """Keeps no other. Root needs some for ordinary work on files. Others open ways around Landlock:
    with PERFMON the environment of every process can be read, with DAC_READ_SEARCH files by
    handle. LoomError(failed)."""
    header = struct.pack("=II", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data) != 0:
        raise _failed("capget")
    effective, permitted, _, effective_, permitted_, _ = struct.unpack("=6I", data.raw)
    kept = (permitted | permitted_ << 32) & keep
    if kept == permitted | permitted_ << 32 == effective | effective_ << 32:
        return
    with contextlib.suppress(OSError), open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        for number in range(int(file.read()) + 1):
            if not kept >> number & 1:
                _prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    if _libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)) != 0:
        raise _failed("capset")


def _allow(ruleset: int, path: str, rights: int) -> None:
    """A path that is not there needs no rule."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= _ON_FILES
        rule = struct.pack("=Qi", rights, fd)
        if _syscall(_ADD_RULE, ruleset, 1, rule, 0) != 0:
            raise _failed(f"landlock_add_rule({path})")
    finally:
        os.close(fd)


def without(folder: str, keep: Iterable[str]) -> list[str]:
    """`folder` as an allow-list can say it without the paths of `keep`: it takes nothing out of
    what it names, so what lies beside them is named instead. What is made anew there later, or is a
    link, is not in it."""
    if not any(path.startswith(f"{folder}/") for path in keep):
        return [folder]
    found: list[str] = []
    with os.scandir(folder) as all_:
        for entry in all_:
            if entry.path in keep or entry.is_symlink():
                continue
            found += without(entry.path, keep) if entry.is_dir() else [entry.path]
    return found


def _failed(what: str) -> LoomError:
    reason = os.strerror(ctypes.get_errno())
    return LoomError("failed", f"the call could not be confined: {what}: {reason}", HINT)
