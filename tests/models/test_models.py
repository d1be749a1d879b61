"""Which request goes where, when, and what a failure leads to."""

from __future__ import annotations

from typing import Any

import pytest

from loomd.actor import behaviour as act
from loomd.models import ending, retries
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
    models.end(order, b.FinalAnswer(text="x" * (ending.ANSWER_LIMIT + 1)))
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
    assert models.timer == models.now + 7
    [first] = orders(models.wait())  # one goes first: r1 still waits for its own jitter
    assert first.request.id == "r2"
    assert [order.request.id for order in _rest(models, first)] == ["r1"]


def _rest(models: Counter, order: b.Perform) -> list[b.Perform]:
    """What is ordered once this one has ended well."""
    ordered = orders(models.end(order))
    while not ordered and models.timer is not None:
        ordered = orders(models.wait())
    return ordered


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


@pytest.mark.parametrize("kind", sorted(retries.FINAL - {"budget"}))
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


def test_whom_a_person_waits_for_goes_first_and_nobody_waits_for_ever() -> None:
    models = Counter({"models": {"default": MODEL}, "providers": {"openai": {"concurrency": 1}}})
    [order] = orders(models.ask("first", session="s-0", agent="s-0/lead"))
    for n in range(3):
        models.ask(f"b{n}", session="s-b", agent=f"s-b/coder-{n}")
    for n in range(6):
        models.ask(f"p{n}", session="s-p", agent=f"s-p/coder-{n}", interactive=n == 0)
    models.ask("q0", session="s-q", agent="s-q/lead", interactive=True)
    served = []
    while True:
        if served and served[-1] == "p0":  # they still wait for this session
            models.ask("p9", session="s-p", agent="s-p/coder-9", interactive=True)
        models.restart()
        started = orders(models.end(order))
        if not started:
            break
        [order] = started
        served.append(order.request.id)
    assert served == ["p0", "q0", "p1", "p2", "b0", "p3", "p4", "p5", "p9", "b1", "b2"]


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


def test_a_breaker_that_opens_and_closes_says_so() -> None:
    models = Counter()
    asked = [orders(models.ask(f"r{n}", agent=f"s-1/coder-{n}"))[0] for n in range(5)]
    for order in asked:
        models.end(order, fail("server"))
    probes = []
    while not probes:
        probes = orders(models.wait())
    models.end(probes[0])
    said = [e.data["state"] for e in models.events if e.type == "model_breaker"]
    assert said == ["open", "closed"]


def test_a_probe_that_never_reached_the_gateway_is_made_again() -> None:
    models = Counter()
    asked = [orders(models.ask(f"r{n}", agent=f"s-1/coder-{n}"))[0] for n in range(5)]
    for order in asked:
        models.end(order, fail("server"))
    probes = []
    while not probes:
        probes = orders(models.wait())
    raw = codec.encode(probes[0])
    lost = b.Undelivered(id="models/1.0", to="gateway-1", reason="full", body=raw)
    again = orders(models.mail(lost, sender="hub"))
    while not again:
        again = orders(models.wait())
    assert len(again) == 1


def test_nobody_waits_for_a_model_whose_key_is_wrong() -> None:
    models = Counter()
    asked = [orders(models.ask(f"r{n}", agent=f"s-1/coder-{n}"))[0] for n in range(5)]
    for order in asked:
        assert failed(models.end(order, fail("auth", retryable=False))) == "auth"
    assert failed(models.ask("late", agent="s-1/late")) == "auth"
    changed = {"providers": {"openai": {"api_key_file": "/another"}}}
    models.mail(b.Configured(settings=changed), sender="hub")
    assert len(orders(models.ask("later", agent="s-1/later"))) == 1  # another key


