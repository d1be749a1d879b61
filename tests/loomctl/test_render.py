"""What people see of events and outcomes."""

import io

import pytest
from rich.console import Console

from loomctl import render


def line(type, **data):
    text = render.event_line({"seq": 1, "ts": 0, "type": type, "actor": "s-1/lead", "data": data})
    return None if text is None else text.plain


@pytest.mark.parametrize(
    ("type", "data", "seen"),
    [
        ("tool_call", {"agent": "s-1/coder-1", "name": "read", "args": {"path": "a.py"}},
         "coder-1        → read(path='a.py')"),
        ("tool_result", {"agent": "s-1/coder-1", "ok": False, "text": "no such file"},
         "← failed: no such file"),
        ("edit_applied", {"edit": "e-1", "files": [{"path": "a.py"}]}, "applied e-1: a.py"),
        ("permission_asked", {"id": "q-1", "text": "shell(ls)"}, "loomctl approve q-1"),
        ("actor_restarted", {"name": "s-1/coder-1", "reason": "signal 9"},
         "coder-1        restarted after signal 9"),
        ("actor_upgraded", {"name": "s-1/coder-1", "generation": 2}, "runs on code generation 2"),
        ("session_ended", {"state": "done"}, "session done"),
        ("edit_approved", {"edit": "e-1", "author": "s-1/coder-1", "reviewer": "s-1/reviewer"},
         "reviewer       approves e-1"),
        ("edit_approved", {"edit": "e-1", "author": "s-1/coder-1", "reviewer": ""},
         "coder-1        e-1 needs no review"),
        ("tool_result", {"agent": "s-1/coder-1", "ok": True, "text": ""}, "← nothing"),
        ("question_asked", {"id": "ask-1", "agent": "s-1/lead", "text": "tabs?"},
         "lead           loomctl answer ask-1 TEXT ?  tabs?"),
        ("question_asked", {"id": "ask-1", "agent": "s-1/lead", "text": "tabs?",
                            "to": "s-1/coder-1"}, "lead           asks coder-1: tabs?"),
        ("question_answered", {"id": "ask-1", "by": "s-1/coder-1", "text": "no"},
         "coder-1        answers ask-1: no"),
        ("task_assigned", {"task": "t-2", "by": "s-1/lead", "owner": "", "role": "coder",
                           "title": "do it"}, "lead           assigns t-2 to a new coder: do it"),
        ("plan_revised", {"version": 2, "by": "s-1/lead", "reason": "late", "steps": [{}, {}]},
         "lead           plan, version 2, 2 steps: late"),
        ("vote_opened", {"vote": "v-1", "agent": "s-1/lead", "title": "tabs?",
                         "options": ["yes", "no"]}, "vote v-1: tabs? yes | no"),
        ("vote_closed", {"vote": "v-1", "state": "decided", "winner": "no"},
         "vote v-1 is decided: no"),
        ("vote_closed", {"vote": "v-1", "state": "tied", "winner": ""}, "vote v-1 is tied"),
        ("call_queued", {"agent": "s-1/lead", "tool": "read", "behind": "limits.daemon_calls"},
         "lead           read waits: limits.daemon_calls"),
        ("model_outcome", {"kind": "final", "note": "of other words"}, "replay: of other words"),
        ("lead_waits", {"agent": "s-1/lead", "tasks": ["t-2"]}, "lead           waits for t-2"),
    ],
)  # fmt: skip
def test_an_event_is_one_line(type, data, seen):
    assert seen in line(type, **data)


def test_what_only_programs_care_about_is_no_line():
    assert line("model_request", agent="s-1/lead") is None
    assert line("model_outcome", agent="s-1/lead", kind="final") is None


def test_a_diff_that_is_not_on_a_terminal_is_byte_for_byte():
    out = io.StringIO()
    text = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-[bold]a[/]\n+b\n"
    render.diff(Console(file=out), text)
    assert out.getvalue() == text


def test_what_others_say_cannot_steer_the_terminal():
    evil = "a\x1b[2J\x1b]0;x\x07\x9b1mb\r\nc\td\re"
    shown = "a␛[2J␛]0;x␇\N{REPLACEMENT CHARACTER}1mb\nc\td␍e"
    assert render.plain(evil) == shown
    assert "\x1b" not in line("shared", agent="s-1/lead\x1b[2J", text=evil)
    assert "\x1b" not in line("edit_proposed", edit="e", files=[{"path": evil}])
    assert "\x1b" not in "".join(lines(render.table([{"title": evil}], ("title",), ""), 80))
    out = io.StringIO()
    result = {"session": "s-1", "state": "done", "answer": evil, "hint": evil, "diff": "+" + evil}
    terminal = Console(file=out, width=200, force_terminal=True, color_system=None)
    render.outcome(terminal, result)
    assert "\x1b[2J" not in out.getvalue() and "\x1b]" not in out.getvalue()
    assert out.getvalue().count("␛[2J") == 3


