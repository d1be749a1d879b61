"""Which request goes where, when, and what a failure leads to."""

from __future__ import annotations

from typing import Any

import pytest

from loomd.actor import behaviour as act
from loomd.models import process
from loomd.models.state import Rules
from loomd.wire import bodies as b
from loomd.wire import codec
from loomd.wire.errors import LoomError
from tests.models.counter import AGENT, MODEL, Counter, fail, failed, orders, told

OTHER = "anthropic/claude"


def test_a_request_is_ordered_once_and_its_success_is_not_told_again_from_here() -> None:
    models = Counter()
    [order] = orders(models.ask())
    assert (order.model, order.attempt, order.request.id) == (MODEL, 1, "r1")
    assert told(models.end(order)) == []
    assert models.state.queue.items == {}
    [row] = models.ledger()
    assert row["outcome"] == "final" and row["cost_usd"] == 0.01 and not row["lost"]
    assert (row["agent"], row["provider"], row["attempt"]) == (AGENT, "openai", 1)


def test_a_repeated_request_is_not_performed_again() -> None:
    models = Counter()
    [order] = orders(models.ask())
    assert models.ask() == []  # under way: its answer will come
    models.end(order)
    models.restart()
    [(to, outcome)] = told(models.ask())
    assert to == AGENT and outcome.outcome == b.FinalAnswer(text="done")
    assert orders(models.ask()) == [] and len(models.ledger()) == 1


def test_a_long_answer_is_not_kept_but_its_repetition_is_still_not_performed() -> None:
    models = Counter()
    [order] = orders(models.ask())
    models.end(order, b.FinalAnswer(text="x" * (process.ANSWER_LIMIT + 1)))
    assert failed(models.ask()) == "interrupted"


def test_a_report_on_another_attempt_changes_nothing() -> None:
    models = Counter()
    [order] = orders(models.ask())
    stale = b.Perform(request=order.request, model=order.model, attempt=7)
    assert models.end(stale) == []
    performed = b.Performed(
        request="r1", agent=AGENT, model=MODEL, attempt=1, outcome=b.FinalAnswer(text="forged")
    )
    assert models.mail(performed, sender="s-1/coder-1") == []
    assert len(models.state.queue.items) == 1


def test_a_retryable_failure_is_tried_again_after_a_pause_drawn_from_its_id() -> None:
    pauses = []
    for _ in range(2):
        models = Counter()
        [order] = orders(models.ask())
        assert orders(models.end(order, fail("server"))) == []
        assert [event.type for event in models.events] == ["model_retry"]
        assert models.events[0].session == "s-1"
        assert models.timer is not None
        pauses.append(models.timer - models.now)
        [again] = orders(models.wait())
        assert again.attempt == 2 and again.model == MODEL
    assert pauses[0] == pauses[1] and 0 <= pauses[0] <= 20


def test_retry_after_is_honoured_for_the_whole_provider() -> None:
    models = Counter()
    [order] = orders(models.ask())
    models.end(order, fail("rate_limited", retry_after=7.0))
    assert orders(models.ask("r2", agent="s-1/coder-1")) == []
    assert models.timer is not None and models.timer >= models.now + 7
    ordered = orders(models.wait())
    while models.timer is not None and len(ordered) < 2:
        ordered += orders(models.wait())
    assert {order.request.id for order in ordered} == {"r1", "r2"}


def test_a_pause_that_is_too_long_goes_to_the_fallback_or_ends() -> None:
    models = Counter()
    [order] = orders(models.ask())
    assert failed(models.end(order, fail("rate_limited", retry_after=3600.0))) == "rate_limited"


def test_after_the_last_try_the_fallback_has_its_turn_then_the_failure_is_told() -> None:
    models = Counter({"models": {"default": MODEL, "fallback": {MODEL: [OTHER, MODEL]}}})
    ordered = orders(models.ask())
    used = []
    while ordered:
        [order] = ordered
        used.append(order.model)
        changes = models.end(order, fail("timeout"))
        ordered = orders(changes) or (orders(models.wait()) if models.timer else [])
    assert used == [MODEL] * 4 + [OTHER] * 4
    assert failed(changes) == "timeout"
    assert [e.type for e in models.events].count("model_fallback") == 1
    assert [row["attempt"] for row in models.ledger()] == list(range(1, 9))


