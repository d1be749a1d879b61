"""The nouns of supervision: nodes of the tree, events that come in, actions that go out. Pure.

A node is a worker or a supervisor. Its `state` says what is, `want` and `stop` say what shall be:
`stop` it must go down first, `want` it shall run after that. Every procedure of OTP's supervisor
(start in order, stop in reverse, a round of one_for_all) is marks on nodes plus one rule, in
`policy`, that works the marks off in the right order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from loomd.supervise.spec import ChildSpec, SupervisorSpec, WorkerSpec

State = Literal["down", "starting", "up", "stopping", "waiting"]
"""`waiting`: a start has failed, or a crashed child backs off; a timer will try again."""

TimerKey = tuple[Literal["start", "stop", "retry"], str]


# --- nodes -------------------------------------------------------------------------------------


@dataclass(eq=False)
class Waiter:
    """A call that is answered when this child has come up, or gone down. 0: nobody has called."""

    call: int
    kind: Literal["start", "restart", "bounce", "terminate"]


@dataclass(eq=False)
class Worker:
    """One process, or the place of one.

    forget  remove it from the tree once it is down
    again   start a successor when this incarnation ends by itself (a wake-up came while it left)
    """

    spec: WorkerSpec
    parent: Supervisor = field(repr=False)
    state: State = "down"
    want: bool = False
    stop: bool = False
    forget: bool = False
    again: bool = False
    incarnation: int = 0
    pid: int = 0
    restarts: int = 0
    failures: int = 0  # failed starts in a row
    crashes: int = 0  # restarts in a row, each of which waits longer
    started_at: float = 0.0
    timed_out: bool = False
    killed: bool = False  # we have killed it to end it
    reason: str = ""  # of its last end
    overdue: bool = False  # had to be killed at the end of its time to stop
    blamed: tuple[tuple[int, int, int], int] = ((0, 0, 0), 0)
    waiters: list[Waiter] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.spec.id


@dataclass(eq=False)
class Supervisor:
    """A group of children.

    failed   why its start has failed; it is going down because of that
    why      why it gave up or shuts itself down; "" while it lives or is stopped from above
    fatal    there is no point in starting it again
    """

    spec: SupervisorSpec
    parent: Supervisor | None = field(repr=False)
    state: State = "down"
    want: bool = False
    stop: bool = False
    forget: bool = False
    restarts: int = 0
    failures: int = 0
    started_at: float = 0.0
    failed: str = ""
    why: str = ""
    reason: str = ""  # of its last end, if it was terminated
    fatal: bool = False
    overdue: bool = False
    attempts: list[int] = field(default_factory=list)  # restart attempts, whole seconds
    children: dict[str, Child] = field(default_factory=dict, repr=False)  # in start order
    waiters: list[Waiter] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.spec.id


Child = Worker | Supervisor


# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boot:
    """Start the tree."""


@dataclass(frozen=True)
class Shutdown:
    """Stop the tree in order."""


@dataclass(frozen=True)
class KillAll:
    """Stop the tree at once."""


@dataclass(frozen=True)
class Born:
    """The process exists."""

    name: str
    incarnation: int
    pid: int


@dataclass(frozen=True)
class Ready:
    name: str
    incarnation: int


@dataclass(frozen=True)
class Postponed:
    """Its order had to be placed again, through no fault of its own: its time starts anew."""

    name: str
    incarnation: int


@dataclass(frozen=True)
class Exited:
    """`status` -1 when ended by `signal`. `blame`: (kind, lane, seq) of what it had in hand."""

    name: str
    incarnation: int
    status: int
    signal: int = 0
    blame: tuple[int, int, int] | None = None
    reason: str = ""


@dataclass(frozen=True)
class TimerFired:
    key: TimerKey


@dataclass(frozen=True)
class Ensure:
    """`spec` shall run under session/group. Idempotent. `after`: not this incarnation, a later."""

    spec: WorkerSpec
    session: str = ""
    group: str = ""
    after: int = 0


@dataclass(frozen=True)
class Forget:
    """Stop it, if it runs, and forget it."""

    name: str


@dataclass(frozen=True)
class StartChild:
    call: int
    supervisor: str
    spec: ChildSpec


@dataclass(frozen=True)
class TerminateChild:
    call: int
    name: str


@dataclass(frozen=True)
class RestartChild:
    """OTP's restart_child: starts a child that is not running."""

    call: int
    name: str


@dataclass(frozen=True)
class DeleteChild:
    call: int
    name: str


@dataclass(frozen=True)
class Configure:
    """The supervisor `spec.id` shall be `spec`, with everything in it."""

    spec: SupervisorSpec


@dataclass(frozen=True)
class Bounce:
    """Orderly restart of a child that runs. Counts nothing."""

    call: int
    name: str


@dataclass(frozen=True)
class Supplant:
    """`spec` is started in the place of the worker of its name, beside it. The one that runs goes
    on as `old`, never to be started again: the code that it was formed from is no more."""

    call: int
    spec: WorkerSpec
    old: str


