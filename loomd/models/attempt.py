"""The end of one attempt: what it cost, what it says of model and provider, what follows."""

from __future__ import annotations

from loomd.actor import behaviour as act
from loomd.actor.behaviour import Change
from loomd.models import ending, escalation, launch, ledger
from loomd.models.queue import Item
from loomd.models.retries import FINAL
from loomd.models.state import State
from loomd.store.days import day_of
from loomd.wire.bodies import Failed, ModelOutcome, Performed, Undelivered, Usage

STARTS = 2
"""Of one attempt, over all gateways: each may have been paid for."""

DETAIL = 500
"""Characters of a failure in an event."""


def ended(
    state: State,
    item: Item,
    performed: Performed,
    now: float,
    out: list[Change],
) -> None:
    """The gateway's report on the attempt that is under way."""
    model, outcome = item.model, performed.outcome
    _learn(state, item, performed, now, out)
    item.lost = 0
    release(state, item, performed, now, out)
    breaker = state.breaker(model)
    was_open = bool(breaker.until)
    if isinstance(outcome, Failed):
        until = breaker.until
        breaker.failed(outcome.kind, now)
        if breaker.until > until:
            _say_breaker(state, item, "open", out)
    else:
        breaker.succeeded()
    if was_open and not breaker.until:
        _say_breaker(state, item, "closed", out)
    if isinstance(outcome, Failed):
        failed(state, item, outcome, now, out)
        return
    _back_down(state, item, out)
    done = ModelOutcome(
        request=item.request.id,
        outcome=outcome,
        usage=performed.usage,
        model=performed.model,
    )
    state.queue.remove(item.request.id)
    ending.remember(state, item.session, item.request.id, done, out)


def _learn(state: State, item: Item, performed: Performed, now: float, out: list[Change]) -> None:
    """What the answer says of the provider's limits, for all who use its key."""
    outcome = performed.outcome
    lane = state.limiter.lane(item.lane)
    if performed.limits:
        since = [
            other.tokens
            for other in state.queue.running()
            if other is not item and other.lane == item.lane and other.began > item.began
        ]
        state.limiter.learn(item.lane, performed.limits, item.began, now, since)
    if not isinstance(outcome, Failed):
        lane.answered(item.began, now)
        return
    asked = outcome.retry_after
    if outcome.kind == "rate_limited" or (outcome.kind == "overloaded" and asked):
        until = lane.until
        lane.cool(item.began, asked, now)
        if lane.until > until:
            data = ending.about(item) | {
                "provider": item.lane,
                "pause_s": round(lane.until - now, 3),
                "kind": outcome.kind,
            }
            out.append(act.Emit("model_cooldown", data, session=item.session))


def release(
    state: State,
    item: Item,
    performed: Performed,
    now: float,
    out: list[Change],
) -> None:
    """The call has ended: its place is free again, its rows are written, its money is settled."""
    if performed.price is not None:
        state.budget.prices[item.model] = performed.price
    reckoned = state.rules.worst_input(item.request)
    state.budget.counted(item.model, performed.usage.input_tokens, reckoned)
    tokens = launch.tokens_of(performed)
    state.pool.end(item.gateway)
    state.limiter.end(item.lane, item.tokens, tokens, item.began, now)
    path = item.path or state.bounded(item, day_of(item.began or now))[0]
    day = path[0].partition(":")[2]
    rows = ledger.rows(item.request, performed, launch.worst(state, item), day, now)
    for row in rows:
        state.rows += 1
        out.append(act.Put("ledger", ledger.key(state.rows), row))
    state.budget.settle(path, item.reserved, sum(row["booked_usd"] for row in rows))
    unknown = any(row["cost_usd"] is None for row in rows)
    cost = None if unknown else sum(row["cost_usd"] for row in rows)
    item.usage = _sum(item.usage, performed.usage, cost)
    item.reserved, item.path = 0.0, ()
    item.state = "waiting"
    _warn(state, item, day, out)


def _sum(before: Usage, usage: Usage, cost: float | None) -> Usage:
    known = before.cost_usd
    return Usage(
        input_tokens=before.input_tokens + usage.input_tokens,
        output_tokens=before.output_tokens + usage.output_tokens,
        cached_tokens=before.cached_tokens + usage.cached_tokens,
        cache_write_tokens=before.cache_write_tokens + usage.cache_write_tokens,
        reasoning_tokens=before.reasoning_tokens + usage.reasoning_tokens,
        cost_usd=None if known is None or cost is None else known + cost,
        calls=before.calls + usage.calls,
    )


