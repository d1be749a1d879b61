"""Spawn, send, ask, share, claim, decide, recall: the calls that the team answers."""

from __future__ import annotations

import pytest

from loomd.team import memory
from loomd.wire import bodies as b
from loomd.wire import codec
from loomd.wire.messages import WORK
from tests.team.script import CODER1, CODER2, LEAD, RESEARCHER, S, Script, under_way, with_coders


def test_a_spawn_is_answered_by_the_report() -> None:
    script = under_way()
    script.call(LEAD, "s1", "spawn", role="Coder", task="change a.py\nand only that")
    (assigned,) = script.sent()
    assert assigned == (
        CODER1,
        b.Assign(task="t-2", text="change a.py\nand only that", sender=LEAD),
    )
    row = script.board("tasks", "t-2")
    assert (row["owner"], row["parent"], row["title"]) == (CODER1, "t-1", "change a.py")
    script.report(CODER1, "t-2", "cannot", state="failed", kind="limit")
    result = script.result("s1")
    assert (result.ok, result.error, result.text) == (False, "limit", "cannot")
    assert script.board("tasks", "t-2")["state"] == "failed" and script.stopped() == [CODER1]


@pytest.mark.parametrize("role", ["lead", "no such role", "team"])
def test_a_role_that_cannot_be_spawned_is_told_why(role: str) -> None:
    script = under_way()
    script.call(LEAD, "s1", "spawn", role=role, task="x")
    assert script.result("s1").error == "bad_args" and not script.started()


def test_over_the_team_size_a_spawn_waits_for_a_place() -> None:
    script = under_way(team=2)
    for n in range(1, 4):
        script.call(LEAD, f"s{n}", "spawn", role="coder", task=f"part {n}")
    assert script.events() == ["spawn_queued"] and not script.started()
    assert script.board("tasks", "t-4")["state"] == "queued"
    script.restart()
    script.report(CODER1, "t-2")
    assert script.started() == [f"{S}/coder-3"] and script.result("s1").ok
    assert script.sent(b.Assign)[0][1].text == "part 3"


def test_a_team_of_one_works_one_after_the_other() -> None:
    script = under_way(team=1)
    script.call(LEAD, "s1", "spawn", role="researcher", task="look")
    assert script.started() == [RESEARCHER], "who waits for a report does not work"
    script.call(LEAD, "s2", "spawn", role="coder", task="change")
    assert not script.started()
    script.report(RESEARCHER, "t-2")
    assert script.started() == [CODER1]


def test_all_waiting_for_claims_of_one_who_waits_for_a_place_is_no_deadlock() -> None:
    script = with_coders(team=2)
    script.call(CODER1, "k1", "claim", path="a.py")
    script.call(CODER1, "s3", "spawn", role="coder", task="helper")
    script.call(CODER1, "s4", "spawn", role="coder", task="second helper")
    assert not script.started()
    script.call(CODER2, "k2", "claim", path="a.py")
    assert script.started() == [f"{S}/coder-4"], "who waits for a claim takes no place"


def test_a_chain_of_spawns_has_an_end() -> None:
    script = under_way()
    asker = LEAD
    for n in range(1, 5):
        script.call(asker, f"s{n}", "spawn", role="coder", task="deeper")
        asker = f"{S}/coder-{n}"
    script.call(asker, "s9", "spawn", role="coder", task="deeper")
    result = script.result("s9")
    assert result.error == "refused" and "coder-4 (t-5)" in result.text


def test_an_agent_that_gives_up_answers_its_spawn_and_frees_its_claims() -> None:
    script = with_coders()
    script.call(CODER1, "k1", "claim", path="a.py")
    script.call(CODER2, "k2", "claim", path="a.py")
    assert not script.sent() and script.events("claim_queued")[0]["behind"] == CODER1
    script.mail("hub", b.Ended(name=CODER1, reason="gave up: too many restarts"))
    assert script.result("s1").error == "crashed"
    assert "gave up" in script.result("s1").text
    assert script.result("k2").text == "claimed a.py"
    assert script.board("claims", "c-1")["state"] == "released"
    assert script.board("tasks", "t-2")["state"] == "failed"


