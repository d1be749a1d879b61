"""Scripts: answers written beforehand, for tests and for trying something out. Pure.

A script is a file of JSON lines, `#` begins a comment line. A line says whom it answers (`agent`,
`role`, `purpose`; left out: anybody), and what: `text`, `reasoning`, `calls` ([{name, args}]) or
`fail` ({kind, detail, retryable, retry_after}). With `contains` it answers a request whose newest
message has this text in it, as often as it comes, and before all others; without, the lines of an
agent are its turns, in order. `delay_s`: before the answer; `piece`, `every_s`: its text streamed
in pieces of so many characters. Nothing is counted, so nothing is lost with a process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from loomd.gateway.replay import turn_of
from loomd.gateway.storable import odd
from loomd.gateway.types import Resolved
from loomd.wire.bodies import Call, Failed, FinalAnswer, Outcome, ToolCalls
from loomd.wire.errors import LoomError

Kind = Literal[
    "rate_limited", "overloaded", "timeout", "context_overflow", "auth", "quota", "refused",
    "filtered", "malformed", "empty", "network", "server", "unknown_model", "unknown_goal",
]  # fmt: skip


class Called(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    args: dict[str, Any] = {}


class Fail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: Kind
    detail: str = "the script says so"
    retryable: bool = False
    retry_after: float | None = None


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See the module."""

    agent: str = ""
    role: str = ""
    purpose: str = ""
    contains: str = ""
    text: str = ""
    reasoning: str = ""
    calls: tuple[Called, ...] = ()
    fail: Fail | None = None
    delay_s: float = 0.0
    piece: int = 0
    every_s: float = 0.05

    def outcome(self) -> Outcome:
        if self.fail is not None:
            one = self.fail
            return Failed(
                kind=one.kind,
                detail=one.detail,
                retryable=one.retryable,
                retry_after=one.retry_after,
            )
        if self.calls:
            calls = tuple(Call(id="", name=call.name, args=call.args) for call in self.calls)
            return ToolCalls(calls=calls, text=self.text, reasoning=self.reasoning)
        return FinalAnswer(text=self.text, reasoning=self.reasoning)


@dataclass(frozen=True)
class Script:
    """What `parse` has read."""

    lines: tuple[Line, ...]

    def find(self, resolved: Resolved) -> Line | None:
        agent = resolved.agent.rpartition("/")[2]
        mine = [
            line
            for line in self.lines
            if line.agent in ("", agent)
            and line.role in ("", resolved.role)
            and line.purpose in ("", resolved.purpose)
        ]
        newest = resolved.entries[-1].text if resolved.entries else ""
        for line in mine:
            if line.contains and line.contains in newest:
                return line
        turns = [line for line in mine if not line.contains]
        turn = turn_of(resolved.request)
        return turns[turn - 1] if 1 <= turn <= len(turns) else None

    def answer(self, resolved: Resolved) -> Line:
        """A failure if the script has nothing for it."""
        found = self.find(resolved)
        if found is not None:
            return found
        who = resolved.agent.rpartition("/")[2] or resolved.role
        detail = f"the script has no answer for turn {turn_of(resolved.request)} of {who}"
        return Line(fail=Fail("malformed", detail))


def parse(text: str) -> Script:
    """Raises LoomError(config) that names the line."""
    lines = []
    for number, raw in enumerate(text.splitlines(), 1):
        if not raw.strip() or raw.lstrip().startswith("#"):
            continue
        try:
            value = json.loads(raw)
            if said := odd(value):
                raise LoomError("config", f"line {number}: it holds {said}")
            line = msgspec.convert(value, Line)
        except (ValueError, RecursionError) as error:
            raise LoomError("config", f"line {number}: {error}") from None
        if not (line.text or line.calls or line.fail or line.reasoning):
            raise LoomError("config", f"line {number}: it answers nothing")
        if line.delay_s < 0 or line.every_s < 0 or line.piece < 0:
            raise LoomError("config", f"line {number}: a negative number")
        lines.append(line)
    return Script(tuple(lines))
