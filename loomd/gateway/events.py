"""A server's bytes put apart into the JSON objects that it sent. Pure: bytes in, plain dicts out.

Streams (`data: {...}`) with comments, any line ends, several events in one packet or one event in
many; and whole bodies (one JSON object) from servers that were asked for one, or that do not
stream. What is neither is kept in `garbage`, for the one who must say what came instead.

Bytes that are no UTF-8 become lone surrogates (as os.fsdecode does): a character whose bytes were
cut into two events is whole again once the pieces are joined (loomd.gateway.storable).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

GARBAGE_LIMIT = 4000
"""Characters that are kept of what is no answer."""

EVENT_LIMIT = 4 << 20
RECEIVED_LIMIT = 64 << 20
"""Bytes of one event (or body), and of all of them: a server may send without end."""

DONE = "[DONE]"


@dataclass
class Events:
    """`feed` every packet, then `end` once. `streamed`: whether any event came (else: a body).
    `done`: the server said that its stream is over; what comes after that is not read. `broken`:
    an event was no object, so that something is missing. `over`: there is too much of it, and no
    more should be fed."""

    garbage: str = ""
    broken: bool = False
    streamed: bool = False
    done: bool = False
    over: bool = False
    _received: int = 0
    _rest: bytes = b""
    _began: bool = False
    _body: list[bytes] = field(default_factory=list)
    _is_body: bool = False
    _data: list[str] = field(default_factory=list)
    _skip_newline: bool = False

    def feed(self, packet: bytes) -> list[dict[str, Any]]:
        """The objects that are complete with this packet."""
        self._received += len(packet)
        if not self._began:
            packet = self._rest = (self._rest + packet).removeprefix(b"\xef\xbb\xbf").lstrip()
            if not packet:
                return []
            self._began, self._rest = True, b""
            # A field of an event begins with a letter, or with a colon if it is a comment.
            self._is_body = packet[:1] in (b"{", b"[", b"<")
        if self._is_body:
            self._body.append(packet)
            self.over = self._received > EVENT_LIMIT
            return []
        made = [one for line in self._lines(packet) for one in self._line(line)]
        self.over = len(self._rest) > EVENT_LIMIT or self._received > RECEIVED_LIMIT
        return made

    def end(self) -> list[dict[str, Any]]:
        """What the last bytes were, after which nothing comes."""
        if self.over:
            return []
        if self._is_body:
            body = _text(b"".join(self._body))
            lines = [_json(line) for line in body.splitlines() if line.strip()]
            if len(lines) > 1 and all(lines):  # one object a line
                self.streamed = True
                return [line for line in lines if line is not None]
            return self._parsed(body)
        # The last blank line is often forgotten; an event that was cut is no JSON and is dropped.
        rest, self._rest = self._rest, b""
        made = list(self._line(rest)) if rest else []
        if self._data and not self.done:
            data, self._data = "\n".join(self._data), []
            if data.strip() != DONE and (value := _json(data)) is not None:
                self.streamed = True
                made.append(value)
        return made

    def _lines(self, packet: bytes) -> Iterator[bytes]:
        """Lines end with LF, CR or CRLF; a CR at a packet's end may be half of one."""
        if self._skip_newline and packet:
            self._skip_newline = False
            packet = packet.removeprefix(b"\n")
        buffer = self._rest + packet
        self._skip_newline = buffer.endswith(b"\r")
        lines = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop()
        yield from lines

    def _line(self, line: bytes) -> Iterator[dict[str, Any]]:
        if self.done:
            return
        if not line:
            data, self._data = "\n".join(self._data), []
            if data.strip() == DONE:
                self.done = self.streamed = True
            elif data.strip():
                self.streamed = True
                yield from self._parsed(data)
            return
        name, colon, value = line.partition(b":")
        if name == b"data":
            self._data.append(_text(value.removeprefix(b" ")))
        elif name and not (colon and name in (b"event", b"id", b"retry")):
            self._note(_text(line))

    def _parsed(self, text: str) -> list[dict[str, Any]]:
        value = _json(text)
        if value is not None:
            return [value]
        self.broken = True
        self._note(text)
        return []

    def _note(self, text: str) -> None:
        self.garbage = (self.garbage + text + "\n")[:GARBAGE_LIMIT]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


_DECODER: Final = json.JSONDecoder(strict=False)
"""Made once: `json.loads` makes one for each text that is not read strictly."""


def _json(text: str) -> dict[str, Any] | None:
    """The object, or the only one of a list; None for anything else."""
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, dict) else None
