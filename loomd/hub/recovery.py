"""Failures of actors that have a recovery ladder, booked where they stand. Pure, over a `Batch`.

The history is part of the actor's row and changes in the same transaction as the exit, or the
commit, that it follows from; what the successor shall do is a control mail of that transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from loomd.actor.ladder import Rung, climb, name_of, steady
from loomd.hub.rules import HUB
from loomd.store.tables import ActorRow, History
from loomd.wire import codec
from loomd.wire.bodies import Recover
from loomd.wire.messages import CONTROL

if TYPE_CHECKING:
    from loomd.hub.mail import Batch


ORDERLY: Final = frozenset({0, 70, 71, 72, 73})
"""Exit statuses that are no failure of the actor: see the table in loomd.supervise.spec."""

OUTSIDE: Final = frozenset({1, 2, 9, 15})
"""HUP, INT, KILL, TERM: what comes from outside. An actor that deserves such a SIGKILL (it was
hung, or one mail has led to ten of them) is blamed."""

SHOWN: Final = 50
"""Climbs and descents that a session's row remembers, for people."""


class _Ladder(msgspec.Struct):
    ladder: tuple[Rung, ...] = ()


_ladder = msgspec.msgpack.Decoder(_Ladder)


def is_failure(note: dict[str, Any]) -> bool:
    """Whether the root's note of an exit tells of a failure of the actor's own."""
    if note.get("blame"):
        return True
    if note.get("asked"):
        return False
    number = int(note.get("signal") or 0)
    return number not in OUTSIDE if number else int(note.get("status") or 0) not in ORDERLY


def fell(batch: Batch, name: str, row: ActorRow, reason: str) -> None:
    """An actor that is wanted running has failed. `row` may be changed."""
    ladder = _ladder.decode(row.spec).ladder
    if not ladder:
        return
    before = row.recovery or History()
    row.recovery = after = climb(ladder, before, batch.now)
    rung = name_of(ladder, after.rung)
    if after.rung != before.rung:
        _event(batch, name, ladder, before.rung, after, reason)
    if after.rung == len(ladder):
        batch.end(name, f"gave up: {reason}", by=HUB)
    elif after.rung != before.rung or rung == "conversation":
        _tell(batch, name, rung, after, reason)


def held(batch: Batch, name: str, row: ActorRow) -> None:
    """It has committed a step: a rung that has held long enough is left. `row` may be changed."""
    assert row.recovery is not None
    before, ladder = row.recovery, _ladder.decode(row.spec).ladder
    after = steady(ladder, before, batch.now)
    if after is None:
        return
    row.recovery = after
    reason = f"no failure for {ladder[min(before.rung, len(ladder) - 1)].period_s:g} s"
    _event(batch, name, ladder, before.rung, after, reason)
    _tell(batch, name, name_of(ladder, after.rung), after, reason)


def _tell(batch: Batch, name: str, rung: str, history: History, reason: str) -> None:
    row = batch.peek(name)
    assert row is not None
    id = f"{name}/recover.{row.fence}.{row.step}"
    body = codec.encode(Recover(rung=history.rung, do=rung, reason=reason[:500]))
    batch.deliver(name, CONTROL, id, HUB, body)


def _event(
    batch: Batch, name: str, ladder: tuple[Rung, ...], before: int, after: History, reason: str
) -> None:
    data = {
        "name": name,
        "rung": name_of(ladder, after.rung),
        "from": name_of(ladder, before),
        "cause": "crash" if after.rung > before else "steady",
        "reason": reason[:500],
    }
    batch.event(name.partition("/")[0] if "/" in name else "", "recovery", name, data)


def shown(rows: list[dict[str, Any]], ts: float, data: dict[str, Any]) -> list[dict[str, Any]]:
    """A session's last climbs with one more: what `show` lists."""
    keys = ("name", "rung", "from", "cause", "reason")
    return [*rows, {"ts": ts, **{key: data.get(key, "") for key in keys}}][-SHOWN:]
