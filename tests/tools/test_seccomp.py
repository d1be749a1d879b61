"""The filter, run by a small interpreter: which calls of the kernel it refuses."""

import errno
import socket
import struct

import pytest

from loomd.tools.seccomp import Filter, program

OWN = Filter(processes=True, sockets=True, network=False)
BARE = Filter(processes=False, sockets=False, network=False)
ONLINE = Filter(processes=False, sockets=False, network=True)

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
IOCTL = {"x86_64": 16, "aarch64": 29}
SOCKET = {"x86_64": 41, "aarch64": 198}
CLONE = {"x86_64": 56, "aarch64": 220}
PTRACE = {"x86_64": 101, "aarch64": 117}
UNIX, INET, NETLINK, PACKET = 1, 2, 16, 17
STREAM, DGRAM, RAW = 1, 2, 3


def verdict(wanted, machine, number, *args, arch=None):
    """0 if the call is allowed, else its errno."""
    data = struct.pack("=IIQ", number, ARCH[machine] if arch is None else arch, 0)
    data += struct.pack("=6Q", *args, *[0] * (6 - len(args)))
    raw = program(wanted, machine)
    code = [struct.unpack_from("=HBBI", raw, at) for at in range(0, len(raw), 8)]
    at, held = 0, 0
    while True:
        kind, yes, no, value = code[at]
        at += 1
        match kind:
            case 0x20:
                (held,) = struct.unpack_from("=I", data, value)
            case 0x54:
                held &= value
            case 0x15:
                at += yes if held == value else no
            case 0x35:
                at += yes if held >= value else no
            case 0x45:
                at += yes if held & value else no
            case 0x06:
                return 0 if value == 0x7FFF0000 else value & 0xFFFF
            case _:
                raise AssertionError(kind)


@pytest.mark.parametrize("machine", ARCH)
@pytest.mark.parametrize(
    ("wanted", "call", "args", "refused"),
    [
        (OWN, SOCKET, (UNIX, STREAM), 0),
        (OWN, SOCKET, (INET, DGRAM), 0),
        (OWN, PTRACE, (16,), 0),
        (OWN, CLONE, (17,), 0),
        (OWN, CLONE, (0x10000000 | 17,), errno.EPERM),
        (OWN, IOCTL, (0, 0x5401), 0),
        (OWN, IOCTL, (0, 0x5412), errno.EPERM),
        (OWN, IOCTL, (0, 0x5423), errno.EPERM),
        (BARE, PTRACE, (16,), errno.EPERM),
        (BARE, SOCKET, (UNIX, STREAM), errno.EPERM),
        (BARE, SOCKET, (INET, STREAM), 0),
        (BARE, SOCKET, (INET, STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK), 0),
        (BARE, SOCKET, (int(socket.AF_INET6), STREAM), 0),
        (BARE, SOCKET, (INET, DGRAM), errno.EPERM),
        (BARE, SOCKET, (INET, DGRAM | socket.SOCK_CLOEXEC), errno.EPERM),
        (BARE, SOCKET, (INET, RAW), errno.EPERM),
        (BARE, SOCKET, (NETLINK, RAW), errno.EPERM),
        (ONLINE, SOCKET, (INET, DGRAM), 0),
        (ONLINE, SOCKET, (NETLINK, RAW), 0),
        (ONLINE, SOCKET, (UNIX, STREAM), errno.EPERM),
        (ONLINE, SOCKET, (PACKET, RAW), errno.EPERM),
    ],
)
def test_which_calls_are_refused(machine, wanted, call, args, refused):
    assert verdict(wanted, machine, call[machine], *args) == refused


@pytest.mark.parametrize("machine", ARCH)
@pytest.mark.parametrize("wanted", [OWN, BARE, ONLINE])
def test_what_is_always_refused(machine, wanted):
    for number in (425, 426, 427):  # io_uring
        assert verdict(wanted, machine, number) == errno.EPERM
    assert verdict(wanted, machine, 435) == errno.ENOSYS  # clone3: libc takes clone instead
    assert verdict(wanted, machine, 1 if machine == "x86_64" else 64) == 0  # write
    assert verdict(wanted, machine, 1, arch=0x40000003) == errno.ENOSYS  # 32-bit
    assert verdict(wanted, machine, 0x40000000 | 41) == errno.ENOSYS  # x32
