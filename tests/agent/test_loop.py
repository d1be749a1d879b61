"""The agent as a script: inputs in, changes out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from loomd.actor import behaviour as act
from loomd.agent.loop import AgentBehaviour
from loomd.wire import codec
from loomd.wire.bodies import (
    Call,
    CallEnded,
    CancelCall,
    CancelModel,
    Control,
    Decision,
    Failed,
    FinalAnswer,
    Inquiry,
    KeeperReady,
    ModelOutcome,
    ModelRequest,
    Note,
    Offload,
    Repair,
    Report,
    Restarted,
    ReviewRequest,
    Say,
    Span,
    TeamCall,
    ToolCall,
    ToolCalls,
    Undelivered,
    Usage,
)
from loomd.wire.errors import LoomError
from tests.agent.talk import ROLES, Talk

READ = Call(id="x", name="read", args={"path": "a.py"})
GREP = Call(id="y", name="grep", args={"pattern": "a"})
SPAWN = Call(id="z", name="spawn", args={"role": "coder", "task": "b"})
A = [Call(id="x", name="read", args={"path": f"{i}.py"}) for i in range(50)]


# --- the straight path -------------------------------------------------------------------------


def test_a_task_is_thought_about_acted_on_and_reported():
    talk = Talk(model="offline/rules")
    talk.put(act.Init())
    assert talk.shown() == ("idle", "")
    talk.assigned("rename a to b")
    (request,) = talk.sent(ModelRequest)
    assert (request.id, request.agent, request.role) == ("s-1/coder-1:1", "s-1/coder-1", "coder")
    assert (request.model, request.task, request.temperature) == ("offline/rules", "t-1", 0.2)
    assert talk.shown() == ("thinking", "models")
    assert talk.read() == ["rename a to b"]

    talk.calls(READ, text="let me look")
    assert talk.sent(ToolCall) == [
        ToolCall(
            id="s-1/coder-1:1.1",
            agent="s-1/coder-1",
            name="read",
            args={"path": "a.py"},
            task="t-1",
            reply_to="s-1/coder-1",
        )
    ]
    assert talk.shown() == ("acting", "read")

    talk.result("s-1/coder-1:1.1", "text of a")
    assert talk.requests[-1].id == "s-1/coder-1:2"
    assert talk.read() == ["rename a to b", "let me look", "text of a"]

    talk.final("renamed")
    assert talk.sent(Report) == [
        Report(task="t-1", state="done", text="renamed", usage=Usage(calls=2), entries=4)
    ]
    assert talk.shown() == ("done", "")


def test_calls_go_to_who_answers_them_and_results_are_seen_in_call_order():
    talk = Talk()
    talk.assigned()
    talk.calls(READ, SPAWN, GREP)
    assert [c.to for c in talk.last if isinstance(c, act.Send)] == [
        "s-1/tools",
        "s-1/team",
        "s-1/tools",
    ]
    assert talk.sent(TeamCall)[0].id == "s-1/coder-1:1.2"
    talk.result("s-1/coder-1:1.3", "third")
    talk.result("s-1/coder-1:1.1", "first")
    assert talk.shown() == ("waiting", "spawn")
    assert talk.sent(ModelRequest) == []
    talk.result("s-1/coder-1:1.2", "second")
    assert talk.read() == ["do it", "", "first", "second", "third"]
    assert [entry.text for entry in talk.log.values()][2:] == ["third", "first", "second"]


def test_a_malformed_call_is_answered_to_the_model_and_not_executed():
    talk = Talk()
    talk.assigned()
    talk.calls(Call(id="x", name="edit", error="not JSON"), READ)
    assert [call.name for call in talk.sent(ToolCall)] == ["read"]
    talk.result("s-1/coder-1:1.2", "text")
    (_, _, bad, good) = talk.seen()
    assert (bad.ok, bad.text, good.text) == (False, "not JSON", "text")


def test_only_malformed_calls_lead_straight_to_the_next_request():
    talk = Talk()
    talk.assigned()
    talk.calls(Call(id="x", name="edit", error="not JSON"))
    assert talk.requests[-1].id == "s-1/coder-1:2"


def test_arguments_too_large_for_a_frame_are_refused_to_the_model():
    talk = Talk()
    talk.assigned()
    talk.calls(Call(id="x", name="write", args={"path": "a", "content": "x" * 400_000}))
    assert talk.sent(ToolCall) == []
    assert "over the limit" in talk.read()[-1]
    commit = sum(len(codec.encode(c.entry)) for c in talk.last if isinstance(c, act.Append))
    assert commit < codec.SOFT_LIMIT // 2


def test_a_tool_call_and_its_result_are_events():
    talk = Talk()
    talk.assigned()
    talk.calls(Call(id="x", name="write", args={"path": "a", "content": "x" * 9_000}))
    (event,) = talk.events("tool_call")
    assert event["name"] == "write" and event["call"] == "s-1/coder-1:1.1"
    assert len(event["args"]["content"]) < 2_100
    talk.result("s-1/coder-1:1.1", "y" * 9_000)
    (event,) = talk.events("tool_result")
    assert event["ok"] is True and len(event["text"]) < 2_100


# --- what is said meanwhile --------------------------------------------------------------------


def test_what_is_said_while_a_call_runs_never_splits_it_from_its_result():
    talk = Talk()
    talk.assigned()
    talk.hears(Say(text="while thinking", sender="user"))
    talk.calls(READ, GREP, text="looking")
    talk.result("s-1/coder-1:1.1", "one")
    talk.hears(Say(text="while acting", sender="s-1/lead"))
    talk.result("s-1/coder-1:1.2", "two")
    assert talk.read() == ["do it", "looking", "one", "two", "while thinking", "while acting"]


def test_an_answer_that_has_not_seen_what_was_said_is_not_the_end():
    talk = Talk()
    talk.assigned()
    talk.hears(Say(text="wait, also c", sender="user"))
    talk.final("done a")
    assert talk.sent(Report) == []
    assert talk.read() == ["do it", "done a", "wait, also c"]
    talk.final("done a and c")
    assert talk.sent(Report)[0].text == "done a and c"


def test_a_peers_word_to_an_idle_agent_waits_for_its_next_task():
    talk = Talk()
    talk.hears(Say(text="by the way", sender="s-1/lead"))
    assert talk.requests == []
    talk.assigned()
    assert talk.read() == ["by the way", "do it"]


def test_a_person_gets_an_answer_without_a_task():
    talk = Talk()
    talk.hears(Say(text="how is it going?", sender="user"))
    talk.final("well")
    assert talk.told(Report) == []
    assert talk.shown() == ("idle", "")


def test_a_task_that_comes_meanwhile_begins_after_the_first():
    talk = Talk()
    talk.assigned("one", "t-1")
    talk.assigned("two", "t-2")
    assert talk.read() == ["one"]
    talk.final("one done")
    assert [r.task for r in talk.sent(Report)] == ["t-1"]
    assert talk.read() == ["one", "one done", "two"]
    talk.final("two done")
    assert [r.task for r in talk.sent(Report)] == ["t-2"]


# --- once, and only once -----------------------------------------------------------------------


def test_outcomes_and_results_that_nobody_waits_for_change_nothing():
    talk = Talk()
    talk.assigned()
    stray = ModelOutcome(request="s-1/coder-1:7", outcome=FinalAnswer(text="no"))
    assert talk.hears(stray, "models") == []
    talk.calls(READ)
    assert talk.result("s-1/coder-1:9.1") == []
    talk.result("s-1/coder-1:1.1")
    assert talk.result("s-1/coder-1:1.1", "again") == []
    assert talk.hears(Decision(question="q-1")) == [
        act.Emit("ignored", {"agent": "s-1/coder-1", "body": "Decision", "sender": "s-1/team"})
    ]


def test_a_crash_at_any_point_changes_nothing_of_the_conversation():
    def script(talk: Talk, crash: bool) -> list[act.Change]:
        for play in (
            talk.assigned,
            lambda: talk.calls(READ, SPAWN),
            lambda: talk.hears(Say(text="hello", sender="user")),
            lambda: talk.result("s-1/coder-1:1.2", "b"),
            lambda: talk.result("s-1/coder-1:1.1", "a"),
            lambda: talk.hears(Control(op="pause")),
            lambda: talk.calls(GREP),
            lambda: talk.result("s-1/coder-1:2.1", "c"),
            lambda: talk.hears(Control(op="resume")),
            talk.final,
        ):
            play()
            if crash:
                talk.crash()
        return talk.changes

    assert script(Talk(), crash=True) == script(Talk(), crash=False)


def test_replaying_the_same_inputs_gives_the_same_changes():
    talk = Talk()
    talk.assigned()
    talk.calls(READ, GREP)
    talk.result("s-1/coder-1:1.2")
    talk.result("s-1/coder-1:1.1")
    talk.final()
    behaviour = AgentBehaviour(ROLES)
    state, changes = Talk().state, []
    for input, now in talk.inputs:
        state, made = behaviour.step(state, input, now)
        changes += made
    assert changes == talk.changes


# --- pause, cancel -----------------------------------------------------------------------------


def test_pause_holds_the_next_request_until_resume():
    talk = Talk()
    talk.assigned()
    talk.calls(READ)
    talk.hears(Control(op="pause"))
    talk.result("s-1/coder-1:1.1", "text")
    assert talk.sent(ModelRequest) == []
    assert talk.shown() == ("paused", "")
    talk.hears(Say(text="one more thing", sender="user"))
    talk.hears(Control(op="resume"))
    assert talk.read() == ["do it", "", "text", "one more thing"]


def test_step_lets_one_request_through():
    talk = Talk()
    talk.hears(Control(op="pause"))
    talk.assigned()
    assert talk.requests == []
    talk.hears(Control(op="step"))
    talk.calls(READ)
    talk.result("s-1/coder-1:1.1")
    assert len(talk.requests) == 1 and talk.shown() == ("paused", "")


def test_cancel_ends_what_is_out_and_says_so():
    talk = Talk()
    talk.assigned()
    talk.hears(Control(op="cancel"))
    assert talk.sent(CancelModel) == [CancelModel(request="s-1/coder-1:1")]
    assert [(r.state, r.kind) for r in talk.sent(Report)] == [("failed", "cancelled")]
    assert talk.model(FinalAnswer(text="too late")) == []


def test_cancel_while_acting_leaves_a_complete_conversation():
    talk = Talk()
    talk.assigned()
    talk.calls(READ, SPAWN)
    talk.hears(Control(op="stop", reason="enough"))
    assert talk.sent(CancelCall) == [CancelCall(id="s-1/coder-1:1.1", reason="stopped")]
    assert talk.result("s-1/coder-1:1.1", "late") == []
    talk.assigned("go on", "t-2")
    called = {call.id for entry in talk.seen() for call in entry.calls}
    assert called == {entry.call for entry in talk.seen() if entry.role == "tool"}


def test_cancel_at_rest_is_nothing_and_stop_has_a_last_word():
    talk = Talk()
    talk.put(act.Init())
    assert talk.hears(Control(op="cancel")) == []
    talk.hears(Control(op="stop"))
    assert [(r.task, r.kind) for r in talk.sent(Report)] == [("", "stopped")]


def test_a_reviewer_told_to_stop_always_has_a_last_word():
    talk = reviewer()
    talk.hears(REVIEW)
    talk.calls(verdict())
    talk.result("s-1/reviewer:1.1")
    talk.hears(Control(op="stop"))  # while it thinks of nothing in particular
    assert [(r.task, r.kind) for r in talk.sent(Report)] == [("", "stopped")]


def test_stop_ends_a_pause_too():
    talk = Talk()
    talk.assigned()
    talk.hears(Control(op="pause"))
    talk.hears(Control(op="stop"))
    talk.assigned("something else", "t-2")
    assert talk.shown() == ("thinking", "models")


def test_cancel_ends_the_tasks_that_wait_too():
    talk = Talk()
    talk.assigned("one", "t-1")
    talk.assigned("two", "t-2")
    talk.hears(Control(op="cancel"))
    assert [(r.task, r.kind) for r in talk.sent(Report)] == [
        ("t-1", "cancelled"),
        ("t-2", "cancelled"),
    ]
    talk.assigned("three", "t-3")
    assert talk.read() == ["one", "two", "three"]


# --- failures and limits -----------------------------------------------------------------------


def test_a_failed_model_is_a_failed_report_with_its_kind_and_hint():
    talk = Talk()
    talk.assigned()
    talk.model(Failed(kind="unknown_goal", detail="offline/rules knows three jobs", hint="say so"))
    (report,) = talk.sent(Report)
    assert (report.state, report.kind, report.hint) == ("failed", "unknown_goal", "say so")
    assert report.text == "offline/rules knows three jobs"
    assert talk.shown() == ("failed", "unknown_goal")


def test_an_answer_that_cannot_be_used_is_asked_for_twice_more():
    talk = Talk()
    talk.assigned()
    for turn in (2, 3):
        talk.model(Failed(kind="empty", detail="nothing came"))
        assert talk.requests[-1].id == f"s-1/coder-1:{turn}"
        assert "could not be used (empty: nothing came)" in talk.read()[-1]
    talk.model(Failed(kind="empty", detail="nothing came"))
    assert talk.sent(Report)[0].kind == "empty"


WRONG = Call(id="", name="read", error="the arguments are not JSON: at character 7")
NO_TOOL = Call(id="", name="raed", error="there is no tool 'raed'", fault="no_such_tool")


def test_a_call_that_cannot_be_read_goes_back_to_the_model_twice_and_is_then_malformed():
    talk = Talk()
    talk.assigned()
    talk.calls(WRONG)
    assert talk.read()[-1] == WRONG.error and talk.seen()[-1].error == "bad_args"
    talk.crash()  # what was counted is saved
    talk.calls(NO_TOOL)
    assert talk.read()[-1] == NO_TOOL.error and talk.seen()[-1].error == "no_such_tool"
    talk.calls(READ, WRONG)
    (report,) = talk.sent(Report)
    assert (report.state, report.kind) == ("failed", "malformed")
    assert report.text.endswith(WRONG.error)
    assert not talk.told(ToolCall), "nothing of a turn that ends the task is executed"
    results = talk.events("tool_result")
    assert [one["text"] for one in results] == [
        "not executed: another call of this turn cannot be used",
        WRONG.error,
    ]


def test_a_tool_that_nobody_answers_for_counts_like_a_call_that_cannot_be_read():
    talk = Talk()
    talk.assigned()
    for turn in (1, 2, 3):
        talk.calls(Call(id="x", name="count", args={"n": turn}, fault="not_offered"))
        (call,) = talk.sent(ToolCall)
        if turn == 2:
            talk.crash()
        gone = {"ok": False, "error": "no_such_tool"}
        talk.result(call.id, "there is no tool 'count'", **gone)
    (report,) = talk.sent(Report)
    assert (report.state, report.kind) == ("failed", "malformed")
    assert report.text.endswith("there is no tool 'count'")


def test_a_turn_that_can_be_used_ends_the_count_and_what_is_beside_a_wrong_call_is_executed():
    talk = Talk()
    talk.assigned()
    for turn in (1, 3, 5):
        talk.calls(WRONG, A[turn % 3])
        (call,) = talk.sent(ToolCall)
        talk.result(call.id)
        talk.calls(A[(turn + 1) % 3])
        talk.result(talk.sent(ToolCall)[0].id)
    talk.model(Failed(kind="malformed", detail="cut off"))
    talk.calls(WRONG)
    assert not talk.told(Report)
    talk.model(Failed(kind="malformed", detail="cut off"))
    assert talk.sent(Report)[0].kind == "malformed", "both are answers that cannot be used"


def test_what_was_mended_and_which_clock_ran_out_are_in_the_event():
    talk = Talk()
    talk.assigned()
    mended = (Repair(kind="commas", call=1), Repair(kind="case", call=1, detail="Read"))
    talk.model(ToolCalls(calls=(READ,), repairs=mended))
    (event,) = talk.events("model_outcome")
    assert event["repairs"] == [
        {"kind": "commas", "call": 1, "detail": ""},
        {"kind": "case", "call": 1, "detail": "Read"},
    ]
    talk.result("s-1/coder-1:1.1")
    talk.model(Failed(kind="timeout", detail="no first byte within 60 s", phase="first_byte"))
    (event,) = talk.events("model_outcome")
    assert (event["kind"], event["phase"]) == ("timeout", "first_byte")


def test_what_could_not_be_delivered_counts_as_failed():
    talk = Talk()
    talk.assigned()
    talk.calls(READ)
    raw = codec.encode(talk.told(ToolCall)[0])
    talk.hears(Undelivered(id="m", to="s-1/tools", reason="full", body=raw), "hub")
    assert "could not take it" in talk.read()[-1]
    raw = codec.encode(talk.requests[-1])
    talk.hears(Undelivered(id="m", to="models", reason="full", body=raw), "hub")
    assert talk.sent(Report)[0].state == "failed"
    talk.hears(Undelivered(id="m", to="s-1/team", reason="no_such_actor", body=b"\xc1"), "hub")


def test_iterations_end_in_a_limit():
    talk = Talk(limits={"iterations": 3})
    talk.assigned()
    for i in range(3):
        talk.calls(A[i])
        talk.result(f"s-1/coder-1:{i + 1}.1")
    (report,) = talk.sent(Report)
    assert (report.state, report.kind) == ("failed", "limit")
    assert len(talk.requests) == 3


def test_tokens_end_in_a_limit():
    talk = Talk(limits={"tokens": 100})
    talk.assigned()
    talk.model(ToolCalls(calls=(READ,)), tokens=100)
    talk.result("s-1/coder-1:1.1")
    assert talk.sent(Report)[0].kind == "limit"


def test_wall_time_ends_in_a_limit_and_a_timer_of_an_earlier_task_does_not():
    talk = Talk(limits={"wall_s": 60})
    talk.assigned()
    (timer,) = [c for c in talk.last if isinstance(c, act.SetTimer)]
    assert timer == act.SetTimer("wall", 1000.0 + 1 + 60)
    talk.final()
    assert act.CancelTimer("wall") in talk.last
    talk.assigned("more", "t-2")
    (again,) = [c for c in talk.last if isinstance(c, act.SetTimer)]
    assert talk.put(act.TimerDue(9, "wall", timer.due)) == []
    talk.put(act.TimerDue(9, "wall", again.due))
    assert [(r.task, r.kind) for r in talk.sent(Report)] == [("t-2", "limit")]


def test_a_persons_time_is_not_the_agents():
    talk = Talk(limits={"wall_s": 60})
    talk.assigned()
    talk.calls(Call(id="x", name="ask", args={"question": "which?"}))
    talk.put(act.TimerDue(9, "wall", 1061.0))
    assert talk.told(Report) == []
    talk.hears(Control(op="pause"))
    (timer,) = [c for c in talk.changes if isinstance(c, act.SetTimer)][-1:]
    talk.put(act.TimerDue(9, "wall", timer.due))
    assert talk.told(Report) == []
    talk.hears(Control(op="resume"))
    (timer,) = [c for c in talk.last if isinstance(c, act.SetTimer)]
    assert timer.due == 1000.0 + talk.steps + 60, "a pause just short of the limit leaves it whole"
    talk.result("s-1/coder-1:1.1", "that one")
    talk.put(act.TimerDue(9, "wall", timer.due))
    assert talk.told(Report)[0].kind == "limit"


@pytest.mark.parametrize("cycle", [[0], [0, 1], [0, 1, 2]])
def test_calls_that_go_in_circles_end_in_repeats(cycle):
    talk = Talk(limits={"repeats": 3})
    talk.assigned()
    for turn, which in enumerate(cycle * 3, 1):
        talk.calls(A[which])
        if turn < len(cycle) * 3:
            assert talk.told(Report) == []
            talk.result(f"s-1/coder-1:{turn}.1")
    (report,) = talk.sent(Report)
    assert (report.state, report.kind) == ("failed", "repeats")
    assert talk.sent(ToolCall) == [], "the last repetition is not executed"


def test_the_same_tool_with_other_arguments_is_no_repetition():
    talk = Talk(limits={"repeats": 3})
    talk.assigned()
    for i in range(10):
        talk.calls(A[i])
        talk.result(f"s-1/coder-1:{i + 1}.1")
    assert talk.told(Report) == []


# --- reviews -----------------------------------------------------------------------------------

REVIEW = ReviewRequest(
    edit="e-1",
    author="s-1/coder-1",
    reason="rename",
    diff="--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n",
    paths=("x.py", "y.py"),
)


def reviewer() -> Talk:
    return Talk("reviewer", "s-1/reviewer")


def verdict(edit: str = "e-1") -> Call:
    args = {"edit": edit, "verdict": "approve", "reason": "fine"}
    return Call(id="r", name="review", args=args)


def test_a_review_request_is_read_as_it_is_written_down():
    talk = reviewer()
    talk.hears(REVIEW)
    assert talk.read() == [
        "Review request e-1 by s-1/coder-1\nReason: rename\nFiles: x.py, y.py\n"
        "```diff\n--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n```"
    ]
    assert talk.requests[-1].tools == ("read", "review")
    talk.calls(verdict())
    assert [call.name for call in talk.sent(TeamCall)] == ["review"]
    talk.result("s-1/reviewer:1.1")
    talk.final()
    assert talk.told(Report) == []
    assert talk.shown() == ("idle", "")


def test_a_reviewer_that_ends_without_a_verdict_is_reminded_once():
    talk = reviewer()
    talk.hears(REVIEW)
    talk.final("looks good")
    assert "e-1" in talk.read()[-1] and "no verdict" in talk.read()[-1]
    talk.final("looks good")
    (report,) = talk.sent(Report)
    assert (report.task, report.state, report.kind) == ("", "failed", "no_verdict")


def test_a_request_that_comes_during_a_review_is_seen_next():
    talk = reviewer()
    talk.hears(REVIEW)
    talk.hears(msgspec.structs.replace(REVIEW, edit="e-2"))
    talk.calls(verdict("e-1"))
    talk.result("s-1/reviewer:1.1")
    assert talk.read()[-1].startswith("Review request e-2")
    talk.calls(verdict("e-2"))
    talk.result("s-1/reviewer:2.1", "no such edit", ok=False, error="not_found")
    talk.final()
    assert talk.told(Report) == []


def test_a_reviewer_without_a_model_tells_the_team():
    talk = reviewer()
    talk.hears(REVIEW)
    talk.model(Failed(kind="budget", detail="reached"))
    assert [(r.task, r.kind) for r in talk.sent(Report)] == [("", "budget")]


# --- the view and its keepers ------------------------------------------------------------------


def long_talk(turns: int, **args: Any) -> Talk:
    talk = Talk(**args)
    talk.assigned()
    for i in range(turns):
        talk.calls(A[i])
        talk.result(f"s-1/coder-1:{i + 1}.1", "x" * 4_000)
    return talk


def test_the_oldest_stretch_is_offered_and_leaves_when_a_keeper_has_it():
    talk = long_talk(6, limits={"view_tokens": 4_000})
    (offload, *more) = talk.told(Offload)
    assert more == [] and offload.first == 1
    assert len(talk.seen()) == 13, "nothing leaves before a keeper holds it"
    span = Span(log="s-1/coder-1", first=1, last=offload.last)
    talk.hears(KeeperReady(keeper="s-1/keeper-1", span=span, line="keeper-1: the beginning"))
    talk.calls(A[7])
    talk.result("s-1/coder-1:7.1")
    assert talk.requests[-1].view.spans[0].first == offload.last + 1
    assert talk.seen()[0].role == "assistant"
    assert any("keeper-1: the beginning" in block for block in talk.requests[-1].view.pinned)
    assert len(talk.log) == 15, "the log keeps everything"


def test_a_review_request_stays_in_view_until_it_has_its_verdict():
    talk = Talk("reviewer", "s-1/reviewer", limits={"view_tokens": 500})
    talk.hears(msgspec.structs.replace(REVIEW, edit="e-0"))
    talk.calls(verdict("e-0"))
    talk.result("s-1/reviewer:1.1")
    talk.hears(msgspec.structs.replace(REVIEW, edit="e-1"))
    talk.calls(A[0])  # sees e-1 after e-0 from here on
    talk.result("s-1/reviewer:2.1", "x" * 4_000)
    talk.calls(A[1])
    talk.result("s-1/reviewer:3.1", "x" * 4_000)
    (first, *_) = [n for n, entry in talk.log.items() if "request e-1" in entry.text]
    assert talk.told(Offload) and all(offload.last < first for offload in talk.told(Offload))
    assert any("request e-1" in text for text in talk.read())


def test_an_offload_that_could_not_be_delivered_is_offered_again():
    talk = long_talk(6, limits={"view_tokens": 4_000})
    raw = codec.encode(talk.told(Offload)[0])
    talk.hears(Undelivered(id="m", to="s-1/team", reason="full", body=raw), "hub")
    talk.calls(A[7])
    talk.result("s-1/coder-1:7.1")
    assert len(talk.told(Offload)) == 2


def test_a_window_that_is_too_small_is_met_with_a_smaller_view():
    talk = long_talk(3)
    assert talk.told(Offload) == []
    talk.model(Failed(kind="context_overflow", detail="8k"))
    (offload,) = talk.sent(Offload)
    assert talk.shown() == ("waiting", "keeper")
    span = Span(log="s-1/coder-1", first=offload.first, last=offload.last)
    talk.hears(KeeperReady(keeper="s-1/keeper-1", span=span, line="k"))
    assert len(talk.seen()) < 7 and talk.shown() == ("thinking", "models")


def test_pinned_blocks_carry_role_surroundings_rules_and_task():
    talk = Talk(repo="/r", team_size=3, rules="use tabs", goal="the goal", budget_usd=1.5)
    talk.assigned("part one")
    pinned = "\n".join(talk.requests[-1].view.pinned)
    for piece in ("You are the coder.", "Repo: /r", "Team size: 3", "use tabs", "part one"):
        assert piece in pinned
    assert talk.requests[-1].budget_usd == 1.5


def test_a_request_says_whether_a_person_waits_for_it():
    there = Talk(answers="person")
    there.assigned()
    assert there.requests[-1].interactive
    away = Talk(answers="later")
    away.assigned()
    assert not away.requests[-1].interactive
    away.hears(Say(text="from a peer", sender="s-1/lead"))
    away.hears(Say(text="how is it going?", sender="user"))
    away.final("done")
    assert away.requests[-1].interactive
    away.final("well")
    away.assigned(task="t-2")
    assert not away.requests[-1].interactive  # they have their answer


def test_the_state_is_told_to_who_asks():
    talk = Talk()
    talk.assigned()
    answer = talk.behaviour.answer(talk.state, Note(), None)  # type: ignore[arg-type]
    assert isinstance(answer, Note)
    assert (answer.data["phase"], answer.data["task"]) == ("thinking", "t-1")
    with pytest.raises(LoomError):
        talk.behaviour.answer(talk.state, Say(text="?"), None)  # type: ignore[arg-type]


def test_the_state_stays_small_in_a_long_life():
    talk = Talk(limits={"iterations": None, "view_tokens": 10**9})
    talk.assigned("ü" * 100_000)
    talk.assigned("ü" * 100_000, "t-2")
    for i in range(600):
        talk.calls(*[Call(id="x", name="read", args={"n": i, "m": m}) for m in range(3)])
        for m in (3, 1, 2):
            talk.result(f"s-1/coder-1:{i + 1}.{m}", "x")
        if talk.sent(Offload):
            (offload,) = talk.sent(Offload)
            span = Span(log="s-1/coder-1", first=offload.first, last=offload.last)
            talk.hears(KeeperReady(keeper="s-1/keeper-1", span=span, line="ü" * 1_000))
    assert len(talk.told(Offload)) > 1


def test_a_model_that_raves_does_not_burst_the_state():
    talk = Talk()
    talk.assigned()
    talk.calls(*[Call(id="x", name="read", args={"path": str(i)}) for i in range(5_000)])
    assert len(talk.sent(ToolCall)) == 128


# --- a restart of the daemon -------------------------------------------------------------------


def test_the_model_is_told_of_a_restart_with_its_next_request_which_it_does_not_cause():
    talk = Talk()
    talk.assigned("t")
    talk.calls(READ)
    talk.hears(Restarted(at=5.0, when="noon"), "hub")
    assert len(talk.requests) == 1
    talk.result(talk.told(ToolCall)[-1].id)
    assert len(talk.requests) == 2
    note = talk.read()[-1]
    assert "restarted at noon" in note and "interrupted" in note


def test_an_agent_that_ends_or_rests_after_a_restart_asks_nothing_more():
    talk = Talk()
    talk.assigned("t")
    talk.hears(Restarted(at=5.0, when="noon"), "hub")
    talk.final("done")
    assert [report.state for report in talk.told(Report)] == ["done"]
    assert len(talk.requests) == 1
    talk.hears(Restarted(at=6.0, when="one"), "hub")
    assert len(talk.requests) == 1
    talk.assigned("u", "t-2")
    assert [text for text in talk.read() if "restarted at" in text]


# --- calls that write the same file ------------------------------------------------------------


def test_calls_of_one_file_say_whom_they_follow_and_their_ends_are_told():
    talk = Talk()
    talk.assigned()
    edits = [Call(id=i, name="edit", args={"path": p}) for i, p in enumerate("aba")]
    talk.calls(*edits)
    first, other, second = talk.sent(ToolCall)
    assert (first.after, other.after, second.after) == ((), (), (first.id,))
    talk.crash()
    talk.result(other.id)
    assert talk.sent(CallEnded) == []
    talk.result(first.id, "conflict", ok=False, error="conflict")
    assert talk.sent(CallEnded) == [CallEnded(id=first.id)], "also one that has failed"
    talk.result(second.id)
    assert [entry.call for entry in talk.seen() if entry.role == "tool"] == [
        first.id,
        other.id,
        second.id,
    ]


# --- questions of others -----------------------------------------------------------------------


ASKED = Inquiry(id="ask-1", text="Question ask-1 by coder-2: where?", sender="s-1/coder-2")


def test_a_question_wakes_an_agent_and_its_last_word_is_an_answer_if_it_gives_none():
    talk = Talk("reviewer", "s-1/reviewer")
    talk.hears(ASKED)
    assert talk.requests and talk.seen()[-1].text == ASKED.text
    talk.crash()
    talk.final("in a.py")
    assert "no answer of yours yet: ask-1" in talk.seen()[-1].text, "reminded once"
    talk.final("I told you: in a.py")
    (said,) = talk.sent(TeamCall)
    assert said.name == "answer"
    assert said.args == {"question": "ask-1", "text": "I told you: in a.py"}
    talk.result(said.id)
    assert talk.state.saved.inquiries == {} and talk.shown() is None, "nothing waits for it"


def test_a_question_is_settled_by_its_answer():
    talk = Talk()
    talk.assigned()
    talk.hears(ASKED)
    talk.calls(Call(id="x", name="answer", args={"question": "ask-1", "text": "there"}))
    (call,) = talk.sent(TeamCall)
    talk.result(call.id)
    talk.final("done")
    assert [body.name for body in talk.told(TeamCall)] == ["answer"]
    assert talk.told(Report)[-1].state == "done"


def test_a_vote_may_be_ignored():
    talk = Talk("reviewer", "s-1/reviewer")
    talk.hears(Inquiry(id="v-1", text="Vote v-1: a or b?", sender="s-1/lead", optional=True))
    talk.final("no opinion")
    assert talk.told(TeamCall) == [] and talk.shown() == ("idle", "")


# --- offload on its own wish -------------------------------------------------------------------


def six_files():
    talk = Talk()
    talk.assigned()
    for i in range(6):
        talk.calls(A[i])
        talk.result(talk.sent(ToolCall)[0].id, f"content {i}")
    return talk


def test_an_agent_may_offload_what_it_has_seen_and_hears_where_it_is():
    talk = six_files()
    before = len(talk.state.saved.view.blocks)
    talk.calls(Call(id="x", name="offload", args={"title": "six files", "keep": 2}))
    (offer,) = talk.sent(Offload)
    assert (offer.first, offer.title) == (1, "six files") and talk.sent(TeamCall) == []
    talk.crash()
    span = Span(log="s-1/coder-1", first=offer.first, last=offer.last)
    talk.hears(KeeperReady(keeper="s-1/keeper-3", span=span, line="keeper-3: six files"))
    (result,) = [entry for entry in talk.seen() if entry.name == "offload"]
    assert result.ok and f'recall("keeper-3:1-{offer.last}")' in result.text
    assert before > 4 and len(talk.state.saved.view.blocks) == 3, "two, and the turn itself"
    assert "keeper-3: six files" in talk.requests[-1].view.pinned[-1]


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"keep": 0}, "bad_args"),
        ({"keep": "two"}, "bad_args"),
        ({"what": "all"}, "bad_args"),
        ({"title": 7}, "bad_args"),
        ({"keep": 50}, "not_found"),
    ],
)
def test_what_cannot_be_offloaded_says_why(args, error):
    talk = six_files()
    talk.calls(Call(id="x", name="offload", args=args))
    (result,) = [entry for entry in talk.seen() if entry.name == "offload"]
    assert result.error == error and talk.told(Offload) == []


def test_an_offload_that_nobody_takes_has_failed():
    talk = six_files()
    talk.calls(Call(id="x", name="offload", args={}), Call(id="y", name="offload", args={}))
    offer = talk.sent(Offload)[0]
    lost = Undelivered(id="m", to="s-1/team", reason="full", body=codec.encode(offer))
    talk.hears(lost)
    first, second = [entry for entry in talk.seen() if entry.name == "offload"]
    assert (first.error, second.error) == ("failed", "conflict")
