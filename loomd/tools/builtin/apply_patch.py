"""apply_patch(patch)"""

from __future__ import annotations

from loomd.tools import patch as patches
from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, NewFile, Proposal, ToolError, tool


@tool(access="write")
def apply_patch(patch: str, ctx: Context, reason: str = "") -> Proposal:
    """Proposes changes of several files at once: all of them or none. It reaches the disk once the
    team has agreed; this call is answered then. A patch looks like this:

    *** Begin Patch
    *** Add File: new.py
    +each line behind a plus
    *** Update File: old.py
    *** Move to: other.py
    @@ def function():
     a line that stays
    -a line that goes
    +a line that comes
    *** Delete File: gone.py
    *** End Patch

    Each hunk must stand in the file exactly once, in order; an `@@` line before it says after which
    line it comes, `*** End of File` under it that it ends the file. Move to and @@ are optional.

    Args:
        patch: the whole patch, from *** Begin Patch to *** End Patch
        reason: why, for whoever reviews it
    """
    places = {}

    def read(path: str) -> bytes | None:
        place = _checkout.resolve(ctx, path)
        _checkout.no_git(ctx, path, place)
        places[path] = place
        if place == ctx.repo.resolve() or place.is_dir():
            raise ToolError(f"{path} is a folder", "bad_args")
        for folder in place.parents:
            if folder.exists() and not folder.is_dir():
                raise ToolError(f"{path}: {folder.name} is a file, not a folder", "bad_args")
        return _checkout.content(ctx, path, place) if place.exists() else None

    def changed(path: str) -> bool:
        return not _checkout.known(
            ctx, _checkout.shown(ctx, places[path]), places[path].read_bytes()
        )

    try:
        sections = patches.parse(patch)
        made = patches.apply(sections, read, changed)
    except patches.PatchError as error:
        raise ToolError(error.text, error.code) from None
    files: dict[str, NewFile] = {}
    for path, (base, after, like) in made.items():
        shown = _checkout.shown(ctx, places[path])
        if shown in files:
            raise ToolError(f"the patch names {shown} by two paths", "bad_args")
        mode = places[like].stat().st_mode & 0o777 if places[like].exists() else 0o644
        files[shown] = NewFile(shown, base, after, mode)
    if not files:
        raise ToolError("the patch leaves every file as it is", "bad_args")
    what = ", ".join(list(files)[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
    return Proposal(tuple(files.values()), reason or f"patch {what}")
