"""The frames of loomd's sockets: one tagged union per direction of each socket.

Actors' ROUTER   actor -> hub `FromActor`, hub -> actor `ToActor`
Clients' ROUTER  client -> hub `FromClient`, hub -> client `ToClient`
XPUB             topic frame, then one `Published`

Times are seconds since the epoch as float (`now`, `ts`, `due`). A `body` is an encoded
`loomd.wire.bodies.Body`: the hub stores and forwards it without looking inside. Unknown fields are
ignored, unknown types get a `Refused` with code `unknown_message`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

PROTOCOL = 1
"""Version of the socket protocol, said in every Hello."""

CONTROL = 0
WORK = 1
"""Lanes of a mailbox: control is delivered before work; each lane is in order per sender."""

Lane = Literal[0, 1]


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t"):
    """Base of everything on a socket."""


# --- parts of a commit -------------------------------------------------------------------------


class InputRef(Frame, frozen=True, kw_only=True):
    """Which input a step consumed. `init`: none (the first commit of a fresh actor)."""

    kind: Literal["init", "mail", "timer", "effect"]
    lane: int = 0
    seq: int = 0  # mail: its sequence in the lane
    key: str = ""  # timer key or effect id
    due: float = 0.0  # timer: which arming of it fired
    body: bytes = b""  # effect: its encoded result, for replay


class Row(Frame, frozen=True, kw_only=True):
    """A put (`value`) or a delete (None) in a table that this kind of actor owns."""

    table: str
    key: bytes
    value: bytes | None = None


class LogEntry(Frame, frozen=True, kw_only=True):
    """One entry appended to the actor's own conversation log; `n` counts from 1 without a gap."""

    n: int
    value: bytes  # encoded loomd.wire.bodies.Entry


class Out(Frame, frozen=True, kw_only=True):
    """One mail, to one recipient or to several (the body is then stored once)."""

    to: tuple[str, ...]
    lane: int = WORK
    body: bytes
    cause: str = ""  # id that follows one cause through the whole system


class TimerSet(Frame, frozen=True, kw_only=True):
    """Arms (or, `due` None, disarms) the actor's timer `key`."""

    key: str
    due: float | None = None
    body: bytes = b""


class EffectOpen(Frame, frozen=True, kw_only=True):
    """Opens an outside effect. Its end is a later input of kind `effect`, which closes it.

    standing: it lasts as long as its actor runs, and does not keep it from sleeping.
    """

    id: str
    body: bytes
    attempt: int = 1
    standing: bool = False


class ChildChange(Frame, frozen=True, kw_only=True):
    """Changes the desired state of an actor: `Start` and `Stop` are part of a commit.

    wanted: running (needs `spec`), asleep (woken by the next mail), ended (for good).
    """

    name: str
    wanted: Literal["running", "asleep", "ended"]
    spec: dict[str, Any] | None = None  # see loomd.actor.behaviour.Spec
    reason: str = ""


class EventOut(Frame, frozen=True, kw_only=True):
    """One event of the session's log. The hub gives it the next sequence number."""

    type: str
    data: dict[str, Any] = {}
    cause: str = ""
    session: str = ""  # "": the sender's own; the daemon's actors must name one


class Status(Frame, frozen=True, kw_only=True):
    """What the actor is doing, for people: `idle`, `thinking`, `acting`, `waiting`, `paused`, ...

    `waiting_for` says on what ("permission q-3", "models"), `since` when it began.
    """

    state: str
    waiting_for: str = ""
    since: float = 0.0


class SessionChange(Frame, frozen=True, kw_only=True):
    """Merged into the session's row. Only the team may send it, for its own session."""

    state: str | None = None
    kind: str | None = None  # with `failed`: budget, limit, supervision, unknown_goal, model, ...
    answer: str | None = None
    data: dict[str, Any] = {}


# --- actor -> hub ------------------------------------------------------------------------------


class Hello(Frame, frozen=True, kw_only=True, tag="hello"):
    """First frame of a host, and again at each new epoch of the hub."""

    actor: str
    incarnation: int
    token: str
    protocol: int = PROTOCOL
    generation: int = 0


class Commit(Frame, frozen=True, kw_only=True, tag="commit"):
    """One step: everything in it becomes durable and visible together, or not at all.

    Applied iff `incarnation` is the fence and `step` is the last one + 1. The same incarnation
    with `step` equal to the last one is acknowledged again (a resend).
    """

    actor: str
    incarnation: int
    step: int
    input: InputRef
    now: float
    generation: int = 0
    state: bytes | None = None  # None: unchanged
    version: int = 1  # of the behaviour that wrote `state`
    rows: tuple[Row, ...] = ()
    log: tuple[LogEntry, ...] = ()
    outbox: tuple[Out, ...] = ()
    timers: tuple[TimerSet, ...] = ()
    effects: tuple[EffectOpen, ...] = ()
    children: tuple[ChildChange, ...] = ()
    events: tuple[EventOut, ...] = ()
    status: Status | None = None
    session: SessionChange | None = None


