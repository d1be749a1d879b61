"""How a session ends, pauses and goes on."""

from __future__ import annotations

from typing import Any

import pytest

from loomd.actor import behaviour as act
from loomd.team import session
from loomd.wire import bodies as b
from loomd.wire import codec
from tests.team.script import CODER1, CODER2, LEAD, TOOLS, S, Script, change, under_way, with_coders


def stopped_reports(script: Script) -> None:
    """Every agent that was told to stop says its last word."""
    for name, agent in list(script.team.saved.agents.items()):
        if agent.stopping:
            script.report(name, agent.task, "stopped", state="failed", kind="stopped")


def test_the_leads_failure_is_the_sessions_with_its_kind_and_hint() -> None:
    script = under_way()
    script.report(LEAD, "t-1", "no idea", state="failed", kind="unknown_goal", hint="try a model")
    (told,) = [one for one in script.changes if isinstance(one, act.Session)]
    assert told == act.Session(
        state="failed", kind="unknown_goal", answer="no idea", data={"hint": "try a model"}
    )
    assert script.events("session_ended")[0]["kind"] == "unknown_goal"
    assert script.board("tasks", "t-1")["state"] == "failed"
    assert not script.stopped(), "the lead stays for what may come next"


def test_a_long_answer_fits_the_saved_state_whatever_its_letters() -> None:
    script = with_coders()
    script.report(LEAD, "t-1", "語" * 24_000)
    stopped_reports(script)
    (told,) = [one for one in script.changes if isinstance(one, act.Session)]
    assert told.answer is not None and told.answer.startswith("語" * 8_000 + "\n[cut: ")


def test_a_word_that_is_no_task_is_answered_and_does_not_undo_what_was_done() -> None:
    script = under_way()
    script.report(LEAD, "t-1", "renamed 3 places")
    assert script.told() == [("done", "")]
    script.restart()
    script.say("thanks!")
    assert act.Session(state="running", kind="") in script.changes, "the answer stays"
    why = {"state": "failed", "kind": "unknown_goal", "hint": "try a model"}
    script.report(LEAD, "t-2", "I know: rename", **why)
    (told,) = [one for one in script.changes if isinstance(one, act.Session)]
    assert told == act.Session(
        state="done", kind="", answer=None, data={"hint": "I know: rename; try a model"}
    )
    assert script.events("reply") == [
        {"agent": LEAD, "text": "I know: rename", "hint": "try a model"}
    ]
    assert script.board("tasks", "t-2")["state"] == "failed"
    script.say("rename a to b")
    script.report(LEAD, "t-3", "no such name", state="failed", kind="not_found")
    (told,) = [one for one in script.changes if isinstance(one, act.Session)]
    assert (told.state, told.answer) == ("failed", "no such name")


def test_a_stop_ends_everything_and_waits_for_the_last_words() -> None:
    script = with_coders()
    script.call(CODER1, "k1", "claim", path="a.py")
    script.call(CODER2, "q1", "ask", question="?")
    script.propose(CODER1, "c1", change("a.py"))
    script.mail("hub", b.Control(op="stop"))
    assert {to for to, body in script.sent(b.Control)} == set(script.team.saved.agents)
    assert script.told() == []
    stopped_reports(script)
    assert script.told() == [("stopped", "")]
    states = {row["state"] for _, row in script.rows.rows("tasks", b"")}
    assert (
        states <= {"failed", "cancelled"} and script.board("tasks", "t-1")["state"] == "cancelled"
    )
    assert script.board("claims", "c-1")["state"] == "released"
    assert script.board("edits", "e-1")["state"] == "refused"
    assert script.board("questions", "ask-abc123-1")["state"] == "closed"


def test_a_cancel_says_so_and_the_session_may_go_on() -> None:
    script = under_way()
    script.mail("hub", b.Control(op="cancel"))
    stopped_reports(script)
    assert script.told() == [("stopped", "cancelled")]
    script.say("something else")
    assert script.told() == [("running", "")] and script.started() == [LEAD]


