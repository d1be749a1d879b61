"""Answers of models as they come, without a hole and without a repeat.

Published pieces may be lost, and a client may come when half of an answer is out. Each piece says
how many characters of its stream are before it: what was had already is cut off, and at a hole the
daemon is asked for what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

Delta = dict[str, Any]
Ask = Callable[[dict[str, int]], Mapping[str, Any]]
"""have -> {deltas, more}: see loomd.gateway.streams."""

MOST: Final = 2048
"""Streams that are remembered, those of long ago forgotten first."""


class Answers:
    """`ask` gets the text so far from the daemon."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._have: dict[str, int] = {}

    def catch_up(self) -> Iterator[Delta]:
        """What is out and not had yet, of all streams."""
        while True:
            said = self._ask(dict(self._have))
            pieces = list(self._new(said["deltas"]))
            yield from pieces
            if not said["more"] or not pieces:
                return

    def take(self, delta: Delta) -> Iterator[Delta]:
        """A published piece, after what is missing before it. What is no piece of an answer passes.
        A hole that nobody can fill (the answer has ended meanwhile, and is in the log) stays."""
        stream = delta.get("stream")
        if not isinstance(stream, str):
            yield delta
            return
        if int(delta["offset"]) > self._have.get(stream, 0):
            yield from self.catch_up()
        yield from self._new([delta])

    def _new(self, deltas: Iterable[Delta]) -> Iterator[Delta]:
        for delta in deltas:
            stream, offset, text = str(delta["stream"]), int(delta["offset"]), str(delta["text"])
            had = self._have.pop(stream, 0)
            self._have[stream] = max(had, offset + len(text))
            while len(self._have) > MOST:
                del self._have[next(iter(self._have))]
            if fresh := text[max(0, had - offset) :]:
                yield {**delta, "offset": max(offset, had), "text": fresh}
