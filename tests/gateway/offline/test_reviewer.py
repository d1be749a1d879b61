"""What the reviewer lets through."""

from __future__ import annotations

import difflib

import pytest

from loomd.gateway import offline
from loomd.gateway.types import Resolved, ToolSchema
from loomd.wire.bodies import Entry, FinalAnswer, ToolCalls

NAMES = "rename `old` to `new`"


def request(edit, before, after, reason=NAMES, path="a.py"):
    diff = "".join(
        difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True), path, path
        )
    )
    text = (
        f"Review request {edit} by s/coder-1\nReason: {reason}\nFiles: {path}\n```diff\n{diff}```"
    )
    return Entry(role="user", text=text, sender="s/team")


def ask(*entries):
    return offline.complete(
        Resolved(
            role="reviewer",
            pinned=(),
            entries=entries,
            tools=(ToolSchema("read"), ToolSchema("review")),
            model="offline/rules",
            request="s/reviewer:1",
            purpose="review",
        )
    )


def answered(outcome, *texts, ok=True):
    assert isinstance(outcome, ToolCalls)
    yield Entry(role="assistant", calls=outcome.calls)
    for call, text in zip(outcome.calls, texts, strict=True):
        yield Entry(role="tool", call=call.id, name=call.name, text=text, ok=ok)


def verdict(before, after, reason=NAMES, path="a.py"):
    first = request("e-1", before, after, reason, path)
    outcome = ask(first)
    if outcome.calls[0].name == "read":
        outcome = ask(first, *answered(outcome, before))
    (call,) = outcome.calls
    assert call.name == "review" and call.args["edit"] == "e-1"
    return call.args["verdict"], call.args["reason"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("old()\n", "new()\n"),
        ("x\nold(old)\ny\n", "x\nnew(old)\ny\n"),
        ("from m import old\n", "from m import old as new\n"),
        ("from m import old\n", "from m import new as old\n"),
        ("__all__ = ['old']\nold = 1\n", "__all__ = ['new']\nnew = 1\n"),
        ("f'{old} old'\n", "f'{new} old'\n"),
        ("f'{old:>9} old' 'x'\n", "f'{new:>9} old' 'x'\n"),
    ],
)
def test_a_rename_is_approved(before, after):
    assert verdict(before, after)[0] == "approve"
    assert verdict(before, after, reason="as told")[0] == "approve"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("old()\n", "new(1)\n"),
        ("old()\n", "other()\n"),
        ("old()\n", "new()\nos.remove(x)\n"),
        ("x = 'an old one'\n", "x = 'an new one'\n"),
        ("old  # old\n", "new  # new\n"),
        ("older()\n", "newer()\n"),
        ("f'{old} old'\n", "f'{new} new'\n"),
    ],
)
def test_what_is_more_than_a_rename_is_sent_back(before, after):
    assert verdict(before, after)[0] == "revise"


def test_what_would_not_compile_is_sent_back():
    assert verdict("x = 1\n", "x = (\n", reason="tidy")[0] == "revise"


def test_any_other_change_is_only_checked_mechanically_and_that_is_said():
    said, reason = verdict("x = 1\ny = 2\n", "x = 3\ny = 2 + x\n", reason="tidy")
    assert said == "approve" and "only mechanically checked" in reason
    said, reason = verdict("a\n", "b\n", reason="tidy", path="README.md")
    assert said == "approve" and "not compiled" in reason


def test_a_diff_that_was_cut_is_sent_back():
    entry = request("e-1", "old()\n", "new()\n")
    cut = Entry(role="user", text=entry.text.replace("+new()", "[cut: 9 characters]"))
    outcome = ask(cut)
    outcome = ask(cut, *answered(outcome, "old()\n"))
    assert outcome.calls[0].args["verdict"] == "revise"


def test_a_diff_that_does_not_fit_the_file_is_sent_back():
    entry = request("e-1", "old()\n", "new()\n")
    outcome = ask(entry, *answered(ask(entry), "something else\n"))
    assert outcome.calls[0].args["verdict"] == "revise"


def test_several_requests_are_answered_at_once_and_only_once():
    one, two = (
        request("e-1", "old\n", "new\n"),
        request("e-2", "old + 1\n", "new + 1\n", path="b.py"),
    )
    reads = ask(one, two)
    assert [call.args["path"] for call in reads.calls] == ["a.py", "b.py"]
    log = [one, two, *answered(reads, "old\n", "old + 1\n")]
    reviews = ask(*log)
    assert [call.args["edit"] for call in reviews.calls] == ["e-1", "e-2"]
    log += answered(reviews, "noted", "noted")
    assert ask(*log) == FinalAnswer(text="Reviewed.")
    three = request("e-3", "old\n", "new\n")
    again = ask(*log, three)  # the file is read again: it has changed
    assert [call.name for call in again.calls] == ["read"]


def test_a_review_that_was_not_taken_is_given_up_in_the_end():
    one = request("e-1", "a\n", "b\n", path="x.txt")
    log = [one]
    for _ in range(2):
        log += answered(ask(*log), "no such edit", ok=False)
    assert isinstance(ask(*log), FinalAnswer)
