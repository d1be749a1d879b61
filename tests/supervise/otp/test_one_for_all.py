"""one_for_all: one crash, and all go down in reverse and come up in order."""

from __future__ import annotations

import pytest

from loomd.supervise import tree as t
from tests.supervise.otp.stage import Stage, significant, sup, worker, workers


def group(*ids: str, **more) -> Stage:
    stage = Stage(sup("root", *workers(*ids), strategy="one_for_all", **more))
    stage.took()
    return stage


def test_one_for_all():
    stage = group("a", "b", "c", intensity=1)
    before = set(stage.live.values())
    stage.crash("b")
    assert stage.took() == "-c -a +a +b +c"
    assert not before & set(stage.live.values())
    stage.crash("c")
    assert stage.took() == "-b -a" and stage.ended()


@pytest.mark.parametrize("crashes", ["z", "a", "m", "b"])
def test_order_of_children_in_a_round(crashes):
    ids = ["z", "a", "m", "b"]
    stage = group(*ids)
    stage.crash(crashes)
    stops = [f"-{id}" for id in reversed(ids) if id != crashes]
    assert stage.took().split() == stops + [f"+{id}" for id in ids]
    assert [stage.node(id).restarts for id in ids] == [1, 1, 1, 1]


def test_one_for_all_escalation():
    stage = group("a", "b", intensity=3)
    stage.refuse["b"] = [73] * 9
    stage.crash("a")
    stage.after(1)
    assert stage.took() == "-b +a +b -a +a +b -a +a +b -a" and stage.ended()


def test_one_for_all_other_child_fails_restart():
    stage = group("a", "b", intensity=5)
    stage.refuse["b"] = [73]
    stage.crash("a")
    stage.after(0.0)
    assert stage.took() == "-b +a +b -a +a +b"


def test_children_stop_one_after_the_other_and_the_round_waits_for_the_last():
    stage = group("a", "b", "c")
    stage.stuck |= {"a", "c"}
    stage.crash("b")
    assert stage.took() == "-c"
    stage.exit("c", 0)
    assert stage.took() == "-a" and stage.which() == {"c": "restarting", "b": "restarting"} | {
        "a": "pid"
    }
    stage.exit("a", 0)
    assert stage.took() == "+a +b +c"


def test_an_exit_of_a_sibling_during_a_round_is_part_of_the_round():
    stage = group("a", "b", "c", intensity=1)
    stage.stuck.add("c")
    stage.crash("b")
    stage.crash("a")  # before its turn to be stopped
    stage.exit("c", 0)
    assert stage.took() == "-c +a +b +c"
    assert len(stage.node("root").attempts) == 1


def test_a_crash_of_one_that_is_already_new_begins_the_round_anew():
    stage = group("a", "b", "c", intensity=2)
    stage.slow.add("b")
    stage.crash("c")
    assert stage.took() == "-b -a +a +b"
    stage.crash("a")
    assert stage.took() == "-b +a +b"
    stage.ready("b")
    assert stage.took() == "+c" and len(stage.node("root").attempts) == 2


def test_children_that_were_not_running_are_started_in_a_round():
    tree = [worker("a"), worker("b", "transient"), worker("c", "transient")]
    stage = Stage(sup("root", *tree, strategy="one_for_all"))
    stage.exit("b", 0)
    stage.took()
    stage.crash("a")  # OTP starts every spec of the group
    assert stage.took() == "-c +a +b +c"


def test_terminate_of_the_one_that_fails_in_a_round_lets_the_others_start():
    stage = group("a", "b", "c", intensity=9)
    stage.refuse["b"] = [73] * 99
    stage.crash("b")
    assert stage.which()["b"] == "restarting"
    stage.took()
    assert stage.terminate("b") == "" and stage.took() == "+c"
    assert stage.which() == {"c": "pid", "b": None, "a": "pid"}


def test_a_child_that_waits_for_its_turn_is_restarting_and_a_call_does_not_spoil_it():
    stage = group("a", "b", "c", intensity=5)
    stage.slow.add("a")
    stage.crash("b")
    assert stage.restart("c") == stage.delete("c") == "restarting"
    assert stage.start("root", worker("c")) == "already_present"
    stage.refuse["c"] = [73]
    stage.slow.clear()
    stage.ready("a")
    stage.after(0.0)
    assert stage.running == {"a", "b", "c"}


def test_a_child_to_be_forgotten_does_not_come_back_with_the_round():
    stage = group("a", "b")
    stage.stuck.add("b")
    stage.tell(t.Forget("b"))
    stage.crash("a")
    stage.exit("b", 0)
    assert stage.which() == {"a": "pid"} and stage.state("b") is None


def test_a_child_on_its_way_down_by_a_call_when_a_round_begins_is_answered():
    stage = group("a", "b")
    stage.stuck.add("b")
    assert stage.terminate("b") is None
    stage.crash("a")
    stage.stuck.clear()
    stage.exit("b", 0)
    assert stage.answers == {1: ""} and "a" in stage.running


def test_a_temporary_child_on_its_way_up_is_gone_with_the_round_and_its_call_is_told():
    stage = group("a", intensity=3)
    stage.slow.add("b")
    assert stage.start("root", worker("b", "temporary")) is None
    stage.crash("a")
    assert stage.answers == {1: "terminated"} and stage.which() == {"a": "pid"}


def test_a_temporary_child_that_waits_for_its_first_turn_is_not_lost_in_a_round():
    stage = group("a", "b", intensity=3)
    stage.slow.add("a")
    stage.crash("b")
    assert stage.start("root", worker("c", "temporary")) is None  # behind a and b
    stage.slow.clear()
    stage.kill("a")
    stage.after(0.0)
    assert stage.answers == {1: ""} and stage.running == {"a", "b", "c"}


def test_a_supervisor_in_the_group_is_replaced_as_a_whole():
    tree = [worker("a"), sup("in", *workers("b", "c")), worker("d")]
    stage = Stage(sup("root", *tree, strategy="one_for_all"))
    stage.start("in", worker("extra"))
    stage.took()
    stage.crash("a")
    assert stage.took() == "-d -extra -c -b +a +b +c +d"


def test_significant_bystander():
    tree = [worker("a"), significant("b", "temporary"), significant("c")]
    for rule in ("any_significant", "all_significant"):
        stage = Stage(sup("root", *tree, strategy="one_for_all", auto_shutdown=rule))
        stage.crash("a")
        assert stage.which() == {"c": "pid", "a": "pid"} and stage.state("root") == "up"
