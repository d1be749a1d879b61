"""Failures booked on an actor's ladder, as scripts: exits and commits in, mail and events out."""

from __future__ import annotations

from typing import Any

import pytest

from loomd.actor.ladder import Rung
from loomd.hub.recovery import is_failure
from loomd.hub.requests import remove
from loomd.store.tables import History
from loomd.wire import codec
from loomd.wire import messages as m
from loomd.wire.bodies import Ended, Recover
from tests.hub.desk import Desk, exit_note, taking

LADDER = (
    Rung(do="restart", count=1, period_s=100),
    Rung(do="parameters", count=1, period_s=100),
    Rung(do="conversation", count=2, period_s=100),
)
A, TEAM = "s-1/a", "s-1/team"


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.spawn(A, kind="agent", ladder=LADDER)
    made.spawn(TEAM, kind="team")
    made.hello(A, 1)
    made.hello(TEAM, 2)
    return made


def fail(desk: Desk, **more: Any) -> None:
    """Its incarnation ends by its own error; the next one says Hello."""
    fence = desk.row(A).fence
    desk.do(lambda b: b.exited(exit_note(A, fence, **{"reason": "boom", **more})))
    if desk.row(A).wanted == "running":
        desk.hello(A, fence + 10)


def told(desk: Desk) -> list[tuple[int, str]]:
    found = [codec.body(mail.body) for mail in desk.box(A, 0)]
    return [(one.rung, one.do) for one in found if isinstance(one, Recover)]


def moves(desk: Desk) -> list[tuple[str, str, str]]:
    events = [e["data"] for e in desk.events("s-1") if e["type"] == "recovery"]
    return [(one["from"], one["rung"], one["cause"]) for one in events]


def test_each_climb_is_an_event_a_mail_and_shown_and_the_end_is_told_to_the_team_once(
    desk: Desk,
) -> None:
    fail(desk)
    assert told(desk) == [] and moves(desk) == [] and desk.row(A).rung == ""
    fail(desk)
    assert told(desk) == [(1, "parameters")] and desk.row(A).rung == "parameters"
    fail(desk)
    fail(desk)
    assert told(desk) == [(1, "parameters"), (2, "conversation"), (2, "conversation")]
    fail(desk)
    assert moves(desk) == [
        ("restart", "parameters", "crash"),
        ("parameters", "conversation", "crash"),
        ("conversation", "give_up", "crash"),
    ]
    row = desk.row(A)
    assert (row.wanted, row.status, row.ended_reason) == ("ended", "ended", "gave up: boom")
    bodies = [codec.body(mail.body) for mail in desk.box(TEAM, 0)]
    assert bodies == [Ended(name=A, reason="gave up: boom")]
    shown = desk.rules.sessions["s-1"].recoveries
    assert [(one["name"], one["rung"], one["reason"]) for one in shown] == [
        (A, "parameters", "boom"),
        (A, "conversation", "boom"),
        (A, "give_up", "boom"),
    ]
    assert isinstance(desk.hello(A, 999).reply, m.Fenced)


def test_an_exit_that_is_told_again_or_of_a_predecessor_is_not_booked_twice(desk: Desk) -> None:
    fail(desk)
    desk.do(lambda b: b.exited(exit_note(A, 1)))
    assert desk.row(A).recovery == History(falls=(desk.now - 2,), since=desk.now - 2)


@pytest.mark.parametrize(
    ("note", "failure"),
    [
        ({"status": 1}, True),
        ({"status": -1, "signal": 11}, True),
        ({"status": -1, "signal": 6}, True),
        ({"status": -1, "signal": 9}, False),  # of unknown origin
        ({"status": -1, "signal": 9, "blame": {"kind": "mail", "lane": 1, "seq": 1}}, True),
        ({"status": -1, "signal": 9, "asked": True}, False),
        ({"status": -1, "signal": 11, "asked": True}, False),
        ({"status": -1, "signal": 15}, False),
        ({"status": 0}, False),
        ({"status": 70}, False),
        ({"status": 71}, False),
        ({"status": 72}, False),
        ({"status": 73}, False),
        ({"status": 3}, True),
    ],
)
def test_only_its_own_failures_climb(desk: Desk, note: dict[str, Any], failure: bool) -> None:
    assert is_failure(exit_note(A, 1, **note)) is failure
    fail(desk, **note)
    assert (desk.row(A).recovery is not None) is failure


def test_an_actor_without_a_ladder_is_only_restarted(desk: Desk) -> None:
    desk.spawn("s-1/b")
    for n in range(20, 30):
        desk.hello("s-1/b", n)
        desk.do(lambda b, n=n: b.exited(exit_note("s-1/b", n)))
    assert desk.row("s-1/b").recovery is None and desk.row("s-1/b").wanted == "running"


def test_a_rung_that_has_held_is_left_with_a_commit_and_the_agent_is_told(desk: Desk) -> None:
    fail(desk)
    fail(desk)
    (mail,) = desk.box(A, 0)
    desk.commit(A, input=taking(mail))
    desk.now += 50
    desk.commit(A)
    assert moves(desk) == [("restart", "parameters", "crash")]
    desk.now += 60
    desk.commit(A)
    assert moves(desk)[1:] == [("parameters", "restart", "steady")]
    assert told(desk) == [(0, "restart")]
    assert desk.row(A).rung == ""
    fail(desk)
    assert desk.row(A).recovery.rung == 0  # type: ignore[union-attr]


def test_what_an_actor_tells_of_its_own_recovery_is_shown_too(desk: Desk) -> None:
    data = {"name": A, "rung": "conversation", "from": "restart", "cause": "model", "reason": "x"}
    desk.commit(A, events=(m.EventOut(type="recovery", data=data),))
    assert desk.row(A).rung == "conversation"
    (shown,) = desk.rules.sessions["s-1"].recoveries
    assert {key: shown[key] for key in data} == data


def test_a_name_that_is_used_again_begins_below(desk: Desk) -> None:
    for _ in range(5):
        fail(desk)
    desk.spawn(A, kind="agent", ladder=LADDER)
    assert (desk.row(A).recovery, desk.row(A).rung) == (None, "")


def test_an_actor_that_is_ended_meanwhile_climbs_nothing(desk: Desk) -> None:
    def job(batch: Any) -> Any:
        result = batch.begin()
        row = batch.session("s-1")
        row.state = "done"
        remove(batch, "c/1", session="s-1")
        return result

    desk.do(job)
    fail(desk)
    assert desk.row(A).recovery is None
