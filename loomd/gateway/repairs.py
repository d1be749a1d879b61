"""What was mended in an answer, by its kind. Only what leaves no choice is mended; the rest is said
to the model. Each repair is in the outcome and in the event `model_outcome`. Pure."""

from __future__ import annotations

from loomd.wire.bodies import Repair

KINDS: dict[str, str] = {
    # of a call's place
    "id": "the call had no id, or the id of another call",
    "index": "the call had no place of its own among the calls",
    "legacy": "the call came as function_call",
    "repeated": "a piece that had come before was left out",
    "parallel": "several calls were wrapped into one",
    "written": "the call was written into the text",
    # of a call's name
    "case": "the tool's name was written in another case",
    "namespace": "the tool's name had something before or behind it",
    # of a call's arguments
    "null": "null for no arguments",
    "object": "an object for its JSON text",
    "encoded": "the arguments were JSON in a string of JSON",
    "fence": "the arguments were in a code fence",
    "controls": "line breaks or tabs stood unescaped in a string",
    "commas": "a comma before a closing bracket",
    "quotes": "single quotes",
    "literals": "True, False or None of Python",
    "brackets": "closing brackets beyond the end",
    # of the answer
    "finish": "the reason given for its end contradicts what it holds",
    "characters": "bytes or escapes that are no character",
    "whole": "the answer came whole where a stream was asked for",
}


class Repairs:
    """Those of one answer, in order, each told once a call."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, int], Repair] = {}

    def note(self, kind: str, call: int = 0, detail: str = "") -> None:
        assert kind in KINDS, kind
        self._made.setdefault((kind, call), Repair(kind=kind, call=call, detail=detail[:200]))

    def all(self) -> tuple[Repair, ...]:
        return tuple(self._made.values())