@dataclass(frozen=True)
class Respec:
    """From its next start on the worker is this one. One that is not there is nobody's."""

    spec: WorkerSpec


Event = (
    Boot
    | Shutdown
    | KillAll
    | Born
    | Ready
    | Postponed
    | Exited
    | TimerFired
    | Ensure
    | Forget
    | StartChild
    | TerminateChild
    | RestartChild
    | DeleteChild
    | Bounce
    | Configure
    | Supplant
    | Respec
)


# --- actions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class StartProcess:
    name: str
    incarnation: int


@dataclass(frozen=True)
class StopProcess:
    """Ask it to end."""

    name: str
    incarnation: int


@dataclass(frozen=True)
class KillProcess:
    name: str
    incarnation: int
    reason: str


@dataclass(frozen=True)
class ArmTimer:
    """Replaces an armed timer of the same key."""

    key: TimerKey
    at: float


@dataclass(frozen=True)
class CancelTimer:
    key: TimerKey


@dataclass(frozen=True)
class Reply:
    """The answer to a call; `error` "" is ok."""

    call: int
    error: str
    name: str


@dataclass(frozen=True)
class Gone:
    """An incarnation has ended. `final`: it will not be started again by itself."""

    name: str
    incarnation: int
    final: bool


@dataclass(frozen=True)
class GaveUp:
    """A supervisor ends itself: too many restarts, or a significant child has ended."""

    supervisor: str
    reason: str


@dataclass(frozen=True)
class Report:
    """For the log: OTP's supervisor report."""

    supervisor: str
    context: Literal["start_error", "child_terminated", "shutdown_error", "shutdown"]
    offender: str
    reason: str


@dataclass(frozen=True)
class Finish:
    """The whole tree is down. `ok`: because it was asked to."""

    ok: bool
    reason: str
    fatal: bool = False


Action = (
    StartProcess
    | StopProcess
    | KillProcess
    | ArmTimer
    | CancelTimer
    | Reply
    | Gone
    | GaveUp
    | Report
    | Finish
)


# --- reading a tree ----------------------------------------------------------------------------


def walk(node: Child) -> Iterator[Child]:
    """The node and everything below it."""
    yield node
    if isinstance(node, Supervisor):
        for child in node.children.values():
            yield from walk(child)


def workers(node: Child) -> Iterator[Worker]:
    return (n for n in walk(node) if isinstance(n, Worker))


def is_restarting(child: Child) -> bool:
    """OTP's `restarting`: it failed to start, or waits for its turn, and will be tried again."""
    if child.state == "starting":
        return child.failures > 0
    return child.state == "waiting" or (child.state == "down" and child.want)


def which_children(sup: Supervisor) -> list[tuple[str, int | str | None, str]]:
    """OTP's which_children: newest first, (id, pid | "restarting" | None, type).

    pid 0: it runs but has no pid, as a supervisor, or has none yet.
    """
    listed: list[tuple[str, int | str | None, str]] = []
    for child in reversed(sup.children.values()):
        pid: int | str | None = None
        if is_restarting(child):
            pid = "restarting"
        elif child.state != "down":
            pid = child.pid if isinstance(child, Worker) else 0
        listed.append((child.id, pid, "worker" if isinstance(child, Worker) else "supervisor"))
    return listed


def count_children(sup: Supervisor) -> dict[str, int]:
    """OTP's count_children."""
    children = list(sup.children.values())
    supervisors = sum(isinstance(c, Supervisor) for c in children)
    return {
        "specs": len(children),
        "active": sum(c.state != "down" and not is_restarting(c) for c in children),
        "supervisors": supervisors,
        "workers": len(children) - supervisors,
    }


def picture(node: Child) -> dict[str, Any]:
    """The tree as JSON-able data, in the shape of `loomctl tree --json`."""
    spec = node.spec
    common: dict[str, Any] = {
        "id": node.id,
        "restart": spec.restart,
        "shutdown_s": spec.shutdown_s,
        "significant": spec.significant,
        "state": node.state,
        "restarts": node.restarts,
        "started_at": node.started_at,
    }
    if isinstance(node, Worker):
        live = node.state in ("starting", "up", "stopping")
        return {
            "kind": "worker",
            **common,
            "pid": node.pid or None if live else None,
            "incarnation": node.incarnation,
            "reason": "" if node.state == "up" else node.reason,
            "children": [],
        }
    return {
        "kind": "supervisor",
        **common,
        "pid": None,
        "incarnation": None,
        "reason": node.failed or node.why or node.reason,
        "strategy": node.spec.strategy,
        "intensity": node.spec.intensity,
        "period_s": node.spec.period_s,
        "dynamic": node.spec.dynamic,
        "auto_shutdown": node.spec.auto_shutdown,
        "children": [picture(child) for child in node.children.values()],
    }
