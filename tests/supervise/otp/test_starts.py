"""Starts: in order, each ready before the next; what fails stops what was started."""

from __future__ import annotations

import pytest

from loomd.supervise import spec as s
from loomd.supervise import tree as t
from tests.supervise.otp.stage import Stage, sup, worker, workers


def test_sup_start_normal():
    stage = Stage(sup("root"))
    assert stage.state("root") == "up"
    stage.shutdown()
    assert stage.finish == t.Finish(True, "shutdown")


def test_sup_start_ignore_init_nothing_runs_and_nothing_is_wrong():
    stage = Stage(sup("root", sup("in", *workers("a", "b"))), boot=False)
    stage.refuse |= {"a": [0], "b": [0]}
    stage.tell(t.Boot())
    assert stage.state("in") == stage.state("root") == "up"
    assert stage.running == set() and stage.reports("start_error") == []


@pytest.mark.parametrize("status", [s.NORMAL, s.ASLEEP])
def test_sup_start_ignore_child(status):
    stage = Stage(sup("root", *workers("a", "b")), boot=False)
    stage.refuse["a"] = [status]
    stage.tell(t.Boot())
    assert stage.count() == [2, 1, 0, 2]
    assert stage.which() == {"b": "pid", "a": None}


def test_sup_start_ignore_temporary_child():
    stage = Stage(sup("root", worker("a", "temporary"), worker("b")), boot=False)
    stage.refuse["a"] = [0]
    stage.tell(t.Boot())
    assert stage.which() == {"b": "pid"}


@pytest.mark.parametrize("dynamic", [False, True])
def test_sup_start_ignore_temporary_child_start_child(dynamic):
    stage = Stage(sup("root", dynamic=dynamic))
    stage.refuse["a"] = [0]
    assert stage.start("root", worker("a", "temporary")) == ""
    assert stage.count() == [0, 0, 0, 0]


def test_sup_start_ignore_permanent_child_start_child():
    stage = Stage(sup("root"))
    stage.refuse["a"] = [0]
    assert stage.start("root", worker("a")) == ""
    assert stage.which() == {"a": None}


def test_sup_start_ignore_permanent_child_start_child_simple():
    stage = Stage(sup("root", dynamic=True))
    stage.refuse["a"] = [0]
    assert stage.start("root", worker("a")) == ""
    assert stage.which() == {}
    stage.shutdown()
    assert stage.finish == t.Finish(True, "shutdown")


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("strategy", s.STRATEGIES)
def test_sup_start_fail_at_each_position_stops_what_was_started(position, strategy):
    ids = ["z", "a", "m", "b"]
    stage = Stage(sup("root", *workers(*ids), strategy=strategy, intensity=9), boot=False)
    stage.refuse[ids[position]] = [73]
    stage.tell(t.Boot())
    started = ids[: position + 1]
    stops = [f"-{id}" for id in reversed(ids[:position])]
    assert stage.took().split() == [f"+{id}" for id in started] + stops
    assert stage.finish == t.Finish(False, f"{ids[position]}: status 73")
    assert stage.reports("start_error") == [ids[position]]


@pytest.mark.parametrize(("status", "fatal"), [(1, False), (73, False), (74, True)])
@pytest.mark.parametrize("restart", s.RESTARTS)
def test_sup_start_error_return_whatever_the_restart_type(restart, status, fatal):
    stage = Stage(sup("root", sup("in", worker("a", restart), intensity=9)), boot=False)
    stage.refuse["a"] = [status]
    stage.tell(t.Boot())
    assert stage.finish == t.Finish(False, f"in: a: status {status}", fatal)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("status", [1, 73, 74])
def test_sup_start_child_returns_error_saves_no_spec(dynamic, status):
    stage = Stage(sup("root", dynamic=dynamic, intensity=0))
    stage.refuse["a"] = [status]
    assert stage.start("root", worker("a")) == f"status {status}"
    assert stage.state("a") is None and stage.state("root") == "up"
    assert stage.node("root").attempts == []
    assert stage.start("root", worker("a")) == ""