def test_without_a_fallback_an_open_breaker_is_waited_for_no_longer_than_a_retry() -> None:
    models = Counter({"models": {"default": MODEL, "patience_s": 60.0}})
    asked = [orders(models.ask(f"r{n}", agent=f"s-1/coder-{n}"))[0] for n in range(5)]
    for order in asked:
        models.end(order, fail("server"))
    models.ask("late", agent="s-1/late")
    began, ended = models.now, set()
    while models.timer is not None:
        changes = models.wait()
        for probe in orders(changes):
            changes = [*changes, *models.end(probe, fail("server"))]
        ended |= {outcome.request for _, outcome in told(changes)}
    assert ended == {*(f"r{n}" for n in range(5)), "late"}
    assert models.now - began <= 60.0 + 1


def test_attempts_and_patience_are_the_configurations() -> None:
    models = Counter({"models": {"default": MODEL, "attempts": 2}})
    [order] = orders(models.ask())
    models.end(order, fail("server"))
    [order] = orders(models.wait())
    assert failed(models.end(order, fail("server"))) == "server"
    hasty = Counter({"models": {"default": MODEL, "patience_s": 0.0}})
    [order] = orders(hasty.ask())
    assert failed(hasty.end(order, fail("server"))) == "server"


# --- the budget --------------------------------------------------------------------------------


PRICE = (1e-6, 2e-6)
WORST = 28000 * 1e-6 + 16384 * 2e-6
"""USD that one call can cost at this price."""


def settings(usd: float, **more: float) -> dict[str, Any]:
    return {"models": {"default": MODEL}, "budget": {"session_usd": usd} | more}


def asked_prices(changes: list[act.Change]) -> list[str]:
    return [
        change.body.model
        for change in changes
        if isinstance(change, act.Send) and isinstance(change.body, b.AskPrice)
    ]


def priced(usd: float, **more: float) -> Counter:
    """A life in which the price is known."""
    models = Counter(settings(usd, **more))
    models.price()
    return models


def test_before_the_first_call_under_a_budget_the_price_is_asked_for_once() -> None:
    models = Counter(settings(1.0))
    changes = models.ask("r1")
    assert asked_prices(changes) == [MODEL] and orders(changes) == []
    assert asked_prices(models.ask("r2", agent="s-1/coder-1")) == []
    models.restart()
    assert {order.request.id for order in orders(models.price())} == {"r1", "r2"}


def test_without_a_budget_no_price_is_asked_for() -> None:
    models = Counter()
    changes = models.ask("r1")
    assert asked_prices(changes) == [] and len(orders(changes)) == 1


@pytest.mark.parametrize("lost", ["unanswered", "undelivered", "another gateway"])
def test_a_price_that_is_not_told_is_asked_for_again(lost: str) -> None:
    models = Counter(settings(1.0))
    models.ask("r1")
    match lost:
        case "unanswered":
            changes = models.wait()
        case "undelivered":
            raw = codec.encode(b.AskPrice(model=MODEL))
            body = b.Undelivered(id="models/1.0", to="gateway-1", reason="full", body=raw)
            assert asked_prices(models.mail(body, sender="hub")) == []
            changes = models.wait()
        case _:
            changes = models.mail(b.UseGateway(gateway="gateway-2"), sender="hub")
    assert asked_prices(changes) == [MODEL]


def test_a_price_from_anybody_else_counts_for_nothing() -> None:
    models = Counter(settings(1.0))
    models.ask("r1")
    assert orders(models.mail(b.Priced(model=MODEL, price=(0.0, 0.0)), sender="s-1/lead")) == []


def test_a_call_that_could_pass_the_budget_is_refused_and_not_ordered() -> None:
    models = priced(WORST - 0.001)
    changes = models.ask("r1")
    assert failed(changes) == "budget" and orders(changes) == []
    [_, outcome] = told(changes)[0]
    assert isinstance(outcome.outcome, b.Failed) and "session_usd" in outcome.outcome.hint
    assert models.ledger() == []


def test_what_is_reserved_is_what_the_provider_may_write() -> None:
    models = priced(1.0)
    [order] = orders(models.ask("r1"))
    assert order.request.max_tokens == 16384
    models.mail(b.Priced(model=MODEL, price=PRICE, max_output=4096), sender="gateway-1")
    [order] = orders(models.ask("r2"))
    assert order.request.max_tokens == 4096
    [order] = orders(models.ask("r3", max_tokens=100))
    assert order.request.max_tokens == 100
    [order] = orders(Counter().ask("r4"))
    assert order.request.max_tokens is None  # no budget: the model's own limit


