"""What a supervisor does, decided in pure code: `Policy.handle(event, now) -> actions`.

OTP's supervisor is the specification; where OS processes force an answer that OTP does not have:

- A start is asynchronous. It succeeds by `Ready`, fails by an exit before it or by its time-out.
  An exit with status 0 (or 72) before `Ready` is OTP's `ignore`.
- Exit 0 is normal; an exit after we asked for it is `shutdown`; 70, 71 and 72 are not counted (71
  is started again at once, 72 is kept for a wake-up); 73 is a failed start; 74 makes its supervisor
  give up without retrying; every other status or signal is abnormal.
- A failed start arms a timer, never a loop: the first retry at once, later ones a little later.
  Siblings that such a failure has stopped may be up again before it is retried.
- A first start that is killed from outside is retried, and counted, as that of a child that was up.
- An end is answered when it comes, not after the start or the round that is under way. Siblings
  that still wait for their turn in a round count as alive, and as `restarting` in answers.
- Calls do not queue. A child that is still being stopped is `running`; below a supervisor that is
  to go down it is `noproc`. A child terminated in the middle of a round holds up nobody after it.
- Children of a dynamic supervisor have specs and ids of their own (as in Elixir): calls name them
  by id, and what has ended or was terminated is `not_found`. A name is taken in the whole tree.
- A death that is blamed on a piece of mail is free of intensity, a few times for the same piece.
- A child that was terminated by a call is `held`: it stays down through its siblings' rounds and
  its supervisor's restarts until a call starts it again. (OTP's rounds start it again.)
- A worker may back off: its n-th restart in a row waits 2^(n-1) times `backoff_s`, at most halved
  by a jitter that is taken from its incarnation.

Invariants (`validate`): the name table and the tree are the same set; nothing lives below what is
down; nothing is wanted below what stops; no more restarts are remembered than are allowed; each
starting worker has its time-out armed, each waiting child its retry; each call that waits has
something to wait for.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from operator import attrgetter
from typing import assert_never

from loomd.supervise import reconfigure
from loomd.supervise import spec as s
from loomd.supervise import tree as t
from loomd.supervise.tree import Child, Supervisor, Worker

RETRY_STEP_S = 0.02
"""The n-th failed start in a row is retried after n - 1 of these."""

SIGKILL, SIGTERM = 9, 15

ON_PURPOSE = (s.NORMAL, s.FENCED, s.UPGRADED, s.ASLEEP)
"""What OTP calls normal, shutdown or {shutdown, _}."""

FREE_BLAMES = 4
"""Deaths blamed on the same input that are not counted. The hub puts it aside before that."""

SESSIONS = "sessions"
SERVICES = "services"


class Policy:
    """The state of a whole tree, and the one door to change it.

    base  the boot number << 32: incarnations count up from there
    group intensity and period of the supervisors that are made on demand for a session
    """

    def __init__(
        self,
        root: s.SupervisorSpec,
        *,
        base: int = 0,
        intensity: int = 10,
        period_s: float = 5.0,
        free_blames: int = FREE_BLAMES,
    ) -> None:
        self.root = Supervisor(root, None)
        self.nodes: dict[str, Child] = {root.id: self.root}
        self.timers: dict[t.TimerKey, float] = {}
        self.held: set[str] = set()
        self.finished = False
        self._next = base
        self._intensity = intensity
        self._period_s = period_s
        self._free_blames = free_blames
        self._now = 0.0
        self._out: list[t.Action] = []
        self._gone: list[tuple[str, int]] = []
        self._dirty: dict[Supervisor, dict[str, Child] | None] = {}
        self._parked: list[t.Ensure] = []
        self._additions: list[tuple[str, s.ChildSpec]] = []  # until their names are free
        self._asked_to_end = False

    # --- the door ------------------------------------------------------------------------------

    def handle(self, event: t.Event, now: float) -> list[t.Action]:
        """Takes one event; what is to be done, in order. `now`: monotonic seconds."""
        self._now = now
        self._out = []
        self._gone = []
        self._take(event)
        self._settle()
        self._unpark()
        self._add_due()
        for name, incarnation in self._gone:
            node = self.nodes.get(name)
            self._out.append(t.Gone(name, incarnation, node is None or not node.want))
        return self._out

    def _take(self, event: t.Event) -> None:
        match event:
            case t.Boot():
                self.root.want = True
                self._begin_start(self.root)
            case t.Shutdown():
                self._asked_to_end = True
                if self.root.state in ("starting", "up"):
                    self.root.stop = True
                    self.root.want = False
                    self._begin_stop(self.root)
            case t.KillAll():
                self._asked_to_end = True
                if self.root.state != "down":
                    self.root.stop = True
                    self.root.want = False
                    self._kill_below(self.root, "shutdown at once")
            case t.Born():
                node = self._worker(event.name, event.incarnation)
                if node is not None:
                    node.pid = event.pid
            case t.Ready():
                self._ready(event)
            case t.Postponed():
                node = self._worker(event.name, event.incarnation)
                if node is not None and node.state == "starting" and not node.timed_out:
                    self._arm(("start", node.id), now_plus=node.spec.start.ready_s)
            case t.Exited():
                self._exited(event)
            case t.TimerFired():
                self._timer(event.key)
            case t.Ensure():
                if not self._ensure(event):
                    self._parked.append(event)
            case t.Forget():
                self._forget(event.name)
            case t.StartChild():
                self._start_child(event)
            case t.TerminateChild():
                self._terminate_child(event)
            case t.RestartChild():
                self._restart_child(event)
            case t.DeleteChild():
                self._delete_child(event)
            case t.Bounce():
                self._bounce(event)
            case t.Configure():
                self._configure(event.spec)
            case t.Supplant():
                self._supplant(event)
            case t.Respec():
                self._renew_spec(event.spec)
            case _:
                assert_never(event)

    # --- working the marks off ------------------------------------------------------------------

    def _settle(self) -> None:
        while self._dirty:
            sup = next(iter(self._dirty))
            self._advance(sup, self._dirty.pop(sup))

    def _touch(self, sup: Supervisor | None, child: Child | None = None) -> None:
        """Something below `sup` has changed: that `child`, or who knows what."""
        if sup is None:
            return
        if child is None:
            self._dirty[sup] = None
            return
        touched = self._dirty.setdefault(sup, {})
        if touched is not None:
            touched[child.id] = child

    def _advance(self, sup: Supervisor, touched: dict[str, Child] | None) -> None:
        """The one rule: first the stops, last child first; then the starts, first child first.

        A dynamic group, and a one_for_one group once it is up, does both side by side: there it is
        enough to look at what was touched, so that a child of many costs what one of few does.
        """
        if sup.state in ("down", "waiting"):
            return
        free = sup.spec.dynamic or (sup.spec.strategy == "one_for_one" and sup.state == "up")
        children = list(sup.children.values())
        if free and touched is not None:
            children = [child for id, child in touched.items() if sup.children.get(id) is child]
        stops = [child for child in reversed(children) if child.stop]
        for child in stops:
            if child.state in ("down", "waiting"):
                self._cancel(("retry", child.id))
                self._stopped(child)
        if not free and "stopping" in map(attrgetter("state"), children):
            return  # its end brings us back here
        for child in stops:
            if child.stop and child.state in ("starting", "up"):
                self._begin_stop(child)
                if not free:
                    return
        if sup.state == "stopping":
            if all(child.state == "down" for child in sup.children.values()):
                self._supervisor_down(sup)
            return
        for child in children:
            if not child.want or child.stop or child.state == "up":
                continue
            if child.state == "down":
                self._begin_start(child)
            if not free:
                return  # its coming up brings us back here
        if sup.state == "starting" and all(
            child.state == "up" for child in sup.children.values() if child.want
        ):
            self._came_up(sup)

    def _begin_start(self, child: Child) -> None:
        child.state = "starting"
        if isinstance(child, Worker):
            self._next += 1
            child.incarnation = self._next
            child.again = child.timed_out = child.overdue = child.killed = False
            self._out.append(t.StartProcess(child.id, child.incarnation))
            self._arm(("start", child.id), now_plus=child.spec.start.ready_s)
            return
        child.failed = child.why = child.reason = ""
        child.fatal = child.overdue = False
        child.attempts = []
        taken = [spec for spec in child.spec.children if spec.id in self.nodes]
        strangers = [spec.id for spec in taken if not self._is_leaving(self.nodes[spec.id])]
        if strangers:  # they came while this one was down
            self._fail(child, f"name_taken: {strangers[0]}", fatal=False)
            return
        for spec in child.spec.children:
            if spec in taken:
                self._additions.append((child.id, spec))
            else:
                self._add_wanted(child, spec)
        if child.spec.independent:
            self._came_up(child)
        self._touch(child)

    def _add_wanted(self, sup: Supervisor, spec: s.ChildSpec) -> None:
        """A child that its supervisor's spec names; it runs unless it is held."""
        child = self._add(sup, spec)
        child.want = spec.id not in self.held
        if child.want and sup.spec.independent:
            child.waiters.append(t.Waiter(0, "restart"))  # a first start that fails stays failed

    def _begin_stop(self, child: Child) -> None:
        shutdown = child.spec.shutdown_s
        if shutdown == "kill":
            self._kill_below(child, "shutdown is kill")
            return
        if isinstance(child, Supervisor):
            self._go_down(child)
        else:
            child.state = "stopping"
            self._cancel(("start", child.id))
            self._out.append(t.StopProcess(child.id, child.incarnation))
        if isinstance(shutdown, float):
            self._arm(("stop", child.id), now_plus=shutdown)

    def _mark_all_down(self, sup: Supervisor) -> None:
        for child in list(sup.children.values()):
            child.want = False
            if child.state == "waiting":
                self._cancel(("retry", child.id))
                child.state = "down"
            child.stop = child.state != "down"
            if not child.stop:
                self._answer(child, ("start", "restart", "bounce"), "terminated")

    def _kill_below(self, node: Child, reason: str) -> None:
        """All at once; supervisors that have not had their turn yet must not restart anything."""
        for below in list(t.walk(node)):
            if isinstance(below, Supervisor):
                if below.state in ("starting", "up"):
                    self._go_down(below)
            elif below.state in ("starting", "up", "stopping"):
                below.state = "stopping"
                below.killed = True
                self._cancel(("start", below.id))
                self._out.append(t.KillProcess(below.id, below.incarnation, reason))

    # --- what becomes of a child ----------------------------------------------------------------

    def _ready(self, event: t.Ready) -> None:
        node = self._worker(event.name, event.incarnation)
        if node is None or node.state != "starting" or node.timed_out:
            return  # it was told to stop, or killed, meanwhile
        self._cancel(("start", node.id))
        self._came_up(node)

    def _came_up(self, child: Child) -> None:
        child.state = "up"
        child.failures = 0
        child.started_at = self._now
        self._answer(child, ("start", "restart", "bounce"), "")
        self._touch(child.parent, child)

    def _exited(self, event: t.Exited) -> None:
        child = self._worker(event.name, event.incarnation)
        if child is None or child.state not in ("starting", "up", "stopping"):
            return
        self._gone.append((child.id, child.incarnation))
        self._cancel(("start", child.id))
        self._cancel(("stop", child.id))
        was, child.state = child.state, "down"
        child.pid = 0
        status = event.status
        reason = event.reason or (f"signal {event.signal}" if event.signal else f"status {status}")
        child.reason = reason
        self._touch(child.parent, child)
        if child.stop:
            if not self._as_told(child, status, event.signal):
                self._report(child, "shutdown_error", reason)
            self._stopped(child)
        elif status == s.UPGRADED:
            pass  # want stays: the successor is started at once
        elif was == "starting":
            if status in (s.NORMAL, s.ASLEEP):
                self._ignored(child)
            else:
                why = "time-out" if child.timed_out else reason
                killed = bool(event.signal) and not child.timed_out
                self._start_failed(child, why, fatal=status == s.CANNOT_START, killed=killed)
        elif status in (s.NORMAL, s.FENCED, s.ASLEEP) and child.again:
            child.want = True
        elif status == s.ASLEEP:
            child.want = False
        elif status == s.CANNOT_START:
            self._report(child, "child_terminated", reason)
            self._give_up(child.parent, child, f"{child.id} can never start", fatal=True)
        elif status in (s.NORMAL, s.FENCED):
            if child.spec.restart == "permanent":
                self._report(child, "child_terminated", reason)
                self._restart(child, reason, counted=status == s.NORMAL)
            else:
                self._ended(child)
        else:
            self._report(child, "child_terminated", reason)
            if child.spec.restart == "temporary":
                self._ended(child)
            else:
                self._restart(child, reason, counted=not self._is_free(child, event.blame))

    def _as_told(self, child: Worker, status: int, signal: int) -> bool:
        """Whether it ended in the way that it was told to; anything else is a shutdown_error."""
        if child.overdue:
            return False
        if signal == (SIGKILL if child.killed else SIGTERM):
            return True
        if status == s.NORMAL and not child.killed:
            return True
        return status in ON_PURPOSE and child.spec.restart != "permanent"

    def _is_free(self, child: Worker, blame: tuple[int, int, int] | None) -> bool:
        if blame is None:
            return False
        last, count = child.blamed
        count = count + 1 if last == blame else 1
        child.blamed = (blame, count)
        return count <= self._free_blames

    def _stopped(self, child: Child) -> None:
        """It was told to go down, and is."""
        if child.id in self.held:
            child.reason = "terminated"
        child.stop = False
        child.state = "down"
        self._answer(child, ("terminate",), "")
        self._touch(child.parent, child)
        if child.want:
            child.forget = False
            return
        child.failures = 0
        temporary = child.spec.restart == "temporary"
        dynamic = child.parent is not None and child.parent.spec.dynamic
        if child.forget or temporary or dynamic:
            self._remove(child)
        else:
            self._answer(child, ("start", "restart", "bounce"), "terminated")

    def _ended(self, child: Child) -> None:
        """It has ended by itself and is not started again."""
        sup = child.parent
        assert sup is not None
        child.want = False
        if child.spec.restart == "temporary" or sup.spec.dynamic:
            self._remove(child)
        else:
            self._answer(child, ("start", "restart", "bounce"), "terminated")
        if not child.spec.significant:
            return
        rule = sup.spec.auto_shutdown
        if rule == "all_significant":
            # One that is down in a round comes back; one that is being terminated does not.
            last = not any(other.spec.significant and other.want for other in sup.children.values())
        else:
            last = rule == "any_significant"
        if last:
            self._shut_itself(sup, f"significant child {child.id} has ended")

    def _ignored(self, child: Worker) -> None:
        child.want = False
        child.failures = 0
        self._answer(child, ("start", "restart", "bounce"), "")
        if child.spec.restart == "temporary" or child.parent.spec.dynamic:
            self._remove(child)

    def _restart(self, child: Child, reason: str, *, counted: bool) -> None:
        sup = child.parent
        assert sup is not None
        child.want = True
        if counted and not self._attempt(sup):
            self._give_up(sup, child, f"too many restarts: {child.id}: {reason}")
            return
        child.restarts += 1
        self._round(sup, child)
        if counted and isinstance(child, Worker) and child.state == "down":
            self._back_off(child)

    def _back_off(self, child: Worker) -> None:
        """Lets a crashed child wait before its restart, if its spec says so."""
        base, most = child.spec.backoff_s, child.spec.backoff_max_s
        if not base:
            return
        if child.started_at and not child.failures and self._now - child.started_at >= most:
            child.crashes = 0  # it had run well
        child.crashes += 1
        delay = min(most, base * 2.0 ** min(child.crashes - 1, 60))
        chance = zlib.crc32(f"{child.id}#{child.incarnation}".encode()) / 2**32
        child.state = "waiting"
        self._arm(("retry", child.id), now_plus=delay * (1 - chance / 2))

    def _round(self, sup: Supervisor, child: Child) -> None:
        """Marks the siblings that have to go down and come up again with `child`."""
        if sup.spec.strategy == "one_for_one":
            return
        passed = False
        for sibling in list(sup.children.values()):
            if sibling is child:
                passed = True
            elif passed or sup.spec.strategy == "one_for_all":
                if sibling.id in self.held:
                    continue
                if sibling.spec.restart == "temporary" and sibling.state == "down":
                    continue
                sibling.stop = sibling.state != "down"
                sibling.want = sibling.spec.restart != "temporary" and not sibling.forget
                sibling.restarts += sibling.stop and sibling.want

    def _start_failed(
        self, child: Child, reason: str, *, fatal: bool, killed: bool = False
    ) -> None:
        sup = child.parent
        assert sup is not None
        self._report(child, "start_error", reason)
        self._touch(sup, child)
        kinds = {waiter.kind for waiter in child.waiters}
        if kinds & {"start", "restart"}:
            child.want = False
            self._answer(child, ("start", "restart", "bounce"), reason)
            if "start" in kinds or sup.spec.dynamic:
                self._remove(child)
            return
        self._answer(child, ("bounce",), reason)
        # A start that fails by itself ends the start of its supervisor. One that was killed, or a
        # child that had been up, is tried again like any other: whoever starts beside it is no
        # reason to let one SIGKILL take the whole tree.
        final = not killed and not child.started_at
        if sup.state == "starting" and not sup.spec.dynamic and final:
            self._fail(sup, f"{child.id}: {reason}", fatal=fatal)
            return
        if fatal:
            self._give_up(sup, child, f"{child.id} can never start: {reason}", fatal=True)
            return
        if child.spec.restart == "temporary":
            self._ended(child)  # there is nobody to tell, and it is never restarted
            return
        child.failures += 1
        self._restart(child, reason, counted=True)
        if sup.state in ("starting", "up") and child.state != "waiting":
            child.state = "waiting"
            self._arm(("retry", child.id), now_plus=(child.failures - 1) * RETRY_STEP_S)

    def _attempt(self, sup: Supervisor) -> bool:
        """Counts a restart attempt; False if that is one too many. Whole seconds, as OTP."""
        now = int(self._now)
        del sup.attempts[: bisect_left(sup.attempts, now - sup.spec.period_s)]
        sup.attempts.append(now)
        return len(sup.attempts) <= sup.spec.intensity

    # --- what becomes of a supervisor -----------------------------------------------------------

    def _fail(self, sup: Supervisor, reason: str, *, fatal: bool) -> None:
        """Its start has failed: what was started is stopped, last first; then its parent hears."""
        sup.failed = reason
        sup.fatal = fatal
        self._go_down(sup)

    def _give_up(self, sup: Supervisor, child: Child, reason: str, *, fatal: bool = False) -> None:
        """`child` has ended or failed once too often.

        While `sup` still starts, its start fails by that only if the child has never come up. OTP
        hears of the end of a child that was up only after the start: an end like any later one.
        """
        if sup.state == "starting" and (fatal or not child.started_at):
            sup.failed = reason
        sup.fatal = fatal
        self._shut_itself(sup, reason)

    def _shut_itself(self, sup: Supervisor, reason: str) -> None:
        self._out.append(t.Report(sup.id, "shutdown", sup.id, reason))
        self._out.append(t.GaveUp(sup.id, reason))
        sup.why = reason
        self._go_down(sup)

    def _go_down(self, sup: Supervisor) -> None:
        sup.state = "stopping"
        self._mark_all_down(sup)
        self._touch(sup)

    def _supervisor_down(self, sup: Supervisor) -> None:
        self._cancel(("stop", sup.id))
        sup.state = "down"
        for child in list(sup.children.values()):
            self._remove(child)
        parent = sup.parent
        if parent is None:
            sup.stop = sup.want = False
            self.finished = True
            asked = self._asked_to_end and not (sup.failed or sup.why)
            self._out.append(t.Finish(asked, sup.failed or sup.why or "shutdown", sup.fatal))
            return
        self._touch(parent, sup)
        if sup.stop:
            if sup.overdue:
                self._report(sup, "shutdown_error", "stop time-out")
            self._stopped(sup)
        elif sup.failed:
            self._start_failed(sup, sup.failed, fatal=sup.fatal)
        elif sup.spec.restart == "permanent":
            self._restart(sup, sup.why, counted=True)
        else:
            self._ended(sup)

    # --- timers ---------------------------------------------------------------------------------

    def _timer(self, key: t.TimerKey) -> None:
        if self.timers.pop(key, None) is None:
            return
        kind, name = key
        node = self.nodes.get(name)
        if node is None:
            return
        if kind == "retry":
            if node.state == "waiting":
                node.state = "down"
                self._touch(node.parent, node)
        elif kind == "start" and isinstance(node, Worker) and node.state == "starting":
            node.timed_out = True
            self._out.append(t.KillProcess(node.id, node.incarnation, "start time-out"))
        elif kind == "stop" and node.state == "stopping":
            node.overdue = True
            self._kill_below(node, "stop time-out")

    def _arm(self, key: t.TimerKey, *, now_plus: float) -> None:
        self.timers[key] = self._now + now_plus
        self._out.append(t.ArmTimer(key, self._now + now_plus))

    def _cancel(self, key: t.TimerKey) -> None:
        if self.timers.pop(key, None) is not None:
            self._out.append(t.CancelTimer(key))

    # --- what the hub wants ---------------------------------------------------------------------

    def _ensure(self, event: t.Ensure) -> bool:
        """True when done; False while what it needs is going down."""
        node = self.nodes.get(event.spec.id)
        if node is not None:
            if not isinstance(node, Worker):
                return True  # a supervisor's name: not ours to start
            if self._is_closing(node.parent):
                return False
            self.held.discard(node.id)
            if node.state == "stopping" or node.stop:
                node.spec = event.spec
                node.want = True
                node.forget = False
            elif node.state == "down":
                node.spec = event.spec
                node.want = True
                self._touch(node.parent, node)
            elif node.state == "up" and event.after and node.incarnation <= event.after:
                node.again = True
            return True
        sup = self._home(event.session, event.group)
        if sup is None:
            return False
        child = self._add(sup, event.spec)
        child.want = True
        self._touch(sup, child)
        return True

    def _home(self, session: str, group: str) -> Supervisor | None:
        """The supervisor for an actor, made on demand; None while an older one is going down."""
        if not session:
            return self._open(group if group in self.nodes else SERVICES)
        sessions = self._open(SESSIONS)
        if sessions is None:
            return None
        if session not in self.nodes:
            made = s.SupervisorSpec(
                id=session,
                restart="transient",
                intensity=self._intensity,
                period_s=self._period_s,
                auto_shutdown="any_significant",
                children=(self._group(session, "agents"), self._group(session, "keepers")),
            )
            self._add(sessions, made).want = True
            self._touch(sessions)
            self._settle()
        return self._open(f"{session}/{group}" if group else session)

    def _group(self, session: str, group: str) -> s.SupervisorSpec:
        # Transient and significant: a group that gives up takes its session with it.
        return s.SupervisorSpec(
            id=f"{session}/{group}",
            dynamic=True,
            restart="transient",
            significant=True,
            intensity=self._intensity,
            period_s=self._period_s,
        )

    def _open(self, name: str) -> Supervisor | None:
        node = self.nodes.get(name)
        if not isinstance(node, Supervisor) or self._is_closing(node):
            return None
        return node if node.state in ("starting", "up") else None

    def _is_closing(self, sup: Supervisor | None) -> bool:
        while sup is not None:
            if sup.stop or sup.state in ("stopping", "down"):
                return True
            sup = sup.parent
        return False

    def _unpark(self) -> None:
        if not self._parked:
            return
        waiting, self._parked = self._parked, []
        for event in waiting:
            if not self._ensure(event):
                self._parked.append(event)
        self._settle()

    def _forget(self, name: str) -> None:
        self._parked = [e for e in self._parked if e.spec.id != name and e.session != name]
        node = self.nodes.get(name)
        if node is None or node.parent is None:
            return
        self.held.discard(name)
        node.want = False
        node.stop = True
        node.forget = True
        if isinstance(node, Worker):
            node.again = False
        self._touch(node.parent, node)

    # --- OTP's calls ----------------------------------------------------------------------------

    def _start_child(self, event: t.StartChild) -> None:
        sup = self.nodes.get(event.supervisor)
        if not isinstance(sup, Supervisor) or sup.state == "waiting" or self._is_closing(sup):
            self._out.append(t.Reply(event.call, "noproc", event.supervisor))
            return
        there = self.nodes.get(event.spec.id)
        if there is not None:
            if there.parent is not sup:
                error = "name_taken"
            else:
                running = self._not_down(there) == "running"
                error = "already_started" if running else "already_present"
            self._out.append(t.Reply(event.call, error, event.spec.id))
            return
        try:
            s.check_in(sup.spec, event.spec)
        except s.SpecError as wrong:
            self._out.append(t.Reply(event.call, str(wrong), event.spec.id))
            return
        child = self._add(sup, event.spec)
        child.want = True
        self.held.discard(child.id)
        child.waiters.append(t.Waiter(event.call, "start"))
        self._touch(sup, child)

    def _terminate_child(self, event: t.TerminateChild) -> None:
        child = self._child(event.call, event.name)
        if child is None:
            return
        child.want = False
        child.stop = True
        if isinstance(child, Worker):
            child.again = False
        if not (child.parent is not None and child.parent.spec.dynamic):
            self.held.add(child.id)
        child.waiters.append(t.Waiter(event.call, "terminate"))
        self._touch(child.parent, child)

    def _restart_child(self, event: t.RestartChild) -> None:
        child = self._child(event.call, event.name)
        if child is None:
            return
        error = self._not_down(child)
        if error:
            self._out.append(t.Reply(event.call, error, child.id))
            return
        child.want = True
        self.held.discard(child.id)
        child.waiters.append(t.Waiter(event.call, "restart"))
        self._touch(child.parent, child)

    def _delete_child(self, event: t.DeleteChild) -> None:
        child = self._child(event.call, event.name)
        if child is None:
            return
        error = self._not_down(child)
        if not error:
            self._remove(child)
            self.held.discard(event.name)
        self._out.append(t.Reply(event.call, error, event.name))

    def _not_down(self, child: Child) -> str:
        """Why it can be neither started nor deleted by a call: "running", "restarting" or ""."""
        if t.is_restarting(child):
            return "restarting"
        return "" if child.state == "down" else "running"

    def _bounce(self, event: t.Bounce) -> None:
        child = self._child(event.call, event.name)
        if child is None:
            return
        child.want = True
        self.held.discard(child.id)
        child.stop = child.state != "down"
        child.restarts += child.stop
        child.waiters.append(t.Waiter(event.call, "bounce"))
        self._touch(child.parent, child)

    def _supplant(self, event: t.Supplant) -> None:
        child = self._child(event.call, event.spec.id)
        if child is None:
            return
        parent = child.parent
        assert parent is not None
        if child.state != "up" or child.stop or not isinstance(child, Worker):
            self._out.append(t.Reply(event.call, "not_running", child.id))
            return
        if event.old in self.nodes:
            self._out.append(t.Reply(event.call, "name_taken", event.old))
            return
        child.spec = replace(child.spec, id=event.old, restart="temporary")
        new = Worker(event.spec, parent, want=True)
        new.waiters.append(t.Waiter(event.call, "start"))
        # In the place of the old one: whoever needs either of them is stopped before both.
        order = list(parent.children.values())
        order[order.index(child) : order.index(child) + 1] = [child, new]
        parent.children = {node.id: node for node in order}
        self.nodes[event.old] = child
        self.nodes[new.id] = new
        self._touch(parent)

    def _renew_spec(self, spec: s.WorkerSpec) -> None:
        node = self.nodes.get(spec.id)
        if isinstance(node, Worker):
            node.spec = spec

    def _child(self, call: int, name: str) -> Child | None:
        child = self.nodes.get(name)
        if child is None or child.parent is None:
            there = self.root.state != "down"
            self._out.append(t.Reply(call, "not_found" if there else "noproc", name))
            return None
        if self._is_closing(child.parent):
            self._out.append(t.Reply(call, "noproc", name))
            return None
        return child

    # --- another configuration ------------------------------------------------------------------

    def _configure(self, spec: s.SupervisorSpec) -> None:
        sup = self.nodes.get(spec.id)
        if not isinstance(sup, Supervisor) or self.root.state in ("stopping", "down"):
            return
        changes = reconfigure.diff(sup.spec, spec)
        self.held -= set(s.all_ids(sup.spec)) - set(s.all_ids(spec))
        places = {
            child.id: (each.id, child)
            for each in reconfigure.supervisors(spec)
            for child in each.children
        }
        self._additions = [  # still wanted there, and as the new tree says
            places[one.id] for home, one in self._additions if places.get(one.id, "")[:1] == (home,)
        ]
        self._respec(sup, reconfigure.by_id(spec))
        for change in changes:
            home = change.supervisor
            while home not in self.nodes and home in places:
                home = places[home][0]
            node = self.nodes.get(home)
            if not isinstance(node, Supervisor):
                continue
            # One that is leaving another place may still have the name: who waits for it has all.
            if node is sup or (node.parent and node.parent.id == places[home][0]):
                self._change(node, change)

    def _respec(self, sup: Supervisor, specs: Mapping[str, s.SupervisorSpec]) -> None:
        """Flags and order apply at once; what is to run is seen to by `_change`."""
        sup.spec = specs.get(sup.id, sup.spec)
        sup.attempts = sup.attempts[max(0, len(sup.attempts) - sup.spec.intensity) :]
        place = {child.id: i for i, child in enumerate(sup.spec.children)}
        ordered = sorted(sup.children.values(), key=lambda child: place.get(child.id, len(place)))
        sup.children = {child.id: child for child in ordered}
        for child in ordered:
            if isinstance(child, Supervisor):
                self._respec(child, specs)
        self._touch(sup)

    def _change(self, sup: Supervisor, change: reconfigure.Change) -> None:
        """One step, in `sup` or (where that is down) below it."""
        child = sup.children.get(change.id)
        if sup.state not in ("starting", "up"):
            # Its spec says it all, for its next start. What was mended is tried again.
            self._start_again(sup)
        elif sup.id != change.supervisor:
            return  # what is missing between is about to be added, with all that is in it
        elif change.kind == "stop":
            if child is not None:
                self._forget(child.id)
        elif child is None or type(child.spec) is not type(change.spec):
            if change.kind != "update":
                self._additions = [one for one in self._additions if one[1].id != change.id]
                self._additions.append((sup.id, change.spec))
        elif isinstance(child, Worker) and isinstance(change.spec, s.WorkerSpec):
            child.spec = change.spec
            if change.kind != "update":
                self._start_again(child)
        elif change.kind != "update":
            self._start_again(child)

    def _start_again(self, child: Child) -> None:
        if child.parent is None or child.id in self.held:
            return
        self._additions = [one for one in self._additions if one[1].id != child.id]
        child.want = True
        child.forget = False
        child.stop = child.state != "down"
        child.restarts += child.stop
        self._wish(child)

    def _wish(self, child: Child) -> None:
        """It is to start by somebody's wish: if that fails it stays down and moves nothing else."""
        child.waiters.append(t.Waiter(0, "restart"))
        self._touch(child.parent)

    def _is_leaving(self, node: Child | None) -> bool:
        """It goes for good, or is forgotten with a supervisor above it that goes down."""
        while node is not None:
            if node.forget or (node.parent is not None and node.parent.state == "stopping"):
                return True
            node = node.parent
        return False

    def _add_due(self) -> None:
        """Children whose names, and those of all that is in them, have become free."""
        waiting, self._additions = self._additions, []
        for home, spec in waiting:
            sup = self.nodes.get(home)
            if not isinstance(sup, Supervisor) or sup.state not in ("starting", "up"):
                continue  # it will start with what its spec says
            if any(id in self.nodes for id in s.all_ids(spec)):
                self._additions.append((home, spec))
                continue
            child = self._add(sup, spec)
            if spec.id not in self.held:
                child.want = True
                self._wish(child)
            self._respec(sup, {})
            self._settle()

    # --- small things ---------------------------------------------------------------------------

    def _worker(self, name: str, incarnation: int) -> Worker | None:
        node = self.nodes.get(name)
        if isinstance(node, Worker) and node.incarnation == incarnation:
            return node
        return None

    def _add(self, sup: Supervisor, spec: s.ChildSpec) -> Child:
        child: Child = (
            Worker(spec, sup) if isinstance(spec, s.WorkerSpec) else Supervisor(spec, sup)
        )
        sup.children[child.id] = child
        self.nodes[child.id] = child
        return child

    def _remove(self, child: Child) -> None:
        self._answer(child, ("terminate",), "")
        self._answer(child, ("start", "restart", "bounce"), "terminated")
        for kind in ("start", "stop", "retry"):
            self._cancel((kind, child.id))
        if child.parent is not None:
            child.parent.children.pop(child.id, None)
        self.nodes.pop(child.id, None)
        if isinstance(child, Supervisor):
            for below in list(child.children.values()):
                self._remove(below)

    def _answer(self, child: Child, kinds: tuple[str, ...], error: str) -> None:
        if not child.waiters:
            return
        for waiter in child.waiters:
            if waiter.kind in kinds and waiter.call:
                self._out.append(t.Reply(waiter.call, error, child.id))
        child.waiters = [w for w in child.waiters if w.kind not in kinds]

    def _report(self, child: Child, context: str, reason: str) -> None:
        sup = child.parent.id if child.parent is not None else ""
        self._out.append(t.Report(sup, context, child.id, reason))  # type: ignore[arg-type]

    # --- invariants -----------------------------------------------------------------------------

    def validate(self) -> None:
        """Raises AssertionError if the tree is in a state that must not be."""
        found = {node.id: node for node in t.walk(self.root)}
        assert found == self.nodes, "name table and tree differ"
        assert not self._dirty, "unsettled"
        for node in self.nodes.values():
            if isinstance(node, Supervisor):
                self._validate_supervisor(node)
            else:
                timed = node.state == "starting" and not node.timed_out
                assert (("start", node.id) in self.timers) == timed, node
                assert not node.stop or node.state in ("starting", "up", "stopping"), node
            for waiter in node.waiters:
                waits = node.stop or (node.want and waiter.kind != "terminate")
                assert waits, f"nothing will answer {waiter}"
            assert (("retry", node.id) in self.timers) == (node.state == "waiting"), node
            if ("stop", node.id) in self.timers:
                assert node.state == "stopping", node
        for _, name in self.timers:
            assert name in self.nodes, f"a timer for {name}, which is not there"

    def _validate_supervisor(self, sup: Supervisor) -> None:
        children = list(sup.children.values())
        if sup.state in ("down", "waiting"):
            assert not children, f"{sup.id} is {sup.state} and has children"
        if sup.state in ("starting", "up"):
            assert len(sup.attempts) <= sup.spec.intensity, sup.id
        if sup.state == "stopping":
            for child in children:
                assert child.stop or child.state == "down", child
                assert not child.want, child
