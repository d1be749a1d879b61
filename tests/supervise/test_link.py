"""Both ends of a link."""

from __future__ import annotations

import os

import pytest

from loomd.supervise.link import (
    MAX_DATAGRAM,
    ChildLink,
    Link,
    LinkClosed,
    TooLarge,
    decode,
)


@pytest.fixture
def pair():
    root, theirs = Link.pair(max_queue=1000)
    child = ChildLink(theirs)
    yield root, child
    root.close()
    child.close()


def test_messages_go_both_ways_with_the_sender_s_pid(pair):
    root, child = pair
    assert root.receive() is None and child.receive() is None
    child.ready()
    root.send({"op": "stop"})
    assert root.receive() == ({"op": "ready"}, os.getpid())
    assert child.receive() == {"op": "stop"}


def test_end_of_file_is_link_closed(pair):
    root, child = pair
    root.close()
    with pytest.raises(LinkClosed):
        child.receive()
    with pytest.raises(LinkClosed):
        child.send({"op": "ready"})


def test_what_came_before_the_end_is_still_read(pair):
    root, child = pair
    child.send({"op": "crash", "traceback": "x"})
    child.close()
    assert root.receive()[0]["traceback"] == "x"
    with pytest.raises(LinkClosed):
        root.receive()


def test_what_the_peer_does_not_take_is_queued_to_a_limit_and_in_order(pair):
    root, child = pair
    sent = 0
    while not root.waiting:
        root.send({"n": sent})
        sent += 1
    for _ in range(999):
        root.send({"n": sent})
        sent += 1
    with pytest.raises(LinkClosed):
        root.send({"n": sent})
    got = []
    while len(got) < sent:
        message = child.receive()
        if message is None:
            root.flush()
        else:
            got.append(message["n"])
    assert got == list(range(sent)) and not root.waiting


def test_a_message_that_does_not_fit_is_the_caller_s_fault(pair):
    root, child = pair
    child.send({"x": "a" * (MAX_DATAGRAM - 100)})
    assert root.receive() is not None
    with pytest.raises(TooLarge):
        child.send({"x": "a" * MAX_DATAGRAM})
    assert root.receive() is None


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[1]", b"7", b"[" * 60_000])
def test_garbage_is_no_message(pair, data):
    root, child = pair
    assert decode(data) is None
    child.sock.send(data)
    child.ready()
    assert root.receive()[0] == {"op": "ready"}
