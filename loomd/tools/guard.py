"""The guard of a call: the worker's parent, and the end of everything that the worker started.

    tool host <--frames--> guard <--frames--> worker
                            `--- output pipe ---'

A subreaper: whatever the worker starts stays below it, even in a session of its own. It ends the
tree when the worker exits, when time, memory or number of processes are used up, when it is told
to, and when the tool host is gone; then it says `end`.

It runs no code of tools, so it guards one call after the other, each with a worker that it has
forked ahead: what a fork costs here is less the fork than the pages that are copied after it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from loomd.supervise import kernel
from loomd.supervise.brood import Hunt
from loomd.tools.contract import ToolSpec
from loomd.tools.frames import Frames, Gone, send_frame
from loomd.tools.worker import PROGRESS, worker

OUTPUT_HEAD: Final = 16 << 10
OUTPUT_TAIL: Final = 16 << 10
"""Of what a tool prints (not: of what it returns) the first and the last bytes are kept."""

REAP_S: Final = 0.0005
"""How soon it looks again for those that it has killed and that are not over yet."""

WATCH_S: Final = 0.1
"""How often the guard counts the memory and the processes of its tree."""

PROGRESS_A_S: Final = 50
"""What a call says while it runs may be lost: so often in a second it is handed on."""

TO_WORKER: Final = ("state", "seen", "input", "terminate")
"""Frames of the tool host that are the worker's."""

FREE: Final = b"f"
"""What a guard says to its generation when it can take another call."""

HANDED_ON: Final[tuple[str, ...]] = ("started", "taken")
"""What the worker of a job says to the tool host."""


def guard(waiting: socket.socket, tools: Mapping[str, ToolSpec]) -> NoReturn:
    """The life of a guard, in a process freshly forked from the generation: with its worker it
    waits for the socket of a call, and when that has ended says FREE. Until `waiting` ends."""
    status = 0
    try:
        os.setsid()
        kernel.become_subreaper()
        kernel.close_all_but([waiting.fileno()])
        one = _Guard(tools)
        while fds := socket.recv_fds(waiting, 1, 1)[1]:
            with socket.socket(fileno=fds[0]) as sock:
                if one.ended():  # somebody has killed the worker while it waited
                    one.end()
                    one.close()
                    one = _Guard(tools)
                one.run(sock)
            one = _Guard(tools)
            waiting.send(FREE)
    except (Gone, BrokenPipeError, ConnectionResetError):
        pass
    except BaseException:  # noqa: BLE001 - the last line of defence: say it, then end
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(BaseException):
            kill_tree()
        os._exit(status)