@pytest.mark.parametrize("kind", ["auth", "quota", "context_overflow", "unknown_model"])
def test_what_no_retry_helps_goes_straight_to_the_fallback(kind: str) -> None:
    models = Counter({"models": {"default": MODEL, "fallback": {MODEL: [OTHER]}}})
    [order] = orders(models.ask())
    [second] = orders(models.end(order, fail(kind, retryable=False)))
    assert second.model == OTHER and second.attempt == 2


@pytest.mark.parametrize("kind", sorted(process.FINAL - {"budget"}))
def test_what_no_other_model_helps_is_told_at_once(kind: str) -> None:
    models = Counter({"models": {"default": MODEL, "fallback": {MODEL: [OTHER]}}})
    [order] = orders(models.ask())
    assert failed(models.end(order, fail(kind, retryable=True))) == kind


def test_a_call_lost_with_its_gateway_is_a_row_of_its_own_of_unknown_cost() -> None:
    models = Counter()
    [order] = orders(models.ask())
    models.end(order, lost=1)
    lost, paid = models.ledger()
    assert lost["lost"] and lost["cost_usd"] is None and lost["outcome"] == "lost"
    assert not paid["lost"] and paid["cost_usd"] == 0.01
    assert lost["id"] != paid["id"]


def test_an_interrupted_call_is_not_tried_again_and_only_its_losses_are_booked() -> None:
    models = Counter()
    [order] = orders(models.ask())
    assert failed(models.end(order, fail("interrupted", retryable=False), lost=2)) == "interrupted"
    assert [row["outcome"] for row in models.ledger()] == ["lost", "lost"]


def test_an_unknown_cost_is_none_and_never_zero() -> None:
    models = Counter()
    [order] = orders(models.ask())
    usage = b.Usage(input_tokens=10, cost_usd=None)
    models.end(order, usage=usage, cost_known="unknown", price=None)
    [row] = models.ledger()
    assert row["cost_usd"] is None and row["cost_known"] == "unknown"


def test_offline_costs_nothing_and_that_is_known() -> None:
    models = Counter({"models": {"default": ""}, "budget": {"session_usd": 0.0}})
    [order] = orders(models.ask())
    assert order.model == "offline/rules"
    models.end(order, usage=b.Usage(cost_usd=0.0), price=(0.0, 0.0))
    [row] = models.ledger()
    assert row["cost_usd"] == 0.0 and row["cost_known"] == "computed"


# --- fairness and limits -----------------------------------------------------------------------


def test_sessions_take_turns_whatever_their_number_of_requests() -> None:
    models = Counter({"models": {"default": MODEL}, "providers": {"openai": {"concurrency": 1}}})
    [order] = orders(models.ask("a0", session="s-a", agent="s-a/lead"))
    for n in range(1, 4):
        models.ask(f"a{n}", session="s-a", agent=f"s-a/coder-{n}")
    for n in range(2):
        models.ask(f"b{n}", session="s-b", agent=f"s-b/coder-{n}")
    served = []
    while order is not None:
        served.append(order.request.id)
        order = next(iter(orders(models.end(order))), None)
    assert served == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_a_provider_at_its_limit_holds_up_no_other() -> None:
    models = Counter({"models": {"default": MODEL}, "providers": {"openai": {"concurrency": 2}}})
    started = [orders(models.ask(f"r{n}", agent=f"s-1/coder-{n}")) for n in range(4)]
    assert [len(one) for one in started] == [1, 1, 0, 0]
    assert len(orders(models.ask("r9", model=OTHER, agent="s-1/coder-9"))) == 1
    [third] = orders(models.end(started[0][0]))
    assert third.request.id == "r2"


# --- the breaker -------------------------------------------------------------------------------


