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


class AskUser(Arguments, frozen=True, kw_only=True):
    question: str
    options: tuple[str, ...] = ()


class Assign(Arguments, frozen=True, kw_only=True):
    task: str
    to: str


class Answer(Arguments, frozen=True, kw_only=True):
    text: str
    question: str = ""


class CastVote(Arguments, frozen=True, kw_only=True):
    title: str = ""
    options: tuple[str, ...] = ()
    choice: str = ""
    vote: str = ""
    quorum: int = 0
    close_s: float = 300.0


class RevisePlan(Arguments, frozen=True, kw_only=True):
    steps: tuple[str, ...]
    reason: str
    version: int = 0


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


Parsed = (
    Spawn
    | Assign
    | SendTo
    | AskFor
    | AskUser
    | Answer
    | Share
    | ClaimRegion
    | Decide
    | CastVote
    | RevisePlan
    | RecallFor
    | Review
)

SHAPES: Final[dict[str, type[Parsed]]] = {
    "spawn": Spawn,
    "assign": Assign,
    "send": SendTo,
    "ask": AskFor,
    "answer": Answer,
    "ask_user": AskUser,
    "share": Share,
    "claim": ClaimRegion,
    "decide": Decide,
    "vote": CastVote,
    "revise_plan": RevisePlan,
    "recall": RecallFor,
    "review": Review,
}

_LISTS: Final = frozenset({"options", "requires", "blocks", "enables", "supersedes", "steps"})


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
    for field in msgspec.structs.fields(shape):
        value = getattr(parsed, field.name)
        texts = (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ()
        if isinstance(value, str) and not value.strip() and field.default != "":
            raise BadArguments(f"{name}: {field.name} is empty")
        if sum(map(len, texts)) > TEXT_LIMIT:
            raise BadArguments(f"{name}: {field.name} is longer than {TEXT_LIMIT} characters")
    return parsed


def exact(query: str) -> tuple[str, int, int] | None:
    """(keeper, first, last) if the query cites entries: `keeper-1:5` or `keeper-1:5-9`."""
    found = _EXACT.fullmatch(query.strip())
    if found is None:
        return None
    return found[1], int(found[2]), int(found[3] or found[2])
