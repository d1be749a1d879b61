"""Whatever is thrown at a socket is answered with a typed error and counted; nothing dies of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from loomd.wire import codec, sockets
from loomd.wire import messages as m
from tests.support import BOUND_S, Client, Daemon, RequestFailed, eventually

GARBAGE: dict[str, tuple[bytes, str]] = {
    "no MessagePack": (b"\xc1\xc1\xc1", "unknown_message"),
    "empty": (b"", "unknown_message"),
    "text": (b"GET / HTTP/1.1\r\n\r\n", "unknown_message"),
    "an unknown type": (codec.pack({"t": "launch_missiles"}), "unknown_message"),
    "no type": (codec.pack({"token": "x"}), "unknown_message"),
    "a list": (codec.pack([1, 2, 3]), "unknown_message"),
    "a wrong field type": (codec.pack({"t": "hello", "token": 7, "client": []}), "unknown_message"),
    "cut short": (codec.pack({"t": "hello", "token": "abc"})[:-2], "unknown_message"),
    "nested without end": (b"\x91" * 100_000 + b"\x90", "unknown_message"),
    "over the soft limit": (b"\x00" * (codec.SOFT_LIMIT + 1), "too_large"),
}


@contextmanager
def connected(address: str, identity: str) -> Iterator[Any]:
    socket = sockets.make_dealer(address, identity)
    try:
        yield socket
    finally:
        socket.close()


def status(client: Client) -> dict[str, Any]:
    value = client.request("status")
    assert isinstance(value, dict)
    return value


def received(socket: Any, decode: Callable[[bytes], Any]) -> Any:
    raw = socket.receive(BOUND_S)
    assert raw is not None, "no answer"
    return decode(raw)


def test_garbage_on_any_socket_gets_a_typed_error_and_a_count(daemon: Daemon) -> None:
    places = daemon.instance.places
    with daemon.client() as client:
        before = status(client)
        for address, decode in (
            (places.clients, codec.to_client),
            (places.actors, codec.to_actor),
        ):
            with connected(address, f"stranger-{os.getpid()}#1") as socket:
                for what, (raw, code) in GARBAGE.items():
                    counted = status(client)["counters"].get(code, 0)
                    socket.send(raw)
                    answer = received(socket, decode)
                    assert isinstance(answer, m.Failure | m.Refused), what
                    assert answer.code == code, what
                    assert status(client)["counters"][code] == counted + 1, what
        after = status(client)
        assert (after["hub_pid"], after["epoch"]) == (before["hub_pid"], before["epoch"])


def test_several_frames_for_one_are_refused(daemon: Daemon) -> None:
    places = daemon.instance.places
    for address, decode in ((places.clients, codec.to_client), (places.actors, codec.to_actor)):
        with connected(address, "many#1") as socket:
            socket.send(b"a", sockets.SNDMORE)
            socket.send(b"b")
            assert received(socket, decode).code == "unknown_message"


def test_a_frame_over_the_hard_limit_hurts_only_its_sender(daemon: Daemon) -> None:
    places = daemon.instance.places
    with daemon.client() as client:
        before = status(client)
        for address in (places.clients, places.actors):
            with connected(address, "huge#1") as socket:
                socket.send(b"\x00" * (codec.HARD_LIMIT + 1))
                assert status(client)["hub_pid"] == before["hub_pid"]


def test_without_the_token_nothing_is_answered_but_the_error(daemon: Daemon) -> None:
    places = daemon.instance.places
    with connected(places.clients, "stranger") as socket:
        for frame in (
            m.ClientHello(token="wrong", client="c"),
            m.ClientHello(token="ü", client="c"),
            m.Request(id="1", op="shutdown"),
        ):
            socket.send(codec.encode(frame))
            answer = received(socket, codec.to_client)
            assert isinstance(answer, m.Failure) and answer.code == "auth"
    # An identity is used once: the hub's socket ignores a second holder until it has seen the
    # first one go.
    for n, actor in enumerate(("models", "gateway-1", "s-000000/lead", "ü\0", "")):
        with connected(places.actors, f"stranger#{n}") as socket:
            socket.send(codec.encode(m.Hello(actor=actor, incarnation=1, token="wrong")))
            answer = received(socket, codec.to_actor)
            assert isinstance(answer, m.Refused | m.Fenced)


def test_a_stranger_on_the_actors_socket_changes_nothing(daemon: Daemon) -> None:
    """Commits, asks and publications of one who was never welcomed are counted and dropped."""
    with daemon.client() as client:
        hub = status(client)["hub_pid"]
        before = status(client)["counters"].get("unwelcomed", 0)
        with connected(daemon.instance.places.actors, "models#1") as socket:
            socket.send(
                codec.encode(
                    m.Commit(
                        actor="models",
                        incarnation=1,
                        step=99,
                        input=m.InputRef(kind="init"),
                        now=0.0,
                    )
                )
            )
            socket.send(codec.encode(m.Ask(id="1", to="models", body=b"")))
            socket.send(codec.encode(m.Publish(topic="s/", data={})))
            eventually(lambda: status(client)["counters"].get("unwelcomed", 0) == before + 3)
        assert status(client)["hub_pid"] == hub


@pytest.mark.parametrize(
    ("op", "args", "code"),
    [
        ("no_such_op", {}, "unknown_op"),
        ("", {}, "unknown_op"),
        ("__init__", {}, "unknown_op"),
        ("say", {"session": 7}, "bad_request"),
        ("say", {}, "bad_request"),
        ("session", {"session": "s-nope00"}, "no_such_session"),
        ("say", {"session": "s-nope00", "text": "hello"}, "no_such_session"),
        ("open_session", {"repo": "/no/such/place"}, "usage"),
        ("open_session", {"repo": "relative"}, "usage"),
        ("kill", {"name": "s-nope00/lead", "signal": 9}, "no_such_actor"),
        ("events", {"session": "s-nope00", "after": -1, "limit": 10**12}, "no_such_session"),
    ],
)
def test_a_bad_request_is_answered_with_its_code(
    daemon: Daemon, op: str, args: dict[str, Any], code: str
) -> None:
    with daemon.client() as client:
        with pytest.raises(RequestFailed) as caught:
            client.request(op, **args)
        assert caught.value.code == code
        assert status(client)["sessions"] == 0
