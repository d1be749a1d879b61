"""How a process of the root's ends: asked to, killed, reaped, blamed, told.

A death is taken in at once (`on_exit`) and acted upon (`tell`) when what the process has left is
dead too. The line of an exit is written, and the hub told, with what the policy made of it.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from loomd.supervise import kernel, slots
from loomd.supervise import orphans as o
from loomd.supervise import spec as s
from loomd.supervise import tree as t
from loomd.supervise.hangs import Hangs
from loomd.supervise.memory import OUT_OF_MEMORY, OVER_LIMIT, MemoryWatch
from loomd.supervise.process import End, Process

if TYPE_CHECKING:
    from loomd.supervise.root import Root

UNKNOWN_KILLS = 10
"""From this SIGKILL of unknown origin on with the same mail in hand, that mail is blamed."""
_FAULTS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
_OWN_DOING = frozenset({"hung", OVER_LIMIT, OUT_OF_MEMORY})
"""Kills of ours that what it had in hand is to blame for."""
_STATUS_WORDS = {
    s.NORMAL: "normal",
    s.FENCED: "fenced",
    s.UPGRADED: "upgraded",
    s.ASLEEP: "asleep",
    s.COULD_NOT_START: "could not start",
    s.CANNOT_START: "can never start",
}


class Ends:
    """One per root.

    pending  deaths that are not acted upon yet, the first at `since` (monotonic seconds)
    kills    by name: what was in hand at SIGKILLs of unknown origin, and how often in a row
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self.pending: list[End] = []
        self.since = 0.0
        self.kills: dict[str, tuple[tuple[int, int, int], int]] = {}
        self._notes: dict[tuple[str, int], dict[str, Any]] = {}
        self._memory = MemoryWatch()
        self._hangs = Hangs(int(root.config.heartbeat_s * 1e9))

    def find(self, name: str, incarnation: int) -> Process | None:
        process = self._root.processes.get(name)
        if process is None or process.dead or process.incarnation != incarnation:
            return None
        return process

    def stop(self, action: t.StopProcess) -> None:
        process = self.find(action.name, action.incarnation)
        if process is None:
            return
        if process.pid == 0:
            process.killed = "stopped before it was born"
            self._root.births.never_born(process, process.killed, s.NORMAL)
            return
        process.stopping = True
        self._root.send(process, {"op": "stop"})
        if not process.spec.start.template:
            self._signal(process, signal.SIGTERM)  # a template may be busy importing

    def kill(self, process: Process, reason: str) -> None:
        """SIGKILL, by our own decision: `reason` says why."""
        process.killed = process.killed or reason
        if process.leaf is not None:
            process.leaf.kill()
        if process.pid:
            self._signal(process, signal.SIGKILL)
        else:
            self._root.births.never_born(
                process, reason
            )  # its link closes: born after all, it would exit

    def signal(self, process: Process, number: int) -> bool:
        """A signal by someone's wish; deaths by it are not blamed on what it had in hand."""
        if not process.pid or process.dead:
            return False
        if number:
            process.killed = process.killed or f"signal {number} by request"
        return self._signal(process, number)

    def _signal(self, process: Process, number: int) -> bool:
        try:
            signal.pidfd_send_signal(process.pidfd, number)
        except OSError:
            return False
        return True

    def on_exit(self, process: Process) -> None:
        if process.dead:
            return
        try:
            result = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            result = None
            status, number = 1, 0  # cannot be, but must not stop the loop
        else:
            if result is None:
                return
            if result.si_code == os.CLD_EXITED:
                status, number = result.si_status, 0
            else:
                status, number = -1, result.si_status
        if not process.killed and number == signal.SIGKILL and process.leaf is not None:
            process.killed = OUT_OF_MEMORY if process.leaf.oom_kills() else ""
        if process.spec.start.service:
            self._service_exited(process, status, number)
            return
        self._root.read_link(process)  # its last words
        hand = self._root.slots.slot(process.slot).read()
        event = t.Exited(
            process.name,
            process.incarnation,
            status,
            number,
            self._blame(process, status, number, hand),
            self.reason(process, status, number),
        )
        event = self._root.upgrade.judged(process, event)
        self.bury(process)
        self.add(process, event)

    def _service_exited(self, process: Process, status: int, number: int) -> None:
        """It is reaped: its pid may be another's soon. Its end is told by `services`."""
        self._root.selector.unregister(process.pidfd)
        os.close(process.pidfd)
        process.pidfd = -1
        self._root.by_pid.pop(process.pid, None)
        if process.spec.start.serves and process.pid:
            self._root.orphans.template_gone(process.pid)
        self._root.look_around = True
        self._root.services.exited(process, status, number)

    def _blame(
        self, process: Process, status: int, number: int, hand: slots.InHand
    ) -> tuple[int, int, int] | None:
        """What it had in hand, if it died of that."""
        if not hand.since_ns or hand.kind not in slots.BLAMABLE:
            return None
        key = (hand.kind, hand.lane, hand.seq)
        if process.killed in _OWN_DOING:
            return key
        if process.killed:
            return None
        if number == signal.SIGKILL:
            if hand.kind not in slots.STEPS:
                return None  # nothing says that it was always the same effect
            last, count = self.kills.get(process.name, (key, 0))
            count = count + 1 if last == key else 1
            self.kills[process.name] = (key, count)
            return key if count >= UNKNOWN_KILLS else None
        if hand.kind in slots.STEPS and (number, status) == (0, s.NORMAL):
            return key  # it ended itself inside a step
        own = number in _FAULTS or (number == 0 and status not in _STATUS_WORDS)
        return key if own else None

    def reason(self, process: Process, status: int, number: int) -> str:
        if process.killed:
            return process.killed
        if process.crash:
            return process.crash.strip().rpartition("\n")[2][:500]
        if number:
            try:
                return f"killed by {signal.Signals(number).name}"
            except ValueError:
                return f"killed by signal {number}"
        words = _STATUS_WORDS if not process.spec.start.service else {s.NORMAL: "normal"}
        return words.get(status, f"exit status {status}")

    def bury(self, process: Process) -> None:
        """Lets go of everything that belongs to this incarnation."""
        process.dead = True
        self._root.look_around = True
        self._root.unwatch_link(process)
        process.link.close()
        if process.theirs is not None:
            process.theirs.close()
            process.theirs = None
        if process.pidfd >= 0:
            self._root.selector.unregister(process.pidfd)
            os.close(process.pidfd)
            process.pidfd = -1
        self._root.by_pid.pop(process.pid, None)
        if process.spec.start.serves and process.pid:
            self._root.orphans.template_gone(process.pid)
        self._root.slots.give_back(process.slot)
        process.slot = -1
        self._memory.forget(process.name)
        if process.leaf is not None:
            self._root.orphans.end_leaf(process.leaf)
        if self._root.processes.get(process.name) is process:
            del self._root.processes[process.name]

    def add(self, process: Process, event: t.Exited, status: int | None = None) -> None:
        """A death that is to be acted upon. `status`: the program's own, if it is another than
        the one that counts."""
        note: dict[str, Any] = {
            "op": "exited",
            "name": event.name,
            "incarnation": event.incarnation,
            "status": event.status,
            "own_status": event.status if status is None else status,
            "signal": event.signal,
            "pid": process.pid,
            "reason": event.reason,
            "blame": None,
            "asked": bool(process.killed) and process.killed not in _OWN_DOING,
            "obeyed": process.stopping and event.signal == signal.SIGTERM,
        }
        if event.blame is not None:
            kind, lane, seq = event.blame
            note["blame"] = {"kind": slots.KIND_NAMES[kind], "lane": lane, "seq": seq}
        if not self.pending:
            self.since = time.monotonic()
        self.pending.append(End(process, event, note))

    def tell(self) -> None:
        """Acts upon the deaths, once what they have left is dead too (or for too long undead)."""
        if not self.pending:
            return
        if self._root.orphans.standing:
            # What is not even killed yet is waited for however long that takes.
            if self._root.orphans.hunting or time.monotonic() < self.since + o.WAIT_S:
                return
            self._root.orphans.give_up_waiting()
        ends, self.pending = self.pending, []
        for end in ends:
            self._notes[(end.event.name, end.event.incarnation)] = end.note
            if end.process.name == self._root.config.hub:
                self._root.hubline.hub_gone()
                self._root.upgrade.hub_gone()
            self._root.tell(end.event)
            if end.process.spec.start.serves:
                self._template_gone(end.process)

    def _template_gone(self, template: Process) -> None:
        """Open orders are placed again; that is nobody's failed start."""
        line = template.serves
        queue = self._root.births.orders.setdefault(line, deque())
        final = template.name not in self._root.policy.nodes
        if final:
            self._root.upgrade.lost(line)
        for process in list(self._root.processes.values()):
            if process.line != line or process.pid or process.dead:
                continue
            if final:  # it was the last of its generation
                if process in queue:
                    queue.remove(process)
                    self._root.births.again(process)
                    continue
                process.generation = self._root.upgrade.generations.of(process.name)
            if process in queue:
                self._root.tell(t.Postponed(process.name, process.incarnation))
                continue
            alive = self._root.read_link(process)  # it may have told its pid just before
            if process.dead:
                continue
            if process.pid == 0:
                self._root.births.replace(process)
            elif not alive:
                self._root.unwatch_link(process)

    def report(self, action: t.Report) -> None:
        """One line; that a child has ended stands in the line of its exit, which comes next."""
        for (name, _), note in self._notes.items():
            if name == action.offender and action.context == "child_terminated":
                note["supervisor"] = action.supervisor
                return
        self._root.log.line(
            "info" if action.context == "shutdown" else "warning",
            action.context,
            supervisor=action.supervisor,
            name=action.offender,
            reason=action.reason,
        )

    def gone(self, action: t.Gone) -> None:
        note = self._notes.pop((action.name, action.incarnation), None)
        if note is None:
            return
        if action.final:
            self.kills.pop(action.name, None)
        quiet = note["status"] in (s.NORMAL, s.ASLEEP, s.UPGRADED) or note.get("obeyed")
        self._root.log.line(
            "info" if quiet or (action.final and self._root.stopping) else "warning",
            "exited",
            name=action.name,
            pid=note["pid"] or None,
            incarnation=action.incarnation,
            status=note["own_status"],
            signal=note["signal"] or None,
            reason=note["reason"],
            blame=note["blame"],
            supervisor=note.get("supervisor"),
            restart=not action.final,
        )
        self._root.hubline.must_note({**note, "final": action.final})
        self._root.upgrade.gone(action)

    def kill_hung(self) -> None:
        self._hangs.look(time.monotonic_ns())
        for process in list(self._root.processes.values()):
            since = self._root.slots.since_ns(process.slot)
            if process.killed or not self._hangs.hung(since):
                continue
            kind = self._root.slots.slot(process.slot).read().kind
            if kind == slots.INIT and not self._hangs.hung(since, init=True):
                continue
            self._root.log.line("warning", "hung", name=process.name, pid=process.pid)
            self.kill(process, "hung")

    def kill_large(self) -> None:
        """Kills who is over its limit. Who has begun nothing since the last look is passed over."""
        for process in list(self._root.processes.values()):
            if not process.memory_mb or not process.pid or process.killed:
                continue
            steps = self._root.slots.steps(process.slot)
            idle = process.slot >= 0 and not self._root.slots.since_ns(process.slot)
            if not self._memory.due(process.name, process.incarnation, steps, idle):
                continue
            used = kernel.memory_of(process.pid)
            if used > process.memory_mb << 20:
                self._root.log.line(
                    "warning",
                    "over_memory",
                    name=process.name,
                    pid=process.pid,
                    mb=used >> 20,
                    limit_mb=process.memory_mb,
                )
                self.kill(process, OVER_LIMIT)
