"""Stops: in reverse, one after the other; asked, then killed; always to the end."""

from __future__ import annotations

import pytest

from loomd.supervise import spec as s
from loomd.supervise import tree as t
from tests.supervise.otp.stage import Stage, sup, worker, workers


def test_sup_stop_infinity_waits_for_ever():
    stage = Stage(sup("root", worker("a", shutdown_s="infinity"), sup("in", shutdown_s="infinity")))
    stage.stuck.add("a")
    stage.shutdown()
    stage.after(1e6)
    assert stage.finish is None and stage.running == {"a"}
    stage.exit("a", 0)
    assert stage.finish == t.Finish(True, "shutdown")
    assert stage.reports("shutdown_error") == []


def test_sup_stop_timeout():
    stage = Stage(sup("root", worker("good"), worker("stuck", shutdown_s=1.0)))
    stage.stuck.add("stuck")
    stage.took()
    stage.shutdown()
    stage.after(0.9)
    assert stage.took() == "-stuck"
    stage.after(0.1)
    assert stage.took() == "!stuck -good"
    assert stage.reports("shutdown_error") == ["stuck"]


def test_sup_stop_timeout_dynamic():
    stage = Stage(sup("root", dynamic=True))
    for i in range(10):
        stage.start("root", worker(f"c{i}", shutdown_s=1.0))
    stage.stuck |= {f"c{i}" for i in range(5)}
    stage.shutdown()
    assert stage.running == stage.stuck
    stage.after(1.0)
    assert sorted(stage.reports("shutdown_error")) == sorted(stage.stuck)
    assert stage.finish == t.Finish(True, "shutdown")


def test_sup_stop_brutal_kill():
    stage = Stage(sup("root", worker("a"), worker("b", shutdown_s="kill")))
    stage.took()
    stage.shutdown()
    assert stage.took() == "!b -a" and stage.reports("shutdown_error") == []


def test_sup_stop_brutal_kill_dynamic():
    stage = Stage(sup("root", dynamic=True))
    for i in range(10):
        stage.start("root", worker(f"c{i}", shutdown_s="kill"))
    stage.took()
    stage.shutdown()
    assert sorted(stage.took().split()) == [f"!c{i}" for i in range(10)]
    assert stage.finish == t.Finish(True, "shutdown")


@pytest.mark.parametrize("strategy", s.STRATEGIES)
def test_sup_stop_race_children_that_end_by_themselves_are_not_restarted(strategy):
    ends = [(0, 0), (1, 0), (72, 0), (-1, 9)]
    children = [worker(f"{restart}-{i}", restart) for restart in s.RESTARTS for i in range(4)]
    tree = sup("root", *children, worker("last", shutdown_s="infinity"), strategy=strategy)
    stage = Stage(tree)
    stage.stuck.add("last")
    stage.shutdown()
    stage.took()
    for restart in s.RESTARTS:
        for i, (status, signal) in enumerate(ends):
            stage.exit(f"{restart}-{i}", status, signal)
    assert stage.took() == ""
    stage.exit("last", 0)
    assert stage.finish == t.Finish(True, "shutdown")
    # The reasons are kept: only what OTP calls a proper end is none to report.
    permanent = ["permanent-1", "permanent-2", "permanent-3"]
    others = ["transient-1", "transient-3", "temporary-1", "temporary-3"]
    assert sorted(stage.reports("shutdown_error")) == sorted(permanent + others)


def test_sup_stop_non_shutdown_exit_dynamic():
    stage = Stage(sup("root", dynamic=True))
    for i in range(4):
        stage.start("root", worker(f"c{i}"))
        stage.stuck.add(f"c{i}")
    stage.shutdown()
    for i, status in enumerate((0, 1, 72, 99)):
        stage.exit(f"c{i}", status)
    assert stage.finish == t.Finish(True, "shutdown")


@pytest.mark.parametrize(
    ("restart", "shutdown", "status", "signal", "reported"),
    [
        ("permanent", 5, 0, 0, False),
        ("permanent", 5, -1, 15, False),  # it had no handler: ended by what it was told with
        ("permanent", 5, 1, 0, True),
        ("permanent", 5, 71, 0, True),
        ("permanent", 5, -1, 9, True),
        ("permanent", 5, -1, 11, True),
        ("transient", 5, 71, 0, False),
        ("temporary", 5, 72, 0, False),
        ("transient", 5, 1, 0, True),
        ("transient", 5, -1, 9, True),
        ("permanent", "kill", -1, 9, False),
        ("permanent", "kill", 0, 0, True),  # its own end came first
        ("transient", "kill", 0, 0, False),
        ("transient", "kill", -1, 15, True),
        ("transient", "kill", 1, 0, True),
    ],
)
def test_an_end_other_than_the_one_asked_for_is_a_shutdown_error(
    restart, shutdown, status, signal, reported
):
    stage = Stage(sup("root", worker("a", restart, shutdown_s=shutdown)))
    stage.policy.handle(t.Shutdown(), stage.now)
    stage.exit("a", status, signal)
    assert stage.reports("shutdown_error") == (["a"] if reported else [])
    assert stage.finish == t.Finish(True, "shutdown")


