"""The calls: start, terminate, restart and delete of children; what is listed and counted."""

from __future__ import annotations

import pytest

from loomd.supervise import spec as s
from loomd.supervise import tree as t
from tests.supervise.otp.stage import Stage, sup, worker, workers


def test_child_adm():
    stage = Stage(sup("root", *workers("a"), intensity=0))
    assert stage.start("root", worker("a")) == "already_started"
    assert stage.terminate("a") == "" and stage.terminate("a") == ""
    assert stage.start("root", worker("a")) == "already_present"
    assert stage.restart("a") == ""
    assert stage.restart("a") == "running"
    assert stage.delete("a") == "running"
    assert stage.terminate("a") == "" and stage.delete("a") == ""
    assert stage.delete("a") == stage.terminate("a") == stage.restart("a") == "not_found"
    assert stage.start("root", worker("a")) == ""
    assert stage.start("nowhere", worker("b")) == "noproc"
    assert stage.start("a", worker("b")) == "noproc"  # a worker supervises nobody
    stage.shutdown()
    assert stage.start("root", worker("b")) == stage.terminate("a") == "noproc"
    assert stage.restart("a") == stage.delete("a") == stage.bounce("a") == "noproc"


def test_the_root_itself_is_nobody_s_child():
    stage = Stage(sup("root"))
    assert stage.terminate("root") == stage.restart("root") == "not_found"
    assert stage.delete("root") == stage.bounce("root") == "not_found"


def test_a_new_child_is_the_last_to_start_and_the_first_to_stop():
    stage = Stage(sup("root", *workers("b", "c"), strategy="one_for_all"))
    assert stage.start("root", worker("a")) == ""
    stage.took()
    stage.crash("c")
    assert stage.took() == "-a -b +b +c +a"
    stage.shutdown()
    assert stage.took() == "-a -c -b"


def test_a_restarted_child_keeps_its_place():
    stage = Stage(sup("root", *workers("a", "b", "c")))
    assert stage.terminate("b") == stage.restart("b") == ""
    stage.took()
    stage.shutdown()
    assert stage.took() == "-c -b -a"


@pytest.mark.parametrize("call", ["start", "terminate", "restart", "delete", "bounce"])
def test_below_what_goes_down_there_is_no_process(call):
    tree = sup("root", sup("in", *workers("a")), worker("z", shutdown_s="infinity"))
    stage = Stage(tree)
    stage.stuck.add("z")
    stage.shutdown()
    assert stage.state("in") == "up"  # its turn has not come
    if call == "start":
        assert stage.start("in", worker("b")) == "noproc"
    else:
        assert getattr(stage, call)("a") == "noproc"
    assert "b" not in stage.live


def test_below_what_waits_for_its_turn_in_a_round_there_is_no_process():
    tree = [sup("in", *workers("a")), worker("b"), worker("z", shutdown_s="infinity")]
    stage = Stage(sup("root", *tree, strategy="one_for_all"))
    stage.stuck.add("z")
    stage.crash("b")
    assert stage.state("in") == "up"  # it is the next to go, and comes back without the new one
    assert stage.start("in", worker("c")) == stage.bounce("a") == "noproc"


def test_a_supervisor_that_is_down_has_no_children_to_call():
    stage = Stage(sup("root", sup("in", *workers("a"))))
    assert stage.terminate("in") == ""
    assert stage.start("in", worker("b")) == "noproc"
    assert stage.terminate("a") == "not_found"
    assert stage.restart("in") == "" and stage.running == {"a"}


def test_a_supervisor_that_waits_for_its_retry_has_no_children_to_call():
    stage = Stage(sup("root", sup("in", *workers("a", "b"), intensity=0), intensity=9))
    stage.refuse["a"] = [73] * 9
    stage.crash("a")
    stage.after(0.0)
    assert stage.state("in") == "waiting"
    assert stage.start("in", worker("c")) == "noproc" and stage.restart("in") == "restarting"


def test_a_spec_that_does_not_fit_is_refused():
    stage = Stage(sup("root"))
    wrong = worker("a", "transient", significant=True)
    answer = stage.start("root", wrong)
    assert answer is not None and answer.startswith("bad_combination")
    assert stage.state("a") is None


