"""What ends its reader again and again is set aside: mail, a due timer, an effect. Pure.

The root says what an incarnation had in hand when it died of that. The count stands with the thing
itself; at `poison_crashes` it goes to the dead letters, and who sent it is told: of a timer or an
effect that is the actor itself. A person may put it back (`retry`) or forget it (`drop`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from loomd.store.schema import mail_key, mark_of, name_key, session_of, text_key
from loomd.store.tables import (
    MAX_KEY,
    DeadRow,
    EffectRow,
    TimerRow,
    dead_row,
    effect_row,
    encoder,
    stored_mail,
    timer_row,
)
from loomd.wire.messages import WORK

if TYPE_CHECKING:
    from loomd.hub.mail import Batch

_encode = encoder.encode


def blame(batch: Batch, name: str, in_hand: dict[str, Any], reason: str) -> None:
    """An incarnation died of what it had in hand: {kind, lane, seq} of the root's note.

    mail     lane and sequence
    timer    `seq` is the mark of its key; effect: of its id
    effects  a performer died while effects were open: which of them it was, nobody knows, so each
             is suspected. Standing ones are not: they are open whatever happens.
    """
    lane, seq = int(in_hand.get("lane", WORK)), int(in_hand.get("seq", 0))
    match in_hand.get("kind"):
        case "mail" | 1:
            _mail(batch, name, lane, seq, reason)
        case "timer":
            for key, raw in list(batch.txn.scan("timers", name_key(name))):
                if mark_of(part := _part(key, name)) == seq:
                    _own_fault(batch, name, "timer", part, timer_row.decode(raw), reason)
        case "effect":
            for key, raw in list(batch.txn.scan("effects", name_key(name))):
                if mark_of(part := _part(key, name)) == seq:
                    _own_fault(batch, name, "effect", part, effect_row.decode(raw), reason)
        case "effects":
            for key, raw in list(batch.txn.scan("effects", name_key(name))):
                row = effect_row.decode(raw)
                if not row.standing:
                    _own_fault(batch, name, "effect", _part(key, name), row, reason)
        case _:
            pass  # its loop, or its birth: nothing that could be set aside


def _mail(batch: Batch, name: str, lane: int, seq: int, reason: str) -> None:
    key = mail_key(name, lane, seq)
    raw = batch.txn.get("mail", key)
    if raw is None:
        return
    mail = stored_mail.decode(raw)
    crashes = mail.attempt
    if crashes < batch.rules.poison_crashes:
        again = msgspec.structs.replace(mail, attempt=crashes + 1)
        batch.txn.put("mail", key, _encode(again))
        return
    batch.txn.delete("mail", key)
    row = batch.actor(name)
    assert row is not None
    row.boxed[lane] -= 1
    dead = DeadRow(
        id=f"{name}:{lane}.{seq}",
        actor=name,
        lane=lane,
        seq=seq,
        crashes=crashes,
        error=reason,
        ts=batch.now,
        sender=mail.sender,
        mail=raw,
    )
    _bury(batch, dead, mail.id, mail.cause)
    batch.undelivered(mail.sender, mail.id, name, "poison", batch.body_of(mail))


def _own_fault(
    batch: Batch, name: str, kind: str, key: str, row: TimerRow | EffectRow, reason: str
) -> None:
    """The same for a timer or an effect of its own."""
    table = f"{kind}s"
    row.crashes += 1
    if row.crashes < batch.rules.poison_crashes:
        batch.txn.put(table, text_key(name, key), _encode(row))
        return
    batch.txn.delete(table, text_key(name, key))
    dead = _own(batch, name, kind, key, row.crashes, reason)
    dead.body = row.body
    if isinstance(row, TimerRow):
        batch.disarm(name, key)
        dead.due = row.due
    else:
        dead.standing = row.standing
    _bury(batch, dead, f"{kind} {key}")
    batch.undelivered(name, f"{name}/{kind}.{key}", name, "poison", row.body)


def _own(batch: Batch, name: str, kind: str, key: str, crashes: int, reason: str) -> DeadRow:
    held = batch.peek(name)
    step = held.step if held is not None else 0  # one key may be set aside more than once
    id = f"{name}:{kind}.{key}.{step}"
    if len(id.encode()) > MAX_KEY:
        id = f"{name}:{kind}.{mark_of(key):x}.{step}"
    return DeadRow(
        id=id,
        actor=name,
        kind=kind,
        key=key,
        crashes=crashes,
        error=reason,
        ts=batch.now,
        sender=name,
    )


def _bury(batch: Batch, dead: DeadRow, what: str, cause: str = "") -> None:
    batch.txn.put("dead", dead.id.encode(), _encode(dead))
    data = {
        "id": dead.id,
        "name": dead.actor,
        "kind": dead.kind,
        "message": what,
        "crashes": dead.crashes,
        "error": dead.error,
    }
    batch.event(session_of(dead.actor), "poison", dead.actor, data, cause)


# --- what a person does about it ---------------------------------------------------------------


def find(batch: Batch, id: str) -> DeadRow | None:
    raw = batch.txn.get("dead", id.encode()) if id and len(id.encode()) <= MAX_KEY else None
    return None if raw is None else dead_row.decode(raw)


def retry(batch: Batch, dead: DeadRow) -> str:
    """Puts it back as if it had never failed; "" or why that cannot be. An effect is started when
    its actor is born, so that one is restarted in order, or woken."""
    if dead.kind == "mail":
        mail = stored_mail.decode(dead.mail)
        body = batch.body_of(mail)
        return batch.deliver(
            dead.actor, dead.lane, mail.id, mail.sender, body, mail.cause, force=True
        )
    held = batch.peek(dead.actor)
    if held is None or held.wanted == "ended":
        return "no_such_actor"
    table = f"{dead.kind}s"
    if batch.txn.get(table, text_key(dead.actor, dead.key)) is not None:
        return f"there is a {dead.kind} {dead.key!r} again"
    if dead.kind == "timer":
        row = TimerRow(due=dead.due, body=dead.body)
        batch.txn.put(table, text_key(dead.actor, dead.key), _encode(row))
        batch.arm(dead.actor, dead.key, dead.due, dead.body)
    else:
        # Its successor starts it, and counts one attempt more.
        effect = EffectRow(body=dead.body, attempt=0, standing=dead.standing)
        batch.txn.put(table, text_key(dead.actor, dead.key), _encode(effect))
        batch.bounce(dead.actor)
    return ""


def _part(key: bytes, name: str) -> str:
    return key[len(name_key(name)) :].decode()
