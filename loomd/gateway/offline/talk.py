"""The conversation as a policy sees it, and what a policy says. Pure.

A policy is a state machine without a state: what it must remember between turns (`memory`, plain
JSON-able data) travels in the reasoning of its last turn, so that it also survives when older
entries have left the view. `follow` finds it, or runs the policy again from the task.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from loomd.gateway.types import Resolved
from loomd.wire.bodies import Call, Entry, Failed, FinalAnswer, Outcome, ToolCalls

Memory = dict[str, Any]

MEMORY_LIMIT = 46_000
"""Bytes of memory in one turn's reasoning: agents keep 48,000."""

PLAIN_LIMIT = 12_000
"""Bytes of data in a text that are left readable; more is compressed."""

TASK_START = 1000
"""Characters of a task by which its entry is known: what is pinned may be cut."""

_MARK = "offline/rules:"


@dataclass(frozen=True)
class Result:
    """What came of one call. `text` "" and `ok` False if it is not in view."""

    name: str
    args: dict[str, Any]
    text: str
    ok: bool
    error: str = ""


@dataclass(frozen=True)
class Turn:
    """Calls to make (name, args), a word on them, and what to remember."""

    calls: Sequence[tuple[str, dict[str, Any]]]
    text: str
    memory: Memory


@dataclass
class Talk:
    """The part of the conversation that belongs to the task in hand.

    `said`: what people and the team said in it, in order. `turns`: the assistant's turns with the
    results of their calls, `heard`: how many of `said` stood before each. `answered`: the answer to
    the task in hand, if something was said while it was on its way, so that the talk goes on.
    """

    said: list[Entry] = field(default_factory=list)
    turns: list[tuple[Entry, list[Result]]] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)
    tools: frozenset[str] = frozenset()
    parameters: dict[str, frozenset[str]] = field(default_factory=dict)
    team_size: int = 1
    task: str = ""
    answered: str = ""

    def has(self, tool: str) -> bool:
        return tool in self.tools

    def takes(self, tool: str, parameter: str) -> bool:
        return parameter in self.parameters.get(tool, frozenset())


def read_talk(resolved: Resolved) -> Talk:
    entries, answered = _current(resolved)
    results = {e.call: e for e in entries if e.role == "tool"}
    pinned = "\n".join(resolved.pinned)
    size = re.search(r"^Team size: (\d+)", pinned, re.MULTILINE)
    talk = Talk(
        tools=frozenset(tool.name for tool in resolved.tools),
        parameters={
            tool.name: frozenset(tool.parameters.get("properties", {})) for tool in resolved.tools
        },
        team_size=int(size.group(1)) if size else 1,
        task=_pinned_task(resolved),
        answered=answered,
    )
    for entry in entries:
        if entry.role == "user" and (resolved.role != "lead" or not _peer(entry, talk.task)):
            talk.said.append(entry)
        elif entry.role == "assistant" and entry.calls:
            talk.turns.append(
                (entry, [_result(call, results.get(call.id)) for call in entry.calls])
            )
            talk.heard.append(len(talk.said))
    return talk


def _result(call: Call, entry: Entry | None) -> Result:
    if entry is None:
        return Result(call.name, call.args, "", False)
    return Result(call.name, call.args, entry.text, entry.ok, entry.error)


def _peer(entry: Entry, task: str) -> bool:
    """Said by another agent, and not the task in hand: no goal, whatever it looks like."""
    if "/" not in entry.sender or entry.sender.endswith("/team"):
        return False
    return not task or entry.text[:TASK_START] != task[:TASK_START]


def _pinned_task(resolved: Resolved) -> str:
    for block in reversed(resolved.pinned):
        if match := re.match(r"Task [^\s:]+: ", block):
            return block[match.end() :]
    return ""


def _current(resolved: Resolved) -> tuple[Sequence[Entry], str]:
    """The entries since the last answer, or since the task in hand was given (after a failure
    nothing in the log says that the earlier task has ended); and the answer to that task, if there
    is one."""
    entries = resolved.entries
    start, answered = 0, ""
    task = _pinned_task(resolved)[:TASK_START]
    for i, entry in enumerate(entries):
        if entry.role == "assistant" and not entry.calls:
            start = i + 1
            answered = entry.text if task else ""
        elif task and entry.role == "user" and entry.text[: len(task)] == task:
            start = max(start, i)
            answered = ""
    return entries[start:], answered