def test_whom_an_ended_agent_had_spawned_is_told_to_stop() -> None:
    script = with_coders()
    script.call(CODER1, "x1", "spawn", role="tester", task="test it")
    tester = f"{S}/tester-1"
    script.mail("hub", b.Ended(name=CODER1, reason="gave up"))
    assert script.sent(b.Control) == [
        (tester, b.Control(op="stop", reason="coder-1, who asked for it, has ended"))
    ]
    # Behind the task that it ends: in the lane of control it could arrive before it.
    assert all(change.lane == WORK for change in script.changes if hasattr(change, "lane")
               and isinstance(change.body, b.Control))  # fmt: skip
    script.report(tester, "t-4", "stopped", state="failed", kind="stopped")
    assert script.stopped() == [tester] and not script.sent(b.ToolResult)


def test_messages_go_to_one_or_to_all_others() -> None:
    script = with_coders()
    script.call(CODER1, "m1", "send", to="lead", text="hello")
    assert script.sent(b.Say) == [(LEAD, b.Say(text="hello", sender=CODER1))]
    assert script.result("m1").text == "sent to lead"
    script.call(CODER1, "m2", "send", to="team", text="all")
    assert {to for to, _ in script.sent(b.Say)} == {LEAD, CODER2}
    script.call(CODER1, "m3", "share", text="found it")
    assert {to for to, _ in script.sent(b.Say)} == {LEAD, CODER2}
    assert script.events("shared") == [{"agent": CODER1, "text": "found it"}]
    for to in ("coder-9", "coder-1", f"{S}/team", "../x"):
        script.call(CODER1, "m4", "send", to=to, text="x")
        assert script.result("m4").error == "not_found"


def test_a_question_waits_for_a_person() -> None:
    script = with_coders()
    script.call(CODER1, "q1", "ask", question="tabs or spaces?")
    assert script.told() == [("waiting", None)] and not script.sent()
    row = script.board("questions", "ask-abc123-1")
    assert (row["kind"], row["state"], row["actor"]) == ("question", "open", f"{S}/team")
    assert script.events("question_asked")[0]["text"] == "tabs or spaces?"
    script.restart()
    script.mail("hub", b.Decision(question="ask-abc123-1", text="spaces", by="cli"))
    assert script.result("q1").text == "spaces" and script.told() == [("running", None)]
    script.mail("hub", b.Decision(question="ask-abc123-1", text="tabs"))
    assert script.events() == ["team_ignored"]


def test_a_question_with_options_takes_their_numbers() -> None:
    script = with_coders()
    for n, (answer, told) in enumerate([("2", "spaces"), ("both", "both"), ("3", "3")], 1):
        script.call(CODER1, f"q{n}", "ask_user", question="which?", options=["tabs", "spaces"])
        row = script.board("questions", f"ask-abc123-{n}")
        assert row["text"] == "which?\n1. tabs\n2. spaces"
        assert row["args"] == {"options": ["tabs", "spaces"]}
        script.restart()
        script.mail("hub", b.Decision(question=row["id"], text=answer, by="cli"))
        assert script.result(f"q{n}").text == told
    script.call(CODER1, "q9", "ask_user", question=" ")
    assert script.result("q9").error == "bad_args"


def test_a_denied_question_is_an_error_and_one_of_an_ended_agent_is_closed() -> None:
    script = with_coders()
    script.call(CODER1, "q1", "ask", question="may I?")
    script.mail("hub", b.Decision(question="ask-abc123-1", allow=False))
    assert script.result("q1").error == "denied"
    script.call(CODER1, "q2", "ask", question="and now?")
    script.report(CODER1, "t-2")
    assert script.board("questions", "ask-abc123-2")["state"] == "closed"
    assert script.told() == [("running", None)]