class _Guard:
    def __init__(self, tools: Mapping[str, ToolSpec]) -> None:
        self.head = bytearray()
        self.tail = bytearray()
        self.size = 0
        self.reason = ""
        self.result: dict[str, Any] | None = None
        self.second = 0
        self.said = 0
        mine, theirs = socket.socketpair()
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            mine.close()
            os.close(reading)
            worker(theirs, writing, tools)
        theirs.close()
        os.close(writing)
        self.inner = mine
        self.output = reading
        os.set_blocking(reading, False)
        self.pidfd = os.pidfd_open(self.pid)
        self.poll = select.poll()
        for fd in (self.pidfd, self.inner.fileno(), self.output):
            self.poll.register(fd, select.POLLIN)

    def ended(self) -> bool:
        """Has the worker ended already?"""
        return any(fd == self.pidfd for fd, _ in self.poll.poll(0))

    def run(self, sock: socket.socket) -> None:
        """One call, from its order to its `end`. Gone."""
        self.sock = sock
        outer, inner = Frames(), Frames()
        frames: list[dict[str, Any]] = []
        while not frames:
            frames = self._receive(outer)
        order = frames.pop(0)
        self.limits: dict[str, Any] = order["limits"]
        send_frame(sock, {"born": os.getpid()})
        with contextlib.suppress(Gone):
            send_frame(self.inner, order)
        self._from_host(frames)
        self.poll.register(sock.fileno(), select.POLLIN)
        now = time.monotonic()
        deadline = now + float(self.limits["call_s"])
        watch = now + WATCH_S if self.limits.get("watch", True) else deadline
        while not self.reason:
            now = time.monotonic()
            if now >= deadline:
                self.reason = "timeout"
                break
            if now >= watch:
                self._watch()
                watch = time.monotonic() + WATCH_S
                continue
            ready = dict(self.poll.poll((min(deadline, watch) - now) * 1000))
            if self.output in ready and not self._read_output():
                self.poll.unregister(self.output)
            if self.inner.fileno() in ready:
                try:
                    data = self.inner.recv(1 << 20)
                except ConnectionResetError:
                    data = b""
                if not data:
                    self.poll.unregister(self.inner.fileno())
                self._from_worker(inner, data)
            if sock.fileno() in ready:
                self._from_host(self._receive(outer))
            if self.pidfd in ready:
                break
        self._finish(inner)

    def _receive(self, frames: Frames) -> list[dict[str, Any]]:
        """Frames of the tool host. Gone: it is dead, and so is this call."""
        try:
            data = self.sock.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Gone
        return frames.feed(data)

    def _from_host(self, frames: list[dict[str, Any]]) -> None:
        for frame in frames:
            if "cancel" in frame:
                self.reason = "cancelled"
            elif not frame.keys().isdisjoint(TO_WORKER):
                with contextlib.suppress(Gone):
                    send_frame(self.inner, frame)

    def _finish(self, inner: Frames) -> None:
        status = self.end()
        self.inner.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while data := self.inner.recv(1 << 20):
                self._from_worker(inner, data)
        while self._read_output():
            pass
        self.close()
        if self.result is not None and not self.reason:
            send_frame(self.sock, {"result": self.result})
        code = os.waitstatus_to_exitcode(status)
        send_frame(
            self.sock,
            {
                "end": {
                    "exit": max(code, 0),
                    "signal": max(-code, 0),
                    "reason": self.reason,
                    "output": self._shown(),
                    "size": self.size,
                }
            },
        )

    def close(self) -> None:
        """Once the worker has ended: no descriptor of it stays."""
        self.inner.close()
        os.close(self.output)
        os.close(self.pidfd)

    def end(self) -> int:
        """Ends the worker and all below it; the worker's wait status."""
        if self.reason:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):  # it leads no group yet
                os.killpg(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        kill_tree()
        return status

    def _from_worker(self, frames: Frames, data: bytes) -> None:
        try:
            found = frames.feed(data)
        except ValueError:
            return  # a worker that writes nonsense hurts only itself: it has no result
        for frame in found:
            if "lock" in frame:
                send_frame(self.sock, {"lock": True})
            elif "seen" in frame:
                send_frame(self.sock, {"seen": frame["seen"]})
            elif isinstance(frame.get("progress"), str):
                self._progress(frame["progress"][:PROGRESS], frame.get("offset", 0))
            elif isinstance(frame.get("result"), dict):
                self.result = frame["result"]
            elif any(isinstance(frame.get(name), int) for name in HANDED_ON):
                said = {name: frame[name] for name in HANDED_ON if name in frame}
                send_frame(self.sock, said)

    def _progress(self, text: str, offset: Any) -> None:
        second = int(time.monotonic())
        if second != self.second:
            self.second, self.said = second, 0
        self.said += 1
        if self.said <= PROGRESS_A_S:
            offset = offset if isinstance(offset, int) else 0
            send_frame(self.sock, {"progress": text, "offset": offset})

    def _read_output(self) -> bool:
        """Takes what the pipe has; False when it is empty or has ended."""
        try:
            data = os.read(self.output, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            return False
        self.size += len(data)
        room = OUTPUT_HEAD - len(self.head)
        self.head += data[:room]
        self.tail += data[max(room, 0) :]
        del self.tail[: max(0, len(self.tail) - OUTPUT_TAIL)]
        return True

    def _shown(self) -> bytes:
        cut = self.size - len(self.head) - len(self.tail)
        middle = f"\n[... {cut} bytes left out ...]\n".encode() if cut else b""
        return bytes(self.head) + middle + bytes(self.tail)

    def _watch(self) -> None:
        most = int(self.limits["processes"])
        pids = descendants(most + 1)
        if len(pids) > most:
            self.reason = "processes"
            return
        allowed = int(self.limits["memory_mb"]) << 20
        # What a fork shares with its parent counts in both: quick, and never too little. Only
        # what looks like too much is counted in proportion, which takes milliseconds each.
        if sum(map(kernel.memory_of, pids)) > allowed and sum(map(proportional, pids)) > allowed:
            self.reason = "memory"


def proportional(pid: int) -> int:
    """Bytes of anonymous memory, each page divided by how many share it; 0 if it is gone."""
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        open(f"/proc/{pid}/smaps_rollup", "rb") as file,
    ):
        for line in file:
            if line.startswith(b"Pss_Anon:"):
                return int(line.split()[1]) << 10
    return 0


def descendants(most: int) -> list[int]:
    """Pids of the processes below this one (single-threaded), parents first; `most` of them."""
    found: list[int] = []
    queue = kernel.own_children()
    while queue and len(found) < most:
        pid = queue.pop()
        found.append(pid)
        queue += kernel.children_of(pid)
    return found


def kill_tree() -> None:
    """Kills everything below this subreaper and reaps it, until nothing is left.

    Waits only for those it has killed: one that was adopted meanwhile may never end by itself.
    """
    while reap_after(Hunt(groups=True), kernel.own_children):
        pass


def reap_after(hunt: Hunt, quarry: Callable[[], list[int]]) -> bool:
    """One hunt for these children of this process; False if nobody could be killed.

    Whoever of them has ended is reaped, in any order: the first process of a table of processes is
    not gone before all others of it are, and those may be children of this process.
    """
    while not hunt.round(quarry()):
        pass
    while True:
        reaped = False
        for pid in quarry():
            with contextlib.suppress(ChildProcessError):
                reaped = os.waitpid(pid, os.WNOHANG)[0] != 0 or reaped
        if set(hunt.held).isdisjoint(kernel.own_children()):
            return bool(hunt.held)
        if not reaped:
            time.sleep(REAP_S)
