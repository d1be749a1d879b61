"""Windows on the wire, and asks that wait."""

from __future__ import annotations

from loomd.hub.peers import HELD_ASKS, WINDOW, Asks, Held, Peer, Peers


def peer(known: tuple[int, int] = (0, 0), incarnation: int = 1) -> Peer:
    return Peer("s-1/a", "s-1", incarnation, f"s-1/a#{incarnation}".encode(), known)


def test_a_mail_goes_out_at_once_if_nothing_lies_before_it() -> None:
    one = peer()
    assert one.offered(1, 1) and one.offered(1, 2) and one.offered(0, 1)


def test_a_mail_behind_a_backlog_is_read_from_the_state_later() -> None:
    one = peer(known=(0, 5))
    assert not one.offered(1, 6)
    assert one.room(1) == WINDOW
    one.read(1, [2, 4, 6], WINDOW)
    assert one.room(1) == 0
    assert one.offered(1, 7)


def test_what_was_read_ahead_of_its_offer_is_not_sent_twice() -> None:
    one = peer(known=(0, 1))
    one.read(1, [1, 2], WINDOW)  # 2 is on disk, its result not yet in the loop
    assert not one.offered(1, 2)
    assert one.offered(1, 3)


def test_the_window_is_full_at_its_size_and_refills_at_the_half() -> None:
    one = peer()
    assert all(one.offered(1, seq) for seq in range(1, WINDOW + 1))
    assert not one.offered(1, WINDOW + 1)
    assert one.offered(0, 1)  # control has its own
    for _ in range(WINDOW // 2 - 1):
        one.consumed(1)
    assert one.room(1) == 0
    one.consumed(1)
    assert one.room(1) == WINDOW // 2


def test_an_empty_mailbox_after_hello_moves_the_cursor_to_what_is_known() -> None:
    one = peer(known=(3, 9))
    one.read(1, [], WINDOW)
    assert one.offered(1, 10)


def test_only_the_newest_incarnation_is_a_peer() -> None:
    peers = Peers()
    peers.add(peer(incarnation=1))
    peers.add(peer(incarnation=2))
    assert list(peers.by_identity) == [b"s-1/a#2"]
    assert peers.drop("s-1/a", up_to=1) is None
    assert peers.drop("s-1/a", up_to=2) is not None
    assert peers.by_name == {} and peers.by_identity == {}


def test_asks_are_answered_by_whom_they_were_asked_once() -> None:
    asks = Asks()
    asks.asked("b", b"a#1", "q")
    assert not asks.answered("c", b"a#1", "q")
    assert asks.answered("b", b"a#1", "q")
    assert not asks.answered("b", b"a#1", "q")
    asks.asked("b", b"a#1", "r")
    assert asks.died("b") == [(b"a#1", "r")]
    assert asks.died("b") == []


def test_held_asks_are_bounded_in_number_and_time() -> None:
    asks = Asks()
    assert all(asks.hold("b", Held(5.0, b"", str(n), "", b"")) for n in range(HELD_ASKS))
    assert not asks.hold("b", Held(5.0, b"", "x", "", b""))
    assert list(asks.expired(4.0)) == []
    assert len(list(asks.expired(5.0))) == HELD_ASKS
    assert asks.hold("b", Held(9.0, b"", "x", "", b""))
    assert [held.id for held in asks.release("b")] == ["x"]
    assert asks.count == 0
