"""read(path, offset, limit)"""

from __future__ import annotations

from typing import Final

from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, Result, ToolError, tool
from loomd.tools.propose import lines_of, name_of

MAX_TEXT: Final = 1 << 20
"""Bytes of one result; a file beyond it is read page by page."""


@tool(access="read")
def read(path: str, ctx: Context, offset: int = 1, limit: int = 2000) -> Result:
    """Reads a text file: its lines exactly as they are, each behind its number and a tab, which are
    no part of it. If the file goes on, the last line is a remark in brackets that names the offset
    to continue with. Images and other binary files are refused with their kind.

    Args:
        path: relative to the checkout
        offset: first line, from 1
        limit: at most so many lines
    """
    if offset < 1 or limit < 1:
        raise ToolError("offset and limit count from 1", "bad_args")
    place = _checkout.resolve(ctx, path)
    content = _checkout.content(ctx, path, place)
    lines = lines_of(_checkout.text_of(content))
    total = len(lines)
    if offset > max(total, 1):
        raise ToolError(f"{path} has {total} lines; there is no line {offset}", "bad_args")
    taken: list[str] = []
    size = 0
    for line in lines[offset - 1 : offset - 1 + limit]:
        size += len(line.encode())
        if size > MAX_TEXT and taken:
            break
        taken.append(line)
    last = offset - 1 + len(taken)
    if size > MAX_TEXT and len(taken) == 1:
        raise ToolError(f"line {offset} of {path} has {size} bytes", "too_large")
    text = "".join(f"{n:>6}\t{line}" for n, line in enumerate(taken, offset))
    if last < total:
        text += (
            f"[lines {offset}-{last} of {total}; there is more: continue with offset={last + 1}]"
        )
    data = {
        "path": _checkout.shown(ctx, place),
        "first": offset,
        "last": last,
        "lines": total,
        "hash": name_of(content),
    }
    return Result(text, data=data)
