"""From a proposal to the disk."""

from __future__ import annotations

import pytest

from loomd.actor import behaviour as act
from loomd.team import edits as ed
from loomd.wire import bodies as b
from loomd.wire import codec
from tests.team.script import (
    CODER1,
    CODER2,
    LEAD,
    REVIEWER,
    TOOLS,
    S,
    Script,
    change,
    under_way,
    with_coders,
)


def reviewing() -> Script:
    script = with_coders()
    script.propose(CODER1, "c1", change("a.py"))
    return script


def state(script: Script, edit: str) -> str:
    return str(script.board("edits", edit)["state"])


def test_an_edit_touches_the_disk_only_after_another_agent_approved_it() -> None:
    script = reviewing()
    assert not script.sent(b.Apply) and state(script, "e-1") == "reviewing"
    script.review("e-1", "approve", "fine")
    assert script.result("r-4").text == "e-1: approve"
    assert script.events() == ["edit_approved"]
    (sent,) = script.sent(b.Apply)
    assert sent[0] == TOOLS and sent[1].files[0].after == "a1"
    assert state(script, "e-1") == "applying"
    script.applied("e-1")
    assert state(script, "e-1") == "applied" and script.result("c1").data == {"edit": "e-1"}


@pytest.mark.parametrize(
    ("verdict", "error", "word"),
    [("revise", "revise", "sent back"), ("refuse", "refused", "refused")],
)
def test_what_the_reviewer_sends_back_is_told_with_the_reason(
    verdict: str, error: str, word: str
) -> None:
    script = reviewing()
    script.review("e-1", verdict, "mind line 3")
    result = script.result("c1")
    assert (result.ok, result.error) == (False, error)
    assert word in result.text and "mind line 3" in result.text
    assert not script.sent(b.Apply)


def test_nobody_but_the_asked_reviewer_has_a_verdict() -> None:
    script = reviewing()
    script.review("e-1", "approve", by=CODER1)
    assert script.result("r-4").error == "denied"
    script.review("e-9", "approve")
    assert script.result("r-5").error == "not_found"
    script.review("e-1", "perhaps")
    assert script.result("r-6").error == "bad_args"
    script.review("e-1", "approve")
    script.review("e-1", "refuse")
    assert script.result("r-8").error == "denied"
    script.applied("e-1")
    script.review("e-1", "refuse")
    assert script.result("r-10").text == "e-1 has ended: applied"
    assert state(script, "e-1") == "applied"


def test_without_review_an_edit_goes_straight_to_the_disk() -> None:
    script = with_coders(review=False)
    script.propose(CODER1, "c1", change("a.py"))
    assert script.sent(b.Apply) and not script.started()
    assert script.events() == ["edit_proposed", "edit_approved"]


def test_a_team_of_one_gets_a_reviewer() -> None:
    script = under_way(team=1)
    script.propose(LEAD, "c1", change("a.py"))
    assert script.started() == [REVIEWER]


def test_an_edit_inside_anothers_claim_is_refused_before_anything_else() -> None:
    script = with_coders()
    script.call(CODER1, "k1", "claim", path="a.py", region="1-10")
    script.propose(CODER2, "c1", change("a.py"))
    result = script.result("c1")
    assert result.error == "refused"
    assert result.text == "e-1 (a.py) was refused: a.py:1-10 is claimed by coder-1 (c-1)"
    assert not script.started() and state(script, "e-1") == "refused"


def test_an_edit_of_a_place_that_was_claimed_while_it_was_judged_is_refused() -> None:
    script = reviewing()
    script.call(CODER2, "k1", "claim", path="a.py")
    script.review("e-1", "approve")
    assert script.result("c1").error == "refused" and not script.sent(b.Apply)


def test_claims_move_with_what_is_applied() -> None:
    script = with_coders()
    script.call(CODER2, "k1", "claim", path="a.py", region="20-30")
    grows = change("a.py", "b0", "a1", b.Hunk(start=1, old=(), new=("x", "y")))
    script.propose(CODER1, "c1", grows)
    script.review("e-1", "approve")
    script.applied("e-1")
    assert script.board("claims", "c-1")["lines"] == [22, 32]


