"""one_for_one: who crashed is replaced, and nobody else is touched."""

from __future__ import annotations

from tests.supervise.otp.stage import Stage, sup, workers


def test_one_for_one():
    stage = Stage(sup("root", *workers("a", "b"), intensity=2))
    b = stage.live["b"]
    for _ in range(2):
        stage.crash("a")
        assert stage.live["b"] == b
    stage.crash("a")
    assert stage.ended()


def test_one_for_one_escalation():
    stage = Stage(sup("root", *workers("a", "b"), intensity=2))
    stage.refuse["a"] = [73] * 9
    stage.took()
    stage.crash("a")
    stage.after(1)
    assert stage.took() == "+a +a -b" and stage.ended()


def test_two_crash_at_once_and_neither_waits_for_the_other():
    stage = Stage(sup("root", *workers("a", "b", "c"), intensity=2))
    stage.slow |= {"a", "b"}
    stage.took()
    stage.crash("b")
    stage.crash("a")
    assert stage.took() == "+b +a"
    stage.ready("a")
    assert stage.state("a") == "up" and stage.state("b") == "starting"


def test_a_retry_that_waits_holds_up_nobody():
    stage = Stage(sup("root", *workers("a", "b"), intensity=9))
    stage.refuse["a"] = [73] * 3
    stage.crash("a")
    stage.took()
    stage.crash("b")
    assert stage.took() == "+b" and stage.which() == {"b": "pid", "a": "restarting"}
