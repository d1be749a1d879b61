"""One file's part of a rename: source, names, the chosen refs -> new source and notes. Pure.

The refs (see `symbols`) say what is renamed; the places are found afresh in the source given, so
that lines that moved meanwhile do no harm. Where a name comes into a module by an import that
keeps the old name on its other side, the import gets an `as`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from loomd.gateway.offline.symbols import Record, describe
from loomd.gateway.offline.text import CannotRead, split_lines

Change = tuple[int, int, int, str]
"""line, column, width of what goes, what comes. Columns in characters from 0."""


@dataclass(frozen=True)
class Renamed:
    """`changes` in order. `left`: places that keep the old name, as {line, kind, text}."""

    source: str
    changes: tuple[Change, ...]
    left: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


def chosen(place: Sequence[Any], refs: Collection[str]) -> bool:
    """Is this place of a record changed?"""
    kind, own = place[3], place[4]
    if kind == "from":
        return any(ref in refs for ref in own) or f"from:{place[5]}" in refs
    return any(ref in refs for ref in own)


def replacement(place: Sequence[Any], refs: Collection[str], old: str, new: str) -> str:
    if place[3] != "from":
        return new
    local = any(ref in refs for ref in place[4])
    there = f"from:{place[5]}" in refs
    if local and not there:
        return f"{old} as {new}"
    if there and not local:
        return f"{new} as {old}" if place[4] != [f"from:{place[5]}"] else new
    return new


def left_of(record: Record, refs: Collection[str]) -> list[dict[str, Any]]:
    """What stays: {line, kind: string|docstring|comment|attribute|keyword|other-scope|module,
    text}."""
    left = []
    for place in record.get("places", ()):
        if not chosen(place, refs):
            kinds = {"attr": "attribute", "keyword": "keyword", "path": "module"}
            kind = kinds.get(place[4][0], "other-scope")
            if kind == "other-scope" and place[3] == "attribute":
                kind = "attribute"
            left.append(
                {"line": place[0], "kind": kind, "text": record["code"].get(str(place[0]), "")}
            )
    left += [{"line": n, "kind": kind, "text": text} for n, kind, text in record.get("strings", ())]
    return sorted(left, key=lambda item: int(item["line"]))


def collisions(record: Record, refs: Collection[str]) -> list[str]:
    """Why the new name cannot be used in this file."""
    found = []
    for ref, said in record.get("collisions", {}).items():
        if ref in refs or (ref == "m" and "free" in refs):
            found += said
    return sorted(set(found), key=_by_line)


def _by_line(text: str) -> tuple[int, str]:
    match = re.match(r"line (\d+)", text)
    return (int(match.group(1)) if match else 0), text


def rename(source: str, old: str, new: str, refs: Collection[str], path: str = "") -> Renamed:
    """Raises CannotRead: the source cannot be analysed, the new name collides, or the result does
    not compile."""
    record = describe(path, source, old, new)
    if "error" in record:
        raise CannotRead(record["error"])
    if said := collisions(record, refs):
        raise CannotRead("; ".join(said))
    changes: list[Change] = [
        (place[0], place[1], place[2], replacement(place, refs, old, new))
        for place in record["places"]
        if chosen(place, refs)
    ]
    result = changed(source, changes)
    if changes:
        _check(result, path)
    lines = {change[0] for change in changes}
    notes = [
        f"line {line}: {{{old}=}} prints the name, so its output changes"
        for line in record["printed"]
        if line in lines
    ]
    notes += record["problems"]
    if any(place[3] == "all" and chosen(place, refs) for place in record["places"]):
        notes.append("the string in `__all__` was changed with it")
    if any(place[3] == "slots" and chosen(place, refs) for place in record["places"]):
        notes.append("the string in `__slots__` or `__match_args__` was changed with it")
    return Renamed(result, tuple(changes), tuple(left_of(record, refs)), tuple(notes))


def changed(source: str, changes: Sequence[Change]) -> str:
    lines = split_lines(source)
    for line, col, width, text in reversed(changes):
        was = lines[line - 1]
        lines[line - 1] = was[:col] + text + was[col + width :]
    return "".join(lines)


def _check(source: str, path: str) -> None:
    try:
        plain = source.removeprefix("\ufeff")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(plain, path or "<renamed>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise CannotRead(f"the result would not compile: {error}") from error


# --- the block of whole lines that holds the changes ----------------------------------------------


DIFF_LIMIT = 80_000
"""Characters of the diff of one edit, about: a reviewer must get it whole."""


def edit_of(source: str, changes: Sequence[Change], limit: int) -> tuple[str, str, int]:
    """(old, new, n): an edit that makes the first n changes, all of them unless the lines from the
    first to the last are more than `limit` characters, old and new together, or the diff would be
    too long. `old` stands exactly once in the source."""
    a = split_lines(source)
    first = changes[0][0]
    n, size, diff = 0, 0, 0
    last = first - 1
    for change in changes:
        line = change[0]
        size += 2 * sum(map(len, a[last:line]))
        if line != last:
            between = a[last : line - 1]
            shown = between if len(between) <= 6 else [*between[:3], *between[-3:]]
            diff += sum(len(text) + 1 for text in shown) + 2 * len(a[line - 1]) + 40
        if n and line != last and (size > limit or diff > DIFF_LIMIT):
            break
        n, last = n + 1, change[0]
    b = split_lines(changed(source, changes[:n]))
    old, new = _unique(a, b, first - 1, last - 1)
    return old, new, n


def fits(source: str, changes: Sequence[Change], name: str) -> bool:
    """Does the name stand where the changes expect it?"""
    lines = split_lines(source)
    return all(
        line <= len(lines) and lines[line - 1][col : col + width] == name
        for line, col, width, _ in changes
    )


def _unique(a: list[str], b: list[str], first: int, last: int) -> tuple[str, str]:
    """Lines first..last, grown upwards and downwards until they stand in the text only once."""
    whole = "".join(a)
    above, below = first, last + 1
    while True:
        old = _bare("".join(a[above:below]))
        if _once(whole, old) or (above == 0 and below == len(a)):
            new = [*a[above:first], *b[first : last + 1], *a[last + 1 : below]]
            return old, _bare("".join(new))
        above, below = max(0, above - 1), min(len(a), below + 1)


def _bare(text: str) -> str:
    """Without the last line's end: whether a file's last line has one is not always shown."""
    return re.sub(r"(?:\r\n|\r|\n)\Z", "", text)


def _once(text: str, part: str) -> bool:
    at = text.find(part) if part.strip() else -1
    return at >= 0 and text.find(part, at + 1) == -1
