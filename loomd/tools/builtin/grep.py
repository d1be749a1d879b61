"""grep(pattern, path)"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, ToolError, tool

LIMIT: Final = 10_000
LINE: Final = 500
MAX_FILE: Final = 10 << 20


@tool(access="read")
def grep(pattern: str, ctx: Context, path: str = ".") -> str:
    """Lines that a regular expression (Python's) is found in, as `path:line:text`; what git
    ignores and binary files are left out.

    Args:
        pattern: the regular expression
        path: a file or a folder, relative to the checkout
    """
    if not pattern:
        raise ToolError("`pattern` is empty", "bad_args")
    try:
        text = re.compile(pattern)
    except re.error as error:
        raise ToolError(f"`pattern` is no regular expression: {error}", "bad_args") from None
    place = _checkout.resolve(ctx, path)
    if place.is_dir():
        names = _checkout.listed(ctx, _checkout.shown(ctx, place))
    elif place.exists():
        names = [_checkout.shown(ctx, place)]
    else:
        raise _checkout.missing(ctx, path, place)
    hits: list[str] = []
    skipped = 0
    for name in names:
        if not _search(ctx.repo / name, name, text, hits):
            skipped += 1
        if len(hits) > LIMIT:
            break
    said = "\n".join(hits[:LIMIT])
    if len(hits) > LIMIT:
        said += f"\n[only the first {LIMIT} lines are shown; there are more]"
    elif not hits:
        said = f"nothing found in {len(names)} files"
    return said


def _search(place: Path, name: str, pattern: re.Pattern[str], hits: list[str]) -> bool:
    """Adds the lines of one file; False if it is no text that can be searched."""
    try:
        if place.stat().st_size > MAX_FILE:
            return False
        data = place.read_bytes()
    except OSError:
        return False
    if _checkout.binary_kind(data):
        return False
    text = _checkout.text_of(data)
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if pattern.search(line):
            shown = line if len(line) <= LINE else line[:LINE] + "..."
            hits.append(f"{name}:{number}:{shown}")
            if len(hits) > LIMIT:
                break
    return True
