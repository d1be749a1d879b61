"""Questions between agents, and votes."""

from __future__ import annotations

from typing import Any

import pytest

from loomd.team import votes as vo
from loomd.team.votes import Vote
from loomd.wire import bodies as b
from tests.team.script import CODER1, CODER2, LEAD, S, Script, with_coders

Q = "ask-abc123-1"


# --- questions ---------------------------------------------------------------------------------


def test_a_question_to_an_agent_is_answered_by_its_answer() -> None:
    script = with_coders()
    script.call(CODER1, "q1", "ask", question="where?", to="coder-2")
    asked = b.Inquiry(id=Q, text=f"Question {Q} by coder-1: where?", sender=CODER1)
    assert script.sent() == [(CODER2, asked)] and not script.told(), "nobody waits for a person"
    assert script.board("questions", Q)["state"] == "asked"
    script.restart()
    script.call(CODER2, "a1", "answer", question=Q, text="in b.py")
    assert (script.result("q1").text, script.result("q1").data) == ("in b.py", {"by": CODER2})
    assert script.result("a1").text == "coder-1 has your answer"
    assert script.board("questions", Q)["state"] == "answered"
    assert script.events("question_answered")[0]["text"] == "in b.py"
    script.call(CODER2, "a2", "answer", question=Q, text="again")
    assert script.result("a2").error == "not_found" and script.events() == []


def test_an_answer_says_what_it_answers_unless_there_is_only_one_question() -> None:
    script = with_coders()
    script.call(CODER1, "q1", "ask", question="where?", to="coder-2")
    script.call(LEAD, "a0", "answer", question=Q, text="x")
    assert script.result("a0").error == "denied"
    script.call(CODER2, "a1", "answer", text="there")
    assert script.result("q1").text == "there"
    script.call(CODER2, "a2", "answer", text="there")
    assert script.result("a2").error == "not_found" and "none" in script.result("a2").text


def test_who_waits_for_the_asker_is_not_asked() -> None:
    script = with_coders()
    script.call(CODER1, "q1", "ask", question="where?", to="lead")
    assert script.result("q1").error == "conflict" and "report" in script.result("q1").text
    script.call(CODER1, "q2", "ask", question="where?", to="coder-2")
    script.call(CODER2, "q3", "ask", question="and you?", to="coder-1")
    assert script.result("q3").error == "conflict", "both would wait for ever"
    script.call(CODER2, "q4", "ask", question="who?", to="coder-9")
    assert script.result("q4").error == "not_found"


def test_questions_and_claims_make_no_circle_together() -> None:
    script = with_coders()
    script.call(CODER1, "k1", "claim", path="a.py")
    script.call(CODER2, "k2", "claim", path="a.py")
    script.call(CODER1, "q1", "ask", question="where?", to="coder-2")
    assert script.result("q1").error == "conflict", "it waits for our claim"
    script = with_coders()
    script.call(CODER1, "k1", "claim", path="a.py")
    script.call(CODER1, "q1", "ask", question="where?", to="coder-2")
    script.call(CODER2, "k2", "claim", path="a.py")
    assert script.result("k2").error == "conflict", "its holder waits for our answer"


def test_who_waits_for_an_answer_takes_no_place() -> None:
    script = with_coders(team=2)
    script.call(CODER2, "s3", "spawn", role="tester", task="test")  # it waits: a place is free
    assert script.started() == [f"{S}/tester-1"]
    script.call(LEAD, "s5", "spawn", role="coder", task="third")
    assert script.events() == ["spawn_queued"]
    script.call(CODER1, "q1", "ask", question="where?", to="tester-1")
    assert script.started() == [f"{S}/coder-3"]


def test_an_end_answers_who_had_asked_and_forgets_what_it_asked() -> None:
    script = with_coders()
    script.call(CODER1, "q1", "ask", question="where?", to="coder-2")
    script.report(CODER2, "t-3", "found nothing")
    result = script.result("q1")
    assert result.error == "not_found" and "found nothing" in result.text
    script = with_coders()
    script.call(CODER1, "q1", "ask", question="where?", to="coder-2")
    script.mail("hub", b.Ended(name=CODER1, reason="gave up"))
    assert script.board("questions", Q)["state"] == "closed" and not script.team.inquiries


# --- votes: the table --------------------------------------------------------------------------


def one(*ballots: int, voters: int = 3, quorum: int = 2) -> Vote:
    names = [f"a{i}" for i in range(voters)]
    return Vote(
        id="v-1",
        title="which?",
        options=["red", "blue"],
        by="a0",
        voters=names,
        quorum=quorum,
        due=9.0,
        ballots={f"a{i}": ballot for i, ballot in enumerate(ballots)},
    )


@pytest.mark.parametrize(
    ("vote", "complete", "outcome"),
    [
        (one(), False, ("no_quorum", "")),
        (one(0), False, ("no_quorum", "")),
        (one(0, 0), False, ("decided", "red")),
        (one(0, 1), False, ("tied", "")),
        (one(0, 1, 1), True, ("decided", "blue")),
        (one(1, quorum=1), False, ("decided", "blue")),
        (one(voters=0, quorum=1), True, ("no_quorum", "")),
    ],
)
def test_how_a_vote_ends(vote: Vote, complete: bool, outcome: tuple[str, str]) -> None:
    assert (vo.complete(vote), vo.outcome(vote)) == (complete, outcome)


