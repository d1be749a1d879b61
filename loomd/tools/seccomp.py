"""A filter of system calls: what neither Landlock nor namespaces keep from a call.

Always refused: typing into a terminal (TIOCSTI), user namespaces inside (a wide door into the
kernel), io_uring (it does what a filter cannot see), keyrings, BPF, performance counters and files
by handle. Where the call has no namespaces of its own, sockets too: only TCP is left, which
Landlock judges, for it knows neither Unix sockets nor UDP. And tracing of other processes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from dataclasses import dataclass
from functools import cache
from typing import Final

from loomd.wire.errors import LoomError

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_PR_SET_SECCOMP, _PR_GET_SECCOMP, _FILTER = 22, 21, 2

_NEWUSER: Final = 0x10000000
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423

_X86_64: Final = {
    "ioctl": 16, "socket": 41, "clone": 56, "ptrace": 101, "unshare": 272, "add_key": 248,
    "request_key": 249, "keyctl": 250, "setns": 308, "open_by_handle_at": 304,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "bpf": 321,
    "userfaultfd": 323, "perf_event_open": 298, "kexec_load": 246, "pidfd_getfd": 438,
}  # fmt: skip
_AARCH64: Final = {
    "ioctl": 29, "socket": 198, "clone": 220, "ptrace": 117, "unshare": 97, "add_key": 217,
    "request_key": 218, "keyctl": 219, "setns": 268, "open_by_handle_at": 265,
    "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "bpf": 280,
    "userfaultfd": 282, "perf_event_open": 241, "kexec_load": 104, "pidfd_getfd": 438,
}  # fmt: skip
_COMMON: Final = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}
_CLONE3: Final = 435

_MACHINES: Final = {
    "x86_64": (0xC000003E, _X86_64 | _COMMON),
    "aarch64": (0xC00000B7, _AARCH64 | _COMMON),
}

_ALWAYS: Final = (
    "setns", "add_key", "request_key", "keyctl", "bpf", "userfaultfd", "perf_event_open",
    "kexec_load", "open_by_handle_at", *_COMMON,
)  # fmt: skip
_ALONE: Final = ("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd")
"""Refused where the call can see processes that are not its own."""

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data


@dataclass(frozen=True)
class Filter:
    """processes: the call has a table of processes of its own; sockets: one of mounts and of the
    network, so that every socket that it can name is its own; network: the profile has it."""

    processes: bool
    sockets: bool
    network: bool


@cache
def available() -> bool:
    """Whether this kernel takes filters, and this machine's numbers are known."""
    if platform.machine() not in _MACHINES:
        return False
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail") as file:
            return "errno" in file.read().split()
    except OSError:
        return False


def install(wanted: Filter) -> None:
    """Irreversible, for this (single-threaded) process and all that it will start; `no new
    privileges` must be set. LoomError(failed)."""
    raw = program(wanted, platform.machine())
    count = len(raw) // 8
    buffer = ctypes.create_string_buffer(raw)
    head = struct.pack("=HxxxxxxQ", count, ctypes.addressof(buffer))
    held = ctypes.create_string_buffer(head)
    if _libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.addressof(held), 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise LoomError("failed", f"the call could not be confined: PR_SET_SECCOMP: {reason}")


@cache
def program(wanted: Filter, machine: str) -> bytes:
    """The filter as classic BPF, eight bytes an instruction."""
    arch, numbers = _MACHINES[machine]
    refuse, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, absent),  # 32-bit calls have other numbers
        (_LOAD, 0, 0, _NUMBER),
        (_ABOVE, 0, 1, 0x40000000),  # and so have those of x32
        (_RETURN, 0, 0, absent),
        (_EQUAL, 0, 1, _CLONE3),  # its flags lie in memory; libc falls back to clone
        (_RETURN, 0, 0, absent),
    ]
    names = _ALWAYS if wanted.processes else (*_ALWAYS, *_ALONE)
    for name in names:
        code += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, refuse)]
    for name in ("clone", "unshare"):
        code += [
            (_EQUAL, 0, 4, numbers[name]),
            (_LOAD, 0, 0, _ARGS),
            (_ANY_BIT, 0, 1, _NEWUSER),
            (_RETURN, 0, 0, refuse),
            (_RETURN, 0, 0, _ALLOW),
        ]
    code += [
        (_EQUAL, 0, 6, numbers["ioctl"]),
        (_LOAD, 0, 0, _ARGS + 8),
        (_EQUAL, 2, 0, _TIOCSTI),
        (_EQUAL, 1, 0, _TIOCLINUX),
        (_EQUAL, 0, 1, _TIOCSETD),
        (_RETURN, 0, 0, refuse),
        (_RETURN, 0, 0, _ALLOW),
    ]
    if not wanted.sockets:
        code += _sockets(numbers["socket"], wanted.network, refuse)
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *one) for one in code)


def _sockets(number: int, network: bool, refuse: int) -> list[tuple[int, int, int, int]]:
    """Of families only IPv4 and IPv6 (with the network: netlink, by which interfaces are read);
    without the network only their streams."""
    families = [int(socket.AF_INET), int(socket.AF_INET6)]
    if network:
        families.append(int(socket.AF_NETLINK))
    inside = [(_LOAD, 0, 0, _ARGS)]
    for index, family in enumerate(families):
        inside.append((_EQUAL, len(families) - index, 0, family))
    inside.append((_RETURN, 0, 0, refuse))
    if not network:
        inside += [
            (_LOAD, 0, 0, _ARGS + 8),
            (_AND, 0, 0, 0xF),
            (_EQUAL, 1, 0, int(socket.SOCK_STREAM)),
            (_RETURN, 0, 0, refuse),
        ]
    inside.append((_RETURN, 0, 0, _ALLOW))
    return [(_EQUAL, 0, len(inside), number), *inside]
