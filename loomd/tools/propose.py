"""Two contents of a file -> hunks and a unified diff. Pure.

Hunks carry lines with their ends as they stand in the file, so that base and hunks give `after`
byte for byte (as far as both are text).
"""

from __future__ import annotations

import difflib
import hashlib
from typing import Final

import msgspec

from loomd.wire.bodies import FileChange, Hunk

DIFF_LIMIT: Final = 100_000
"""Bytes of a proposal's diffs; a longer one is cut, and says so in its last line."""

MAX_HUNKS: Final = 200_000
"""Bytes of all hunks of a proposal: mails carry them."""


def name_of(content: bytes | None) -> str:
    """The blob that a content would be; "" for no file."""
    return "" if content is None else hashlib.sha256(content).hexdigest()


def change(
    path: str, base: bytes | None, after: bytes | None, mode: int = 0o644, was: int = 0
) -> FileChange:
    """The change of one file. None: no file. Binary contents have no hunks."""
    one, other = _text(base), _text(after)
    if one is None or other is None:
        hunks: tuple[Hunk, ...] = ()
        diff = f"Binary files a/{path} and b/{path} differ\n"
    else:
        before, now = lines_of(one), lines_of(other)
        hunks = hunks_of(before, now)
        diff = cut(unified(path, before, now, hunks, base is None, after is None))
    return FileChange(
        path=path,
        base=name_of(base),
        after=name_of(after),
        mode=mode,
        was=was,
        hunks=hunks,
        diff=diff,
    )


def _text(content: bytes | None) -> str | None:
    if content is None:
        return ""
    if b"\0" in content:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def lines_of(text: str) -> list[str]:
    """Lines with their ends; only \\n ends a line, as in every tool that counts lines."""
    parts = text.split("\n")
    lines = [part + "\n" for part in parts[:-1]]
    return [*lines, parts[-1]] if parts[-1] else lines


def hunks_of(before: list[str], now: list[str]) -> tuple[Hunk, ...]:
    """The smallest runs of lines that differ, ascending. An insertion starts at the line before
    which it comes."""
    first = 0
    limit = min(len(before), len(now))
    while first < limit and before[first] == now[first]:
        first += 1
    last = 0
    while last < limit - first and before[-1 - last] == now[-1 - last]:
        last += 1
    one, other = before[first : len(before) - last], now[first : len(now) - last]
    if not one and not other:
        return ()
    # Without its heuristics difflib is quadratic in repeated lines: only where that stays small.
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=len(one) + len(other) > 4000)
    return tuple(
        Hunk(start=first + i1 + 1, old=tuple(one[i1:i2]), new=tuple(other[j1:j2]))
        for tag, i1, i2, j1, j2 in matcher.get_opcodes()
        if tag != "equal"
    )


def apply_hunks(before: list[str], hunks: tuple[Hunk, ...]) -> list[str] | None:
    """`before` with the hunks applied; None if they do not fit."""
    made: list[str] = []
    at = 0
    for hunk in hunks:
        first = hunk.start - 1
        if first < at or tuple(before[first : first + len(hunk.old)]) != hunk.old:
            return None
        made += before[at:first]
        made += hunk.new
        at = first + len(hunk.old)
    return [*made, *before[at:]]


def unified(
    path: str,
    before: list[str],
    now: list[str],
    hunks: tuple[Hunk, ...],
    created: bool = False,
    deleted: bool = False,
    context: int = 3,
) -> str:
    """The unified diff of hunks that are known already: difflib need not run again."""
    said = [
        "--- /dev/null\n" if created else f"--- a/{path}\n",
        "+++ /dev/null\n" if deleted else f"+++ b/{path}\n",
    ]
    groups: list[list[Hunk]] = []
    for hunk in hunks:
        if groups:
            last = groups[-1][-1]
            if hunk.start - (last.start + len(last.old)) <= 2 * context:
                groups[-1].append(hunk)
                continue
        groups.append([hunk])
    shift = 0
    for group in groups:
        first = max(group[0].start - 1 - context, 0)
        end = min(group[-1].start - 1 + len(group[-1].old) + context, len(before))
        grown = sum(len(h.new) - len(h.old) for h in group)
        was, is_ = end - first, end - first + grown
        said.append(f"@@ -{_range(first, was)} +{_range(first + shift, is_)} @@\n")
        at = first
        for hunk in group:
            said += [_line(" ", line) for line in before[at : hunk.start - 1]]
            said += [_line("-", line) for line in hunk.old]
            said += [_line("+", line) for line in hunk.new]
            at = hunk.start - 1 + len(hunk.old)
        said += [_line(" ", line) for line in before[at:end]]
        shift += grown
    return "".join(said)


def _range(first: int, count: int) -> str:
    if count == 1:
        return str(first + 1)
    return f"{first + 1 if count else first},{count}"


def _line(mark: str, line: str) -> str:
    return mark + line if line.endswith("\n") else f"{mark}{line}\n\\ No newline at end of file\n"


def cut(diff: str, limit: int = DIFF_LIMIT) -> str:
    if len(diff) * 4 <= limit or len(raw := diff.encode()) <= limit:
        return diff
    kept = raw[:limit].decode("utf-8", "ignore").rpartition("\n")[0]
    return f"{kept}\n[cut: {len(diff)} characters, {len(kept)} shown]\n"


def capped(files: tuple[FileChange, ...]) -> tuple[FileChange, ...]:
    """The files with diffs that are not too long together."""
    left = DIFF_LIMIT
    made = []
    for file in files:
        diff = cut(file.diff, left)
        left = max(left - len(diff.encode()), 200)
        made.append(file if diff == file.diff else msgspec.structs.replace(file, diff=diff))
    return tuple(made)


def weight(files: tuple[FileChange, ...]) -> int:
    """Bytes of all hunks."""
    return sum(len(line.encode()) for f in files for h in f.hunks for line in (*h.old, *h.new))
