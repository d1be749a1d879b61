"""The root process: one thread, one loop; does what `policy` decides.

It owns every process of the instance: each is its child (by birth or, forked from a template, by
adoption), is watched through a pidfd, signalled only through that pidfd, and reaped by name. It
never blocks: links and log are non-blocking with capped queues, output of children goes to files.
Orphans of any descendant come to it as subreaper (`orphans`); an exit is not acted upon before what
the process has left is dead, so a successor never meets its predecessor's brood.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import hmac
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, assert_never

from loomd.supervise import handover, kernel, slots
from loomd.supervise import orphans as o
from loomd.supervise import spec as s
from loomd.supervise import tree as t
from loomd.supervise.cgroup import MAX_PIDS, Cgroups, remove_empty, settle
from loomd.supervise.crash import crash_point
from loomd.supervise.hubline import HubLine
from loomd.supervise.link import Link, LinkClosed, TooLarge, encode
from loomd.supervise.log import Log
from loomd.supervise.memory import OUT_OF_MEMORY, OVER_LIMIT, MemoryWatch
from loomd.supervise.notify import Notify
from loomd.supervise.policy import Policy
from loomd.supervise.process import End, Process
from loomd.supervise.services import Services
from loomd.supervise.sweep import VARIABLE
from loomd.supervise.upgrade import PREFLIGHT, Upgrade

MAX_ORDER = 192 * 1024
MAX_LOST_ORDERS = 3
UNKNOWN_KILLS = 10
"""From this SIGKILL of unknown origin on with the same mail in hand, that mail is blamed."""
LEAVING_S = 1.0
"""Between two words to systemd about a stop that goes on."""
TICK_S = 1.0
CLEAR_AWAY_S = 5.0
INIT_FACTOR = 6
"""`init` may take this many heartbeats: it rebuilds what is never committed."""
CHILD_QUEUE = 256
HUB_QUEUE = 10_000
# Without the working directory on its path (-P): that may be anybody's checkout.
_TEMPLATE = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from loomd.supervise.template import main; main(sys.argv)"
)
_PACKAGE_HOME = str(Path(__file__).parents[2])
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
        self.hubline = HubLine(self)
        self.services = Services(self)
        self.upgrade = Upgrade(self, config.generation)
        self.finish: t.Finish | None = None
        self.by_pid: dict[int, Process] = {}
        self._selector = selectors.EpollSelector()
        self.orphans = o.Orphans(self, self._selector)
        self._memory = MemoryWatch()
        self._events: deque[t.Event] = deque()
        self._ends: list[End] = []
        self._ends_since = 0.0
        self._notes: dict[tuple[str, int], dict[str, Any]] = {}
        self._orders: dict[tuple[str, int], deque[Process]] = {}
        self._timers: list[tuple[float, int, t.TimerKey | Callable[[], None]]] = []
        self._armed: dict[t.TimerKey, int] = {}
        self._serial = 0
        self._kills: dict[str, tuple[tuple[int, int, int], int]] = {}
        self._look_around = False
        self._acting = False
        self._announced = False
        self._stopping = False
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
            self._every(min(1.0, self.config.heartbeat_s / 4), self._kill_hung)
            self._every(TICK_S, self._kill_the_large)
            self._every(TICK_S, self._sweep_cgroups)
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
            self._selector.close()
            self.notify.close()
        level = "info" if self.finish.ok else "error"
        self.log.line(level, "ended", reason=self.finish.reason)
        return 0 if self.finish.ok else 1

    def _turn(self) -> None:
        self.log.flush()
        for key, mask in self._selector.select(self._patience()):
            key.data(mask)
        self._fire()
        if self._look_around or self.orphans.pending:
            self._look_around = False
            self.orphans.look()
        self._tell_ends()
        if self.upgrade.executes and self._quiet:
            self._execute_anew()

    @property
    def _quiet(self) -> bool:
        """No death is half acted upon."""
        busy = self._ends or self._stopping or self.orphans.standing or self.orphans.pending
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
        if self._ends:
            waits.append(self._ends_since + o.WAIT_S - time.monotonic())
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
                self._start(action.name, action.incarnation)
            case t.StopProcess():
                self._stop(action)
            case t.KillProcess():
                process = self._find(action.name, action.incarnation)
                if process is not None:
                    self.kill(process, action.reason)
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
                self._gone(action)
            case t.GaveUp():
                self.log.line(
                    "error", "gave_up", supervisor=action.supervisor, reason=action.reason
                )
                self.hubline.note(
                    {"op": "gave_up", "supervisor": action.supervisor, "reason": action.reason}
                )
            case t.Report():
                self._report(action)
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
        self._selector.register(self._wakeup[0], selectors.EVENT_READ, self._on_wakeup)

    def _release_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN if number != signal.SIGCHLD else signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for fd in self._wakeup:
            os.close(fd)

    def _on_wakeup(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            numbers = os.read(self._wakeup[0], 4096)
            if signal.SIGCHLD in numbers:
                self._look_around = True
            for number in numbers:
                if number in (signal.SIGTERM, signal.SIGINT):
                    self.shutdown(signal.Signals(number).name)
                elif number == signal.SIGHUP and not self._stopping:
                    self.upgrade.by_signal()

    def shutdown(self, reason: str) -> None:
        """Stops the tree in order; asked a second time, at once."""
        self.log.line("info", "stopping", reason=reason)
        if self._stopping:
            self.tell(t.KillAll())
            return
        self._stopping = True
        self.notify.stopping(len(self.processes))
        self._every(LEAVING_S, lambda: self.notify.leaving(len(self.processes)))
        self.tell(t.Shutdown())

    # --- births --------------------------------------------------------------------------------

    def _start(self, name: str, incarnation: int) -> None:
        node = self.policy.nodes[name]
        assert isinstance(node, t.Worker)
        ours, theirs = Link.pair(HUB_QUEUE if name == self.config.hub else CHILD_QUEUE)
        process = Process(name, incarnation, node.spec, ours, theirs, begun=time.monotonic())
        process.slot = -1 if node.spec.start.command else self.slots.take()
        if node.spec.start.template:
            process.generation = self.upgrade.generations.of(name)
            process.trial = self.upgrade.on_trial(process)
        elif node.spec.start.serves:
            process.generation = self.upgrade.generations.number
        self.processes[name] = process
        self._confine(process)
        self.watch_link(process)
        if node.spec.start.service:
            self.services.start(process)
        elif node.spec.start.template:
            self._orders.setdefault(process.line, deque()).append(process)
            self._place_orders(process.line)
        else:
            self._execute(process)
        if node.spec.start.ready == "none" and not (node.spec.start.service or process.dead):
            self.tell(t.Ready(name, incarnation))

    def _confine(self, process: Process) -> None:
        """Its limit and, of a command, its cgroup; an actor tells its own."""
        start = process.spec.start
        if start.serves:
            return  # the cgroup of all births
        limit = self.config.memory_mb if start.template else 0
        process.memory_mb = limit if start.memory_mb is None else start.memory_mb
        if self.config.cgroups is not None and start.command:
            process.leaf = self.config.cgroups.of_command(process.name, process.incarnation)

    def settling(self, process: Process) -> Callable[[], None] | None:
        """What a command does to enter its cgroup."""
        if process.leaf is None:
            return None
        return partial(settle, process.leaf, process.memory_mb << 20, MAX_PIDS)

    def marks(self, process: Process) -> dict[str, str]:
        """What a program is to have in its environment, by which what it leaves is known."""
        owner = {o.OWNER: f"{process.name}#{process.incarnation}"}
        return owner | ({VARIABLE: self.config.mark} if self.config.mark else {})

    def _execute(self, process: Process) -> None:
        """Starts a command or a template."""
        start = process.spec.start
        assert process.theirs is not None
        fds = [process.theirs.fileno()]
        env = {k: v for k, v in os.environ.items() if k != "LOOM_KEYS_FD"}
        settling = self.settling(process)
        if start.serves:
            argv = [sys.executable, "-P", "-c", _TEMPLATE, _PACKAGE_HOME, "3", "4"]
            fds.append(self.slots.fd)
            if self.config.cgroups is not None:
                settling = partial(kernel.enter_cgroup, self.config.cgroups.births)
            process.link.send(
                {
                    "op": "setup",
                    "name": process.name,
                    "root": self.pid,
                    "slot": process.slot,
                    "cgroups": cgroups.base if (cgroups := self.config.cgroups) else "",
                    "preload": list(start.preload),
                    "without": list(start.without),
                    "spares": start.spares,
                    "ahead": start.ahead,
                    "args": self.config.base_args,
                }
            )
        else:
            argv = list(start.command)
            env["LOOM_LINK_FD"] = "3"
            env |= self.marks(process)
            if process.name == PREFLIGHT and self.upgrade.frozen_fd >= 0:
                fds.append(self.upgrade.frozen_fd)
                env[handover.VARIABLE] = "4"
        crash_point("root.before_fork", process.name)
        try:
            pid = kernel.start_program(
                argv, env, fds, self.pid, self.output(process.name), start.nice, settling
            )
        except OSError as error:
            self._never_born(process, f"fork: {error}")
            return
        crash_point("root.after_fork", process.name)
        process.theirs.close()
        process.theirs = None
        self._born(process, pid)

    def _place_orders(self, line: tuple[str, int]) -> None:
        """Hands waiting orders to the template, as many as it takes."""
        template = self.template(line)
        queue = self._orders.get(line)
        while template is not None and queue:
            process = queue[0]
            if process.dead or process.theirs is None:
                queue.popleft()
                continue
            start = process.spec.start
            fds = [process.theirs.fileno()]
            with_keys = start.keys and self.config.keys_fd >= 0
            if with_keys:
                fds.append(self.config.keys_fd)
            if start.lock:
                fds.extend(self.config.lock_fds)
            with_listener = start.listener and self.config.listen_fd >= 0
            if with_listener:
                fds.append(self.config.listen_fd)  # the last one
            try:
                order = encode(self._order(process, with_keys, with_listener), MAX_ORDER)
            except TooLarge as error:
                queue.popleft()
                self._never_born(process, f"spec too large: {error}", s.CANNOT_START)
                continue
            crash_point("root.before_fork", process.name)
            try:
                socket.send_fds(template.link.sock, [order], fds)
            except BlockingIOError:
                self.watch_link(template)
                return
            except OSError:
                return  # it is dead: its successor gets the orders
            queue.popleft()
            process.theirs.close()
            process.theirs = None
            crash_point("root.after_fork", process.name)

    def _order(self, process: Process, with_keys: bool, with_listener: bool) -> dict[str, Any]:
        start = process.spec.start
        return {
            "op": "fork",
            "name": process.name,
            "incarnation": process.incarnation,
            "token": self.token(process.name, process.incarnation),
            "slot": process.slot,
            "entry": start.entry,
            "args": {
                **self.config.base_args,
                **start.args,
                "package_generation": process.generation,
            },
            "trial": process.trial,
            "nice": start.nice,
            # What a tool host's calls use is limited call by call: not by what the host may use.
            "memory": 0 if start.nursery else process.memory_mb << 20,
            "pids": MAX_PIDS,
            "keys": with_keys,
            "cold": start.cold,
            "listener": with_listener,
            "boot": self.config.boot,
            "output": self.output(process.name),
        }

    def token(self, name: str, incarnation: int) -> str:
        """What this incarnation says in its Hello; the hub computes the same."""
        text = f"{name}#{incarnation}".encode()
        return hmac.new(self.config.secret.encode(), text, hashlib.sha256).hexdigest()[:32]

    def template(self, line: tuple[str, int]) -> Process | None:
        """The living template of this line that has said ready."""
        for process in self.processes.values():
            if process.serves == line and line[0] and not process.dead:
                node = self.policy.nodes.get(process.name)
                if node is not None and node.state == "up":
                    return process
        return None

    def _born(self, process: Process, pid: int) -> None:
        """Its pid is known: from here on it can be watched."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            # It died right after its word and was reaped as one that nobody knew, or there is no
            # descriptor left: either way only this one is lost.
            self._never_born(process, f"could not be watched: {error.strerror}")
            return
        process.pid = pid
        process.pidfd = pidfd
        self.watch(process)
        self.tell(t.Born(process.name, process.incarnation, pid))
        self.hubline.note(
            {
                "op": "born",
                "name": process.name,
                "incarnation": process.incarnation,
                "pid": pid,
            }
        )

    def watch(self, process: Process) -> None:
        """Its end will be seen."""
        self.by_pid[process.pid] = process
        self._selector.register(
            process.pidfd, selectors.EVENT_READ, lambda mask: self._on_exit(process)
        )

    def _never_born(self, process: Process, why: str, status: int = s.COULD_NOT_START) -> None:
        self._bury(process)
        self._end(process, t.Exited(process.name, process.incarnation, status, reason=why))

    def _order_lost(self, process: Process) -> None:
        """Its link ended before it told its pid: the template died, or could not fork."""
        if process.dead:
            return
        process.lost += 1
        if process.killed or process.lost > MAX_LOST_ORDERS:
            why = process.killed or "was never born"
            self._never_born(process, why)
            return
        self._replace(process)

    def _order_again(self, process: Process) -> None:
        """Its order has not been sent yet: it goes to the template of the day."""
        process.generation = self.upgrade.generations.of(process.name)
        self._orders.setdefault(process.line, deque()).append(process)
        self.tell(t.Postponed(process.name, process.incarnation))
        self._place_orders(process.line)

    def _replace(self, process: Process) -> None:
        """A new link and a new order. A half-born child finds the old link closed, and exits."""
        self.renew_link(process)
        self._orders.setdefault(process.line, deque()).append(process)
        self.tell(t.Postponed(process.name, process.incarnation))
        self._place_orders(process.line)

    def renew_link(self, process: Process) -> None:
        """A new pair in place of the old one, whose other end was lost."""
        self._unwatch_link(process)
        process.link.close()
        process.link, process.theirs = Link.pair(CHILD_QUEUE)
        self.watch_link(process)

    def rename(self, process: Process, name: str) -> None:
        """From now on it is called so. The policy has to be told before anything else."""
        del self.processes[process.name]
        process.name = name
        self.processes[name] = process

    def output(self, name: str) -> str:
        """The file that stdout and stderr of this child go to."""
        return os.path.join(self.config.output, name.replace("/", "."))

    # --- links ---------------------------------------------------------------------------------

    def watch_link(self, process: Process) -> None:
        """Tells the selector what to wait for on this link."""
        wanted = selectors.EVENT_READ
        serves = process.spec.start.serves
        if process.link.waiting or (serves and self._orders.get(process.serves)):
            wanted |= selectors.EVENT_WRITE
        if wanted == process.watched:
            return
        if process.watched:
            self._selector.modify(process.link, wanted, self._link_callback(process))
        else:
            self._selector.register(process.link, wanted, self._link_callback(process))
        process.watched = wanted

    def _link_callback(self, process: Process) -> Callable[[int], None]:
        link = process.link
        return lambda mask: self._on_link(process, mask) if process.link is link else None

    def _unwatch_link(self, process: Process) -> None:
        if process.watched:
            self._selector.unregister(process.link)
            process.watched = 0

    def _on_link(self, process: Process, mask: int) -> None:
        if process.dead or not process.watched:
            return
        if mask & selectors.EVENT_WRITE:
            with contextlib.suppress(LinkClosed):
                process.link.flush()
            if process.spec.start.serves:
                self._place_orders(process.serves)
            if process.name == self.config.hub and not process.link.waiting:
                self.hubline.drained()
        if mask & selectors.EVENT_READ and not self._read_link(process):
            self._unwatch_link(process)  # its pidfd will tell the rest
            if process.spec.start.service:
                self.services.monitor_gone(process)
            elif process.pid == 0:
                self._order_lost(process)
            return
        if not process.dead:
            self.watch_link(process)

    def _read_link(self, process: Process) -> bool:
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
        if op == "pid" and process.pid == 0:
            if pid > 0:
                self._find_leaf(process, message.get("cgroup"))
                self._born(process, pid)
        elif op == "ready":
            self._on_ready(process)
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

    def _on_ready(self, process: Process) -> None:
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
        self.tell(t.Ready(process.name, process.incarnation))
        if process.spec.start.serves:
            self._place_orders(process.serves)
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

    # --- ends ----------------------------------------------------------------------------------

    def _find(self, name: str, incarnation: int) -> Process | None:
        process = self.processes.get(name)
        if process is None or process.dead or process.incarnation != incarnation:
            return None
        return process

    def _stop(self, action: t.StopProcess) -> None:
        process = self._find(action.name, action.incarnation)
        if process is None:
            return
        if process.pid == 0:
            process.killed = "stopped before it was born"
            self._never_born(process, process.killed, s.NORMAL)
            return
        self.send(process, {"op": "stop"})
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
            self._never_born(process, reason)  # its link closes: born after all, it would exit

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

    def _on_exit(self, process: Process) -> None:
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
        self._read_link(process)  # its last words
        hand = self.slots.slot(process.slot).read()
        event = t.Exited(
            process.name,
            process.incarnation,
            status,
            number,
            self._blame(process, status, number, hand),
            self._reason(process, status, number),
        )
        event = self.upgrade.judged(process, event)
        self._bury(process)
        self._end(process, event)

    def _service_exited(self, process: Process, status: int, number: int) -> None:
        """It is reaped: its pid may be another's soon. Its end is told by `services`."""
        self._selector.unregister(process.pidfd)
        os.close(process.pidfd)
        process.pidfd = -1
        self.by_pid.pop(process.pid, None)
        self._look_around = True
        self.services.exited(process, status, number)

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
            last, count = self._kills.get(process.name, (key, 0))
            count = count + 1 if last == key else 1
            self._kills[process.name] = (key, count)
            return key if count >= UNKNOWN_KILLS else None
        if hand.kind in slots.STEPS and (number, status) == (0, s.NORMAL):
            return key  # it ended itself inside a step
        own = number in _FAULTS or (number == 0 and status not in _STATUS_WORDS)
        return key if own else None

    def _reason(self, process: Process, status: int, number: int) -> str:
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

    def _bury(self, process: Process) -> None:
        """Lets go of everything that belongs to this incarnation."""
        process.dead = True
        self._look_around = True
        self._unwatch_link(process)
        process.link.close()
        if process.theirs is not None:
            process.theirs.close()
            process.theirs = None
        if process.pidfd >= 0:
            self._selector.unregister(process.pidfd)
            os.close(process.pidfd)
            process.pidfd = -1
        self.by_pid.pop(process.pid, None)
        self.slots.give_back(process.slot)
        process.slot = -1
        self._memory.forget(process.name)
        if process.leaf is not None:
            self.orphans.end_leaf(process.leaf)
        if self.processes.get(process.name) is process:
            del self.processes[process.name]

    def _end(self, process: Process, event: t.Exited) -> None:
        note: dict[str, Any] = {
            "op": "exited",
            "name": event.name,
            "incarnation": event.incarnation,
            "status": event.status,
            "signal": event.signal,
            "pid": process.pid,
            "reason": event.reason,
            "blame": None,
            "asked": bool(process.killed) and process.killed not in _OWN_DOING,
        }
        if event.blame is not None:
            kind, lane, seq = event.blame
            note["blame"] = {"kind": slots.KIND_NAMES[kind], "lane": lane, "seq": seq}
        if not self._ends:
            self._ends_since = time.monotonic()
        self._ends.append(End(process, event, note))

    def _tell_ends(self) -> None:
        """Acts upon the deaths, once what they have left is dead too (or for too long undead)."""
        if not self._ends:
            return
        if self.orphans.standing:
            # What is not even killed yet is waited for however long that takes.
            if self.orphans.hunting or time.monotonic() < self._ends_since + o.WAIT_S:
                return
            self.orphans.give_up_waiting()
        ends, self._ends = self._ends, []
        for end in ends:
            self._notes[(end.event.name, end.event.incarnation)] = end.note
            if end.process.name == self.config.hub:
                self.hubline.hub_gone()
                self.upgrade.hub_gone()
            self.tell(end.event)
            if end.process.spec.start.serves:
                self._template_gone(end.process)

    def _template_gone(self, template: Process) -> None:
        """Open orders are placed again; that is nobody's failed start."""
        line = template.serves
        queue = self._orders.setdefault(line, deque())
        final = template.name not in self.policy.nodes
        if final:
            self.upgrade.lost(line)
        for process in list(self.processes.values()):
            if process.line != line or process.pid or process.dead:
                continue
            if final:  # it was the last of its generation
                if process in queue:
                    queue.remove(process)
                    self._order_again(process)
                    continue
                process.generation = self.upgrade.generations.of(process.name)
            if process in queue:
                self.tell(t.Postponed(process.name, process.incarnation))
                continue
            alive = self._read_link(process)  # it may have told its pid just before
            if process.dead:
                continue
            if process.pid == 0:
                self._replace(process)
            elif not alive:
                self._unwatch_link(process)

    def _report(self, action: t.Report) -> None:
        """One line; that a child has ended stands in the line of its exit, which comes next."""
        for (name, _), note in self._notes.items():
            if name == action.offender and action.context == "child_terminated":
                note["supervisor"] = action.supervisor
                return
        self.log.line(
            "info" if action.context == "shutdown" else "warning",
            action.context,
            supervisor=action.supervisor,
            name=action.offender,
            reason=action.reason,
        )

    def _gone(self, action: t.Gone) -> None:
        note = self._notes.pop((action.name, action.incarnation), None)
        if note is None:
            return
        if action.final:
            self._kills.pop(action.name, None)
        quiet = note["status"] in (s.NORMAL, s.ASLEEP, s.UPGRADED)
        self.log.line(
            "info" if quiet or (action.final and self._stopping) else "warning",
            "exited",
            name=action.name,
            pid=note["pid"] or None,
            incarnation=action.incarnation,
            status=note["status"],
            signal=note["signal"] or None,
            reason=note["reason"],
            blame=note["blame"],
            supervisor=note.get("supervisor"),
            restart=not action.final,
        )
        self.hubline.note({**note, "final": action.final})
        self.upgrade.gone(action)

    # --- the unborn, the hung, the large, systemd ----------------------------------------------

    def read_unborn(self) -> None:
        """Takes in who has told its pid."""
        for process in list(self.processes.values()):
            if not process.pid and process.theirs is None:
                self._read_link(process)

    def _kill_hung(self) -> None:
        limit = int(self.config.heartbeat_s * 1e9)
        now = time.monotonic_ns()
        for process in list(self.processes.values()):
            since = self.slots.since_ns(process.slot)
            if not since or now - since <= limit or process.killed:
                continue
            kind = self.slots.slot(process.slot).read().kind
            if kind == slots.INIT and now - since <= limit * INIT_FACTOR:
                continue
            self.log.line("warning", "hung", name=process.name, pid=process.pid)
            self.kill(process, "hung")

    def _kill_the_large(self) -> None:
        """Kills who is over its limit. Who has begun nothing since the last look is passed over."""
        for process in list(self.processes.values()):
            if not process.memory_mb or not process.pid or process.killed:
                continue
            steps = self.slots.steps(process.slot)
            idle = process.slot >= 0 and not self.slots.since_ns(process.slot)
            if not self._memory.due(process.name, process.incarnation, steps, idle):
                continue
            used = kernel.memory_of(process.pid)
            if used > process.memory_mb << 20:
                self.log.line(
                    "warning",
                    "over_memory",
                    name=process.name,
                    pid=process.pid,
                    mb=used >> 20,
                    limit_mb=process.memory_mb,
                )
                self.kill(process, OVER_LIMIT)

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
