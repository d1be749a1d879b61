"""JSON as models write it: read where it has one meaning only. Pure.

Beyond JSON: a comma before a closing bracket, single quotes, True / False / None, line breaks
inside a string, closing brackets beyond the end. Anything else that JSON does not know is an error
with its place: a missing bracket or quote has several meanings, and one of them writes a file that
nobody meant.
"""

from __future__ import annotations

import json
import re
from typing import Any

from loomd.gateway.storable import NESTING, joined

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PLAIN = re.compile(r"[^\"'\\\x00-\x1f]+")
_WORD = re.compile(r"[A-Za-z_]+")
_ESCAPES = {
    **{"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"},
    **{"/": "/", "\\": "\\", '"': '"', "'": "'"},
}
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}
_PYTHON: dict[str, Any] = {"True": True, "False": False, "None": None}


class Unreadable(ValueError):
    """What is wrong, and at which character (from 1)."""

    def __init__(self, said: str, at: int, text: str) -> None:
        near = text[max(0, at - 20) : at + 20]
        super().__init__(f"{said} at character {at + 1}, near {near!r}")


def read(text: str) -> tuple[Any, list[str]]:
    """(value, kinds of repair). Raises Unreadable."""
    try:
        return json.loads(text), []
    except RecursionError:
        raise Unreadable(f"more than {NESTING} levels of nesting", 0, text) from None
    except ValueError:
        pass
    reader = _Reader(text)
    value = reader.value(0)
    reader.end()
    return value, list(dict.fromkeys(reader.repairs))


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.repairs: list[str] = []

    def wrong(self, said: str, at: int | None = None) -> Unreadable:
        return Unreadable(said, self.at if at is None else at, self.text)

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at : self.at + 1]

    def value(self, depth: int) -> Any:
        if depth > NESTING:
            raise self.wrong(f"more than {NESTING} levels of nesting")
        match self.peek():
            case "{":
                return self.object(depth)
            case "[":
                return self.list(depth)
            case '"' | "'":
                return self.string()
            case "":
                raise self.wrong("the text ends where a value should be")
            case _:
                return self.plain()

    def object(self, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        self.at += 1
        while not self.closes("}", bool(made)):
            if self.peek() not in ("'", '"'):
                raise self.wrong("a key in quotes is missing")
            key = self.string()
            if self.peek() != ":":
                raise self.wrong(f"the colon after the key {key!r} is missing")
            self.at += 1
            made[key] = self.value(depth + 1)
        return made

    def list(self, depth: int) -> list[Any]:
        made: list[Any] = []
        self.at += 1
        while not self.closes("]", bool(made)):
            made.append(self.value(depth + 1))
        return made

    def closes(self, bracket: str, any_yet: bool) -> bool:
        """Past the comma between two values, or past the bracket."""
        if any_yet and self.peek() == ",":
            self.at += 1
            if self.peek() == bracket:
                self.repairs.append("commas")
                self.at += 1
                return True
            return False
        if self.peek() == bracket:
            self.at += 1
            return True
        if any_yet:
            at_end = "the text ends before" if not self.peek() else "a comma is missing before"
            raise self.wrong(f"{at_end} the closing {bracket}")
        return False

    def string(self) -> str:
        begin, quote = self.at, self.text[self.at]
        if quote == "'":
            self.repairs.append("quotes")
        self.at += 1
        made: list[str] = []
        while True:
            if match := _PLAIN.match(self.text, self.at):
                made.append(match.group())
                self.at = match.end()
            char = self.text[self.at : self.at + 1]
            self.at += 1
            if char == quote:
                return joined("".join(made))
            if not char:
                raise self.wrong("the string that began has no end", begin)
            if char == "\\":
                made.append(self.escape())
                continue
            if char < " ":
                self.repairs.append("controls")
            made.append(char)

    def escape(self) -> str:
        char = self.text[self.at : self.at + 1]
        self.at += 1
        if char == "u":
            digits = self.text[self.at : self.at + 4]
            if not re.fullmatch(r"[0-9a-fA-F]{4}", digits):
                raise self.wrong("an escape \\u without its four digits", self.at - 2)
            self.at += 4
            return chr(int(digits, 16))
        if char not in _ESCAPES:
            raise self.wrong(f"the escape \\{char}, which JSON does not know,", self.at - 2)
        return _ESCAPES[char]

    def plain(self) -> Any:
        if match := _NUMBER.match(self.text, self.at):
            try:
                number = json.loads(match.group())
            except ValueError:
                raise self.wrong("a number of too many digits") from None
            self.at = match.end()
            return number
        match = _WORD.match(self.text, self.at)
        word = match.group() if match else ""
        if word in _WORDS or word in _PYTHON:
            self.at += len(word)
            if word in _PYTHON:
                self.repairs.append("literals")
            return {**_WORDS, **_PYTHON}[word]
        raise self.wrong("neither a value nor an end")

    def end(self) -> None:
        """Nothing but brackets that close what nobody opened may follow."""
        if not self.peek():
            return
        if self.text[self.at :].strip(" \t\r\n}]"):
            raise self.wrong("something follows the end of the value")
        self.repairs.append("brackets")
