"""Landlock: what a worker may read, write, execute and connect to.

An allow-list: system folders and the interpreter's, the checkout or its private copy, the call's
own scratch folder. Never the home, the state or the runtime directory. What the kernel cannot do is
not silently left out: `require` refuses, with what to do about it. Network: TCP is denied unless
the profile has it (Landlock knows no UDP); signals and abstract sockets stay inside the call.

Landlock does not govern `connect` to a socket file. Where mount namespaces are allowed the runtime
directory is hidden under an empty file system as well; elsewhere its sockets can be connected to,
but answer nobody without the token, which cannot be read.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
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
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")

HINT: Final = (
    "Landlock is needed (Linux 5.13 or newer, with `landlock` among the modules of the boot "
    "parameter lsm=...); see: cat /sys/kernel/security/lsm"
)


@dataclass(frozen=True)
class Profile:
    """read: readable and executable; write: everything; network: TCP is allowed; hide: folders
    that a mount namespace covers, where there is one."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    network: bool = False
    hide: tuple[str, ...] = ()


@cache
def abi() -> int:
    """The kernel's Landlock version; 0 if there is none."""
    version = int(_syscall(_CREATE_RULESET, None, 0, 1))
    return max(version, 0)


def require() -> None:
    """LoomError(failed) with the way to repair it if calls cannot be confined here."""
    if abi() < 1:
        raise LoomError("failed", "this kernel cannot confine tool calls, so none is made", HINT)


def _handled(version: int) -> int:
    rights = _ALL_V1
    if version >= 2:
        rights |= _REFER
    if version >= 3:
        rights |= _TRUNCATE
    if version >= 5:
        rights |= _IOCTL_DEV
    return rights


def confine(profile: Profile) -> None:
    """Confines this (single-threaded) process and all that it will ever start. Irreversible.

    LoomError(failed) if the kernel does not do it; the caller must then not go on.
    """
    require()
    version = abi()
    handled = _handled(version)
    attributes = struct.pack("=Q", handled)
    if version >= 4:
        attributes += struct.pack("=Q", 0 if profile.network else 3)  # TCP bind and connect
    if version >= 6:
        attributes += struct.pack("=Q", 3)  # abstract sockets and signals stay inside
    ruleset = int(_syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    if ruleset < 0:
        raise _failed("landlock_create_ruleset")
    try:
        for path in (*SYSTEM, *profile.read):
            _allow(ruleset, path, READ_ONLY & handled)
        for path in DEVICES:
            _allow(ruleset, path, (READ_FILE | WRITE_FILE | _TRUNCATE | _IOCTL_DEV) & handled)
        for path in ("/dev/pts", "/dev/fd"):
            _allow(ruleset, path, (READ_FILE | WRITE_FILE | READ_DIR | _IOCTL_DEV) & handled)
        _allow(ruleset, "/dev/shm", handled)
        for path in profile.write:
            _allow(ruleset, path, handled)
        if _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise _failed("PR_SET_NO_NEW_PRIVS")
        _drop_capabilities()
        if _syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            raise _failed("landlock_restrict_self")
    finally:
        os.close(ruleset)


_KEPT: Final = sum(1 << number for number in (0, 1, 3, 4, 6, 7))
"""Capabilities of root that files need: CHOWN DAC_OVERRIDE FOWNER FSETID SETGID SETUID."""


def _drop_capabilities() -> None:
    """Root keeps what ordinary work on files needs. The others open ways around Landlock: with
    PERFMON the environment of every process can be read, with DAC_READ_SEARCH files by handle."""
    header = struct.pack("=II", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data) != 0:
        raise _failed("capget")
    effective, permitted, _, effective_, permitted_, _ = struct.unpack("=6I", data.raw)
    kept = (permitted | permitted_ << 32) & _KEPT
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


def _failed(what: str) -> LoomError:
    reason = os.strerror(ctypes.get_errno())
    return LoomError("failed", f"the call could not be confined: {what}: {reason}", HINT)


# --- hiding folders ------------------------------------------------------------------------------

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_REC, _MS_PRIVATE, _MS_RDONLY = 0x4000, 0x40000, 1


def hide(folders: Iterable[str]) -> bool:
    """Covers the folders with empty file systems, in a mount namespace of this process; False
    where that is not allowed. Before `confine`: a confined process may not mount."""
    present = [folder for folder in folders if os.path.isdir(folder)]
    if not present:
        return True
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWNS) != 0:
        if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER) != 0:
            return False
        try:
            for file, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{uid} {uid} 1"),
                ("gid_map", f"{gid} {gid} 1"),
            ):
                with open(f"/proc/self/{file}", "w") as out:
                    out.write(text)
        except OSError:
            return False
    if _libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) != 0:
        return False
    done = True
    for folder in present:
        flags = ctypes.c_ulong(_MS_RDONLY)
        covered = _libc.mount(b"none", os.fsencode(folder), b"tmpfs", flags, b"size=4k,mode=0500")
        done = done and covered == 0
    return done


# --- which folders -------------------------------------------------------------------------------


def interpreter_folders(env: Mapping[str, str]) -> tuple[str, ...]:
    """Installations that the session's programs come from: this interpreter's, the session's
    virtual environment with the Python under it, and every prefix on the session's PATH."""
    found: list[str] = [sys.prefix, sys.base_prefix, sys.exec_prefix]
    venv = env.get("VIRTUAL_ENV", "")
    if venv:
        found += [venv, *_under_venv(venv)]
    for entry in env.get("PATH", "").split(":"):
        if not os.path.isabs(entry) or not os.path.isdir(entry):
            continue
        found.append(entry)
        prefix = os.path.dirname(entry.rstrip("/"))
        name = os.path.basename(entry.rstrip("/"))
        if name == "shims":
            found.append(prefix)
        elif name in ("bin", "sbin"):
            found.append(prefix)
            found += [os.path.join(prefix, part) for part in ("lib", "lib64", "libexec", "share")]
            found += _under_venv(prefix)
        for program in ("python3", "python"):
            real = os.path.realpath(os.path.join(entry, program))
            if os.path.isfile(real) and os.path.basename(os.path.dirname(real)) == "bin":
                found.append(os.path.dirname(os.path.dirname(real)))
    return tuple(dict.fromkeys(found))


def _under_venv(prefix: str) -> list[str]:
    """The installation that a virtual environment was made from."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in Path(prefix, "pyvenv.cfg").read_text().splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "home" and os.path.isabs(value.strip()):
                return [os.path.dirname(os.path.realpath(value.strip()))]
    return []


def package_folders() -> tuple[str, ...]:
    """Where this package and what it imports lie (an editable install lies anywhere)."""
    here = str(Path(__file__).resolve().parent.parent)
    return (here, *(p for p in sys.path if p and os.path.basename(p) == "site-packages"))


def without(folders: Iterable[str], never: Iterable[str]) -> tuple[str, ...]:
    """The folders that neither contain nor are one of `never`: home, state, runtime, root."""
    barred = {os.path.realpath(path) for path in never if path} | {"/"}
    kept = []
    for folder in dict.fromkeys(folders):
        real = os.path.realpath(folder)
        if not any(bar == real or bar.startswith(real.rstrip("/") + "/") for bar in barred):
            kept.append(folder)
    return tuple(kept)
