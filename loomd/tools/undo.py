"""The disk's side of an undo: what stands in the checkout, and what it would become, as blobs."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from loomd.store.blobs import get_blob, put_blob
from loomd.tools import reversal
from loomd.tools.apply import inside, kind_of
from loomd.tools.pinned import read
from loomd.tools.propose import MAX_HUNKS, capped, change, weight
from loomd.tools.reversal import Content
from loomd.wire import codec
from loomd.wire.bodies import Clash, FileChange, PlanUndo, UndoPlan
from loomd.wire.errors import LoomError

MAX_PLAN: Final = 400 << 10
"""Bytes. A commit carries it twice, as the end of the effect and as mail."""

MAX_CLASHES: Final = 50


def plan(repo: Path, blobs: Path, order: PlanUndo) -> UndoPlan:
    """What the checkout would be without these edits. Writes blobs, and nothing else; blocks on
    the disk."""
    try:
        made = reversal.plan(order.edits, partial(look, repo), partial(get_blob, blobs))
        if made.clashes:
            return UndoPlan(undo=order.undo, clashes=_bounded(made.clashes))
        for pair in made.files.values():
            for content in pair:
                if content.data is not None:
                    put_blob(blobs, content.data)
    except LoomError as error:
        return UndoPlan(undo=order.undo, error="failed", detail=error.message)
    except OSError as error:
        detail = f"the checkout could not be read, or the blobs not written: {error}"
        return UndoPlan(undo=order.undo, error="failed", detail=detail)
    files = capped(
        tuple(
            change(path, was.data, new.data, new.mode or 0o644, was.mode)
            for path, (was, new) in made.files.items()
        )
    )
    if weight(files) > MAX_HUNKS:
        files = tuple(msgspec.structs.replace(file, hunks=()) for file in files)
    whole = UndoPlan(undo=order.undo, files=files)
    if len(codec.encode(whole)) > MAX_PLAN:
        detail = f"it would change {len(files)} files, more than can be done at once"
        return UndoPlan(undo=order.undo, error="too_large", detail=detail)
    return whole


def look(repo: Path, path: str) -> Content:
    """What stands at a path of the checkout. LoomError if it is neither nothing nor a file."""
    place = inside(repo, path)
    found = kind_of(place)
    if found is None:
        return Content(None)
    try:
        return Content(read(repo.resolve(), place), stat.S_IMODE(found.st_mode))
    except OSError as error:
        raise LoomError("failed", f"it cannot be read: {error.strerror}") from None


def with_modes(repo: Path, files: Sequence[FileChange]) -> tuple[FileChange, ...]:
    """The changes of a proposal, with the permission bits of what stands there now."""
    made = []
    for file in files:
        try:
            found = kind_of(inside(repo, file.path)) if file.base else None
        except (LoomError, OSError):  # it will be refused, or is in conflict: not ours to say
            found = None
        was = 0 if found is None else stat.S_IMODE(found.st_mode)
        made.append(msgspec.structs.replace(file, was=was))
    return tuple(made)


def _bounded(clashes: Sequence[Clash]) -> tuple[Clash, ...]:
    """The first of them, and their diffs as far as they fit."""
    left = MAX_PLAN // 2
    made: list[Clash] = []
    for clash in clashes[:MAX_CLASHES]:
        left -= len(clash.diff.encode())
        bare = msgspec.structs.replace(clash, edits=clash.edits[:20], lines=clash.lines[:100])
        made.append(bare if left > 0 else msgspec.structs.replace(bare, diff=""))
    if len(clashes) > MAX_CLASHES:
        more = f"and {len(clashes) - MAX_CLASHES} more files"
        made.append(Clash(path="", edits=(), reason=more))
    return tuple(made)
