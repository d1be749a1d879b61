"""Runs the tests and says what came of them. Pure."""

from __future__ import annotations

import re

from loomd.gateway.offline.lead import TESTS
from loomd.gateway.offline.results import tests
from loomd.gateway.offline.talk import Memory, Move, Result, Talk, Turn, with_data
from loomd.wire.bodies import Failed, FinalAnswer


def tester(talk: Talk, memory: Memory, results: list[Result], said: list[str]) -> Move:
    """Runs the command that stands in backquotes in the task, else pytest."""
    if not memory:
        if not talk.has("shell"):
            return Failed(kind="unknown_task", detail="no shell to run tests with")
        named = next(
            (m for m in (re.search(r"`([^`\n]*pytest[^`\n]*)`", t) for t in said) if m), None
        )
        command = named.group(1) if named else TESTS
        return Turn([("shell", {"command": command})], f"Running {command}.", {"command": command})
    result = results[0]
    came = tests(result.text, result.ok)
    data = {"job": "tested", "state": came.state, "failed": came.failed, "passed": came.passed}
    tail = "" if came.state == "passed" else "\n" + result.text[-4000:]
    return FinalAnswer(text=with_data(f"`{memory['command']}`: {came.said()}{tail}", data))
