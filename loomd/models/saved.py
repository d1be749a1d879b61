"""What of the state is kept beside its rows, and the state of a new incarnation from both.

The ledger is never read for it: it grows for ever. What was spent on each node of the budgets has a
row of its own in table `queue`, put in the commit that puts the ledger's.
"""

from __future__ import annotations

from typing import Any

from loomd.actor import behaviour as act
from loomd.actor.behaviour import Birth, Change
from loomd.models import ledger
from loomd.models.breaker import Breaker
from loomd.models.escalation import Escalation
from loomd.models.pool import Pool
from loomd.models.queue import Item
from loomd.models.state import State
from loomd.store.schema import text_key

SPENT = "~spent"
"""Where a session's id stands in the keys of table `queue`; no session is named like that."""


def restore(birth: Birth) -> State:
    """Calls under way, and money reserved and spent, follow from the queue."""
    state = State(birth.settings)
    saved = birth.saved or {}
    served = saved.get("served") or ["", ""]
    if isinstance(served, str):  # of a version without interactive sessions
        served = [served, ""]
    state.queue.served = {
        first: name for first, name in zip((False, True), served, strict=True) if name
    }
    state.queue.favoured = saved.get("favoured", 0)
    state.wake = saved.get("wake", 0.0)
    state.shown = tuple(saved.get("shown") or ("", ""))
    state.pool = Pool.of(saved.get("pool") or {})
    state.asking = dict(saved.get("asking") or {})
    state.unbound = {(session, model) for session, model in saved.get("unbound") or ()}
    state.limiter.restore(saved.get("lanes") or {})
    state.escalation = Escalation.of(saved.get("escalation") or {})
    prices = saved.get("prices") or {}
    state.budget.prices = {m: None if p is None else (p[0], p[1]) for m, p in prices.items()}
    state.budget.longest = dict(saved.get("longest") or {})
    state.budget.surplus = dict(saved.get("surplus") or {})
    warned = saved.get("warned")
    state.budget.warned = dict(warned) if isinstance(warned, dict) else {}
    for model, fields in (saved.get("breakers") or {}).items():
        state.breakers[model] = Breaker(*fields)
    _queue(state, birth)
    if saved.get("rows") is not None:
        state.rows = saved["rows"]
        return state
    for _, row in birth.reader.rows("ledger", b""):  # of a version that summed at each birth
        state.rows += 1
        path, amount = ledger.booked(row)
        state.budget.settle(path, 0.0, amount)
    return state


def spent(state: State, out: list[Change]) -> None:
    """The rows of the nodes on which was spent."""
    for node in sorted(state.budget.unsaved):
        row = {"state": "spent", "node": node, "usd": state.budget.spent[node]}
        out.append(act.Put("queue", text_key(SPENT, node), row))
    state.budget.unsaved.clear()


def _queue(state: State, birth: Birth) -> None:
    rows = []
    for _, row in birth.reader.rows("queue", b""):
        if row["state"] == "spent":
            state.budget.spent[row["node"]] = row["usd"]
        else:
            rows.append(row)
    for row in sorted(rows, key=_order):
        state.order = max(state.order, row["order"])
        if row["state"] == "done":
            state.settled[row["id"]] = (row["session"], row["outcome"])
            continue
        item = Item.from_row(row)
        state.queue.add(item)
        if item.state == "running":
            item.lane = item.lane or state.limiter.name_of(item.model)
            state.limiter.lane(item.lane).active += 1
            state.pool.begin(item.gateway)
            state.budget.hold(item.path, item.reserved)


def _order(row: dict[str, Any]) -> int:
    order = row["order"]
    assert isinstance(order, int)
    return order


def plain(state: State) -> dict[str, Any]:
    """What cannot be rebuilt from rows."""
    return {
        "served": [state.queue.served.get(first, "") for first in (False, True)],
        "favoured": state.queue.favoured,
        "rows": state.rows,
        "wake": state.wake,
        "shown": list(state.shown),
        "lanes": state.limiter.saved(),
        "escalation": state.escalation.saved(),
        "prices": {m: None if p is None else list(p) for m, p in state.budget.prices.items()},
        "longest": state.budget.longest,
        "surplus": state.budget.surplus,
        "pool": state.pool.saved(),
        "asking": state.asking,
        "unbound": [list(one) for one in sorted(state.unbound)],
        "warned": state.budget.warned,
        "breakers": {
            model: [one.failures, one.until, one.period, one.probing, one.kind]
            for model, one in state.breakers.items()
            if one != Breaker()
        },
    }
