"""What a provider's key may be used for: at once, in a minute, after a 429."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loomd.models.gauge import LONGEST_TOLD_S, MINUTE_S, SLICE_S, Gauge
from loomd.models.limiter import (
    LONGEST_ASKED_S,
    LONGEST_PAUSE_S,
    RAMP_S,
    Estimate,
    Lane,
    Limiter,
)
from loomd.wire import bodies as b
from loomd.wire.bodies import RateLimit
from tests.models.counter import MODEL, Counter, fail, failed, orders

ONE = Estimate(1000, 100)


def requests(limit: float, remaining: float, reset_s: float | None = None) -> RateLimit:
    return RateLimit(what="requests", limit=limit, remaining=remaining, reset_s=reset_s)


# --- a gauge -----------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_in_no_minute_more_is_taken_than_the_configured_limit(seed: int, limit: int) -> None:
    draw = random.Random(seed)
    gauge = Gauge(ours=float(limit))
    now, taken = 1000.0, []
    for _ in range(120):
        now += draw.choice([0.0, 0.1, 1.0, 7.0])
        amount = draw.randint(1, max(1, limit // 2))
        at = gauge.ready_at(amount, now)
        assert at >= now
        if draw.random() < 0.5:
            now = at
        if gauge.ready_at(amount, now) <= now:
            gauge.take(amount, now)
            taken.append((now, amount))
        assert sum(n for t, n in taken if now - MINUTE_S < t) <= limit


def test_a_call_waits_until_enough_of_the_minute_has_passed_and_no_longer() -> None:
    gauge = Gauge(ours=3.0)
    for second in (0.0, 10.0, 20.0):
        assert gauge.ready_at(1, second) == second
        gauge.take(1, second)
    assert gauge.ready_at(1, 21.0) == MINUTE_S + SLICE_S
    assert gauge.ready_at(2, 21.0) == 10 + MINUTE_S + SLICE_S


def test_what_is_more_than_the_whole_limit_goes_alone_and_not_never() -> None:
    gauge = Gauge(ours=100.0)
    assert gauge.ready_at(5000, 0.0) == 0.0
    gauge.take(5000, 0.0)
    assert gauge.ready_at(1, 1.0) == MINUTE_S + SLICE_S
    told = Gauge(limit=100.0, left=100.0, rate=1.0)
    assert told.ready_at(5000, 0.0) == 0.0


def test_an_estimate_is_put_right_when_the_call_has_ended() -> None:
    gauge = Gauge(ours=1000.0)
    gauge.take(1000, 5.0)
    assert gauge.ready_at(500, 6.0) > 6.0
    gauge.correct(5.0, 1000, 300, 7.0)
    assert gauge.ready_at(500, 7.0) == 7.0


def test_what_the_provider_has_said_is_not_put_right_by_what_it_knew() -> None:
    gauge = Gauge(limit=1000.0, left=1000.0, rate=0.001)
    told = RateLimit(what="tokens", limit=1000, remaining=100, reset_s=900_000.0)
    for began in (5.0, 6.0):
        gauge.take(300, began)
    gauge.learn(told, 6.0, 10.0, 0.0)
    for began in (5.0, 6.0):
        gauge.correct(began, 300, 50, 10.0)
    assert gauge.left == 100
    gauge.take(60, 11.0)
    gauge.correct(11.0, 60, 10, 11.0)  # this one it did not know
    assert gauge.left == pytest.approx(90, abs=0.1)


def test_what_the_provider_says_is_left_counts_and_comes_back_until_it_said() -> None:
    gauge = Gauge()
    gauge.learn(requests(100, 0, 20.0), 0.0, 10.0, 0.0)
    assert gauge.ready_at(1, 10.0) == pytest.approx(10.2)
    assert gauge.ready_at(100, 10.0) == pytest.approx(30.0)
    gauge.learn(requests(100, 50), 1.0, 11.0, 0.0)  # no reset: as much a minute as there is
    assert gauge.ready_at(60, 11.0) == pytest.approx(11 + 10 * 60 / 100)


def test_an_older_answer_tells_nothing_new_and_calls_under_way_are_not_forgotten() -> None:
    gauge = Gauge()
    gauge.learn(requests(10, 2, 48.0), 5.0, 6.0, 0.0)
    gauge.learn(requests(10, 9, 6.0), 1.0, 7.0, 0.0)  # began before, ended after
    assert gauge.left == 2
    gauge.learn(requests(10, 9, 6.0), 6.0, 8.0, 4.0)
    assert gauge.left == 5


def test_a_gauge_survives_being_saved() -> None:
    gauge = Gauge()
    gauge.learn(requests(10, 2, 48.0), 5.0, 6.0, 0.0)
    gauge.take(1, 7.0)
    assert Gauge.of(gauge.saved()) == gauge


# --- a lane ------------------------------------------------------------------------------------


def test_without_a_time_each_cool_down_in_a_row_is_longer_to_a_bound() -> None:
    lane, now, pauses = Lane(), 100.0, []
    for _ in range(9):
        lane.cool(now, None, now)
        pauses.append(lane.until - now)
        now = lane.until + 1
    assert pauses[:4] == [1, 2, 4, 8] and pauses[-1] == LONGEST_PAUSE_S
    lane.answered(now, now)
    lane.cool(now, None, now)
    assert lane.until == now + 1


def test_calls_that_were_under_way_make_a_cool_down_no_longer_unless_they_are_told_so() -> None:
    lane = Lane()
    lane.cool(99.0, None, 100.0)
    for _ in range(7):
        lane.cool(99.5, None, 100.2)
    assert (lane.hits, lane.until) == (1, 101.0)
    lane.cool(99.5, 30.0, 100.3)
    assert lane.until == 130.3
    lane.answered(99.5, 100.3)  # began before: it says nothing about now
    assert lane.hits == 1


def test_a_pause_of_days_is_not_believed() -> None:
    lane = Lane()
    lane.cool(1.0, 1e9, 1.0)
    assert lane.until == 1.0 + LONGEST_ASKED_S


def test_after_a_cool_down_one_goes_first_then_twice_as_many_each_time() -> None:
    lane = Lane(limit=5, until=100.0)
    allowed = []
    for step in range(4):
        now = 100.0 + step * RAMP_S
        lane.active = 0
        while lane.ready_at(ONE, now) <= now:
            lane.begin(ONE, now)
        allowed.append(lane.active)
        if step < 3:
            assert lane.ready_at(ONE, now) == now + RAMP_S
    assert allowed == [1, 2, 4, 5]


def test_providers_that_name_the_same_key_share_one_lane_and_the_smaller_limit() -> None:
    limiter = Limiter()
    limiter.configure(
        {
            "east": {"api_key_env": "KEY", "concurrency": 9},
            "west": {"api_key_env": "KEY", "concurrency": 4, "requests_per_minute": 10},
            "other": {"api_key_env": "OTHER"},
            "local": {"api_base": "http://127.0.0.1:1", "api_key_env": "NONE"},
            "near": {"api_base": "http://127.0.0.1:2", "api_key_env": "NONE"},
            "mine": {"api_key_env": "OPENAI_API_KEY"},
        }
    )
    assert limiter.name_of("openai/gpt") == limiter.name_of("gpt") == "mine"  # by its usual key
    assert limiter.name_of("west/m") == limiter.name_of("east/n") == "east"
    assert {limiter.name_of(f"{p}/m") for p in ("other", "local", "near")} == {
        *("other", "local", "near")
    }
    lane = limiter.lane("east")
    assert lane.limit == 4 and lane.gauges["requests"].ours == 10
    limiter.configure({})
    assert lane.gauges["requests"].ours is None


# --- in the actor ------------------------------------------------------------------------------


def many(models: Counter, n: int, **fields: str) -> list[str]:
    """Requests of n agents; the ids of those that were ordered."""
    return [
        order.request.id
        for i in range(n)
        for order in orders(models.ask(f"r{i:02}", agent=f"s-1/coder-{i}", **fields))
    ]


def test_fifty_agents_do_not_each_find_out_about_a_429() -> None:
    models = Counter({"models": {"default": MODEL}, "providers": {"openai": {"concurrency": 50}}})
    [first] = orders(models.ask("first"))
    models.end(first, fail("rate_limited", retry_after=5.0))
    assert many(models, 50) == []
    assert models.timer == models.now + 5
    [probe] = orders(models.wait())
    assert orders(models.end(probe, fail("rate_limited", retry_after=9.0))) == []
    assert models.timer == models.now + 9
    assert len([e for e in models.events if e.type == "model_cooldown"]) == 2
    flying = orders(models.wait())
    done = 0
    while flying or models.timer is not None:
        if flying:
            done += 1
            flying += orders(models.end(flying.pop(0)))
        else:
            flying += orders(models.wait())
    assert done == 51 and models.state.queue.items == {}
    assert [row["outcome"] for row in models.ledger()].count("rate_limited") == 2


def test_requests_per_minute_hold_for_all_sessions_and_through_a_restart() -> None:
    limits = {"requests_per_minute": 3, "concurrency": 50}
    models = Counter({"models": {"default": MODEL}, "providers": {"openai": limits}})
    for n in range(5):
        models.ask(f"r{n}", session=f"s-{n}", agent=f"s-{n}/lead")
        models.restart()
    assert len(list(models.state.queue.running())) == 3
    began = models.now
    assert len(orders(models.wait())) == 2
    assert began + MINUTE_S <= models.now <= began + MINUTE_S + SLICE_S


def test_tokens_per_minute_count_what_a_call_really_took() -> None:
    limits = {"tokens_per_minute": 40_000, "concurrency": 50}
    models = Counter({"models": {"default": MODEL}, "providers": {"openai": limits}})
    [order] = orders(models.ask("r0"))  # taken for 28,000 + 2,048
    assert many(models, 3) == []
    ordered = orders(models.end(order))  # it took 15
    assert len(ordered) == 1


def test_who_waits_for_tokens_is_not_overtaken_by_a_smaller_request() -> None:
    limits = {"tokens_per_minute": 40_000}
    models = Counter({"models": {"default": MODEL}, "providers": {"openai": limits}})
    models.ask("r0")
    models.ask("big", agent="s-1/big", max_tokens=9000)
    assert orders(models.ask("small", agent="s-1/small", max_tokens=1)) == []
    assert [order.request.id for order in orders(models.wait())] == ["big"]


def test_a_limit_that_the_headers_tell_is_kept_without_a_429() -> None:
    models = Counter()
    [order] = orders(models.ask("first"))
    models.end(order, limits=(requests(100, 2, 58.8),))
    assert many(models, 5) == ["r00", "r01"]
    assert models.timer == pytest.approx(models.now + 0.6, abs=0.01)
    assert len(orders(models.wait())) == 1


def test_of_a_limit_that_is_whole_again_tomorrow_nobody_waits() -> None:
    models = Counter()
    [order] = orders(models.ask("first"))
    models.end(order, limits=(requests(200, 0, 80_000.0),))
    assert failed(models.ask("r1")) == "rate_limited"
    models.now += LONGEST_TOLD_S  # after a minute one finds out whether that is so
    [order] = orders(models.ask("r2"))
    assert failed(models.ask("r3")) == "rate_limited"
    models.end(order)
    with_other = Counter({"models": {"default": MODEL, "fallback": {MODEL: ["other/m"]}}})
    [order] = orders(with_other.ask("first"))
    with_other.end(order, limits=(requests(200, 0, 80_000.0),))
    [order] = orders(with_other.ask("r1"))
    assert order.model == "other/m"


def test_a_pause_that_is_too_long_is_found_out_once() -> None:
    models = Counter()
    [order] = orders(models.ask("first"))
    models.end(order, fail("rate_limited", retry_after=3000.0))
    assert failed(models.ask("r1")) == "rate_limited"
    assert len(models.ledger()) == 1


# --- what is found out is not kept for ever ------------------------------------------------------


def test_what_a_provider_tells_silences_it_for_a_minute_at_most() -> None:
    gauge = Gauge()
    gauge.learn(requests(10, 0, 86400.0), 1000.0, 1000.0, 0)
    for now in (1000.0, 1030.0, 1059.0):
        assert gauge.ready_at(1, now) == 1060.0 < gauge.whole_at(1, now)
    gauge.take(1, 1060.0)
    assert gauge.ready_at(1, 1061.0) == 1120.0, "one call a minute, not all that have waited"
    gauge.learn(requests(10, 9, 1.0), 1060.0, 1062.0, 0)
    assert gauge.ready_at(1, 1062.0) == 1062.0


def test_another_key_or_server_begins_anew_and_the_same_one_does_not() -> None:
    limiter = Limiter()
    limiter.configure({"a": {"api_key_env": "K"}, "b": {}})
    for name in ("a", "b"):
        lane = limiter.lane(name)
        lane.cool(1000.0, 3600.0, 1000.0)
        limiter.learn(name, [requests(10, 0, 60.0)], 1000.0, 1000.0, [])
    limiter.configure({"a": {"api_key_env": "K", "concurrency": 3}, "b": {"api_key_file": "/k"}})
    assert limiter.lane("a").until == 4600.0 and limiter.lane("a").gauges["requests"].limit == 10
    again = limiter.lane("b")
    assert again.ready_at(ONE, 1001.0) == 1001.0 and not again.hits


def test_a_check_asks_in_a_cool_down_and_ends_one_that_is_moot() -> None:
    models = Counter()
    [order] = orders(models.ask("r1"))
    models.end(order, fail("rate_limited", retry_after=50.0))
    assert not orders(models.ask("r2"))
    for id, outcome in (("check-1", fail("server")), ("check-2", None)):
        models.now += 1
        [check] = orders(
            models.mail(
                b.ModelRequest(id=id, session="", agent="hub", purpose="check", model=MODEL), "hub"
            )
        )
        changes = models.end(check, outcome)
        assert bool(orders(changes)) == (outcome is None), "the pause holds until one was answered"


def test_a_count_of_tokens_beyond_all_reason_does_not_refuse_every_later_call() -> None:
    models = Counter({"models": {"default": MODEL}, "budget": {"session_usd": 1.0}})
    models.ask("r1")
    [order] = orders(models.price(price=(1e-6, 1e-6)))
    models.end(order, usage=b.Usage(input_tokens=10**12, cost_usd=0.0), cost_known="reported")
    assert len(orders(models.ask("r2"))) == 1