def test_an_unknown_cost_is_not_shown_as_zero():
    out = io.StringIO()
    result = {"session": "s-1", "state": "done", "usage": {"cost_usd": None, "calls": 2}}
    render.outcome(Console(file=out, width=200), result)
    assert "cost unknown" in out.getvalue()


def test_an_empty_table_says_so():
    out = io.StringIO()
    Console(file=out).print(render.table([], ("id",), "no claims"))
    assert out.getvalue().strip() == "no claims"


def lines(renderable, width):
    out = io.StringIO()
    Console(file=out, width=width).print(renderable)
    return [line.rstrip() for line in out.getvalue().splitlines()]


ROW = {"id": "t-1", "state": "done", "owner": "s-1/coder-1", "title": "a long title " * 9}


def test_a_row_is_one_line_and_its_key_is_whole_on_a_narrow_terminal():
    seen = lines(render.table([ROW], ("id", "state", "owner", "title"), "", "s-1"), 40)
    assert len(seen) == 2
    assert seen[1].startswith("t-1  done   coder-1  a long") and seen[1].endswith("…")


def test_what_has_no_process_has_no_age_and_no_size():
    row = {"name": "s-1/lead", "pid": None, "uptime_s": 0.0, "rss_kb": 0}
    assert lines(render.table([row], ("name", "uptime_s", "rss_kb"), ""), 80)[1] == "s-1/lead"


def test_an_agent_that_starts_without_a_task_ends_in_no_colon():
    assert line("agent_started", name="s-1/reviewer", role="reviewer", task="").endswith(
        "started as reviewer"
    )


def test_the_answer_to_a_question_is_not_what_a_narrow_terminal_cuts():
    seen = line("permission_asked", agent="s-1/lead", id="q-1", text="shell " * 30)
    assert seen.index("loomctl approve q-1") < 40


def printed(show) -> str:
    console = Console(width=200, file=io.StringIO())
    show(console)
    return console.file.getvalue()


def test_one_of_a_thing_is_no_several():
    children = [
        {"id": "a", "kind": "worker", "restarts": 1, "state": "up"},
        {"id": "b", "kind": "worker", "restarts": 2, "state": "up"},
    ]
    tree = render.supervision({"id": "root", "kind": "supervisor", "children": children})
    seen = printed(lambda console: console.print(tree))
    assert "  1 restart  " in seen and "  2 restarts  " in seen
    result = {"session": "s-1", "state": "done", "files_changed": ["a"], "agents": ["lead"]}
    seen = printed(lambda console: render.outcome(console, {**result, "usage": {"calls": 1}}))
    assert "1 file changed, 1 agent, 1 model call, " in seen
    seen = printed(lambda console: render.outcome(console, {**result, "agents": ["a", "b"]}))
    assert "1 file changed, 2 agents, 0 model calls, " in seen
    assert "after 1 crash (" in line("poison", crashes=1, error="x", message="m", id="i")
    assert "after 3 crashes (" in line("poison", crashes=3, error="x", message="m", id="i")


def piece(text, offset=0, **more):
    return {
        "kind": "output",
        "agent": "s-1/a",
        "call": "c1",
        "text": text,
        "offset": offset,
        **more,
    }


def test_pieces_of_output_become_lines_and_gaps_are_said():
    outputs = render.Outputs()
    assert outputs.add(piece("one\ntw")) == [("a", "one")]
    assert outputs.add({"kind": "text", "text": "of a model"}) == []
    assert outputs.add(piece("o\r\n10%\r20%\nrest", 6)) == [("a", "two"), ("a", "20%")]
    lost = outputs.add(piece("later\n", 50))
    assert lost == [("a", "rest"), ("a", "[... 29 bytes ...]"), ("a", "later")]
    assert outputs.add(piece("no end", 56)) == []
    assert outputs.of({"type": "tool_result", "data": {"call": "c2"}}) == []
    assert outputs.of({"type": "tool_result", "data": {"call": "c1"}}) == [("a", "no end")]
    assert outputs.of({"type": "tool_result", "data": {"call": "c1"}}) == []


def test_a_printed_line_cannot_paint_the_terminal():
    assert render.output_line("coder-1", "\x1b[2Jx").plain.endswith("│ \u241b[2Jx")
