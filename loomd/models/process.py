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
from loomd.models import ledger
from loomd.models.breaker import Breaker
from loomd.models.limiter import FREE, provider_of
from loomd.models.queue import FIRST_GATEWAY, RETRY_AFTER_CAP_S, Item, backoff
from loomd.models.state import State
from loomd.store.schema import session_of, text_key
from loomd.wire import bodies, codec
from loomd.wire.bodies import Failed, ModelOutcome, ModelRequest, Performed
from loomd.wire.errors import LoomError

TRIES = 4
"""Attempts on one model before its fallback, or the end."""

PATIENCE_S = 180.0
"""How long after its first failure a request may still be tried on one model."""

REMEMBERED = 2048
"""Settled requests whose repetition is recognised."""

ANSWER_LIMIT = 32 << 10
"""Bytes of an answer kept for a repetition; a longer one was delivered and is not kept."""

FINAL = frozenset({"cancelled", "budget", "unknown_goal", "refused", "filtered", "interrupted"})
"""Kinds that no other try and no other model would make better, or that may have been paid for."""

WAKE = "wake"


class ModelsBehaviour:
    """See the package. Deterministic: no performer."""

    version = 1

    # --- birth and what is kept ----------------------------------------------------------------

    def init(self, birth: Birth) -> State:
        state = State(birth.settings)
        saved = birth.saved or {}
        state.queue.served = saved.get("served", "")
        state.wake = saved.get("wake", 0.0)
        state.shown = tuple(saved.get("shown") or ("", ""))
        state.gateway = saved.get("gateway") or FIRST_GATEWAY
        state.leaving = set(saved.get("leaving") or ())
        state.limiter.paused = dict(saved.get("paused") or {})
        prices = saved.get("prices") or {}
        state.budget.prices = {m: None if p is None else (p[0], p[1]) for m, p in prices.items()}
        state.budget.warned = set(saved.get("warned") or ())
        for model, fields in (saved.get("breakers") or {}).items():
            state.breakers[model] = Breaker(*fields)
        stored = sorted((row for _, row in birth.reader.rows("queue", b"")), key=_order)
        for row in stored:
            state.order = max(state.order, row["order"])
            if row["state"] == "done":
                state.settled[row["id"]] = (row["session"], row["outcome"])
                continue
            item = Item.from_row(row)
            state.queue.add(item)
            if item.state == "running":
                state.limiter.begin(provider_of(item.model))
                state.budget.hold(item.session, item.reserved)
        for _, row in birth.reader.rows("ledger", b""):
            state.rows += 1
            state.budget.settle(row["session"], 0.0, row["cost_usd"])
        return state

    def save(self, state: State) -> Any:
        return {
            "served": state.queue.served,
            "wake": state.wake,
            "shown": list(state.shown),
            "paused": state.limiter.paused,
            "prices": {m: None if p is None else list(p) for m, p in state.budget.prices.items()},
            "gateway": state.gateway,
            "leaving": sorted(state.leaving),
            "warned": sorted(state.budget.warned)[-500:],
            "breakers": {
                model: [one.failures, one.until, one.period, one.probing]
                for model, one in state.breakers.items()
                if one != Breaker()
            },
        }

    def upgrade(self, saved: Any, version: int) -> Any:
        return saved

    def answer(self, state: State, question: bodies.Body, reader: act.Reader) -> bodies.Body:
        """`Note`: what waits, what runs, and why nothing else does."""
        if not isinstance(question, bodies.Note):
            raise LoomError("bad_request", "models answers a status question (Note) only")
        return bodies.Note(
            data={
                "waiting": [item.request.id for item in state.queue.waiting()],
                "running": [item.request.id for item in state.queue.running()],
                "active": state.limiter.active,
                "paused": state.limiter.paused,
                "open": {m: one.until for m, one in state.breakers.items() if one.until},
                "spent_usd": state.budget.spent,
                "reserved_usd": state.budget.reserved,
            }
        )

    # --- one step ------------------------------------------------------------------------------

    def step(self, state: State, input: Input, now: float) -> tuple[State, list[Change]]:
        out: list[Change] = []
        match input:
            case act.Mailed(body=ModelRequest() as request):
                self._asked(state, input, request, out)
            case act.Mailed(body=bodies.CancelModel(request=id)):
                self._cancelled(state, input.sender, id, out)
            case act.Mailed(body=Performed() as performed):
                if input.sender.startswith("gateway-"):
                    self._performed(state, performed, now, out)
            case act.Mailed(sender="hub", body=bodies.UseGateway() as use):
                state.gateway = use.gateway
                state.leaving = {name for name in use.others if name != use.gateway}
            case act.Mailed(sender="hub", body=bodies.Configured() as configured):
                # What waits keeps its chain of models: it was promised that.
                state.configure({**state.settings, **configured.settings})
            case act.Mailed(body=bodies.Undelivered() as lost):
                self._undelivered(state, lost, now, out)
            case act.TimerDue(key="wake"):
                state.wake = 0.0
            case _:
                pass  # Init, and what nobody should send: nothing to do
        state.limiter.forget_past(now)
        self._launch(state, now, out)
        self._let_leave(state, out)
        self._rearm(state, now, out)
        self._show(state, out)
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
        )
        state.queue.add(item)
        out.append(_put(item))

    def _cancelled(self, state: State, sender: str, id: str, out: list[Change]) -> None:
        item = state.queue.get(id)
        if item is None:
            if id not in state.settled:
                # It overtook its request (control before work): remembered, so that the request
                # is answered without being performed.
                failed = ModelOutcome(request=id, outcome=_cancel())
                self._remember(state, session_of(sender), id, failed, out)
            return
        if sender not in (item.request.agent, f"{item.session}/team"):
            return
        if item.state == "waiting":
            self._fail(state, item, _cancel(), out)
        elif not item.cancelled:
            item.cancelled = True
            out.append(_put(item))
            out.append(act.Send(item.gateway, bodies.CancelModel(request=id), cause=item.cause))

    def _performed(self, state: State, performed: Performed, now: float, out: list[Change]) -> None:
        item = state.queue.get(performed.request)
        if item is None or item.state != "running" or item.attempt != performed.attempt:
            return
        for row in ledger.rows(item.request, performed, now):
            state.rows += 1
            out.append(act.Put("ledger", ledger.key(state.rows), row))
        self._release(state, item, performed, out)
        breaker = state.breaker(item.model)
        outcome = performed.outcome
        if not isinstance(outcome, Failed):
            breaker.succeeded()
            done = ModelOutcome(
                request=item.request.id,
                outcome=outcome,
                usage=performed.usage,
                model=performed.model,
            )
            state.queue.remove(item.request.id)
            self._remember(state, item.session, item.request.id, done, out)
            return
        breaker.failed(outcome.kind, now)
        self._failed(state, item, outcome, now, out)

    def _release(self, state: State, item: Item, performed: Performed, out: list[Change]) -> None:
        """The call has ended: its place and its money are free again."""
        model = item.model
        state.limiter.end(provider_of(model))
        cost = performed.usage.cost_usd if performed.cost_known != "unknown" else None
        if performed.price is not None:
            state.budget.prices[model] = performed.price
        elif not isinstance(performed.outcome, Failed):
            state.budget.prices.setdefault(model, None)
        offline = provider_of(model) in FREE
        state.budget.settle(item.session, item.reserved, 0.0 if offline else cost)
        item.reserved = 0.0
        item.state = "waiting"
        limit = state.rules.limit(item.request)
        share = state.budget.warning(item.session, limit)
        if share is not None:
            data = {
                "spent_usd": state.budget.spent.get(item.session, 0.0),
                "limit_usd": limit,
                "share": share,
            }
            out.append(act.Emit("budget_warning", data, session=item.session))

    def _undelivered(
        self, state: State, lost: bodies.Undelivered, now: float, out: list[Change]
    ) -> None:
        """An order that never reached the gateway was not performed. One that killed it again and
        again may have been paid for, so it is not tried again."""
        body = codec.body(lost.body) if lost.body else None
        if not isinstance(body, bodies.Perform):
            return
        item = state.queue.get(body.request.id)
        if item is None or item.state != "running" or item.attempt != body.attempt:
            return
        failed = Failed(kind="interrupted", detail=f"the gateway refused it: {lost.reason}")
        if lost.reason != "poison":
            failed = Failed(kind="overloaded", detail=f"gateway: {lost.reason}", retryable=True)
        performed = Performed(
            request=body.request.id,
            agent=item.request.agent,
            model=item.model,
            attempt=item.attempt,
            outcome=failed,
        )
        self._release(state, item, performed, out)
        self._failed(state, item, failed, now, out)

    def _failed(
        self, state: State, item: Item, failed: Failed, now: float, out: list[Change]
    ) -> None:
        """Again, on another model, or the end."""
        if item.cancelled:
            return self._fail(state, item, _cancel(), out)
        item.last = failed
        if item.failed_at is None:
            item.failed_at = now
        if failed.kind in FINAL:
            return self._fail(state, item, failed, out)
        pause = failed.retry_after or 0.0
        if failed.kind == "rate_limited" and pause:
            pause = min(pause, RETRY_AFTER_CAP_S)
            state.limiter.pause(provider_of(item.model), now + pause)
        again = (
            failed.retryable
            and item.tries < TRIES
            and (failed.retry_after or 0.0) <= RETRY_AFTER_CAP_S
            and now - item.failed_at <= PATIENCE_S
        )
        if not again:
            return self._fall_back(state, item, failed, now, out)
        delay = backoff(item.request.id, item.attempt, item.tries, failed.retry_after)
        item.not_before = now + delay
        out.append(_put(item))
        data = _about(item) | {
            "attempt": item.attempt,
            "kind": failed.kind,
            "detail": failed.detail[:500],
            "delay_s": round(delay, 3),
        }
        out.append(act.Emit("model_retry", data, session=item.session))
        return None

    def _fall_back(
        self, state: State, item: Item, failed: Failed, now: float, out: list[Change]
    ) -> None:
        if item.link + 1 >= len(item.chain):
            return self._fail(state, item, failed, out)
        before = item.model
        item.link += 1
        item.tries = 0
        item.failed_at = None
        item.not_before = now
        out.append(_put(item))
        data = _about(item) | {"from": before, "to": item.model, "kind": failed.kind}
        out.append(act.Emit("model_fallback", data, session=item.session))
        return None

    def _fail(self, state: State, item: Item, failed: Failed, out: list[Change]) -> None:
        """The end without an answer, said to the asker."""
        done = ModelOutcome(
            request=item.request.id,
            outcome=failed,
            usage=bodies.Usage(calls=item.attempt),
            model=item.model,
        )
        out.append(act.Send(item.request.agent, done, cause=item.cause))
        state.queue.remove(item.request.id)
        self._remember(state, item.session, item.request.id, done, out)

    def _remember(
        self,
        state: State,
        session: str,
        id: str,
        done: ModelOutcome,
        out: list[Change],
    ) -> None:
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

    # --- starting what may start ---------------------------------------------------------------

    def _launch(self, state: State, now: float, out: list[Change]) -> None:
        """Orders as many attempts as limits, pauses, breakers and budgets allow."""
        self._give_up_waiting(state, now, out)
        while True:
            broke: list[Item] = []

            def may_start(item: Item, broke: list[Item] = broke) -> bool:
                if self._ready_at(state, item) > now:
                    return False
                if state.limiter.full(provider_of(item.model)):
                    return False
                verdict, amount = self._reserve(state, item)
                if verdict == "no":
                    broke.append(item)
                item.reserved = amount
                return verdict == "yes"

            item = state.queue.take(may_start)
            for poor in broke:
                self._fail(state, poor, self._too_dear(state, poor), out)
            if item is not None:
                self._start(state, item, out)
            elif not broke:
                return

    def _start(self, state: State, item: Item, out: list[Change]) -> None:
        item.state = "running"
        item.attempt += 1
        item.tries += 1
        item.gateway = state.gateway
        state.limiter.begin(provider_of(item.model))
        state.breaker(item.model).begin()
        perform = bodies.Perform(request=item.request, model=item.model, attempt=item.attempt)
        out.append(_put(item))
        out.append(act.Send(item.gateway, perform, cause=item.cause))

    def _let_leave(self, state: State, out: list[Change]) -> None:
        """Ends older gateways that have no call any more: none is ever given to them again."""
        busy = {item.gateway for item in state.queue.running()}
        for name in sorted(state.leaving - busy):
            state.leaving.discard(name)
            out.append(act.Stop(name, reason="replaced"))

    def _reserve(self, state: State, item: Item) -> tuple[str, float]:
        if provider_of(item.model) in FREE:
            return "yes", 0.0
        worst = state.budget.worst(
            item.model, state.rules.worst_input(item.request), item.request.max_tokens
        )
        return state.budget.reserve(item.session, state.rules.limit(item.request), worst)

    def _too_dear(self, state: State, item: Item) -> Failed:
        limit = state.rules.limit(item.request)
        spent = state.budget.spent.get(item.session, 0.0)
        return Failed(
            kind="budget",
            detail=f"the next call of {item.model} could pass the session's budget: "
            f"${spent:.4f} of ${limit or 0.0:.4f} spent",
            hint="raise budget.session_usd, or give the session its own with --budget",
        )

    def _ready_at(self, state: State, item: Item) -> float:
        return max(
            item.not_before,
            state.limiter.ready_at(provider_of(item.model)),
            state.breaker(item.model).ready_at(),
        )

    def _give_up_waiting(self, state: State, now: float, out: list[Change]) -> None:
        """A request whose model's breaker is open goes to its fallback at once, and without one
        waits no longer than PATIENCE_S after its own first failure."""
        for item in list(state.queue.waiting()):
            breaker = state.breaker(item.model)
            if breaker.ready_at() <= now:
                continue
            failed = item.last or Failed(
                kind="overloaded",
                detail=f"{item.model} failed {breaker.failures} times in a row",
                retryable=True,
            )
            tired = item.failed_at is not None and now - item.failed_at > PATIENCE_S
            if item.link + 1 < len(item.chain) or tired:
                self._fall_back(state, item, failed, now, out)

    def _rearm(self, state: State, now: float, out: list[Change]) -> None:
        """One timer for the earliest instant at which something that waits may start."""
        due = min(
            (at for item in state.queue.waiting() if now < (at := self._ready_at(state, item))),
            default=float("inf"),
        )
        if due == float("inf"):
            due = 0.0
        if due == state.wake:
            return
        state.wake = due
        out.append(act.SetTimer(WAKE, due) if due else act.CancelTimer(WAKE))

    def _show(self, state: State, out: list[Change]) -> None:
        running = sum(1 for _ in state.queue.running())
        waiting = len(state.queue.items) - running
        shown = (
            ("working" if running or waiting else "idle"),
            f"{running} calls, {waiting} waiting" if running or waiting else "",
        )
        if shown != state.shown:
            state.shown = shown
            out.append(act.Show(*shown))


def _put(item: Item) -> act.Put:
    return act.Put("queue", text_key(item.session, item.request.id), item.row())


def _about(item: Item) -> dict[str, Any]:
    return {"agent": item.request.agent, "request": item.request.id, "model": item.model}


def _cancel() -> Failed:
    return Failed(kind="cancelled", detail="cancelled before its answer came")


def _order(row: dict[str, Any]) -> int:
    order = row["order"]
    assert isinstance(order, int)
    return order


def main(birth: Any) -> None:
    """Entry point of the process."""
    from loomd.actor.host import run

    run(birth, ModelsBehaviour(), None)
