"""A call's arguments: JSON text, in all the forms in which models and servers send it -> an object,
or what is wrong with it, said so that the model can write it again. Pure."""

from __future__ import annotations

import re
from typing import Any

from loomd.gateway.lenient import Unreadable, read
from loomd.gateway.storable import characters, joined, odd

SHOWN = 300
"""Characters of what was sent, in an error."""

ENCODINGS = 3
"""How often arguments may have been put into a string."""

_FENCE = re.compile(r"\A```[A-Za-z]*\s*\n?(.*?)\s*```\Z", re.DOTALL)


def arguments(sent: Any) -> tuple[dict[str, Any], str, list[str]]:
    """(arguments, error, kinds of repair). No argument at all is an empty object."""
    match sent:
        case None:
            return {}, "", []
        case dict():
            made, repairs = sent, ["object"]
        case str():
            try:
                made, repairs = _read(joined(sent).strip())
            except Unreadable as error:
                return {}, f"the arguments are not JSON: {error}. Sent: {_shown(sent)}", []
        case _:
            made, repairs = sent, []
    if not isinstance(made, dict):
        kind = {list: "a list", str: "a string", bool: "true or false"}.get(type(made), "a number")
        return {}, f"the arguments are {kind}, not an object: {_shown(sent)}", []
    if said := odd(made):
        return {}, f"the arguments hold {said}", []
    return made, "", repairs


def _read(text: str) -> tuple[Any, list[str]]:
    repairs: list[str] = []
    if not text:
        return {}, repairs
    if match := _FENCE.match(text):
        text = match.group(1)
        repairs.append("fence")
    value: Any = text
    for layer in range(ENCODINGS):
        if not isinstance(value, str):
            break
        if layer and not value.strip():
            value = {}
        else:
            value, mended = read(value)
            repairs += mended
        if layer:
            repairs.append("encoded")
    if value is None:
        return {}, [*repairs, "null"]
    return value, list(dict.fromkeys(repairs))


class Extent:
    """Where arguments that come in pieces end: what comes after it belongs to another call. Each
    piece is looked at once."""

    def __init__(self) -> None:
        self.ended = False
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def feed(self, piece: str) -> None:
        for char in piece:
            if self._quote:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == self._quote:
                    self._quote = ""
                    self.ended = self.ended or not self._depth
            elif char in "\"'":
                self._quote = char
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                self.ended = self.ended or not self._depth


def _shown(sent: Any) -> str:
    text = characters(sent if isinstance(sent, str) else repr(sent))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
