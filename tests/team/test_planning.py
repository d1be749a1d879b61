"""Tasks given away without waiting, and the plan in versions."""

from __future__ import annotations

import pytest

from loomd.team import plan
from loomd.team.tasks import Task
from loomd.wire import bodies as b
from tests.team.script import (
    CODER1,
    CODER2,
    LEAD,
    RESEARCHER,
    REVIEWER,
    S,
    Script,
    change,
    under_way,
    with_coders,
)

# --- assign ------------------------------------------------------------------------------------


def test_a_task_assigned_to_a_role_starts_an_agent_and_its_end_is_a_message() -> None:
    script = under_way()
    script.call(LEAD, "a1", "assign", task="look at a.py", to="researcher")
    assert script.result("a1").data == {"task": "t-2"} and script.started() == [RESEARCHER]
    assert script.board("tasks", "t-2")["by"] == LEAD
    assert script.events("task_assigned")[0]["role"] == "researcher"
    script.report(RESEARCHER, "t-2", "nothing there")
    (told,) = script.sent(b.Say)
    assert told[0] == LEAD and told[1].text == (
        "t-2 (look at a.py) is done by researcher-1: nothing there"
    )
    assert script.stopped() == [RESEARCHER] and script.board("tasks", "t-2")["state"] == "done"


def test_a_task_assigned_to_an_agent_comes_after_its_present_one() -> None:
    script = with_coders()
    script.call(CODER2, "a1", "assign", task="and c.py", to="coder-1")
    row = script.board("tasks", "t-4")
    assert (row["state"], row["owner"], row["by"]) == ("queued", CODER1, CODER2)
    script.call(CODER1, "k1", "claim", path="a.py")
    script.restart()
    script.report(CODER1, "t-2", "a is done")
    assert script.result("s1").text == "a is done", "who had spawned it waits no more"
    assert script.sent(b.Assign) == [(CODER1, b.Assign(task="t-4", text="and c.py", sender=CODER2))]
    assert not script.stopped() and script.board("claims", "c-1")["state"] == "released"
    script.report(CODER1, "t-4", "c too")
    assert [to for to, _ in script.sent(b.Say)] == [CODER2] and script.stopped() == [CODER1]


def test_over_the_team_size_an_assigned_task_waits_for_a_place() -> None:
    script = under_way(team=1)
    script.call(LEAD, "a1", "assign", task="one", to="coder")
    assert script.result("a1").ok and not script.started()
    assert script.board("tasks", "t-2")["state"] == "queued"


def test_a_lead_that_reports_early_is_called_again_when_all_has_ended() -> None:
    script = under_way()
    script.call(LEAD, "a1", "assign", task="one", to="coder")
    script.call(LEAD, "a2", "assign", task="two", to="coder")
    script.report(LEAD, "t-1", "all given out")
    assert script.told() == [] and script.events("lead_waits")[0]["tasks"] == ["t-2", "t-3"]
    script.restart()
    script.report(CODER1, "t-2", "one done")
    assert script.sent(b.Assign) == []
    script.report(CODER2, "t-3", "two failed", state="failed", kind="limit")
    assert [to for to, _ in script.sent(b.Say)] == [LEAD]
    (again,) = script.sent(b.Assign)
    assert (again[0], again[1].task) == (LEAD, "t-1")
    script.report(LEAD, "t-1", "done, but for two")
    script.keepers_ready()
    assert script.team.saved.phase == "over"


def test_a_lead_that_has_failed_ends_the_session_at_once() -> None:
    script = under_way()
    script.call(LEAD, "a1", "assign", task="one", to="coder")
    script.report(LEAD, "t-1", "no money", state="failed", kind="budget")
    assert script.team.saved.phase == "ending"
    assert script.sent(b.Control)[0][0] == CODER1


def test_what_was_assigned_by_one_who_has_ended_is_told_to_the_lead() -> None:
    script = with_coders()
    script.call(CODER1, "a1", "assign", task="more", to="coder-2")
    script.report(CODER1, "t-2")
    script.report(CODER2, "t-3")
    script.report(CODER2, "t-4", "more done")
    assert [to for to, _ in script.sent(b.Say)] == [LEAD]


def test_all_tasks_of_an_agent_that_gives_up_have_failed() -> None:
    script = with_coders()
    script.call(CODER2, "a1", "assign", task="and c.py", to="coder-1")
    script.mail("hub", b.Ended(name=CODER1, reason="gave up"))
    assert script.result("s1").error == "crashed"
    assert script.board("tasks", "t-4")["state"] == "failed"
    assert "gave up" in script.sent(b.Say, CODER2)[0][1].text


@pytest.mark.parametrize(
    ("to", "error"),
    [
        ("lead", "refused"),
        ("reviewer", "refused"),
        ("coder-9", "not_found"),
        ("no such role", "not_found"),
        ("team", "not_found"),
    ],
)
def test_whom_no_task_can_be_given_to(to: str, error: str) -> None:
    script = with_coders()
    script.propose(CODER2, "e1", change("a.py"))  # a reviewer is there
    assert REVIEWER in script.team.saved.agents
    script.call(CODER1, "a1", "assign", task="x", to=to)
    assert script.result("a1").error == error and len(script.team.tasks) == 3