def test_one_edit_is_applied_at_a_time_in_the_order_of_approval() -> None:
    script = with_coders(review=False)
    for n, path in enumerate(("a.py", "b.py", "c.py")):
        script.propose(CODER1, f"c{n}", change(path))
    assert [state(script, f"e-{n}") for n in (1, 2, 3)] == ["applying", "approved", "approved"]
    script.applied("e-1", "failed", "disk full")
    assert script.result("c0").error == "failed" and "disk full" in script.result("c0").text
    assert script.sent(b.Apply)[0][1].edit == "e-2"
    script.applied("e-2", "conflict", "a.py has changed")
    assert script.result("c1").error == "conflict"
    script.applied("e-3")
    assert script.result("c2").ok


def test_a_proposal_for_a_file_that_is_about_to_change_waits_and_goes_back() -> None:
    script = reviewing()
    script.propose(CODER2, "c2", change("a.py", "b0", "z9"))
    assert state(script, "e-2") == "reviewing", "both are judged; the first approved one wins"
    script.review("e-1", "approve")
    script.propose(CODER2, "c3", change("a.py", "b0", "z8"))
    assert state(script, "e-3") == "proposed"
    script.applied("e-1")
    assert script.result("c2").error == script.result("c3").error == "conflict"
    assert "read it again" in script.result("c3").text
    script.review("e-2", "approve")
    assert script.result(f"r-{script.count - 1}").error == "not_found"


def test_a_parked_proposal_is_judged_when_the_other_came_to_nothing() -> None:
    script = reviewing()
    script.review("e-1", "approve")
    script.propose(CODER2, "c2", change("a.py"))
    script.applied("e-1", "conflict", "somebody else")
    assert script.sent(b.ReviewRequest)[0][1].edit == "e-2"


def test_a_commands_output_is_told_with_what_became_of_its_changes() -> None:
    script = with_coders()
    script.propose(CODER1, "c1", change("a.py"), tool="shell", note="formatted 1 file\n")
    script.review("e-1", "approve")
    script.applied("e-1")
    assert script.result("c1").text == "formatted 1 file\n\napplied e-1 (a.py)"
    script.propose(CODER1, "c2", tool="shell", note="all good")
    assert script.result("c2").ok and script.result("c2").text == "all good"


def test_a_reviewer_that_fails_is_replaced_once() -> None:
    script = reviewing()
    script.report(REVIEWER, "", "no model", state="failed", kind="auth", entries=3)
    second = f"{S}/reviewer-2"
    assert script.stopped() == [REVIEWER] and second in script.started()
    assert [to for to, _ in script.sent(b.ReviewRequest)] == [second]
    script.report(second, "", "no model", state="failed", kind="auth")
    result = script.result("c1")
    assert result.error == "refused" and "no model" in result.text
    script.propose(CODER1, "c2", change("a.py"))
    assert script.started() == [f"{S}/reviewer-3"]


def test_a_reviewer_that_ends_is_replaced() -> None:
    script = reviewing()
    script.mail("hub", b.Ended(name=REVIEWER, reason="gave up"))
    assert script.started() == [f"{S}/reviewer-2"]
    script.review("e-1", "approve", by=f"{S}/reviewer-2")
    assert script.sent(b.Apply)


def test_a_review_request_that_a_reviewer_cannot_take_is_a_failure_of_the_reviewer() -> None:
    script = reviewing()
    body = codec.encode(b.ReviewRequest(edit="e-1", author=CODER1, reason="", diff=""))
    script.mail("hub", b.Undelivered(id="x", to=REVIEWER, reason="poison", body=body))
    assert script.stopped() == [REVIEWER] and script.started() == [f"{S}/reviewer-2"]


