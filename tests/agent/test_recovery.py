"""An agent on its recovery ladder as a script: what its next request is made with."""

from __future__ import annotations

from typing import Any

import pytest

from loomd.actor.ladder import Rung
from loomd.wire.bodies import (
    Assign,
    Call,
    CancelCall,
    CancelModel,
    Control,
    Failed,
    KeeperReady,
    ModelRequest,
    Offload,
    Recover,
    Report,
    ReviewRequest,
    Say,
    Span,
    ToolCall,
)
from tests.agent.talk import Talk

LADDER = (
    Rung(do="restart", count=3, period_s=60),
    Rung(do="parameters", count=2, period_s=60, temperature=0.1, view=0.5),
    Rung(do="conversation", count=1, period_s=60),
)
SETTINGS = {
    "models": {"default": "a/main", "roles": {"coder": "a/coder"}, "fallback": {"a/coder": ["b/x"]}}
}
READ = Call(id="x", name="read", args={"path": "a.py"})


def recover(talk: Talk, rung: int) -> None:
    do = LADDER[rung].do
    talk.hears(Recover(rung=rung, do=do, reason="killed by SIGSEGV"), "hub")


def told(talk: Talk) -> list[tuple[str, str, str]]:
    found = [c.data for c in talk.changes if getattr(c, "type", "") == "recovery"]
    return [(one["from"], one["rung"], one["cause"]) for one in found]


def numbers(request: ModelRequest) -> list[int]:
    return [n for span in request.view.spans for n in range(span.first, span.last + 1)]


# --- other parameters ----------------------------------------------------------------------------


def test_other_parameters_are_used_in_the_next_request_and_not_before():
    talk = Talk(ladder=LADDER, settings=SETTINGS)
    talk.assigned("t")
    talk.crash()
    recover(talk, 1)
    assert len(talk.requests) == 1, "the answer that is out is not asked for again"
    talk.calls(READ)
    talk.result(talk.told(ToolCall)[-1].id)
    first, second = talk.requests
    assert (first.model, first.temperature) == ("", 0.2)
    assert (second.model, second.temperature) == ("b/x", 0.1)


def test_they_outlive_a_crash_and_end_when_the_hub_says_so():
    talk = Talk(ladder=LADDER, settings=SETTINGS)
    recover(talk, 1)
    talk.crash()
    talk.assigned("t")
    assert talk.requests[-1].model == "b/x"
    recover(talk, 0)
    talk.calls(READ)
    talk.result(talk.told(ToolCall)[-1].id)
    assert (talk.requests[-1].model, talk.requests[-1].temperature) == ("", 0.2)


@pytest.mark.parametrize(
    ("args", "settings", "rung", "model"),
    [
        ({}, {}, Rung(do="parameters"), ""),
        ({"model": "m/own"}, SETTINGS, Rung(do="parameters"), "m/own"),  # has no fallback
        ({"model": "m/own"}, SETTINGS, Rung(do="parameters", model="c/y"), "c/y"),
        ({"model": "a/coder"}, SETTINGS, Rung(do="parameters"), "b/x"),
    ],
)
def test_the_fallback_is_the_rungs_own_or_that_of_the_usual_model(
    args: dict[str, Any], settings: dict[str, Any], rung: Rung, model: str
):
    talk = Talk(ladder=(Rung(), rung), settings=settings, **args)
    talk.hears(Recover(rung=1, do="parameters"), "hub")
    talk.assigned("t")
    assert talk.requests[-1].model == model


def test_the_temperature_is_never_raised():
    talk = Talk("reviewer", ladder=(Rung(), Rung(do="parameters", temperature=0.5)))
    talk.hears(Recover(rung=1, do="parameters"), "hub")
    talk.assigned("t")
    assert talk.requests[-1].temperature == 0.5, "the role leaves it to the provider"
    talk = Talk("coder", ladder=(Rung(), Rung(do="parameters", temperature=0.5)))
    talk.hears(Recover(rung=1, do="parameters"), "hub")
    talk.assigned("t")
    assert talk.requests[-1].temperature == 0.2


def test_a_smaller_view_is_smaller_at_once_and_a_keeper_gets_the_rest():
    talk = Talk(ladder=LADDER, limits={"view_tokens": 4000, "repeats": None})
    talk.assigned("t")
    for _ in range(8):
        talk.calls(READ)
        talk.result(talk.told(ToolCall)[-1].id, "x" * 1600)
    whole = numbers(talk.requests[-1])
    assert whole == list(range(1, 18)) and talk.told(Offload) == []
    recover(talk, 1)
    talk.calls(READ)
    talk.result(talk.told(ToolCall)[-1].id, "x" * 1600)
    small = numbers(talk.requests[-1])
    assert small == list(range(small[0], 20)) and 8 <= len(small) < 12
    assert [offer.first for offer in talk.told(Offload)] == [1]
    assert talk.log[1].text == "t", "the log keeps everything"


def test_what_awaits_a_verdict_stays_in_a_smaller_view():
    talk = Talk("reviewer", ladder=LADDER, limits={"view_tokens": 1000})
    talk.hears(ReviewRequest(edit="e-1", author="s-1/coder-1", reason="r", diff="d" * 3000))
    talk.calls(READ)
    talk.result(talk.told(ToolCall)[-1].id, "x" * 3000)
    recover(talk, 1)
    talk.calls(READ)
    talk.result(talk.told(ToolCall)[-1].id, "x" * 3000)
    assert numbers(talk.requests[-1]) == [1, 2, 3, 4, 5]


# --- the conversation from its task --------------------------------------------------------------


