"""The parts of models, each alone."""

from __future__ import annotations

from loomd.models.breaker import FIRST_S, LONGEST_S, THRESHOLD, Breaker
from loomd.models.queue import Item
from loomd.models.retries import CAP_S, backoff
from loomd.wire import bodies as b
from loomd.wire.models import provider_of


def test_the_pause_is_drawn_from_the_id_within_its_window_and_after_what_was_asked() -> None:
    for tries in range(1, 12):
        pause = backoff("r", tries, tries, None)
        assert 0 <= pause <= min(CAP_S, 0.5 * 2**tries)
        assert backoff("r", tries, tries, None) == pause
        assert backoff("r", tries, tries, 9.0) == 9.0 + pause
    assert len({backoff("r", n, 3, None) for n in range(10)}) == 10


def test_an_item_survives_its_row() -> None:
    item = Item(
        request=b.ModelRequest(id="r", session="s", agent="a", view=b.View(pinned=("x",))),
        order=3,
        chain=("m/1", "m/2"),
        link=1,
        attempt=4,
        last=b.Failed(kind="server", retry_after=1.5),
    )
    assert Item.from_row(item.row()) == item


def test_a_breaker_opens_after_failures_in_a_row_and_its_period_grows_to_a_bound() -> None:
    breaker = Breaker()
    for _ in range(THRESHOLD - 1):
        breaker.failed("server", 0.0)
    assert breaker.ready_at() == 0.0
    breaker.failed("server", 0.0)
    assert breaker.ready_at() == FIRST_S
    now = FIRST_S
    for _ in range(6):
        breaker.begin()
        assert breaker.ready_at() == float("inf")
        breaker.failed("timeout", now)
        assert now < breaker.ready_at() <= now + LONGEST_S
        now = breaker.ready_at()
    assert breaker.period == LONGEST_S
    breaker.begin()
    breaker.succeeded()
    assert breaker == Breaker()


def test_a_request_that_is_itself_wrong_says_nothing_against_the_model() -> None:
    breaker = Breaker()
    for _ in range(3 * THRESHOLD):
        breaker.failed("context_overflow", 0.0)
    assert breaker == Breaker()


def test_a_probe_that_was_cancelled_leaves_the_breaker_open_for_another() -> None:
    breaker = Breaker(failures=THRESHOLD, until=5.0)
    breaker.begin()
    breaker.failed("cancelled", 6.0)
    assert breaker.ready_at() == 5.0


def test_providers_are_told_by_the_first_part_of_the_name() -> None:
    assert provider_of("openai/gpt-5-mini") == "openai"
    assert provider_of("openrouter/meta/llama") == "openrouter"
    assert provider_of("gpt-5-mini") == "openai"
