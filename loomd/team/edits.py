"""Proposed edits: what they are, where they stand, what their author is told. Pure.

    proposed -> reviewing -> approved -> applying -> applied | conflict | refused
    proposed: parked while another edit of the same file is about to be applied
    reviewing -> revise | refused | conflict (the file was changed under it)

An applied edit that was taken back stays `applied` in its row: see `loomd.store.standing`.

One edit is `applying` at a time. The author's call is answered once, when the edit has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from loomd.team.claims import Span, spans_of
from loomd.wire import codec
from loomd.wire.bodies import FileChange, Propose

SHOWN: Final = 200
"""Ids or paths in one event."""

DIFF_LIMIT: Final = 128_000
NOTE_LIMIT: Final = 48_000
HUNKS_LIMIT: Final = 128_000
EVENT_DIFF: Final = 16_000
REASON_LIMIT: Final = 4_000
"""Bytes or characters. One commit carries the row and the mails that follow from it, and must
stay below a frame's limit; the contents themselves are blobs."""

EditState = Literal[
    "proposed",
    "reviewing",
    "approved",
    "applying",
    "applied",
    "revise",
    "conflict",
    "refused",
]

OPEN: Final = frozenset({"proposed", "reviewing", "approved", "applying"})
COMING: Final = frozenset({"approved", "applying"})


class Edit(msgspec.Struct, kw_only=True):
    """`spans`: path -> extents of its hunks, kept even where the hunks are too long to keep.
    `failures`: reviewers that ended without a verdict. `place`: the how-manieth applied one it is;
    `undoes`: the edits that this one, an undo, takes back."""

    id: str
    state: EditState
    author: str
    tool: str
    call: str
    files: tuple[FileChange, ...]
    reviewer: str = ""
    reason: str = ""
    task: str = ""
    note: str = ""
    diff: str = ""
    detail: str = ""  # how it ended
    spans: dict[str, list[Span]] = msgspec.field(default_factory=dict)
    failures: int = 0
    review: bool = False  # asked for by its author
    place: int = 0
    undoes: list[str] = msgspec.field(default_factory=list)
    created: float = 0.0
    ended: float | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(change.path for change in self.files)

    @property
    def what(self) -> str:
        """For people and models: the files, cut."""
        shown = ", ".join(self.paths[:5])
        return shown if len(self.files) <= 5 else f"{shown} and {len(self.files) - 5} more"


def cut(text: str, limit: int) -> str:
    """The beginning of a text, with a remark if it is not the whole."""
    return text if len(text) <= limit else f"{text[:limit]}\n[cut: {len(text) - limit} more]"


def slim(files: Iterable[FileChange]) -> tuple[FileChange, ...]:
    """Files without their diffs, and without hunks that are too long altogether."""
    bare = tuple(msgspec.structs.replace(change, diff="") for change in files)
    if len(codec.encode(bare)) <= HUNKS_LIMIT:
        return bare
    return tuple(msgspec.structs.replace(change, hunks=()) for change in bare)


def journaled(edit: Edit) -> Edit:
    """What taking it back needs of an applied edit: no text, no hunks."""
    bare = tuple(msgspec.structs.replace(change, diff="", hunks=()) for change in edit.files)
    return msgspec.structs.replace(edit, files=bare, diff="", note="", spans={})


def from_proposal(number: int, proposal: Propose, now: float) -> Edit:
    """Edit `e-<number>`, not yet looked at."""
    diff = "".join(
        change.diff if change.diff.endswith("\n") or not change.diff else change.diff + "\n"
        for change in proposal.files
    )
    return Edit(
        id=f"e-{number}",
        state="proposed",
        author=proposal.agent,
        tool=proposal.tool,
        call=proposal.call,
        files=slim(proposal.files),
        reason=cut(proposal.reason, REASON_LIMIT),
        task=proposal.task,
        note=cut(proposal.note, NOTE_LIMIT),
        diff=cut(diff, DIFF_LIMIT),
        spans={change.path: list(spans_of(change)) for change in proposal.files},
        review=proposal.review,
        created=now,
    )


def in_the_way(edit: Edit, edits: Iterable[Edit]) -> Edit | None:
    """An edit of one of the same files that is on its way to the disk: this one waits for it."""
    paths = set(edit.paths)
    for other in edits:
        if other.id != edit.id and other.state in COMING and paths.intersection(other.paths):
            return other
    return None


def overtaken(edit: Edit, applied: Edit) -> str:
    """The path whose content `edit` was made from is gone now that `applied` is on the disk."""
    after = {change.path: change.after for change in applied.files}
    for change in edit.files:
        if change.path in after and change.base != after[change.path]:
            return change.path
    return ""


def answer_text(edit: Edit) -> str:
    """What the author is told: a command's own output first, then what became of its changes."""
    what = f"{edit.id} ({edit.what})"
    match edit.state:
        case "applied":
            said = f"applied {what}"
        case "revise":
            said = f"{what} was sent back by {edit.reviewer}: {edit.detail}"
        case "conflict":
            said = f"{what} was not applied, nothing was written: {edit.detail}"
        case "refused":
            said = f"{what} was refused: {edit.detail}"
        case _:
            said = f"{what} is {edit.state}"
    return f"{edit.note.rstrip()}\n\n{said}" if edit.note else said


def row(edit: Edit) -> dict[str, Any]:
    plain = msgspec.to_builtins(edit)
    assert isinstance(plain, dict)
    return plain


def from_row(value: Any) -> Edit:
    return msgspec.convert(value, Edit)
