"""The gateways, as far as the hub has to do with them: who they are, who is there, and the orders
of one that will not perform them. Pure, over a `Batch`.

Their names are the daemon's (`loomd.boot`); the first is in the root's tree, the others sleep until
`models` has a call for them. What a dead one had open its successor does again. Only where there is
no successor, `models` puts the gateway to sleep, and gets its orders back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from loomd.actor.behaviour import Spec
from loomd.hub.recovery import ORDERLY
from loomd.hub.rules import HUB, MODELS
from loomd.store.schema import name_key
from loomd.store.tables import effect_row, stored_mail
from loomd.wire import codec
from loomd.wire.bodies import GatewaySeen, Undelivered, UseGateway
from loomd.wire.messages import CONTROL, WORK

if TYPE_CHECKING:
    from loomd.hub.mail import Batch

KIND: Final = "gateway"
FIRST: Final = "gateway-1"


def use(batch: Batch, specs: Sequence[Spec], *, fresh: bool) -> None:
    """Tells `models` which gateways there are, where there is a choice. Those beside the first
    sleep until they are called; `fresh`: the daemon begins, so that none of them runs."""
    current = [spec.name for spec in specs if spec.kind == KIND]
    known = [name for name in batch.rules.actors if batch.known(name).kind == KIND]
    others = []
    for name in known:
        row = batch.peek(name)
        if row is None or row.wanted == "ended" or name in current:
            continue
        if row.wanted == "running":
            others.append(name)
        else:
            batch.end(name, "replaced", by=HUB)
    for name in current[1:]:
        held = batch.peek(name)
        assert held is not None
        new = not held.fence and held.wanted == "running"
        if (fresh or new) and not batch.busy(name, held):
            batch.sleep(name)
    if current and {*known, *current} != {FIRST}:
        told = UseGateway(
            gateway=current[0],
            more=tuple(current[1:]),
            others=tuple(sorted(others)),
            fresh=fresh,
        )
        id = f"{HUB}/gateway.{batch.rules.epoch}"
        batch.deliver(MODELS, CONTROL, id, HUB, codec.encode(told), force=True)


def died(note: dict[str, Any]) -> bool:
    """Whether the root's note of an exit tells of an end that nobody has ordered."""
    return bool(note.get("signal")) or int(note.get("status") or 0) not in ORDERLY


def seen(batch: Batch, name: str, incarnation: int, *, up: bool) -> None:
    """One has died, or its successor is there: said in line with what it has said itself."""
    if batch.known(name).kind != KIND or len(_running(batch)) < 2:
        return
    told = codec.encode(GatewaySeen(gateway=name, up=up))
    id = f"{HUB}/{name}.{incarnation}.{'up' if up else 'down'}"
    batch.deliver(MODELS, WORK, id, HUB, told)


def _running(batch: Batch) -> list[str]:
    return [
        name
        for name, row in batch.rules.actors.items()
        if batch.known(name).kind == KIND and row.wanted == "running"
    ]


def give_back(batch: Batch, name: str) -> None:
    """What it has open, and what waits for it, to `models`: nobody here will do it."""
    for key, raw in list(batch.txn.scan("effects", name_key(name))):
        effect = effect_row.decode(raw)
        batch.txn.delete("effects", key)
        part = key[len(name_key(name)) :].decode()
        _back(batch, f"{name}/effect.{part}", name, effect.body, effect.attempt)
    row = batch.actor(name)
    assert row is not None
    for key, raw in list(batch.txn.scan("mail", name_key(name))):
        mail = stored_mail.decode(raw)
        batch.txn.delete("mail", key)
        row.boxed[mail.lane] -= 1
        if mail.sender == MODELS:
            _back(batch, mail.id, name, batch.body_of(mail), 0)


def _back(batch: Batch, id: str, name: str, body: bytes, attempts: int) -> None:
    told = Undelivered(id=id, to=name, reason="given_back", body=body, attempts=attempts)
    batch.deliver(MODELS, CONTROL, f"{id}!{name}", HUB, codec.encode(told))
