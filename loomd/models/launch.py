"""Which waiting request is ordered from a gateway now, which is given up, when to look again."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from loomd.actor import behaviour as act
from loomd.actor.behaviour import Change
from loomd.models import ending
from loomd.models.breaker import HOPELESS
from loomd.models.budget import Verdict
from loomd.models.limiter import Estimate
from loomd.models.queue import Item
from loomd.models.retries import RETRY_AFTER_CAP_S
from loomd.models.state import State
from loomd.store.days import day_of
from loomd.wire import bodies
from loomd.wire.bodies import Failed
from loomd.wire.models import ships

WAKE = "wake"

ASK_AGAIN_S = 30.0
"""How long the answer to a question about a price is waited for."""

LONGEST_WAIT_S = 180.0
"""For a limit of the provider to be whole enough again; limits per minute take one."""

UNBOUND = 200
"""Remembered (session, model) that were told that money cannot bound them."""

KEYS = {"day": "day_usd", "session": "session_usd", "task": "task_usd", "agent": "agent_usd"}


def launch(state: State, now: float, out: list[Change]) -> None:
    """Orders as many attempts as limits, pauses, breakers and budgets allow."""
    _give_up(state, now, out)
    while True:
        broke: list[tuple[Item, str]] = []
        behind: set[str] = set()

        def may_start(
            item: Item, broke: list[tuple[Item, str]] = broke, behind: set[str] = behind
        ) -> bool:
            lane = state.limiter.name_of(item.model)
            if not _checks(item):
                if lane in behind or _alone_until(state, item) > now:
                    return False
                if state.limiter.lane(lane).ready_at(item.tokens, now) > now:
                    behind.add(lane)  # whoever comes later takes nothing away from this one
                    return False
            verdict, node = _reserve(state, item, now, out)
            if verdict == "no":
                broke.append((item, node))
            return verdict == "yes"

        item = state.queue.take(may_start)
        for poor, node in broke:
            ending.fail(state, poor, _too_dear(state, poor, node, now), out)
        if item is not None:
            _start(state, item, now, out)
        elif not broke:
            return


def _checks(item: Item) -> bool:
    """Whether a person asks how the model is now, whatever was found out before: only the budget
    may hold that up."""
    return item.request.purpose == "check"


def _alone_until(state: State, item: Item) -> float:
    """Until when this request, or its model, is left alone; 0: neither."""
    return max(item.not_before, state.breaker(item.model).ready_at())


def ready_at(state: State, item: Item, now: float) -> float:
    """When this request may be ordered, as far as it is known; infinity: when another has ended."""
    if _checks(item):
        return now
    lane = state.limiter.lane(state.limiter.name_of(item.model))
    at = lane.ready_at(item.tokens, now)
    return max(_alone_until(state, item), at)


def _start(state: State, item: Item, now: float, out: list[Change]) -> None:
    item.state = "running"
    item.attempt += 1
    item.tries += 1
    free = ships(item.model)
    item.gateway = state.pool.pick(free, now)
    state.pool.begin(item.gateway)
    if not (free or state.pool.called):
        state.pool.called = True
        out += [act.Send(name, bodies.Expect()) for name in state.pool.more]
    item.began = now
    item.lane = state.limiter.name_of(item.model)
    state.limiter.lane(item.lane).begin(item.tokens, now)
    state.breaker(item.model).begin()
    request = item.request
    _, limits = state.bounded(item, day_of(now))
    if limits and state.budget.prices.get(item.model) is not None:
        # What is reserved is a promise that the provider has to keep.
        request = msgspec.structs.replace(request, max_tokens=_output(state, item))
    perform = bodies.Perform(
        request=request, model=item.model, attempt=item.attempt, lost=item.lost
    )
    out.append(ending.put(item))
    out.append(act.Send(item.gateway, perform, cause=item.cause))


# --- money -------------------------------------------------------------------------------------


def _output(state: State, item: Item) -> int:
    return state.budget.output(item.model, item.request.max_tokens, state.rules.output_tokens)


def worst(state: State, item: Item) -> float:
    """USD that one attempt on the item's model can cost; 0 if its price cannot be known."""
    if ships(item.model):
        return 0.0
    return state.budget.worst(
        item.model, state.rules.worst_input(item.request), _output(state, item)
    )


def _reserve(state: State, item: Item, now: float, out: list[Change]) -> tuple[Verdict, str]:
    """Sets the worst case aside. Where a limit holds, the price is asked for first."""
    budget = state.budget
    path, limits = state.bounded(item, day_of(now))
    if limits and item.model not in budget.prices:
        over = [node for node, limit in limits.items() if budget.spent.get(node, 0.0) >= limit]
        if over:
            return "no", over[0]
        if state.asking.get(item.model, 0.0) <= now:
            state.asking[item.model] = now + ASK_AGAIN_S
            out.append(act.Send(state.pool.pick(True, now), bodies.AskPrice(model=item.model)))
        return "wait", ""
    amount = worst(state, item)
    verdict, node = budget.reserve(path, limits, amount)
    if verdict == "yes":
        item.path, item.reserved = path, amount
        if limits and budget.prices[item.model] is None:
            _say_unbound(state, item, limits, out)
    return verdict, node


def _say_unbound(state: State, item: Item, limits: dict[str, float], out: list[Change]) -> None:
    one = (item.session, item.model)
    if one in state.unbound:
        return
    state.unbound.add(one)
    while len(state.unbound) > UNBOUND:
        state.unbound.remove(min(state.unbound))
    data = ending.about(item) | {
        "limits": sorted(limits),
        "reason": "the price of this model is not known, so that no amount of money bounds it",
    }
    out.append(act.Emit("budget_unbounded", data, session=item.session))