def test_terminate_is_answered_when_the_child_is_gone():
    stage = Stage(sup("root", worker("a", shutdown_s=1.0)))
    stage.stuck.add("a")
    assert stage.terminate("a") is None and stage.terminate("a") is None
    assert stage.restart("a") == stage.delete("a") == "running"
    assert stage.start("root", worker("a")) == "already_started"
    stage.after(1.0)
    assert stage.answers[1] == stage.answers[2] == "" and stage.which() == {"a": None}
    assert stage.took() == "+a -a !a"


@pytest.mark.parametrize("end", [(0, 0), (1, 0), (71, 0), (72, 0), (74, 0), (-1, 9)])
def test_a_child_that_ends_by_itself_as_it_is_terminated_stays_down(end):
    stage = Stage(sup("root", worker("a"), intensity=9))
    stage.stuck.add("a")
    assert stage.terminate("a") is None
    stage.exit("a", *end)
    assert stage.answers == {1: ""} and stage.which() == {"a": None}
    assert stage.took() == "+a -a" and stage.node("root").attempts == []


def test_terminate_in_the_middle_of_a_start_ends_both_calls():
    stage = Stage(sup("root"))
    stage.slow.add("a")
    assert stage.start("root", worker("a")) is None
    assert stage.terminate("a") == ""
    assert stage.answers == {1: "terminated", 2: ""} and stage.which() == {"a": None}


def test_terminate_in_the_middle_of_a_restart_by_call():
    stage = Stage(sup("root", *workers("a")))
    assert stage.terminate("a") == ""
    stage.slow.add("a")
    assert stage.restart("a") is None and stage.restart("a") == "running"
    assert stage.terminate("a") == ""
    assert stage.answers[2] == "terminated" and stage.which() == {"a": None}


def test_an_end_of_the_supervisor_answers_what_waits_for_its_children():
    stage = Stage(sup("root", sup("in", *workers("a"), intensity=0), intensity=9))
    stage.slow |= {"b", "c"}
    assert stage.start("in", worker("b")) is None
    assert stage.start("in", sup("deep", worker("c"))) is None
    stage.crash("a")
    assert stage.answers == {1: "terminated", 2: "terminated"}
    assert stage.running == {"a"} and set(stage.policy.nodes) == {"root", "in", "a"}


def test_a_shutdown_answers_everything_that_waits():
    stage = Stage(sup("root", *workers("a", "b", "c"), strategy="one_for_all"))
    stage.stuck |= {"b", "c"}
    assert stage.terminate("c") is None and stage.bounce("b") is None
    assert stage.start("root", worker("d")) is None  # waits for its turn behind the stop of c
    stage.shutdown()
    stage.after(20)
    assert stage.answers == {1: "", 2: "terminated", 3: "terminated"}
    assert stage.finish == t.Finish(True, "shutdown")


# --- an orderly restart, which OTP does not have -------------------------------------------------


def test_a_bounce_counts_nothing_and_is_answered_when_the_child_is_up():
    stage = Stage(sup("root", *workers("a", "b"), intensity=0))
    stage.slow.add("a")
    stage.took()
    assert stage.bounce("a") is None and stage.took() == "-a +a"
    stage.ready("a")
    assert stage.answers == {1: ""} and stage.node("a").restarts == 1
    stage.slow.clear()
    assert stage.terminate("a") == stage.bounce("a") == "" and stage.state("a") == "up"
    assert stage.node("a").restarts == 1 and stage.finish is None


@pytest.mark.parametrize("child", [worker("a", "temporary"), sup("a", restart="temporary")])
def test_a_bounce_is_no_end_even_of_a_temporary_child(child):
    stage = Stage(sup("root", child))
    assert stage.bounce("a") == "" and stage.state("a") == "up"


def test_a_bounce_takes_back_that_the_child_was_to_be_forgotten():
    stage = Stage(sup("root", *workers("a")))
    stage.stuck.add("a")
    stage.tell(t.Forget("a"))
    assert stage.bounce("a") is None
    stage.stuck.clear()
    stage.exit("a", 0)
    assert stage.state("a") == "up"
    assert stage.terminate("a") == "" and stage.which() == {"a": None}