@pytest.mark.parametrize(
    ("said", "index"),
    [("red", 0), (" Blue ", 1), ("2", 1), ("3", None), ("0", None), ("green", None), ("", None)],
)
def test_a_choice_is_an_options_text_or_number(said: str, index: int | None) -> None:
    assert vo.choice(one(), said) == index


@pytest.mark.parametrize(
    ("title", "options", "close_s", "word"),
    [
        (" ", ["a", "b"], 10.0, "title"),
        ("t" * 300, ["a", "b"], 10.0, "characters"),
        ("t", ["a"], 10.0, "options"),
        ("t", ["a", "a"], 10.0, "options"),
        ("t", ["a", ""], 10.0, "options"),
        ("t", ["a", "b"], 0.0, "close_s"),
        ("t", ["a", "b"], 10.0, ""),
    ],
)
def test_what_can_be_voted_on(title: str, options: list[str], close_s: float, word: str) -> None:
    wrong = vo.wrong(title, options, close_s)
    assert word in wrong and bool(word) == bool(wrong)


# --- votes: the calls --------------------------------------------------------------------------


def voting(**more: Any) -> Script:
    script = with_coders()
    args = {"title": "tabs or spaces?", "options": ["tabs", "spaces"], **more}
    script.call(CODER1, "o1", "vote", **args)
    return script


def test_a_vote_is_opened_cast_and_told_to_all_and_stands_in_the_graph() -> None:
    script = voting(choice="2")
    told = {to: body for to, body in script.sent(b.Inquiry)}
    assert set(told) == {LEAD, CODER2} and told[LEAD].optional
    assert script.result("o1").data == {"vote": "v-1"}
    assert [
        timer.key for timer in script.changes if hasattr(timer, "key") and hasattr(timer, "due")
    ] == ["vote:v-1"]
    script.restart()
    script.call(LEAD, "b1", "vote", vote="v-1", choice="tabs")
    script.call(LEAD, "b2", "vote", vote="v-1", choice="spaces")
    assert "1 are missing" in script.result("b2").text, "a ballot may be changed"
    script.call(CODER2, "b3", "vote", vote="v-1", choice="tabs")
    (closed,) = script.events("vote_closed")
    assert (closed["state"], closed["winner"]) == ("decided", "spaces")
    assert {to for to, _ in script.sent(b.Say)} == {LEAD, CODER1, CODER2}
    assert "(tabs: 1, spaces: 2)" in script.sent(b.Say)[0][1].text
    rows = [row for _, row in script.rows.rows("decisions", b"")]
    (node,) = [row for row in rows if row["title"].startswith("v-1")]
    edges = {row["type"] for row in rows if row["from"] == node["id"]}
    assert node["type"] == "decision" and edges == {"chosen", "rejected"}
    script.call(CODER2, "b4", "vote", vote="v-1", choice="tabs")
    assert script.result("b4").error == "not_found"


def test_at_its_time_a_vote_closes_with_what_there_is() -> None:
    script = voting()
    script.call(CODER2, "b1", "vote", vote="v-1", choice="1")
    script.due("vote:v-1")
    (closed,) = script.events("vote_closed")
    assert (closed["state"], closed["winner"]) == ("no_quorum", "")
    script.due("vote:v-1")
    assert script.events() == [], "an old timer closes nothing"


def test_errors_of_votes_say_what_would_be_right() -> None:
    script = voting()
    script.call(CODER2, "b1", "vote", vote="v-1", choice="green")
    assert (
        script.result("b1").error == "bad_args" and "'tabs', 'spaces'" in script.result("b1").text
    )
    script.call(CODER2, "b2", "vote", vote="v-7", choice="tabs")
    assert script.result("b2").error == "not_found" and "v-1" in script.result("b2").text
    script.call(CODER2, "b3", "vote", title="x", options=["a", "b"], quorum=9)
    assert script.result("b3").error == "bad_args"
    script.call(LEAD, "s3", "spawn", role="tester", task="test")
    script.call(f"{S}/tester-1", "b4", "vote", vote="v-1", choice="tabs")
    assert script.result("b4").error == "denied"
    for n in (2, 3):
        script.call(CODER2, f"o{n}", "vote", title="x", options=["a", "b"])
    script.call(CODER2, "o4", "vote", title="x", options=["a", "b"])
    assert script.result("o4").error == "refused"


def test_who_has_ended_is_not_waited_for() -> None:
    script = voting(choice="tabs")
    script.call(LEAD, "b1", "vote", vote="v-1", choice="tabs")
    script.report(CODER2, "t-3")
    assert script.events("vote_closed")[0]["winner"] == "tabs"


def test_the_end_of_the_session_withdraws_its_votes() -> None:
    script = voting()
    script.mail("hub", b.Control(op="stop"))
    assert script.events("vote_closed")[0]["state"] == "withdrawn" and not script.team.saved.votes
