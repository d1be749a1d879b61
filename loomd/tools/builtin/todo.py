"""todo(items)"""

from __future__ import annotations

import re
from typing import Any, Final

from loomd.tools.contract import Context, ToolError, tool

ITEMS: Final = 100
LENGTH: Final = 300

_ITEM: Final = re.compile(r"(?:[-*] )?+(?:\[(?P<mark>.)\] ?)?+(?P<text>.+)")
_MARKS: Final = {" ": " ", "x": "x", "X": "x", ">": ">", "~": ">"}
_KEPT: Final = 200
"""Agents whose lists are kept; the longest untouched one goes first."""


@tool(access="read")
def todo(ctx: Context, items: list[str] | None = None) -> str:
    """Your own list of what is to be done: give the whole list to replace it, nothing to see it. It
    is kept over restarts and belongs to you alone.

    Args:
        items: each as "[ ] to be done", "[>] in hand" or "[x] done"
    """
    lists: dict[str, Any] = ctx.state.get("lists", {})
    if items is not None:
        if len(items) > ITEMS:
            raise ToolError(f"{len(items)} items; at most {ITEMS} can be kept", "too_large")
        made = [_checked(item) for item in items]
        lists.pop(ctx.agent, None)
        if made:
            lists[ctx.agent] = made
        while len(lists) > 1 and (len(lists) > _KEPT or _size(lists) > 40_000):
            del lists[next(iter(lists))]
        ctx.state["lists"] = lists
    mine = lists.get(ctx.agent, [])
    if not mine:
        return "[the list is empty]"
    done = sum(1 for item in mine if item.startswith("[x]"))
    return "\n".join([*mine, f"({done} of {len(mine)} done)"])


def _checked(item: str) -> str:
    match = _ITEM.fullmatch(" ".join(item.split()))
    if match is None:
        raise ToolError("an item is empty", "bad_args")
    mark = _MARKS.get(match["mark"] or " ")
    if mark is None:
        raise ToolError(f"{item[:60]!r}: the mark is one of [ ], [>], [x]", "bad_args")
    text = match["text"]
    if len(text) > LENGTH:
        raise ToolError(f"an item has {len(text)} characters; at most {LENGTH}", "too_large")
    return f"[{mark}] {text}"


def _size(lists: dict[str, list[str]]) -> int:
    return sum(len(item.encode()) + 3 for mine in lists.values() for item in mine)
