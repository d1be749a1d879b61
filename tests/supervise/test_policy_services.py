"""Beyond OTP, for the user's services: held children, back-off, independent trees."""

from __future__ import annotations

import pytest

from loomd.supervise import spec as s
from loomd.supervise import tree as t
from tests.supervise.otp.stage import Stage, sup, worker
from tests.supervise.otp.stage import workers as names

# --- a child that was terminated stays down ------------------------------------------------------


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_a_terminated_child_stays_down_when_its_sibling_crashes(strategy):
    stage = Stage(sup("root", *names("a", "b", "c"), strategy=strategy, intensity=9))
    assert stage.terminate("b") == ""
    stage.took()
    stage.crash("a")
    assert stage.took() == "-c +a +c" and stage.state("b") == "down"
    assert stage.restart("b") == ""
    stage.took()
    stage.crash("a")
    assert "+b" in stage.took()


def test_a_terminated_child_stays_down_when_its_supervisor_is_restarted():
    stage = Stage(sup("root", sup("g", *names("a", "b"), intensity=0), intensity=9))
    stage.terminate("b")
    stage.crash("a")
    assert stage.running == {"a"} and stage.state("b") == "down"
    assert stage.delete("b") == "" and stage.policy.held == set()


def test_a_terminated_child_of_a_dynamic_group_leaves_no_trace():
    stage = Stage(sup("root", *names("a"), dynamic=True))
    stage.terminate("a")
    assert stage.policy.held == set() and stage.state("a") is None


# --- back-off ------------------------------------------------------------------------------------


def backing(id: str, **more: object) -> dict[str, object]:
    return worker(id, backoff_s=1.0, backoff_max_s=8.0, **more)


def waits(stage: Stage, id: str) -> float:
    return stage.policy.timers[("retry", id)] - stage.now


def test_restarts_wait_longer_and_longer_with_a_jitter():
    stage = Stage(sup("root", backing("a"), intensity=100))
    found = []
    for full in (1.0, 2.0, 4.0, 8.0, 8.0, 8.0):
        stage.crash("a")
        assert stage.state("a") == "waiting"
        found.append(waits(stage, "a") / full)
        stage.after(waits(stage, "a"))
        assert stage.state("a") == "up"
    assert all(0.5 <= share <= 1.0 for share in found) and len(set(found)) == len(found)


def test_the_jitter_is_the_same_for_the_same_incarnation():
    def first(base: int) -> float:
        stage = Stage(sup("root", backing("a"), intensity=9), base=base)
        stage.crash("a")
        return waits(stage, "a")

    assert first(0) == first(0) != first(7 << 32)


def test_who_ran_well_starts_at_the_first_wait_again():
    stage = Stage(sup("root", backing("a"), intensity=100))
    for _ in range(3):
        stage.crash("a")
        stage.after(waits(stage, "a"))
    stage.after(8.0)
    stage.crash("a")
    assert waits(stage, "a") <= 1.0


def test_failed_starts_back_off_too_and_count():
    stage = Stage(sup("root", backing("a"), intensity=2))
    stage.refuse["a"] = [73, 73]
    stage.crash("a")
    stage.after(waits(stage, "a"))
    assert stage.state("a") == "waiting" and 1.0 <= waits(stage, "a") <= 2.0
    stage.after(waits(stage, "a"))
    assert stage.finish is not None and not stage.finish.ok


def test_a_call_does_not_wait_for_the_back_off():
    stage = Stage(sup("root", backing("a"), intensity=9))
    stage.crash("a")
    assert stage.restart("a") == "restarting"
    assert stage.terminate("a") == ""
    assert stage.policy.timers == {} and stage.state("a") == "down"
    assert stage.restart("a") == ""


def test_siblings_of_a_round_wait_with_it_in_their_order():
    stage = Stage(sup("root", worker("a"), backing("b"), worker("c"), strategy="one_for_all"))
    stage.took()
    stage.crash("b")
    assert stage.took() == "-c -a +a"
    stage.after(1.0)
    assert stage.took() == "+b +c"


# --- independent children ------------------------------------------------------------------------


def services(*children: dict[str, object], **more: object) -> dict[str, object]:
    made = sup("services", *children, independent=True, restart="transient", **more)
    return sup("root", worker("hub"), made, worker("last"))


def tree_of(id: str, *children: dict[str, object], **more: object) -> dict[str, object]:
    return sup(id, *children, restart="transient", **more)


def test_a_tree_that_cannot_start_stays_down_and_moves_nothing():
    stage = Stage(services(tree_of("x", *names("a", "bad")), tree_of("y", worker("b"))), boot=False)
    stage.refuse["bad"] = [73]
    stage.tell(t.Boot())
    assert stage.running == {"hub", "b", "last"} and stage.state("root") == "up"
    assert stage.state("x") == "down" and stage.policy.nodes["services"].attempts == []
    assert t.picture(stage.policy.nodes["x"])["reason"] == "bad: status 73"
    assert stage.restart("x") == ""
    assert stage.running == {"hub", "a", "bad", "b", "last"}


def test_the_daemon_does_not_wait_for_a_slow_service():
    stage = Stage(services(tree_of("x", worker("a"))), boot=False)
    stage.slow.add("a")
    stage.tell(t.Boot())
    assert stage.state("x") == "starting" and stage.state("root") == "up"


def test_a_tree_that_gives_up_stays_down_and_moves_nothing():
    stage = Stage(services(tree_of("x", worker("a"), intensity=0), tree_of("y", worker("b"))))
    other = stage.live["b"]
    stage.crash("a")
    assert stage.state("x") == "down" and stage.live["b"] == other
    assert t.picture(stage.policy.nodes["x"])["reason"] == "too many restarts: a: status 1"


def test_trees_that_come_back_too_often_end_all_services_and_nothing_else():
    wild = sup("x", worker("a"), intensity=0)
    stage = Stage(services(wild, tree_of("y", worker("b")), intensity=1))
    stage.crash("a")
    assert "a" in stage.running
    stage.crash("a")
    assert stage.running == {"hub", "last"} and stage.state("root") == "up"
    assert stage.state("services") == "down"
    assert stage.restart("services") == ""
    assert stage.running == {"hub", "a", "b", "last"}


def test_independent_is_for_one_for_one_groups_only():
    with pytest.raises(s.SpecError, match="bad_combination"):
        s.parse(sup("a", independent=True, dynamic=True))
    with pytest.raises(s.SpecError, match="bad_combination"):
        s.parse(sup("a", independent=True, strategy="one_for_all"))
