"""edit(path, old, new, replace_all)"""

from __future__ import annotations

import difflib

from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, NewFile, Proposal, ToolError, tool

_BOM = "\ufeff"


@tool(access="write")
def edit(
    path: str,
    old: str,
    new: str,
    ctx: Context,
    replace_all: bool = False,
    reason: str = "",
) -> Proposal:
    """Proposes to replace the text `old`, which must stand in the file exactly once, by `new`. It
    reaches the disk once the team has agreed; this call is answered then.

    Args:
        path: relative to the checkout
        old: the exact text, with enough lines around it to be unique
        new: what is to stand there instead
        replace_all: replace every occurrence
        reason: why, for whoever reviews it
    """
    place = _checkout.resolve(ctx, path)
    if ".git" in place.relative_to(ctx.repo.resolve()).parts:
        raise ToolError(f"{path} lies in .git, which edits may not touch", "denied")
    if not old:
        raise ToolError("`old` is empty; to make a new file use write", "bad_args")
    if old == new:
        raise ToolError("`old` and `new` are the same", "bad_args")
    base = _checkout.content(ctx, path, place)
    try:
        text = base.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolError(f"{path} is not UTF-8 (byte {error.start}); it cannot be edited") from None
    bom = text.startswith(_BOM) and not old.startswith(_BOM)
    if bom:
        text = text[1:]
    crlf = "\r\n" in text and "\n" not in text.replace("\r\n", "")
    if crlf and "\r" not in old:  # the model writes plain line ends
        old = old.replace("\n", "\r\n")
        new = new.replace("\r\n", "\n").replace("\n", "\r\n")
    found = text.count(old)
    if found == 0:
        raise ToolError(_miss(path, text, old, new))
    if found > 1 and not replace_all:
        lines = _lines_with(text, old)
        raise ToolError(
            f"`old` stands {found} times in {path} (lines {', '.join(map(str, lines[:10]))}): "
            "give more of the lines around it, or replace_all=true"
        )
    made = text.replace(old, new)
    after = ((_BOM if bom else "") + made).encode("utf-8")
    shown = _checkout.shown(ctx, place)
    mode = place.stat().st_mode & 0o777
    return Proposal((NewFile(shown, base, after, mode),), reason or f"edit {shown}")


def _lines_with(text: str, old: str) -> list[int]:
    lines: list[int] = []
    at = text.find(old)
    while at >= 0 and len(lines) < 11:
        lines.append(text.count("\n", 0, at) + 1)
        at = text.find(old, at + len(old))
    return lines


def _miss(path: str, text: str, old: str, new: str) -> str:
    """What to tell: the lines of the file that come nearest to `old`."""
    said = f"`old` does not stand in {path}."
    if new and new.strip() and text.count(new) == 1:
        said += " `new` stands there already: the edit may have been made."
    lines = text.splitlines()
    wanted = old.splitlines()
    stripped = [line.strip() for line in wanted]
    for at in range(len(lines) - len(wanted) + 1):
        if [line.strip() for line in lines[at : at + len(wanted)]] == stripped:
            return f"{said} It differs only in white space from {_show(lines, at, len(wanted))}"
    first = next((line for line in stripped if line), "")
    if not first or len(lines) > 20_000:
        return said
    near = difflib.get_close_matches(first, [line.strip() for line in lines], 1, 0.6)
    if not near:
        return f"{said} Nothing there is like its first line: read the file again"
    at = next(n for n, line in enumerate(lines) if line.strip() == near[0])
    return f"{said} The nearest real text is {_show(lines, at, len(wanted))}"


def _show(lines: list[str], at: int, count: int) -> str:
    count = min(max(count, 1), 12)
    last = min(at + count, len(lines))
    return f"lines {at + 1}-{last}:\n" + "\n".join(line[:300] for line in lines[at:last])
