"""Whatever happens in whatever order: each request is answered once, no attempt is ordered twice,
no two attempts of one request are under way together, limits and budgets hold."""

from __future__ import annotations

import random
from collections import Counter as Count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loomd.actor import behaviour as act
from loomd.models.budget import path_of
from loomd.store.days import day_of
from loomd.wire import bodies as b
from tests.models.counter import Counter, fail, orders, told

KINDS = ["server", "rate_limited", "network", "auth", "malformed", "interrupted", "timeout"]
MODELS = ["openai/a", "openai/b", "offline/rules"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.sampled_from([None, 0.5, 0.05]))
def test_every_request_is_answered_once_and_no_attempt_is_paid_twice(
    seed: int, at_once: int, usd: float | None
) -> None:
    draw = random.Random(seed)
    models = Counter(
        {
            "models": {"default": MODELS[0], "fallback": {MODELS[0]: [MODELS[1]]}},
            "providers": {"openai": {"concurrency": at_once}},
            "budget": {"session_usd": usd},
        }
    )
    open_orders: list[b.Perform] = []
    ordered: Count[tuple[str, int]] = Count()
    answers: Count[str] = Count()
    asked: list[str] = []

    def note(changes: list[act.Change]) -> None:
        for order in orders(changes):
            assert order.request.id not in {one.request.id for one in open_orders}
            ordered[order.request.id, order.attempt] += 1
            open_orders.append(order)
        for _, outcome in told(changes):
            answers[outcome.request] += 1
        paid = [order for order in open_orders if order.model.startswith("openai/")]
        assert len(paid) <= at_once
        if usd is not None:
            budget = models.state.budget
            for node, held in budget.reserved.items():
                if node.startswith("session:"):
                    assert held + budget.spent.get(node, 0.0) <= usd + 1e-9

    for model in MODELS[:2]:
        models.price(model)
    for n in range(40):
        models.now += draw.random()
        match draw.randrange(6):
            case 0 | 1:
                session = f"s-{draw.randrange(3)}"
                asked.append(f"r{n}")
                model = draw.choice([*MODELS[:1], "", MODELS[2]])
                agent = f"{session}/coder-{n}"
                note(models.ask(f"r{n}", session=session, agent=agent, model=model))
            case 2 | 3 if open_orders:
                order = open_orders.pop(draw.randrange(len(open_orders)))
                note(_end(models, order, draw, answers))
            case 4 if models.timer is not None:
                note(models.wait())
            case 5:
                models.restart()
    for _ in range(2000):
        if open_orders:
            note(_end(models, open_orders.pop(0), draw, answers))
        elif models.timer is not None:
            note(models.wait())
        else:
            break
    assert models.state.queue.items == {}
    assert answers == Count(asked)
    assert max(ordered.values(), default=0) <= 1


def _end(
    models: Counter, order: b.Perform, draw: random.Random, answers: Count[str]
) -> list[act.Change]:
    if draw.random() < 0.5:
        answers[order.request.id] += 1  # the gateway tells the asker of a success itself
        return models.end(order)
    kind = draw.choice(KINDS)
    retryable = kind not in ("auth", "malformed", "interrupted")
    after = draw.choice([None, 1.0]) if kind == "rate_limited" else None
    failure = fail(kind, retryable=retryable, retry_after=after)
    usage = b.Usage(cost_usd=None)
    return models.end(order, failure, usage=usage, cost_known="unknown")


@pytest.mark.parametrize("agents", [1, 40])
def test_a_burst_of_requests_is_served_in_order_of_each_session(agents: int) -> None:
    models = Counter()
    waiting = [
        order for n in range(agents) for order in orders(models.ask(f"r{n:02}", agent=f"s-1/c-{n}"))
    ]
    served = []
    while waiting:
        order = waiting.pop(0)
        served.append(order.request.id)
        waiting += orders(models.end(order))
    assert served == sorted(served) and len(served) == agents


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["day", "session", "task", "agent"]))
def test_fifty_agents_never_overspend_by_more_than_one_calls_error(seed: int, scope: str) -> None:
    """Costs are up to what was reserved, but now and then one call goes over it; whatever the order
    of ends, failures, losses and deaths, what was charged stays within the limit and that error."""
    draw = random.Random(seed)
    limit = draw.choice([0.05, 0.2, 1.0])
    price = (1e-6, 2e-6)
    worst = 28000 * price[0] + 16384 * price[1]
    models = Counter(
        {
            "models": {"default": MODELS[0], "attempts": 3},
            "providers": {"openai": {"concurrency": 50}},
            "budget": {f"{scope}_usd": limit},
        }
    )
    models.price(MODELS[0], price)
    charged: Count[str] = Count()
    error = 0.0
    flying: list[b.Perform] = []
    asked, answers = 0, Count[str]()
    for n in range(150):
        models.now += draw.random()
        changes: list[act.Change] = []
        match draw.randrange(7):
            case 0 | 1 | 2:
                agent, asked = f"s-{n % 2}/coder-{draw.randrange(50)}", asked + 1
                task = f"t-{draw.randrange(3)}"
                changes = models.ask(f"r{n}", session=agent[:3], agent=agent, task=task)
            case 3 | 4 | 5 if flying:
                order = flying.pop(draw.randrange(len(flying)))
                cost = draw.random() * worst
                if not error and draw.random() < 0.02:
                    error = draw.random() * worst  # the worst case was not the worst
                    cost = worst + error
                for node in _nodes(order, models.now):
                    charged[node] += cost
                outcome = draw.choice([None, None, fail("network"), fail("rate_limited")])
                if outcome is None:
                    answers[order.request.id] += 1
                known = outcome is None or outcome.kind == "rate_limited"
                usage = b.Usage(cost_usd=cost if known else None, calls=1, output_tokens=1)
                said = "reported" if known else "unknown"
                changes = models.end(order, outcome, usage=usage, cost_known=said, price=price)
            case 6 if models.timer is not None:
                changes = models.wait()
            case _:
                models.restart()
        flying += orders(changes)
        for _, outcome_ in told(changes):
            answers[outcome_.request] += 1
        for node, amount in charged.items():
            if node.startswith(scope):
                assert amount <= limit + error + 1e-9
                held = models.state.budget.reserved.get(node, 0.0)
                assert models.state.budget.spent.get(node, 0.0) + held <= limit + error + 1e-9
    assert max(answers.values(), default=0) <= 1


def _nodes(order: b.Perform, now: float) -> list[str]:
    one = order.request
    return list(path_of(day_of(now), one.session, one.task, one.agent))