# --- memory ------------------------------------------------------------------------------------


def pack(memory: Memory) -> str:
    return _MARK + _small(memory)


def unpack(reasoning: str) -> Memory | None:
    return _large(reasoning[len(_MARK) :]) if reasoning.startswith(_MARK) else None


def _small(value: Memory) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def _large(text: str) -> Memory | None:
    try:
        value: Any = json.loads(zlib.decompress(base64.b85decode(text)))
    except (ValueError, zlib.error, binascii.Error):
        return None
    return value if isinstance(value, dict) else None


Move = Turn | FinalAnswer | Failed
Step = Callable[[Memory, list[Result], list[str]], Move]
"""(memory, results of the last turn, what was said since) -> what to do. Memory {}: the start."""


def follow(step: Step, talk: Talk, request: str = "") -> Outcome:
    """Runs a policy to the end of the conversation and gives its next move."""
    first, memory, heard = 0, {}, 0
    for i in reversed(range(len(talk.turns))):
        known = unpack(talk.turns[i][0].reasoning)
        if known is not None:
            first, memory, heard = i, known, talk.heard[i]
            break
    else:
        move = step({}, [], [e.text for e in talk.said[: talk.heard[0]]] if talk.turns else
                    [e.text for e in talk.said])  # fmt: skip
        if not talk.turns or not isinstance(move, Turn):
            return _outcome(move, request)
        memory, heard = move.memory, talk.heard[0]
    for i in range(first, len(talk.turns)):
        until = talk.heard[i + 1] if i + 1 < len(talk.turns) else len(talk.said)
        said = [entry.text for entry in talk.said[heard:until]]
        move = step(memory, talk.turns[i][1], said)
        if not isinstance(move, Turn):
            break
        memory, heard = move.memory, until
    return _outcome(move, request)


def _outcome(move: Move, request: str) -> Outcome:
    if not isinstance(move, Turn):
        return move
    reasoning = pack(move.memory)
    if len(reasoning) > MEMORY_LIMIT:
        return Failed(
            kind="too_large",
            detail="this repo has more places of that name than offline/rules can keep in mind",
            hint="name the module: `rename pkg.module:name to new_name`, or use a real model",
        )
    return calls(move.calls, move.text, request, reasoning)


def calls(
    made: Sequence[tuple[str, dict[str, Any]]], text: str, request: str, reasoning: str = ""
) -> ToolCalls:
    numbered = tuple(
        Call(id=f"{request or 'call'}.{n}", name=name, args=args, provider_id=f"call_{n}")
        for n, (name, args) in enumerate(made, 1)
    )
    return ToolCalls(calls=numbered, text=text, reasoning=reasoning)


# --- data inside a text ------------------------------------------------------------------------

_FENCE = re.compile(r"```json\n(.*?)\n```", re.DOTALL)


def data_of(text: str, job: str) -> Memory | None:
    """The last fenced JSON object of that job in a text."""
    found = [block for block in _blocks(text) if block.get("job") == job]
    if not found:
        return None
    packed = found[-1].get("packed")
    return _large(packed) if isinstance(packed, str) else found[-1]


def _blocks(text: str) -> Iterator[dict[str, Any]]:
    for match in _FENCE.finditer(text):
        try:
            value = json.loads(match.group(1))
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def with_data(text: str, data: dict[str, Any]) -> str:
    # Reports are cut at 48,000 bytes, which for data would be its end.
    if len(json.dumps(data).encode()) > PLAIN_LIMIT:
        data = {"job": data["job"], "packed": _small(data)}
    # No line of the data may look like the fence's end.
    body = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("```", "\\u0060``")
    return f"{text}\n```json\n{body}\n```"


def without_data(text: str) -> str:
    return _FENCE.sub("", text).strip()


def plural(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
