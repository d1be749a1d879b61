"""The sockets of a process: made with the first, gone with the last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loomd.wire import sockets
from loomd.wire.codec import HARD_LIMIT
from tests.support import BOUND_S, eventually


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/s"


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_the_last_socket_takes_the_librarys_threads_and_its_file_with_it(address: str) -> None:
    before = threads()
    router = sockets.make_router(address)
    dealer = sockets.make_dealer(address, "a#1")
    dealer.send(b"hi")
    assert router.receive(BOUND_S) == [b"a#1", b"hi"]
    router.send_to(b"a#1", b"yo")
    assert dealer.receive(BOUND_S) == b"yo"
    dealer.close()
    assert threads() > before
    router.close()
    router.close()  # twice does no harm
    eventually(lambda: threads() == before)
    assert not os.path.exists(address.removeprefix("ipc://"))


def test_a_peer_that_is_not_there_is_told(address: str) -> None:
    router = sockets.make_router(address)
    with pytest.raises(sockets.Unreachable):
        router.send_to(b"nobody", b"x")
    router.close()


def test_nothing_to_receive_is_none(address: str) -> None:
    router = sockets.make_router(address)
    assert router.receive_nowait() is None
    assert router.receive(0.0) is None
    router.close()


def test_a_successor_takes_over_the_address_of_one_that_was_killed(address: str) -> None:
    Path(address.removeprefix("ipc://")).touch()
    router = sockets.make_router(address)
    dealer = sockets.make_dealer(address, b"a#1")
    dealer.send(b"x")
    assert router.receive(BOUND_S) is not None
    dealer.close()
    router.close()


def test_a_frame_over_the_hard_limit_cuts_its_sender_off_and_nobody_else(address: str) -> None:
    router = sockets.make_router(address)
    one, two = sockets.make_dealer(address, "one"), sockets.make_dealer(address, "two")
    one.send(b"x" * (HARD_LIMIT + 1))
    two.send(b"fine")
    assert router.receive(BOUND_S) == [b"two", b"fine"]
    for socket in (one, two, router):
        socket.close()


def test_a_subscription_is_a_prefix(address: str) -> None:
    xpub = sockets.make_xpub(address)
    sub = sockets.make_sub(address, ["e/s-1/"])
    assert xpub.receive(BOUND_S) == b"\x01e/s-1/"
    for topic in (b"e/s-10/", b"e/s-1/"):
        xpub.send_multipart((topic, b"x"))
    assert sub.receive(BOUND_S) == [b"e/s-1/", b"x"]
    sub.close()
    xpub.close()


def test_an_address_that_cannot_be_bound_leaves_nothing(tmp_path: Path) -> None:
    before = threads()
    with pytest.raises(sockets.SocketError):
        sockets.make_router(f"ipc://{tmp_path}/no/such/folder/s")
    eventually(lambda: threads() == before)
