"""From the changes of one step to its commit. Pure.

Everything that a step wants becomes one `Commit`; what must wait for its acknowledgement (effects
to start, effects to cancel, publications) is kept beside it. Ids are `actor/step.index`, given by
position, so that a resent commit names the same things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import msgspec

from loomd.actor.behaviour import (
    Append,
    Cancel,
    CancelTimer,
    Change,
    Delete,
    EffectEnded,
    Emit,
    Init,
    Input,
    Mailed,
    Open,
    OpenEffect,
    Put,
    Say,
    Send,
    Session,
    SetTimer,
    Show,
    Start,
    Stop,
    TimerDue,
)
from loomd.wire import codec
from loomd.wire.errors import LoomError
from loomd.wire.messages import (
    ChildChange,
    Commit,
    EffectOpen,
    EventOut,
    InputRef,
    LogEntry,
    Out,
    Publish,
    Row,
    SessionChange,
    Status,
    TimerSet,
)


@dataclass(frozen=True)
class Built:
    """A commit and what follows once it is acknowledged."""

    commit: Commit
    starts: tuple[OpenEffect, ...] = ()
    cancels: tuple[str, ...] = ()
    says: tuple[Publish, ...] = ()


@dataclass(frozen=True)
class Author:
    """Who commits: the same for all commits of an incarnation."""

    actor: str
    incarnation: int
    generation: int
    version: int


def encode_state(saved: Any) -> bytes:
    """The bytes of what `save` returned. LoomError `too_large` over 64 KiB."""
    raw = codec.encode(saved)
    if len(raw) > codec.BLOB_LIMIT:
        raise LoomError(
            "too_large",
            f"state of {len(raw)} bytes is over the limit of {codec.BLOB_LIMIT}",
            "keep what grows in rows",
        )
    return raw


def reference(input: Input) -> InputRef:
    """How a commit names the input that it consumes."""
    match input:
        case Mailed():
            return InputRef(kind="mail", lane=input.lane, seq=input.seq)
        case TimerDue():
            return InputRef(kind="timer", key=input.key, due=input.due)
        case EffectEnded():
            return InputRef(kind="effect", key=input.effect, body=codec.encode(input.result))
        case Init():
            return InputRef(kind="init")
        case _:
            assert_never(input)


def cause_of(actor: str, input: Input) -> str:
    """The cause that an input passes on: a mail's own, else the mail, else this very step."""
    if isinstance(input, Mailed):
        return input.cause or input.id
    return f"{actor}/{input.step}"


def build(
    author: Author,
    input: Input,
    now: float,
    changes: Sequence[Change],
    state: bytes | None,
    shown: Status | None = None,
) -> Built:
    """The commit of one step. `state` None: unchanged; `shown`: the status line until now."""
    cause = cause_of(author.actor, input)
    rows: list[Row] = []
    log: list[LogEntry] = []
    outbox: list[Out] = []
    timers: list[TimerSet] = []
    effects: list[EffectOpen] = []
    children: list[ChildChange] = []
    events: list[EventOut] = []
    starts: list[OpenEffect] = []
    cancels: list[str] = []
    says: list[Publish] = []
    status: Status | None = None
    session: SessionChange | None = None
    for change in changes:
        match change:
            case Send():
                to = (change.to,) if isinstance(change.to, str) else tuple(change.to)
                said = cause if change.cause is None else change.cause
                outbox.append(
                    Out(to=to, lane=change.lane, body=codec.encode(change.body), cause=said)
                )
            case Put():
                rows.append(
                    Row(table=change.table, key=change.key, value=codec.encode(change.value))
                )
            case Delete():
                rows.append(Row(table=change.table, key=change.key))
            case Append():
                log.append(LogEntry(n=change.n, value=codec.encode(change.entry)))
            case SetTimer():
                body = b"" if change.body is None else codec.encode(change.body)
                timers.append(TimerSet(key=change.key, due=change.due, body=body))
            case CancelTimer():
                timers.append(TimerSet(key=change.key))
            case Open():
                body = codec.encode(change.body)
                effects.append(EffectOpen(id=change.id, body=body, standing=change.standing))
                starts.append(OpenEffect(change.id, change.body, 1, change.standing))
            case Cancel():
                cancels.append(change.id)
            case Start():
                spec = msgspec.to_builtins(change.spec)
                children.append(ChildChange(name=change.spec.name, wanted="running", spec=spec))
            case Stop():
                children.append(
                    ChildChange(
                        name=change.name,
                        wanted="asleep" if change.asleep else "ended",
                        reason=change.reason,
                    )
                )
            case Emit():
                events.append(
                    EventOut(
                        type=change.type, data=change.data, cause=cause, session=change.session
                    )
                )
            case Show():
                status = _status(change, status or shown, now)
            case Session():
                session = _merged(session, change)
            case Say():
                says.append(Publish(topic=change.topic, data=change.data))
            case _:
                assert_never(change)
    commit = Commit(
        actor=author.actor,
        incarnation=author.incarnation,
        step=input.step,
        input=reference(input),
        now=now,
        generation=author.generation,
        state=state,
        version=author.version,
        rows=tuple(rows),
        log=tuple(log),
        outbox=tuple(outbox),
        timers=tuple(timers),
        effects=tuple(effects),
        children=tuple(children),
        events=tuple(events),
        status=status,
        session=session,
    )
    return Built(commit, tuple(starts), tuple(cancels), tuple(says))


def reopening(author: Author, step: int, now: float, left: Sequence[OpenEffect]) -> Built:
    """The first commit of an incarnation that finds effects open: each counts one attempt more.

    It consumes nothing (its input is `init` with the key "reopen"); only after it is acknowledged
    are the effects started again, so that the count on disk is never below the truth.
    """
    again = tuple(
        OpenEffect(effect.id, effect.body, effect.attempt + 1, effect.standing) for effect in left
    )
    commit = Commit(
        actor=author.actor,
        incarnation=author.incarnation,
        step=step,
        input=InputRef(kind="init", key="reopen"),
        now=now,
        generation=author.generation,
        version=author.version,
        effects=tuple(
            EffectOpen(
                id=effect.id,
                body=codec.encode(effect.body),
                attempt=effect.attempt,
                standing=effect.standing,
            )
            for effect in again
        ),
    )
    return Built(commit, again)


def _status(show: Show, before: Status | None, now: float) -> Status:
    same = (
        before is not None and before.state == show.state and before.waiting_for == show.waiting_for
    )
    since = before.since if same and before is not None else now
    return Status(state=show.state, waiting_for=show.waiting_for, since=since)


def _merged(before: SessionChange | None, change: Session) -> SessionChange:
    if before is None:
        return SessionChange(
            state=change.state, kind=change.kind, answer=change.answer, data=change.data
        )
    return SessionChange(
        state=before.state if change.state is None else change.state,
        kind=before.kind if change.kind is None else change.kind,
        answer=before.answer if change.answer is None else change.answer,
        data={**before.data, **change.data},
    )
