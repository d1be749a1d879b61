"""Dynamic supervisors (simple one for one): children come and go by calls, side by side."""

from __future__ import annotations

import pytest

from loomd.supervise import spec as s
from tests.supervise.otp.stage import Stage, sup, worker


def group(*ids: str, restart: str = "permanent", **more) -> Stage:
    stage = Stage(sup("root", dynamic=True, **more))
    for id in ids:
        assert stage.start("root", worker(id, restart)) == ""
    stage.took()
    return stage


def test_simple_one_for_one():
    stage = group("a", "b", intensity=2)
    other = stage.live["b"]
    stage.crash("a")
    assert stage.took() == "+a" and stage.live["b"] == other
    stage.crash("a")
    stage.crash("a")
    assert stage.took() == "+a -b" and stage.ended()


def test_simple_one_for_one_escalation():
    stage = group("a", "b", intensity=2)
    stage.refuse["a"] = [73] * 9
    stage.crash("a")
    stage.after(1)
    assert stage.took() == "+a +a -b" and stage.ended()


@pytest.mark.parametrize("restart", s.RESTARTS)
def test_simple_one_for_one_restart_ignore(restart):
    stage = group("a", "b", restart=restart, intensity=2)
    stage.refuse["a"] = [0]
    stage.crash("a")
    assert stage.which() == {"b": "pid"} and stage.state("root") == "up"


@pytest.mark.parametrize(("status", "signal"), [(0, 0), (1, 0), (-1, 9)])
def test_do_not_save_start_parameters_for_temporary_children(status, signal):
    stage = group(*"abc", restart="temporary")
    for id in "abc":
        stage.exit(id, status, signal)
    assert set(stage.policy.nodes) == {"root"} and not stage.policy.timers


def test_a_transient_child_that_has_ended_is_gone():
    stage = group("a", restart="transient")
    stage.exit("a", 0)
    assert stage.which() == {} and stage.start("root", worker("a")) == ""


def test_child_adm_simple():
    stage = group("a")
    assert stage.start("root", worker("a")) == "already_started"
    assert stage.restart("a") == stage.delete("a") == "running"
    assert stage.terminate("a") == "" and stage.took() == "-a"
    assert stage.terminate("a") == stage.restart("a") == stage.delete("a") == "not_found"
    assert stage.start("root", worker("a")) == ""


def test_count_children_simple():
    stage = group(*(f"c{i}" for i in range(10)), intensity=9)
    assert stage.count() == [10, 10, 0, 10]
    stage.refuse["c1"] = [73] * 3
    stage.crash("c1")
    assert stage.count() == [10, 9, 0, 10] and stage.which()["c1"] == "restarting"
    assert stage.terminate("c2") == "" and stage.count() == [9, 8, 0, 9]


def test_hanging_restart_loop_simple():
    stage = group("a", "b", intensity=99)
    stage.refuse["a"] = [73] * 999
    stage.crash("a")
    stage.after(0.1)
    assert stage.restart("a") == "restarting" and stage.start("root", worker("c")) == ""
    assert stage.terminate("a") == "" and stage.which() == {"c": "pid", "b": "pid"}
    assert not stage.policy.timers


def test_a_slow_stop_of_one_child_holds_up_nobody():
    stage = group("a", "b", intensity=3)
    stage.stuck.add("a")
    assert stage.terminate("a") is None
    stage.crash("b")
    assert stage.start("root", worker("c")) == "" and stage.took() == "-a +b +c"
    stage.exit("a", 0)
    assert stage.answers[3] == "" and stage.state("a") is None


def test_a_slow_start_of_one_child_holds_up_nobody():
    stage = group()
    stage.slow.add("a")
    assert stage.start("root", worker("a")) is None
    assert stage.start("root", worker("b")) == ""
    assert stage.terminate("a") == ""
    assert stage.answers == {1: "terminated", 2: "", 3: ""}


def test_supervisors_too_can_be_dynamic_children():
    stage = group(intensity=2)
    assert stage.start("root", sup("in", worker("a"), intensity=0)) == ""
    stage.crash("a")
    assert stage.running == {"a"} and stage.node("in").restarts == 1
    assert stage.terminate("in") == "" and stage.count() == [0, 0, 0, 0]


def test_significant_simple():
    tree = sup("root", dynamic=True, auto_shutdown="any_significant")
    with pytest.raises(s.SpecError, match="bad_combination"):
        s.parse(tree)
    stage = group()
    answer = stage.start("root", worker("a", "transient", significant=True))
    assert answer is not None and answer.startswith("bad_combination")
    assert stage.which() == {}
