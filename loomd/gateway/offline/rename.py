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


@dataclass(frozen=True)
class Renamed:
    """`places`: (line, column) of each change, columns in characters from 0. `left`: places that
    keep the old name, as {line, kind, text}."""

    source: str
    places: tuple[tuple[int, int], ...]
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
    lines = split_lines(source)
    places: list[tuple[int, int]] = []
    for place in reversed(record["places"]):
        if not chosen(place, refs):
            continue
        line, col, width = place[:3]
        text = lines[line - 1]
        lines[line - 1] = text[:col] + replacement(place, refs, old, new) + text[col + width :]
        places.append((line, col))
    result = "".join(lines)
    if places:
        _check(result, path)
    notes = [
        f"line {line}: {{{old}=}} prints the name, so its output changes"
        for line in record["printed"]
        if any(place[0] == line for place in places)
    ]
    notes += record["problems"]
    if any(place[3] == "all" and chosen(place, refs) for place in record["places"]):
        notes.append("the string in `__all__` was changed with it")
    if any(place[3] == "slots" and chosen(place, refs) for place in record["places"]):
        notes.append("the string in `__slots__` or `__match_args__` was changed with it")
    return Renamed(result, tuple(reversed(places)), tuple(left_of(record, refs)), tuple(notes))


def _check(source: str, path: str) -> None:
    try:
        plain = source.removeprefix("\ufeff")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(plain, path or "<renamed>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise CannotRead(f"the result would not compile: {error}") from error


# --- the smallest block of whole lines that holds a change ----------------------------------------


def block(before: str, after: str) -> tuple[str, str]:
    """(old, new): contiguous whole lines from the first to the last change, `old` grown upwards
    and downwards until it stands in `before` exactly once."""
    a, b = split_lines(before), split_lines(after)
    first = 0
    while first < min(len(a), len(b)) and a[first] == b[first]:
        first += 1
    tail = 0
    while tail < min(len(a), len(b)) - first and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    while True:
        old = "".join(a[first : len(a) - tail])
        if (old and before.count(old) == 1 and _lined(before, old)) or (first == 0 and tail == 0):
            return old, "".join(b[first : len(b) - tail])
        first, tail = max(0, first - 1), max(0, tail - 1)


def _lined(text: str, part: str) -> bool:
    """`str.count` does not see overlapping finds."""
    at = text.find(part)
    return text.find(part, at + 1) == -1
