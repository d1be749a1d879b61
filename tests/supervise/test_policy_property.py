"""Random trees, random lives: whatever happens in whatever order, the promises of OTP are kept.

`Tree` plays processes, clock and callers against the policy and checks after each event:

- the tree is valid, and the timers that the policy asked for are those that it counts on
- no two incarnations of a child live; nothing starts before its predecessor is reported gone
- starts are in order, stops in reverse; nobody is told to stop twice, nobody dead is signalled
- no more restarts than the intensity allows in the window, and no giving up below it
- a temporary child that has ended is gone; each call is answered exactly once

and at the end: once the world behaves, every child that should run does; and a stop ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from loomd.supervise import policy as p
from loomd.supervise import spec as s
from loomd.supervise import tree as t
from tests.supervise.otp.stage import sup, worker

RESTART = st.sampled_from(s.RESTARTS)
STATUSES = [0, 1, -1, 70, 71, 72, 73, 74]
LIVE = ("starting", "up", "stopping")


@st.composite
def trees(draw: Any, depth: int = 2, prefix: str = "n") -> dict[str, Any]:
    dynamic = draw(st.booleans()) and depth < 2
    auto = "never" if dynamic else draw(st.sampled_from(s.AUTO_SHUTDOWNS))
    children = []
    for i in range(draw(st.integers(0, 3))):
        id = f"{prefix}{i}"
        if depth and draw(st.integers(0, 2)) == 0:
            child = draw(trees(depth=depth - 1, prefix=f"{id}-"))
            child["id"] = id
        else:
            child = worker(id, shutdown_s=draw(st.sampled_from([0.5, "kill", "infinity"])))
        child["restart"] = draw(RESTART)
        if auto != "never" and child["restart"] != "permanent":
            child["significant"] = draw(st.booleans())
        children.append(child)
    return sup(
        "root",
        *children,
        dynamic=dynamic,
        strategy="one_for_one" if dynamic else draw(st.sampled_from(s.STRATEGIES)),
        intensity=draw(st.integers(0, 4)),
        period_s=draw(st.sampled_from([1.0, 5.0])),
        auto_shutdown=auto,
        shutdown_s=draw(st.sampled_from(["infinity", 2.0, "kill"])),
    )


def ancestors(node: t.Child) -> Iterator[tuple[t.Supervisor, t.Child]]:
    """Each supervisor above, with its child on the way down to the node."""
    while node.parent is not None:
        yield node.parent, node
        node = node.parent


def siblings(sup: t.Supervisor, child: t.Child) -> tuple[list[t.Child], list[t.Child]]:
    """Those before it and those after it."""
    order = list(sup.children.values())
    at = order.index(child)
    return order[:at], order[at + 1 :]


class Tree(RuleBasedStateMachine):
    """See the module.

    lives     name -> incarnation of each process that has been started and not reported gone
    before    the state of each node before the event
    told      incarnations that were told to stop, killed: those that were killed
    open      calls without an answer yet, with the name that each is about
    excused   names that somebody has stopped, deleted, or that ended in a way that keeps them down
    counted   supervisor -> when its children ended so that a restart was due (a lower bound)
    ends      name -> when it ended, or something below it (an upper bound)
    """

    def __init__(self) -> None:
        super().__init__()
        self.lives: dict[str, int] = {}
        self.told: set[int] = set()
        self.killed: set[int] = set()
        self.open: dict[int, str] = {}
        self.calls = 0
        self.excused: set[str] = set()
        self.counted: dict[t.Supervisor, list[float]] = {}
        self.ends: dict[str, list[float]] = {}
        self.timers: dict[t.TimerKey, float] = {}
        self.before: dict[t.Child, str] = {}
        self.finish: t.Finish | None = None
        self.stopping = self.killing = False
        self.now = 1000.0
        self.policy: p.Policy | None = None

    @initialize(tree=trees())
    def begin(self, tree: dict[str, Any]) -> None:
        tree["children"].append(sup("sessions", dynamic=True, restart="permanent"))
        tree["children"].append(sup("services", dynamic=True, restart="permanent"))
        self.policy = p.Policy(s.parse_supervisor(tree), intensity=2)
        self.tell(t.Boot())

    # --- the door, and what is checked behind it ---

    def handle(self, event: t.Event) -> list[t.Action]:
        return self.policy.handle(event, self.now)

    def tell(self, event: t.Event) -> None:
        self.before = {node: node.state for node in self.policy.nodes.values()}
        for action in self.handle(event):
            self._check(action)
        self.policy.validate()
        assert self.timers == self.policy.timers
        for parent in list(self.counted):  # an account begins anew with each life
            if parent.state not in ("starting", "up") or not parent.children:
                del self.counted[parent]

    def _check(self, action: t.Action) -> None:
        match action:
            case t.StartProcess(name, incarnation):
                assert name not in self.lives, "two processes of one name"
                assert not self.killing and self.finish is None
                self.lives[name] = incarnation
                self._check_start(self.policy.nodes[name])
            case t.StopProcess(name, incarnation):
                assert self.lives[name] == incarnation
                assert incarnation not in self.told
                self.told.add(incarnation)
                self._check_stop(self.policy.nodes[name])
            case t.KillProcess(name, incarnation):
                assert self.lives[name] == incarnation
                self.killed.add(incarnation)
            case t.ArmTimer(key, at):
                assert at >= self.now
                self.timers[key] = at
            case t.CancelTimer(key):
                del self.timers[key]
            case t.Reply(call, _, name):
                assert self.open.pop(call, None) is not None, "answered twice, or never asked"
                assert name
            case t.Report(above, "start_error", _, reason) if "name_taken" in reason:
                self.ends.setdefault(above, []).append(self.now)  # failed without a process
            case t.GaveUp(name, reason):
                if reason.startswith("too many restarts"):
                    self._check_gave_up(name)
            case t.Finish():
                assert not self.lives and self.finish is None
                assert not action.ok or self.stopping
                self.finish = action

    def _check_start(self, child: t.Child) -> None:
        """In order: every earlier one that is wanted has come up."""
        for parent, node in ancestors(child):
            if node is not child and (node.state == "up" or self.before.get(node) == "starting"):
                break  # its own start is over, or is under way since before
            if parent.state == "stopping":  # a later one failed in the same event
                assert self.before.get(parent) != "stopping" or parent.failed
                break
            assert parent.state in ("starting", "up")
            if parent.spec.dynamic:
                continue
            if parent.spec.strategy != "one_for_one" or parent.state == "starting":
                for earlier in siblings(parent, node)[0]:
                    assert earlier.state == "up" or not earlier.want

    def _check_stop(self, child: t.Child) -> None:
        """In reverse: where all go, every later one has gone."""
        for parent, node in ancestors(child):
            if node.state != "stopping" or (
                node is not child and self.before.get(node) == "stopping"
            ):
                break  # it was told for itself, or went before the rest
            if parent.state == "stopping" and not parent.spec.dynamic:
                for later in siblings(parent, node)[1]:
                    assert not [w.id for w in t.workers(later) if w.id in self.lives]

    def _check_gave_up(self, name: str) -> None:
        spec = self.policy.nodes[name].spec if name in self.policy.nodes else None
        if isinstance(spec, s.SupervisorSpec):
            oldest = int(self.now) - spec.period_s
            recent = [at for at in self.ends.get(name, []) if int(at) >= oldest]
            assert len(recent) > spec.intensity, f"{name} gave up too early"

    # --- what happens ---

    def end(self, name: str, status: int, signal: int = 0, blame: Any = None) -> None:
        """A process ends; what must follow, whatever the policy thinks."""
        node = self.policy.nodes[name]
        assert isinstance(node, t.Worker)
        incarnation = self.lives.pop(name)
        parent, was, stop, again = node.parent, node.state, node.stop, node.again
        permanent, temporary = (node.spec.restart == kind for kind in ("permanent", "temporary"))
        proper = status in (0, 70, 71, 72)
        crashed = was == "up" and not stop and not proper and status != 74
        if crashed and not temporary and blame is None:
            self.counted.setdefault(parent, []).append(self.now)
        if was == "up" and not stop and status == 0 and permanent and not again:
            self.counted.setdefault(parent, []).append(self.now)
        for above, _ in ancestors(node):
            self.ends.setdefault(above.id, []).append(self.now)
        if status in (0, 72) or (was == "starting" and node.waiters):
            self.excused.add(name)
        self.tell(t.Exited(name, incarnation, status, signal, blame))
        if (crashed or (was == "up" and not stop and proper and not again)) and temporary:
            kept = status in (71, 72)
            assert kept or self.policy.nodes.get(name) is not node, "a temporary child is kept"
        self._check_intensity(parent)

    def _check_intensity(self, parent: t.Supervisor) -> None:
        spec = parent.spec
        if self.policy.nodes.get(parent.id) is not parent or parent.state not in ("starting", "up"):
            return
        oldest = int(self.now) - spec.period_s
        recent = [at for at in self.counted.get(parent, []) if int(at) >= oldest]
        assert len(recent) <= spec.intensity, f"{parent.id} restarts more than it may"

    def fire(self, until: float) -> None:
        """Time passes to the first timer due, or to the end of it."""
        at, key = min((at, key) for key, at in self.timers.items())
        assert at <= until
        self.now = max(self.now, at)
        del self.timers[key]
        self.tell(t.TimerFired(key))

    def some(self, data: Any, what: Any) -> str:
        return str(data.draw(st.sampled_from(sorted(what))))

    def call(self, name: str) -> int:
        self.calls += 1
        self.open[self.calls] = name
        return self.calls

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def ready(self, data: Any) -> None:
        name = self.some(data, self.lives)
        self.tell(t.Born(name, self.lives[name], 7))
        self.tell(t.Ready(name, self.lives[name]))

    @rule()
    def all_ready(self) -> None:
        for _ in range(50):
            starting = [n for n in sorted(self.lives) if self.policy.nodes[n].state == "starting"]
            for name in starting:
                self.tell(t.Ready(name, self.lives[name]))
            if not starting:
                break

    @precondition(lambda self: self.lives)
    @rule(
        data=st.data(), status=st.sampled_from(STATUSES), blame=st.sampled_from([None, (1, 1, 1)])
    )
    def exit(self, data: Any, status: int, blame: Any) -> None:
        signal = data.draw(st.sampled_from([9, 15, 11])) if status == -1 else 0
        self.end(self.some(data, self.lives), status, signal, blame)

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def postponed(self, data: Any) -> None:
        name = self.some(data, self.lives)
        self.tell(t.Postponed(name, self.lives[name]))

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), event=st.sampled_from(["ready", "exit", "born", "postponed"]))
    def news_of_an_older_incarnation(self, data: Any, event: str) -> None:
        name = self.some(data, self.lives)
        older = self.lives[name] - 1
        assert not self.handle(
            {
                "ready": t.Ready(name, older),
                "exit": t.Exited(name, older, 1),
                "born": t.Born(name, older, 9),
                "postponed": t.Postponed(name, older),
            }[event]
        )

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 7.0, 20.0]))
    def time(self, seconds: float) -> None:
        end = self.now + seconds
        while any(at <= end for at in self.timers.values()):
            self.fire(end)
        self.now = end

    @rule(
        data=st.data(),
        kind=st.sampled_from([t.TerminateChild, t.RestartChild, t.DeleteChild, t.Bounce]),
    )
    def ask(self, data: Any, kind: Any) -> None:
        name = self.some(data, {*self.policy.nodes, "nobody"})
        if kind in (t.TerminateChild, t.DeleteChild):
            self.excused.add(name)
        self.tell(kind(self.call(name), name))

    @rule(data=st.data(), id=st.sampled_from(["x", "y", "n0", "n0-0"]), restart=RESTART)
    def start_child(self, data: Any, id: str, restart: str) -> None:
        name = self.some(data, self.policy.nodes)
        self.tell(t.StartChild(self.call(id), name, s.parse(worker(id, restart))))

    @rule(data=st.data(), tree=trees(depth=1, prefix="n0-"), id=st.sampled_from(["x", "z", "n1"]))
    def start_supervisor(self, data: Any, tree: dict[str, Any], id: str) -> None:
        name = self.some(data, self.policy.nodes)
        self.tell(t.StartChild(self.call(id), name, s.parse({**tree, "id": id})))

    @rule(
        session=st.sampled_from(["", "s-1", "s-2"]),
        name=st.sampled_from(["p", "q"]),
        group=st.sampled_from(["", "agents", "keepers"]),
        restart=RESTART,
        after=st.booleans(),
    )
    def ensure(self, session: str, name: str, group: str, restart: str, after: bool) -> None:
        full = f"{session}/{name}" if session else name
        spec = s.parse_worker(worker(full, restart))
        self.tell(t.Ensure(spec, session, group, self.lives.get(full, 0) if after else 0))

    @rule(data=st.data(), name=st.sampled_from(["s-1", "s-2", "s-1/p", "s-2/q", "q", "any"]))
    def forget(self, data: Any, name: str) -> None:
        name = self.some(data, self.policy.nodes) if name == "any" else name
        self.excused.add(name)
        self.tell(t.Forget(name))

    @precondition(lambda self: self.calls > 12)
    @rule(at_once=st.booleans())
    def shutdown(self, at_once: bool) -> None:
        self.stopping = True
        self.killing = self.killing or at_once
        self.tell(t.KillAll() if at_once else t.Shutdown())
        assert not at_once or self.killed >= set(self.lives.values())

    # --- what always holds ---

    @invariant()
    def nothing_lives_that_the_tree_does_not_know(self) -> None:
        if self.policy is None:
            return
        known = {w.id: w.incarnation for w in t.workers(self.policy.root) if w.state in LIVE}
        assert known == self.lives

    @invariant()
    def listed_is_what_is(self) -> None:
        if self.policy is None:
            return
        for node in self.policy.nodes.values():
            if isinstance(node, t.Supervisor):
                listed, counts = t.which_children(node), t.count_children(node)
                assert [id for id, _, _ in listed] == list(reversed(node.children))
                assert sum(isinstance(pid, int) for _, pid, _ in listed) == counts["active"]
                assert counts["specs"] == counts["workers"] + counts["supervisors"] == len(listed)

    # --- how it ends ---

    def teardown(self) -> None:
        if self.policy is None:
            return
        self._calm()
        assert not self.timers and not self.open, "something waits for ever"
        self._every_child_that_should_run_does()
        self.stopping = True
        self.tell(t.Shutdown())
        for _ in range(1000):
            if self.policy.finished:
                break
            self._a_step_of_the_stop()
        assert self.finish is not None and not self.lives and not self.timers and not self.open

    def _calm(self) -> None:
        """From now on every start succeeds, and who is told to end does."""
        for _ in range(2000):
            name = next(iter(sorted(self.lives)), "")
            for name, incarnation in sorted(self.lives.items()):
                if incarnation in self.told | self.killed:
                    self.end(name, 0)
                    break
                if self.policy.nodes[name].state == "starting":
                    self.tell(t.Ready(name, incarnation))
                    break
            else:
                if not self.timers:
                    return
                self.fire(1e12)
        raise AssertionError("the tree never comes to rest")

    def _every_child_that_should_run_does(self) -> None:
        for node in self.policy.nodes.values():
            assert node.state in ("up", "down") and not node.stop, node
            assert (node.state == "up") == node.want, node
            if not isinstance(node, t.Supervisor) or node.state != "up":
                continue
            for child in node.spec.children:
                if child.restart == "permanent" and child.id not in self.excused:
                    assert self.policy.nodes[child.id].state == "up", child.id

    def _a_step_of_the_stop(self) -> None:
        """Every second process ends only when it is killed, if that will ever be."""
        for name, incarnation in sorted(self.lives.items()):
            stubborn = incarnation % 2 and ("stop", name) in self.timers
            if incarnation in self.killed or (incarnation in self.told and not stubborn):
                self.end(name, -1 if incarnation in self.killed else 0, 9)
                return
        self.fire(1e12)


TestTree = Tree.TestCase
TestTree.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,  # the same lives in every run; a search is for who changes the policy
    database=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking such lives takes minutes
    report_multiple_bugs=False,
)
