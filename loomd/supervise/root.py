"""The root process: one thread, one loop; does what `policy` decides.

It owns every process of the instance: each is its child (by birth or, forked from a template, by
adoption), is watched through a pidfd, signalled only through that pidfd, and reaped by name. It
never blocks: links and log are non-blocking with capped queues, output of children goes to files.
Orphans of any descendant come to it as subreaper (`orphans`); an exit is not acted upon before what
the process has left is dead, so a successor never meets its predecessor's brood.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from loomd.supervise import handover, kernel, slots
from loomd.supervise import orphans as o
from loomd.supervise import spec as s
from loomd.supervise import tree as t
from loomd.supervise.births import Births
from loomd.supervise.cgroup import Cgroups, remove_empty
from loomd.supervise.crash import crash_point
from loomd.supervise.ends import Ends
from loomd.supervise.hangs import INIT_FACTOR
from loomd.supervise.hubline import HubLine
from loomd.supervise.link import Link, LinkClosed
from loomd.supervise.log import Log
from loomd.supervise.notify import Notify
from loomd.supervise.policy import Policy
from loomd.supervise.process import CHILD_QUEUE, Process
from loomd.supervise.services import Services
from loomd.supervise.upgrade import PREFLIGHT, Upgrade

LEAVING_S = 1.0
"""Between two words to systemd about a stop that goes on."""
TICK_S = 1.0
CLEAR_AWAY_S = 5.0


@dataclass(frozen=True)
class Config:
    """What a root is given.

    tree       the child spec of the root supervisor
    boot       boot number: incarnations are boot << 32 | counter
    secret     hex; key of the tokens
    base_args  merged under the args of every process
    output     folder for stdout and stderr of children
    hub        id of the worker that may ask, and is told
    environment  what a service of the user's finds, beside its own `env`
    keys_fd    memfd with the environment of the start, -1 = none; lock_fds: held with `lock`
    listen_fd  listening socket that systemd has passed, -1 = none; goes to each child with
               `listener`, and outlives it here
    memory_mb  limit of each child that comes from a template, where its spec says nothing; 0: none
    mark       names the instance in what /proc shows of its processes
    cgroups    what children are put into; None: they are known by parent, session and mark alone
    generation of the code that this root starts with
    retree     the tree as a later generation wants it: what stands in it changes with the number
    preflight  the command that tries new code before it is used; () = it is not tried
    program    what the root executes to become its own successor; () = it cannot
    """

    tree: s.SupervisorSpec
    boot: int = 1
    secret: str = ""
    base_args: dict[str, Any] = field(default_factory=dict)
    output: str = "/tmp"
    hub: str = "hub"
    environment: Mapping[str, str] = field(default_factory=dict)
    keys_fd: int = -1
    lock_fds: tuple[int, ...] = ()
    listen_fd: int = -1
    generation: int = 1
    retree: Callable[[int], s.SupervisorSpec] | None = None
    preflight: tuple[str, ...] = ()
    program: tuple[str, ...] = ()
    heartbeat_s: float = 5.0
    intensity: int = 10
    period_s: float = 5.0
    poison_crashes: int = 3
    memory_mb: int = 0
    mark: str = ""
    cgroups: Cgroups | None = None


class Root:
    """Runs a tree until it has ended."""

    def __init__(
        self, config: Config, log: Log | None = None, handed: dict[str, Any] | None = None
    ) -> None:
        """`handed`: what a predecessor in this very process has handed on (`handover`)."""
        self.config = config
        self.log = log or Log()
        self.pid = os.getpid()
        self.slots = slots.SlotMap(handed["slots"]) if handed else slots.SlotMap.create(config.mark)
        self.policy = Policy(
            config.tree,
            base=config.boot << 32,
            intensity=config.intensity,
            period_s=config.period_s,
            free_blames=config.poison_crashes + 1,
        )
        self.processes: dict[str, Process] = {}
        self.births = Births(self)
        self.ends = Ends(self)
        self.hubline = HubLine(self)
        self.services = Services(self)
        self.upgrade = Upgrade(self, config.generation)
        self.finish: t.Finish | None = None
        self.by_pid: dict[int, Process] = {}
        self.selector = selectors.EpollSelector()
        self.orphans = o.Orphans(self, self.selector)
        self._events: deque[t.Event] = deque()
        self._timers: list[tuple[float, int, t.TimerKey | Callable[[], None]]] = []
        self._armed: dict[t.TimerKey, int] = {}
        self._serial = 0
        self.look_around = False
        self._acting = False
        self._announced = False
        self.stopping = False
        self.notify = Notify()
        self._wakeup = (-1, -1)
        self._resumed = handed is not None
        if handed is not None:
            handover.restore(self, handed)

    # --- the loop ------------------------------------------------------------------------------

    def run(self) -> int:
        """Runs until the tree is down; the exit status of the daemon: 0 if it was asked to end."""
        kernel.become_subreaper()
        self._catch_signals()
        try:
            self._every(min(1.0, self.config.heartbeat_s / 4), self.ends.kill_hung)
            self._every(TICK_S, self.ends.kill_large)
            self._every(TICK_S, self._sweep_cgroups)
            self._every(TICK_S, self.notify.flush)
            if self.notify.watchdog_s:
                self._feed_watchdog()  # at once: the last time may have been in another image
                self._every(self.notify.watchdog_s, self._feed_watchdog)
            if self._resumed:
                self.log.line("info", "resumed", pid=self.pid, boot=self.config.boot)
                crash_point("root.after_exec")
                self.upgrade.resume()
            else:
                self.tell(t.Boot())
            while self.finish is None:
                self._turn()
            self._clear_away()
        finally:
            self._release_signals()
            self.orphans.close()
            self.selector.close()
            self.notify.close()
        level = "info" if self.finish.ok else "error"
        self.log.line(level, "ended", reason=self.finish.reason)
        return 0 if self.finish.ok else 1

    def _turn(self) -> None:
        self.log.flush()
        for key, mask in self.selector.select(self._patience()):
            key.data(mask)
        self._fire()
        if self.look_around or self.orphans.pending:
            self.look_around = False
            self.orphans.look()
        self.ends.tell()
        if self.upgrade.executes and self._quiet:
            self._execute_anew()

    @property
    def _quiet(self) -> bool:
        """No death is half acted upon."""
        busy = self.ends.pending or self.stopping or self.orphans.standing or self.orphans.pending
        return not busy and self.services.quiet

    def _execute_anew(self) -> None:
        """Nothing is half worked off: the moment for it. Comes back only if it could not be."""
        error = handover.execute(self)
        self.upgrade.not_executed(error.strerror or str(error))

    def frozen(self) -> int:
        """A memfd with all that this root would hand on now."""
        return handover.pack(handover.freeze(self))

    def _patience(self) -> float:
        waits = [60.0]
        if self._timers:
            waits.append(self._timers[0][0] - time.monotonic())
        if self.ends.pending:
            waits.append(self.ends.since + o.WAIT_S - time.monotonic())
        if self.orphans.hunting:
            waits.append(0.0)
        if self.log.waiting:
            waits.append(0.1)
        return max(0.0, min(waits))

    def tell(self, event: t.Event) -> None:
        """Gives the policy an event and does what it says. Safe to call while doing so."""
        self._events.append(event)
        if self._acting:
            return
        self._acting = True
        try:
            while self._events:
                actions = self.policy.handle(self._events.popleft(), time.monotonic())
                # The hub hears of an end before anything is born: a successor must not be welcomed
                # before its predecessor's death is booked.
                for action in sorted(actions, key=_told_first):
                    self._act(action)
        finally:
            self._acting = False
        if not self._announced and self.policy.root.state == "up":
            self._announced = True
            self.log.line("info", "ready", pid=self.pid, boot=self.config.boot)
            self.notify.ready("running")

    def _act(self, action: t.Action) -> None:
        match action:
            case t.StartProcess():
                self.births.start(action.name, action.incarnation)
            case t.StopProcess():
                self.ends.stop(action)
            case t.KillProcess():
                process = self.ends.find(action.name, action.incarnation)
                if process is not None:
                    self.ends.kill(process, action.reason)
            case t.ArmTimer():
                self._serial += 1
                self._armed[action.key] = self._serial
                heapq.heappush(self._timers, (action.at, self._serial, action.key))
            case t.CancelTimer():
                self._armed.pop(action.key, None)
            case t.Reply():
                if action.call < 0:
                    self.upgrade.reply(action)
                else:
                    self.hubline.reply(action)
            case t.Gone():
                self.ends.gone(action)
            case t.GaveUp():
                self.log.line(
                    "error", "gave_up", supervisor=action.supervisor, reason=action.reason
                )
                self.hubline.must_note(
                    {"op": "gave_up", "supervisor": action.supervisor, "reason": action.reason}
                )
            case t.Report():
                self.ends.report(action)
            case t.Finish():
                self.finish = action
            case _:
                assert_never(action)

    # --- timers --------------------------------------------------------------------------------

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, serial, what = heapq.heappop(self._timers)
            if callable(what):
                what()
            elif self._armed.get(what) == serial:
                del self._armed[what]
                self.tell(t.TimerFired(what))

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        def again() -> None:
            work()
            self.after(seconds, again)

        self.after(seconds, again)

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        """Calls `work` once, on the loop."""
        self._serial += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._serial, work))

    # --- signals to the root -------------------------------------------------------------------

    def _catch_signals(self) -> None:
        self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _only_wake)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handover.SIGNALS)  # blocked by a predecessor
        self.selector.register(self._wakeup[0], selectors.EVENT_READ, self._on_wakeup)

    def _release_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN if number != signal.SIGCHLD else signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for fd in self._wakeup:
            os.close(fd)

    def _on_wakeup(self, mask: int) -> None:
        numbers = self.caught()
        if signal.SIGCHLD in numbers:
            self.look_around = True
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                self.shutdown(signal.Signals(number).name)
            elif number == signal.SIGHUP:
                self.hung_up()

    def caught(self) -> bytes:
        """The signals that have come and are not worked off yet."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._wakeup[0], 4096)
        return b""

    def hung_up(self) -> None:
        """SIGHUP: an upgrade, unless the end has begun."""
        if not self.stopping:
            self.upgrade.by_signal()

    def shutdown(self, reason: str) -> None:
        """Stops the tree in order; asked a second time, at once."""
        self.log.line("info", "stopping", reason=reason)
        if self.stopping:
            self.tell(t.KillAll())
            return
        self.stopping = True
        self.notify.stopping(len(self.processes))
        self._every(LEAVING_S, lambda: self.notify.leaving(len(self.processes)))
        self.tell(t.Shutdown())

    # --- processes -----------------------------------------------------------------------------

    def watch(self, process: Process) -> None:
        """Its end will be seen."""
        self.by_pid[process.pid] = process
        self.selector.register(
            process.pidfd, selectors.EVENT_READ, lambda mask: self.ends.on_exit(process)
        )

    def renew_link(self, process: Process) -> None:
        """A new pair in place of the old one, whose other end was lost."""
        self.unwatch_link(process)
        process.link.close()
        process.link, process.theirs = Link.pair(CHILD_QUEUE)
        self.watch_link(process)

    def rename(self, process: Process, name: str) -> None:
        """From now on it is called so. The policy has to be told before anything else."""
        del self.processes[process.name]
        process.name = name
        self.processes[name] = process

    # --- links ---------------------------------------------------------------------------------

    def watch_link(self, process: Process) -> None:
        """Tells the selector what to wait for on this link."""
        wanted = selectors.EVENT_READ
        serves = process.spec.start.serves
        if process.link.waiting or (serves and self.births.orders.get(process.serves)):
            wanted |= selectors.EVENT_WRITE
        if wanted == process.watched:
            return
        if process.watched:
            self.selector.modify(process.link, wanted, self._link_callback(process))
        else:
            self.selector.register(process.link, wanted, self._link_callback(process))
        process.watched = wanted

    def _link_callback(self, process: Process) -> Callable[[int], None]:
        link = process.link
        return lambda mask: self._on_link(process, mask) if process.link is link else None

    def unwatch_link(self, process: Process) -> None:
        if process.watched:
            self.selector.unregister(process.link)
            process.watched = 0

    def _on_link(self, process: Process, mask: int) -> None:
        if process.dead or not process.watched:
            return
        if mask & selectors.EVENT_WRITE:
            with contextlib.suppress(LinkClosed):
                process.link.flush()
            if process.spec.start.serves:
                self.births.place(process.serves)
            if process.name == self.config.hub and not process.link.waiting:
                self.hubline.drained()
        if mask & selectors.EVENT_READ and not self.read_link(process):
            self.unwatch_link(process)  # its pidfd will tell the rest
            if process.spec.start.service:
                self.services.monitor_gone(process)
            elif process.pid == 0:
                self.births.lost(process)
            return
        if not process.dead:
            self.watch_link(process)

    def read_link(self, process: Process) -> bool:
        """Takes what has come, to a limit; False at end of file."""
        for _ in range(256):
            if process.dead:
                return False
            try:
                got = process.link.receive()
            except LinkClosed:
                return False
            if got is None:
                return True
            self._on_message(process, *got)
        return True

    def _on_message(self, process: Process, message: dict[str, Any], pid: int) -> None:
        op = message.get("op")
        if process.pid == 0:
            # Who was born of a template that has died, and taken for an orphan before it could say
            # so, is being killed: its link will end, and then it is born again.
            if op == "pid" and pid > 0 and not self.orphans.holds(pid):
                self._find_leaf(process, message.get("cgroup"))
                self.births.born(process, pid)
        elif op == "ready":
            self.on_ready(process)
        elif op == "crash":
            process.crash = str(message.get("traceback", ""))
        elif op == "loaded":
            self.upgrade.loaded(process)
        elif op == "settled":
            self.upgrade.settled(process)
        elif op == "preflight" and process.name == PREFLIGHT:
            self.upgrade.verdict(message)
        elif op == "warning":
            self.log.line("warning", "warning", name=process.name, text=str(message.get("text")))
        elif process.name == self.config.hub:
            self.hubline.request(message)
        elif op != "pid":
            self.log.line("warning", "unknown_op", name=process.name, op=str(op)[:80])

    def _find_leaf(self, process: Process, told: object) -> None:
        """Where it has settled. Without a cgroup it is found by the other ways."""
        if self.config.cgroups is None:
            return
        process.leaf = self.config.cgroups.told(told)
        if process.leaf is None:
            self.log.line("warning", "no_cgroup", name=process.name)

    def on_ready(self, process: Process) -> None:
        took = round((time.monotonic() - process.begun) * 1000, 1)
        node = self.policy.nodes.get(process.name)
        self.log.line(
            "info",
            "started",
            name=process.name,
            pid=process.pid,
            incarnation=process.incarnation,
            restarts=node.restarts if node is not None else 0,
            ms=took,
        )
        if process.name == self.config.hub:
            self.hubline.hub_ready()
        self.tell(t.Ready(process.name, process.incarnation))
        if process.spec.start.serves:
            self.births.place(process.serves)
            self.watch_link(process)
        self.upgrade.ready(process)

    def send(self, process: Process, message: dict[str, Any]) -> None:
        """Sends or queues; a child that takes nothing loses it (and is killed at its time-outs)."""
        if process.dead or not process.watched or process.spec.start.service:
            return
        with contextlib.suppress(LinkClosed):
            process.link.send(message)
        self.watch_link(process)

    def send_queued(self, process: Process) -> None:
        """Something may have been queued on its link: the selector shall see to it."""
        if not process.dead and process.watched:
            self.watch_link(process)

    # --- the unborn, cgroups, systemd ----------------------------------------------------------

    def read_unborn(self) -> None:
        """Takes in who has told its pid."""
        for process in list(self.processes.values()):
            if not process.pid and process.theirs is None:
                self.read_link(process)

    def _sweep_cgroups(self) -> None:
        """Has the cgroups of the dead removed, by a template: the kernel may make it wait."""
        cgroups = self.config.cgroups
        if cgroups is None or not self.orphans.stale:
            return
        self.orphans.stale = False
        for process in list(self.processes.values()):
            if process.spec.start.serves and not process.dead:
                self.send(process, {"op": "sweep"})
                return
        remove_empty(cgroups.base)

    def _feed_watchdog(self) -> None:
        """The loop turns. A hub or template that hangs is killed by ourselves; systemd is left to
        end everything only when that has not helped."""
        limit = int(self.config.heartbeat_s * 1e9) * (INIT_FACTOR + 1)
        before = time.monotonic_ns() - limit
        for process in self.processes.values():
            vital = process.name == self.config.hub or process.spec.start.serves
            if vital and 0 < self.slots.since_ns(process.slot) < before:
                return
        self.notify.watchdog()

    def _clear_away(self) -> None:
        """The tree is down: whatever still has us as its parent goes too, and the cgroups."""
        if self.config.cgroups is not None:
            self.config.cgroups.kill_all()
        self.orphans.clear_away(CLEAR_AWAY_S)
        if self.config.cgroups is not None and not self.config.cgroups.close():
            self.log.line("warning", "cgroup_left", cgroup=self.config.cgroups.base)
        self.log.flush()


def _told_first(action: t.Action) -> int:
    return {t.GaveUp: 0, t.Report: 1, t.Gone: 1}.get(type(action), 2)


def _only_wake(number: int, frame: object) -> None:
    """The wake-up descriptor carries the number; the loop does the work."""