def test_sup_start_restart_child_returns_error_keeps_the_spec():
    stage = Stage(sup("root", *workers("a"), intensity=0))
    assert stage.terminate("a") == ""
    stage.refuse["a"] = [73]
    assert stage.restart("a") == "status 73"
    assert stage.which() == {"a": None} and not stage.policy.timers
    assert stage.restart("a") == ""


def test_a_supervisor_is_started_by_a_call_as_a_whole_or_not_at_all():
    stage = Stage(sup("root"))
    stage.slow.add("b")
    assert stage.start("root", sup("in", *workers("a", "b"))) is None
    assert stage.took() == "+a +b"
    stage.ready("b")
    assert stage.answers == {1: ""} and stage.count() == [1, 1, 1, 0]
    assert stage.terminate("in") == "" and stage.took() == "-b -a"
    assert stage.delete("in") == ""
    stage.refuse["b"] = [73]
    assert stage.start("root", sup("in", *workers("a", "b"))) == "b: status 73"
    assert stage.took() == "+a +b -a" and set(stage.policy.nodes) == {"root"}


def test_a_child_starts_only_when_the_one_before_is_ready():
    stage = Stage(sup("root", sup("in", *workers("a")), worker("b")), boot=False)
    stage.slow.add("a")
    stage.tell(t.Boot())
    assert stage.took() == "+a" and stage.state("in") == stage.state("root") == "starting"
    stage.ready("a")
    assert stage.took() == "+b" and stage.state("root") == "up"


def test_a_first_start_that_takes_too_long_is_killed_and_is_a_failed_start():
    stage = Stage(sup("root", *workers("a", "b"), intensity=9), boot=False)
    stage.slow.add("b")
    stage.tell(t.Boot())
    stage.after(s.READY_S - 0.1)
    assert stage.took() == "+a +b"
    stage.after(0.1)
    assert stage.took() == "!b -a" and stage.finish == t.Finish(False, "b: time-out")


def test_a_restart_that_takes_too_long_is_killed_and_counts_as_failed():
    stage = Stage(sup("root", *workers("a"), intensity=2))
    stage.slow.add("a")
    stage.crash("a")
    stage.took()
    stage.after(s.READY_S)
    assert stage.took() == "!a +a"
    stage.after(s.READY_S - 1)
    assert stage.finish is None


def test_ready_comes_too_late_once_the_kill_is_on_its_way():
    stage = Stage(sup("root", *workers("a", "b"), intensity=9), boot=False)
    stage.slow.add("a")
    stage.tell(t.Boot())
    incarnation = stage.live["a"]
    stage.policy.handle(t.TimerFired(("start", "a")), stage.now + s.READY_S)
    assert stage.tell(t.Ready("a", incarnation)) == []
    assert stage.tell(t.Postponed("a", incarnation)) == []
    stage.kill("a")
    assert stage.finish == t.Finish(False, "a: time-out")


def test_a_start_that_had_to_be_ordered_again_gets_its_whole_time_again():
    stage = Stage(sup("root", *workers("a")))
    stage.slow.add("a")
    stage.exit("a", 71)
    stage.after(s.READY_S - 1)
    stage.tell(t.Postponed("a", stage.live["a"]))
    stage.after(s.READY_S - 1)
    assert stage.running == {"a"} and "!a" not in stage.took()
    stage.after(1)
    assert "!a" in stage.took()


def test_already_started_outside_supervisor_is_a_plain_error():
    stage = Stage(sup("root", worker("a"), sup("in")))
    assert stage.start("in", worker("a")) == "name_taken"
    assert stage.start("in", sup("more", worker("a"))) == "name_taken: a"
    assert stage.which("in") == {} and stage.node("a").parent is stage.node("root")


def test_a_name_taken_while_its_owner_was_down_fails_the_owner_s_start():
    stage = Stage(sup("root", sup("in", *workers("b", "a"))))
    assert stage.terminate("in") == ""
    assert stage.start("root", worker("a")) == ""
    stage.took()
    assert stage.restart("in") == "name_taken: a"
    assert stage.took() == "" and stage.which() == {"a": "pid", "in": None}
    assert stage.terminate("a") == stage.delete("a") == ""
    assert stage.restart("in") == "" and stage.running == {"a", "b"}
