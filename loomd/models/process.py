"""The actor `models`: which request goes to which model, when, and what a failure leads to.

Its rows are its memory: `queue` holds every request that is not settled (and, for a while, the
answers of those that are), `ledger` every attempt. What follows from them (calls under way,
money spent and reserved) is rebuilt in `init`; `save` keeps only what does not.
"""

from __future__ import annotations

from typing import Any

import msgspec

from loomd.actor import behaviour as act
from loomd.actor.behaviour import Birth, Change, Input
from loomd.models import attempt, ending, launch, saved
from loomd.models.queue import Item
from loomd.models.state import State
from loomd.store.schema import session_of
from loomd.wire import bodies, codec
from loomd.wire.bodies import Failed, ModelOutcome, ModelRequest, Performed
from loomd.wire.errors import LoomError

PRICE_AGAIN_S = 1.0
"""After a question about a price that the gateway's mailbox did not take."""


class ModelsBehaviour:
    """See the package. Deterministic: no performer."""

    version = 1

    def init(self, birth: Birth) -> State:
        return saved.restore(birth)

    def save(self, state: State) -> Any:
        return saved.plain(state)

    def upgrade(self, saved: Any, version: int) -> Any:
        return saved

    def answer(self, state: State, question: bodies.Body, reader: act.Reader) -> bodies.Body:
        """`Note`: what waits, what runs, and why nothing else does."""
        if not isinstance(question, bodies.Note):
            raise LoomError("bad_request", "models answers a status question (Note) only")
        return bodies.Note(data=launch.snapshot(state))

    def step(self, state: State, input: Input, now: float) -> tuple[State, list[Change]]:
        out: list[Change] = []
        match input:
            case act.Mailed(body=ModelRequest() as request):
                self._asked(state, input, request, out)
            case act.Mailed(body=bodies.CancelModel(request="", agent=agent)):
                items = state.queue.items.values()
                for id in [item.request.id for item in items if item.request.agent == agent]:
                    self._cancelled(state, input.sender, id, out)
            case act.Mailed(body=bodies.CancelModel(request=id)):
                self._cancelled(state, input.sender, id, out)
            case act.Mailed(body=Performed() as performed):
                item = _under_way(state, performed.request, performed.attempt)
                if item is not None and input.sender.startswith("gateway-"):
                    attempt.ended(state, item, performed, now, out)
            case act.Mailed(body=bodies.Priced() as priced):
                if input.sender.startswith("gateway-"):
                    self._priced(state, priced)
            case act.Mailed(sender="hub", body=bodies.UseGateway() as use):
                state.pool.use(use)
                state.asking.clear()  # one that leaves may not answer any more
            case act.Mailed(sender="hub", body=bodies.GatewaySeen(gateway=name, up=up)):
                state.pool.seen(name, up, now)
            case act.Mailed(sender="hub", body=bodies.Configured() as configured):
                self._configured(state, configured)
            case act.Mailed(body=bodies.Undelivered() as lost):
                self._undelivered(state, lost, now, out)
            case act.TimerDue(key=launch.WAKE):
                state.wake = 0.0
            case _:
                pass  # Init, and what nobody should send: nothing to do
        launch.launch(state, now, out)
        self._let_leave(state, out)
        # The hub gives back what these have, in the commit of this step.
        out += [act.Stop(name, asleep=True, reason="dead") for name in state.pool.lost(now)]
        launch.rearm(state, now, out)
        launch.show(state, now, out)
        saved.spent(state, out)
        return state, out

    def _asked(
        self, state: State, mail: act.Mailed, request: ModelRequest, out: list[Change]
    ) -> None:
        if state.queue.get(request.id) is not None:
            return  # its answer will come
        if request.id in state.settled:
            _, raw = state.settled[request.id]
            known = codec.body(raw) if raw else None
            if not isinstance(known, ModelOutcome):
                known = ModelOutcome(
                    request=request.id,
                    outcome=Failed(
                        kind="interrupted",
                        detail="this request was performed and answered before",
                    ),
                )
            out.append(act.Send(mail.sender, known))
            return
        if not request.agent:
            request = msgspec.structs.replace(request, agent=mail.sender)
        state.order += 1
        item = Item(
            request=request,
            order=state.order,
            cause=mail.cause or mail.id,
            chain=state.rules.chain(request),
            tokens=state.rules.estimate(request),
        )
        item.link = min(state.escalation.level(attempt.task_of(item)), len(item.chain) - 1)
        state.queue.add(item)
        out.append(ending.put(item))

    def _cancelled(self, state: State, sender: str, id: str, out: list[Change]) -> None:
        item = state.queue.get(id)
        if item is None:
            if id not in state.settled:
                # It overtook its request (control before work): remembered, so that the request
                # is answered without being performed.
                failed = ModelOutcome(request=id, outcome=ending.cancelled())
                ending.remember(state, session_of(sender), id, failed, out)
            return
        if sender not in (item.request.agent, f"{item.session}/team"):
            return
        if item.state == "waiting":
            ending.fail(state, item, ending.cancelled(), out)
        elif not item.cancelled:
            item.cancelled = True
            out.append(ending.put(item))
            out.append(act.Send(item.gateway, bodies.CancelModel(request=id), cause=item.cause))

    def _priced(self, state: State, priced: bodies.Priced) -> None:
        state.asking.pop(priced.model, None)
        state.budget.prices[priced.model] = priced.price
        if priced.max_output is not None:
            state.budget.longest[priced.model] = priced.max_output

    def _configured(self, state: State, configured: bodies.Configured) -> None:
        """What waits keeps its chain of models: it was promised that."""
        before = state.settings.get("providers")
        state.configure({**state.settings, **configured.settings})
        if state.settings.get("providers") != before:
            state.breakers.clear()  # another key, or another server: what was found out is of none

    def _undelivered(
        self, state: State, lost: bodies.Undelivered, now: float, out: list[Change]
    ) -> None:
        body = codec.body(lost.body) if lost.body else None
        if isinstance(body, bodies.AskPrice) and body.model in state.asking:
            state.asking[body.model] = now + PRICE_AGAIN_S
        if isinstance(body, bodies.Perform):
            item = _under_way(state, body.request.id, body.attempt)
            if item is not None:
                attempt.undelivered(state, item, lost, now, out)

    def _let_leave(self, state: State, out: list[Change]) -> None:
        """Ends older gateways that have no call any more: none is ever given to them again."""
        for name in state.pool.idle():
            state.pool.leaving.discard(name)
            out.append(act.Stop(name, reason="replaced"))


def _under_way(state: State, request: str, attempt: int) -> Item | None:
    """The request, if exactly this attempt of it is with a gateway."""
    item = state.queue.get(request)
    if item is None or item.state != "running" or item.attempt != attempt:
        return None
    return item


def main(birth: Any) -> None:
    """Entry point of the process."""
    from loomd.actor.host import run

    run(birth, ModelsBehaviour(), None)
