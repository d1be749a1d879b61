"""One incarnation against a hub that the test plays: Hello, resend, order, once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from loomd.actor.behaviour import Spec
from loomd.actor.echo import EchoBehaviour
from loomd.actor.pump import HostError, Leave, Pump
from loomd.hub.rules import encode_spec
from loomd.store.env import Store
from loomd.store.schema import name_key, text_key
from loomd.store.tables import ActorRow, EffectRow
from loomd.supervise.link import ChildLink, Link, LinkClosed, ProcessBirth
from loomd.supervise.slots import MAIL, Slot
from loomd.wire import codec, sockets
from loomd.wire import messages as m
from loomd.wire.bodies import Note
from loomd.wire.errors import LoomError
from tests.support import TestInstance, eventually

NAME = "s-1/echo"


def note(**data: Any) -> bytes:
    return codec.encode(Note(data=data))


class FakeHub:
    """The actors' ROUTER in the test's hands."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = sockets.make_router(address)
        self.identity = b""

    def take(self) -> m.FromActor | None:
        frames = self.socket.receive_nowait()
        if frames is None:
            return None
        self.identity = frames[0]
        return codec.from_actor(frames[1])

    def say(self, message: m.ToActor) -> None:
        self.socket.send_to(self.identity, codec.encode(message))

    def close(self) -> None:
        self.socket.close()


class Stand:
    """A pump, its hub and its root, all turned by the test."""

    def __init__(self, instance: TestInstance, **row: Any) -> None:
        places = instance.places
        places.runtime.mkdir(parents=True, exist_ok=True)
        effects = row.pop("effects", {})
        store = Store.writer(places)
        with store.writing() as txn:
            spec = encode_spec(Spec(name=NAME, kind="echo", session="s-1"))
            txn.put("actors", name_key(NAME), codec.encode(ActorRow(spec=spec, **row)))
            for id, effect in effects.items():
                txn.put("effects", text_key(NAME, id), codec.encode(effect))
        store.close()
        self.hub = FakeHub(places.actors)
        root, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.root = Link(root)
        self.link = ChildLink(child)
        self.birth = ProcessBirth(
            name=NAME,
            incarnation=7,
            token="secret",
            link=self.link,
            slot=Slot.private(),
            args={
                "config": str(places.config),
                "state_dir": str(places.state),
                "runtime_dir": str(places.runtime),
            },
        )
        self.pump = Pump(self.birth, EchoBehaviour())
        self.pump.hello()

    def next(self) -> m.FromActor:
        """The next frame that the pump sends."""
        found: list[m.FromActor] = []

        def turned() -> bool:
            self.pump.turn()
            message = self.hub.take()
            if message is not None:
                found.append(message)
            return bool(found)

        eventually(turned, what="a frame of the host")
        return found[0]

    def silent(self) -> None:
        """Nothing comes, although what was said has been taken: a ping is answered first."""
        self.hub.say(m.Ping(nonce=99))
        assert self.next() == m.Pong(nonce=99)

    def fails(self, kind: type[BaseException]) -> pytest.ExceptionInfo[BaseException]:
        with pytest.raises(kind) as caught:
            eventually(lambda: self.pump.turn(), what="the end")
        return caught

    def begin(self, step: int = 0) -> None:
        """Hello, Welcome and, in a first life, the first commit."""
        assert isinstance(self.next(), m.Hello)
        self.hub.say(m.Welcome(epoch=1, step=step))
        if step == 0:
            first = self.next()
            assert isinstance(first, m.Commit) and first.input.kind == "init"
            self.hub.say(m.Committed(step=1))

    def close(self) -> None:
        self.pump.close()
        self.hub.close()
        self.link.close()
        self.root.close()


@pytest.fixture
def stands(instance: TestInstance) -> Iterator[Any]:
    made: list[Stand] = []

    def make(**row: Any) -> Stand:
        made.append(Stand(instance, **row))
        return made[-1]

    yield make
    for stand in made:
        stand.close()


def mail(seq: int, lane: int = m.WORK, **data: Any) -> m.Mail:
    return m.Mail(
        seq=seq, lane=lane, id=f"s-1/x/{seq}.0", sender="s-1/x", body=note(**data), cause="c"
    )