def test_an_apply_that_the_tool_host_cannot_take_ends_the_edit() -> None:
    script = reviewing()
    script.review("e-1", "approve")
    body = codec.encode(script.sent(b.Apply)[0][1])
    script.mail("hub", b.Undelivered(id="x", to=TOOLS, reason="poison", body=body))
    assert script.result("c1").error == "failed"


def test_proposals_of_an_author_that_has_ended_are_withdrawn() -> None:
    script = with_coders()
    for n, path in enumerate(("a.py", "b.py", "c.py")):
        script.propose(CODER1, f"c{n}", change(path))
    script.review("e-1", "approve")
    script.review("e-2", "approve")
    script.propose(CODER2, "d1", change("b.py"))
    script.mail("hub", b.Ended(name=CODER1, reason="gave up"))
    assert [state(script, f"e-{n}") for n in (1, 2, 3)] == ["applying", "refused", "refused"]
    assert script.sent(b.ReviewRequest)[0][1].edit == "e-4", "its way is free"
    script.applied("e-1")
    assert state(script, "e-1") == "applied" and not script.sent(b.ToolResult)
    script.propose(CODER1, "c9", change("z.py"))
    assert script.events() == ["team_ignored"]


def test_only_the_tool_host_proposes_and_says_what_was_applied() -> None:
    script = reviewing()
    script.mail(CODER1, b.Applied(edit="e-1", state="applied"))
    assert script.events() == ["team_ignored"]
    body = b.Propose(call="x", agent=CODER1, tool="edit", reason="", files=(change("q.py"),))
    script.mail(CODER1, body)
    assert script.events() == ["team_ignored"]
    script.applied("e-77")
    assert script.events() == ["team_ignored"]


@pytest.mark.parametrize("path", ["../up.py", "/etc/passwd", "a/../../b", "./a.py"])
def test_a_proposal_that_leads_out_of_the_checkout_is_refused(path: str) -> None:
    script = with_coders()
    script.propose(CODER1, "c1", change(path))
    assert script.result("c1").error == "refused" and not script.started()


def test_a_huge_proposal_still_fits_into_one_commit() -> None:
    script = with_coders()
    lines = tuple(f"line {n} of a very long file" for n in range(12_000))
    big = b.FileChange(
        path="a.py",
        base="b0",
        after="a1",
        hunks=(b.Hunk(start=1, old=(), new=lines),),
        diff="\n".join("+" + line for line in lines),
    )
    script.propose(CODER1, "c1", big, note="n" * 60_000)
    ((_, request),) = script.sent(b.ReviewRequest)
    assert "[cut:" in request.diff
    script.call(CODER2, "k", "claim", path="a.py", region="5-9")
    assert script.board("edits", "e-1")["spans"] == {"a.py": [[1, 0, 12_000]]}
    script.review("e-1", "approve")
    script.applied("e-1")
    assert script.board("claims", "c-1")["lines"] == [12_005, 12_009]
    many = [change(f"dir/file_{n}.py") for n in range(2_000)]
    script.propose(CODER2, "c2", *many)
    script.review("e-2", "approve")
    assert len(script.sent(b.Apply)[0][1].files) == 2_000


def test_the_action_and_its_outcome_are_in_the_graph() -> None:
    script = reviewing()
    script.review("e-1", "approve")
    script.applied("e-1")
    titles = [
        change.value["title"]
        for change in script.changes
        if isinstance(change, act.Put) and change.table == "decisions"
    ]
    assert titles == ["e-1: rename", "applied a.py, approved by reviewer", "", ""]


def test_slim_files_keep_what_the_disk_needs() -> None:
    (bare,) = ed.slim([change("a.py")])
    assert bare.diff == "" and bare.hunks and bare.after == "a1"
    lines = tuple("x" * 100 for _ in range(5_000))
    (bare,) = ed.slim([change("a.py", "b", "a", b.Hunk(start=1, old=lines, new=()))])
    assert bare.hunks == () and bare.base == "b"
