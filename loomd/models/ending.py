"""What is said and kept of a request that has ended, and how one goes on with the next model."""

from __future__ import annotations

from typing import Any

from loomd.actor import behaviour as act
from loomd.actor.behaviour import Change
from loomd.models.queue import Item
from loomd.models.state import State
from loomd.store.schema import text_key
from loomd.wire import codec
from loomd.wire.bodies import Failed, ModelOutcome

REMEMBERED = 2048
"""Settled requests whose repetition is recognised."""

ANSWER_LIMIT = 32 << 10
"""Bytes of an answer kept for a repetition; a longer one was delivered and is not kept."""


def put(item: Item) -> act.Put:
    return act.Put("queue", text_key(item.session, item.request.id), item.row())


def about(item: Item) -> dict[str, Any]:
    """What every event of a request says."""
    return {"agent": item.request.agent, "request": item.request.id, "model": item.model}


def cancelled() -> Failed:
    return Failed(kind="cancelled", detail="cancelled before its answer came")


def fall_back(
    state: State,
    item: Item,
    failed: Failed,
    now: float,
    out: list[Change],
) -> None:
    """On with the next model of the chain; the end, if there is none."""
    if item.link + 1 >= len(item.chain):
        fail(state, item, failed, out)
        return
    before = item.model
    item.link += 1
    item.tries = 0
    item.failed_at = None
    item.not_before = now
    out.append(put(item))
    data = about(item) | {"from": before, "to": item.model, "kind": failed.kind}
    out.append(act.Emit("model_fallback", data, session=item.session))


def fail(state: State, item: Item, failed: Failed, out: list[Change]) -> None:
    """The end without an answer, said to the asker."""
    done = ModelOutcome(request=item.request.id, outcome=failed, usage=item.usage, model=item.model)
    out.append(act.Send(item.request.agent, done, cause=item.cause))
    state.queue.remove(item.request.id)
    remember(state, item.session, item.request.id, done, out)


def remember(
    state: State,
    session: str,
    id: str,
    done: ModelOutcome,
    out: list[Change],
) -> None:
    """A repetition of the request is answered from here."""
    state.order += 1
    raw = codec.encode(done)
    raw = raw if len(raw) <= ANSWER_LIMIT else b""
    state.settled[id] = (session, raw)
    row = {"state": "done", "id": id, "session": session, "order": state.order, "outcome": raw}
    out.append(act.Put("queue", text_key(session, id), row))
    while len(state.settled) > REMEMBERED:
        oldest = next(iter(state.settled))
        of, _ = state.settled.pop(oldest)
        out.append(act.Delete("queue", text_key(of, oldest)))
