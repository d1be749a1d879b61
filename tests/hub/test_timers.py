"""Timers of actors: armed, due once, told once to each incarnation."""

from __future__ import annotations

from loomd.hub.timers import Timers


def armed(*rows: tuple[str, str, float]) -> Timers:
    timers = Timers()
    for name, key, due in rows:
        timers.arm(name, key, due, key.encode())
    return timers


def test_the_earliest_comes_first_and_each_once() -> None:
    timers = armed(("a", "late", 9.0), ("b", "soon", 2.0), ("a", "next", 3.0))
    assert timers.soonest() == 2.0
    assert timers.due(1.9) == []
    assert timers.due(3.0) == [("b", "soon"), ("a", "next")]
    assert timers.due(3.0) == []
    assert timers.soonest() == 9.0


def test_one_that_is_taken_back_or_armed_anew_is_not_due_at_its_old_time() -> None:
    timers = armed(("a", "back", 1.0), ("a", "anew", 1.0))
    timers.arm("a", "back", None, b"")
    timers.arm("a", "anew", 5.0, b"new")
    assert timers.due(4.0) == []
    assert timers.due(5.0) == [("a", "anew")]
    assert timers.of("a", "anew") == (5.0, b"new")
    timers.arm("a", "back", None, b"")  # twice is no error


def test_what_is_due_stays_so_until_it_is_taken_back() -> None:
    timers = armed(("a", "x", 1.0), ("a", "y", 2.0), ("b", "x", 1.0))
    timers.due(1.5)
    assert timers.due_of("a", 1.5) == ["x"]
    timers.arm("a", "x", None, b"")
    assert timers.due_of("a", 9.0) == ["y"]
    assert timers.due_of("nobody", 9.0) == []


def test_an_incarnation_is_told_once_and_its_successor_again() -> None:
    timers = armed(("a", "x", 1.0), ("b", "x", 1.0))
    assert [timers.tell("a", "x"), timers.tell("a", "x"), timers.tell("b", "x")] == [
        True,
        False,
        True,
    ]
    timers.forget("a")
    assert [timers.tell("a", "x"), timers.tell("b", "x")] == [True, False]
    timers.arm("a", "x", 2.0, b"")
    assert timers.tell("a", "x")