def test_a_model_that_keeps_failing_is_left_alone_then_probed_once() -> None:
    models = Counter()
    asked = [orders(models.ask(f"r{n}", agent=f"s-1/coder-{n}"))[0] for n in range(5)]
    for order in asked:
        models.end(order, fail("server"))
    until = models.state.breakers[MODEL].until
    assert until > models.now
    assert orders(models.ask("late", agent="s-1/late")) == []
    probes = []
    while not probes:
        probes = orders(models.wait())
    assert models.now >= until and len(probes) == 1
    assert len(orders(models.end(probes[0]))) > 0  # the model answers again: the rest may go


def test_with_a_fallback_nobody_waits_for_an_open_breaker() -> None:
    models = Counter({"models": {"default": MODEL, "fallback": {MODEL: [OTHER]}}})
    asked = [orders(models.ask(f"r{n}", agent=f"s-1/coder-{n}"))[0] for n in range(5)]
    changes = [change for order in asked for change in models.end(order, fail("server"))]
    assert {order.model for order in orders(changes)} == {OTHER}
    [order] = orders(models.ask("late", agent="s-1/late"))
    assert order.model == OTHER


# --- the budget --------------------------------------------------------------------------------


def settings(usd: float) -> dict[str, object]:
    return {"models": {"default": MODEL}, "budget": {"session_usd": usd}}


def test_the_first_call_of_a_model_holds_the_whole_budget_until_its_price_is_known() -> None:
    models = Counter(settings(1.0))
    [order] = orders(models.ask("r1"))
    assert orders(models.ask("r2", agent="s-1/coder-1")) == []
    assert orders(models.ask("r3", session="s-2", agent="s-2/lead")) != []
    [second] = orders(models.end(order))
    assert second.request.id == "r2"
    assert len(orders(models.ask("r4", agent="s-1/coder-4"))) == 1  # now beside it


def test_a_call_that_could_pass_the_budget_is_refused_and_not_ordered() -> None:
    models = Counter(settings(0.02))
    [order] = orders(models.ask("r1"))
    models.end(order, usage=b.Usage(cost_usd=0.019))
    changes = models.ask("r2")
    assert failed(changes) == "budget" and orders(changes) == []
    assert [e.type for e in models.events] == ["budget_warning"]
    [_, outcome] = told(changes)[0]
    assert isinstance(outcome.outcome, b.Failed) and "session_usd" in outcome.outcome.hint


def test_a_session_may_have_its_own_budget() -> None:
    models = Counter(settings(1.0))
    assert failed(models.ask("r1", budget_usd=0.0)) == "budget"
    assert orders(models.ask("r2", budget_usd=5.0)) != []


def test_calls_side_by_side_never_reserve_more_than_is_left() -> None:
    models = Counter(settings(0.3))
    [order] = orders(models.ask("r0"))
    models.end(order, price=(2e-6, 4e-6))
    for n in range(1, 8):
        models.ask(f"r{n}", agent=f"s-1/coder-{n}")
    spent = models.state.budget.spent["s-1"] + models.state.budget.reserved["s-1"]
    assert spent <= 0.3
    running = [item for item in models.state.queue.running()]
    assert 0 < len(running) < 7
    assert len(list(models.state.queue.waiting())) == 7 - len(running)  # wait, not refused


def test_a_model_of_no_known_price_is_not_bounded_and_its_calls_go_side_by_side() -> None:
    models = Counter(settings(1.0))
    [order] = orders(models.ask("r0"))
    models.end(order, usage=b.Usage(cost_usd=None), cost_known="unknown", price=None)
    assert len(orders(models.ask("r1"))) == 1
    assert len(orders(models.ask("r2", agent="s-1/coder-1"))) == 1


def test_what_was_spent_is_read_from_the_ledger_after_a_restart() -> None:
    models = Counter(settings(1.0))
    [order] = orders(models.ask())
    models.end(order, usage=b.Usage(cost_usd=0.25))
    models.restart()
    assert models.state.budget.spent == {"s-1": 0.25}


# --- cancelling, and what goes wrong -----------------------------------------------------------


def test_a_waiting_request_is_cancelled_at_once() -> None:
    models = Counter()
    [order] = orders(models.ask())
    models.end(order, fail("server"))
    assert failed(models.mail(b.CancelModel(request="r1"))) == "cancelled"
    assert models.timer is None and models.state.queue.items == {}


