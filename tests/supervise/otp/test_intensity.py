"""Restart intensity: how many are too many, in which time, and what counts."""

from __future__ import annotations

import pytest

from loomd.supervise import policy as p
from loomd.supervise import spec as s
from loomd.supervise import tree as t
from tests.supervise.otp.stage import Stage, sup, worker, workers


@pytest.mark.parametrize("intensity", range(4))
@pytest.mark.parametrize("strategy", s.STRATEGIES)
def test_the_crash_after_the_last_allowed_one_ends_the_supervisor(strategy, intensity):
    stage = Stage(sup("root", *workers("a", "b"), strategy=strategy, intensity=intensity))
    for _ in range(intensity):
        stage.crash("a")
    assert stage.running == {"a", "b"} and stage.finish is None
    stage.took()
    stage.crash("a")
    assert stage.took() == "-b" and stage.ended()
    assert stage.finish == t.Finish(False, "too many restarts: a: status 1")
    assert stage.gave_up() == ["root"] and stage.reports("shutdown") == ["root"]


def test_multiple_restarts():
    stage = Stage(sup("root", *workers("a"), intensity=1, period_s=1))
    for _ in range(4):
        stage.crash("a")
        stage.after(2.1)
    assert stage.running == {"a"}


@pytest.mark.parametrize(
    ("first", "apart", "ends"),
    [
        (1000.0, 0.0, True),
        (1000.0, 5.0, True),  # an attempt as old as the period still counts
        (1000.0, 5.9, True),  # in whole seconds: up to period + 1 s
        (1000.9, 5.0, True),
        (1000.0, 6.0, False),
        (1000.9, 5.2, False),
    ],
)
def test_the_window_is_counted_in_whole_seconds(first, apart, ends):
    stage = Stage(sup("root", *workers("a"), intensity=1, period_s=5))
    stage.now = first
    stage.crash("a")
    stage.after(apart)
    stage.crash("a")
    assert stage.ended() == ends


def test_the_window_slides():
    stage = Stage(sup("root", *workers("a"), intensity=2, period_s=5))
    for _ in range(20):  # never three within six seconds
        stage.crash("a")
        stage.after(3.0)
    assert stage.running == {"a"} and stage.node("root").attempts == [1054, 1057]
    stage.crash("a")
    assert stage.running == {"a"}
    stage.crash("a")
    assert stage.ended()


@pytest.mark.parametrize("strategy", s.STRATEGIES)
def test_one_crash_counts_once_whatever_the_number_of_siblings(strategy):
    stage = Stage(sup("root", *workers("a", "b", "c"), strategy=strategy, intensity=1))
    stage.crash("a")
    assert stage.node("root").attempts == [1000] and stage.running == {"a", "b", "c"}


def test_all_children_draw_on_the_same_account():
    stage = Stage(sup("root", *workers("a", "b", "c"), intensity=2))
    stage.crash("a")
    stage.crash("b")
    assert stage.finish is None
    stage.crash("c")
    assert stage.ended()


# --- starts that fail count too ------------------------------------------------------------------


def test_five_failing_starts_after_a_crash_are_retried_and_counted():
    stage = Stage(sup("root", *workers("a"), intensity=10))
    stage.refuse["a"] = [73] * 5
    stage.crash("a")
    stage.after(1.0)
    assert stage.running == {"a"} and len(stage.node("root").attempts) == 6


def test_failing_starts_count_three_attempts_then_the_end():
    stage = Stage(sup("root", *workers("a"), intensity=3))
    stage.refuse["a"] = [73] * 99
    stage.took()
    stage.crash("a")
    stage.after(1.0)
    assert stage.took() == "+a +a +a" and stage.ended()


def test_a_failed_start_is_retried_at_once_then_in_growing_steps_never_in_a_loop():
    stage = Stage(sup("root", *workers("a"), intensity=9))
    stage.refuse["a"] = [73] * 4
    stage.crash("a")
    waits = []
    while stage.state("a") == "waiting":
        at = stage.policy.timers["retry", "a"]
        waits.append(round((at - stage.now) / p.RETRY_STEP_S))
        stage.after(at - stage.now)
    assert waits == [0, 1, 2, 3] and stage.state("a") == "up"
    stage.refuse["a"] = [73]
    stage.crash("a")
    assert stage.policy.timers["retry", "a"] == stage.now  # up in between: at once again


@pytest.mark.parametrize("by_hand", [True, False])
def test_failures_in_a_row_are_forgotten_with_a_stop_and_an_ignore(by_hand):
    stage = Stage(sup("root", *workers("a"), intensity=9))
    stage.refuse["a"] = [73, 73, 0]
    stage.crash("a")
    if by_hand:
        assert stage.terminate("a") == ""
    else:
        stage.after(1.0)
    assert stage.which() == {"a": None}
    stage.refuse["a"] = []
    stage.slow.add("a")
    assert stage.restart("a") is None and stage.which() == {"a": "pid"}


@pytest.mark.parametrize("restart", s.RESTARTS)
def test_calls_count_nothing(restart):
    stage = Stage(sup("root", worker("a", restart), worker("b"), intensity=0))
    assert stage.terminate("b") == stage.restart("b") == stage.bounce("b") == ""
    assert stage.bounce("a") == stage.terminate("a") == ""
    assert stage.node("root").attempts == [] and stage.state("root") == "up"


# --- during the start ----------------------------------------------------------------------------


def test_a_child_that_fails_its_restart_while_others_still_start_is_retried():
    stage = Stage(sup("root", *workers("a", "b"), intensity=5), boot=False)
    stage.slow.add("b")
    stage.tell(t.Boot())
    stage.refuse["a"] = [73]
    stage.kill("a")
    stage.after(0.0)
    assert stage.state("a") == "up" and stage.state("root") == "starting"
    stage.ready("b")
    assert stage.state("root") == "up" and stage.finish is None


def test_a_kill_in_the_first_start_is_counted_and_tried_again():
    stage = Stage(sup("root", *workers("a", "b"), intensity=2), boot=False)
    stage.slow.add("b")
    stage.tell(t.Boot())
    stage.kill("b")
    stage.after(0.0)
    stage.ready("b")
    assert stage.state("root") == "up" and len(stage.node("root").attempts) == 1


def test_kills_in_the_first_start_end_at_the_intensity():
    stage = Stage(sup("root", *workers("a"), intensity=2), boot=False)
    stage.slow.add("a")
    stage.tell(t.Boot())
    for _ in range(3):
        stage.kill("a")
        stage.after(0.1)
    assert stage.ended() and stage.took() == "+a +a +a"


# --- blame ---------------------------------------------------------------------------------------


def test_blamed_deaths_are_free_until_the_mail_should_have_been_put_aside():
    stage = Stage(sup("root", *workers("a"), intensity=0))
    for _ in range(p.FREE_BLAMES):
        stage.exit("a", 1, blame=(1, 0, 7))
    stage.exit("a", 1, blame=(1, 0, 8))
    assert stage.running == {"a"} and stage.node("root").attempts == []
    for _ in range(p.FREE_BLAMES):
        stage.exit("a", 1, blame=(1, 0, 8))
    assert stage.ended()


def test_a_blamed_death_of_a_temporary_child_brings_it_back_no_more_than_another():
    stage = Stage(sup("root", worker("a", "temporary")))
    stage.exit("a", 1, blame=(1, 0, 7))
    assert stage.which() == {}
