"""Three-way merge of lines (diff3). Pure.

Our own, on the hunks that proposals are made of: what `git merge-file` would give is needed where
there is no git, for contents that lie in blobs and not in files, and by a process that starts no
other; the one library that does it well (`merge3`) is under the GPL, which this project would then
be too. Judged as git does: changes that touch each other are a conflict, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loomd.tools.propose import hunks_of
from loomd.wire.bodies import Hunk

OURS: Final = "<<<<<<<"
BETWEEN: Final = "======="
THEIRS: Final = ">>>>>>>"


@dataclass(frozen=True)
class Conflict:
    """Lines `ours` at line `first` (1-based) of ours, where the other side has `theirs`. `at`:
    their place in the merged lines, which hold ours there."""

    first: int
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    at: int


@dataclass(frozen=True)
class Merged:
    """`lines`: the merge, with our lines where the two conflict."""

    lines: list[str]
    conflicts: list[Conflict]


def merge(base: list[str], ours: list[str], theirs: list[str]) -> Merged:
    """Both sides' changes of `base`. Lines carry their ends."""
    left, right = hunks_of(base, ours), hunks_of(base, theirs)
    made: list[str] = []
    conflicts: list[Conflict] = []
    done = mine = other = 0  # how much of base, and of each side's hunks, is behind us
    shift = 0  # from base to ours
    while mine < len(left) or other < len(right):
        first = min(_begin(left, mine), _begin(right, other))
        last, i, j = first, mine, other
        while True:  # what touches what is already in the region
            if i < len(left) and left[i].start - 1 <= last:
                last = max(last, _end(left[i]))
                i += 1
            elif j < len(right) and right[j].start - 1 <= last:
                last = max(last, _end(right[j]))
                j += 1
            else:
                break
        made += base[done:first]
        one = _region(base, left[mine:i], first, last)
        two = _region(base, right[other:j], first, last)
        if i == mine:
            made += two
        elif j == other or one == two:
            made += one
        else:
            head, tail = _alike(one, two)
            conflicts.append(
                Conflict(
                    first=first + shift + head + 1,
                    ours=tuple(one[head : len(one) - tail]),
                    theirs=tuple(two[head : len(two) - tail]),
                    at=len(made) + head,
                )
            )
            made += one
        shift += sum(len(hunk.new) - len(hunk.old) for hunk in left[mine:i])
        done, mine, other = last, i, j
    return Merged([*made, *base[done:]], conflicts)


def marked(merged: Merged, ours: str, theirs: str) -> list[str]:
    """The merge with conflict markers, named as given."""
    lines: list[str] = []
    done = 0
    for one in merged.conflicts:
        lines += merged.lines[done : one.at]
        lines += [f"{OURS} {ours}\n", *_ended(one.ours), f"{BETWEEN}\n"]
        lines += [*_ended(one.theirs), f"{THEIRS} {theirs}\n"]
        done = one.at + len(one.ours)
    return [*lines, *merged.lines[done:]]


def _ended(lines: Sequence[str]) -> list[str]:
    """A marker begins a line of its own."""
    return [line if line.endswith("\n") else line + "\n" for line in lines]


def _begin(hunks: Sequence[Hunk], n: int) -> int:
    return hunks[n].start - 1 if n < len(hunks) else 1 << 62


def _end(hunk: Hunk) -> int:
    return hunk.start - 1 + len(hunk.old)


def _region(base: list[str], hunks: Sequence[Hunk], first: int, last: int) -> list[str]:
    """base[first:last] with these hunks, which lie within."""
    made: list[str] = []
    at = first
    for hunk in hunks:
        made += base[at : hunk.start - 1]
        made += hunk.new
        at = _end(hunk)
    return [*made, *base[at:last]]


def _alike(one: list[str], two: list[str]) -> tuple[int, int]:
    """How many lines at the head and at the tail are the same on both sides."""
    limit = min(len(one), len(two))
    head = 0
    while head < limit and one[head] == two[head]:
        head += 1
    tail = 0
    while tail < limit - head and one[-1 - tail] == two[-1 - tail]:
        tail += 1
    return head, tail