def seqs(commit: m.FromActor) -> tuple[str, int, int]:
    assert isinstance(commit, m.Commit)
    return commit.input.kind, commit.input.lane, commit.input.seq


def test_says_hello_and_reads_nothing_before_it_is_welcomed(stands):
    stand = stands()
    hello = stand.next()
    assert hello == m.Hello(actor=NAME, incarnation=7, token="secret", generation=0)
    stand.pump.turn()
    assert stand.pump.reader is None
    stand.hub.say(m.Welcome(epoch=1, step=0))
    first = stand.next()
    assert isinstance(first, m.Commit)
    assert (first.step, first.input, first.incarnation) == (1, m.InputRef(kind="init"), 7)


def test_one_commit_is_in_flight_and_control_goes_before_work(stands):
    stand = stands()
    stand.begin()
    for one in (mail(1, op="add", n=1), mail(2, op="add", n=2), mail(1, m.CONTROL, op="x")):
        stand.hub.say(one)
    first = stand.next()
    assert seqs(first) == ("mail", m.WORK, 1) or seqs(first) == ("mail", m.CONTROL, 1)
    stand.silent()
    stand.hub.say(m.Committed(step=2))
    second = stand.next()
    if seqs(first) == ("mail", m.WORK, 1):
        assert seqs(second) == ("mail", m.CONTROL, 1)
    stand.hub.say(m.Committed(step=3))
    third = stand.next()
    assert {seqs(c) for c in (first, second, third)} == {
        ("mail", m.WORK, 1),
        ("mail", m.WORK, 2),
        ("mail", m.CONTROL, 1),
    }


def test_mail_that_comes_again_is_dropped(stands):
    stand = stands()
    stand.begin()
    stand.hub.say(mail(1, op="add", n=1))
    stand.hub.say(mail(1, op="add", n=1))
    assert seqs(stand.next()) == ("mail", m.WORK, 1)
    stand.hub.say(mail(1, op="add", n=1))
    stand.hub.say(m.Committed(step=2))
    stand.silent()
    assert stand.pump.state.saved.count == 1


def test_a_new_epoch_brings_hello_and_the_commit_again(stands):
    stand = stands()
    stand.begin()
    stand.hub.say(mail(1, op="add", n=1))
    commit = stand.next()
    stand.root.send({"op": "epoch", "epoch": 2})
    eventually(lambda: (stand.pump.link_readable(), not stand.pump.welcomed)[1])
    assert isinstance(stand.next(), m.Hello)
    stand.hub.say(m.Welcome(epoch=2, step=1))
    assert stand.next() == commit
    stand.hub.say(m.Committed(step=2))
    stand.silent()
    assert stand.pump.step == 2


def test_a_commit_that_was_stored_is_not_sent_again(stands):
    stand = stands()
    stand.begin()
    stand.hub.say(mail(1, op="add", n=1))
    stand.next()
    stand.root.send({"op": "epoch", "epoch": 2})
    eventually(lambda: (stand.pump.link_readable(), not stand.pump.welcomed)[1])
    stand.next()
    stand.hub.say(m.Welcome(epoch=2, step=2))
    stand.silent()
    assert stand.pump.step == 2 and stand.pump.inflight is None


def test_the_same_epoch_announced_again_changes_nothing(stands):
    stand = stands()
    stand.begin()
    stand.silent()
    stand.root.send({"op": "epoch", "epoch": 1})
    stand.pump.link_readable()
    stand.silent()


def test_an_unanswered_hello_and_an_unanswered_commit_are_said_again(stands):
    stand = stands()
    assert isinstance(stand.next(), m.Hello)
    assert stand.pump.deadline is not None
    stand.pump.timed_out()
    stand.begin()
    stand.hub.say(mail(1, op="add", n=1))
    commit = stand.next()
    assert stand.pump.deadline is not None
    stand.pump.timed_out()
    assert isinstance(stand.next(), m.Hello)
    stand.hub.say(m.Welcome(epoch=1, step=1))
    assert stand.next() == commit


