"""How a service's monitor sees that the service is ready: a notification, a port, a line.

Each probe names the descriptors it waits for (`masks`) and how long it can wait (`wait_s`), and
says True once the service is ready. Nothing here belongs to the root: a hostile pattern or a slow
name can hold up one monitor, and the time-out of the start deals with that.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import re
import select
import socket
import struct
import time
from typing import Protocol

from loomd.supervise import kernel

MAX_LINE = 4096
"""Bytes of a line that are looked at."""
MATCH_S = 0.5
"""How long a pattern may compute over one line; after `MAX_SLOW` such lines it is given up, for
nothing is copied meanwhile."""
MAX_SLOW = 3
FIRST_TRY_S, LAST_TRY_S = 0.01, 0.25
"""Between tries to connect: doubling from the first to the last."""
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_ANCILLARY = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(253 * 4)


class Probe(Protocol):
    """What a monitor asks while the start goes on."""

    def masks(self) -> dict[int, int]:
        """Descriptors to wait for, with their poll masks."""

    def wait_s(self) -> float | None:
        """Call `look` after so many seconds even if no descriptor says anything; None: never."""

    def look(self) -> bool:
        """Something may have happened. True: it is ready."""

    def output(self, data: bytes) -> bool:
        """Its output. True: it is ready."""

    def close(self) -> None: ...


class Silent:
    """Has nothing to look at."""

    def masks(self) -> dict[int, int]:
        return {}

    def wait_s(self) -> float | None:
        return None

    def look(self) -> bool:
        return False

    def output(self, data: bytes) -> bool:
        return False

    def close(self) -> None:
        return


def notify_socket() -> tuple[socket.socket, str]:
    """A datagram socket and what NOTIFY_SOCKET says of it. Its name is abstract, chosen by the
    kernel: no file is left, no path is too long."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.bind("")
        return sock, "@" + os.fsdecode(sock.getsockname()[1:])
    except BaseException:
        sock.close()
        raise


class Notified(Silent):
    """READY=1 from a process of the service: one in its session, or a descendant of its process.

    It goes on reading for as long as the service lives: a sender would block on a full socket.
    Descriptors that come along are closed, which is the answer to systemd-notify's barrier.
    """

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self._sock = sock
        self._pid = pid

    def masks(self) -> dict[int, int]:
        return {self._sock.fileno(): select.POLLIN}

    def look(self) -> bool:
        ready = False
        for _ in range(64):
            try:
                data, ancillary, _, _ = self._sock.recvmsg(4096, _ANCILLARY)
            except BlockingIOError:
                break
            sender = 0
            for level, kind, value in ancillary:
                if level != socket.SOL_SOCKET:
                    continue
                if kind == socket.SCM_CREDENTIALS:
                    sender = _CREDENTIALS.unpack(value[: _CREDENTIALS.size])[0]
                elif kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
                    ready = ready or self._says_ready(data, sender)  # before its sender may leave
                    for fd in fds:
                        os.close(fd)
            ready = ready or self._says_ready(data, sender)
        return ready

    def _says_ready(self, data: bytes, sender: int) -> bool:
        return b"READY=1" in data.split(b"\n") and belongs(sender, self._pid)

    def close(self) -> None:
        self._sock.close()


def belongs(pid: int, leader: int) -> bool:
    """Whether `pid` is `leader`, is in the session that it leads, or descends from it."""
    with contextlib.suppress(OSError):
        if pid > 0 and os.getsid(pid) == leader:
            return True
    for _ in range(64):
        if pid == leader:
            return True
        if pid <= 1:
            return False
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
    return False


class PortOpen(Silent):
    """A TCP port takes a connection, which is closed at once."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._sock: socket.socket | None = None
        self._pause = FIRST_TRY_S
        self._next = 0.0

    def masks(self) -> dict[int, int]:
        return {} if self._sock is None else {self._sock.fileno(): select.POLLOUT}

    def wait_s(self) -> float | None:
        return max(0.0, self._next - time.monotonic())

    def look(self) -> bool:
        if self._sock is not None:
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error == 0 and self._connected(self._sock):
                self.close()
                return True
            if error or time.monotonic() >= self._next:
                self.close()
        if self._sock is not None or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._pause
        self._pause = min(LAST_TRY_S, self._pause * 2)
        return self._try()

    def _try(self) -> bool:
        family, kind, proto, _, address = socket.getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM
        )[0]
        self._sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, proto)
        self._sock.setblocking(False)
        error = self._sock.connect_ex(address)
        if error == errno.EINPROGRESS:
            return False
        ready = error == 0 and self._connected(self._sock)
        self.close()
        return ready

    @staticmethod
    def _connected(sock: socket.socket) -> bool:
        """Not to itself: a free port of this machine may be given to the connection as its own."""
        try:
            return bool(sock.getpeername() != sock.getsockname())
        except OSError:
            return False

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class LineSeen(Silent):
    """A line of its output (stdout or stderr) matches a pattern anywhere in the line."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern)
        self._line = b""
        self._slow = 0

    def output(self, data: bytes) -> bool:
        *whole, rest = (self._line + data).replace(b"\r", b"\n").split(b"\n")
        self._line = rest[:MAX_LINE]
        return any(self._matches(line) for line in whole)

    def _matches(self, line: bytes) -> bool:
        if self._slow == MAX_SLOW:
            return False
        text = line[:MAX_LINE].decode("utf-8", "replace")
        try:
            with kernel.limited(MATCH_S, TimeoutError(), own=True):  # a busy machine is no fault
                return self._pattern.search(text) is not None
        except TimeoutError:
            self._slow += 1
            return False


def probe(kind: str, place: str, port: int, sock: socket.socket | None, pid: int) -> Probe:
    """The probe for what `spec.parse_ready` has read."""
    if kind == "notify" and sock is not None:
        return Notified(sock, pid)
    if kind == "tcp":
        return PortOpen(place, port)
    if kind == "line":
        return LineSeen(place)
    return Silent()
