"""What a person takes back: which edits, when not, and what the journal says."""

from __future__ import annotations

import pytest

from loomd.wire import bodies as b
from loomd.wire import codec
from tests.team.script import CODER1, CODER2, LEAD, TOOLS, S, Script, change, with_coders


def edited(**args: object) -> Script:
    """e-1 of coder-1 (t-2) on a.py, e-2 of coder-2 (t-3) on b.py, e-3 of coder-1 on a.py."""
    script = with_coders(review=False, **args)
    for n, (agent, file) in enumerate(
        [
            (CODER1, change("a.py", "a0", "a1")),
            (CODER2, change("b.py", "b0", "b1")),
            (CODER1, change("a.py", "a1", "a2")),
        ],
        1,
    ):
        task = "t-2" if agent == CODER1 else "t-3"
        script.propose(agent, f"c{n}", file, task=task)
        script.applied(f"e-{n}")
    return script


def undo(script: Script, id: str = "u1", **which: object) -> list[str]:
    """Asks; the edits that the tool host is to plan without, or [] if it was refused."""
    script.mail("user", b.Undo(id=id, **which))  # type: ignore[arg-type]
    orders = script.sent(b.PlanUndo)
    assert all(to == TOOLS for to, _ in orders)
    return [taken.edit for _, order in orders for taken in order.edits]


def refused(script: Script, code: str) -> str:
    (data,) = script.events("undo_refused")
    assert isinstance(data, dict) and data["code"] == code, data
    return str(data["reason"])


def plan(script: Script, *files: b.FileChange, id: str = "u1", **more: object) -> None:
    script.mail(TOOLS, b.UndoPlan(undo=id, files=files, **more))  # type: ignore[arg-type]


def back(script: Script, *files: b.FileChange, id: str = "u1") -> str:
    """The undo is planned and applied; its edit."""
    plan(script, *files, id=id)
    (order,) = [body for _, body in script.sent(b.Apply)]
    assert order.exact
    script.applied(order.edit)
    (data,) = script.events("undone")
    assert isinstance(data, dict) and (data["undo"], data["edit"]) == (id, order.edit)
    return str(order.edit)


@pytest.mark.parametrize(
    ("which", "edits"),
    [
        ({}, ["e-3"]),
        ({"edit": "e-1"}, ["e-1"]),
        ({"task": "t-2"}, ["e-3", "e-1"]),
        ({"task": "t-1"}, ["e-3", "e-2", "e-1"]),  # with what it was divided into
        ({"all": True}, ["e-3", "e-2", "e-1"]),
    ],
)
def test_the_newest_goes_first(which, edits):
    script = edited()
    assert undo(script, **which) == edits
    (order,) = [body for _, body in script.sent(b.PlanUndo)]
    assert all(not file.hunks and not file.diff for one in order.edits for file in one.files)


def test_said_again_it_goes_further_back_and_an_undo_can_be_undone():
    script = edited()
    undo(script)
    assert back(script, change("a.py", "a2", "a1")) == "e-4"
    row = script.board("edits", "e-4")
    assert (row["tool"], row["author"], row["undoes"], row["state"]) == (
        "undo", "user", ["e-3"], "applied",
    )  # fmt: skip
    assert undo(script, "u2") == ["e-2"]
    back(script, change("b.py", "b1", "b0"), id="u2")
    assert undo(script, "u3", edit="e-4") == ["e-4"]
    back(script, change("a.py", "a1", "a2"), id="u3")
    assert undo(script, "u4") == ["e-3"], "it is in effect again"
    back(script, change("a.py", "a2", "a1"), id="u4")
    assert undo(script, "u5", edit="e-3") == []
    assert refused(script, "bad_state") == "e-3 has been taken back already, by e-7"
    assert undo(script, "u6", all=True) == ["e-1"]
    back(script, change("a.py", "a1", "a0"), id="u6")
    assert undo(script, "u7", all=True) == []
    assert "no edit of this session is in effect" in refused(script, "bad_state")


