"""What the policy does beyond OTP: sessions made on demand, wake-ups, ends that are forgotten.

OTP's own cases are in `tests/supervise/otp`, random trees in `test_policy_property`.
"""

from __future__ import annotations

from typing import Any

from loomd.supervise import spec as s
from loomd.supervise import tree as t
from tests.supervise.otp.stage import Stage, sup, worker


def daemon(**more: Any) -> Stage:
    return Stage(
        sup(
            "root",
            worker("hub"),
            sup("services", dynamic=True),
            sup("sessions", dynamic=True, intensity=10),
        ),
        **more,
    )


def ensure(name: str, session: str = "s-1", group: str = "agents", after: int = 0) -> t.Ensure:
    return t.Ensure(s.parse_worker(worker(name, "transient")), session, group, after)


def test_ensure_makes_the_session_and_is_idempotent():
    stage = daemon()
    for _ in range(2):
        stage.tell(ensure("s-1/team", group=""))
        stage.tell(ensure("s-1/lead"))
    assert stage.took() == "+hub +s-1/team +s-1/lead"
    assert list(stage.policy.nodes["s-1"].children) == ["s-1/agents", "s-1/keepers", "s-1/team"]


def test_ensure_wakes_a_sleeper():
    stage = daemon()
    stage.tell(ensure("s-1/lead"))
    stage.exit("s-1/lead", 72)
    assert stage.out[-1] == t.Gone("s-1/lead", 3 - 1, True)
    stage.tell(ensure("s-1/lead", after=2))
    assert "s-1/lead" in stage.running


def test_a_wake_up_that_comes_while_it_falls_asleep_is_not_lost():
    stage = daemon()
    stage.tell(ensure("s-1/lead"))
    first = stage.live["s-1/lead"]
    stage.tell(ensure("s-1/lead", after=first))
    assert stage.live["s-1/lead"] == first
    stage.exit("s-1/lead", 72)
    assert stage.live["s-1/lead"] > first
    assert t.Gone("s-1/lead", first, False) in stage.out


def test_ensure_while_it_is_being_stopped_starts_it_afterwards():
    stage = daemon()
    stage.tell(ensure("s-1/lead"))
    stage.stuck.add("s-1/lead")
    stage.tell(t.Forget("s-1/lead"))
    stage.tell(ensure("s-1/lead"))
    stage.exit("s-1/lead", 0)
    assert stage.took() == "+hub +s-1/lead -s-1/lead +s-1/lead"


def test_ensure_while_its_session_ends_makes_a_new_one_afterwards():
    stage = daemon()
    stage.tell(ensure("s-1/lead"))
    stage.stuck.add("s-1/lead")
    stage.tell(t.Forget("s-1"))
    stage.tell(ensure("s-1/lead"))
    stage.exit("s-1/lead", 0)
    assert stage.running == {"hub", "s-1/lead"} and stage.state("s-1") == "up"


def test_an_end_of_the_session_takes_back_what_waits_for_it():
    stage = daemon()
    stage.tell(ensure("s-1/lead"))
    stage.stuck.add("s-1/lead")
    stage.tell(t.Forget("s-1"))
    stage.tell(ensure("s-1/lead"))
    stage.tell(t.Forget("s-1"))
    stage.exit("s-1/lead", 0)
    assert stage.running == {"hub"} and stage.state("s-1") is None


def test_a_session_that_gives_up_moves_nothing_else():
    stage = daemon(intensity=2)
    stage.tell(ensure("s-1/team", group=""))
    stage.tell(ensure("s-1/lead"))
    stage.tell(ensure("s-2/lead", session="s-2"))
    other = stage.live["s-2/lead"]
    for _ in range(3):
        stage.crash("s-1/lead")
    assert stage.running == {"hub", "s-2/lead"} and stage.live["s-2/lead"] == other
    gave_up = [a.supervisor for a in stage.out if isinstance(a, t.GaveUp)]
    assert gave_up == ["s-1/agents", "s-1"]
    assert stage.state("s-1") is None and stage.policy.nodes["sessions"].attempts == []


def test_a_first_start_that_fails_is_retried_for_the_hub():
    stage = daemon()
    stage.refuse["s-1/lead"] = [73, 73]
    stage.tell(ensure("s-1/lead"))
    stage.after(1.0)
    assert "s-1/lead" in stage.running


