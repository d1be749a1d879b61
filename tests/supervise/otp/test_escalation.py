"""Supervisors below supervisors: what stays local, and what goes up."""

from __future__ import annotations

import pytest

from loomd.supervise import spec as s
from loomd.supervise import tree as t
from tests.supervise.otp.stage import Stage, sup, worker, workers


@pytest.mark.parametrize("strategy", s.STRATEGIES)
@pytest.mark.parametrize("restart", s.RESTARTS)
def test_an_inner_supervisor_gives_up(restart, strategy):
    inner = sup("in", *workers("a", "c"), intensity=0, restart=restart)
    stage = Stage(sup("root", inner, worker("b"), intensity=3, strategy=strategy))
    stage.took()
    stage.crash("a")
    assert t.GaveUp("in", "too many restarts: a: status 1") in stage.out
    again = restart == "permanent"
    round_ = "-b +a +c +b" if strategy != "one_for_one" else "+a +c"
    assert stage.took() == (f"-c {round_}" if again else "-c")
    assert (
        stage.which()
        == {
            "permanent": {"b": "pid", "in": "pid"},
            "transient": {"b": "pid", "in": None},
            "temporary": {"b": "pid"},
        }[restart]
    )
    assert len(stage.node("root").attempts) == again


def test_tree():
    inner = sup("in", *workers("a", "b"), intensity=1)
    stage = Stage(sup("root", inner, worker("z"), intensity=3))
    stage.start("in", worker("extra"))
    z = stage.live["z"]
    stage.crash("a")  # local
    assert stage.running == {"a", "b", "extra", "z"} and stage.live["z"] == z
    stage.took()
    stage.crash("b")  # escalates: static children come back, others do not
    assert stage.took() == "-extra -a +a +b" and stage.live["z"] == z
    assert stage.node("in").restarts == 1 and stage.node("in").attempts == []


def test_tree_three_levels_each_with_its_own_account():
    low = sup("low", *workers("a"), intensity=1)
    mid = sup("mid", low, worker("m"), intensity=1)
    stage = Stage(sup("root", mid, worker("r"), intensity=1))
    stage.took()
    steps = []
    while stage.finish is None:
        stage.crash("a")
        steps.append(stage.took())
    assert steps == ["+a", "+a", "+a", "-m +a +m", "+a", "+a", "+a", "-m -r"]
    assert stage.gave_up() == ["low", "low", "mid", "low", "low", "mid", "root"]


def test_simple_global_supervisor_a_whole_subtree_is_new_and_its_names_free():
    deep = sup("deep", *workers("c"))
    stage = Stage(sup("root", sup("in", worker("a"), deep, worker("b"), intensity=0), intensity=3))
    before = dict(stage.live)
    stage.took()
    stage.kill("c")  # local
    stage.kill("b")  # escalates
    assert stage.took() == "+c -c -a +a +c +b"
    assert set(stage.live) == set(before)
    assert not set(stage.live.values()) & set(before.values())
    assert stage.terminate("in") == stage.restart("in") == "" and stage.count() == [1, 1, 1, 0]


def test_a_supervisor_that_cannot_start_again_escalates():
    stage = Stage(sup("root", sup("in", *workers("a", "b"), intensity=0), intensity=2))
    stage.refuse["b"] = [73] * 9
    stage.took()
    stage.crash("a")
    stage.after(1)
    assert stage.took() == "-b +a +b -a +a +b -a" and stage.ended()


def test_a_supervisor_that_cannot_start_again_is_retried_and_may_succeed():
    stage = Stage(sup("root", sup("in", *workers("a", "b"), intensity=0), worker("z"), intensity=9))
    stage.refuse["b"] = [73, 73]
    stage.crash("a")
    assert stage.which() == {"z": "pid", "in": "restarting"}
    stage.after(1)
    assert stage.which() == {"z": "pid", "in": "pid"}
    assert len(stage.node("root").attempts) == 3


@pytest.mark.parametrize("restart", s.RESTARTS)
def test_a_first_start_that_fails_below_fails_every_start_above(restart):
    low = sup("low", *workers("a", "b"), intensity=9, restart=restart)
    stage = Stage(sup("root", worker("z"), sup("mid", low), worker("never"), intensity=9), False)
    stage.refuse["b"] = [73]
    stage.tell(t.Boot())
    assert stage.took() == "+z +a +b -a -z"
    assert stage.finish == t.Finish(False, "mid: low: b: status 73")


