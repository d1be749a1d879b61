"""edit(path, old, new, replace_all)"""

from __future__ import annotations

import difflib

from loomd.tools import newlines
from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, NewFile, Proposal, ToolError, tool
from loomd.tools.newlines import BOM


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
    reaches the disk once the team has agreed; this call is answered then. Line ends, byte order
    mark and mode of the file stay. If the file has changed since you read it, the edit is made only
    where `old` still stands exactly once.

    Args:
        path: relative to the checkout
        old: the exact text, with enough lines around it to be unique
        new: what is to stand there instead
        replace_all: replace every occurrence
        reason: why, for whoever reviews it
    """
    place = _checkout.resolve(ctx, path)
    _checkout.no_git(ctx, path, place)
    if not old:
        raise ToolError("`old` is empty; to make a new file use write", "bad_args")
    if old == new:
        raise ToolError("`old` and `new` are the same", "bad_args")
    base = _checkout.content(ctx, path, place)
    try:
        text = base.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolError(f"{path} is not UTF-8 (byte {error.start}); it cannot be edited") from None
    bom = text.startswith(BOM) and not old.startswith(BOM)
    if bom:
        text = text[1:]
    shown = _checkout.shown(ctx, place)
    found = newlines.find(text, old)
    if not found:
        stale = "" if _checkout.known(ctx, shown, base) else _STALE.format(path)
        raise ToolError(_miss(path, text, old, new) + stale, "conflict" if stale else "failed")
    if len(found) > 1:
        lines = [text.count("\n", 0, start) + 1 for start, _ in found[:10]]
        if not replace_all:
            raise ToolError(
                f"`old` stands {len(found)} times in {path} (lines {', '.join(map(str, lines))}): "
                "give more of the lines around it, or replace_all=true"
            )
        if not _checkout.known(ctx, shown, base):
            raise ToolError(
                f"`old` stands {len(found)} times in {path}.{_STALE.format(path)}", "conflict"
            )
    made, at = [], 0
    for start, end in found:
        made += [text[at:start], newlines.fitted(new, text[start:end], text)]
        at = end
    after = ((BOM if bom else "") + "".join(made) + text[at:]).encode("utf-8")
    if after == base:
        raise ToolError("`old` and `new` differ in line ends only, and those stay", "bad_args")
    mode = place.stat().st_mode & 0o777
    return Proposal((NewFile(shown, base, after, mode),), reason or f"edit {shown}")


_STALE = " {0} has changed since you read it: read it again."


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
