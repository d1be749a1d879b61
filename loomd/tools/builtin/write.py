"""write(path, content)"""

from __future__ import annotations

from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, NewFile, Proposal, Result, ToolError, tool


@tool(access="write")
def write(path: str, content: str, ctx: Context, reason: str = "") -> Proposal | Result:
    """Proposes a whole new content for a file, or a new file. It reaches the disk once the team
    has agreed; this call is answered then.

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
    if ".git" in place.relative_to(ctx.repo.resolve()).parts:
        raise ToolError(f"{path} lies in .git, which edits may not touch", "denied")
    base, mode = None, 0o644
    if place.exists():
        base = _checkout.content(ctx, path, place)
        mode = place.stat().st_mode & 0o777
    after = content.encode("utf-8", "surrogateescape")
    shown = _checkout.shown(ctx, place)
    if after == base:
        return Result(f"{shown} has this content already; nothing to do")
    return Proposal((NewFile(shown, base, after, mode),), reason or f"write {shown}")