@pytest.mark.parametrize(
    ("which", "code", "reason"),
    [
        ({"edit": "e-9"}, "not_found", "there is no edit e-9"),
        ({"task": "t-9"}, "not_found", "there is no task t-9"),
    ],
)
def test_what_there_is_not_cannot_be_taken_back(which, code, reason):
    script = edited()
    assert undo(script, **which) == []
    assert refused(script, code) == reason


def test_what_was_never_applied_cannot_be_taken_back():
    script = with_coders()
    script.propose(CODER1, "c1", change("a.py"))
    undo(script, edit="e-1")
    assert refused(script, "bad_state") == "e-1 is reviewing: it has not been applied yet"
    script.review("e-1", "refuse", "no")
    undo(script, "u2", edit="e-1")
    assert refused(script, "bad_state") == "e-1 was never applied: refused"
    undo(script, "u3", task="t-2")
    assert refused(script, "bad_state") == "no edit of t-2 is in effect"


def test_only_a_person_may():
    script = edited()
    script.mail(CODER1, b.Undo(id="u1", all=True))
    assert script.events() == ["team_ignored"]


def test_an_edit_under_way_is_not_pulled_from_under_its_author():
    script = edited()
    script.propose(CODER2, "c4", change("a.py", "a2", "a3"))
    undo(script)
    assert refused(script, "bad_state").startswith("e-4 by coder-2 of a.py is under way (applying)")
    assert undo(script, "u2", edit="e-2") == ["e-2"], "it touches no other file"
    plan(script, change("a.py", "a2", "a9"), id="u2")
    assert "under way" in refused(script, "bad_state")


def test_another_edit_waits_for_an_undo_on_its_way_and_is_overtaken_by_it():
    script = edited()
    undo(script)
    plan(script, change("a.py", "a2", "a1"))
    script.propose(CODER2, "c4", change("a.py", "a2", "a3"))
    assert script.board("edits", "e-5")["state"] == "proposed"
    script.applied("e-4")
    assert script.board("edits", "e-5")["state"] == "conflict"
    assert script.result("c4").error == "conflict"


def test_claims_of_others_are_respected():
    script = edited()
    script.call(CODER2, "k1", "claim", path="a.py", region="")
    undo(script)
    plan(script, change("a.py", "a2", "a1"))
    assert refused(script, "bad_state") == "a.py is claimed by coder-2 (c-1)"
    assert not script.sent(b.Apply)
    assert len(list(script.rows.rows("edits", b""))) == 3
    script.mail("hub", b.Control(op="pause"))
    assert undo(script, "u2") == ["e-3"]
    back(script, change("a.py", "a2", "a1"), id="u2")


def test_conflicts_are_told_and_nothing_is_written():
    script = edited()
    undo(script)
    clash = b.Clash(path="a.py", edits=("e-3",), reason="changed since", lines=((3, 4),), diff="d")
    plan(script, clashes=(clash,))
    (data,) = script.events("undo_refused")
    assert isinstance(data, dict) and data["code"] == "conflict" and "a.py" in data["reason"]
    (told,) = data["conflicts"]
    assert (told["path"], told["lines"], told["diff"]) == ("a.py", ((3, 4),), "d")
    assert not script.sent(b.Apply) and not script.team.saved.undos


def test_a_file_that_changes_between_plan_and_disk_is_planned_anew_but_not_for_ever():
    script = edited()
    assert undo(script) == ["e-3"]
    for n in (4, 5, 6):
        plan(script, change("a.py", "a2", "a1"))
        script.applied(f"e-{n}", "conflict", "a.py has changed")
        again = [body for _, body in script.sent(b.PlanUndo)]
        assert bool(again) == (n < 6)
    assert refused(script, "conflict") == "a.py has changed"
    undo(script, "u2")
    plan(script, change("a.py", "a2", "a1"), id="u2")
    script.applied("e-7", "failed", "disk full")
    assert refused(script, "failed") == "disk full"


def test_nothing_left_to_do_is_an_undo_too():
    script = edited()
    undo(script)
    plan(script)
    (data,) = script.events("undone")
    assert isinstance(data, dict) and data["files"] == [] and not script.sent(b.Apply)
    assert undo(script, "u2") == ["e-2"]