def test_who_does_not_answer_is_stopped_after_a_while() -> None:
    script = with_coders()
    script.mail("hub", b.Control(op="stop"))
    script.restart()
    script.due(session.CLOSING)
    assert script.told() == [("stopped", "")] and script.stopped() == [CODER1, CODER2]


def test_the_end_waits_for_an_edit_on_its_way_to_the_disk_however_long() -> None:
    script = with_coders(review=False)
    script.propose(CODER1, "c1", change("a.py"))
    script.mail("hub", b.Control(op="stop"))
    stopped_reports(script)
    script.due(session.CLOSING)
    assert script.told() == []
    script.applied("e-1")
    assert script.told() == [("stopped", "")]
    assert script.board("edits", "e-1")["state"] == "applied"


def test_a_time_limit_fails_the_session() -> None:
    script = under_way(timeout_s=30)
    assert act.SetTimer(session.DEADLINE, script.now + 30) in script.history[-1][2]
    script.due(session.DEADLINE)
    stopped_reports(script)
    assert script.told() == [("failed", "timeout")]
    script.due(session.DEADLINE)
    assert script.told() == []


def test_a_lead_that_gave_up_fails_the_session_and_the_next_one_is_new() -> None:
    script = with_coders()
    script.mail("hub", b.Ended(name=LEAD, reason="gave up: too many restarts"))
    stopped_reports(script)
    assert script.told() == [("failed", "supervision")]
    script.say("again")
    assert script.started() == [f"{S}/lead-2"]


def test_a_tool_host_that_gave_up_fails_the_session() -> None:
    script = with_coders(review=False)
    script.propose(CODER1, "c1", change("a.py"))
    script.mail("hub", b.Ended(name=TOOLS, reason="gave up"))
    assert script.result("c1").error == "failed"
    stopped_reports(script)
    assert script.told() == [("failed", "supervision")]


def test_pause_and_resume_reach_every_agent_and_those_to_come() -> None:
    script = with_coders()
    script.mail("hub", b.Control(op="pause"))
    assert {to for to, _ in script.sent(b.Control)} == {LEAD, CODER1, CODER2}
    assert script.told() == [("paused", None)]
    script.call(LEAD, "s3", "spawn", role="tester", task="x")
    assert script.sent(b.Control) == [(f"{S}/tester-1", b.Control(op="pause"))]
    script.mail("hub", b.Control(op="step"))
    assert len(script.sent(b.Control)) == 4 and script.told() == []
    script.mail("hub", b.Control(op="resume"))
    assert script.told() == [("running", None)]


def test_a_stop_of_a_session_that_has_done_nothing_yet() -> None:
    script = Script()
    script.mail("hub", b.Control(op="stop"))
    assert script.told() == [("stopped", "")]


def test_an_assignment_that_an_agent_cannot_take_counts_as_its_end() -> None:
    script = with_coders()
    body = codec.encode(b.Assign(task="t-2", text="x"))
    script.mail("hub", b.Undelivered(id="x", to=CODER1, reason="no_such_actor", body=body))
    assert script.result("s1").error == "crashed"


def test_calls_and_proposals_while_the_session_ends_are_turned_away() -> None:
    script = with_coders()
    script.mail("hub", b.Control(op="stop"))
    script.call(CODER1, "k1", "claim", path="a.py")
    assert script.result("k1").error == "cancelled"
    script.propose(CODER1, "c1", change("a.py"))
    assert script.events() == ["team_ignored"]
    script.mail("hub", b.Control(op="pause"))
    assert script.events() == ["team_ignored"]


def test_the_end_waits_for_keepers_but_not_for_dead_ones() -> None:
    script = under_way()
    script.report(LEAD, "t-1", entries=5)
    assert script.told() == [] and script.started() == [f"{S}/keeper-1"]
    script.mail("hub", b.Ended(name=f"{S}/keeper-1", reason="gave up"))
    assert script.told() == [("done", "")]


