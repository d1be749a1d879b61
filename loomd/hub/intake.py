"""What comes in at a ROUTER of the hub: frames to messages, and garbage to a typed error.

Both ROUTERs take it the same way: every refused frame is counted and answered, a few are logged,
none ends the loop.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

import structlog

from loomd.wire import sockets
from loomd.wire.errors import LoomError

LOGGED: Final = 100
"""Of refused frames, per minute; all are counted. Anybody who sees a socket can send them, and a
flood of them must not fill the disk."""

log = structlog.get_logger()

M = TypeVar("M")


class Refusals:
    """Of one hub, at all its sockets."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._minute = 0
        self._logged = 0

    def note(self, where: str, identity: bytes, code: str, detail: str) -> None:
        self._counters[code] += 1
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._logged = minute, 0
        self._logged += 1
        if self._logged <= LOGGED:
            peer = repr(identity[:80])
            log.warning("frame.refused", socket=where, peer=peer, code=code, detail=detail[:200])


class Intake(Generic[M]):
    """The frames of one socket. `decode` raises LoomError; `answer(identity, frame)` sends what
    `refusal(code, detail, hint)` makes."""

    def __init__(
        self,
        where: str,
        socket: sockets.Socket,
        decode: Callable[[bytes], M],
        refusal: Callable[[str, str, str], Any],
        answer: Callable[[bytes, Any], None],
        refusals: Refusals,
    ) -> None:
        self._where = where
        self._receive = socket.receive_nowait
        self._decode = decode
        self._refusal = refusal
        self._answer = answer
        self._refusals = refusals

    def messages(self, limit: int) -> Iterator[tuple[bytes, M]]:
        """(identity, message) of what has come, from at most `limit` frames."""
        for _ in range(limit):
            frames = self._receive()
            if frames is None:
                return
            identity = frames[0]
            if len(frames) != 2:
                detail = f"{len(frames) - 1} frames for one"
                self.refuse(identity, "unknown_message", detail)
                continue
            try:
                message = self._decode(frames[1])
            except LoomError as error:
                self.refuse(identity, error.code, error.message)
                continue
            yield identity, message

    def refuse(self, identity: bytes, code: str, detail: str, hint: str = "") -> None:
        """Tells the sender, in the terms of its socket."""
        self._refusals.note(self._where, identity, code, detail)
        self._answer(identity, self._refusal(code, detail[:500], hint))
