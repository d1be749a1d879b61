"""The sockets of loomd: the only file that imports zmq.

A process opens its sockets after it was forked, never before (a context that crosses a fork sends
nothing and says nothing), so the context is made with the first socket and ended with the last.
Every socket can be used blocking (`receive`) or in a `Poller`, by one thread.

    ROUTER  make_router   hub: actors, clients. An unknown peer is told (`Unreachable`); a reused
                          identity is not handed over, because that loses messages
    DEALER  make_dealer   hosts and clients
    XPUB    make_xpub     hub; SUB make_sub: clients

No socket lingers: what matters is acknowledged and resent, so nothing is worth waiting for at exit.
A frame over `HARD_LIMIT` disconnects its sender.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from typing import Any, Final

import zmq

from loomd.wire.codec import HARD_LIMIT

RECONNECT_MS: Final = 5
"""Between two attempts to reach a hub that is away: restarts of the hub are felt for this long."""

PUBLISHED: Final = 20_000
"""Publications kept for a subscriber that is slow; it loses those beyond and reads the log."""

POLLIN: Final = zmq.POLLIN
POLLOUT: Final = zmq.POLLOUT
NOBLOCK: Final = zmq.NOBLOCK
SNDMORE: Final = zmq.SNDMORE
FD: Final = zmq.FD

Poller = zmq.Poller
Again = zmq.Again
"""The operation would block."""
SocketError = zmq.ZMQError


class Unreachable(Exception):
    """A ROUTER has no peer of this identity, or that peer takes nothing more."""


_lock = threading.Lock()
_prepared: Socket | None = None
_context: zmq.Context[Any] | None = None
_owner = 0
_open = 0


def _acquire() -> zmq.Context[Any]:
    global _context, _owner, _open
    with _lock:
        if _context is None or _owner != os.getpid():
            _context, _owner, _open = zmq.Context(), os.getpid(), 0
        _open += 1
        return _context


def _release(context: zmq.Context[Any]) -> None:
    global _context, _open
    with _lock:
        if context is not _context or _owner != os.getpid():
            return
        _open -= 1
        if _open:
            return
        _context = None
    context.term()  # outside the lock: it waits for the library's threads


class Socket(zmq.Socket[bytes]):
    """A zmq socket of this process. Closing the last one ends the context and its threads."""

    bound_path: str = ""
    """File of a bound ipc socket; removed at close, because zmq leaves it."""

    def receive(self, timeout_s: float | None = None) -> Any:
        """The next message, or None after `timeout_s` seconds (None: wait for ever).

        One frame is `bytes`, several are a list of `bytes`.
        """
        if timeout_s is not None and not self.poll(max(0, int(timeout_s * 1000))):
            return None
        frames = self.recv_multipart()
        return frames[0] if len(frames) == 1 else frames

    def receive_nowait(self) -> list[bytes] | None:
        """The frames of the next message, or None: nothing now."""
        try:
            return self.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def send_to(self, identity: bytes, frame: bytes) -> None:
        """ROUTER: one frame to one peer, never blocking. Raises Unreachable."""
        try:
            self.send(identity, zmq.SNDMORE | zmq.NOBLOCK)
        except zmq.ZMQError as error:  # EHOSTUNREACH, or EAGAIN: its queue is full
            raise Unreachable(str(error)) from None
        self.send(frame, zmq.NOBLOCK)

    def close(self, linger: int | None = None) -> None:
        if self.closed:
            return
        context = self.context
        super().close(linger)
        if self.bound_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.bound_path)
        _release(context)


def _make(kind: int) -> Socket:
    context = _acquire()
    try:
        made: Socket = Socket(context, kind)
    except BaseException:
        _release(context)
        raise
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.MAXMSGSIZE, HARD_LIMIT)
    return made


def _bind(made: Socket, address: str, fd: int = -1) -> Socket:
    # A predecessor that was killed leaves its file; the instance's lock says that it is dead. The
    # file of a socket that was passed to us is not ours.
    path = address.removeprefix("ipc://") if address.startswith("ipc://") and fd < 0 else ""
    if fd >= 0:
        made.setsockopt(zmq.USE_FD, fd)
    if path:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    try:
        made.bind(address)
    except BaseException:
        made.close()
        raise
    made.bound_path = path
    return made


def _connect(made: Socket, address: str, queue: int = 0) -> Socket:
    made.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    made.setsockopt(zmq.SNDHWM, 0)
    made.setsockopt(zmq.RCVHWM, queue)
    try:
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def make_router(address: str, *, queue: int = 0, fd: int = -1) -> Socket:
    """A bound ROUTER. `queue`: messages kept per peer, to it before it counts as unreachable and
    from it before it must wait; 0: any. `fd`: a descriptor that listens at `address` already; it
    is closed with the socket, its file is left alone."""
    made = _make(zmq.ROUTER)
    made.setsockopt(zmq.ROUTER_MANDATORY, 1)
    made.setsockopt(zmq.SNDHWM, queue)
    made.setsockopt(zmq.RCVHWM, queue)
    return _bind(made, address, fd)


def prepare() -> None:
    """Makes the context, its threads and the next DEALER of this process ahead of their use."""
    global _prepared
    if _prepared is None:
        _prepared = _make(zmq.DEALER)


def make_dealer(address: str, identity: str | bytes) -> Socket:
    """A connected DEALER. Identities never repeat: `name#incarnation`, a client's id.

    Its queues have no bound of their own: the hub's windows bound what is on the way.
    """
    global _prepared
    made, _prepared = _prepared or _make(zmq.DEALER), None
    made.setsockopt(zmq.IDENTITY, identity.encode() if isinstance(identity, str) else identity)
    return _connect(made, address)


def make_xpub(address: str, *, queue: int = PUBLISHED) -> Socket:
    """A bound XPUB: a slow subscriber loses what does not fit in `queue` messages."""
    made = _make(zmq.XPUB)
    made.setsockopt(zmq.SNDHWM, queue)
    return _bind(made, address)


def make_sub(address: str, topics: Iterable[str] = (), *, queue: int = PUBLISHED) -> Socket:
    """A connected SUB. Messages are two frames: topic, encoded `Published`.

    Who does not read loses what comes after `queue` messages here and as many at the hub.
    """
    made = _make(zmq.SUB)
    for topic in topics:
        made.setsockopt(zmq.SUBSCRIBE, topic.encode())
    return _connect(made, address, queue)
