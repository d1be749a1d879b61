"""glob(pattern)"""

from __future__ import annotations

from typing import Final

from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, ToolError, tool
from loomd.tools.paths import compiled

LIMIT: Final = 20_000


@tool(access="read")
def glob(pattern: str, ctx: Context) -> str:
    """Files of the checkout whose path fits a pattern, one per line; what git ignores is left out.

    Args:
        pattern: `*` within a name, `**` across folders, `?`, `[abc]`, `{a,b}`; for example **/*.py
    """
    if not pattern.strip():
        raise ToolError("`pattern` is empty", "bad_args")
    try:
        fits = compiled(pattern.removeprefix("./"))
    except ValueError as error:
        raise ToolError(str(error), "bad_args") from None
    found = [name for name in _checkout.listed(ctx) if fits.fullmatch(name)]
    text = "\n".join(found[:LIMIT])
    if len(found) > LIMIT:
        text += f"\n[{len(found) - LIMIT} more files not shown]"
    return text
