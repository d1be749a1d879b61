"""Namespaces of a call's own, made by its process itself: what bubblewrap makes, where it is not.

Mounts that cover folders, an empty network with a loopback, System V IPC. Where the kernel lets no
user make them, `enter` says so and the caller goes on with what is left to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from loomd.tools.profile import Mount
from loomd.wire.errors import LoomError

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [
    ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p,
]  # fmt: skip
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT = 1, 2, 4, 8, 0x20
_REC, _PRIVATE = 0x4000, 0x40000
_AT_FDCWD: Final = -100
_AT_RECURSIVE, _AT_EMPTY_PATH, _CLONE, _CLOEXEC = 0x8000, 0x1000, 1, os.O_CLOEXEC
_FROM_EMPTY_PATH: Final = 4

HINT: Final = 'or, without any confinement, set `sandbox = "full"` under [permissions]'


def enter(mounts: Sequence[Mount], *, network: bool) -> bool:
    """Moves this (single-threaded) process into namespaces of its own and makes the mounts there.

    False if the kernel does not allow it, and nothing has changed; LoomError(failed) if it stopped
    half way, and the caller must not go on.
    """
    flags = NEWNS | NEWIPC | (0 if network else NEWNET)
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(flags) != 0:
        if _libc.unshare(flags | NEWUSER) != 0:
            return False
        try:
            for file, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{uid} {uid} 1"),
                ("gid_map", f"{gid} {gid} 1"),
            ):
                with open(f"/proc/self/{file}", "w") as out:
                    out.write(text)
        except OSError as error:
            raise _failed("the map of users", error.errno or 0) from None
    if _libc.mount(b"none", b"/", None, _REC | _PRIVATE, None) != 0:
        raise _failed("mount(/)")
    if not network:
        _loopback_up()
    _make(mounts)
    # Terminals of its own: at those that are there people type.
    options = b"newinstance,ptmxmode=0666,mode=0620"
    if _libc.mount(b"devpts", b"/dev/pts", b"devpts", _NOSUID | _NOEXEC, options) != 0:
        raise _failed("mount(/dev/pts)")
    return True


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, contextlib.suppress(OSError):
        wanted = struct.pack("16sH14x", b"lo", 1)  # IFF_UP
        fcntl.ioctl(one, 0x8914, wanted)  # SIOCSIFFLAGS; without it programs see no 127.0.0.1


def _make(mounts: Sequence[Mount]) -> None:
    """The sources are taken before anything is covered: they may lie below a cover."""
    taken: dict[str, int] = {}
    covers: list[str] = []
    try:
        for mount in mounts:
            if mount.source:
                fd = _clone(mount.source)
                if fd >= 0:
                    taken[mount.target] = fd
        for mount in mounts:
            if mount.kind == "cover":
                if os.path.isdir(mount.target):
                    _cover(mount.target)
                    covers.append(mount.target)
            elif mount.kind == "blank":
                if os.path.exists(mount.target):
                    fd = _clone("/dev/null")
                    _set(fd, _RDONLY | _NOSUID | _NODEV)
                    _move(fd, mount.target)
                    os.close(fd)
            elif mount.target in taken:
                fd = taken[mount.target]
                if mount.kind == "read":
                    _set(fd, _RDONLY | _NOSUID)
                else:
                    _set(fd, _NOSUID)
                _point(fd, mount.target)
                _move(fd, mount.target)
        for cover in covers:
            flags = _REMOUNT | _RDONLY | _NOSUID | _NODEV | _NOEXEC
            if _libc.mount(b"tmpfs", os.fsencode(cover), None, flags, b"mode=0555") != 0:
                raise _failed(f"remount({cover})")
    finally:
        for fd in taken.values():
            os.close(fd)


def _clone(path: str) -> int:
    """A copy of the tree of mounts at `path`, which nothing lies upon yet; -1: it is gone."""
    flags = _CLONE | _CLOEXEC | _AT_RECURSIVE
    fd = int(_syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags))
    if fd < 0 and os.path.lexists(path):
        raise _failed(f"open_tree({path})")
    return fd


def _set(fd: int, attributes: int) -> None:
    """Adds mount attributes to the whole tree. (MOUNT_ATTR_* have the values of MS_* here.)"""
    wanted = struct.pack("=4Q", attributes, 0, 0, 0)
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    if _syscall(_MOUNT_SETATTR, fd, b"", flags, wanted, len(wanted)) != 0:
        raise _failed("mount_setattr")


def _move(fd: int, target: str) -> None:
    done = _syscall(_MOVE_MOUNT, fd, b"", _AT_FDCWD, os.fsencode(target), _FROM_EMPTY_PATH)
    if done != 0:
        raise _failed(f"move_mount({target})")


def _cover(folder: str) -> None:
    flags = _NOSUID | _NODEV | _NOEXEC
    if _libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, b"size=1m,mode=0755") != 0:
        raise _failed(f"mount({folder})")


def _point(fd: int, target: str) -> None:
    """What is mounted over must be there: below a cover it is made, in the cover."""
    if os.path.lexists(target):
        return
    if os.path.isdir(f"/proc/self/fd/{fd}"):
        os.makedirs(target)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))


def _failed(what: str, number: int = 0) -> LoomError:
    reason = os.strerror(number or ctypes.get_errno())
    return LoomError("failed", f"the call could not be confined: {what}: {reason}", HINT)
