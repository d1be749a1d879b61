"""The client against a hub that is a script: a ROUTER and an XPUB in a thread of the test."""

import fcntl
import itertools
import os
import threading

import pytest

from loomctl.client import Client
from loomctl.commands import jobs
from loomd.wire import codec, sockets, topics
from loomd.wire.errors import LoomError
from loomd.wire.messages import (
    ClientHello,
    ClientWelcome,
    Delta,
    Event,
    Failure,
    Reply,
    Request,
)
from tests.support import BOUND_S, eventually

TOKEN = "t0k"


class ScriptedHub:
    """Answers Hello, and requests by `answers[op](args) -> value | Failure | None (silence)`."""

    def __init__(self, places, answers):
        self.places, self.answers = places, answers
        self.seen = []
        self.subscribed = set()
        places.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        places.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        places.token_file.write_text(TOKEN)
        self.lock = os.open(places.state, os.O_RDONLY)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.ready, self.end = threading.Event(), threading.Event()
        self.to_publish = []
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        assert self.ready.wait(BOUND_S)
        return self

    def __exit__(self, *exc):
        self.end.set()
        self.thread.join(BOUND_S)
        os.close(self.lock)

    def run(self):
        router = sockets.make_router(self.places.clients)
        xpub = sockets.make_xpub(self.places.events)
        self.ready.set()
        try:
            while not self.end.is_set():
                while xpub.poll(0):
                    self.subscribed.add(xpub.recv()[1:].decode())
                    self.publish(xpub)  # what waits can go out
                if not router.poll(5):
                    continue
                identity, raw = router.recv_multipart()
                answer = self.answer(codec.from_client(raw))
                if answer is not None:
                    router.send_to(identity, codec.encode(answer))
                    self.publish(xpub)
        finally:
            router.close()
            xpub.close()

    def publish(self, xpub):
        while self.to_publish:
            event = self.to_publish.pop(0)
            topic = event.topic if isinstance(event, Delta) else topics.events(event.session)
            xpub.send_multipart([topic.encode(), codec.encode(event)])

    def answer(self, message):
        match message:
            case ClientHello(token=token):
                if token != TOKEN:
                    return Failure(id="", code="auth", message="wrong token")
                return ClientWelcome(epoch=1, version="0", protocol=1)
            case Request(id=id, op=op, args=args):
                self.seen.append((id, op, args))
                value = self.answers[op](args)
                if isinstance(value, Failure):
                    return Failure(id=id, code=value.code, message=value.message, hint=value.hint)
                return None if value is None else Reply(id=id, value=value)


def after(first, then):
    """Answers `first` and, to whatever comes afterwards, `then`."""
    answers = itertools.chain([first], itertools.repeat(then))
    return lambda args: next(answers)


def check_resent(hub):
    """Said again and under its id. A client does so once more if this hub was slow to answer."""
    assert len(hub.seen) >= 2
    assert set(map(repr, hub.seen)) == {repr(("1", "say", {"text": "x"}))}


def event(seq):
    return Event(session="s-1", seq=seq, ts=1.0, type="note", actor="x", data={"n": seq})


def as_row(seq):
    return {"seq": seq, "ts": 1.0, "type": "note", "actor": "x", "cause": "", "data": {"n": seq}}


def test_a_request_gets_its_value(instance):
    with (
        ScriptedHub(instance.places, {"status": lambda args: {"pid": 7, **args}}),
        Client(instance.places, start=False) as client,
    ):
        assert client.request("status", extra=1) == {"pid": 7, "extra": 1}


def test_a_failure_keeps_its_code_and_hint(instance):
    refuse = {"say": lambda args: Failure(id="", code="no_such_session", message="no", hint="ls")}
    with (
        ScriptedHub(instance.places, refuse),
        Client(instance.places, start=False) as client,
        pytest.raises(LoomError) as caught,
    ):
        client.request("say")
    assert (caught.value.code, caught.value.hint, caught.value.exit_code) == (
        "no_such_session",
        "ls",
        2,
    )


def test_a_request_that_was_lost_is_said_again_with_its_id(instance):
    with (
        ScriptedHub(instance.places, {"say": after(None, "second")}) as hub,
        Client(instance.places, start=False) as client,
    ):
        assert client.request("say", text="x") == "second"
    check_resent(hub)