def test_a_running_request_is_cancelled_at_the_gateway_and_never_tried_again() -> None:
    models = Counter()
    [order] = orders(models.ask())
    changes = models.mail(b.CancelModel(request="r1"))
    assert [c.body for c in changes if isinstance(c, act.Send)] == [b.CancelModel(request="r1")]
    assert models.mail(b.CancelModel(request="r1")) == []
    assert failed(models.end(order, fail("network"))) == "cancelled"


def test_a_cancel_that_overtakes_its_request_holds() -> None:
    models = Counter()
    assert orders(models.mail(b.CancelModel(request="r1"))) == []
    assert failed(models.ask()) == "cancelled"


def test_a_stranger_cancels_nothing() -> None:
    models = Counter()
    models.ask()
    assert models.mail(b.CancelModel(request="r1"), sender="s-2/lead") == []


@pytest.mark.parametrize(("reason", "kind"), [("full", "again"), ("poison", "interrupted")])
def test_an_order_that_never_arrived_is_placed_again_unless_it_kills(
    reason: str, kind: str
) -> None:
    models = Counter()
    [order] = orders(models.ask())
    lost = b.Undelivered(id="models/1.0", to="gateway-1", reason=reason, body=codec.encode(order))
    changes = models.mail(lost, sender="hub")
    if kind == "again":
        [again] = orders(models.wait())
        assert again.attempt == 2
    else:
        assert failed(changes) == kind


def test_a_newer_gateway_gets_the_calls_and_the_older_one_ends_with_its_last() -> None:
    def sent(changes: list[act.Change]) -> list[tuple[Any, str]]:
        return [(c.to, type(c.body).__name__) for c in changes if isinstance(c, act.Send)]

    def ended(changes: list[act.Change]) -> list[str]:
        return [c.name for c in changes if isinstance(c, act.Stop)]

    models = Counter()
    [first] = orders(models.ask("r1"))
    use = b.UseGateway(gateway="gateway-2", others=("gateway-1",))
    assert models.mail(use, sender="s-1/lead") == []  # only the hub may say so
    assert ended(models.mail(use, sender="hub")) == []  # it still has a call
    changes = models.ask("r2")
    assert sent(changes) == [("gateway-2", "Perform")]
    [second] = orders(changes)
    models.restart()
    assert sent(models.mail(b.CancelModel(request="r1"))) == [("gateway-1", "CancelModel")]
    assert ended(models.end(second)) == []
    assert ended(models.end(first, fail("cancelled"))) == ["gateway-1"]
    assert ended(models.mail(use, sender="hub")) == ["gateway-1"]  # as after a new hub


def test_the_settled_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "REMEMBERED", 3)
    models = Counter()
    for n in range(5):
        [order] = orders(models.ask(f"r{n}"))
        models.end(order)
    assert list(models.state.settled) == ["r2", "r3", "r4"]
    assert len(models.rows.tables["queue"]) == 3


def test_it_tells_what_it_does() -> None:
    models = Counter()
    models.ask()
    answer = models.behaviour.answer(models.state, b.Note(), models.rows)
    assert isinstance(answer, b.Note) and answer.data["running"] == ["r1"]
    with pytest.raises(LoomError, match="status"):
        models.behaviour.answer(models.state, b.Say(text="hello"), models.rows)


@pytest.mark.parametrize(
    ("request_", "model"),
    [
        (b.ModelRequest(id="1", session="s", agent="a", model="x/y", role="reviewer"), "x/y"),
        (b.ModelRequest(id="1", session="s", agent="a", role="reviewer"), "r/r"),
        (b.ModelRequest(id="1", session="s", agent="a", role="lead", purpose="ask"), "f/f"),
        (b.ModelRequest(id="1", session="s", agent="a", role="lead"), "d/d"),
    ],
)
def test_the_model_is_the_requests_the_roles_the_fast_one_or_the_default(
    request_: b.ModelRequest, model: str
) -> None:
    rules = Rules.of({"models": {"default": "d/d", "fast": "f/f", "roles": {"reviewer": "r/r"}}})
    assert rules.chain(request_) == (model,)
    assert Rules.of({}).chain(b.ModelRequest(id="1", session="s", agent="a")) == ("offline/rules",)
