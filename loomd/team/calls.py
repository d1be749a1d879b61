"""Arguments of the team's tools, checked: from what a model wrote to what a handler takes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

TEXT_LIMIT: Final = 200_000

_EXACT: Final = re.compile(r"(?:\S*/)?(keeper-\d+):(\d{1,9})(?:-(\d{1,9}))?")


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base: an unknown argument is an error that the model is told."""


class Spawn(Arguments, frozen=True, kw_only=True):
    role: str
    task: str


class SendTo(Arguments, frozen=True, kw_only=True):
    to: str
    text: str


class AskFor(Arguments, frozen=True, kw_only=True):
    question: str
    to: str = "user"


class Share(Arguments, frozen=True, kw_only=True):
    text: str


class ClaimRegion(Arguments, frozen=True, kw_only=True):
    path: str
    region: str = ""


class Decide(Arguments, frozen=True, kw_only=True):
    title: str
    kind: str = "decision"
    text: str = ""
    options: tuple[str, ...] = ()
    chosen: str = ""
    because: str = ""
    requires: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    enables: tuple[str, ...] = ()
    supersedes: tuple[str, ...] = ()


class RecallFor(Arguments, frozen=True, kw_only=True):
    query: str


class Review(Arguments, frozen=True, kw_only=True):
    edit: str
    verdict: str
    reason: str = ""


Parsed = Spawn | SendTo | AskFor | Share | ClaimRegion | Decide | RecallFor | Review

SHAPES: Final[dict[str, type[Parsed]]] = {
    "spawn": Spawn,
    "send": SendTo,
    "ask": AskFor,
    "share": Share,
    "claim": ClaimRegion,
    "decide": Decide,
    "recall": RecallFor,
    "review": Review,
}

_LISTS: Final = frozenset({"options", "requires", "blocks", "enables", "supersedes"})
_MAY_BE_EMPTY: Final = frozenset({"region", "reason", "text", "chosen", "because"})


class BadArguments(ValueError):
    """What is wrong with a call; said to the model."""


def parse(name: str, args: Mapping[str, Any]) -> Parsed:
    """The checked arguments of one of the team's tools. BadArguments."""
    shape = SHAPES.get(name)
    if shape is None:
        raise BadArguments(f"no such tool: {name}")
    given: dict[str, Any] = {}
    for key, value in args.items():
        if key in _LISTS and isinstance(value, str):
            value = [value] if value else []  # a model's usual slip
        if value is not None:
            given[key] = value
    try:
        parsed = msgspec.convert(given, shape)
    except msgspec.ValidationError as error:
        raise BadArguments(f"{name}({', '.join(shape.__struct_fields__)}): {error}") from None
    required = set(shape.__struct_fields__) - _LISTS
    for field in required - (_MAY_BE_EMPTY if not isinstance(parsed, SendTo | Share) else set()):
        value = getattr(parsed, field)
        if isinstance(value, str) and not value.strip():
            raise BadArguments(f"{name}: {field} is empty")
    for field in required:
        if len(getattr(parsed, field)) > TEXT_LIMIT:
            raise BadArguments(f"{name}: {field} is longer than {TEXT_LIMIT} characters")
    return parsed


def exact(query: str) -> tuple[str, int, int] | None:
    """(keeper, first, last) if the query cites entries: `keeper-1:5` or `keeper-1:5-9`."""
    found = _EXACT.fullmatch(query.strip())
    if found is None:
        return None
    return found[1], int(found[2]), int(found[3] or found[2])
