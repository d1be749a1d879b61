"""The nursery: parent of the generations and undertaker of everything below it.

Forked by the tools actor before that opens a socket, so it has no ZeroMQ, no LMDB and no thread.
It is a subreaper: what loses its parent below it comes to it. A guard that lost its generation may
go on (it speaks with the tool host itself); anything else is killed with its tree. When its control
socket ends, the tool host is gone: it kills all that is left, then exits.

    tool host -> nursery   {"form": id, "folder", "without", "import_s"}; {"kill": pid}
    nursery -> tool host   {"formed": id, "pid"} with one end of the generation's socket
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import traceback
from typing import Any, Final

from loomd.supervise import kernel
from loomd.supervise.brood import Hunt
from loomd.tools import generation
from loomd.tools.guard import kill_tree, reap_after
from loomd.tools.worker import rehearse

MAX_ORDER: Final = 1 << 16
BUFFER: Final = 1 << 18


def fork(name: str) -> tuple[socket.socket, int]:
    """Forks the nursery; our end of its control socket, and its pid. To be called before any
    thread, socket of ZeroMQ or environment of LMDB exists in this process."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            mine.close()
            _main(theirs, name)
            status = 0
        except BaseException:  # noqa: BLE001 - the last line of defence: say it, then end
            traceback.print_exc()
        finally:
            signal.set_wakeup_fd(-1)
            with contextlib.suppress(BaseException):
                kill_tree()
            os._exit(status)
    theirs.close()
    return mine, pid


def _main(control: socket.socket, name: str) -> None:
    kernel.close_all_but([control.fileno()])
    kernel.become_subreaper()
    with contextlib.suppress(OSError):
        os.setsid()
    _title(f"loomd: {name} nursery")
    kernel.default_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Imported and computed once here, and shared by every generation.
    rehearse({spec.name: spec for _, spec in generation.builtins()})
    gc.collect()
    gc.freeze()
    _Nursery(control, name).run()


def _title(text: str) -> None:
    with contextlib.suppress(ImportError):
        import setproctitle

        setproctitle.setproctitle(text)


class _Nursery:
    def __init__(self, control: socket.socket, name: str) -> None:
        self.control = control
        self.name = name
        self.wake, waker = socket.socketpair()
        self.waker = waker
        for end in (self.wake, waker):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ours.setblocking(False)
        self.generations: set[int] = set()
        self.guards: set[int] = set()
        self.count = 0

    def run(self) -> None:
        poll = select.poll()
        for sock in (self.control, self.wake, self.ours):
            poll.register(sock, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self.ours.fileno() in ready:
                self._registered()
            if self.wake.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    self.wake.recv(4096)
                self._reap()
            if self.control.fileno() in ready:
                try:
                    data = self.control.recv(MAX_ORDER)
                except ConnectionResetError:
                    return
                if not data:
                    return
                self._order(json.loads(data))

    def _order(self, order: dict[str, Any]) -> None:
        if "kill" in order:
            if order["kill"] in self.generations:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(order["kill"], signal.SIGKILL)
            return
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (mine, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.count += 1
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _title(f"loomd: {self.name} generation")
            generation.serve(
                theirs, self.theirs, order["folder"], order["without"], order["import_s"]
            )
        self.generations.add(pid)
        theirs.close()
        note = json.dumps({"formed": order["form"], "pid": pid}).encode()
        with contextlib.suppress(OSError):
            socket.send_fds(self.control, [note], [mine.fileno()])
        mine.close()

    def _registered(self) -> None:
        gone = False
        with contextlib.suppress(BlockingIOError):
            while True:
                note = json.loads(self.ours.recv(4096))
                if "guard" in note:
                    self.guards.add(note["guard"])
                else:
                    self.guards.discard(note["gone"])
                    gone = True
        if gone:
            self._strangers()  # a guard that was killed leaves its worker to us

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self.generations.discard(pid)
            self.guards.discard(pid)
        self._registered()  # a guard may have been born just before its generation died
        self._strangers()

    def _strangers(self) -> None:
        """Kills what came to us and is neither a generation nor a guard, with all below it."""
        while reap_after(Hunt(), self._unknown):
            pass

    def _unknown(self) -> list[int]:
        known = self.generations | self.guards
        return [pid for pid in kernel.own_children() if pid not in known]
