"""Recordings of sessions: what was asked and answered, so that a session runs again without a
model. Pure.

A recording is a file of JSON lines: a head, then one line per request with its outcome. Where a
request is asked again is its `Place`; the answer is looked for, in this order, under the same words
(`asked`: a digest of the whole conversation), then as the same turn of the same agent at the same
task: paths, times and what commands print may differ from run to run. The session's id is never
part of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgspec

from loomd.gateway import view
from loomd.gateway.types import Resolved
from loomd.wire.bodies import Failed, Outcome, Usage
from loomd.wire.errors import LoomError

VERSION: Final = 1
MARK: Final = "loom_recording"


@dataclass(frozen=True)
class Place:
    """agent: its name in the session; turn: the number at the end of the request's id, from 1;
    asked, task: digests of the conversation and of its first message."""

    agent: str
    role: str
    purpose: str
    turn: int
    asked: str
    task: str

    def __str__(self) -> str:
        return f"turn {self.turn} of {self.agent} ({self.purpose})"


def turn_of(request: str) -> int:
    """`s-1/lead:3` -> 3; 1 for an id that counts nothing."""
    found = re.search(r"(\d+)\Z", request)
    return int(found[1]) if found else 1


def place(resolved: Resolved) -> Place:
    messages = view.chat(resolved)
    first = next((entry.text for entry in resolved.entries if entry.role == "user"), "")
    return Place(
        agent=resolved.agent.rpartition("/")[2],
        role=resolved.role,
        purpose=resolved.purpose,
        turn=turn_of(resolved.request),
        asked=_digest(messages, resolved.session),
        task=_digest(first, resolved.session),
    )


def _digest(value: Any, session: str) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if session:
        text = text.replace(session, "SESSION")
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


# --- writing -----------------------------------------------------------------------------------


def head(session: str) -> str:
    return json.dumps({MARK: VERSION, "session": session})


def line(where: Place, model: str, outcome: Outcome, usage: Usage) -> str:
    """One request and what came of it. A failure that was the end of its request is not worth
    another try when it is played back."""
    if isinstance(outcome, Failed):
        outcome = msgspec.structs.replace(outcome, retryable=False, retry_after=None)
    said = {
        **asdict(where),
        "model": model,
        "outcome": msgspec.to_builtins(outcome),
        "usage": msgspec.to_builtins(usage),
    }
    return json.dumps(said, ensure_ascii=False)


# --- reading and matching ----------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    place: Place
    outcome: Outcome
    usage: Usage


@dataclass
class Recording:
    """What `parse` has read."""

    by_words: dict[tuple[str, str], list[Recorded]] = field(default_factory=dict)
    by_turn: dict[tuple[str, str, int, str], Recorded] = field(default_factory=dict)
    by_words_of_any: dict[str, Recorded] = field(default_factory=dict)

    def add(self, one: Recorded) -> None:
        where = one.place
        self.by_words.setdefault((where.agent, where.asked), []).append(one)
        self.by_turn.setdefault((where.agent, where.purpose, where.turn, where.task), one)
        self.by_words_of_any.setdefault(where.asked, one)

    def find(self, where: Place) -> Recorded | None:
        """The same words of the same agent (of the same turn, if they were said in several), the
        same turn at the same task, or the same words of any agent."""
        same = self.by_words.get((where.agent, where.asked), [])
        at = next((one for one in same if one.place.turn == where.turn), None)
        turn = self.by_turn.get((where.agent, where.purpose, where.turn, where.task))
        return at or (same[0] if same else None) or turn or self.by_words_of_any.get(where.asked)

    def answer(self, where: Place) -> tuple[Outcome, Usage]:
        """Tokens are told as they were counted then; this time they have cost nothing."""
        found = self.find(where)
        if found is None:
            detail = f"the recording has no answer for {where}"
            hint = "it was made of another goal, or what came before went otherwise"
            return Failed(kind="malformed", detail=detail, hint=hint), Usage(cost_usd=0.0, calls=1)
        return found.outcome, msgspec.structs.replace(found.usage, cost_usd=0.0)


def parse(text: str) -> Recording:
    """Raises LoomError(config) that names the line."""
    recording = Recording()
    lines = [(n, raw) for n, raw in enumerate(text.splitlines(), 1) if raw.strip()]
    if not lines or _object(*lines[0]).get(MARK) != VERSION:
        raise LoomError(
            "config",
            f"line 1: no recording of version {VERSION}",
            "make one: loomctl record SESSION FILE",
        )
    for number, raw in lines[1:]:
        recording.add(_recorded(number, _object(number, raw)))
    return recording


def _object(number: int, raw: str) -> Mapping[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise LoomError("config", f"line {number}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise LoomError("config", f"line {number}: not an object")
    return value


def _recorded(number: int, value: Mapping[str, Any]) -> Recorded:
    names: Iterable[str] = Place.__dataclass_fields__
    try:
        where = msgspec.convert({name: value.get(name) for name in names}, Place)
        outcome: Outcome = msgspec.convert(value.get("outcome"), Outcome)
        usage = msgspec.convert(value.get("usage") or {}, Usage)
    except msgspec.ValidationError as error:
        raise LoomError("config", f"line {number}: {error}") from None
    return Recorded(where, outcome, usage)