@pytest.mark.parametrize("id", ["", "1"])
def test_a_new_hub_that_wants_a_hello_first_gets_one(instance, id):
    first = Failure(id=id, code="auth", message="say Hello first")
    with (
        ScriptedHub(instance.places, {"say": after(first, "second")}) as hub,
        Client(instance.places, start=False) as client,
    ):
        assert client.request("say", text="x") == "second"
    check_resent(hub)


def test_following_reads_the_log_then_goes_on_live_and_mends_gaps(instance):
    log = [as_row(1), as_row(2)]

    def events(args):
        rows = [row for row in log if row["seq"] > args["after"]]
        return {"events": rows[:2], "last": log[-1]["seq"], "more": len(rows) > 2}

    with (
        ScriptedHub(instance.places, {"events": events}) as hub,
        Client(instance.places, start=False) as client,
    ):
        stream = client.follow("s-1")
        assert [next(stream)["seq"] for _ in range(2)] == [1, 2]
        # 2 comes again, 3 and 4 are lost, 5 arrives: 3 and 4 are read from the log.
        eventually(lambda: topics.events("s-1") in hub.subscribed)
        log.extend(as_row(n) for n in (3, 4, 5))
        hub.to_publish.extend([event(2), event(5)])
        assert [next(stream)["seq"] for _ in range(3)] == [3, 4, 5]
        stream.close()


def test_what_is_in_no_log_is_told_to_who_asks_for_it(instance):
    page = {"events": [as_row(1)], "last": 1, "more": False}

    def delta(session, n):
        return Delta(topic=topics.deltas(session), actor="x", data={"n": n})

    def asked(args):
        return {"deltas": [], "more": False}

    said = []
    with (
        ScriptedHub(instance.places, {"events": lambda args: page, "streams": asked}) as hub,
        Client(instance.places, start=False) as client,
    ):
        stream = client.follow("s-1", on_delta=said.append)
        assert next(stream)["seq"] == 1
        wanted = {topics.events("s-1"), topics.deltas("s-1")}
        eventually(lambda: wanted <= hub.subscribed, what=lambda: str(hub.subscribed))
        hub.to_publish += [delta("s-1", 1), delta("s-2", 2), delta("s-1", 3), event(2)]
        client.request("events")
        assert next(stream)["seq"] == 2
        stream.close()
    assert said == [{"n": 1}, {"n": 3}]


def test_what_a_followed_session_waits_for_is_told_once(instance, monkeypatch):
    monkeypatch.setattr(jobs, "SETTLE_S", 0.01)
    waits = iter(["", "disk_full", "disk_full", ""])

    def session(args):
        waiting = next(waits, None)
        return {"state": "done" if waiting is None else "running", "waiting_for": waiting or ""}

    told = []
    nothing = {"events": [], "last": 0, "more": False}
    with (
        ScriptedHub(instance.places, {"session": session, "events": lambda args: nothing}),
        Client(instance.places, start=False) as client,
    ):
        assert jobs.follow(client, "s-1", print, None, told.append)
    assert told == ["disk_full", ""]


def test_a_token_that_is_refused_is_an_authentication_error(instance, monkeypatch):
    monkeypatch.setattr("loomctl.client.REFUSED_S", 0.0)
    with ScriptedHub(instance.places, {}):
        instance.places.token_file.write_text("stale")
        with pytest.raises(LoomError) as caught:
            Client(instance.places, start=False)
    assert caught.value.exit_code == 4


def test_a_token_that_was_replaced_while_the_client_stood_still_is_read_again(
    instance, monkeypatch
):
    """The refusal of the one before comes late, however late: the file has the next one."""
    monkeypatch.setattr("loomctl.client.REFUSED_S", 0.0)
    places = instance.places
    with ScriptedHub(places, {"status": lambda args: 7}) as hub:
        places.token_file.write_text("stale")
        refuse = hub.answer

        def answer(message):
            said = refuse(message)
            if isinstance(said, Failure):
                places.token_file.write_text(TOKEN)
            return said

        hub.answer = answer
        with Client(places, start=False) as client:
            assert client.request("status") == 7


def test_no_daemon_is_said_at_once(instance):
    with pytest.raises(LoomError) as caught:
        Client(instance.places, start=False)
    assert caught.value.exit_code == 3
