"""grep(pattern, path)"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Final

from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, ToolError, tool

LIMIT: Final = 10_000
LINE: Final = 500
MAX_FILE: Final = 10 << 20
TOLD: Final = 100
"""Places that were not searched, each in a line; of more only the number is told."""


@tool(access="read")
def grep(pattern: str, ctx: Context, path: str = ".") -> str:
    """Lines that a regular expression (Python's) is found in, as `path:line:text`; what git
    ignores and binary files are left out. A file that could not be searched is told as
    `[not searched: path: why]`.

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
    shut: list[OSError] = []
    if place.is_dir():
        names = _checkout.listed(ctx, _checkout.shown(ctx, place), shut)
    elif place.exists():
        names = [_checkout.shown(ctx, place)]
    else:
        raise _checkout.missing(ctx, path, place)
    hits: list[str] = []
    skipped = [f"{error.filename}/: {error.strerror}" for error in shut]
    for name in names:
        if why := _search(ctx.repo / name, name, text, hits):
            skipped.append(f"{name}: {why}")
        if len(hits) > LIMIT:
            break
    said = hits[:LIMIT] or [f"nothing found in {len(names)} files"]
    said += [f"[not searched: {one}]" for one in skipped[:TOLD]]
    if len(skipped) > TOLD:
        said.append(f"[not searched: {len(skipped) - TOLD} more places/: as those before]")
    if len(hits) > LIMIT:
        said.append(f"[only the first {LIMIT} lines are shown; there are more]")
    return "\n".join(said)


def _search(place: Path, name: str, pattern: re.Pattern[str], hits: list[str]) -> str:
    """Adds the lines of one file; why it could not be searched. A binary file has no lines."""
    try:
        found = place.stat()
        if not stat.S_ISREG(found.st_mode):
            return "no plain file"
        if found.st_size > MAX_FILE:
            return f"larger than {MAX_FILE >> 20} MB"
        data = place.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    if _checkout.binary_kind(data):
        return ""
    text = _checkout.text_of(data)
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if pattern.search(line):
            shown = line if len(line) <= LINE else line[:LINE] + "..."
            hits.append(f"{name}:{number}:{shown}")
            if len(hits) > LIMIT:
                break
    return ""
