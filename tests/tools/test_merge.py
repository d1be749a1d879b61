"""Three-way merge: what both sides have, and what they cannot both have."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loomd.tools.merge import marked, merge

LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "d\n", "\n"]), max_size=12)


def lines(text: str) -> list[str]:
    """`abc` -> its letters, a line each."""
    return [f"{letter}\n" for letter in text]


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        ("abcde", "abcde", "abcde", "abcde"),
        ("abcde", "Xbcde", "abcdY", "XbcdY"),
        ("abcde", "bcde", "abcdeY", "bcdeY"),
        ("abcde", "aXbcde", "abcd", "aXbcd"),
        ("abcde", "aXcde", "aXcde", "aXcde"),  # both the same
        ("abcde", "abXde", "abXdeY", "abXdeY"),
        ("abcde", "", "abcde", ""),
        ("", "", "abc", "abc"),
    ],
)
def test_changes_in_different_places_are_both_taken(base, ours, theirs, merged):
    for one, other in ((ours, theirs), (theirs, ours)):
        made = merge(lines(base), lines(one), lines(other))
        assert made.lines == lines(merged) and not made.conflicts


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "first", "mine", "other"),
    [
        ("abcde", "abXde", "abYde", 3, "X", "Y"),
        ("abcde", "abde", "abYde", 3, "", "Y"),
        ("abcde", "aXcde", "abYde", 2, "Xc", "bY"),  # beside each other
        ("abcde", "aPQbXde", "abYde", 5, "X", "Y"),  # our line numbers, not the base's
        ("abc", "abcX", "abcY", 4, "X", "Y"),
        ("abc", "", "aXc", 1, "", "aXc"),
    ],
)
def test_changes_of_the_same_lines_are_a_conflict(base, ours, theirs, first, mine, other):
    made = merge(lines(base), lines(ours), lines(theirs))
    (found,) = made.conflicts
    assert (found.first, found.ours, found.theirs) == (
        first,
        tuple(lines(mine)),
        tuple(lines(other)),
    )
    assert made.lines == lines(ours), "nothing is guessed"


def test_markers_stand_on_lines_of_their_own():
    made = merge(["a\n", "b"], ["a\n", "X"], ["a\n", "Y"])
    assert marked(made, "now", "before e-1") == [
        "a\n", "<<<<<<< now\n", "X\n", "=======\n", "Y\n", ">>>>>>> before e-1\n",
    ]  # fmt: skip


@given(LINES, LINES)
def test_a_side_that_changed_nothing_has_no_say(base, other):
    assert merge(base, base, other).lines == other
    assert merge(base, other, base).lines == other
    assert merge(base, other, other).lines == other


@given(LINES, LINES, LINES)
def test_the_sides_can_be_exchanged(base, ours, theirs):
    one, two = merge(base, ours, theirs), merge(base, theirs, ours)
    assert [(c.ours, c.theirs) for c in one.conflicts] == [
        (c.theirs, c.ours) for c in two.conflicts
    ]
    if not one.conflicts:
        assert one.lines == two.lines


@given(LINES, LINES, LINES)
def test_a_conflict_names_lines_that_stand_there(base, ours, theirs):
    made = merge(base, ours, theirs)
    for one in made.conflicts:
        assert tuple(ours[one.first - 1 : one.first - 1 + len(one.ours)]) == one.ours
        assert tuple(made.lines[one.at : one.at + len(one.ours)]) == one.ours


@st.composite
def edited(draw: st.DrawFn) -> tuple[list[str], list[str], list[str]]:
    """A base of lines that are all different, and two sides that replace, delete and insert."""
    base = [f"line {n}\n" for n in range(draw(st.integers(0, 10)))]
    sides = []
    for side in ("ours", "theirs"):
        made: list[str] = []
        for n, line in enumerate([*base, ""]):
            what = draw(st.sampled_from(["keep"] * 6 + ["replace", "delete", "insert"]))
            if what == "insert" or (what == "replace" and line):
                made.append(f"{side} {n}\n")
            if line and what in ("keep", "insert"):
                made.append(line)
        sides.append(made)
    return base, sides[0], sides[1]


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
@settings(max_examples=60, deadline=None)
@given(edited())
def test_it_agrees_with_git(tmp_path_factory, sides):
    folder = tmp_path_factory.mktemp("merge")
    names = []
    for name, content in zip(
        ("ours", "base", "theirs"), (sides[1], sides[0], sides[2]), strict=True
    ):
        (folder / name).write_text("".join(content))
        names.append(str(folder / name))
    done = subprocess.run(["git", "merge-file", "-p", *names], capture_output=True, text=True)
    made = merge(*sides)
    assert (done.returncode == 0) == (not made.conflicts), done.stdout
    if done.returncode == 0:
        assert "".join(made.lines) == done.stdout
