"""Timers and effects that end their actor again and again, as scripts; mail is in test_mail."""

from __future__ import annotations

from typing import Any

import pytest

from loomd.hub.requests import dead, dead_json
from loomd.store.schema import mark_of, text_key
from loomd.store.tables import dead_row, effect_row
from loomd.wire import codec
from loomd.wire import messages as m
from loomd.wire.bodies import Note, Undelivered
from loomd.wire.errors import LoomError
from tests.hub.desk import Desk, exit_note

A = "s-1/a"
BODY = codec.encode(Note(data="x"))


@pytest.fixture
def desk() -> Desk:
    """An actor with two timers, two effects and one that stands."""
    made = Desk()
    made.spawn(A)
    made.hello(A, 1)
    made.commit(
        A,
        timers=(m.TimerSet(key="t", due=5.0, body=BODY), m.TimerSet(key="u", due=6.0)),
        effects=(
            m.EffectOpen(id="e", body=BODY),
            m.EffectOpen(id="f", body=BODY),
            m.EffectOpen(id="g", body=BODY, standing=True),
        ),
    )
    return made


def die(desk: Desk, kind: str, key: str = "") -> Any:
    """Its incarnation ends, blamed on that; the next one reopens what it finds."""
    fence = desk.row(A).fence
    blame = {"kind": kind, "lane": 0, "seq": mark_of(key) if key else 0}
    result = desk.do(lambda b: b.exited(exit_note(A, fence, blame=blame, reason="boom")))[0]
    desk.hello(A, fence + 1)
    found = desk.memory.scan("effects", A.encode() + b"\0")
    again = tuple(
        m.EffectOpen(id=k.partition(b"\0")[2].decode(), body=BODY,
                     attempt=effect_row.decode(raw).attempt + 1,
                     standing=effect_row.decode(raw).standing)
        for k, raw in found
    )  # fmt: skip
    desk.commit(A, input=m.InputRef(kind="init", key="reopen"), effects=again)
    return result


def open_effects(desk: Desk) -> list[str]:
    return [k.partition(b"\0")[2].decode() for k, _ in desk.memory.scan("effects", b"s-1/a\0")]


def letters(desk: Desk) -> list[dict[str, Any]]:
    return [dead_json(dead_row.decode(raw)) for raw in desk.memory.tables["dead"].values()]


def told(desk: Desk) -> list[Any]:
    return [codec.body(mail.body) for mail in desk.box(A, 0)]


def order(desk: Desk, action: str, id: str) -> Any:
    def job(batch: Any) -> Any:
        result = batch.begin()
        result.value = dead(batch, "c/1", action=action, id=id)
        return result

    return desk.do(job)[0]


def test_a_timer_that_ends_its_actor_three_times_is_set_aside_and_it_is_told(desk: Desk) -> None:
    for _ in range(2):
        assert die(desk, "timer", "t").timers == []
    assert letters(desk) == []
    assert die(desk, "timer", "t").timers == [(A, "t", None, b"")]
    (letter,) = letters(desk)
    assert (letter["actor"], letter["kind"], letter["message"]) == (A, "timer", "timer t note")
    assert (letter["crashes"], letter["error"], letter["sender"]) == (3, "boom", A)
    assert told(desk) == [Undelivered(id="s-1/a/timer.t", to=A, reason="poison", body=BODY)]
    assert desk.memory.get("timers", text_key(A, "t")) is None
    assert desk.memory.get("timers", text_key(A, "u")) is not None
    assert [e["data"]["kind"] for e in desk.events("s-1") if e["type"] == "poison"] == ["timer"]


def test_a_timer_that_is_armed_anew_begins_to_count_anew(desk: Desk) -> None:
    die(desk, "timer", "t")
    die(desk, "timer", "t")
    desk.commit(A, timers=(m.TimerSet(key="t", due=9.0),))
    die(desk, "timer", "t")
    assert letters(desk) == []


def test_an_effect_that_ends_its_actor_three_times_is_set_aside_over_its_reopenings(
    desk: Desk,
) -> None:
    for _ in range(3):
        die(desk, "effect", "e")
    assert open_effects(desk) == ["f", "g"]
    assert told(desk) == [Undelivered(id="s-1/a/effect.e", to=A, reason="poison", body=BODY)]


def test_if_nobody_knows_which_it_was_each_open_effect_is_suspected_but_a_standing_one(
    desk: Desk,
) -> None:
    die(desk, "effects")
    desk.commit(A, input=m.InputRef(kind="effect", key="f", body=BODY))
    desk.commit(A, effects=(m.EffectOpen(id="h", body=BODY),))
    for _ in range(2):
        die(desk, "effects")
    assert open_effects(desk) == ["g", "h"]
    assert [letter["message"] for letter in letters(desk)] == ["effect e note"]


def test_a_death_that_nothing_in_hand_is_to_blame_for_sets_nothing_aside(desk: Desk) -> None:
    for kind in ("loop", "init", "nonsense"):
        for _ in range(4):
            die(desk, kind)
    die(desk, "timer", "nowhere")
    assert letters(desk) == [] and open_effects(desk) == ["e", "f", "g"]


def test_a_timer_is_put_back_as_new(desk: Desk) -> None:
    for _ in range(3):
        die(desk, "timer", "t")
    id = letters(desk)[0]["id"]
    assert order(desk, "retry", id).timers == [(A, "t", 5.0, BODY)]
    assert letters(desk) == []
    die(desk, "timer", "t")
    assert letters(desk) == []


def test_an_effect_that_is_put_back_is_started_by_a_new_incarnation(desk: Desk) -> None:
    for _ in range(3):
        die(desk, "effect", "e")
    id = letters(desk)[0]["id"]
    result = order(desk, "retry", id)
    assert result.bounced == [A] and open_effects(desk) == ["e", "f", "g"]
    row = effect_row.decode(desk.memory.get("effects", text_key(A, "e")) or b"")
    assert (row.attempt, row.crashes) == (0, 0)


def test_what_is_there_again_is_not_overwritten_by_a_retry_and_can_be_dropped(desk: Desk) -> None:
    for _ in range(3):
        die(desk, "timer", "t")
    id = letters(desk)[0]["id"]
    desk.commit(A, timers=(m.TimerSet(key="t", due=99.0),))
    with pytest.raises(LoomError, match="again"):
        order(desk, "retry", id)
    order(desk, "drop", id)
    assert letters(desk) == []


def test_nothing_is_put_back_for_an_actor_that_has_ended(desk: Desk) -> None:
    for _ in range(3):
        die(desk, "timer", "t")

    def end(batch: Any) -> Any:
        result = batch.begin()
        batch.end(A, "removed", by="client")
        return result

    desk.do(end)
    with pytest.raises(LoomError, match="no_such_actor"):
        order(desk, "retry", letters(desk)[0]["id"])


def test_one_key_can_be_set_aside_twice(desk: Desk) -> None:
    for _ in range(3):
        die(desk, "timer", "t")
    desk.commit(A, timers=(m.TimerSet(key="t", due=99.0),))
    for _ in range(3):
        die(desk, "timer", "t")
    assert len(letters(desk)) == 2
