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
        ("session_ended", {"state": "done"}, "session done"),
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


def test_an_unknown_cost_is_not_shown_as_zero():
    out = io.StringIO()
    result = {"session": "s-1", "state": "done", "usage": {"cost_usd": None, "calls": 2}}
    render.outcome(Console(file=out, width=200), result)
    assert "cost unknown" in out.getvalue()


def test_an_empty_table_says_so():
    out = io.StringIO()
    Console(file=out).print(render.table([], ("id",), "no claims"))
    assert out.getvalue().strip() == "no claims"
