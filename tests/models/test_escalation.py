"""A task whose model fails it twice goes on with the next one, and back after a success."""

from __future__ import annotations

import pytest

from loomd.models import escalation
from loomd.models.escalation import Escalation
from tests.models.counter import MODEL, Counter, fail, failed, orders

NEXT, LAST = "openai/larger", "openai/largest"
SETTINGS = {"models": {"default": MODEL, "fallback": {MODEL: [NEXT, LAST]}}}


def moves(models: Counter) -> list[tuple[str, str, str]]:
    return [
        (event.type, event.data["from"], event.data["to"])
        for event in models.events
        if event.type in ("model_escalated", "model_deescalated")
    ]


def refuse(models: Counter, id: str, **fields: str) -> str:
    """A request that its model refuses; the model that was asked."""
    [order] = orders(models.ask(id, **fields))
    assert failed(models.end(order, fail("refused", retryable=False))) == "refused"
    return order.model


def answer(models: Counter, id: str, **fields: str) -> str:
    [order] = orders(models.ask(id, **fields))
    models.end(order)
    return order.model


def test_after_two_failures_the_task_has_the_next_model_and_after_a_success_the_usual_one() -> None:
    models = Counter(SETTINGS)
    task = {"task": "t-1"}
    assert [refuse(models, f"r{n}", **task) for n in range(2)] == [MODEL, MODEL]
    models.restart()
    assert answer(models, "r2", task="t-2") == MODEL  # another task is not concerned
    assert answer(models, "r3", **task) == NEXT
    assert answer(models, "r4", **task) == MODEL
    assert moves(models) == [
        ("model_escalated", MODEL, NEXT),
        ("model_deescalated", NEXT, MODEL),
    ]


def test_it_climbs_to_the_end_of_the_chain_and_no_further() -> None:
    models = Counter(SETTINGS)
    used = [refuse(models, f"r{n}", task="t-1") for n in range(8)]
    assert used == [MODEL] * 2 + [NEXT] * 2 + [LAST] * 4
    assert [to for _, _, to in moves(models)] == [NEXT, LAST]


def test_a_success_between_two_failures_forgives_the_first() -> None:
    models = Counter(SETTINGS)
    refuse(models, "r0")
    answer(models, "r1")
    assert refuse(models, "r2") == MODEL
    assert answer(models, "r3") == MODEL and moves(models) == []


def test_a_fallback_of_one_request_is_a_failure_of_its_task() -> None:
    models = Counter(SETTINGS)
    for n in range(2):
        [order] = orders(models.ask(f"r{n}"))
        assert order.model == MODEL
        [other] = orders(models.end(order, fail("malformed", retryable=False)))
        assert other.model == NEXT
        if n == 0:
            models.end(other)
    models.end(other)
    assert moves(models)[0] == ("model_escalated", MODEL, NEXT)


def test_two_failed_attempts_of_one_request_lead_to_the_next_model_at_once() -> None:
    models = Counter(SETTINGS)
    [order] = orders(models.ask())
    models.end(order, fail("empty"))
    [order] = orders(models.wait())
    [order] = orders(models.end(order, fail("empty")))
    assert order.model == NEXT


@pytest.mark.parametrize("kind", ["server", "network", "rate_limited", "overloaded", "timeout"])
def test_what_is_not_the_models_fault_escalates_nothing(kind: str) -> None:
    one = Escalation()
    assert not any(one.failed("t", kind, 0, 2) for _ in range(9))
    assert one.standings == {}


def test_a_task_that_is_too_hard_does_not_commute() -> None:
    one, needed = Escalation(), []
    for _ in range(5):
        assert [one.failed("t", "malformed", 0, 1) for _ in range(2)] == [False, True]
        successes = 1
        while not one.succeeded("t", 1):
            successes += 1
        needed.append(successes)
    assert needed == [1, 2, 4, 8, 8]


def test_only_so_many_tasks_are_remembered() -> None:
    one = Escalation()
    for n in range(escalation.REMEMBERED + 5):
        one.failed(f"t{n}", "malformed", 0, 1)
    assert len(one.standings) == escalation.REMEMBERED and "t0" not in one.standings
    assert Escalation.of(one.saved()) == one
