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


def complete(sent: str) -> bool:
    """Is this a whole object already? What comes after it belongs to another call."""
    text = sent.strip()
    if not text.endswith(("}", '"', "```")):
        return False
    try:
        value, _ = _read(text)
    except Unreadable:
        return False
    return isinstance(value, dict)


def _shown(sent: Any) -> str:
    text = characters(sent if isinstance(sent, str) else repr(sent))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
