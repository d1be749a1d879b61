"""Restart types: each of them with each way to end, under each strategy."""

from __future__ import annotations

import pytest

from loomd.supervise import spec as s
from loomd.supervise import tree as t
from tests.supervise.otp.stage import Stage, sup, worker

NORMAL, SHUTDOWN, ABNORMAL, KILLED = (0, 0), (70, 0), (1, 0), (-1, 9)
"""The ends of OTP as (status, signal). `shutdown` is an end on purpose that nobody asked for."""

ENDS = [NORMAL, SHUTDOWN, ABNORMAL, KILLED, (-1, 15), (-1, 11), (73, 0), (75, 0), (255, 0)]


def one(restart: str, strategy: str, intensity: int = 1) -> Stage:
    stage = Stage(sup("root", worker("a", restart), strategy=strategy, intensity=intensity))
    stage.took()
    return stage


@pytest.mark.parametrize("strategy", s.STRATEGIES)
@pytest.mark.parametrize("end", ENDS)
def test_permanent_normal_shutdown_abnormal(end, strategy):
    stage = one("permanent", strategy)
    stage.exit("a", *end)
    assert stage.took() == "+a" and stage.node("a").restarts == 1
    assert stage.reports("child_terminated") == ["a"]
    assert len(stage.node("root").attempts) == (end != SHUTDOWN)


@pytest.mark.parametrize("strategy", s.STRATEGIES)
@pytest.mark.parametrize("end", ENDS)
def test_transient_normal_shutdown_abnormal(end, strategy):
    stage = one("transient", strategy)
    stage.exit("a", *end)
    proper = end in (NORMAL, SHUTDOWN)
    assert stage.took() == ("" if proper else "+a")
    assert stage.which() == {"a": None if proper else "pid"}
    assert stage.reports("child_terminated") == ([] if proper else ["a"])
    assert len(stage.node("root").attempts) == (not proper)


@pytest.mark.parametrize("strategy", s.STRATEGIES)
@pytest.mark.parametrize("end", ENDS)
def test_temporary_normal_shutdown_abnormal(end, strategy):
    stage = one("temporary", strategy, intensity=0)
    stage.exit("a", *end)
    assert stage.took() == "" and stage.which() == {}
    assert stage.reports("child_terminated") == ([] if end in (NORMAL, SHUTDOWN) else ["a"])
    assert stage.start("root", worker("a", "temporary")) == ""


@pytest.mark.parametrize("strategy", s.STRATEGIES)
def test_do_not_save_child_specs_for_temporary_children(strategy):
    stage = Stage(sup("root", strategy=strategy, intensity=0))
    for end in (KILLED, NORMAL, ABNORMAL):
        assert stage.start("root", worker("a", "temporary")) == ""
        stage.exit("a", *end)
        assert stage.count() == [0, 0, 0, 0]
    assert stage.start("root", worker("a", "temporary")) == ""
    assert stage.terminate("a") == "" and stage.terminate("a") == "not_found"
    assert stage.count() == [0, 0, 0, 0]


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_temporary_bystander(strategy):
    tree = sup("root", worker("a"), worker("b", "temporary"), strategy=strategy, intensity=1)
    stage = Stage(tree)
    stage.took()
    stage.crash("a")
    assert stage.took() == "-b +a" and stage.which() == {"a": "pid"}
    assert stage.state("root") == "up"


# --- statuses that OTP does not have -------------------------------------------------------------


@pytest.mark.parametrize("restart", s.RESTARTS)
def test_asleep_is_kept_for_a_wake_up_and_not_counted(restart):
    stage = one(restart, "one_for_all", intensity=0)
    stage.exit("a", s.ASLEEP)
    assert stage.which() == {"a": None} and stage.finish is None
    assert stage.restart("a") == "" and stage.took() == "+a"


@pytest.mark.parametrize("restart", s.RESTARTS)
def test_upgraded_gets_its_successor_at_once_and_is_not_counted(restart):
    stage = one(restart, "one_for_all", intensity=0)
    for _ in range(3):
        stage.exit("a", s.UPGRADED)
    assert stage.took() == "+a +a +a" and stage.reports("child_terminated") == []


def test_fenced_is_not_counted():
    stage = one("permanent", "one_for_all", intensity=0)
    for _ in range(3):
        stage.exit("a", s.FENCED)
    assert stage.running == {"a"} and stage.finish is None


@pytest.mark.parametrize("restart", s.RESTARTS)
def test_cannot_start_ends_the_supervisor_without_a_retry(restart):
    stage = Stage(sup("root", worker("a", restart), worker("b"), intensity=9))
    stage.took()
    stage.exit("a", s.CANNOT_START)
    assert stage.took() == "-b"
    assert stage.finish == t.Finish(False, "a can never start", fatal=True)
    assert stage.reports("child_terminated") == ["a"]


def test_cannot_start_at_a_restart_ends_the_supervisor_without_another():
    stage = Stage(sup("root", worker("a"), worker("b"), intensity=9))
    stage.refuse["a"] = [s.CANNOT_START]
    stage.took()
    stage.crash("a")
    assert stage.took() == "+a -b"
    assert stage.finish == t.Finish(False, "a can never start: status 74", fatal=True)
