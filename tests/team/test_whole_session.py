"""The main job, every message by hand."""

from __future__ import annotations

import msgspec

from loomd.actor import behaviour as act
from loomd.actor.ladder import of_settings
from loomd.team.process import TeamBehaviour
from loomd.wire import bodies as b
from tests.team.script import (
    CODER1,
    CODER2,
    LEAD,
    RESEARCHER,
    REVIEWER,
    TOOLS,
    S,
    Script,
    change,
    remembered,
)


def rename() -> Script:
    script = Script()
    script.say("rename parse_cfg to parse_config")
    assert script.started() == [LEAD]
    assert script.sent(b.Assign) == [
        (LEAD, b.Assign(task="t-1", text="rename parse_cfg to parse_config", sender="user"))
    ]
    assert script.told() == [("running", "")]
    assert script.events() == ["decision", "agent_started", "task_created"]
    assert script.board("tasks", "t-1")["state"] == "running"

    script.call(LEAD, "l1", "spawn", role="researcher", task="find the uses")
    assert script.started() == [RESEARCHER] and not script.sent(b.ToolResult)
    script.report(RESEARCHER, "t-2", "a.py:3 b.py:3", entries=4)
    assert script.result("l1") == b.ToolResult(
        id="l1", text="a.py:3 b.py:3", data={"agent": RESEARCHER, "task": "t-2"}
    )
    assert script.stopped() == [RESEARCHER] and script.started() == [f"{S}/keeper-1"]
    script.keepers_ready()

    script.call(LEAD, "l2", "decide", title="one coder per file", options=["one", "two"])
    assert script.result("l2").text.startswith("recorded as d-")
    script.call(LEAD, "l3", "spawn", role="coder", task="change a.py")
    script.call(LEAD, "l4", "spawn", role="coder", task="change b.py")
    script.call(CODER1, "c1", "claim", path="a.py")
    assert script.result("c1").ok and script.events() == ["claim_granted"]
    script.call(CODER2, "c2", "claim", path="./b.py", region="")
    assert script.result("c2").ok

    script.propose(CODER1, "c3", change("a.py"))
    assert script.events() == ["edit_proposed", "agent_started"]
    assert script.started() == [REVIEWER]
    ((reviewer, request),) = script.sent(b.ReviewRequest)
    assert reviewer == REVIEWER and request.author == CODER1 and "+new" in request.diff
    script.propose(CODER2, "c4", change("b.py"))
    assert not script.started() and script.sent(b.ReviewRequest)[0][0] == REVIEWER

    script.review("e-1", "approve")
    ((to, apply),) = script.sent(b.Apply)
    assert to == TOOLS and apply.edit == "e-1" and apply.files[0].after == "a1"
    script.restart()
    script.review("e-2", "approve")
    assert not script.sent(b.Apply), "one at a time"
    script.applied("e-1")
    assert script.result("c3").text == "applied e-1 (a.py)"
    assert script.sent(b.Apply)[0][1].edit == "e-2"
    script.applied("e-2")
    assert script.result("c4").ok

    script.report(CODER1, "t-3", "changed a.py", entries=6)
    assert script.result("l3").text == "changed a.py"
    assert "claim_released" in script.events()
    script.report(CODER2, "t-4", "changed b.py", entries=6)
    script.report(LEAD, "t-1", "renamed in 2 files", entries=9)
    assert script.sent(b.Control, to=REVIEWER), "its last word is waited for"
    script.keepers_ready()
    assert script.told() == [], "and so are the keepers"
    script.report(REVIEWER, "", "the session is done", entries=7, state="failed", kind="stopped")
    script.keepers_ready()
    assert script.told() == [("done", "")] and not script.stopped()
    assert script.events("session_ended")[0]["answer"] == "renamed in 2 files"
    return script


def test_the_rename_job_from_the_first_word_to_the_end() -> None:
    script = rename()
    assert {row["state"] for _, row in script.rows.rows("tasks", b"")} == {"done"}
    assert {row["state"] for _, row in script.rows.rows("edits", b"")} == {"applied"}
    assert {row["state"] for _, row in script.rows.rows("claims", b"")} == {"released"}
    assert script.board("keepers", "keeper-1")["line"] == "about keeper-1"
    types = [r["type"] for _, r in script.rows.rows("decisions", b"") if r["kind"] == "node"]
    assert {"goal", "decision", "option", "action", "outcome"} == set(types)


def test_a_replay_of_the_inputs_makes_the_same_changes() -> None:
    script = rename()
    behaviour = TeamBehaviour()
    team = behaviour.init(act.Birth(script.spec, None, (), Script().rows, {}))
    for input, now, changes in script.history:
        team, again = behaviour.step(team, input, now)
        assert again == changes
    assert remembered(team) == remembered(script.team)


def test_a_finished_session_goes_on_with_the_same_lead_when_something_is_said() -> None:
    script = rename()
    script.say("and the docs")
    assert script.started() == [LEAD]
    assert script.sent(b.Assign) == [
        (LEAD, b.Assign(task="t-5", text="and the docs", sender="user"))
    ]
    assert script.told() == [("running", "")]
    script.call(LEAD, "m1", "spawn", role="coder", task="docs")
    assert script.started() == [f"{S}/coder-3"], "names are never given twice"
    script.report(f"{S}/coder-3", "t-6")
    script.report(LEAD, "t-5", "docs too", entries=12)
    script.report(REVIEWER, "", "stopped", entries=7, state="failed", kind="stopped")
    assert script.board("keepers", "keeper-6")["first"] == 10, "only what no keeper has yet"
    script.keepers_ready()
    assert script.told() == [("done", "")]


def test_what_is_said_to_a_running_session_goes_to_the_lead() -> None:
    script = Script()
    script.say("a")
    script.say("b")
    assert script.sent() == [(LEAD, b.Say(text="b", sender="user"))]


def test_what_is_said_while_a_session_ends_is_done_next() -> None:
    script = Script()
    script.say("a")
    script.report(LEAD, "t-1", entries=3)
    script.say("b")
    script.say("c")
    assert script.sent() == []
    script.keepers_ready()
    assert script.told() == [("done", "")]
    assert act.SetTimer("again", script.now) in script.changes
    script.restart()
    script.due("again")
    assert script.sent(b.Assign)[0][1].text == "b" and script.sent(b.Say)[0][1].text == "c"
    assert script.told() == [("running", "")]
    script.report(LEAD, "t-2", "b done")
    assert script.told() == [("done", "")]


def test_the_team_gives_agents_what_they_must_know() -> None:
    script = Script(model="m", team=3, budget_usd=1.5, limits={"iterations": 5}, rules="be nice")
    script.say("x")
    (start,) = [one for one in script.changes if isinstance(one, act.Start)]
    assert start.spec == act.Spec(
        name=LEAD,
        kind="agent",
        session=S,
        role="lead",
        nice=10,
        args={
            "repo": "/home/me/project",
            "rules": "be nice",
            "team_size": 3,
            "model": "m",
            "yes": True,
            "answers": "",
            "budget_usd": 1.5,
            "limits": {"iterations": 5},
            "goal": "x",
        },
        ladder=of_settings({}),
    )
    assert len(msgspec.json.encode(start.spec)) < 48 << 10
