"""Significant children: their own end ends their supervisor; what is done to them does not."""

from __future__ import annotations

import pytest

from loomd.supervise import spec as s
from loomd.supervise import tree as t
from tests.supervise.otp.stage import Stage, significant, sup, worker


@pytest.mark.parametrize("rule", s.AUTO_SHUTDOWNS)
@pytest.mark.parametrize("end", [(0, 0), (70, 0), (1, 0), (-1, 9)])
def test_nonsignificant_temporary_and_transient(rule, end):
    tree = [worker("a", "temporary"), worker("b", "transient")]
    stage = Stage(sup("root", *tree, auto_shutdown=rule, intensity=9))
    stage.exit("a", *end)
    stage.exit("b", *end)
    assert stage.state("root") == "up"


@pytest.mark.parametrize("end", [(0, 0), (70, 0), (1, 0), (-1, 9)])
def test_significant_temporary_any(end):
    tree = [worker("x"), significant("a", "temporary"), significant("b")]
    stage = Stage(sup("root", *tree, auto_shutdown="any_significant", intensity=0))
    stage.took()
    stage.exit("a", *end)
    assert stage.took() == "-b -x" and stage.gave_up() == ["root"]
    assert stage.finish == t.Finish(False, "significant child a has ended")


@pytest.mark.parametrize("end", [(0, 0), (70, 0), (1, 0), (-1, 9)])
def test_significant_temporary_all(end):
    tree = [significant("a", "temporary"), worker("x"), significant("b", "temporary")]
    stage = Stage(sup("root", *tree, auto_shutdown="all_significant", intensity=0))
    stage.exit("a", *end)
    assert stage.running == {"x", "b"} and stage.state("root") == "up"
    stage.exit("b", *end)
    assert stage.ended()


def test_significant_transient_any():
    tree = sup("root", significant("a"), worker("b"), auto_shutdown="any_significant", intensity=3)
    stage = Stage(tree)
    stage.crash("a")
    assert stage.running == {"a", "b"}
    stage.exit("a", 0)
    assert stage.ended()


def test_significant_transient_all():
    tree = [significant("a"), significant("b"), worker("x")]
    stage = Stage(sup("root", *tree, auto_shutdown="all_significant", intensity=3))
    stage.exit("a", 0)
    stage.crash("b")
    assert stage.running == {"b", "x"} and stage.state("root") == "up"
    stage.exit("b", 0)
    assert stage.ended()


@pytest.mark.parametrize("rule", ["any_significant", "all_significant"])
@pytest.mark.parametrize("restart", ["transient", "temporary"])
def test_significant_child_terminated_by_call(rule, restart):
    stage = Stage(sup("root", significant("a", restart), worker("x"), auto_shutdown=rule))
    assert stage.terminate("a") == "" and stage.state("root") == "up"


def test_all_significant_a_terminated_one_is_not_counted_as_alive():
    tree = [significant("a"), significant("b"), worker("x")]
    stage = Stage(sup("root", *tree, auto_shutdown="all_significant"))
    stage.stuck.add("a")
    assert stage.terminate("a") is None  # still on its way down: gone, for OTP
    stage.exit("b", 0)
    stage.exit("a", 0)
    assert stage.ended()


def test_all_significant_one_that_is_down_in_a_round_counts_as_alive():
    tree = [significant("a"), worker("b"), significant("c")]
    stage = Stage(
        sup("root", *tree, strategy="rest_for_one", auto_shutdown="all_significant", intensity=3)
    )
    stage.slow.add("b")
    stage.crash("b")
    assert stage.which()["c"] == "restarting"
    stage.exit("a", 0)
    assert stage.state("root") == "up"
    stage.ready("b")
    assert stage.running == {"b", "c"}


def test_all_significant_one_that_waits_for_its_retry_counts_as_alive():
    tree = [significant("a"), significant("b")]
    stage = Stage(sup("root", *tree, auto_shutdown="all_significant", intensity=9))
    stage.refuse["a"] = [73]
    stage.crash("a")
    stage.exit("b", 0)
    assert stage.state("root") == "up"
    stage.after(0.0)
    assert stage.running == {"a"}


def test_all_significant_during_the_start_those_to_come_count_as_alive():
    tree = [significant("a", "temporary"), significant("b")]
    stage = Stage(sup("root", *tree, auto_shutdown="all_significant"), boot=False)
    stage.slow.add("b")
    stage.tell(t.Boot())
    stage.exit("a", 0)
    stage.ready("b")
    assert stage.state("root") == "up" and stage.running == {"b"}


@pytest.mark.parametrize("rule", ["any_significant", "all_significant"])
def test_an_ignored_or_sleeping_significant_child_has_not_ended(rule):
    stage = Stage(sup("root", significant("a"), worker("x"), auto_shutdown=rule), boot=False)
    stage.refuse["a"] = [0]
    stage.tell(t.Boot())
    assert stage.state("root") == "up"
    assert stage.restart("a") == ""
    stage.exit("a", s.ASLEEP)
    assert stage.state("root") == "up"


def test_significant_escalation():
    c = sup("c", significant("w"), worker("y"), auto_shutdown="any_significant")
    c |= {"restart": "transient", "significant": True}
    b = sup("b", c, auto_shutdown="any_significant", restart="transient", significant=True)
    stage = Stage(sup("a", b, worker("x"), auto_shutdown="any_significant"))
    stage.took()
    stage.exit("w", 0)
    assert stage.took() == "-y -x" and stage.gave_up() == ["c", "b", "a"]
    assert stage.finish == t.Finish(False, "significant child b has ended")


@pytest.mark.parametrize("rule", ["any_significant", "all_significant"])
def test_a_significant_supervisor_that_gives_up_has_ended(rule):
    low = sup("low", worker("w"), intensity=0, restart="transient", significant=True)
    stage = Stage(sup("root", low, worker("x"), auto_shutdown=rule, intensity=9))
    stage.crash("w")
    assert stage.gave_up() == ["low", "root"] and stage.ended()


def test_a_significant_child_that_ends_while_its_supervisor_starts():
    low = sup("low", significant("w"), worker("v"), auto_shutdown="any_significant")
    stage = Stage(sup("root", intensity=9))
    stage.slow.add("v")
    assert stage.start("root", low | {"restart": "transient"}) is None
    stage.exit("w", 0)
    assert stage.answers == {1: "terminated"} and stage.which() == {"low": None}
