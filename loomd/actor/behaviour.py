"""The protocol of an actor: `step(state, input, now) -> (state, changes)`.

Pure: no clock, no I/O, no randomness, no environment. What a behaviour may know is in its spec, its
saved state, its rows (read once in `init`) and its inputs. One input per step; the changes of one
step become durable together. A step owns the state it is given and returns the successor (it may
reuse the object); the host commits before it takes the next input.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec

from loomd.actor.ladder import Rung
from loomd.wire.bodies import Body, Entry
from loomd.wire.messages import WORK, ChildChange, EventOut, SessionChange, Status


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An actor's desired state, kept in table `actors` and read by its host after Welcome.

    kind     agent | keeper | team | tools | models | gateway | echo ...: picks the entry point
    session  "" for the daemon's own actors
    role     agents: lead, researcher, coder, reviewer, tester, or a custom one
    args     whatever the kind needs (JSON-able, <= 48 KiB)
    restart  permanent | transient | temporary
    ladder   what its successors run with if it fails again and again (loomd.actor.ladder)
    nice     agents and tools run at +10
    """

    name: str
    kind: str
    session: str = ""
    role: str = ""
    args: dict[str, Any] = {}
    restart: str = "transient"
    ladder: tuple[Rung, ...] = ()
    nice: int = 0


# --- inputs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Init:
    """First input of an actor's life (not of each incarnation): it may set things going."""

    step: int = 1


@dataclass(frozen=True)
class Mailed:
    """One mail. `id` is `sender/step.index`; `cause` follows one cause through the system."""

    step: int
    id: str
    sender: str
    body: Body
    cause: str = ""
    lane: int = WORK
    seq: int = 0


@dataclass(frozen=True)
class TimerDue:
    step: int
    key: str
    due: float
    body: Body | None = None


@dataclass(frozen=True)
class EffectEnded:
    """The end of an own effect; the commit of this step closes it."""

    step: int
    effect: str
    request: Body  # what was opened
    result: Body


Input = Init | Mailed | TimerDue | EffectEnded


# --- changes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    """Mail to one actor or to several. `cause` None: the input's."""

    to: str | tuple[str, ...]
    body: Body
    lane: int = WORK
    cause: str | None = None


@dataclass(frozen=True)
class Put:
    """A row of a table that this kind owns. `key` from loomd.store.schema; value: plain data."""

    table: str
    key: bytes
    value: Any


@dataclass(frozen=True)
class Delete:
    table: str
    key: bytes


@dataclass(frozen=True)
class Append:
    """The next entry of the own log. `n` continues the count that the behaviour keeps."""

    n: int
    entry: Entry


@dataclass(frozen=True)
class SetTimer:
    """Fires as `TimerDue` at `due` (epoch seconds), also if the actor slept or died meanwhile."""

    key: str
    due: float
    body: Body | None = None


@dataclass(frozen=True)
class CancelTimer:
    key: str


@dataclass(frozen=True)
class Open:
    """Opens an effect for the performer; it starts after the commit is acknowledged.

    standing: it is open for as long as the actor runs, so it does not keep the actor awake.
    """

    id: str
    body: Body
    standing: bool = False


@dataclass(frozen=True)
class Cancel:
    """Asks the performer to end effect `id` early; it still ends with one `EffectEnded`."""

    id: str


@dataclass(frozen=True)
class Start:
    spec: Spec


@dataclass(frozen=True)
class Stop:
    """`asleep`: woken by its next mail. Otherwise it has ended for good."""

    name: str
    asleep: bool = False
    reason: str = "done"


@dataclass(frozen=True)
class Emit:
    """One event of the session's log. `session` "": the actor's own."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    session: str = ""


@dataclass(frozen=True)
class Show:
    """The status line: see loomd.wire.messages.Status."""

    state: str
    waiting_for: str = ""


@dataclass(frozen=True)
class Session:
    """A change to the session's row (team only)."""

    state: str | None = None
    kind: str | None = None
    answer: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Say:
    """Published at once after the commit and never stored (topic from loomd.wire.topics)."""

    topic: str
    data: dict[str, Any] = field(default_factory=dict)


Change = (
    Send
    | Put
    | Delete
    | Append
    | SetTimer
    | CancelTimer
    | Open
    | Cancel
    | Start
    | Stop
    | Emit
    | Show
    | Session
    | Say
)

_WIRE = (ChildChange, EventOut, SessionChange, Status)  # what these become in a commit


# --- reading, once, in init --------------------------------------------------------------------


class Reader(Protocol):
    """Short read transactions on the state. Implemented by loomd.store.env.Store."""

    def row(self, table: str, key: bytes) -> Any | None: ...
    def rows(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, Any]]: ...
    def entries(self, log: str, first: int, last: int) -> Iterator[tuple[int, Entry]]: ...
    def entry_bytes(self, log: str, n: int) -> bytes | None: ...
    def blob(self, name: str) -> bytes: ...


@dataclass(frozen=True)
class OpenEffect:
    """An effect that a predecessor left open. `attempt`: how often it has been started so far."""

    id: str
    body: Body
    attempt: int
    standing: bool = False


@dataclass(frozen=True)
class Birth:
    """What `init` gets. `restarts`: how often its supervisor has restarted this name."""

    spec: Spec
    saved: Any  # as `save` returned it, decoded; None at first
    effects: Sequence[OpenEffect]
    reader: Reader
    settings: dict[str, Any]
    incarnation: int = 0
    restarts: int = 0


S = TypeVar("S")


class Behaviour(Protocol[S]):
    """A kind of actor. `version` names the shape of what `save` returns."""

    version: int

    def init(self, birth: Birth) -> S:
        """The state to go on with. Derived data is rebuilt here and never committed."""
        ...

    def step(self, state: S, input: Input, now: float) -> tuple[S, list[Change]]: ...

    def save(self, state: S) -> Any:
        """What is committed of the state: plain data or a msgspec Struct, <= 64 KiB encoded."""
        ...

    def upgrade(self, saved: Any, version: int) -> Any:
        """`saved` of an older `version` in today's shape."""
        ...

    def answer(self, state: S, question: Body, reader: Reader) -> Body:
        """Answers an ask (not journaled, changes nothing). Raise LoomError to refuse."""
        ...


# --- the impure half ---------------------------------------------------------------------------

Report = Callable[[Body], None]
"""Ends an effect: to be called exactly once, on the loop's thread."""


class Stage(Protocol):
    """What the host lends a performer."""

    reader: Reader
    settings: dict[str, Any]
    spec: Spec
    directories: Any  # loomd.wire.endpoints.Instance
    keys_fd: int  # -1 unless a gateway

    def publish(self, topic: str, data: dict[str, Any]) -> None:
        """XPUB, may be lost."""
        ...


class Performer(Protocol):
    """Runs effects. Lives on the host's asyncio loop; must never block it.

    drain_s  how long an actor that leaves for new code waits, at most, until it is not `busy`
    """

    drain_s: float

    async def open(self, stage: Stage) -> None:
        """Before the first effect."""
        ...

    def start(self, effect: OpenEffect, report: Report) -> None: ...
    def cancel(self, id: str) -> None: ...

    def busy(self) -> bool:
        """Whether effects are under way that should end before the actor leaves for new code."""
        ...

    def close(self) -> Awaitable[None]:
        """At an orderly stop: end what runs, leave nothing behind."""
        ...

    async def ask(self, question: Body) -> Body | None:
        """Answers an ask that needs the world (reload); None: let the behaviour answer."""
        ...
