"""Changes of a step in, one commit out."""

from __future__ import annotations

import pytest

from loomd.actor.behaviour import (
    Append,
    Cancel,
    CancelTimer,
    Delete,
    EffectEnded,
    Emit,
    Init,
    Mailed,
    Open,
    OpenEffect,
    Put,
    Say,
    Send,
    Session,
    SetTimer,
    Show,
    Spec,
    Start,
    Stop,
    TimerDue,
)
from loomd.actor.commit import Author, build, encode_state, reference, reopening
from loomd.wire import codec
from loomd.wire import messages as m
from loomd.wire.bodies import Entry, Note
from loomd.wire.errors import LoomError

AUTHOR = Author("s-1/a", 7, 2, 3)
NOTE = Note(data=1)
RAW = codec.encode(NOTE)
MAIL = Mailed(5, "s-1/b/9.0", "s-1/b", NOTE, "c-1", m.CONTROL, 12)


def test_every_input_is_named_as_the_hub_knows_it():
    assert reference(MAIL) == m.InputRef(kind="mail", lane=m.CONTROL, seq=12)
    assert reference(TimerDue(5, "t", 1.0)) == m.InputRef(kind="timer", key="t", due=1.0)
    assert reference(Init(1)) == m.InputRef(kind="init")
    ended = EffectEnded(5, "e", NOTE, Note(data=2))
    assert reference(ended) == m.InputRef(kind="effect", key="e", body=codec.encode(Note(data=2)))


def test_a_step_becomes_one_commit_with_everything_in_it():
    spec = Spec(name="s-1/c", kind="echo", session="s-1")
    built = build(
        AUTHOR,
        MAIL,
        100.0,
        [
            Send("s-1/b", NOTE),
            Send(("s-1/b", "s-1/c"), NOTE, lane=m.CONTROL, cause="mine"),
            Put("tasks", b"k", {"id": 1}),
            Delete("tasks", b"l"),
            Append(4, Entry(role="note", text="x")),
            SetTimer("t", 101.0, NOTE),
            CancelTimer("u"),
            Open("e", NOTE),
            Cancel("f"),
            Start(spec),
            Stop("s-1/d", asleep=True),
            Stop("s-1/e", reason="gone"),
            Emit("said", {"x": 1}),
            Show("waiting", "models"),
            Session(state="running", data={"a": 1}),
            Session(answer="yes", data={"b": 2}),
            Say("d/s-1/", {"x": 1}),
        ],
        b"state",
    )
    c = built.commit
    assert (c.actor, c.incarnation, c.step, c.now, c.generation, c.version) == (
        "s-1/a",
        7,
        5,
        100.0,
        2,
        3,
    )
    assert c.input == m.InputRef(kind="mail", lane=0, seq=12)
    assert c.state == b"state"
    assert c.outbox == (
        m.Out(to=("s-1/b",), body=RAW, cause="c-1"),
        m.Out(to=("s-1/b", "s-1/c"), lane=m.CONTROL, body=RAW, cause="mine"),
    )
    assert c.rows == (
        m.Row(table="tasks", key=b"k", value=codec.pack({"id": 1})),
        m.Row(table="tasks", key=b"l"),
    )
    assert [(entry.n, codec.entry(entry.value).text) for entry in c.log] == [(4, "x")]
    assert c.timers == (m.TimerSet(key="t", due=101.0, body=RAW), m.TimerSet(key="u"))
    assert c.effects == (m.EffectOpen(id="e", body=RAW),)
    assert [(child.name, child.wanted, child.reason) for child in c.children] == [
        ("s-1/c", "running", ""),
        ("s-1/d", "asleep", "done"),
        ("s-1/e", "ended", "gone"),
    ]
    assert c.children[0].spec == {"name": "s-1/c", "kind": "echo", "session": "s-1"}
    assert c.events == (m.EventOut(type="said", data={"x": 1}, cause="c-1"),)
    assert c.status == m.Status(state="waiting", waiting_for="models", since=100.0)
    assert c.session == m.SessionChange(state="running", answer="yes", data={"a": 1, "b": 2})
    assert built.starts == (OpenEffect("e", NOTE, 1),)
    assert built.cancels == ("f",)
    assert built.says == (m.Publish(topic="d/s-1/", data={"x": 1}),)
    assert codec.from_actor(codec.encode(c)) == c


@pytest.mark.parametrize(
    ("input", "cause"),
    [
        (MAIL, "c-1"),
        (Mailed(5, "s-1/b/9.0", "s-1/b", NOTE), "s-1/b/9.0"),
        (TimerDue(5, "t", 1.0), "s-1/a/5"),
        (Init(1), "s-1/a/1"),
    ],
)
def test_a_cause_is_passed_on_or_begins_here(input, cause):
    built = build(AUTHOR, input, 1.0, [Send("x", NOTE), Emit("e")], None)
    assert built.commit.outbox[0].cause == cause
    assert built.commit.events[0].cause == cause


def test_a_status_that_does_not_change_keeps_its_beginning():
    shown = m.Status(state="thinking", waiting_for="models", since=50.0)
    same = build(AUTHOR, MAIL, 100.0, [Show("thinking", "models")], None, shown)
    assert same.commit.status == shown
    other = build(AUTHOR, MAIL, 100.0, [Show("idle")], None, shown)
    assert other.commit.status == m.Status(state="idle", since=100.0)


def test_a_state_over_the_limit_is_refused():
    assert encode_state({"a": 1}) == codec.pack({"a": 1})
    with pytest.raises(LoomError) as caught:
        encode_state("x" * codec.BLOB_LIMIT)
    assert caught.value.code == "too_large"


def test_effects_left_open_count_one_attempt_more_and_consume_nothing():
    left = [OpenEffect("e", NOTE, 1), OpenEffect("f", NOTE, 2, standing=True)]
    built = reopening(AUTHOR, 9, 1.0, left)
    assert built.commit.input == m.InputRef(kind="init", key="reopen")
    assert built.commit.step == 9
    assert [(e.id, e.attempt, e.standing) for e in built.commit.effects] == [
        ("e", 2, False),
        ("f", 3, True),
    ]
    assert built.starts == (OpenEffect("e", NOTE, 2), OpenEffect("f", NOTE, 3, standing=True))