def test_a_full_disk_keeps_the_commit_and_answers_go_on(stands):
    stand = stands()
    stand.begin()
    stand.hub.say(mail(1, op="add", n=1))
    commit = stand.next()
    stand.hub.say(m.Retry(step=2, reason="disk_full", after_s=60.0))
    shown = stand.next()
    assert isinstance(shown, m.Publish)
    assert (shown.data["state"], shown.data["waiting_for"]) == ("waiting", "disk_full")
    stand.hub.say(m.Asked(route=b"r", id="q", sender="user", body=note(op="echo", value=5)))
    answer = stand.next()
    assert isinstance(answer, m.Answer) and codec.body(answer.body) == Note(data=5)
    stand.pump.timed_out()
    assert stand.next() == commit
    stand.hub.say(m.Committed(step=2))
    stand.silent()
    assert not stand.pump.full


def test_fenced_means_leave_with_its_status(stands):
    stand = stands()
    stand.begin()
    stand.hub.say(m.Fenced(reason="newer"))
    caught = stand.fails(Leave)
    assert caught.value.status == 70


def test_a_refused_commit_is_a_crash_with_the_mail_in_hand(stands):
    stand = stands()
    stand.begin()
    stand.hub.say(mail(3, op="add", n=1))
    stand.next()
    assert stand.birth.slot.read().since_ns == 0
    stand.hub.say(m.Refused(code="bad_request", detail="no", step=2))
    stand.fails(HostError)
    held = stand.birth.slot.read()
    assert (held.kind, held.lane, held.seq) == (MAIL, m.WORK, 3) and held.since_ns


def test_an_error_in_a_step_leaves_the_mail_in_the_slot(stands):
    stand = stands()
    stand.begin()
    stand.hub.say(mail(4, op="crash"))
    stand.fails(RuntimeError)
    held = stand.birth.slot.read()
    assert (held.kind, held.seq) == (MAIL, 4) and held.since_ns


def test_a_body_that_cannot_be_read_is_the_fault_of_its_mail(stands):
    stand = stands()
    stand.begin()
    stand.hub.say(m.Mail(seq=1, lane=1, id="i", sender="x", body=b"\xc1"))
    stand.fails(Exception)
    assert stand.birth.slot.read().kind == MAIL


def test_stop_finishes_the_commit_in_flight(stands):
    stand = stands()
    stand.begin()
    stand.hub.say(mail(1, op="add", n=1))
    stand.hub.say(mail(2, op="add", n=2))
    stand.next()
    stand.root.send({"op": "stop"})
    eventually(lambda: (stand.pump.link_readable(), stand.pump.stopping)[1])
    stand.pump.turn()
    stand.hub.say(m.Committed(step=2))
    caught = stand.fails(Leave)
    assert caught.value.status == 0
    assert stand.pump.step == 2 and stand.pump.inflight is None


def test_the_end_of_the_link_is_the_end(stands):
    stand = stands()
    stand.begin()
    stand.root.close()
    with pytest.raises(LinkClosed):
        stand.pump.link_readable()


def test_a_successor_goes_on_from_the_state_without_init(stands):
    saved = codec.pack({"count": 5, "seen": {"s-1/x": 5}, "log": 5})
    stand = stands(step=9, state=saved, fence=6)
    stand.begin(step=9)
    stand.silent()
    stand.hub.say(mail(8, op="add", n=6))
    commit = stand.next()
    assert isinstance(commit, m.Commit) and commit.step == 10
    assert codec.unpack(commit.state or b"")["count"] == 6
    assert commit.log[0].n == 6


def test_an_unchanged_state_is_not_sent(stands):
    stand = stands()
    stand.begin()
    stand.hub.say(mail(1, op="echo", value=1))
    commit = stand.next()
    assert isinstance(commit, m.Commit) and commit.state is None
    assert codec.body(commit.outbox[0].body) == Note(data={"echo": 1})


def test_effects_left_open_are_counted_before_they_start_again(stands):
    body = note(do="now")
    stand = stands(
        step=4,
        fence=6,
        state=codec.pack({}),
        effects={"e": EffectRow(body=body, attempt=1)},
    )
    started: list[tuple[str, int]] = []
    stand.pump.start_effect = lambda effect: started.append((effect.id, effect.attempt))
    stand.begin(step=4)
    commit = stand.next()
    assert isinstance(commit, m.Commit)
    assert commit.input == m.InputRef(kind="init", key="reopen")
    assert [(e.id, e.attempt) for e in commit.effects] == [("e", 2)]
    assert started == []
    stand.hub.say(m.Committed(step=5))
    stand.silent()
    assert started == [("e", 2)]


