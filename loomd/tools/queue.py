"""Which of the calls that wait may start. Pure.

A call waits for those of its turn that write the same file (`after`), for others of a tool that
says `exclusive`, and for room: a session runs `session_calls` at once, and where the daemon has no
slot left (`loomd.tools.slots`) all that come wait behind the one that waits for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

SESSION_CALLS: Final = 16
DAEMON_CALLS: Final = 64


@dataclass(frozen=True)
class Queued:
    """A call that is allowed and waits. n: the order in which they came."""

    id: str
    n: int
    agent: str
    tool: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Running:
    """A call under way. n: its place in line, should the daemon have no slot for it."""

    agent: str
    tool: str
    n: int = 0


def exclusive(tools: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    row = tools.get(name)
    return row is not None and bool(row.get("exclusive"))


def obstacle(
    call: Queued,
    earlier: Iterable[Queued],
    running: Iterable[Running],
    tools: Mapping[str, Mapping[str, Any]],
    limit: int,
    crowded: bool,
) -> str:
    """What a call waits for, for people; "" if it may start now. `earlier`: those that came before
    it and wait; `crowded`: the daemon has no slot left."""
    running = list(running)
    if call.after:
        return f"{', '.join(call.after)}: the same file"
    if exclusive(tools, call.tool):
        ahead = [one for one in earlier if one.tool == call.tool]
        if ahead or any(one.tool == call.tool for one in running):
            return f"{call.tool} runs one at a time"
    if len(running) >= limit:
        return f"limits.session_calls = {limit}"
    if crowded:
        return "limits.daemon_calls"
    return ""


def startable(
    queue: Iterable[Queued],
    running: Iterable[Running],
    tools: Mapping[str, Mapping[str, Any]],
    limit: int,
    crowded: bool,
) -> list[str]:
    """Ids of the calls that start now, in that order. Where there is room for some of them, the
    agent with the fewest calls under way comes first, then the call that came first."""
    left = sorted(queue, key=lambda call: call.n)
    now = list(running)
    started: list[str] = []
    while True:
        busy = Counter(one.agent for one in now)
        free = [
            call
            for i, call in enumerate(left)
            if not obstacle(call, left[:i], now, tools, limit, crowded)
        ]
        if not free:
            return started
        first = min(free, key=lambda call: (busy[call.agent], call.n))
        left.remove(first)
        now.append(Running(first.agent, first.tool))
        started.append(first.id)