def _too_dear(state: State, item: Item, node: str, now: float) -> Failed:
    scope, _, name = node.partition(":")
    _, limits = state.bounded(item, day_of(now))
    budget = state.budget
    own = ", or give the session its own with --budget" if scope == "session" else ""
    dear = f", and it could cost ${worst(state, item):.4f}" if item.model in budget.prices else ""
    return Failed(
        kind="budget",
        detail=f"the next call of {item.model} could pass the budget of the {scope} {name}: "
        f"${budget.spent.get(node, 0.0):.4f} of ${limits.get(node, 0.0):.4f} spent{dear}",
        hint=f"raise budget.{KEYS[scope]}{own}",
    )


# --- giving up, and looking again --------------------------------------------------------------


def _give_up(state: State, now: float, out: list[Change]) -> None:
    """Nobody waits for what will not come soon: with a fallback not at all, without one no longer
    than it would be tried again."""
    for item in list(state.queue.waiting()):
        while item.state == "waiting" and item.request.id in state.queue.items:
            failed = _hopeless(state, item, now, out)
            if failed is None:
                break
            ending.fall_back(state, item, failed, now, out)


def _hopeless(state: State, item: Item, now: float, out: list[Change]) -> Failed | None:
    """Why this request does not wait for its model; None: it does."""
    if _checks(item):
        return None
    last = item.link + 1 >= len(item.chain)
    breaker = state.breaker(item.model)
    if breaker.ready_at() > now:
        if item.failed_at is None:
            item.failed_at = now
            out.append(ending.put(item))
        tired = now - item.failed_at >= state.rules.retries.patience_s
        if not last or tired or breaker.kind in HOPELESS:
            return item.last or Failed(
                kind=breaker.kind or "overloaded",
                detail=f"{item.model} failed {breaker.failures} times in a row ({breaker.kind})",
                retryable=breaker.kind not in HOPELESS,
            )
    name = state.limiter.name_of(item.model)
    lane = state.limiter.lane(name)
    wait = lane.until - now
    if wait <= RETRY_AFTER_CAP_S:
        at = lane.ready_at(item.tokens, now)
        if at <= now or math.isinf(at):
            return None
        wait = max(at, lane.whole_at(item.tokens, now)) - now
        if wait <= LONGEST_WAIT_S:
            return None
    return Failed(
        kind="rate_limited",
        detail=f"{name} asked to be left alone for {wait:.0f} s",
        retryable=True,
        retry_after=wait,
    )


def rearm(state: State, now: float, out: list[Change]) -> None:
    """One timer for the earliest instant at which something that waits may start, or gives up."""
    waiting = list(state.queue.waiting())
    dues = [ready_at(state, item, now) for item in waiting] + state.pool.dues()
    for item in waiting:
        if item.failed_at is not None and state.breaker(item.model).ready_at() > now:
            dues.append(item.failed_at + state.rules.retries.patience_s)
        if item.model in state.asking:
            dues.append(state.asking[item.model])
    due = min((at for at in dues if now < at < float("inf")), default=0.0)
    due = math.ceil(due * 1000) / 1000  # so that the same instant is the same number
    if due == state.wake:
        return
    state.wake = due
    out.append(act.SetTimer(WAKE, due) if due else act.CancelTimer(WAKE))


def show(state: State, now: float, out: list[Change]) -> None:
    """The status line: what is under way, what waits, and what the first of that waits for."""
    running = sum(1 for _ in state.queue.running())
    waiting = [item for item in state.queue.items.values() if item.state == "waiting"]
    text = f"{running} calls, {len(waiting)} waiting" if running or waiting else ""
    if waiting:
        text += f" ({_why(state, min(waiting, key=lambda one: one.order), now)})"
    shown = ("working" if running or waiting else "idle", text)
    if shown != state.shown:
        state.shown = shown
        out.append(act.Show(*shown))


def _why(state: State, item: Item, now: float) -> str:
    name = state.limiter.name_of(item.model)
    lane = state.limiter.lane(name)
    if lane.until > now:
        return f"{name} asked for a pause"
    if state.breaker(item.model).ready_at() > now:
        return f"{item.model} is left alone"
    if item.not_before > now:
        return "before a retry"
    if lane.ready_at(item.tokens, now) > now:
        return f"{name} is at its limit"
    if item.model in state.asking:
        return f"for the price of {item.model}"
    return "for what the budget leaves"


def snapshot(state: State) -> dict[str, Any]:
    """For the status question."""
    lanes = state.limiter.lanes
    return {
        "waiting": [item.request.id for item in state.queue.waiting()],
        "running": [item.request.id for item in state.queue.running()],
        "active": {name: lane.active for name, lane in lanes.items() if lane.active},
        "paused": {name: lane.until for name, lane in lanes.items() if lane.until},
        "open": {m: one.until for m, one in state.breakers.items() if one.until},
        "escalated": {
            key: one.level for key, one in state.escalation.standings.items() if one.level
        },
        "spent_usd": state.budget.spent,
        "reserved_usd": state.budget.reserved,
    }


def tokens_of(performed: bodies.Performed) -> Estimate | None:
    """What an attempt has taken of the limits on tokens; None: not known."""
    usage = performed.usage
    if usage.input_tokens or usage.output_tokens:
        return Estimate(usage.input_tokens, usage.output_tokens)
    return None
