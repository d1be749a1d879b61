"""rest_for_one: who crashed and those after it are replaced, those before it stay."""

from __future__ import annotations

import pytest

from tests.supervise.otp.stage import Stage, significant, sup, worker, workers


def group(*ids: str, **more) -> Stage:
    stage = Stage(sup("root", *workers(*ids), strategy="rest_for_one", **more))
    stage.took()
    return stage


def test_rest_for_one():
    stage = group("a", "b", "c", "d", intensity=1)
    a = stage.live["a"]
    stage.crash("b")
    assert stage.took() == "-d -c +b +c +d" and stage.live["a"] == a
    stage.crash("d")
    assert stage.took() == "-c -b -a" and stage.ended()


@pytest.mark.parametrize("position", range(4))
def test_order_of_children_in_a_round(position):
    ids = ["z", "a", "m", "b"]
    stage = group(*ids)
    kept = {id: stage.live[id] for id in ids[:position]}
    stage.crash(ids[position])
    stops = [f"-{id}" for id in reversed(ids[position + 1 :])]
    assert stage.took().split() == stops + [f"+{id}" for id in ids[position:]]
    assert {id: stage.live[id] for id in kept} == kept


def test_rest_for_one_escalation():
    stage = group("a", "b", "c", intensity=3)
    stage.refuse["c"] = [73] * 9
    stage.crash("b")
    stage.after(1)
    assert stage.took() == "-c +b +c +c +c -b -a" and stage.ended()


def test_rest_for_one_other_child_fails_restart():
    stage = group("a", "b", "c", "d", intensity=5)
    a = stage.live["a"]
    stage.refuse["c"] = [73]
    stage.crash("b")
    stage.after(0.0)
    assert stage.took() == "-d -c +b +c +c +d" and stage.live["a"] == a


def test_the_round_grows_when_an_earlier_one_crashes():
    stage = group("a", "b", "c", intensity=2)
    stage.slow.add("c")
    stage.crash("b")
    stage.crash("a")
    assert stage.took() == "-c +b +c -c -b +a +b +c"


def test_a_later_crash_leaves_the_earlier_ones_of_the_round():
    stage = group("a", "b", "c", intensity=2)
    stage.slow.add("b")
    stage.crash("a")
    assert stage.took() == "-c -b +a +b"
    stage.ready("b")
    stage.crash("c")
    assert stage.took() == "+c +c" and stage.running == {"a", "b", "c"}


def test_significant_bystander():
    tree = [worker("a"), significant("b", "temporary"), significant("c")]
    for rule in ("any_significant", "all_significant"):
        stage = Stage(sup("root", *tree, strategy="rest_for_one", auto_shutdown=rule))
        stage.crash("a")
        assert stage.which() == {"c": "pid", "a": "pid"} and stage.state("root") == "up"