def test_a_claim_is_answered_when_it_is_granted() -> None:
    script = with_coders()
    script.call(CODER1, "k1", "claim", path="a.py", region="1-9")
    script.call(CODER2, "k2", "claim", path=f"{'/home/me/project'}/a.py", region="5-20")
    assert not script.sent()
    script.restart()
    script.report(CODER1, "t-2")
    assert script.result("k2").text == "claimed a.py:5-20"


def test_waiting_in_a_circle_is_a_conflict() -> None:
    script = with_coders()
    script.call(CODER1, "k1", "claim", path="a.py")
    script.call(CODER2, "k2", "claim", path="b.py")
    script.call(CODER1, "k3", "claim", path="b.py")
    script.call(CODER2, "k4", "claim", path="a.py")
    result = script.result("k4")
    assert result.error == "conflict" and "coder-1" in result.text
    assert result.data == {"holder": CODER1}


def test_bad_claims_are_told_what_is_wrong() -> None:
    script = with_coders()
    for args in ({"path": "../x"}, {"path": "a.py", "region": "9-3"}, {"path": ""}):
        script.call(CODER1, "k", "claim", **args)
        assert script.result("k").error == "bad_args"


def test_decisions_are_recorded_below_the_goal() -> None:
    script = with_coders()
    script.call(LEAD, "d1", "decide", title="how", options=["a", "b"], chosen="b", because="faster")
    node = script.result("d1").data["node"]
    assert script.board("decisions", node)["text"] == "faster"
    assert script.events("decision") == [{"id": node, "type": "decision", "title": "how"}]
    script.call(LEAD, "d2", "decide", title="again", kind="revisit", supersedes=node)
    assert script.result("d2").ok
    script.call(LEAD, "d3", "decide", title="x", supersedes="d-none")
    assert script.result("d3").error == "not_found"
    script.call(LEAD, "d4", "decide", title="x", kind="fancy")
    assert script.result("d4").error == "bad_args"


def test_unknown_tools_and_strangers_are_no_error_of_ours() -> None:
    script = with_coders()
    script.call(CODER1, "x", "dance")
    assert script.result("x").error == "no_such_tool"
    script.call(f"{S}/stranger", "x", "claim", path="a.py")
    assert script.events() == ["team_ignored"] and not script.sent()


# --- recall and keepers ------------------------------------------------------------------------


def with_keepers() -> Script:
    script = with_coders()
    for first in (1, 11):
        script.mail(CODER1, b.Offload(first=first, last=first + 9, title="reading"))
    script.keepers_ready()
    return script


def hit(entry: int, score: float, text: str = "text") -> b.Hit:
    return b.Hit(keeper="k", log=CODER1, entry=entry, score=score, text=text)


def test_what_leaves_a_view_goes_to_a_keeper_and_its_owner_hears_of_it() -> None:
    script = with_coders()
    script.mail(CODER1, b.Offload(first=1, last=10, title="reading"))
    keeper = f"{S}/keeper-1"
    assert script.started() == [keeper]
    assert script.events("keeper_started") == [
        {"keeper": keeper, "log": CODER1, "first": 1, "last": 10}
    ]
    ready = b.KeeperReady(keeper=keeper, span=b.Span(log=CODER1, first=1, last=10), line="read a")
    script.mail(keeper, ready)
    assert script.sent() == [(CODER1, ready)]
    row = script.board("keepers", "keeper-1")
    assert (row["line"], row["entries"], row["state"]) == ("read a", 10, "ready")
    script.report(CODER1, "t-2", entries=15)
    assert script.board("keepers", "keeper-2")["first"] == 11


