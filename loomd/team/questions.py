"""What agents ask. A person's answer the hub takes and writes into the row; one of another agent
(`to`) comes through its tool `answer`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

TEXT_LIMIT: Final = 8_000


class Question(msgspec.Struct, kw_only=True):
    """A row of `questions`, as clients see it. `id` is unique among all sessions.

    kind   question: a person's to answer; state open, then answered or closed
           inquiry: the agent `to`'s; state asked, then answered or closed
    """

    id: str
    session: str
    actor: str  # who gets the Decision: the team
    agent: str
    call: str
    text: str
    kind: str = "question"
    tool: str = "ask"
    args: dict[str, Any] = msgspec.field(default_factory=dict)
    state: str = "open"
    asked: float = 0.0
    by: str = ""
    allow: bool | None = None
    to: str = ""


def question_id(session: str, number: int) -> str:
    """`ask-4f2a1c-1` for the first question of session `s-4f2a1c`."""
    return f"ask-{session.removeprefix('s-')}-{number}"


def with_options(text: str, options: Sequence[str]) -> str:
    """The question as a person reads it: the options numbered below it."""
    return "\n".join([text, *(f"{n}. {option}" for n, option in enumerate(options, 1))])


def chosen(question: Question, answer: str) -> str:
    """What the agent is told: an option for its number, else the answer as it was given."""
    options = question.args.get("options") or ()
    number = answer.strip().removesuffix(".")
    if number.isascii() and number.isdigit() and 1 <= int(number) <= len(options):
        return str(options[int(number) - 1])
    return answer or "yes"


def row(question: Question) -> dict[str, Any]:
    plain = msgspec.to_builtins(question)
    assert isinstance(plain, dict)
    return plain


def from_row(value: Any) -> Question:
    return msgspec.convert(value, Question)