class Ask(Frame, frozen=True, kw_only=True, tag="ask"):
    """A question that skips the journal. Fails with the callee's incarnation (obituary)."""

    id: str
    to: str
    body: bytes


class Answer(Frame, frozen=True, kw_only=True, tag="answer"):
    """The callee's answer to `Asked`; `error` is a wire code ("" = fine)."""

    route: bytes
    id: str
    body: bytes = b""
    error: str = ""
    detail: str = ""


class Publish(Frame, frozen=True, kw_only=True, tag="publish"):
    """To be published at once and never stored: token deltas, progress."""

    topic: str
    data: dict[str, Any]


class Pong(Frame, frozen=True, kw_only=True, tag="pong"):
    nonce: int = 0


FromActor = Hello | Commit | Ask | Answer | Publish | Pong


# --- hub -> actor ------------------------------------------------------------------------------


class Welcome(Frame, frozen=True, kw_only=True, tag="welcome"):
    """The fence is this incarnation now; only after it may the host read its state."""

    epoch: int
    step: int


class Committed(Frame, frozen=True, kw_only=True, tag="committed"):
    step: int


class Mail(Frame, frozen=True, kw_only=True, tag="mail"):
    """One mail; it stays in the mailbox until the commit that consumes it."""

    seq: int
    lane: int
    id: str  # sender/step.index
    sender: str
    body: bytes
    cause: str = ""
    attempt: int = 1
    ts: float = 0.0


class TimerFired(Frame, frozen=True, kw_only=True, tag="timer"):
    key: str
    due: float
    body: bytes = b""


class Retry(Frame, frozen=True, kw_only=True, tag="retry"):
    """The commit could not be stored now (`disk_full`): keep it and send it again later."""

    step: int
    reason: str
    after_s: float = 1.0


class Fenced(Frame, frozen=True, kw_only=True, tag="fenced"):
    """A newer incarnation exists, or this one is unknown: the host exits with status 70."""

    reason: str = ""


class Refused(Frame, frozen=True, kw_only=True, tag="refused"):
    """What was sent is wrong and will stay wrong. For a commit: the host exits and is blamed."""

    code: str
    detail: str = ""
    step: int | None = None


class Asked(Frame, frozen=True, kw_only=True, tag="asked"):
    """Somebody's `Ask`; answer with the same `route` and `id`."""

    route: bytes
    id: str
    sender: str
    body: bytes


class Answered(Frame, frozen=True, kw_only=True, tag="answered"):
    id: str
    body: bytes = b""
    error: str = ""
    detail: str = ""


class Ping(Frame, frozen=True, kw_only=True, tag="ping"):
    nonce: int = 0


ToActor = (
    Welcome | Committed | Mail | TimerFired | Retry | Fenced | Refused | Asked | Answered | Ping
)


# --- client -> hub -----------------------------------------------------------------------------


class ClientHello(Frame, frozen=True, kw_only=True, tag="hello"):
    token: str
    client: str  # stable id of this client, for exactly-once requests
    protocol: int = PROTOCOL


class Request(Frame, frozen=True, kw_only=True, tag="request"):
    """One call: `op` from loomd.hub.clients.OPS, `args` its keyword arguments.

    Requests that change state are remembered by (client, id): a resend gets the same answer.
    """

    id: str
    op: str
    args: dict[str, Any] = {}


class ClientPing(Frame, frozen=True, kw_only=True, tag="ping"):
    nonce: int = 0


FromClient = ClientHello | Request | ClientPing


# --- hub -> client -----------------------------------------------------------------------------


class ClientWelcome(Frame, frozen=True, kw_only=True, tag="welcome"):
    epoch: int
    version: str
    protocol: int
    generation: int = 0


class Reply(Frame, frozen=True, kw_only=True, tag="reply"):
    id: str
    value: Any = None


class Failure(Frame, frozen=True, kw_only=True, tag="failure"):
    """The request failed; `code` from loomd.wire.errors."""

    id: str
    code: str
    message: str
    hint: str = ""


class ClientPong(Frame, frozen=True, kw_only=True, tag="pong"):
    nonce: int = 0
    epoch: int = 0


ToClient = ClientWelcome | Reply | Failure | ClientPong


# --- XPUB --------------------------------------------------------------------------------------


class Event(Frame, frozen=True, kw_only=True, tag="event"):
    """A journaled event, published after its commit. `seq` is gapless within its session."""

    session: str
    seq: int
    ts: float
    type: str
    actor: str
    cause: str = ""
    data: dict[str, Any] = {}


class Delta(Frame, frozen=True, kw_only=True, tag="delta"):
    """Something that may be lost: a piece of a stream, a status, an obituary."""

    topic: str
    actor: str
    data: dict[str, Any] = {}


Published = Event | Delta
