"""Which code a process is born from, over upgrades that succeed, fail for one, or fail for all."""

from __future__ import annotations

import json

from loomd.supervise.generations import Generations


def _next(made: Generations) -> int:
    """A newer generation that could be formed."""
    number = made.begin()
    made.take()
    return number


def test_one_that_cannot_be_formed_changes_nothing():
    made = Generations()
    _next(made)
    made.pin("a")
    assert made.begin() == 3
    assert (made.of("a"), made.of("b")) == (1, 2)  # each is born as before
    made.withdraw()
    assert (made.of("a"), made.of("b")) == (1, 2)
    assert made.fallback("b") == 0 and made.needed(on_trial=False) == {1, 2}
    _next(made)
    made.take()  # once more is nothing more
    assert made.of("a") == 4 and made.fallback("a") == 1 and made.fallback("b") == 2


def test_births_move_to_the_newest_and_the_one_before_is_kept_while_somebody_is_on_trial():
    made = Generations()
    assert made.of("a") == 1 and made.fallback("a") == 0 and made.needed(on_trial=True) == {1}
    assert made.begin() == 2
    assert made.of("a") == 1 and made.fallback("a") == 0  # while it is being formed
    made.take()
    assert made.of("a") == 2 and made.fallback("a") == 1
    assert made.needed(on_trial=True) == {1, 2} and made.needed(on_trial=False) == {2}


def test_who_failed_stays_where_it_was_and_gets_another_chance():
    made = Generations(5)
    _next(made)
    assert made.pin("a") == 5
    assert made.of("a") == 5 and made.of("b") == 6
    assert made.fallback("a") == 0  # there is nothing before what it runs on
    assert made.needed(on_trial=False) == {5, 6}
    _next(made)
    assert made.of("a") == 7
    assert made.fallback("a") == 5 and made.fallback("b") == 6  # each to what it has run on last
    assert made.needed(on_trial=True) == {5, 6, 7}
    made.pin("a")
    made.unpin("a")
    assert made.of("a") == 7 and made.needed(on_trial=False) == {7}


def test_a_generation_taken_back_gives_births_and_pins_back():
    made = Generations()
    _next(made)
    made.pin("a")
    _next(made)
    made.withdraw()
    assert made.of("a") == 1 and made.of("b") == 2 and made.fallback("b") == 0
    assert _next(made) == 4 and made.previous == 2
    Generations().withdraw()  # with nothing before it there is nothing to go back to


def test_it_is_handed_on():
    made = Generations()
    _next(made)
    made.pin("a")
    _next(made)
    twin = Generations.thaw(json.loads(json.dumps(made.freeze())))
    assert twin.freeze() == made.freeze() and twin.fallback("a") == 1
