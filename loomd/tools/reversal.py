"""Edits taken back: what the checkout would be without them, given what stands there now. Pure.

Edits come newest first. Of a file, those that follow upon each other are taken as one, so that only
what others have done since must be merged with. What stands there as the edit had left it becomes
what it was before; what others have changed since is merged, and where that cannot be done by
itself, a clash says which lines are in the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Final

from loomd.tools import merge as merging
from loomd.tools.propose import hunks_of, lines_of, name_of, unified
from loomd.wire.bodies import Clash, FileChange, Taken
from loomd.wire.errors import LoomError

CLASH_DIFF: Final = 16_000
"""Characters of one clash's diff."""

ALIKE: Final = 0.5
"""A file that an edit deleted, and one that it made, are a move if so much of them is the same."""

MATCHED: Final = 2_000
"""Lines of a file that are compared to find a move."""


@dataclass(frozen=True)
class Content:
    """What stands at a path. data None: no file; mode: its permission bits."""

    data: bytes | None
    mode: int = 0


@dataclass(frozen=True)
class Outcome:
    """path -> (what stands there, what would), or why nothing of it can be done."""

    files: dict[str, tuple[Content, Content]]
    clashes: list[Clash]


@dataclass
class _Span:
    """Changes of one file that follow upon each other. `base`, `was`: before the oldest of them;
    `moved`: the path that the oldest moved to this one, "" for none."""

    path: str
    edits: list[str]
    base: str
    after: str
    was: int
    mode: int
    moved: str = ""
    whence: str = ""  # blob of what was moved, as it was before


@dataclass
class _Work:
    """restored: path of a file that came back with others' changes in it -> the blob that these are
    changes of."""

    look: Callable[[str], Content]
    blob: Callable[[str], bytes]
    before: dict[str, Content] = field(default_factory=dict)
    now: dict[str, Content] = field(default_factory=dict)
    clashes: list[Clash] = field(default_factory=list)
    restored: dict[str, str] = field(default_factory=dict)

    def at(self, path: str) -> Content:
        if path not in self.now:
            self.before[path] = self.now[path] = self.look(path)
        return self.now[path]


def plan(
    edits: Sequence[Taken], look: Callable[[str], Content], blob: Callable[[str], bytes]
) -> Outcome:
    """All of `edits` taken back, or the clashes. LoomError of `look` is a clash of that file."""
    work = _Work(look, blob)
    for span in _spans(edits, work):
        try:
            _take_back(work, span)
        except LoomError as error:
            clash = Clash(path=span.path, edits=tuple(span.edits), reason=error.message)
            work.clashes.append(clash)
    if work.clashes:
        return Outcome({}, work.clashes)
    files = {
        path: (was, work.now[path])
        for path, was in sorted(work.before.items())
        if work.now[path] != was
    }
    return Outcome(files, [])


def _spans(edits: Sequence[Taken], work: _Work) -> list[_Span]:
    """Newest first; what removes a file before what makes the one that it was moved from."""
    found: list[_Span] = []
    last: dict[str, _Span] = {}
    for taken in edits:
        moves = _moves(taken.files, work)
        for file in sorted(taken.files, key=lambda file: bool(file.base)):
            span = last.get(file.path)
            if span is not None and span.base == file.after and span.was in (0, file.mode):
                span.base, span.was = file.base, file.was
                span.edits.append(taken.edit)
            else:
                span = _Span(file.path, [taken.edit], file.base, file.after, file.was, file.mode)
                found.append(span)
                last[file.path] = span
            if file.path in moves:
                gone = moves[file.path]
                span.moved, span.whence = gone.path, gone.base
    return found


def _moves(files: Sequence[FileChange], work: _Work) -> dict[str, FileChange]:
    """New path -> the deletion of which it is the other half."""
    gone = [file for file in files if file.base and not file.after]
    made = [file for file in files if file.after and not file.base]
    found: dict[str, FileChange] = {}
    for file in made:
        if not gone:
            break
        same = next((one for one in gone if one.base == file.after), None)
        if same is None:
            ranked = [(_likeness(work, one.base, file.after), one) for one in gone]
            ratio, same = max(ranked, key=lambda pair: pair[0])
            if ratio < ALIKE:
                continue
        gone.remove(same)
        found[file.path] = same
    return found