def test_simple_one_for_one_shutdown_stops_side_by_side():
    stage = Stage(sup("root", dynamic=True))
    for i in range(5):
        stage.start("root", worker(f"c{i}", shutdown_s=0.3))
        stage.stuck.add(f"c{i}")
    stage.took()
    stage.shutdown()
    assert sorted(stage.took().split()) == [f"-c{i}" for i in range(5)]
    stage.after(0.3)
    assert sorted(stage.took().split()) == [f"!c{i}" for i in range(5)]
    assert stage.finish == t.Finish(True, "shutdown")


def test_static_children_stop_one_by_one_so_that_their_times_add_up():
    stage = Stage(
        sup("root", worker("k", shutdown_s="kill"), worker("stuck", shutdown_s=0.3), worker("slow"))
    )
    stage.stuck |= {"stuck", "slow"}
    stage.took()
    stage.shutdown()
    stage.after(0.4)
    stage.exit("slow", 0)
    stage.after(0.2)
    assert stage.took() == "-slow -stuck"
    stage.after(0.1)
    assert stage.took() == "!stuck !k" and stage.finish is not None


def test_order_of_children():
    for strategy in s.STRATEGIES:
        stage = Stage(sup("root", *workers("z", "a", "m", "b"), strategy=strategy))
        assert stage.took() == "+z +a +m +b"
        stage.shutdown()
        assert stage.took() == "-b -m -a -z"


def test_whole_subtrees_stop_in_reverse():
    stage = Stage(sup("root", worker("a"), sup("in", *workers("b", "c")), worker("d")))
    stage.took()
    stage.shutdown()
    assert stage.took() == "-d -c -b -a"


def test_child_unlink_terminate_does_not_hang():
    stage = Stage(sup("root", *workers("a")))
    stage.stuck.add("a")
    assert stage.terminate("a") is None
    stage.after(s.SHUTDOWN_S)
    assert stage.answers == {1: ""} and stage.state("a") == "down"


def test_a_child_that_is_starting_is_stopped_like_any_other():
    stage = Stage(sup("root", *workers("a", "b", "c")), boot=False)
    stage.slow.add("b")
    stage.tell(t.Boot())
    stage.shutdown()
    assert stage.took() == "+a +b -b -a" and stage.finish == t.Finish(True, "shutdown")


def test_ready_while_it_is_being_stopped_changes_nothing():
    stage = Stage(sup("root", *workers("a")), boot=False)
    stage.slow.add("a")
    stage.stuck.add("a")
    stage.tell(t.Boot())
    stage.shutdown()
    stage.ready("a")
    assert stage.state("a") == "stopping"
    stage.after(s.SHUTDOWN_S)
    assert stage.finish == t.Finish(True, "shutdown")


def test_a_child_that_waits_for_its_retry_is_not_started_again_by_a_stop():
    stage = Stage(sup("root", *workers("a", "b"), intensity=9))
    stage.refuse["a"] = [73] * 9
    stage.crash("a")
    stage.after(0.0)
    assert stage.state("a") == "waiting"
    stage.took()
    stage.shutdown()
    assert stage.took() == "-b" and stage.finish == t.Finish(True, "shutdown")
    assert not stage.policy.timers


# --- whole trees at once -------------------------------------------------------------------------


def brood(**more) -> dict:
    """A supervisor with one below it; `last` is the first to be told, and does not listen."""
    low = sup("low", *workers("a", "b"), intensity=9)
    return sup("in", worker("first"), low, worker("last", shutdown_s="infinity"), **more)


def test_a_supervisor_at_its_deadline_is_killed_as_a_whole_and_restarts_nothing():
    stage = Stage(sup("root", brood(shutdown_s=1.0), intensity=9))
    stage.stuck.add("last")
    stage.took()
    stage.shutdown()
    assert stage.took() == "-last"
    stage.after(1.0)
    assert sorted(stage.took().split()) == ["!a", "!b", "!first", "!last"]
    assert stage.finish == t.Finish(True, "shutdown")
    assert stage.reports("shutdown_error") == ["in"]


def test_a_supervisor_whose_shutdown_is_kill_goes_with_everything_below():
    stage = Stage(sup("root", brood(shutdown_s="kill"), intensity=9))
    stage.took()
    assert stage.terminate("in") == ""
    assert sorted(stage.took().split()) == ["!a", "!b", "!first", "!last"]
    assert stage.state("in") == "down" and stage.reports("shutdown_error") == []


def test_kill_all_ends_a_stop_that_takes_too_long_and_restarts_nothing():
    stage = Stage(sup("root", brood(), intensity=9))
    stage.stuck.add("last")
    stage.shutdown()
    stage.took()
    stage.tell(t.KillAll())
    assert sorted(stage.took().split()) == ["!a", "!b", "!first", "!last"]
    assert stage.finish == t.Finish(True, "shutdown")


@pytest.mark.parametrize("slow", [set(), {"b"}])
def test_kill_all_is_a_shutdown_of_its_own(slow):
    stage = Stage(sup("root", brood(), intensity=9), boot=False)
    stage.slow = slow
    stage.tell(t.Boot())
    stage.tell(t.KillAll())
    assert stage.running == set() and stage.finish == t.Finish(True, "shutdown")
    assert not stage.policy.timers


def test_kill_all_after_the_end_does_nothing():
    stage = Stage(sup("root", *workers("a")))
    stage.shutdown()
    assert stage.tell(t.KillAll()) == stage.tell(t.Shutdown()) == []
