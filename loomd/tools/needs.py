"""What one call needs, where that depends on its arguments: `git status` reads, `git commit` writes
in `.git`, `git reset --hard` is asked about each time. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from loomd.tools import git_policy

Writes = Literal["", "git", "checkout"]


@dataclass(frozen=True)
class Needs:
    """access: of this call, at most that of its tool. asks: why a person is asked though rules
    and earlier answers allow it; "" if they do. writes: what it changes in place rather than
    through the review. refused: why it cannot be made at all."""

    access: str
    asks: str = ""
    writes: Writes = ""
    refused: str = ""


def needs(row: Mapping[str, Any], args: Mapping[str, Any]) -> Needs:
    """Of a call of the tool with this row of the toolset."""
    access = str(row["access"])
    if (row["source"], row["name"]) == ("builtin", "job") and args.get("action") == "input":
        return Needs("execute")  # what is typed into a job is as good as a command
    if row["name"] != "git" or row["source"] != "builtin":
        return Needs(access)
    try:
        words = words_of(str(args.get("args", "")))
    except ValueError as error:
        return Needs("read", refused=f"`args` cannot be split into words: {error}")
    judged = git_policy.judge(words)
    match judged.kind:
        case "read":
            return Needs("read")
        case "write":
            _, command, _ = git_policy.split(words)
            return Needs(access, writes="checkout" if command == "worktree" else "git")
        case "ask":
            return Needs(access, asks=f"git {judged.reason}", writes="checkout")
        case "refused":
            return Needs("read", refused=judged.reason)


def words_of(args: str) -> list[str]:
    """The words of a command line of git, with or without the `git` itself. ValueError."""
    words = shlex.split(args)
    return words[1:] if words[:1] == ["git"] else words