def test_a_model_that_counts_more_tokens_than_was_reckoned_is_reserved_more_for() -> None:
    models = priced(1.0)
    [order] = orders(models.ask("r1"))
    models.end(order, usage=b.Usage(input_tokens=56000, cost_usd=0.06))
    models.ask("r2")
    held = models.state.budget.reserved["session:s-1"]
    assert held == pytest.approx(WORST + 28000 * PRICE[0])


def test_a_session_may_have_its_own_budget() -> None:
    models = priced(1.0)
    assert failed(models.ask("r1", budget_usd=0.0)) == "budget"
    assert orders(models.ask("r2", budget_usd=5.0)) != []


@pytest.mark.parametrize("scope", ["day", "session", "task", "agent"])
def test_each_node_of_the_tree_refuses_what_does_not_fit_it(scope: str) -> None:
    models = Counter({"models": {"default": MODEL}, "budget": {f"{scope}_usd": WORST * 1.5}})
    models.price()
    [order] = orders(models.ask("r1", task="t-1"))
    others = {  # what shares nothing with it below the day
        "session": {"session": "s-2", "agent": "s-2/lead"},
        "task": {"task": "t-2"},
        "agent": {"agent": "s-1/coder-1"},
    }
    if scope == "day":
        assert orders(models.ask("r2", session="s-2", agent="s-2/lead")) == []  # it waits
        changes = models.end(order, usage=b.Usage(cost_usd=WORST))
        assert failed(changes) == "budget"
        models.now += 86400
        assert orders(models.ask("r3", task="t-1")) != []  # another day
        return
    assert orders(models.ask("r2", **({"task": "t-1"} | others[scope]))) != []
    models.end(order, usage=b.Usage(cost_usd=WORST))
    changes = models.ask("r3", task="t-1")
    assert failed(changes) == "budget"
    [_, outcome] = told(changes)[0]
    assert isinstance(outcome.outcome, b.Failed)
    assert f"the {scope}" in outcome.outcome.detail and f"{scope}_usd" in outcome.outcome.hint
    models.restart()
    assert failed(models.ask("r4", task="t-1")) == "budget"


def test_the_day_that_reserved_pays_also_for_what_ends_after_midnight() -> None:
    models = Counter({"models": {"default": MODEL}, "budget": {"day_usd": 1.0}}, now=86399.0)
    models.price()
    [order] = orders(models.ask("r1"))
    models.now += 10
    models.end(order, usage=b.Usage(cost_usd=0.9))
    [row] = models.ledger()
    assert row["day"] == "1970-01-01" and row["ts"] > 86400
    assert models.state.budget.spent["day:1970-01-01"] == 0.9
    assert orders(models.ask("r2")) != []


def test_at_80_percent_there_is_one_warning_for_each_limit_that_is_near() -> None:
    models = priced(1.0, agent_usd=0.5)
    for n, cost in enumerate((0.39, 0.02, 0.02, 0.4)):
        agent = "s-1/lead" if n < 3 else "s-1/coder-1"
        [order] = orders(models.ask(f"r{n}", agent=agent))
        models.end(order, usage=b.Usage(cost_usd=cost))
        models.restart()
    warnings = [event.data for event in models.events if event.type == "budget_warning"]
    assert [(one["scope"], one["of"]) for one in warnings] == [
        ("agent", "s-1/lead"),
        ("session", "s-1"),
        ("agent", "s-1/coder-1"),
    ]
    assert warnings[0]["share"] == pytest.approx(0.82)
    raised = settings(1.0, agent_usd=0.6)
    models.mail(b.Configured(settings={"budget": raised["budget"]}), sender="hub")
    [order] = orders(models.ask("r8", agent="s-1/lead"))
    models.end(order, usage=b.Usage(cost_usd=0.1))
    assert models.events[-1].data["limit_usd"] == 0.6  # another limit, another warning