def test_a_fatal_start_below_is_fatal_to_the_top_and_retried_nowhere():
    mid = sup("mid", sup("low", *workers("a"), intensity=9), intensity=9)
    stage = Stage(sup("root", mid, intensity=9), boot=False)
    stage.refuse["a"] = [74]
    stage.tell(t.Boot())
    assert stage.took() == "+a"
    assert stage.finish == t.Finish(False, "mid: low: a: status 74", fatal=True)


def test_a_fatal_start_later_lets_each_supervisor_above_try_once():
    mid = sup("mid", sup("low", *workers("a"), intensity=9), intensity=9)
    stage = Stage(sup("root", mid, intensity=9))
    stage.refuse["a"] = [74] * 9
    stage.took()
    stage.crash("a")
    assert stage.took() == "+a +a +a" and stage.ended() and stage.finish.fatal


# --- giving up while the start is under way ------------------------------------------------------


@pytest.mark.parametrize("restart", s.RESTARTS)
def test_crashes_of_a_child_that_was_up_end_a_starting_supervisor_like_a_started_one(restart):
    inner = sup("in", *workers("a", "b"), intensity=0, restart=restart)
    stage = Stage(sup("root", inner, worker("z"), intensity=2), boot=False)
    stage.slow.add("b")
    stage.tell(t.Boot())
    stage.took()
    stage.crash("a")
    again = restart == "permanent"
    assert stage.took() == ("-b +a +b" if again else "-b +z")
    assert stage.gave_up() == ["in"] and len(stage.node("root").attempts) == again
    if again:
        stage.ready("b")
    assert stage.state("root") == "up" and stage.finish is None


def test_kills_before_the_first_ready_fail_the_start_of_the_supervisor():
    stage = Stage(sup("root", sup("in", *workers("a"), intensity=1), intensity=9), boot=False)
    stage.slow.add("a")
    stage.tell(t.Boot())
    for _ in range(2):
        stage.kill("a")
        stage.after(0.1)
    assert stage.took() == "+a +a"
    assert stage.finish == t.Finish(False, "in: too many restarts: a: signal 9")


def test_a_start_by_call_of_a_supervisor_that_gives_up_meanwhile_is_answered():
    stage = Stage(sup("root", intensity=9))
    stage.slow.add("b")
    transient = sup("in", *workers("a", "b"), intensity=0, restart="transient")
    assert stage.start("root", transient) is None
    stage.crash("a")
    assert stage.answers == {1: "terminated"} and stage.which() == {"in": None}
    assert stage.delete("in") == ""
    permanent = sup("in", *workers("a", "b"), intensity=0)
    assert stage.start("root", permanent) is None
    stage.crash("a")
    stage.ready("b")
    assert stage.answers[3] == "" and stage.node("in").restarts == 1


def test_a_supervisor_told_to_stop_while_it_gives_up_stays_down():
    stage = Stage(sup("root", sup("in", *workers("a", "b"), intensity=0), intensity=9))
    stage.stuck.add("b")
    stage.crash("a")
    assert stage.state("in") == "stopping"
    assert stage.terminate("in") is None
    stage.exit("b", 0)
    assert stage.answers == {1: ""} and stage.which() == {"in": None}
    assert stage.node("root").attempts == []


def test_a_shutdown_while_the_root_gives_up_does_not_make_it_a_success():
    stage = Stage(sup("root", *workers("a", "b"), intensity=0))
    stage.stuck.add("b")
    stage.crash("a")
    stage.shutdown()
    stage.exit("b", 0)
    assert stage.finish == t.Finish(False, "too many restarts: a: status 1")


def test_cannot_start_while_the_supervisor_starts_fails_its_start_for_good():
    stage = Stage(sup("root", sup("in", *workers("a", "b"), intensity=9), intensity=9), boot=False)
    stage.slow.add("b")
    stage.tell(t.Boot())
    stage.exit("a", s.CANNOT_START)
    assert stage.took() == "+a +b -b"
    assert stage.finish == t.Finish(False, "in: a can never start", fatal=True)