def test_one_at_a_time_and_the_others_wait():
    script = edited()
    assert undo(script) == ["e-3"]
    assert undo(script, "u2") == [] and not script.events()
    plan(script, change("a.py", "a2", "a1"))
    script.restart()
    script.applied("e-4")
    assert [body.undo for _, body in script.sent(b.PlanUndo)] == ["u2"]
    assert [taken.edit for _, body in script.sent(b.PlanUndo) for taken in body.edits] == ["e-2"]
    script.mail(TOOLS, b.UndoPlan(undo="u1"))
    assert script.events() == ["team_ignored"], "late"


def test_a_session_that_is_over_or_paused_or_ending_can_be_undone():
    script = edited()
    script.mail("hub", b.Control(op="pause"))
    assert undo(script) == ["e-3"]
    back(script, change("a.py", "a2", "a1"))
    script.mail("hub", b.Control(op="resume"))
    assert undo(script, "u2") == ["e-2"]
    plan(script, change("b.py", "b1", "b0"), id="u2")
    script.mail("hub", b.Control(op="stop"))
    for agent, task in ((CODER1, "t-2"), (CODER2, "t-3"), (LEAD, "t-1")):
        script.report(agent, task)
    assert script.team.saved.phase == "ending", "the disk is waited for"
    script.applied("e-5")
    script.keepers_ready()
    assert script.team.saved.phase == "over" and ("stopped", "") in script.told()
    assert undo(script, "u3") == ["e-1"]
    assert back(script, change("a.py", "a1", "a0"), id="u3") == "e-6"
    assert script.team.saved.phase == "over" and not script.started()


def test_the_end_of_the_tool_host_is_the_end_of_what_it_was_to_do():
    script = edited()
    undo(script)
    undo(script, "u2", edit="e-1")
    script.mail("hub", b.Ended(name=TOOLS, reason="gave up"))
    told = script.events("undo_refused")
    assert [data["undo"] for data in told if isinstance(data, dict)] == ["u1", "u2"]


def test_an_order_that_nobody_takes_is_refused():
    script = edited()
    undo(script)
    (order,) = [body for _, body in script.sent(b.PlanUndo)]
    script.mail("hub", b.Undelivered(id="x", to=TOOLS, reason="full", body=codec.encode(order)))
    assert "could not take it" in refused(script, "failed")


# --- what commands changed themselves ------------------------------------------------------------


def test_what_a_command_changed_is_an_applied_edit_of_its_call():
    script = edited()
    script.propose(CODER2, "c4", change("b.py", "b1", "b2"))  # on its way to the disk
    script.propose(CODER2, "c5", change("a.py", "a2", "a3"))
    body = b.Changed(
        call="c9",
        agent=CODER1,
        tool="shell",
        reason="shell: sed",
        files=(change("a.py", "a2", "a7"),),
        task="t-2",
        left=("big.bin: larger than 8 MB",),
    )
    script.mail(TOOLS, body)
    assert "not_covered" in script.events()
    row = script.board("edits", "e-6")
    assert (row["state"], row["author"], row["task"]) == ("applied", CODER1, "t-2")
    assert "big.bin" in row["note"]
    assert not [body for _, body in script.sent(b.ToolResult) if body.id == "c9"]
    script.mail(TOOLS, body)
    assert script.events() == ["team_ignored"], "once"
    script.applied("e-4")
    assert undo(script) == ["e-4"]


def test_a_command_that_changed_nothing_that_can_be_undone_is_no_edit():
    script = edited()
    left = ("big.bin: larger than 8 MB",)
    script.mail(
        TOOLS, b.Changed(call="c9", agent=CODER1, tool="shell", reason="dd", files=(), left=left)
    )
    assert script.events() == ["not_covered"]
    script.mail(f"{S}/coder-1", b.Changed(call="c8", agent=CODER1, tool="x", reason="", files=()))
    assert script.events() == ["team_ignored"]
