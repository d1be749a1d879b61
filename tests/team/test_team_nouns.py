"""Tasks, roster, calls, decisions, review: the small nouns."""

from __future__ import annotations

import pytest

from loomd.team import calls, decisions, review, roster, tasks
from loomd.team.calls import BadArguments
from loomd.team.roster import Agent


def test_a_task_ends_once() -> None:
    task = tasks.new_task(1, "\n  first line \nsecond", 5.0, owner="a")
    assert (task.id, task.title, task.open) == ("t-1", "first line", True)
    tasks.close(task, "failed", 9.0, "limit")
    tasks.close(task, "done", 10.0)
    assert (task.state, task.ended, task.kind, task.open) == ("failed", 9.0, "limit", False)
    assert tasks.from_row(tasks.row(task)) == task
    assert len(tasks.title_of("x" * 500)) == 100


def test_names_are_the_role_and_a_number() -> None:
    names = [roster.name_for("s-1", role, n) for role in ("lead", "coder") for n in (1, 2)]
    assert names == ["s-1/lead", "s-1/lead-2", "s-1/coder-1", "s-1/coder-2"]


@pytest.mark.parametrize("role", ["lead", "team", "Coder", "a b", "", "../x", "keeper", "x" * 99])
def test_a_role_that_nobody_can_have_is_refused(role: str) -> None:
    assert roster.bad_role(role)


def test_who_waits_takes_no_place() -> None:
    agents = {
        "lead": Agent(name="lead", role="lead"),
        "a": Agent(name="a", role="coder", parent="lead"),
        "b": Agent(name="b", role="coder", parent="a"),
        "r": Agent(name="r", role="reviewer", gate=True),
    }
    assert roster.working(agents, ()) == ["b"]
    assert roster.working(agents, ("b",)) == []
    assert roster.depth(agents, "b") == 2
    assert roster.descends(agents, "b", "lead") and not roster.descends(agents, "a", "b")
    assert not roster.descends(agents, "nobody", "lead")


def test_arguments_are_checked_before_anything_happens() -> None:
    assert calls.parse("claim", {"path": "a.py", "region": None}) == calls.ClaimRegion(path="a.py")
    assert calls.parse("decide", {"title": "x", "options": "one"}) == calls.Decide(
        title="x", options=("one",)
    )
    wrong = [
        ("spawn", {"role": "coder"}),
        ("spawn", {"role": "coder", "task": "  "}),
        ("spawn", {"role": "coder", "task": 7}),
        ("send", {"to": "x", "text": ""}),
        ("share", {}),
        ("claim", {"path": "a", "lines": "3-4"}),
        ("recall", {"query": "x" * 300_000}),
        ("dance", {}),
    ]
    for name, args in wrong:
        with pytest.raises(BadArguments, match=name):
            calls.parse(name, args)


def test_a_query_may_cite_entries() -> None:
    assert calls.exact("keeper-3:5-9") == ("keeper-3", 5, 9)
    assert calls.exact(" s-1/keeper-3:5 ") == ("keeper-3", 5, 5)
    assert calls.exact("what does keeper-3:5 say") is None


def test_verdicts_are_understood_in_the_words_that_models_use() -> None:
    words = ["approve", "LGTM", "request changes", "Reject", "maybe"]
    assert [review.verdict(word) for word in words] == [
        "approve",
        "approve",
        "revise",
        "refuse",
        "",
    ]


def test_a_reviewer_is_another_than_the_author_and_of_the_gate() -> None:
    agents = [
        Agent(name="r1", role="reviewer", gate=True, stopping=True),
        Agent(name="r2", role="reviewer", gate=True),
        Agent(name="c", role="reviewer"),
    ]
    assert review.choose(agents, "c") == "r2"
    assert review.choose(agents, "r2") == ""


def test_a_decision_is_a_node_with_its_options() -> None:
    graph = decisions.Graph("s-1", 4)
    rows = graph.decision(
        "decision", "which", "why", ["a", "b"], "b", 7.0, "lead", parent="d-s-1-1"
    )
    assert [(row["kind"], row["type"], row["title"]) for row in rows] == [
        ("node", "decision", "which"),
        ("edge", "leads_to", ""),
        ("node", "option", "a"),
        ("edge", "rejected", ""),
        ("node", "option", "b"),
        ("edge", "chosen", ""),
    ]
    assert rows[0]["id"] == "d-s-1-5" and graph.count == 10
    assert (rows[1]["from"], rows[1]["to"]) == ("d-s-1-1", "d-s-1-5")
    assert (rows[5]["from"], rows[5]["to"]) == ("d-s-1-5", rows[4]["id"])
    named = graph.decision("decision", "x", "", ["a"], "c", 7.0, "lead")
    assert [row["type"] for row in named] == ["decision", "option", "rejected", "option", "chosen"]
    with pytest.raises(ValueError, match="goal, decision"):
        graph.node("fancy", "x", 1.0, "lead")


def test_a_project_is_named_by_its_checkout() -> None:
    assert decisions.project_of("/a/b", "s-1") == "/a/b"
    assert decisions.project_of("", "s-1") == "s-1"
    assert len(decisions.project_of("/" + "x" * 900, "s-1")) == 32
