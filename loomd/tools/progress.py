"""What a call says while it runs: pieces of its output for whoever looks on. May be lost.

Pieces are put together, at most RATE a second, and of much in a short time only the last is said.
`offset`: bytes of the output before this piece, so that who missed some knows it.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable
from typing import Final

PIECE_S: Final = 0.05
"""As with the deltas of a model's answer."""

PIECE: Final = 8 << 10
"""Bytes that are said at once."""

Say = Callable[[str, int], None]


class Progress:
    """Takes the output of one command and says it by `say(text, offset)`."""

    def __init__(self, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._kept = bytearray()
        self._offset = 0
        self._next = 0.0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 4 * PIECE:
            self._skip()
        self.tick()

    def due(self) -> float:
        """When `tick` has something to say; never, if nothing is kept."""
        return self._next if self._kept else float("inf")

    def tick(self) -> None:
        if self._kept and self._clock() >= self._next:
            self.flush()

    def flush(self) -> None:
        """What is kept, now. At the end too."""
        if len(self._kept) > PIECE:
            self._skip()
        if not self._kept:
            return
        text = self._decoder.decode(bytes(self._kept))
        offset, self._offset = self._offset, self._offset + len(self._kept)
        self._kept.clear()
        self._next = self._clock() + PIECE_S
        if text:
            self._say(text, offset)

    def _skip(self) -> None:
        left = len(self._kept) - PIECE
        self._offset += left
        del self._kept[:left]
        self._decoder.reset()