def _likeness(work: _Work, one: str, other: str) -> float:
    a, b = (lines_of(text_of(work.blob(name)))[:MATCHED] for name in (one, other))
    return SequenceMatcher(None, a, b).quick_ratio()


def _take_back(work: _Work, span: _Span) -> None:
    now = work.at(span.path)
    name = name_of(now.data)
    if span.path in work.restored:
        _go_on(work, span, now)
    elif name == span.after:
        if span.base:
            work.now[span.path] = Content(work.blob(span.base), _mode(now, span))
        else:
            work.now[span.path] = Content(None)
    elif name == span.base:
        if now.data is not None:
            work.now[span.path] = Content(now.data, _mode(now, span))
    elif not span.after:
        _clash(work, span, "it was deleted, and there is another file in its place now")
    elif now.data is None:
        _clash(work, span, "it is not there any more")
    elif not span.base:
        _move_back(work, span, now.data)
    else:
        merged = _merged(work, span, span.path, now.data, span.after, span.base)
        if merged is not None:
            work.now[span.path] = Content(merged, _mode(now, span))


def _move_back(work: _Work, span: _Span, data: bytes) -> None:
    """A file that the edits made, with changes of others: these go where it came from."""
    there = work.at(span.moved) if span.moved else None
    if there is None or there.data is not None:
        _clash(work, span, "it was new, and has been changed since: it would be lost")
        return
    merged = _merged(work, span, span.path, data, span.after, span.whence)
    if merged is not None:
        work.now[span.moved] = Content(merged, work.now[span.path].mode)
        work.now[span.path] = Content(None)
        work.restored[span.moved] = span.whence


def _go_on(work: _Work, span: _Span, now: Content) -> None:
    """What happened to a moved file before it was moved, in the place where it is again."""
    ancestor = work.restored.pop(span.path)
    if span.base == ancestor or now.data is None:
        return
    if not span.base:
        _clash(work, span, "it was new, and has been changed since: it would be lost")
        return
    merged = _merged(work, span, span.path, now.data, ancestor, span.base)
    if merged is not None:
        work.now[span.path] = Content(merged, now.mode)


def _mode(now: Content, span: _Span) -> int:
    """Of a file that stays or comes back: as before, unless others have changed it since."""
    if now.data is None:
        return span.was or 0o644
    if not span.was or span.was == span.mode:
        return now.mode
    if now.mode == span.mode:
        return span.was
    if (now.mode ^ span.mode) & 0o100 or not (span.was ^ span.mode) & 0o100:
        return now.mode
    if span.was & 0o100:
        return now.mode | 0o100 | (now.mode & 0o044) >> 2
    return now.mode & ~0o111


# --- contents ------------------------------------------------------------------------------------


def text_of(data: bytes) -> str:
    """Bytes that are no UTF-8 are kept as they are, in one character each."""
    return data.decode("utf-8", "surrogateescape")


def _merged(
    work: _Work, span: _Span, path: str, data: bytes, ancestor: str, other: str
) -> bytes | None:
    """What stands there with the change `ancestor` -> `other`; None after a clash."""
    base, theirs = work.blob(ancestor), work.blob(other)
    if any(b"\0" in one for one in (data, base, theirs)):
        _clash(work, span, "it is binary, and has been changed since")
        return None
    lines = lines_of(text_of(data))
    merged = merging.merge(lines_of(text_of(base)), lines, lines_of(text_of(theirs)))
    if not merged.conflicts:
        return "".join(merged.lines).encode("utf-8", "surrogateescape")
    shown = merging.marked(merged, "now", f"before {span.edits[-1]}")
    diff = unified(path, lines, shown, hunks_of(lines, shown)).encode("utf-8", "replace").decode()
    if len(diff) > CLASH_DIFF:
        kept = diff[:CLASH_DIFF].rpartition("\n")[0]
        diff = f"{kept}\n[cut: {len(diff)} characters, {len(kept)} shown]\n"
    where = tuple((one.first, one.first + len(one.ours) - 1) for one in merged.conflicts)
    _clash(work, span, "changed since on the same lines, or on lines beside them", where, diff)
    return None


def _clash(
    work: _Work,
    span: _Span,
    reason: str,
    lines: tuple[tuple[int, int], ...] = (),
    diff: str = "",
) -> None:
    work.clashes.append(
        Clash(path=span.path, edits=tuple(span.edits), reason=reason, lines=lines, diff=diff)
    )
