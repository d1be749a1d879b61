"""The monitor of one service: a process that the root forks beside it.

It copies the service's output to a file that never grows beyond its limit (one older is kept), and
tells the root over the service's link when the service is ready. So the root itself never touches
a byte of output: neither a slow disk nor a hostile pattern can hold it up. The service writes to a
pipe that the root keeps open too, so that it neither blocks for long nor dies of SIGPIPE when the
monitor dies: the root forks another one. The monitor ends with the link: it first copies what is
still in the pipe, and what that says of readiness is still told.

It is nice, in a session of its own: how fast a service can shout is no business of the root's.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket

from loomd.supervise import kernel, readiness
from loomd.supervise.link import ChildLink, LinkClosed
from loomd.supervise.readiness import Notified, Probe

NICE = 10
CHUNK = 64 * 1024
LAST_BYTES = 1 << 20
"""At the end no more than this is copied: a pipe holds 64 KiB, and a writer may have survived."""


class CappedFile:
    """Appends to `path`; a file that would pass `limit` bytes becomes `path`~ first."""

    def __init__(self, path: str, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._fd = -1
        self._size = 0
        self._lost = 0

    def write(self, data: bytes) -> None:
        """Never fails: what there is no room for is counted, and the count written later."""
        while data:
            piece, data = data[: self._limit], data[self._limit :]
            self._put(piece)

    def _put(self, data: bytes) -> None:
        try:
            if self._fd < 0:
                self._open()
            if self._size + len(data) > self._limit:
                os.replace(self._path, self._path + kernel.OLDER)
                self.close()
                self._open()
            if self._lost:
                self._append(f"[{self._lost} bytes lost: no room]\n".encode())
                self._lost = 0
            self._append(data)
        except OSError:
            self._lost += len(data)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _append(self, data: bytes) -> None:
        written = os.write(self._fd, data)
        self._size += written
        self._lost += len(data) - written

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Monitor:
    """Copies until the link ends, and asks `probe` until the service is ready."""

    def __init__(self, out: int, link: ChildLink, probe: Probe, file: CappedFile) -> None:
        self._out = out
        self._link = link
        self._probe = probe
        self._file = file
        self._told = False

    def run(self) -> None:
        """Returns when the root has let go of the link."""
        poll = select.poll()
        watched: dict[int, int] = {}
        open_out = True
        while True:
            wanted = {self._link.fileno(): select.POLLIN}
            if open_out:
                wanted[self._out] = select.POLLIN
            if not self._told or isinstance(self._probe, Notified):
                wanted |= self._probe.masks()
            for fd in watched.keys() - wanted.keys():
                with contextlib.suppress(KeyError, OSError):
                    poll.unregister(fd)
            for fd, mask in wanted.items():
                poll.register(fd, mask)  # replaces an older mask
            watched = wanted
            wait = None if self._told else self._probe.wait_s()
            events = dict(poll.poll(None if wait is None else wait * 1000 + 1))
            if self._link.fileno() in events and not self._root_holds():
                break
            if self._out in events:
                open_out = self._copy()
            self._look()
        self._drain()

    def _root_holds(self) -> bool:
        try:
            while self._link.receive() is not None:
                continue  # it says nothing to a monitor
        except LinkClosed:
            return False
        return True

    def _copy(self) -> bool:
        """One piece of output; False at its end."""
        try:
            data = os.read(self._out, CHUNK)
        except BlockingIOError:
            return True
        self._take(data)
        return bool(data)

    def _take(self, data: bytes) -> None:
        self._file.write(data)
        if not self._told and self._probe.output(data):
            self._ready()

    def _look(self) -> None:
        if (not self._told or isinstance(self._probe, Notified)) and self._probe.look():
            self._ready()

    def _ready(self) -> None:
        if self._told:
            return
        self._told = True
        with contextlib.suppress(LinkClosed):
            self._link.ready()

    def _drain(self) -> None:
        copied = 0
        with contextlib.suppress(BlockingIOError):
            while copied < LAST_BYTES and (data := os.read(self._out, CHUNK)):
                copied += len(data)
                self._take(data)
        if not self._told and self._probe.output(b"\n"):  # a last line without an end
            self._ready()
        self._look()


def fork_monitor(
    name: str,
    pid: int,
    out: int,
    link: socket.socket,
    ready: tuple[str, str, int],
    notify: socket.socket | None,
    file: CappedFile,
    root: int,
) -> int:
    """Forks the monitor of service `name`, process `pid`; its own pid.

    out      the pipe with its output, non-blocking
    ready    what to wait for, of `spec.parse_ready`; `notify`: the socket for it
    Raises OSError where there can be no process.
    """
    if monitor := os.fork():
        return monitor
    try:
        if kernel.die_with(root):
            os.setsid()
            kernel.be_nice(NICE)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)  # the end of the link is our end
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            kernel.name_process(f"log:{name}")
            kernel.close_all_but([out, link.fileno(), *([notify.fileno()] if notify else [])])
            probe = readiness.probe(*ready, notify, pid)
            Monitor(out, ChildLink(link, name), probe, file).run()
    finally:
        os._exit(0)