def test_a_conversation_is_restarted_from_its_task_with_the_last_report():
    talk = Talk(ladder=LADDER, settings=SETTINGS)
    talk.assigned("the first")
    talk.final("I did the first.")
    talk.assigned("the second", "t-2")
    talk.calls(READ, text="let me look")
    call = talk.told(ToolCall)[-1].id
    recover(talk, 2)
    assert [c.id for c in talk.sent(CancelCall)] == [call]
    (request,) = talk.sent(ModelRequest)
    assert request.task == "t-2" and request.model == "b/x"
    task, note = talk.read()
    assert task == "the second"
    assert "restarted from its task" in note and "SIGSEGV" in note
    assert "Your last report was: I did the first." in note
    assert any(block.startswith("Task t-2: the second") for block in request.view.pinned)
    assert [e.text for e in talk.log.values()][:2] == ["the first", "I did the first."]
    (offer,) = talk.sent(Offload)
    assert (offer.first, offer.last) == (4, 5), "what nobody else has, from the task on"
    talk.hears(KeeperReady(keeper="k", span=Span(log="s-1/coder-1", first=4, last=5), line="l"))
    talk.final("done")
    assert [r.task for r in talk.told(Report)] == ["t-1", "t-2"]


def test_a_request_that_is_out_is_cancelled_and_its_late_answer_is_nobodys():
    talk = Talk(ladder=LADDER)
    talk.assigned("t")
    recover(talk, 2)
    assert [c.request for c in talk.sent(CancelModel)] == [talk.requests[0].id]
    assert talk.requests[1].id != talk.requests[0].id
    entries = len(talk.log)
    talk.requests.reverse()
    talk.final("late")
    assert len(talk.log) == entries


def test_an_agent_at_rest_only_forgets_and_asks_nothing():
    talk = Talk(ladder=LADDER)
    talk.assigned("t")
    talk.final("did it")
    recover(talk, 2)
    assert len(talk.requests) == 1
    talk.assigned("u", "t-2")
    note, task = talk.read()
    assert task == "u" and note.startswith("This conversation")


def test_a_paused_agent_starts_again_when_it_is_resumed():
    talk = Talk(ladder=LADDER)
    talk.assigned("t")
    talk.hears(Control(op="pause"))
    recover(talk, 2)
    assert len(talk.requests) == 1 and talk.shown() == ("paused", "")
    talk.hears(Control(op="resume"))
    assert talk.read()[0] == "t" and len(talk.requests) == 2


def test_reviews_and_words_that_have_just_come_are_in_the_new_view():
    talk = Talk("reviewer", ladder=LADDER)
    talk.hears(ReviewRequest(edit="e-1", author="s-1/coder-1", reason="r", diff="d"))
    talk.calls(READ)
    talk.hears(Say(text="hurry", sender="user"))
    talk.hears(Assign(task="t-9", text="later", sender="user"))
    recover(talk, 2)
    read = talk.read()
    assert "Review request e-1" in read[0] and read[1] == "hurry"
    assert "restarted from its task" in read[-1]


# --- answers that cannot be used -----------------------------------------------------------------


def test_answers_that_cannot_be_used_climb_the_same_ladder_per_task():
    talk = Talk(ladder=LADDER, settings=SETTINGS)
    talk.assigned("t")
    bad = Failed(kind="malformed", detail="no JSON")
    for _ in range(2):  # with a word
        talk.model(bad)
    assert told(talk) == []
    talk.model(bad)
    assert talk.requests[-1].model == "b/x"
    talk.model(bad)
    talk.model(bad)
    assert talk.read()[0] == "t" and len(talk.read()) == 2
    for _ in range(3):  # a conversation begun anew is told anew
        talk.model(bad)
    (report,) = talk.told(Report)
    assert (report.state, report.kind) == ("failed", "malformed")
    assert told(talk) == [
        ("restart", "parameters", "model"),
        ("parameters", "conversation", "model"),
        ("conversation", "give_up", "model"),
    ]
    talk.assigned("u", "t-2")
    assert told(talk)[-1] == ("give_up", "restart", "steady")
    assert talk.requests[-1].model == ""


def test_a_model_that_answers_for_a_while_is_trusted_again():
    talk = Talk(ladder=LADDER, settings=SETTINGS)
    talk.assigned("t")
    for _ in range(3):
        talk.model(Failed(kind="empty"))
    assert talk.requests[-1].model == "b/x"
    talk.calls(READ)
    talk.result(talk.told(ToolCall)[-1].id)
    assert talk.requests[-1].model == "b/x"
    talk.steps += 100  # seconds
    talk.calls(READ)
    talk.result(talk.told(ToolCall)[-1].id)
    assert talk.requests[-1].model == "" and told(talk)[-1][:2] == ("parameters", "restart")


def test_a_model_that_goes_in_circles_is_replaced():
    talk = Talk(ladder=LADDER, settings=SETTINGS)
    talk.assigned("t")
    for _ in range(2):
        talk.calls(READ)
        talk.result(talk.told(ToolCall)[-1].id)
    talk.calls(READ)
    assert talk.told(Report) == [] and talk.requests[-1].model == "b/x"


@pytest.mark.parametrize("kind", ["auth", "budget", "cancelled", "refused", "server"])
def test_failures_that_other_parameters_do_not_mend_are_reported_at_once(kind: str):
    talk = Talk(ladder=LADDER, settings=SETTINGS)
    talk.assigned("t")
    talk.model(Failed(kind=kind))
    assert [report.kind for report in talk.told(Report)] == [kind] and told(talk) == []
