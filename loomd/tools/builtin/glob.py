"""glob(pattern)"""

from __future__ import annotations

import re
from typing import Final

from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, ToolError, tool

LIMIT: Final = 20_000


@tool(access="read")
def glob(pattern: str, ctx: Context) -> str:
    """Files of the checkout whose path fits a pattern, one per line; what git ignores is left out.

    Args:
        pattern: `*` within a name, `**` across folders, `?`, `[abc]`, `{a,b}`; for example **/*.py
    """
    if not pattern.strip():
        raise ToolError("`pattern` is empty", "bad_args")
    fits = re.compile(translate(pattern.removeprefix("./")))
    found = [name for name in _checkout.listed(ctx) if fits.fullmatch(name)]
    text = "\n".join(found[:LIMIT])
    if len(found) > LIMIT:
        text += f"\n[{len(found) - LIMIT} more files not shown]"
    return text


def translate(pattern: str) -> str:
    """A pattern for paths as a regular expression for the whole path."""
    made = ""
    at = 0
    depth = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**/", at):
            made += "(?:[^/]+/)*"
            at += 3
            continue
        if pattern.startswith("**", at):
            made += ".*"
            at += 2
            continue
        if char == "*":
            made += "[^/]*"
        elif char == "?":
            made += "[^/]"
        elif char == "[" and (end := pattern.find("]", at + 2)) > 0:
            inner = pattern[at + 1 : end].replace("\\", "\\\\")
            made += f"[^/{inner[1:]}]" if inner[0] in "!^" else f"[{inner}]"
            at = end
        elif char == "{" and "}" in pattern[at:]:
            made += "(?:"
            depth += 1
        elif char == "}" and depth:
            made += ")"
            depth -= 1
        elif char == "," and depth:
            made += "|"
        else:
            made += re.escape(char)
        at += 1
    return made