def test_a_warning_of_the_day_is_told_to_all_who_want_something() -> None:
    models = Counter(
        {
            "models": {"default": MODEL},
            "budget": {"day_usd": 1.0},
            "providers": {"openai": {"concurrency": 1}},
        }
    )
    models.price()
    [order] = orders(models.ask("r1"))
    models.ask("r2", session="s-2", agent="s-2/lead")
    models.end(order, usage=b.Usage(cost_usd=0.85))
    told_to = [e.session for e in models.events if e.type == "budget_warning"]
    assert told_to == ["s-1", "s-2"]


def test_calls_side_by_side_never_reserve_more_than_is_left() -> None:
    models = priced(0.3)
    for n in range(1, 9):
        models.ask(f"r{n}", agent=f"s-1/coder-{n}")
    assert models.state.budget.reserved["session:s-1"] <= 0.3
    running = [item for item in models.state.queue.running()]
    assert 0 < len(running) < 8
    assert len(list(models.state.queue.waiting())) == 8 - len(running)  # wait, not refused


def test_a_model_of_no_known_price_is_not_bounded_and_that_is_said_once() -> None:
    models = Counter(settings(1.0))
    models.ask("r0")
    [order] = orders(models.price(price=None))
    models.end(order, usage=b.Usage(cost_usd=None, calls=1), cost_known="unknown", price=None)
    [row] = models.ledger()
    assert row["cost_usd"] is None and row["cost_known"] == "unknown"
    assert len(orders(models.ask("r1"))) == 1
    assert len(orders(models.ask("r2", agent="s-1/coder-1"))) == 1
    assert [e.type for e in models.events] == ["budget_unbounded"]


def test_an_attempt_of_unknown_cost_is_held_against_the_budget_with_its_worst_case() -> None:
    models = priced(1.0)
    [order] = orders(models.ask("r1"))
    unknown = {"usage": b.Usage(cost_usd=None, calls=1), "cost_known": "unknown"}
    models.end(order, fail("network", retryable=False), **unknown)
    [row] = models.ledger()
    assert row["cost_usd"] is None and row["booked_usd"] == pytest.approx(WORST)
    assert models.state.budget.spent["session:s-1"] == pytest.approx(WORST)
    [order] = orders(models.ask("r2"))
    models.end(order, lost=1)
    assert models.state.budget.spent["session:s-1"] == pytest.approx(2 * WORST + 0.01)


@pytest.mark.parametrize(
    "failure",
    [
        fail("rate_limited", retry_after=1.0),
        fail("auth", retryable=False),
        b.Failed(kind="timeout", retryable=True, phase="connect"),
    ],
)
def test_a_call_that_was_refused_before_any_work_has_cost_nothing_and_that_is_known(
    failure: b.Failed,
) -> None:
    models = priced(1.0)
    [order] = orders(models.ask("r1"))
    unknown = {"usage": b.Usage(cost_usd=None, calls=1), "cost_known": "unknown"}
    models.end(order, failure, **unknown)
    [row] = models.ledger()
    assert row["cost_usd"] == 0.0 and row["cost_known"] == "computed"
    assert models.state.budget.spent == {}


def test_what_was_spent_is_read_from_the_ledger_after_a_restart() -> None:
    models = priced(1.0)
    [order] = orders(models.ask())
    models.end(order, usage=b.Usage(cost_usd=0.25))
    models.restart()
    assert models.state.budget.spent == {
        "day:1970-01-01": 0.25,
        "session:s-1": 0.25,
        "agent:s-1/lead": 0.25,
    }


def test_what_an_older_version_has_spent_is_summed_once_from_its_ledger() -> None:
    models = priced(1.0)
    for n in range(2):
        [order] = orders(models.ask(f"r{n}"))
        models.end(order, usage=b.Usage(cost_usd=0.25))
    for key, row in list(models.rows.rows("queue", b"")):
        if row["state"] == "spent":
            del models.rows.tables["queue"][key]
    del models.saved["rows"]
    for key, row in models.rows.rows("ledger", b""):
        old = {name: row[name] for name in row if name not in ("day", "booked_usd")}
        models.rows.tables["ledger"][key] = codec.pack(old)
    models.restart()
    assert models.state.rows == 2 and models.state.budget.spent["session:s-1"] == 0.5
    models.price()  # any step keeps the sums
    assert models.saved["rows"] == 2