def test_the_status_of_a_question_is_answered_at_once() -> None:
    script = with_coders()
    note = script.behaviour.answer(script.team, b.Note(), script.rows)
    assert isinstance(note, b.Note) and note.data["phase"] == "running"
    assert set(note.data["agents"]) == {LEAD, CODER1, CODER2}


STRAY: list[b.Body] = [
    b.Report(task="t-99", state="done"),
    b.Report(task="", state="failed"),
    b.Ended(name="s-abc123/nobody", reason="x"),
    b.Ended(name="other/keeper-1", reason="x"),
    b.Applied(edit="e-99", state="applied"),
    b.Decision(question="q-99"),
    b.Recalled(id="x"),
    b.KeeperReady(keeper="k", span=b.Span(log="l", first=1, last=2), line=""),
    b.Offload(first=5, last=2),
    b.Undelivered(id="x", to="y", reason="full", body=b"\xc1"),
    b.Undelivered(id="x", to="y", reason="full", body=codec.encode(b.Recall(id="q"))),
    b.Undelivered(id="x", to="y", reason="full", body=codec.encode(b.Apply(edit="e", files=()))),
    b.Note(data=1),
    b.ToolResult(id="x"),
    b.TeamCall(id="x", name="spawn", args={"role": 5}),
]


@pytest.mark.parametrize("body", STRAY, ids=lambda body: type(body).__name__)
@pytest.mark.parametrize("sender", ["hub", LEAD, CODER1, TOOLS, f"{S}/ghost"])
def test_what_nobody_expects_is_noted_and_changes_nothing(body: Any, sender: str) -> None:
    for script in (Script(), with_coders()):
        before = dict(script.team.saved.agents)
        script.mail(sender, body)
        assert script.team.saved.agents == before
        answered = [one.error for _, one in script.sent(b.ToolResult)]
        noted = "team_ignored" in script.events()
        assert noted or answered == ["bad_args"] or isinstance(body, b.Undelivered)


def test_the_calls_of_who_is_lost_or_told_to_stop_are_ended_in_the_same_step() -> None:
    script = with_coders()
    script.mail("hub", b.Ended(name=CODER1, reason="gave up"))
    assert script.sent(b.CancelCall) == [
        (TOOLS, b.CancelCall(agent=CODER1, reason="its agent has ended"))
    ]
    assert script.sent(b.CancelModel) == [("models", b.CancelModel(agent=CODER1))]
    script.mail("hub", b.Control(op="cancel"))
    ended = {body.agent for to, body in script.sent(b.CancelCall) if to == TOOLS}
    assert ended == {LEAD, CODER2}
    script = with_coders()
    script.report(CODER1, "t-2")
    assert script.sent(b.CancelCall) == [], "who reports has no calls"


def test_one_agent_is_cancelled_alone_and_the_lead_is_the_session() -> None:
    script = with_coders()
    script.mail("user", b.Control(op="cancel", agent=f"{S}/ghost"))
    assert script.sent(b.Control) == [] and "team_ignored" in script.events()
    script.mail("user", b.Control(op="cancel", agent=CODER1))
    told = [to for to, body in script.sent(b.Control) if body.op == "stop"]
    assert told == [CODER1] and script.team.saved.phase == "running"
    script.report(CODER1, "t-2", state="failed", kind="stopped", text="cancelled by the user")
    [(to, answer)] = script.sent(b.ToolResult)
    assert to == LEAD and (answer.error, answer.text) == ("stopped", "cancelled by the user")
    assert CODER2 in script.team.saved.agents
    script.mail("user", b.Control(op="cancel", agent=LEAD))
    assert script.team.saved.phase == "ending"


def test_who_does_not_stop_in_time_has_its_request_cancelled() -> None:
    script = with_coders()
    script.mail("user", b.Control(op="stop"))
    assert script.sent(b.CancelModel) == [], "each cancels its own"
    script.report(CODER1, "t-2", state="failed", kind="stopped")
    script.due("closing")
    assert {body.agent for _, body in script.sent(b.CancelModel)} == {LEAD, CODER2}
