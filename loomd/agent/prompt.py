"""Roles, and the pinned blocks that stand before every conversation. Pure.

A role is Markdown with TOML front matter:

    +++
    name = "coder"
    description = "changes code"
    tools = ["read", "edit"]     # or "all"
    model = ""                   # "": the session's, else the configuration's
    temperature = 0.2            # left out: the provider's default
    +++
    You are the coder of a team of coding agents. ...
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from loomd.wire.bodies import ReviewRequest
from loomd.wire.errors import LoomError

ROLE_LIMIT: Final = 48_000
RULES_LIMIT: Final = 48_000
TASK_LIMIT: Final = 8_000
DIFF_LIMIT: Final = 200_000
"""Bytes. A longer role is refused; what is cut says so, and lies whole in the log or the repo."""

_KEYS: Final = {"name", "description", "tools", "model", "temperature"}


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """`tools` None: all of the session's. `model` "": the session's or the configured one."""

    name: str
    prompt: str
    description: str = ""
    tools: tuple[str, ...] | None = None
    model: str = ""
    temperature: float | None = None


def first_line(role: str) -> str:
    """What every role's prompt begins with."""
    return f"You are the {role} of a team of coding agents."


def parse_role(text: str, name: str, source: str = "") -> Role:
    """The role written in `text`; `name` (of its file) is used where the text gives none.

    Raises LoomError `config` naming `source` and the key that is wrong.
    """
    where = source or f"role {name}"
    if len(text.encode()) > ROLE_LIMIT:
        size = len(text.encode())
        raise LoomError(
            "config",
            f"{where}: {size} bytes are too many for a role",
            f"at most {ROLE_LIMIT}: every model request carries it",
        )
    head: dict[str, Any] = {}
    body = text
    lines = text.split("\n")
    if lines[0].strip() == "+++":
        end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "+++"), None)
        if end is None:
            raise LoomError("config", f"{where}: the front matter has no end", "close it with +++")
        try:
            head = tomllib.loads("\n".join(lines[1:end]))
        except tomllib.TOMLDecodeError as error:
            raise LoomError("config", f"{where}: {error}", "the front matter is TOML") from None
        body = "\n".join(lines[end + 1 :])
    unknown = sorted(set(head) - _KEYS)
    if unknown:
        known = ", ".join(sorted(_KEYS))
        raise LoomError("config", f"{where}: unknown key {unknown[0]!r}", f"known: {known}")
    tools = head.pop("tools", "all")
    try:
        role = msgspec.convert(
            {"name": name, **head, "tools": None if tools == "all" else tools, "prompt": body},
            Role,
        )
    except msgspec.ValidationError as error:
        raise LoomError(
            "config", f"{where}: {error}", 'tools is "all" or a list of names; temperature a number'
        ) from None
    prompt = role.prompt.strip()
    if not prompt.startswith(first_line(role.name)):
        prompt = f"{first_line(role.name)}\n{prompt}".strip()
    return msgspec.structs.replace(role, prompt=prompt)


def role_of(roles: Mapping[str, Role], name: str) -> Role:
    """The role `name`; for one that nobody wrote down a plain one with all tools."""
    known = roles.get(name)
    if known is not None:
        return known
    return Role(
        name=name or "agent",
        prompt=f"{first_line(name or 'agent')}\nDo the task you are given with the tools you have, "
        "then answer with what you did.",
    )


def pinned(
    role: Role,
    agent: str,
    args: Mapping[str, Any],
    task: tuple[str, str] | None,
    index: Sequence[str],
) -> tuple[str, ...]:
    """The blocks before the conversation: role, surroundings, project rules, task, keepers.

    `args` is the agent's spec.args (repo, team_size, rules, goal); `task` its open (id, text).
    """
    facts = [
        f"Agent: {agent}",
        f"Team size: {args.get('team_size') or 1}",
        f"Repo: {args.get('repo') or '.'}",
    ]
    blocks = [role.prompt, "\n".join(facts)]
    rules = str(args.get("rules") or "").strip()
    if rules:
        blocks.append(f"Project rules (AGENTS.md):\n{cut(rules, RULES_LIMIT)}")
    goal = str(args.get("goal") or "").strip()
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