def test_a_row_says_what_was_paid_for_and_how_that_is_known() -> None:
    models = Counter()
    [order] = orders(models.ask(task="t-3", purpose="review", role="reviewer"))
    usage = b.Usage(
        input_tokens=10,
        output_tokens=5,
        cached_tokens=4,
        cache_write_tokens=3,
        reasoning_tokens=2,
        cost_usd=0.01,
        calls=1,
    )
    models.end(order, usage=usage, cost_known="reported", price_version="map 7")
    [row] = models.ledger()
    assert (row["task"], row["purpose"], row["role"]) == ("t-3", "review", "reviewer")
    assert (row["cached_tokens"], row["cache_write_tokens"], row["reasoning_tokens"]) == (4, 3, 2)
    assert (row["price_version"], row["cost_known"]) == ("map 7", "reported")


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
    assert models.mail(b.CancelModel(agent=AGENT), sender="s-2/team") == []


def test_the_requests_of_an_agent_that_has_ended_are_cancelled_by_its_team() -> None:
    models = Counter()
    models.ask()
    changes = models.mail(b.CancelModel(agent=AGENT), sender=f"{AGENT.partition('/')[0]}/team")
    assert [c.body for c in changes if isinstance(c, act.Send)] == [b.CancelModel(request="r1")]


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
    monkeypatch.setattr(ending, "REMEMBERED", 3)
    models = Counter()
    for n in range(5):
        [order] = orders(models.ask(f"r{n}"))
        models.end(order)
    assert list(models.state.settled) == ["r2", "r3", "r4"]
    done = [row for _, row in models.rows.rows("queue", b"") if row["state"] == "done"]
    assert [row["id"] for row in done] == ["r2", "r3", "r4"]


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


def check(counter: Counter, id: str = "check-1") -> list[act.Change]:
    """As the hub asks."""
    return counter.mail(
        b.ModelRequest(
            id=id, session="", agent="hub", purpose="check", model=MODEL, tools=(), max_tokens=64
        ),
        sender="hub",
    )


def test_a_check_is_made_once_on_its_model_and_is_in_the_ledger() -> None:
    other = "openai/gpt-5"
    counter = Counter({"models": {"default": MODEL, "fallback": {MODEL: [other]}}})
    [order] = orders(check(counter))
    assert (order.model, order.request.purpose) == (MODEL, "check")
    changes = counter.end(
        order, fail("server"), usage=b.Usage(calls=1, cost_usd=None), cost_known="unknown"
    )
    [(to, told_)] = told(changes)
    assert to == "hub" and isinstance(told_.outcome, b.Failed) and told_.outcome.kind == "server"
    assert told_.usage.cost_usd is None and counter.timer is None
    assert failed(check(counter)) == "server", "the same question gets the same answer"
    [row] = counter.ledger()
    assert (row["purpose"], row["session"], row["outcome"]) == ("check", "", "server")


def test_checks_count_against_the_day_alone() -> None:
    limits = {"day_usd": 0.1, "session_usd": 0.0, "agent_usd": 0.0, "task_usd": 0.0}
    counter = Counter({"models": {"default": MODEL}, "budget": limits})
    check(counter)
    [order] = orders(counter.price())
    assert order.request.max_tokens == 64
    counter.end(order, usage=b.Usage(input_tokens=9, cost_usd=0.09))
    [node] = counter.state.budget.spent
    assert node.startswith("day:")
    assert failed(check(counter, "check-2")) == "budget"


def test_a_check_does_not_wait_for_a_breaker_and_closes_it() -> None:
    counter = Counter({"models": {"default": MODEL, "attempts": 1}})
    for n in range(5):
        [order] = orders(counter.ask(f"r{n}"))
        counter.end(order, fail("server"))
    assert not orders(counter.ask("waits"))
    [probe] = orders(check(counter))
    [order] = orders(counter.end(probe))
    assert order.request.id == "waits"
