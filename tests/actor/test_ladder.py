"""The recovery ladder: failures and successes in, rungs out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomd.actor.ladder import (
    Parameters,
    Rung,
    answers,
    climb,
    name_of,
    of_settings,
    parameters,
    steady,
)
from loomd.store.tables import History

LADDER = (
    Rung(do="restart", count=2, period_s=10),
    Rung(do="parameters", count=1, period_s=20, temperature=0.1, view=0.5),
    Rung(do="conversation", count=1, period_s=30, view=0.25),
)


def failing(*times: float, ladder: tuple[Rung, ...] = LADDER) -> list[str]:
    """What is done after each of these failures."""
    history, done = History(), []
    for at in times:
        history = climb(ladder, history, at)
        done.append(name_of(ladder, history.rung))
    return done


def test_each_rung_holds_for_its_count_and_one_more_climbs() -> None:
    expected = ["restart", "restart", "parameters", "conversation", "give_up"]
    assert failing(1, 2, 3, 4, 5) == expected


def test_failures_that_are_older_than_the_period_do_not_count() -> None:
    assert failing(1, 2, 12.5, 13, 14) == ["restart"] * 4 + ["parameters"]
    assert failing(1, 2, 3, 24, 45) == ["restart", "restart", *["parameters"] * 3]
    assert failing(1, 2, 3, 23) == ["restart", "restart", "parameters", "conversation"]


def test_a_rung_without_a_count_is_passed_over() -> None:
    ladder = (Rung(count=0), Rung(do="parameters", count=0), Rung(do="conversation"))
    assert failing(1, 2, ladder=ladder) == ["conversation", "give_up"]
    assert failing(1, ladder=(Rung(count=0),)) == ["give_up"]


def test_a_clock_that_is_set_back_holds_nothing_against_anybody() -> None:
    assert failing(100, 101, 5, 6, 7) == ["restart"] * 4 + ["parameters"]


def test_a_rung_that_has_held_for_its_period_is_left_one_at_a_time() -> None:
    history = History(rung=2, falls=(100.0,), since=90.0)
    assert steady(LADDER, history, 130.0) is None
    lower = steady(LADDER, history, 131.0)
    assert lower == History(rung=1, since=131.0)
    assert steady(LADDER, lower, 151.0) is None
    assert steady(LADDER, lower, 152.0) == History(rung=0, since=152.0)
    assert steady(LADDER, History(falls=(1.0,)), 1e9) is None
    assert steady((), History(rung=1), 1e9) is None


def test_a_rung_keeps_what_the_rungs_below_it_have_set() -> None:
    assert parameters(LADDER, 0) == Parameters()
    assert parameters(LADDER, 1) == Parameters(fallback=True, temperature=0.1, view=0.5)
    assert parameters(LADDER, 2) == Parameters(fallback=True, temperature=0.1, view=0.25)
    assert parameters(LADDER, 9) == parameters(LADDER, 2)


def test_answers_of_a_model_climb_past_the_mere_restart() -> None:
    assert failing(1, 2, 3, ladder=answers(LADDER)) == ["parameters", "conversation", "give_up"]


def test_the_settings_say_how_long_each_rung_holds() -> None:
    made = of_settings({"recovery": {"parameters": [5, 7.5], "model": "x/y", "view": 0.3}})
    assert [rung.do for rung in made] == ["restart", "parameters", "conversation"]
    assert (made[1].count, made[1].period_s, made[1].model, made[1].view) == (5, 7.5, "x/y", 0.3)
    assert made[0] == of_settings({})[0] and made[0].count == 3


@given(st.lists(st.floats(0, 200), max_size=60), st.lists(st.booleans(), min_size=60))
def test_no_rung_is_jumped_and_none_holds_for_longer_than_it_says(
    times: list[float], good: list[bool]
) -> None:
    history = History()
    for at, is_good in zip(sorted(times), good, strict=False):
        before = history
        if is_good:
            history = steady(LADDER, before, at) or before
            assert history.rung in (before.rung, before.rung - 1)
        else:
            history = climb(LADDER, before, at)
            assert before.rung <= history.rung <= before.rung + 1
        if history.rung == len(LADDER):
            return
        rung = LADDER[history.rung]
        assert len(history.falls) <= max(1, rung.count)
        assert all(at - fall <= rung.period_s for fall in history.falls if not is_good)


@pytest.mark.parametrize("rung", [0, 1, 2])
def test_a_failure_too_many_always_leads_on(rung: int) -> None:
    history = History(rung=rung)
    for at in range(LADDER[rung].count + 1):
        history = climb(LADDER, history, float(at))
    assert history.rung == rung + 1
