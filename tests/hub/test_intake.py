"""Frames to messages, and garbage to a typed error, as at both ROUTERs of the hub."""

from __future__ import annotations

from collections import Counter
from typing import Any

import structlog

from loomd.hub.intake import LOGGED, Intake, Refusals
from loomd.wire import codec
from loomd.wire import messages as m


class Frames:
    """A socket with these frames in it."""

    def __init__(self, *frames: list[bytes]) -> None:
        self.left = list(frames)

    def receive_nowait(self) -> list[bytes] | None:
        return self.left.pop(0) if self.left else None


def intake(*frames: list[bytes]) -> tuple[Intake[m.FromClient], list[Any], Counter[str]]:
    said: list[Any] = []
    counters: Counter[str] = Counter()
    made = Intake(
        "clients",
        Frames(*frames),  # type: ignore[arg-type]
        codec.from_client,
        lambda code, detail, hint: (code, detail, hint),
        lambda identity, frame: said.append((identity, frame)),
        Refusals(counters),
    )
    return made, said, counters


PING = codec.encode(m.ClientPing(nonce=7))


def test_messages_come_with_their_sender_up_to_the_limit() -> None:
    made, said, _ = intake([b"a", PING], [b"b", PING], [b"c", PING])
    ping = m.ClientPing(nonce=7)
    assert list(made.messages(2)) == [(b"a", ping), (b"b", ping)]
    assert list(made.messages(2)) == [(b"c", ping)]
    assert said == []


def test_garbage_is_answered_and_counted_and_what_follows_it_is_served() -> None:
    large = b"x" * (codec.SOFT_LIMIT + 1)
    made, said, counters = intake(
        [b"a"], [b"a", PING, PING], [b"b", b"\xc1"], [b"c", large], [b"d", PING]
    )
    with structlog.testing.capture_logs() as logged:
        assert [identity for identity, _ in made.messages(9)] == [b"d"]
    codes = [(identity, frame[0]) for identity, frame in said]
    assert codes == [
        (b"a", "unknown_message"),
        (b"a", "unknown_message"),
        (b"b", "unknown_message"),
        (b"c", "too_large"),
    ]
    assert counters == {"unknown_message": 3, "too_large": 1}
    assert [line["socket"] for line in logged] == ["clients"] * 4


def test_a_flood_of_garbage_is_counted_and_not_logged_for_ever(monkeypatch: Any) -> None:
    now = 60.0
    monkeypatch.setattr("loomd.hub.intake.time.monotonic", lambda: now)
    made, _, counters = intake(*[[b"a", b"\xc1"]] * (3 * LOGGED))
    with structlog.testing.capture_logs() as logged:
        assert list(made.messages(2 * LOGGED)) == []
        assert len(logged) == LOGGED
        now = 120.0
        assert list(made.messages(1)) == []
        assert len(logged) == LOGGED + 1
    assert counters["unknown_message"] == 2 * LOGGED + 1
