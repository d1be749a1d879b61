"""What a message can hold, and what of a provider's answer cannot be. Pure.

`joined`      characters that were cut between two pieces are whole again
`characters`  the same, and what remains of halves is U+FFFD
`odd`         what in a call's arguments no message can hold
"""

from __future__ import annotations

import math
import re
from typing import Any

NESTING = 64
"""Levels of a call's arguments."""

INTEGERS = (-(1 << 63), (1 << 64) - 1)
"""The smallest and the largest that a message holds."""

_HALVES = re.compile("[\ud800-\udfff]")
_BYTES = re.compile("[\udc80-\udcff]+")


def joined(text: str) -> str:
    """Two halves of a surrogate pair that stand together are one character (a stream may cut
    between them), and so are escaped bytes (see loomd.gateway.events) that are UTF-8 together."""
    if not _HALVES.search(text):
        return text
    paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return _BYTES.sub(_decoded, paired)


def _decoded(match: re.Match[str]) -> str:
    raw = match.group().encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "surrogateescape")


def characters(text: str) -> str:
    """The text without halves of characters: what cannot be joined is U+FFFD."""
    return _HALVES.sub("\ufffd", joined(text))


def odd(value: Any, depth: int = 0) -> str:
    """What in a call's arguments no message can hold, for the model; "" if there is nothing. Not
    mended as texts are: a file would be written with what nobody meant."""
    match value:
        case str():
            half = _HALVES.search(value)
            return "half of a character (a single \\ud800 to \\udfff)" if half else ""
        case float() if not math.isfinite(value):
            return f"{value}, which is no number of JSON"
        case int() if not INTEGERS[0] <= value <= INTEGERS[1]:
            return "an integer of more than 64 bits"
        case dict() | list() if depth >= NESTING:
            return f"more than {NESTING} levels of nesting"
        case dict():
            inner = [*value.keys(), *value.values()]
        case list():
            inner = value
        case _:
            return ""
    return next((said for one in inner if (said := odd(one, depth + 1))), "")
