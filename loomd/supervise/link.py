"""The link between the root and one child: a SOCK_SEQPACKET pair, one JSON object per datagram.

A datagram is at most 64 KiB. Nothing here blocks: what the peer does not take at once is queued, to
a limit, and sent later. End of file means that the other side is gone; a child whose root is gone
must exit at once. `Link` is the root's end, `ChildLink` the child's.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from loomd.supervise.crash import crash_point
from loomd.supervise.slots import Slot

MAX_DATAGRAM = 64 * 1024
MAX_QUEUE = 16384
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class LinkClosed(Exception):
    """The other side is gone, or has taken nothing for so long that the queue is full."""


class TooLarge(ValueError):
    """A message that does not fit one datagram: a fault of the caller."""


def encode(message: dict[str, Any], limit: int = MAX_DATAGRAM) -> bytes:
    """One datagram. Raises TooLarge."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > limit:
        raise TooLarge(f"{len(data)} bytes, limit {limit}, op {message.get('op')!r}")
    return data


def decode(data: bytes) -> dict[str, Any] | None:
    """The message, or None if this is none (garbage never ends a process)."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


class Endpoint:
    """What both ends share: a non-blocking socket and a capped queue behind it."""

    def __init__(self, sock: socket.socket, max_queue: int = MAX_QUEUE) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._queue: deque[bytes] = deque()
        self.max_queue = max_queue

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def waiting(self) -> bool:
        """Something is queued: poll for writing too and call `flush` then."""
        return bool(self._queue)

    def send(self, message: dict[str, Any]) -> None:
        """Sends or queues. Raises LinkClosed (peer gone, queue full) or TooLarge."""
        data = encode(message)
        if len(self._queue) >= self.max_queue:
            raise LinkClosed("the other side takes nothing")
        self._queue.append(data)
        self.flush()

    def flush(self) -> bool:
        """Sends what the peer takes now; True when nothing is left. Raises LinkClosed."""
        while self._queue:
            try:
                self.sock.send(self._queue[0])
            except BlockingIOError:
                return False
            except OSError as error:
                raise LinkClosed(str(error)) from error
            self._queue.popleft()
        return True

    def queued(self) -> list[str]:
        """What the peer has not taken yet, oldest first: for a successor of this process."""
        return [data.decode() for data in self._queue]

    def requeue(self, datagrams: list[str]) -> None:
        """Takes over what a predecessor had queued."""
        self._queue.extend(text.encode() for text in datagrams)

    def close(self) -> None:
        self._queue.clear()
        self.sock.close()


class ChildLink(Endpoint):
    """The child's end. Use it from one thread."""

    def __init__(self, sock: socket.socket, name: str = "") -> None:
        super().__init__(sock)
        self._name = name

    @classmethod
    def from_env(cls) -> ChildLink:
        """The link of a process that was started as a command (`LOOM_LINK_FD`)."""
        return cls(socket.socket(fileno=int(os.environ["LOOM_LINK_FD"])))

    def ready(self) -> None:
        """Tells the root that this process runs: its start has succeeded."""
        crash_point("child.before_ready", self._name)
        self.send({"op": "ready"})

    def receive(self) -> dict[str, Any] | None:
        """The next message; None: nothing now. Raises LinkClosed at end of file."""
        if self._queue:
            self.flush()
        while True:
            try:
                data = self.sock.recv(2 * MAX_DATAGRAM)
            except BlockingIOError:
                return None
            except OSError as error:
                raise LinkClosed(str(error)) from error
            if not data:
                raise LinkClosed("the root is gone")
            message = decode(data)
            if message is not None:
                return message


class Link(Endpoint):
    """The root's end. Every message comes with the pid of its sender, told by the kernel."""

    def __init__(self, sock: socket.socket, max_queue: int = MAX_QUEUE) -> None:
        super().__init__(sock, max_queue)

    @classmethod
    def pair(cls, max_queue: int = MAX_QUEUE) -> tuple[Link, socket.socket]:
        """The root's end and the socket to give to the child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Before the child can send: credentials are attached when the message is sent.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        return cls(ours, max_queue), theirs

    def receive(self) -> tuple[dict[str, Any], int] | None:
        """The next message and its sender's pid; None: nothing now. Raises LinkClosed at EOF."""
        while True:
            try:
                data, ancillary, flags, _ = self.sock.recvmsg(
                    2 * MAX_DATAGRAM, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except BlockingIOError:
                return None
            except OSError as error:
                raise LinkClosed(str(error)) from error
            if not data:
                raise LinkClosed("end of file")
            pid = 0
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    pid = _CREDENTIALS.unpack(value[: _CREDENTIALS.size])[0]
            message = None if flags & socket.MSG_TRUNC else decode(data)
            if message is not None:
                return message, pid


@dataclass(frozen=True)
class ProcessBirth:
    """What a process is born with: the argument of every entry point `main(birth)`.

    incarnation  boot number << 32 | counter; never repeats
    token        what its Hello says; known to the hub too
    link, slot   its line to the root and its place in the shared slots
    args         JSON-able, from its spec, with the common args of every process of this instance
    keys_fd      -1, or (gateways) a memfd: the JSON object of the environment that loomd was
                 started with; read it with os.pread
    listen_fd    -1, or (hub) the listening socket of the clients, passed by systemd
    boot         boot number of the root
    trial        its code is new, and older code waits for it to fail: it tells when it has loaded
                 what is saved, and of its first commit
    """

    name: str
    incarnation: int
    token: str
    link: ChildLink
    slot: Slot
    args: dict[str, Any] = field(default_factory=dict)
    keys_fd: int = -1
    listen_fd: int = -1
    boot: int = 0
    trial: bool = False