def test_a_bounce_of_a_temporary_child_whose_start_fails_is_its_end():
    stage = Stage(sup("root", worker("a", "temporary"), intensity=9))
    stage.refuse["a"] = [73]
    assert stage.bounce("a") == "status 73" and stage.which() == {}
    assert not stage.policy.timers and stage.node("root").attempts == []


def test_a_bounce_whose_start_fails_says_so_and_the_child_is_retried():
    stage = Stage(sup("root", *workers("a"), intensity=2))
    stage.refuse["a"] = [73]
    assert stage.bounce("a") == "status 73" and stage.state("a") == "waiting"
    stage.after(0.0)
    assert stage.state("a") == "up"


def test_a_bounce_does_not_wait_for_a_retry():
    stage = Stage(sup("root", *workers("a"), intensity=9))
    stage.refuse["a"] = [73] * 3
    stage.crash("a")
    stage.after(0.03)
    assert stage.state("a") == "waiting"
    assert stage.bounce("a") == "" and stage.state("a") == "up" and not stage.policy.timers


# --- listing and counting ------------------------------------------------------------------------


def test_which_children():
    stage = Stage(sup("root", sup("in", worker("x")), worker("a")))
    assert t.which_children(stage.node("root")) == [
        ("a", stage.live["a"] % 1000 + 1, "worker"),
        ("in", 0, "supervisor"),
    ]
    assert stage.start("root", worker("b")) == ""
    assert stage.which() == {"b": "pid", "a": "pid", "in": "pid"}
    assert list(stage.which()) == ["b", "a", "in"]
    assert stage.terminate("a") == "" and stage.which() == {"b": "pid", "a": None, "in": "pid"}
    assert stage.delete("a") == "" and stage.which() == {"b": "pid", "in": "pid"}


def test_which_children_simple_one_for_one():
    stage = Stage(sup("root", dynamic=True))
    for id in "abc":
        stage.start("root", worker(id))
    assert list(stage.which()) == ["c", "b", "a"]


def test_count_children():
    stage = Stage(sup("root", sup("in", worker("x")), *workers("a", "b")))
    assert stage.count() == [3, 3, 1, 2]
    assert stage.terminate("in") == stage.terminate("a") == ""
    assert stage.count() == [3, 1, 1, 2]


def test_count_restarting_children():
    stage = Stage(sup("root", *workers("a", "b"), intensity=9))
    stage.refuse["a"] = [73] * 3
    stage.crash("a")
    assert stage.count() == [2, 1, 0, 2] and stage.which() == {"b": "pid", "a": "restarting"}


@pytest.mark.parametrize("strategy", s.STRATEGIES)
def test_hanging_restart_loop(strategy):
    stage = Stage(sup("root", *workers("a", "b"), strategy=strategy, intensity=99))
    stage.refuse["a"] = [73] * 999
    stage.crash("a")
    for _ in range(5):
        stage.after(0.02)
        assert stage.start("root", worker("a")) == "already_present"
        assert stage.restart("a") == stage.delete("a") == "restarting"
        assert stage.which()["a"] == "restarting"
    assert stage.terminate("a") == "" and stage.which() == {"b": "pid", "a": None}
    assert not stage.policy.timers
    stage.shutdown()
    assert stage.finish == t.Finish(True, "shutdown")


@pytest.mark.parametrize("strategy", s.STRATEGIES)
def test_hanging_restart_loop_ends_with_the_supervisor(strategy):
    stage = Stage(sup("root", *workers("b", "a"), strategy=strategy, intensity=99))
    stage.refuse["a"] = [73] * 999
    stage.crash("a")
    stage.after(0.1)
    stage.shutdown()
    assert stage.finish == t.Finish(True, "shutdown") and stage.running == set()


def test_hanging_restart_loop_a_start_under_way_is_still_restarting():
    stage = Stage(sup("root", *workers("a"), intensity=99))
    stage.refuse["a"] = [73]
    stage.slow.add("a")
    stage.crash("a")
    stage.after(0.0)
    assert stage.running == {"a"} and stage.which() == {"a": "restarting"}
    assert stage.restart("a") == stage.delete("a") == "restarting" and stage.count()[1] == 0
    assert stage.terminate("a") == "" and stage.took() == "+a +a +a -a"