def test_an_effect_starts_after_its_commit_and_ends_once(stands):
    stand = stands()
    started: list[str] = []
    stand.pump.start_effect = lambda effect: started.append(effect.id)
    stand.begin()
    stand.hub.say(mail(1, op="effect", id="e", do={}))
    stand.next()
    assert started == []
    stand.hub.say(m.Committed(step=2))
    stand.silent()
    assert started == ["e"]
    stand.pump.effect_ended("e", Note(data="one"))
    stand.pump.effect_ended("e", Note(data="two"))
    commit = stand.next()
    assert isinstance(commit, m.Commit)
    assert (commit.input.kind, commit.input.key) == ("effect", "e")
    stand.hub.say(m.Committed(step=3))
    stand.silent()
    stand.pump.effect_ended("e", Note(data="three"))
    stand.silent()
    assert stand.pump.state.saved.ended == {"e": "one"}


def test_an_effect_without_a_performer_is_a_defect(stands):
    stand = stands()
    stand.begin()
    stand.hub.say(mail(1, op="effect", id="e", do={}))
    stand.fails(HostError)


def test_a_timer_fires_once_however_often_the_hub_says_so(stands):
    stand = stands()
    stand.begin()
    stand.hub.say(m.TimerFired(key="t", due=1.0))
    stand.hub.say(m.TimerFired(key="t", due=1.0))
    commit = stand.next()
    assert isinstance(commit, m.Commit)
    assert (commit.input.kind, commit.input.key) == ("timer", "t")
    stand.hub.say(m.Committed(step=2))
    stand.silent()
    assert stand.pump.state.saved.timers == 1


def test_asks_are_answered_refused_or_failed_and_change_nothing(stands):
    stand = stands()
    stand.begin()
    for op, error in (("refuse", "bad_request"), ("fail", "internal")):
        stand.hub.say(m.Asked(route=b"r", id=op, sender="user", body=note(op=op)))
        answer = stand.next()
        assert isinstance(answer, m.Answer) and (answer.id, answer.error) == (op, error)
    stand.hub.say(m.Asked(route=b"r", id="g", sender="user", body=b"\xc1"))
    answer = stand.next()
    assert isinstance(answer, m.Answer) and answer.error == "unknown_message"
    assert stand.pump.step == 1


def test_what_an_effect_has_brought_is_stored_before_the_stop(stands):
    stand = stands()
    stand.pump.start_effect = lambda effect: None
    stand.begin()
    stand.hub.say(mail(1, op="effect", id="e", do={}))
    stand.next()
    stand.hub.say(m.Committed(step=2))
    stand.hub.say(mail(2, op="add", n=1))
    taken = stand.next()
    stand.hub.say(mail(3, op="add", n=2))
    assert seqs(taken) == ("mail", m.WORK, 2)
    stand.pump.effect_ended("e", Note(data="paid"))
    stand.pump.stopping = True
    stand.hub.say(m.Committed(step=3))
    commit = stand.next()
    assert isinstance(commit, m.Commit) and (commit.input.kind, commit.input.key) == ("effect", "e")
    stand.hub.say(m.Committed(step=4))
    assert stand.fails(Leave).value.status == 0  # the mail stays for the successor


def test_an_answer_that_no_frame_holds_is_an_error_and_a_publication_is_lost(stands):
    stand = stands()
    stand.begin()
    large = "x" * codec.BODY_LIMIT
    stand.pump.behaviour.answer = lambda state, question, reader: Note(data=large)
    stand.hub.say(m.Asked(route=b"r", id="a", sender="user", body=note(op="x")))
    answer = stand.next()
    assert isinstance(answer, m.Answer) and (answer.error, answer.body) == ("too_large", b"")
    with pytest.raises(LoomError, match="over"):
        stand.pump.ask("q", "s-1/x", Note(data=large))
    stand.pump.publish("d/s-1", {"text": large + large})
    stand.silent()