def test_a_keeper_that_never_came_up_does_not_hold_up_its_owner() -> None:
    script = with_coders()
    script.mail(CODER1, b.Offload(first=1, last=10))
    script.mail("hub", b.Ended(name=f"{S}/keeper-1", reason="gave up"))
    ((to, ready),) = script.sent(b.KeeperReady)
    assert to == CODER1 and ready.span.last == 10 and "not answering" in ready.line


def test_a_recall_ranks_what_all_keepers_found() -> None:
    script = with_keepers()
    script.call(LEAD, "r1", "recall", query="parse_cfg")
    assert [to for to, _ in script.sent(b.Recall)] == [f"{S}/keeper-1", f"{S}/keeper-2"]
    script.mail(f"{S}/keeper-1", b.Recalled(id="r1", hits=(hit(3, 1.0, "low"),)))
    script.restart()
    script.mail(f"{S}/keeper-2", b.Recalled(id="r1", hits=(hit(12, 2.0, "high"),)))
    assert script.result("r1").text == (
        "[keeper-2:12 of coder-1]\nhigh\n\n[keeper-1:3 of coder-1]\nlow"
    )


def test_a_citation_gives_the_entries_whole() -> None:
    script = with_keepers()
    script.call(LEAD, "r1", "recall", query="keeper-2:12-13")
    assert script.sent(b.Recall) == [
        (f"{S}/keeper-2", b.Recall(id="r1", mode="exact", first=12, last=13))
    ]
    text = "x" * 300_000
    script.mail(f"{S}/keeper-2", b.Recalled(id="r1", hits=(hit(12, 0.0, text),)))
    assert script.result("r1").text == f"[keeper-2:12]\n{text}"
    script.call(LEAD, "r2", "recall", query="keeper-9:1")
    assert script.result("r2").error == "not_found"


def test_a_recall_without_keepers_says_so() -> None:
    script = with_coders()
    script.call(LEAD, "r1", "recall", query="x")
    assert script.result("r1").ok and "no keepers" in script.result("r1").text


def test_recalls_go_one_after_the_other_and_a_silent_keeper_is_left_out() -> None:
    script = with_keepers()
    script.call(LEAD, "r1", "recall", query="a")
    script.call(CODER2, "r2", "recall", query="b")
    assert not script.sent()
    script.mail(f"{S}/keeper-1", b.Recalled(id="r1"))
    script.due(memory.TIMER)
    assert "no answer from keeper-2" in script.result("r1").text
    assert [body.id for _, body in script.sent(b.Recall)] == ["r2", "r2"]
    script.mail(f"{S}/keeper-2", b.Recalled(id="r1", hits=(hit(1, 1.0),)))
    assert script.events() == ["team_ignored"]
    body = codec.encode(b.Recall(id="r2", query="b"))
    script.mail("hub", b.Undelivered(id="x", to=f"{S}/keeper-1", reason="full", body=body))
    script.mail("hub", b.Ended(name=f"{S}/keeper-2", reason="gave up"))
    assert "Nothing that the keepers hold" in script.result("r2").text


def test_recalls_of_an_ended_agent_are_dropped() -> None:
    script = with_keepers()
    script.call(CODER2, "r1", "recall", query="a")
    script.call(LEAD, "r2", "recall", query="b")
    script.report(CODER2, "t-3")
    assert [body.id for _, body in script.sent(b.Recall)] == ["r2", "r2"]


def test_many_long_hits_fit_into_the_saved_state() -> None:
    script = with_keepers()
    script.call(LEAD, "r1", "recall", query="a")
    for n in range(15):
        script.call(LEAD, f"more{n}", "recall", query="q" * 500)
    hits = tuple(hit(n, float(n), "y" * 20_000) for n in range(10))
    script.mail(f"{S}/keeper-1", b.Recalled(id="r1", hits=hits))
    script.mail(f"{S}/keeper-2", b.Recalled(id="r1", hits=hits))
    assert len(script.result("r1").text) < 20_000
