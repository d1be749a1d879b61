"""Answers as they come: told to clients piece by piece, and whole to one that attaches later.

An answer has a stream of text, one of reasoning and one of arguments per call. What comes within
DELTA_S is published together, per stream; the first piece after a silence at once. `offset` counts
the characters of the stream before a piece: who has missed some sees it, and asks for the text so
far (`Streams.snapshot`). The phases of a call go the same way, for `ps`, if they last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from loomd.actor.behaviour import Stage
from loomd.gateway.classify import ANSWER_LIMIT
from loomd.gateway.types import CallPiece
from loomd.wire import topics
from loomd.wire.bodies import Perform

DELTA_S: Final = 0.05
"""Pieces of one stream are published together, at most this often."""

PHASE_S: Final = 0.1
"""A phase that is over sooner is not told: nobody could see it."""

REFRESH_S: Final = 5.0
"""Phases are said again this often: a hub that has started since knows nothing of them."""

LARGEST: Final = 4
"""Bytes of one character."""

SNAPSHOT: Final = 192 << 10
"""Bytes of text in one answer to who asks; there may be more to ask for."""


@dataclass
class Stream:
    """kind: text | reasoning | arguments (of the turn's call `call`, of tool `name`)."""

    id: str
    kind: str
    call: int = 0
    name: str = ""
    said: list[str] = field(default_factory=list)
    length: int = 0  # characters published
    kept: list[str] = field(default_factory=list)

    def take(self) -> str:
        """What is to be published now."""
        text = "".join(self.kept)
        self.kept.clear()
        if text:
            self.said.append(text)
            self.length += len(text)
        return text

    def about(self) -> dict[str, Any]:
        of_a_call = {"call": self.call, "name": self.name} if self.kind == "arguments" else {}
        return {"stream": self.id, "kind": self.kind, **of_a_call}


class Answer:
    """One start of one attempt: its streams and its phase. A `Watcher`."""

    def __init__(self, stage: Stage, order: Perform, start: int) -> None:
        self._stage = stage
        self._order = order
        self._id = f"{order.request.id}#{order.attempt}.{start}"
        self.streams: dict[str, Stream] = {}
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._flushed = float("-inf")
        self._phase = ""
        self._shown = ""  # the phase that was told last
        self._entered = 0.0
        self._telling: asyncio.TimerHandle | None = None
        self._since = 0.0
        self.unwanted = False

    @property
    def session(self) -> str:
        return self._order.request.session

    # --- what the backend tells ------------------------------------------------------------------

    def phase(self, phase: str) -> None:
        loop = asyncio.get_running_loop()
        self._phase, self._since, self._entered = phase, time.time(), loop.time()
        if self._telling is None:
            self._telling = loop.call_later(PHASE_S, self._lasts)

    def _lasts(self) -> None:
        """The phase that the call is in when one may have lasted."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._entered + PHASE_S:
            self._telling = loop.call_at(self._entered + PHASE_S, self._lasts)
        else:
            self._telling = None
            self.tell()

    def pieces(self, text: str, reasoning: str, calls: Sequence[CallPiece]) -> bool:
        if text:
            self._stream("text", "text").kept.append(text)
        if reasoning:
            self._stream("reasoning", "reasoning").kept.append(reasoning)
        for piece in calls:
            stream = self._stream(f"call.{piece.index}", "arguments", piece.index)
            stream.name = stream.name or piece.name
            stream.kept.append(piece.text)
        said = (text, reasoning, *(piece.text for piece in calls))
        self._size += sum(len(one.encode("utf-8", "replace")) for one in said)
        if self._timer is None and any(said):
            loop = asyncio.get_running_loop()
            wait = self._flushed + DELTA_S - loop.time()
            if wait <= 0:
                self.flush()
            else:
                self._timer = loop.call_later(wait, self.flush)
        return self._size <= ANSWER_LIMIT

    def cancelled(self) -> bool:
        return self.unwanted

    # --- what clients get ------------------------------------------------------------------------

    def _stream(self, key: str, kind: str, call: int = 0) -> Stream:
        if key not in self.streams:
            self.streams[key] = Stream(f"{self._id}/{key}", kind, call)
        return self.streams[key]

    def flush(self) -> None:
        """What is kept, now. At the end of the answer too."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flushed = asyncio.get_running_loop().time()
        for stream in self.streams.values():
            offset = stream.length
            if text := stream.take():
                self._publish("delta", {**stream.about(), "offset": offset, "text": text})

    def end(self) -> None:
        """Nothing more comes."""
        self.flush()
        if self._telling is not None:
            self._telling.cancel()
        self._phase, self._since = "", time.time()
        if self._shown:
            self.tell()

    def tell(self) -> None:
        """The phase, to the hub: "": it has ended."""
        self._shown = self._phase
        data = {"phase": self._phase, "since": self._since, "model": self._order.model}
        self._publish("call", data)

    def _publish(self, type: str, data: Mapping[str, Any]) -> None:
        request = self._order.request
        named = {"agent": request.agent, "request": request.id, "attempt": self._order.attempt}
        self._stage.publish(topics.deltas(request.session), {"type": type, **named, **data})

    def so_far(self, have: Mapping[str, int], room: int) -> tuple[list[dict[str, Any]], int]:
        """Of each stream what is published and comes after the characters that they `have`, as
        deltas of at most `room` bytes together; and the room that is left."""
        found = []
        request = self._order.request
        named = {"agent": request.agent, "request": request.id, "attempt": self._order.attempt}
        for stream in self.streams.values():
            offset = max(0, have.get(stream.id, 0))
            text = "".join(stream.said)[offset:] if offset < stream.length else ""
            # What does not fit is asked for with more `have`; less than a character is left then.
            text = text.encode()[:room].decode("utf-8", "ignore")
            if text:
                room -= len(text.encode())
                about = {**stream.about(), "offset": offset, "text": text}
                found.append({"type": "delta", **named, **about})
        return found, room


class Streams:
    """The answers under way here."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._open: dict[str, Answer] = {}
        self._timer: asyncio.TimerHandle | None = None

    def open(self, effect: str, order: Perform, start: int) -> Answer:
        self._open[effect] = answer = Answer(self._stage, order, start)
        if self._timer is None:
            self._refresh_later()
        return answer

    def unwanted(self, effect: str) -> bool:
        """It is being cancelled by who has asked for it; False: it was before."""
        answer = self._open[effect]
        before, answer.unwanted = answer.unwanted, True
        return not before

    def close(self, effect: str) -> None:
        if answer := self._open.pop(effect, None):
            answer.end()
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refresh_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(REFRESH_S, self._refresh)

    def _refresh(self) -> None:
        for answer in self._open.values():
            answer.tell()
        self._refresh_later()

    def snapshot(self, session: str, have: Mapping[str, int], among: int = 1) -> dict[str, Any]:
        """{deltas, more}: what of the session's answers is published and not yet had. `more`: ask
        again, with the ends of these. `among`: how many gateways share a reply."""
        room, found = max(LARGEST, SNAPSHOT // max(1, among)), []
        for answer in self._open.values():
            if answer.session == session:
                deltas, room = answer.so_far(have, room)
                found += deltas
        return {"deltas": found, "more": room < LARGEST}