def _warn(state: State, item: Item, day: str, out: list[Change]) -> None:
    _, limits = state.bounded(item, day)
    for node, spent, limit in state.budget.warnings(limits):
        scope, _, name = node.partition(":")
        data = {
            "scope": scope,
            "of": name,
            "spent_usd": spent,
            "limit_usd": limit,
            "share": spent / limit,
        }
        told = {item.session}
        if scope == "day":  # it concerns all who still want something
            told |= {other.session for other in state.queue.items.values()}
        for session in sorted(told):
            out.append(act.Emit("budget_warning", data, session=session))


def failed(state: State, item: Item, outcome: Failed, now: float, out: list[Change]) -> None:
    """Again, on another model, or the end."""
    if item.cancelled:
        ending.fail(state, item, ending.cancelled(), out)
        return
    item.last = outcome
    if item.failed_at is None:
        item.failed_at = now
    stepped = _step_up(state, item, outcome, out)
    if outcome.kind in FINAL or item.request.purpose == "check":
        ending.fail(state, item, outcome, out)
        return
    delay = state.rules.retries.delay(
        outcome, item.request.id, item.attempt, item.tries, now - item.failed_at
    )
    if delay is None or stepped:
        ending.fall_back(state, item, outcome, now, out)
        return
    item.not_before = now + delay
    out.append(ending.put(item))
    data = ending.about(item) | {
        "attempt": item.attempt,
        "kind": outcome.kind,
        "detail": outcome.detail[:DETAIL],
        "delay_s": round(delay, 3),
    }
    out.append(act.Emit("model_retry", data, session=item.session))


# --- a task and its model ----------------------------------------------------------------------


def task_of(item: Item) -> str:
    """What an item's failures are counted for."""
    request = item.request
    return escalation.key_of(item.session, request.task, request.agent, item.chain[0])


def _step_up(state: State, item: Item, outcome: Failed, out: list[Change]) -> bool:
    last = len(item.chain) - 1
    if not state.escalation.failed(task_of(item), outcome.kind, item.link, last):
        return False
    _say_moved(item, "model_escalated", item.link, item.link + 1, outcome.kind, out)
    return True


def _back_down(state: State, item: Item, out: list[Change]) -> None:
    if state.escalation.succeeded(task_of(item), item.link):
        _say_moved(item, "model_deescalated", item.link, item.link - 1, "success", out)


def _say_moved(
    item: Item,
    type: str,
    before: int,
    after: int,
    kind: str,
    out: list[Change],
) -> None:
    data = ending.about(item) | {
        "task": item.request.task,
        "from": item.chain[before],
        "to": item.chain[after],
        "kind": kind,
    }
    out.append(act.Emit(type, data, session=item.session))


def _say_breaker(state: State, item: Item, what: str, out: list[Change]) -> None:
    breaker = state.breaker(item.model)
    data = ending.about(item) | {
        "state": what,
        "failures": breaker.failures,
        "kind": breaker.kind,
        "period_s": breaker.period if what == "open" else 0.0,
    }
    out.append(act.Emit("model_breaker", data, session=item.session))


def undelivered(state: State, item: Item, lost: Undelivered, now: float, out: list[Change]) -> None:
    """An order that never reached the gateway was not performed. One that killed it again and
    again may have been paid for, so it is not tried again. One that was begun by a gateway that
    does not come back is performed once more, by another."""
    outcome = Failed(kind="overloaded", detail=f"gateway: {lost.reason}", retryable=True)
    if lost.reason == "poison":
        outcome = Failed(kind="interrupted", detail=f"the gateway refused it: {lost.reason}")
    state.breaker(item.model).failed("interrupted", now)  # it may have been the probe
    again = lost.reason == "given_back" and item.lost + lost.attempts < STARTS
    if lost.attempts:
        died = f"the gateway died {item.lost + lost.attempts} times during this call"
        outcome = Failed(kind="interrupted", detail=died)
        begun = Performed(
            request=item.request.id,
            agent=item.request.agent,
            model=item.model,
            attempt=item.attempt,
            outcome=outcome,
            lost=lost.attempts,
        )
        release(state, item, begun, now, out)
        item.lost += lost.attempts
    else:
        state.pool.end(item.gateway)
        state.limiter.end(item.lane, item.tokens, None, item.began, now)
        state.budget.settle(item.path, item.reserved, 0.0)
        item.reserved, item.path = 0.0, ()
        item.state = "waiting"
    if again and not item.cancelled:
        item.tries -= 1
        out.append(ending.put(item))
        data = ending.about(item) | {"gateway": lost.to, "lost": lost.attempts}
        out.append(act.Emit("model_taken_back", data, session=item.session))
        return
    failed(state, item, outcome, now, out)
