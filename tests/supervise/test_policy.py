"""The policy as scripts: events in, actions out. Case names and numbers are OTP's (OTP.md)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from loomd.supervise import policy as p
from loomd.supervise import spec as s
from loomd.supervise import tree as t

START = {"command": ["toy"]}


def worker(id: str, restart: str = "permanent", **more: Any) -> dict[str, Any]:
    return {"id": id, "restart": restart, "start": START, **more}


def sup(id: str, *children: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "supervisor", "children": list(children), **more}


class Stage:
    """Plays the processes: does what the policy says, unless a test says otherwise.

    refuse  name -> how many of its next starts fail (or a list of statuses)
    stuck   names that do not end when they are told to
    log     what happened, in order: "+a" started, "-a" told to stop, "!a" killed
    """

    def __init__(self, tree: dict[str, Any], boot: bool = True, **config: Any) -> None:
        self.policy = p.Policy(s.parse_supervisor(tree), **config)
        self.now = 1000.0
        self.live: dict[str, int] = {}
        self.asked: set[str] = set()
        self.log: list[str] = []
        self.out: list[t.Action] = []
        self.refuse: dict[str, list[int]] = {}
        self.slow: set[str] = set()
        self.stuck: set[str] = set()
        self.finish: t.Finish | None = None
        if boot:
            self.tell(t.Boot())

    def tell(self, event: t.Event) -> list[t.Action]:
        """One event and everything that follows from it; the actions of all of it."""
        made: list[t.Action] = []
        events = [event]
        while events:
            for action in self.policy.handle(events.pop(0), self.now):
                made.append(action)
                events.extend(self._play(action))
            self.policy.validate()
        self.out.extend(made)
        return made

    def _play(self, action: t.Action) -> list[t.Event]:
        match action:
            case t.StartProcess(name, incarnation):
                assert name not in self.live, f"two of {name}"
                self.log.append(f"+{name}")
                self.live[name] = incarnation
                if self.refuse.get(name):
                    del self.live[name]
                    return [t.Exited(name, incarnation, self.refuse[name].pop(0))]
                if name in self.slow:
                    return []
                return [
                    t.Born(name, incarnation, incarnation % 1000 + 1),
                    t.Ready(name, incarnation),
                ]
            case t.StopProcess(name, incarnation):
                self.log.append(f"-{name}")
                self.asked.add(name)
                return [] if name in self.stuck else self._end(name, 0)
            case t.KillProcess(name, incarnation):
                self.log.append(f"!{name}")
                return self._end(name, -1, 9)
            case t.Finish():
                self.finish = action
        return []

    def _end(self, name: str, status: int, signal: int = 0) -> list[t.Event]:
        incarnation = self.live.pop(name, None)
        return [] if incarnation is None else [t.Exited(name, incarnation, status, signal)]

    def exit(self, name: str, status: int = 0, signal: int = 0, blame: Any = None) -> None:
        self.tell(t.Exited(name, self.live.pop(name), status, signal, blame))

    def crash(self, name: str) -> None:
        self.exit(name, 1)

    def ready(self, name: str) -> None:
        self.tell(t.Ready(name, self.live[name]))

    def after(self, seconds: float) -> None:
        """Lets time pass, with every timer that falls due."""
        end = self.now + seconds
        while True:
            due = sorted((at, key) for key, at in self.policy.timers.items() if at <= end)
            if not due:
                break
            self.now = max(self.now, due[0][0])
            self.tell(t.TimerFired(due[0][1]))
        self.now = end

    def call(self, event: Any) -> str | None:
        """The answer to a call: "" is ok, None: none yet."""
        for action in self.tell(event):
            if isinstance(action, t.Reply) and action.call == event.call:
                return action.error
        return None

    def took(self) -> str:
        """The log since the last time."""
        log, self.log = self.log, []
        return " ".join(log)

    def state(self, name: str) -> str | None:
        node = self.policy.nodes.get(name)
        return None if node is None else node.state

    @property
    def running(self) -> set[str]:
        return set(self.live)

    def reports(self, context: str) -> list[str]:
        return [a.offender for a in self.out if isinstance(a, t.Report) and a.context == context]


def names(*ids: str, **more: Any) -> list[dict[str, Any]]:
    return [worker(id, **more) for id in ids]


# --- restart types -------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "signal"), [(0, 0), (1, 0), (-1, 9), (70, 0), (71, 0)])
def test_21_permanent_is_restarted_in_every_case(status, signal):
    stage = Stage(sup("root", *names("a")))
    stage.exit("a", status, signal)
    assert stage.took() == "+a +a"


@pytest.mark.parametrize(
    ("status", "signal", "again"),
    [(0, 0, False), (70, 0, False), (1, 0, True), (-1, 9, True), (73, 0, True), (71, 0, True)],
)
def test_22_transient_is_restarted_only_after_a_crash(status, signal, again):
    stage = Stage(sup("root", worker("a", "transient")))
    stage.exit("a", status, signal)
    assert stage.took() == ("+a +a" if again else "+a")
    assert stage.state("a") == ("up" if again else "down")


@pytest.mark.parametrize(("status", "signal"), [(0, 0), (1, 0), (-1, 9), (70, 0)])
def test_23_temporary_is_never_restarted_and_its_spec_is_gone(status, signal):
    stage = Stage(sup("root", worker("a", "temporary")))
    stage.exit("a", status, signal)
    assert stage.took() == "+a" and stage.state("a") is None
    assert stage.call(t.StartChild(1, "root", s.parse(worker("a", "temporary")))) == ""


@pytest.mark.parametrize("restart", ["permanent", "transient"])
def test_asleep_is_kept_for_a_wake_up_and_not_counted(restart):
    stage = Stage(sup("root", worker("a", restart), intensity=0))
    stage.exit("a", 72)
    assert stage.state("a") == "down" and stage.finish is None
    assert stage.call(t.RestartChild(1, "a")) == ""


def test_fenced_and_upgraded_are_not_counted():
    stage = Stage(sup("root", *names("a"), intensity=0))
    for status in (70, 71, 71, 70):
        stage.exit("a", status)
    assert stage.running == {"a"}


def test_status_74_ends_the_supervisor_without_a_retry():
    stage = Stage(sup("root", *names("a", "b"), intensity=9))
    stage.refuse["a"] = [74]
    stage.crash("a")
    assert stage.took() == "+a +b +a -b"
    assert stage.finish is not None and stage.finish.fatal and not stage.finish.ok


def test_24_temporary_bystander():
    for strategy in ("one_for_all", "rest_for_one"):
        stage = Stage(
            sup("root", worker("a"), worker("b", "temporary"), strategy=strategy, intensity=1)
        )
        stage.crash("a")
        assert stage.running == {"a"} and stage.state("b") is None
        assert stage.state("root") == "up"


# --- intensity -----------------------------------------------------------------------------------


def test_intensity_0_ends_at_the_first_crash():
    stage = Stage(sup("root", *names("a", "b"), intensity=0))
    stage.crash("a")
    assert stage.took() == "+a +b -b"
    assert stage.finish is not None and not stage.finish.ok


def test_intensity_1_lives_through_one_crash():
    stage = Stage(sup("root", *names("a"), intensity=1, period_s=5))
    stage.crash("a")
    assert stage.running == {"a"}
    stage.crash("a")
    assert stage.finish is not None


def test_25_multiple_restarts_far_enough_apart():
    stage = Stage(sup("root", *names("a"), intensity=1, period_s=1))
    for _ in range(4):
        stage.crash("a")
        stage.after(2.1)
    assert stage.running == {"a"}


def test_five_failing_starts_after_a_crash_are_retried_and_counted():
    stage = Stage(sup("root", *names("a"), intensity=10))
    stage.refuse["a"] = [73] * 5
    stage.crash("a")
    stage.after(1.0)
    assert stage.running == {"a"}
    assert len(stage.policy.root.attempts) == 6


def test_a_child_that_fails_its_restart_while_others_still_start_is_retried():
    stage = Stage(sup("root", *names("a", "b"), intensity=5), boot=False)
    stage.slow.add("b")
    stage.tell(t.Boot())
    assert stage.state("root") == "starting"
    stage.refuse["a"] = [73]
    stage.exit("a", -1, 9)
    stage.after(0.0)
    assert stage.state("a") == "up" and stage.state("root") == "starting"
    stage.ready("b")
    assert stage.state("root") == "up" and stage.finish is None


def test_a_kill_in_the_first_start_is_counted_and_tried_again():
    stage = Stage(sup("root", *names("a", "b"), intensity=2), boot=False)
    stage.slow.add("b")
    stage.tell(t.Boot())
    stage.exit("b", -1, 9)
    stage.after(0.0)
    stage.ready("b")
    assert stage.state("root") == "up" and len(stage.policy.root.attempts) == 1


def test_kills_in_the_first_start_end_at_the_intensity():
    stage = Stage(sup("root", *names("a"), intensity=2), boot=False)
    stage.slow.add("a")
    stage.tell(t.Boot())
    for _ in range(3):
        stage.exit("a", -1, 9)
        stage.after(0.1)
    assert stage.finish is not None and not stage.finish.ok


def test_failing_starts_count_three_attempts_then_the_end():
    stage = Stage(sup("root", *names("a"), intensity=3))
    stage.refuse["a"] = [73] * 99
    stage.took()
    stage.crash("a")
    stage.after(1.0)
    assert stage.took() == "+a +a +a"
    assert stage.finish is not None


def test_one_crash_counts_once_whatever_the_number_of_siblings():
    stage = Stage(sup("root", *names("a", "b", "c"), strategy="one_for_all", intensity=1))
    stage.crash("b")
    assert stage.policy.root.attempts == [1000] and stage.running == {"a", "b", "c"}


def test_blamed_deaths_are_free_until_the_mail_should_have_been_put_aside():
    stage = Stage(sup("root", *names("a"), intensity=0), free_blames=3)
    for _ in range(3):
        stage.exit("a", 1, blame=(1, 0, 7))
    assert stage.running == {"a"}
    stage.exit("a", 1, blame=(1, 0, 8))
    assert stage.running == {"a"}
    for _ in range(3):
        stage.exit("a", 1, blame=(1, 0, 8))
    assert stage.finish is not None


def test_a_failed_start_is_retried_by_a_timer_not_in_a_loop():
    stage = Stage(sup("root", *names("a", "b"), intensity=5))
    stage.refuse["a"] = [73]
    stage.took()
    stage.crash("a")
    assert stage.took() == "+a" and stage.state("a") == "waiting"
    assert ("retry", "a") in stage.policy.timers
    stage.after(0.0)
    assert stage.took() == "+a" and stage.state("a") == "up"


# --- strategies ----------------------------------------------------------------------------------


def test_26_one_for_one():
    stage = Stage(sup("root", *names("a", "b"), intensity=2))
    b = stage.live["b"]
    for _ in range(2):
        stage.crash("a")
        assert stage.live["b"] == b
    stage.crash("a")
    assert stage.finish is not None and stage.running == set()


def test_27_one_for_one_escalation():
    stage = Stage(sup("root", *names("a", "b"), intensity=2))
    stage.refuse["a"] = [73] * 9
    stage.crash("a")
    stage.after(1)
    assert stage.running == set() and stage.finish is not None


def test_28_one_for_all():
    stage = Stage(sup("root", *names("a", "b", "c"), strategy="one_for_all", intensity=1))
    before = set(stage.live.values())
    stage.took()
    stage.crash("b")
    assert stage.took() == "-c -a +a +b +c"
    assert not before & set(stage.live.values())
    stage.crash("c")
    assert stage.finish is not None


def test_29_one_for_all_escalation():
    stage = Stage(sup("root", *names("a", "b"), strategy="one_for_all", intensity=3))
    stage.refuse["b"] = [73] * 9
    stage.crash("a")
    stage.after(1)
    assert stage.running == set() and stage.finish is not None


def test_30_one_for_all_other_child_fails_restart():
    stage = Stage(sup("root", *names("a", "b"), strategy="one_for_all", intensity=5))
    stage.took()
    stage.refuse["b"] = [73]
    stage.crash("a")
    stage.after(0.0)
    assert stage.took() == "-b +a +b -a +a +b"


def test_31_rest_for_one():
    stage = Stage(sup("root", *names("a", "b", "c", "d"), strategy="rest_for_one", intensity=1))
    a = stage.live["a"]
    stage.took()
    stage.crash("b")
    assert stage.took() == "-d -c +b +c +d" and stage.live["a"] == a
    stage.crash("d")
    assert stage.finish is not None


def test_32_rest_for_one_other_child_fails_restart():
    stage = Stage(sup("root", *names("a", "b", "c"), strategy="rest_for_one", intensity=5))
    stage.took()
    stage.refuse["c"] = [73]
    stage.crash("b")
    stage.after(0.0)
    assert stage.took() == "-c +b +c +c"


def test_33_simple_one_for_one():
    stage = Stage(sup("root", dynamic=True, intensity=2))
    for i in range(2):
        stage.call(t.StartChild(i, "root", s.parse(worker(f"c{i}"))))
    other = stage.live["c1"]
    stage.crash("c0")
    assert stage.running == {"c0", "c1"} and stage.live["c1"] == other
    stage.crash("c0")
    stage.crash("c0")
    assert stage.finish is not None


def test_35_simple_one_for_one_restart_ignore_drops_the_child():
    stage = Stage(sup("root", dynamic=True, intensity=2))
    stage.call(t.StartChild(1, "root", s.parse(worker("a"))))
    stage.refuse["a"] = [0]
    stage.crash("a")
    assert stage.state("a") is None and stage.state("root") == "up"


def test_37_specs_of_temporary_children_are_not_kept():
    for strategy in s.STRATEGIES:
        stage = Stage(sup("root", strategy=strategy))
        for i, (status, signal) in enumerate([(-1, 9), (0, 0), (1, 0)]):
            spec = s.parse(worker("a", "temporary"))
            assert stage.call(t.StartChild(i, "root", spec)) == ""
            stage.exit("a", status, signal)
        assert stage.call(t.StartChild(8, "root", s.parse(worker("a", "temporary")))) == ""
        assert stage.call(t.TerminateChild(9, "a")) == ""
        assert stage.state("a") is None


def test_an_exit_of_a_sibling_during_a_round_is_part_of_the_round():
    stage = Stage(sup("root", *names("a", "b", "c"), strategy="one_for_all", intensity=1))
    stage.stuck.add("c")
    stage.took()
    stage.crash("b")
    stage.crash("a")  # before its turn to be stopped
    stage.exit("c", 0)
    assert stage.took() == "-c +a +b +c"
    assert len(stage.policy.root.attempts) == 1


# --- trees ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
def test_an_inner_supervisor_gives_up(restart):
    inner = sup("in", *names("a"), intensity=0, restart=restart)
    stage = Stage(sup("root", inner, worker("b"), intensity=3))
    stage.crash("a")
    assert t.GaveUp("in", "too many restarts: a: status 1") in stage.out
    expected = {"permanent": "up", "transient": "down", "temporary": None}[restart]
    assert stage.state("in") == expected
    assert ("a" in stage.running) == (restart == "permanent")
    assert len(stage.policy.root.attempts) == (restart == "permanent")


def test_39_tree_static_children_come_back_dynamic_ones_do_not():
    inner = sup("in", *names("a", "b"), intensity=1)
    stage = Stage(sup("root", inner, worker("z"), intensity=3))
    stage.call(t.StartChild(1, "in", s.parse(worker("extra"))))
    z = stage.live["z"]
    stage.crash("a")  # local
    assert stage.running == {"a", "b", "extra", "z"} and stage.live["z"] == z
    stage.crash("b")  # escalates
    assert stage.running == {"a", "b", "z"} and stage.live["z"] == z
    assert stage.policy.nodes["in"].restarts == 1


def test_a_supervisor_that_cannot_start_again_escalates():
    stage = Stage(sup("root", sup("in", *names("a", "b"), intensity=0), intensity=2))
    stage.refuse["b"] = [73] * 9
    stage.crash("a")
    stage.after(1)
    assert stage.running == set() and stage.finish is not None


# --- calls ---------------------------------------------------------------------------------------


def test_18_child_adm():
    stage = Stage(sup("root", *names("a")))
    spec = s.parse(worker("a"))
    assert stage.call(t.StartChild(1, "root", spec)) == "already_started"
    assert stage.call(t.TerminateChild(2, "a")) == ""
    assert stage.call(t.TerminateChild(3, "a")) == ""
    assert stage.call(t.StartChild(4, "root", spec)) == "already_present"
    assert stage.call(t.DeleteChild(5, "a")) == ""
    assert stage.call(t.TerminateChild(6, "a")) == "not_found"
    assert stage.call(t.StartChild(7, "root", spec)) == ""
    assert stage.call(t.StartChild(8, "root", spec)) == "already_started"
    assert stage.call(t.DeleteChild(9, "a")) == "running"
    assert stage.call(t.RestartChild(10, "a")) == "running"
    assert stage.call(t.RestartChild(11, "nobody")) == "not_found"
    assert stage.call(t.StartChild(12, "nowhere", spec)) == "noproc"
    assert stage.policy.root.attempts == []


def test_19_child_adm_simple_terminate_removes():
    stage = Stage(sup("root", dynamic=True))
    stage.call(t.StartChild(1, "root", s.parse(worker("a"))))
    assert stage.call(t.TerminateChild(2, "a")) == ""
    assert stage.state("a") is None
    assert stage.call(t.TerminateChild(3, "a")) == "not_found"


def test_40_count_children_restarting_ones_are_workers_but_not_active():
    stage = Stage(sup("root", *names("a", "b"), intensity=9))
    stage.refuse["a"] = [73] * 3
    stage.crash("a")
    assert t.count_children(stage.policy.root) == {
        "specs": 2,
        "active": 1,
        "supervisors": 0,
        "workers": 2,
    }
    assert ("a", "restarting", "worker") in t.which_children(stage.policy.root)


@pytest.mark.parametrize("strategy", s.STRATEGIES)
def test_42_hanging_restart_loop_other_requests_get_in_between(strategy):
    stage = Stage(sup("root", *names("a"), strategy=strategy, intensity=99))
    stage.refuse["a"] = [73] * 999
    stage.crash("a")
    stage.after(0.1)
    assert stage.call(t.StartChild(1, "root", s.parse(worker("a")))) == "already_present"
    assert stage.call(t.RestartChild(2, "a")) == "restarting"
    assert stage.call(t.DeleteChild(3, "a")) == "restarting"
    assert stage.call(t.TerminateChild(4, "a")) == ""
    assert stage.state("a") == "down" and not stage.policy.timers
    stage.tell(t.Shutdown())
    assert stage.finish is not None and stage.finish.ok


def test_an_orderly_restart_counts_nothing_and_is_answered_when_it_is_up():
    stage = Stage(sup("root", *names("a", "b"), intensity=0))
    stage.took()
    assert stage.call(t.Bounce(1, "a")) == ""
    assert stage.took() == "-a +a"
    assert stage.call(t.TerminateChild(2, "a")) == ""
    assert stage.call(t.Bounce(3, "a")) == "" and stage.state("a") == "up"
    assert stage.finish is None


def test_an_orderly_restart_of_a_temporary_child_brings_it_back():
    stage = Stage(sup("root", worker("a", "temporary")))
    assert stage.call(t.Bounce(1, "a")) == "" and stage.state("a") == "up"


# --- significant children ------------------------------------------------------------------------


def significant(id: str, restart: str = "transient") -> dict[str, Any]:
    return worker(id, restart, significant=True)


def test_43_nonsignificant_children_never_end_the_supervisor():
    for mode in s.AUTO_SHUTDOWNS:
        stage = Stage(
            sup("root", worker("a", "temporary"), worker("b", "transient"), auto_shutdown=mode)
        )
        stage.exit("a")
        stage.exit("b")
        assert stage.state("root") == "up"


def test_44_any_significant():
    tree = sup("root", significant("a"), worker("b"), auto_shutdown="any_significant", intensity=3)
    stage = Stage(tree)
    stage.crash("a")
    assert stage.running == {"a", "b"}
    stage.exit("a", 0)
    assert stage.running == set() and stage.finish is not None
    stage = Stage(tree)
    assert stage.call(t.TerminateChild(1, "a")) == ""
    assert stage.state("root") == "up"


def test_44_all_significant_only_the_last_one():
    tree = sup(
        "root", significant("a", "temporary"), significant("b"), auto_shutdown="all_significant"
    )
    stage = Stage(tree)
    stage.crash("a")
    assert stage.state("root") == "up"
    stage.exit("b", 0)
    assert stage.finish is not None


def test_45_significant_bystander():
    stage = Stage(
        sup(
            "root",
            worker("a"),
            significant("b", "temporary"),
            strategy="one_for_all",
            auto_shutdown="all_significant",
        )
    )
    stage.crash("a")
    assert stage.running == {"a"} and stage.state("root") == "up"


def test_45_significant_escalation():
    c = sup("c", significant("w"), auto_shutdown="any_significant", restart="transient")
    c["significant"] = True
    b = sup("b", c, auto_shutdown="any_significant", restart="transient", significant=True)
    stage = Stage(sup("a", b, worker("x"), auto_shutdown="any_significant"))
    stage.exit("w", 0)
    assert stage.running == set() and stage.finish is not None


# --- sessions ------------------------------------------------------------------------------------


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


# --- properties ----------------------------------------------------------------------------------

RESTART = st.sampled_from(s.RESTARTS)


@st.composite
def trees(draw: Any, depth: int = 2, prefix: str = "n") -> dict[str, Any]:
    dynamic = draw(st.booleans()) and depth < 2
    auto = "never" if dynamic else draw(st.sampled_from(s.AUTO_SHUTDOWNS))
    children = []
    for i in range(draw(st.integers(0, 3))):
        id = f"{prefix}{i}"
        if depth and draw(st.integers(0, 2)) == 0:
            child = draw(trees(depth=depth - 1, prefix=f"{id}-"))
            child["id"] = id
        else:
            child = worker(id, shutdown_s=draw(st.sampled_from([0.5, "kill", "infinity"])))
        child["restart"] = draw(RESTART)
        if auto != "never" and child["restart"] != "permanent":
            child["significant"] = draw(st.booleans())
        children.append(child)
    return sup(
        "root",
        *children,
        dynamic=dynamic,
        strategy="one_for_one" if dynamic else draw(st.sampled_from(s.STRATEGIES)),
        intensity=draw(st.integers(0, 4)),
        period_s=draw(st.sampled_from([1.0, 5.0])),
        auto_shutdown=auto,
        shutdown_s=draw(st.sampled_from(["infinity", 2.0])),
    )


class Tree(RuleBasedStateMachine):
    """Any order of exits, readies, calls and time keeps the invariants, and can be shut down."""

    def __init__(self) -> None:
        super().__init__()
        self.call = 0

    @initialize(tree=trees())
    def begin(self, tree: dict[str, Any]) -> None:
        tree["children"].append(sup("sessions", dynamic=True, restart="permanent"))
        tree["children"].append(sup("services", dynamic=True, restart="permanent"))
        self.stage = Stage(tree, boot=False, intensity=2)
        self.stage.policy.handle(t.Boot(), 1000.0)
        self.lives: dict[str, int] = {}
        self._settle_actions(self.stage.policy._out)

    def _settle_actions(self, actions: list[t.Action]) -> None:
        for action in actions:
            if isinstance(action, t.StartProcess):
                assert action.name not in self.lives, "two processes of one name"
                self.lives[action.name] = action.incarnation
                self._in_order(self.stage.policy.nodes[action.name])
            elif isinstance(action, t.StopProcess | t.KillProcess):
                assert self.lives.get(action.name) == action.incarnation
            elif isinstance(action, t.Finish):
                assert not self.lives
        self.stage.policy.validate()

    def _in_order(self, child: t.Child) -> None:
        """A child starts only when every earlier one that is wanted has come up."""
        parent = child.parent
        if parent is None or parent.spec.dynamic:
            return
        if parent.spec.strategy != "one_for_one" or parent.state == "starting":
            siblings = list(parent.children.values())
            for earlier in siblings[: siblings.index(child)]:
                assert earlier.state == "up" or not earlier.want

    def tell(self, event: t.Event) -> None:
        self._settle_actions(self.stage.policy.handle(event, self.stage.now))

    def some(self, data: Any, what: dict[str, Any]) -> str:
        return str(data.draw(st.sampled_from(sorted(what))))

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def ready(self, data: Any) -> None:
        name = self.some(data, self.lives)
        self.tell(t.Ready(name, self.lives[name]))

    @precondition(lambda self: self.lives)
    @rule(
        data=st.data(),
        status=st.sampled_from([0, 1, -1, 70, 71, 72, 73, 74]),
        blame=st.sampled_from([None, (1, 1, 1)]),
    )
    def exit(self, data: Any, status: int, blame: Any) -> None:
        name = self.some(data, self.lives)
        signal = 9 if status == -1 else 0
        self.tell(t.Exited(name, self.lives.pop(name), status, signal, blame))

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 7.0, 20.0]))
    def time(self, seconds: float) -> None:
        end = self.stage.now + seconds
        while due := sorted((at, k) for k, at in self.stage.policy.timers.items() if at <= end):
            self.stage.now = max(self.stage.now, due[0][0])
            self.tell(t.TimerFired(due[0][1]))
        self.stage.now = end

    @rule(
        data=st.data(),
        kind=st.sampled_from([t.TerminateChild, t.RestartChild, t.DeleteChild, t.Bounce]),
    )
    def ask(self, data: Any, kind: Any) -> None:
        self.call += 1
        self.tell(kind(self.call, self.some(data, self.stage.policy.nodes)))

    @rule(data=st.data(), id=st.sampled_from(["x", "y", "n0"]), restart=RESTART)
    def start_child(self, data: Any, id: str, restart: str) -> None:
        self.call += 1
        name = self.some(data, self.stage.policy.nodes)
        self.tell(t.StartChild(self.call, name, s.parse(worker(id, restart))))

    @rule(
        session=st.sampled_from(["", "s-1", "s-2"]),
        name=st.sampled_from(["p", "q"]),
        group=st.sampled_from(["", "agents", "keepers"]),
        after=st.booleans(),
    )
    def ensure(self, session: str, name: str, group: str, after: bool) -> None:
        full = f"{session}/{name}" if session else name
        self.tell(ensure(full, session, group, self.lives.get(full, 0) if after else 0))

    @rule(name=st.sampled_from(["s-1", "s-2", "s-1/p", "s-2/q", "q"]))
    def forget(self, name: str) -> None:
        self.tell(t.Forget(name))

    @invariant()
    def nothing_lives_that_the_tree_does_not_know(self) -> None:
        known = {
            w.id: w.incarnation
            for w in t.workers(self.stage.policy.root)
            if w.state in ("starting", "up", "stopping")
        }
        assert known == self.lives

    def teardown(self) -> None:
        if not hasattr(self, "lives"):
            return
        self.tell(t.Shutdown())
        for _ in range(300):
            if self.stage.policy.finished:
                break
            if self.lives:
                name = sorted(self.lives)[0]
                self.tell(t.Exited(name, self.lives.pop(name), 0))
        assert self.stage.policy.finished and not self.lives
        assert not self.stage.policy.timers


TestTree = Tree.TestCase
TestTree.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
