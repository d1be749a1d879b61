"""Which edits are in effect after undos, and undos of undos."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomd.store.standing import in_order, undone


def rows(*undoes: str) -> list[dict]:
    """e-1, e-2, ... applied in this order, each with the ids it undoes, as one string."""
    return [
        {"id": f"e-{n}", "state": "applied", "place": n, "undoes": [f"e-{t}" for t in said.split()]}
        for n, said in enumerate(undoes, 1)
    ]


@pytest.mark.parametrize(
    ("undoes", "gone"),
    [
        (["", ""], {}),
        (["", "", "2"], {"e-2": "e-3"}),
        (["", "", "2 1"], {"e-1": "e-3", "e-2": "e-3"}),
        (["", "1", "2"], {"e-2": "e-3"}),  # redo
        (["", "1", "2", "3"], {"e-1": "e-4", "e-2": "e-3", "e-3": "e-4"}),  # and undone again
        (["", "1", "2", "1"], {"e-1": "e-4", "e-2": "e-3"}),
        (["", "7", "2"], {"e-2": "e-3"}),  # of an edit that nobody knows
        (["1"], {}),
        (["", "", "1 2", "3", "1", "4"], {"e-1": "e-5", "e-2": "e-6", "e-3": "e-4", "e-4": "e-6"}),
    ],
)
def test_an_undo_of_an_undo_brings_back_what_that_had_taken(undoes, gone):
    assert undone(rows(*undoes)) == gone


def test_only_what_was_applied_counts_and_in_the_order_of_its_application():
    one, two, undo = rows("", "", "2")
    assert undone([undo, two, one]) == {"e-2": "e-3"}
    assert undone([one, two, {**undo, "state": "conflict"}]) == {}
    old = [{"id": "e-9", "state": "applied", "ended": 5.0}, {"id": "e-8", "state": "applied"}]
    assert [row["id"] for row in in_order([two, *old])] == ["e-8", "e-9", "e-2"]


@given(st.lists(st.integers(0, 5), max_size=8))
def test_redo_of_the_last_undo_is_as_if_nothing_had_been(choices):
    history = rows(*["", "", ""])
    for choice in choices:
        known = [row["id"] for row in history if row["id"] not in undone(history)]
        n = len(history) + 1
        target = known[choice % len(known)]
        history.append({"id": f"e-{n}", "state": "applied", "place": n, "undoes": [target]})
    edits = {"e-1", "e-2", "e-3"}
    before = undone(history)
    live = next(row["id"] for row in history if row["id"] not in before)
    n = len(history)
    history.append({"id": f"e-{n + 1}", "state": "applied", "place": n + 1, "undoes": [live]})
    assert live in undone(history)
    again = {"id": f"e-{n + 2}", "state": "applied", "place": n + 2, "undoes": [f"e-{n + 1}"]}
    assert undone([*history, again]).keys() & edits == before.keys() & edits
