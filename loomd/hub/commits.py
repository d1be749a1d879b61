"""A commit of an actor: what it may say, and what it changes. Pure, over a `Batch`.

It is checked whole before its first write, so a refused one leaves no trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from loomd.hub import accounts, gateways, recovery, supervision
from loomd.hub.rules import HUB, LIVE, OVER, TEST_KINDS, Known, read_spec
from loomd.store.schema import TABLES, mail_key, name_key, number_key, session_of, text_key
from loomd.store.tables import (
    MAX_KEY,
    ActorRow,
    EffectRow,
    InputRow,
    TimerRow,
    effect_row,
    timer_row,
)
from loomd.wire import codec
from loomd.wire.errors import LoomError
from loomd.wire.messages import WORK, ChildChange, Commit, Refused, Status

if TYPE_CHECKING:
    from loomd.hub.mail import Batch

MAX_BODY: Final = codec.BODY_LIMIT
"""A mail must fit a frame together with its ids."""

SHARE_FROM: Final = 128
"""Bytes from which a body for several recipients is stored once."""

NOT_BY_SESSION: Final = frozenset({"ledger", "queue", "decisions"})
"""Tables with an owner whose keys do not begin with a session."""

ANSWERING: Final = frozenset({"models", "gateway"})
"""Kinds that answer what the hub itself has asked."""

STARTERS: Final = TEST_KINDS | {"team"}
"""Kinds whose commits may start and stop other actors of their session."""

_encode = msgspec.msgpack.Encoder().encode


def problem(batch: Batch, commit: Commit, row: ActorRow) -> Refused | None:
    """Why this commit can never be applied. Reads only."""
    try:
        _check(batch, commit, row)
    except LoomError as error:
        return Refused(code=error.code, detail=error.message, step=commit.step)
    return None


def _check(batch: Batch, commit: Commit, row: ActorRow) -> None:
    name = commit.actor
    known = batch.known(name)
    session = known.session
    ref = commit.input
    if ref.kind == "mail":
        if batch.txn.get("mail", mail_key(name, ref.lane & 1, ref.seq)) is None:
            raise _bad(f"no mail {ref.lane}.{ref.seq} in the mailbox")
    elif ref.kind == "effect":
        key = _checked_key(text_key(name, ref.key))
        if batch.txn.get("effects", key) is None:
            raise _bad(f"no effect {ref.key!r} is open")
    elif ref.kind == "timer":
        _checked_key(text_key(name, ref.key))
    if commit.state is not None and len(commit.state) > codec.BLOB_LIMIT:
        raise LoomError("too_large", f"state of {len(commit.state)} bytes")
    for put in commit.rows:
        owners = TABLES.get(put.table)
        if owners is None or known.kind not in owners:
            raise _bad(f"{known.kind} does not own table {put.table!r}")
        _checked_key(put.key)
        if put.table not in NOT_BY_SESSION and not put.key.startswith(name_key(session)):
            raise _bad(f"row of table {put.table} is not of session {session!r}")
    for i, entry in enumerate(commit.log, row.log + 1):
        if entry.n != i:
            raise _bad(f"log entry {entry.n} where {i} comes next")
    for out in commit.outbox:
        if len(out.body) > MAX_BODY:
            raise LoomError("too_large", f"mail body of {len(out.body)} bytes")
        for to in out.to:
            _checked_key(mail_key(to, out.lane, 0))
    for timer in commit.timers:
        _checked_key(text_key(name, timer.key))
    for effect in commit.effects:
        _checked_key(text_key(name, effect.id))
    for child in commit.children:
        _check_child(batch, child, name, known)
    for event in commit.events:
        if event.session and session and event.session != session:
            raise _bad(f"event for session {event.session!r} from {name}")
    if commit.session is not None and known.kind not in STARTERS:
        raise _bad(f"{known.kind} may not change its session")


def _check_child(batch: Batch, child: ChildChange, name: str, known: Known) -> None:
    mine = child.name == name or (
        known.kind in STARTERS and session_of(child.name) == known.session
    )
    if not mine and not _lets_leave(batch, child, known):
        raise _bad(f"{name} may not change {child.name!r}")
    _checked_key(mail_key(child.name, WORK, 0))
    if child.wanted == "running":
        spec = read_spec(child.spec or {})
        if spec.name != child.name or spec.session != known.session:
            raise _bad(f"the spec of {child.name!r} names another actor or session")


def _lets_leave(batch: Batch, child: ChildChange, known: Known) -> bool:
    """models ends a gateway that it has no call with any more; a dead one it lets sleep."""
    if known.kind != "models" or child.wanted == "running":
        return False
    return batch.peek(child.name) is not None and batch.known(child.name).kind == gateways.KIND


def apply(batch: Batch, commit: Commit, row: ActorRow) -> None:
    txn, result, name, step = batch.txn, batch.result, commit.actor, commit.step
    session = batch.known(name).session
    row.step = step
    row.fails = 0
    row.generation = commit.generation
    if row.recovery is not None and row.recovery.rung:
        recovery.held(batch, name, row)
    if commit.state is not None:
        row.state, row.version = commit.state, commit.version
    _consume(batch, commit, row)
    for put in commit.rows:
        if put.value is None:
            txn.delete(put.table, put.key)
        else:
            txn.put(put.table, put.key, put.value)
            batch.attempts += put.table == accounts.LEDGER
    for entry in commit.log:
        txn.put("log", number_key(name, entry.n), entry.value)
        row.log = entry.n
    for timer in commit.timers:
        key = text_key(name, timer.key)
        if timer.due is None:
            txn.delete("timers", key)
        else:
            txn.put("timers", key, _encode(TimerRow(due=timer.due, body=timer.body)))
        result.timers.append((name, timer.key, timer.due, timer.body))
    for effect in commit.effects:
        key = text_key(name, effect.id)
        before = txn.get("effects", key)  # there already: it is opened again by a successor
        opened = EffectRow(
            body=effect.body,
            attempt=effect.attempt,
            standing=effect.standing,
            crashes=0 if before is None else effect_row.decode(before).crashes,
        )
        txn.put("effects", key, _encode(opened))
    for event in commit.events:
        batch.event(event.session or session, event.type, name, event.data, event.cause)
    if commit.session is not None:
        _session_change(batch, commit)
    for child in commit.children:
        _child_change(batch, child, name)
    for i, out in enumerate(commit.outbox):
        id = f"{name}/{step}.{i}"
        shared = ""
        if len(out.to) > 1 and len(out.body) >= SHARE_FROM:
            shared = id
            txn.put("bodies", id.encode(), out.body)
        for to in out.to:
            if to == HUB and batch.known(name).kind in ANSWERING:
                batch.result.told.append(out.body)
                continue
            why = batch.deliver(to, out.lane, id, name, out.body, out.cause, shared=shared)
            if why:
                batch.undelivered(name, id, to, why, out.body)
    if commit.status is not None:
        _show(batch, name, row, commit.status)
    if commit.session is not None and commit.session.state in OVER:
        batch.rest(session)


def _show(batch: Batch, name: str, row: ActorRow, status: Status) -> None:
    if row.wanted != "running":
        return
    row.status, row.waiting_for = status.state, status.waiting_for
    row.status_since = status.since or batch.now
    row.told = (row.status, row.waiting_for, row.status_since)
    batch.result.status = (name, row.status, row.waiting_for, row.status_since)


def _consume(batch: Batch, commit: Commit, row: ActorRow) -> None:
    ref, name = commit.input, commit.actor
    record = InputRow(kind=ref.kind, now=commit.now, generation=commit.generation)
    if ref.kind == "mail":
        lane = ref.lane & 1
        key = mail_key(name, lane, ref.seq)
        raw = batch.txn.get("mail", key)
        assert raw is not None
        batch.txn.delete("mail", key)
        row.boxed[lane] -= 1
        record.lane, record.seq, record.mail = lane, ref.seq, msgspec.Raw(raw)
        batch.result.consumed = (name, lane, ref.seq)
    elif ref.kind == "timer":
        record.key = ref.key
        key = text_key(name, ref.key)
        raw = batch.txn.get("timers", key)
        if raw is not None:
            timer = timer_row.decode(raw)
            record.due, record.body = timer.due, timer.body
            # One that was armed anew while its predecessor fired stays. Told by its due time,
            # not by the clock: that may have been set back since it fired.
            if timer.due == ref.due or (not ref.due and timer.due <= commit.now):
                batch.txn.delete("timers", key)
                batch.result.timers.append((name, ref.key, None, b""))
    elif ref.kind == "effect":
        record.key = ref.key
        key = text_key(name, ref.key)
        raw = batch.txn.get("effects", key)
        if raw is not None:
            record.body = ref.body or effect_row.decode(raw).body
            batch.txn.delete("effects", key)
    else:
        record.key = ref.key
    batch.txn.put("inputs", number_key(name, commit.step), _encode(record))


def _child_change(batch: Batch, child: ChildChange, by: str) -> None:
    if child.wanted == "running":
        batch.create(read_spec(child.spec or {}))
        if supervision.failed(batch.peek_session(session_of(child.name))):
            supervision.halt(batch, child.name)  # while its supervisor gives up: not now
    elif child.wanted == "ended":
        batch.end(child.name, child.reason, by)
    else:
        if batch.known(child.name).kind == gateways.KIND:
            gateways.give_back(batch, child.name)
        row = batch.peek(child.name)
        if row is None or batch.busy(child.name, row):
            return
        batch.sleep(child.name)
        batch.result.ended.append(child.name)


def _session_change(batch: Batch, commit: Commit) -> None:
    change = commit.session
    assert change is not None
    row = batch.session(session_of(commit.actor))
    if row is None:
        return
    if supervision.failed(row) and not supervision.concludes(batch, row, change.state):
        return
    was = row.state
    if change.state is not None:
        row.state = change.state
        if change.state in OVER:
            row.ended = batch.now if was not in OVER else row.ended
        else:
            row.ended = None
    if change.kind is not None:
        row.kind = change.kind
    if change.answer is not None:
        row.answer = change.answer
    if change.data:
        row.data = {**row.data, **change.data}
    if was in OVER and row.state in LIVE:
        batch._rouse(row.session)


def _bad(message: str) -> LoomError:
    return LoomError("bad_request", message)


def _checked_key(key: bytes) -> bytes:
    if len(key) > MAX_KEY:
        raise _bad(f"a key of {len(key)} bytes")
    return key
