"""write(path, content)"""

from __future__ import annotations

from loomd.tools import newlines
from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, NewFile, Proposal, Result, ToolError, tool


@tool(access="write")
def write(path: str, content: str, ctx: Context, reason: str = "") -> Proposal | Result:
    """Proposes a whole new content for a file, or a new file. It reaches the disk once the team
    has agreed; this call is answered then. Line ends (CRLF), byte order mark and mode of a file
    that is there stay. A file that has changed since you read it is refused: read it again.

    Args:
        path: relative to the checkout
        content: the whole content
        reason: why, for whoever reviews it
    """
    place = _checkout.resolve(ctx, path)
    if place == ctx.repo.resolve() or place.is_dir():
        raise ToolError(f"{path} is a folder", "bad_args")
    for folder in place.parents:
        if folder.exists() and not folder.is_dir():
            raise ToolError(f"{path}: {folder.name} is a file, not a folder", "bad_args")
    _checkout.no_git(ctx, path, place)
    base, mode = None, 0o644
    if place.exists():
        base = _checkout.content(ctx, path, place)
        mode = place.stat().st_mode & 0o777
    shown = _checkout.shown(ctx, place)
    if base is not None:
        if not _checkout.known(ctx, shown, base):
            raise ToolError(
                f"{shown} has changed since you read it: read it again, then write", "conflict"
            )
        content = newlines.like(base, content)
    after = content.encode("utf-8", "surrogateescape")
    if after == base:
        return Result(f"{shown} has this content already; nothing to do")
    return Proposal((NewFile(shown, base, after, mode),), reason or f"write {shown}")
