"""The part of the root that runs user services: programs that know nothing of us.

A service has no link of its own. The other end of its link is held by its monitor (`monitor`),
which copies its output and says when it is ready; the root forks both, and holds the pipe of the
output open, so that a monitor can be replaced. An exit is not told before the monitor has let go:
what the service has said until its end is in its file then, and its successor finds it there.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from loomd.supervise import kernel, readiness
from loomd.supervise import spec as s
from loomd.supervise import tree as t
from loomd.supervise.monitor import CappedFile, fork_monitor

if TYPE_CHECKING:
    from loomd.supervise.process import Process
    from loomd.supervise.root import Root

FAREWELL_S = 1.0
"""How long a monitor may take to copy the last words of its service."""
NEW_MONITOR_S = 0.1
"""Until a dead monitor is replaced."""
WORD = 4096


@dataclass(eq=False)
class Service:
    """What belongs to one incarnation of a service, beside its process.

    out     the pipe with its output; `notify`: its socket, if it is to say READY=1
    told    ends without a word when the program has been executed; -1 when that is known
    watched a monitor holds the other end of the link; `monitor`: its pid, 0 if that is not known
    exited  its exit, until it may be told; `status`: the program's own
    """

    out: int
    told: int
    notify: socket.socket | None = None
    watched: bool = False
    monitor: int = 0
    exited: t.Exited | None = None
    status: int = 0


class Services:
    """Starts services and their monitors, and lets go of them. One per root."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._running: dict[Process, Service] = {}
        self.monitors: set[int] = set()  # pids that are not reaped yet

    def start(self, process: Process) -> None:
        """Forks the service and its monitor."""
        start = process.spec.start
        try:
            pid = self._fork(process)
        except OSError as error:
            self._root.births.never_born(process, f"fork: {error}")
            return
        self._root.births.born(process, pid)
        if process.dead:
            self._let_go(process)
            return
        self._await_told(process)
        self._watch(process, s.parse_ready(start.ready))

    def _fork(self, process: Process) -> int:
        start = process.spec.start
        env = dict(self._root.config.environment)
        env.setdefault("PYTHONUNBUFFERED", "1")  # a pipe would hide its lines from us
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            out, written = os.pipe2(os.O_CLOEXEC)
            ours.callback(os.close, out)
            theirs.callback(os.close, written)
            os.set_blocking(out, False)
            told, word = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            ours.callback(os.close, told)
            theirs.callback(os.close, word)
            notify = None
            if start.ready == "notify":
                notify, env["NOTIFY_SOCKET"] = readiness.notify_socket()
                ours.callback(notify.close)
            env |= start.env
            env |= self._root.births.marks(process)
            cwd = start.cwd or env.get("HOME") or "/"
            pid = kernel.start_service(
                list(start.command),
                env,
                cwd,
                written,
                word,
                self._root.pid,
                start.nice,
                self._root.births.settling(process),
            )
            ours.pop_all()
        self._running[process] = Service(out, told, notify)
        return pid

    def _on_told(self, process: Process) -> None:
        """The program runs, or could not be executed and its exit comes next."""
        service = self._running.get(process)
        if service is None or service.told < 0:
            return
        try:
            word = os.read(service.told, WORD)
        except BlockingIOError:
            return
        self._root.selector.unregister(service.told)
        os.close(service.told)
        service.told = -1
        process.crash = word.decode("utf-8", "replace")
        if not word and process.spec.start.ready == "none":
            self._root.on_ready(process)

    @property
    def quiet(self) -> bool:
        """No exit waits for the last words of its service."""
        return all(service.exited is None for service in self._running.values())

    def freeze(self) -> list[dict[str, Any]]:
        """For the root's successor, at a quiet moment; with the descriptors by number."""
        return [
            {
                "name": process.name,
                "out": service.out,
                "told": service.told,
                "notify": -1 if service.notify is None else service.notify.fileno(),
                "watched": service.watched,
                "monitor": service.monitor,
            }
            for process, service in self._running.items()
        ]

    def thaw(self, frozen: Sequence[Mapping[str, Any]]) -> None:
        for one in frozen:
            process = self._root.processes[one["name"]]
            notify = None if one["notify"] < 0 else socket.socket(fileno=one["notify"])
            self._running[process] = Service(
                one["out"], one["told"], notify, one["watched"], one.get("monitor", 0)
            )
            if one.get("monitor"):
                self.monitors.add(one["monitor"])
            if one["told"] >= 0:
                self._await_told(process)
            if not one["watched"]:
                self._root.after(NEW_MONITOR_S, partial(self._replace, process))

    def _await_told(self, process: Process) -> None:
        told = self._running[process].told
        selector = self._root.selector
        selector.register(told, selectors.EVENT_READ, lambda mask: self._on_told(process))

    # --- monitors ------------------------------------------------------------------------------

    def _watch(self, process: Process, ready: tuple[str, str, int]) -> None:
        """Forks a monitor; where there can be none now, again a little later."""
        service, root = self._running[process], self._root
        assert process.theirs is not None
        start = process.spec.start
        try:
            service.monitor = fork_monitor(
                process.name,
                process.pid,
                service.out,
                process.theirs,
                ready,
                service.notify,
                CappedFile(root.births.output(process.name), start.log_bytes),
                root.pid,
            )
            self.monitors.add(service.monitor)
            service.watched = True
        except OSError as error:
            root.log.line("warning", "no_monitor", name=process.name, reason=str(error))
        process.theirs.close()
        process.theirs = None

    def monitor_gone(self, process: Process) -> None:
        """The link has ended: with the service, or the monitor has died before it."""
        service = self._running.get(process)
        if service is None:
            return
        service.watched = False
        if service.exited is not None:
            self._depart(process)
            return
        self._root.log.line("warning", "monitor_gone", name=process.name)
        self._root.after(NEW_MONITOR_S, lambda: self._replace(process))

    def _replace(self, process: Process) -> None:
        service = self._running.get(process)
        if service is None or service.exited is not None:
            return
        self._root.renew_link(process)
        node = self._root.policy.nodes.get(process.name)
        waits = node is not None and node.state == "starting"
        self._watch(process, s.parse_ready(process.spec.start.ready if waits else "none"))

    def reap(self, pid: int) -> None:
        """Reaps a monitor if it is dead."""
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None:
            self.monitors.discard(pid)

    def _kill(self, pid: int) -> None:
        """A monitor that did not end in time. Its pid is its own until it is reaped."""
        if pid not in self.monitors:
            return
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)

    # --- ends ----------------------------------------------------------------------------------

    def exited(self, process: Process, status: int, number: int) -> None:
        """It is dead and reaped; that is told once its monitor has seen to its last words."""
        service = self._running[process]
        self._on_told(process)
        reason = self._root.ends.reason(process, status, number)
        service.status = status
        service.exited = t.Exited(
            process.name, process.incarnation, status_of(status), number, None, reason
        )
        if not service.watched:
            self._depart(process)
            return
        with contextlib.suppress(OSError):
            process.link.sock.shutdown(socket.SHUT_WR)
        self._root.after(FAREWELL_S, lambda: self._overdue(process))

    def _overdue(self, process: Process) -> None:
        service = self._running.get(process)
        if service is not None:
            self._kill(service.monitor)
            self._depart(process)

    def _depart(self, process: Process) -> None:
        service = self._running.get(process)
        if service is None or service.exited is None:
            return
        event = service.exited
        self._let_go(process)
        self._root.ends.bury(process)
        self._root.ends.add(process, event, service.status)

    def _let_go(self, process: Process) -> None:
        service = self._running.pop(process)
        if service.told >= 0:
            with contextlib.suppress(KeyError):
                self._root.selector.unregister(service.told)
            os.close(service.told)
        os.close(service.out)
        if service.notify is not None:
            service.notify.close()


def status_of(status: int) -> int:
    """A program's status as the supervisor takes it: 70 to 74 mean nothing in a service."""
    return 1 if s.FENCED <= status <= s.CANNOT_START else status