def test_an_agent_takes_no_more_tasks_than_it_can_hold() -> None:
    script = with_coders()
    for n in range(8):
        script.call(CODER1, f"a{n}", "assign", task=f"more {n}", to="coder-2")
        assert script.result(f"a{n}").ok
    script.call(CODER1, "a9", "assign", task="too much", to="coder-2")
    assert script.result("a9").error == "refused"


# --- the plan ----------------------------------------------------------------------------------


def planned(*steps: str) -> Script:
    script = with_coders()
    script.call(CODER1, "p1", "revise_plan", steps=list(steps), reason="to begin with")
    return script


def test_a_plan_is_tasks_of_the_board_in_a_version_that_all_are_told() -> None:
    script = planned("t-2", "test it", "write it up")
    result = script.result("p1")
    assert result.data == {"version": 1, "added": ["t-4", "t-5"], "dropped": []}
    assert script.board("tasks", "t-4")["state"] == "planned"
    assert result.text.splitlines()[1:] == [
        "1. t-2 [running coder-1] change a.py",
        "2. t-4 [planned] test it",
        "3. t-5 [planned] write it up",
    ]
    assert {to for to, _ in script.sent(b.Say)} == {LEAD, CODER2}
    assert script.events("plan_revised")[0]["version"] == 1


def test_a_new_version_drops_what_it_leaves_out_and_supersedes_the_old_one() -> None:
    script = planned("one", "two", "three")
    script.restart()
    script.call(
        LEAD,
        "p2",
        "revise_plan",
        steps=["t-6", "four", "t-4"],
        reason="two is not needed",
        version=1,
    )
    assert script.result("p2").data == {"version": 2, "added": ["t-7"], "dropped": ["t-5"]}
    row = script.board("tasks", "t-5")
    assert (row["state"], row["kind"]) == ("cancelled", "dropped")
    rows = [row for _, row in script.rows.rows("decisions", b"")]
    old, new = (row for row in rows if row["title"].startswith("plan, version"))
    assert [(row["from"], row["to"]) for row in rows if row["type"] == "supersedes"] == [
        (new["id"], old["id"])
    ]
    assert "two is not needed" in new["title"] and new["type"] == "revisit"


def test_two_who_revise_at_once_do_not_undo_each_other() -> None:
    script = planned("one")
    script.call(LEAD, "p2", "revise_plan", steps=["t-4", "two"], reason="more", version=1)
    script.call(CODER2, "p3", "revise_plan", steps=["t-4"], reason="as it was", version=1)
    result = script.result("p3")
    assert result.error == "conflict" and "2. t-5 [planned] two" in result.text
    assert script.board("tasks", "t-5")["state"] == "planned"


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"steps": [], "reason": "r"}, "bad_args"),
        ({"steps": ["x"] * 41, "reason": "r"}, "bad_args"),
        ({"steps": ["x"], "reason": " "}, "bad_args"),
        ({"steps": ["t-99"], "reason": "r"}, "not_found"),
        ({"steps": ["t-1"], "reason": "r"}, "not_found"),
        ({"steps": ["t-2", "t-2"], "reason": "r"}, "bad_args"),
        ({"steps": 7, "reason": "r"}, "bad_args"),
    ],
)
def test_what_is_no_plan(args: dict[str, object], error: str) -> None:
    script = with_coders()
    script.call(CODER1, "p1", "revise_plan", **args)
    assert script.result("p1").error == error and script.team.saved.plan_version == 0


def test_a_planned_task_is_given_away_by_its_id_once() -> None:
    script = planned("test it", "write it up")
    script.call(LEAD, "s3", "spawn", role="tester", task="t-4")
    tester = f"{S}/tester-1"
    assert script.sent(b.Assign) == [(tester, b.Assign(task="t-4", text="test it", sender=LEAD))]
    script.call(CODER2, "a1", "assign", task="t-5", to="coder-1")
    assert script.board("tasks", "t-5")["owner"] == CODER1
    for name, to in (("spawn", {"role": "tester"}), ("assign", {"to": "coder-1"})):
        script.call(CODER2, "a2", name, task="t-4", **to)
        assert (
            script.result("a2").error == "refused" and "t-4 is running" in script.result("a2").text
        )
    script.call(CODER2, "a3", "assign", task="t-77", to="coder-1")
    assert script.result("a3").error == "not_found"


def test_what_was_planned_ends_with_the_session_and_the_next_task_plans_anew() -> None:
    script = planned("one")
    script.mail("hub", b.Control(op="stop"))
    for agent, task in ((CODER1, "t-2"), (CODER2, "t-3"), (LEAD, "t-1")):
        script.report(agent, task, state="failed", kind="stopped")
    script.keepers_ready()
    assert script.team.saved.phase == "over"
    assert script.board("tasks", "t-4")["state"] == "cancelled"
    assert script.team.saved.plan == [] and script.team.saved.plan_version == 0


def test_a_listing_has_a_line_per_step() -> None:
    tasks = [Task(id="t-2", title="one", text="one", state="done", owner="s/coder-1")]
    assert plan.listing(tasks) == "1. t-2 [done coder-1] one"
    assert plan.is_id(" t-2 ") and not plan.is_id("t-2 and more")