def test_an_actor_of_no_session_is_a_service():
    stage = daemon()
    stage.tell(ensure("echo-1", session="", group=""))
    assert list(stage.policy.nodes["services"].children) == ["echo-1"]
    stage.tell(t.Forget("echo-1"))
    assert stage.state("echo-1") is None


def test_forgetting_what_is_not_there_is_fine():
    stage = daemon()
    stage.tell(t.Forget("nobody"))
    stage.tell(t.Forget("root"))
    assert stage.state("root") == "up"


def test_a_note_of_an_older_incarnation_changes_nothing():
    stage = daemon()
    incarnation = stage.live["hub"]
    stage.exit("hub", 1)
    assert stage.tell(t.Exited("hub", incarnation, 0)) == []
    assert stage.tell(t.Ready("hub", incarnation)) == []
    assert stage.tell(t.TimerFired(("stop", "hub"))) == []


def test_a_temporary_child_that_is_wanted_again_while_it_is_stopped_comes_back():
    stage = daemon()
    spec = s.parse_worker(worker("one", "temporary"))
    stage.tell(t.Ensure(spec))
    stage.stuck.add("one")
    stage.tell(t.Forget("one"))
    stage.tell(t.Ensure(spec))
    stage.exit("one", 0)
    assert stage.running == {"hub", "one"}


def test_a_wake_up_is_not_counted_whatever_the_end_that_it_waited_for():
    for status in (s.NORMAL, s.FENCED, s.ASLEEP):
        stage = daemon(intensity=0)
        stage.tell(ensure("s-1/lead"))
        stage.tell(ensure("s-1/lead", after=stage.live["s-1/lead"]))
        stage.exit("s-1/lead", status)
        assert "s-1/lead" in stage.running and stage.gave_up() == []


def test_a_forgotten_child_ignores_the_wake_up_that_came_before():
    stage = daemon()
    stage.tell(ensure("s-1/lead"))
    stage.tell(ensure("s-1/lead", after=stage.live["s-1/lead"]))
    stage.stuck.add("s-1/lead")
    stage.tell(t.Forget("s-1/lead"))
    stage.exit("s-1/lead", 72)
    assert stage.running == {"hub"} and stage.state("s-1/lead") is None


def test_a_forgotten_child_that_sleeps_or_waits_is_gone_at_once():
    stage = daemon()
    stage.tell(ensure("s-1/lead"))
    stage.exit("s-1/lead", 72)
    stage.tell(t.Forget("s-1/lead"))
    stage.refuse["s-1/help"] = [73] * 9
    stage.tell(ensure("s-1/help"))
    assert stage.state("s-1/help") == "waiting"
    stage.tell(t.Forget("s-1/help"))
    assert stage.which("s-1/agents") == {} and not stage.policy.timers


def test_an_ensured_child_does_not_start_before_its_incarnation_has_gone():
    stage = daemon()
    stage.tell(ensure("s-1/lead"))
    first = stage.live["s-1/lead"]
    stage.tell(ensure("s-1/lead", after=first - 1))  # a later one runs already
    stage.exit("s-1/lead", 72)
    assert stage.state("s-1/lead") == "down"


def test_a_shutdown_takes_back_what_waits_for_a_session():
    stage = daemon()
    stage.tell(ensure("s-1/lead"))
    stage.stuck.add("s-1/lead")
    stage.tell(t.Forget("s-1"))
    stage.tell(ensure("s-1/lead"))
    stage.shutdown()
    stage.exit("s-1/lead", 0)
    assert stage.finish == t.Finish(True, "shutdown") and stage.took().count("+s-1/lead") == 1


def test_what_is_ensured_waits_for_the_sessions_to_come_back():
    stage = daemon()
    assert stage.terminate("sessions") == ""
    stage.tell(ensure("s-1/lead"))
    assert stage.running == {"hub"}
    assert stage.restart("sessions") == ""
    assert stage.running == {"hub", "s-1/lead"}


def test_a_supervisor_s_name_is_no_actor():
    stage = daemon()
    stage.took()
    stage.tell(ensure("services", session=""))
    assert stage.took() == "" and stage.state("services") == "up"
