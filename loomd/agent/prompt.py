"""The pinned blocks that stand before every conversation. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from loomd.actor.roles import Role
from loomd.wire.bodies import ReviewRequest

RULES_LIMIT: Final = 48_000
TASK_LIMIT: Final = 8_000
DIFF_LIMIT: Final = 200_000
"""Bytes. What is cut says so, and lies whole in the log or the repo."""


def pinned(
    role: Role,
    agent: str,
    args: Mapping[str, Any],
    task: tuple[str, str] | None,
    index: Sequence[str],
) -> tuple[str, ...]:
    """The blocks before the conversation: role, project rules, surroundings, goal, task,
    keepers.

    `args` is the agent's spec.args (repo, team_size, rules, goal); `task` its open (id, text). In
    the order in which they change, so that a provider can keep the beginning: what all agents of a
    role see, then what is the agent's own, then its task's, then what its view has lost.
    """
    blocks = shared_blocks(role, args)
    facts = [
        f"Agent: {agent}",
        f"Team size: {args.get('team_size') or 1}",
        f"Repo: {args.get('repo') or '.'}",
    ]
    goal = str(args.get("goal") or "").strip()
    blocks.append("\n".join(facts))
    if goal and (task is None or goal != task[1]):
        blocks.append(f"Goal of the session: {cut(goal, TASK_LIMIT)}")
    if task is not None:
        blocks.append(f"Task {task[0]}: {cut(task[1], TASK_LIMIT)}")
    if index:
        blocks.append(
            "Held by keepers, not lost: recall(query) searches all of it, "
            'recall("keeper-N:FROM-TO") gives entries word for word.\n'
            + "\n".join(f"- {line}" for line in index)
        )
    return tuple(blocks)


def shared_blocks(role: Role, args: Mapping[str, Any]) -> list[str]:
    """The first of them, which every agent of the role in this repo sees."""
    rules = str(args.get("rules") or "").strip()
    written = [f"Project rules (AGENTS.md):\n{cut(rules, RULES_LIMIT)}"] if rules else []
    return [role.prompt, *written]


def review_text(request: ReviewRequest) -> str:
    """A review request as the reviewer reads it."""
    text = (
        f"Review request {request.edit} by {request.author}\n"
        f"Reason: {' '.join(request.reason.split())}\n"
        f"Files: {', '.join(request.paths)}\n"
        f"```diff\n{cut(request.diff.rstrip(chr(10)), DIFF_LIMIT)}\n```"
    )
    if request.checks:
        text += f"\nChecks: {request.checks}"
    return text


def cut(text: str, limit: int) -> str:
    """`text`, or its beginning of at most `limit` bytes with a remark that it was cut."""
    if len(text) * 4 <= limit:
        return text
    raw = text.encode()
    if len(raw) <= limit:
        return text
    kept = raw[:limit].decode("utf-8", "ignore")
    return f"{kept}\n[cut: {len(raw) - limit} more bytes]"
