"""propose(changes, reason)"""

from __future__ import annotations

from typing import Any, Final

from loomd.tools.builtin import _checkout
from loomd.tools.builtin.edit import edit
from loomd.tools.builtin.write import write
from loomd.tools.contract import Context, NewFile, Proposal, Result, ToolError, tool

_SHAPES: Final = (
    "a change is {path, content}: the whole file; {path, old, new}: one place of it, as for edit; "
    "or {path, content: null}: no file any more"
)


@tool(access="write")
def propose(changes: list[dict[str, Any]], reason: str, ctx: Context) -> Proposal:
    """Proposes one edit of several files for review: another agent judges it as a whole, also
    where edits need no review, and it reaches the disk as a whole or not at all. This call is
    answered then.

    Args:
        changes: one per file, {path, content}, {path, old, new} or {path, content: null} to delete
        reason: why, for whoever reviews it
    """
    if not changes:
        raise ToolError(f"`changes` is empty; {_SHAPES}", "bad_args")
    if not reason.strip():
        raise ToolError("`reason` is empty: the reviewer judges the edit by it", "bad_args")
    files: dict[str, NewFile] = {}
    for n, change in enumerate(changes, 1):
        try:
            made = _made(change, ctx)
        except ToolError as error:
            raise ToolError(f"change {n}: {error.text}", error.code) from None
        if made is None:
            continue
        if made.path in files:
            raise ToolError(
                f"change {n}: {made.path} stands in `changes` twice; give its whole content",
                "bad_args",
            )
        files[made.path] = made
    if not files:
        raise ToolError("every file has this content already: there is nothing to propose")
    return Proposal(tuple(files.values()), reason, review=True)


def _made(change: Any, ctx: Context) -> NewFile | None:
    """One file of the proposal; None if it is already so."""
    path = change.get("path") if isinstance(change, dict) else None
    if not isinstance(path, str) or not path:
        raise ToolError(f"it names no `path`; {_SHAPES}", "bad_args")
    given = set(change) - {"path"}
    if given == {"content"} and change["content"] is None:
        place = _checkout.resolve(ctx, path)
        shown = place.relative_to(ctx.repo.resolve())
        if ".git" in shown.parts:
            raise ToolError(f"{path} lies in .git, which edits may not touch", "denied")
        base = _checkout.content(ctx, path, place)
        mode = place.stat().st_mode & 0o777
        return NewFile(str(shown), base, None, mode)
    if given == {"content"} and isinstance(change["content"], str):
        made = write(path, change["content"], ctx)
    elif given == {"old", "new"} and all(isinstance(change[key], str) for key in given):
        made = edit(path, change["old"], change["new"], ctx)
    else:
        raise ToolError(
            f"{_SHAPES}; this one has {', '.join(sorted(given)) or 'a path'}", "bad_args"
        )
    return None if isinstance(made, Result) else made.files[0]
