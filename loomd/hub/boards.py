"""Rows as CONTRACT shows them: JSON-able values from the state. Pure over a transaction."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from loomd.hub.rules import OVER
from loomd.store import standing
from loomd.store.journal import PAGE_BYTES, PAGE_ROWS
from loomd.store.schema import name_key
from loomd.store.tables import SessionRow, Transaction
from loomd.wire import codec
from loomd.wire.errors import LoomError

TABLES: Final = ("tasks", "claims", "edits", "decisions", "keepers", "questions", "jobs")
DIFF_BYTES: Final = 768 << 10
FILE_BYTES: Final = 4 << 20


def jsonable(value: Any) -> Any:
    """The same value with bytes as text, so that it can be shown."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


def rows(txn: Transaction, table: str, prefix: bytes) -> list[dict[str, Any]]:
    """All rows of a session's board, at most a page, each with an `id`."""
    found: list[dict[str, Any]] = []
    size = 0
    for key, raw in txn.scan(table, prefix):
        size += len(raw)
        if len(found) >= PAGE_ROWS or size > PAGE_BYTES:
            break
        value = codec.unpack(raw)
        row = value if isinstance(value, dict) else {"value": value}
        row.setdefault("id", key.partition(b"\0")[2].decode("utf-8", "replace"))
        found.append(jsonable(row))
    return found


def board(txn: Transaction, session: SessionRow, table: str) -> list[dict[str, Any]]:
    """tasks | claims | edits | decisions | keepers | questions | jobs of a session."""
    if table not in TABLES:
        raise LoomError("usage", f"no board {table!r}", f"one of: {', '.join(TABLES)}")
    if table == "edits":
        return edits(txn, session.session)
    if table != "decisions":
        found = sorted(rows(txn, table, name_key(session.session)), key=_by_number)
        return _with_its_session(found, session) if table == "jobs" else found
    # The graph belongs to the project: its key begins with whatever names the project.
    graph = []
    for key, raw in txn.scan("decisions", b""):
        row = codec.unpack(raw)
        project = key.partition(b"\0")[0].decode("utf-8", "replace")
        if not isinstance(row, dict):
            continue
        if row.get("session") == session.session or project in (session.repo, session.session):
            row.setdefault("id", key.partition(b"\0")[2].decode("utf-8", "replace"))
            graph.append(jsonable(row))
            if len(graph) >= PAGE_ROWS:
                break
    return sorted(graph, key=lambda row: (row.get("ts") or 0.0, _by_number(row)))


def edits(txn: Transaction, session: str) -> list[dict[str, Any]]:
    """The edits of a session; those that were taken back are `undone`, with `undone_by`."""
    found = sorted(rows(txn, "edits", name_key(session)), key=_by_number)
    every = [codec.unpack(raw) for _, raw in txn.scan("edits", name_key(session))]
    gone = standing.undone(every)
    for row in found:
        if row["id"] in gone:
            row |= {"state": "undone", "undone_by": gone[row["id"]]}
    return found


def _with_its_session(jobs: list[dict[str, Any]], session: SessionRow) -> list[dict[str, Any]]:
    """Jobs end with their session, and nobody is left to say so in their rows."""
    if session.state in OVER:
        for job in jobs:
            if job["state"] == "running":
                job |= {"state": "stopped", "ended": session.ended}
    return jobs


def _by_number(row: dict[str, Any]) -> list[tuple[int, str]]:
    """t-2 before t-10: the keys of the store are in the order of their bytes."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"(\d+)", str(row.get("id", "")))
        if part
    ]


def open_questions(txn: Transaction, session: str) -> list[dict[str, Any]]:
    """What waits for a person."""
    prefix = name_key(session) if session else b""
    return [row for row in rows_where(txn, "questions", prefix, "open")]


def rows_where(txn: Transaction, table: str, prefix: bytes, state: str) -> list[dict[str, Any]]:
    found = []
    for key, raw in txn.scan(table, prefix):
        row = codec.unpack(raw)
        if isinstance(row, dict) and row.get("state") == state:
            row.setdefault("id", key.partition(b"\0")[2].decode("utf-8", "replace"))
            row.setdefault("session", key.partition(b"\0")[0].decode("utf-8", "replace"))
            found.append(jsonable(row))
            if len(found) >= PAGE_ROWS:
                break
    return found


# --- what a session changed ----------------------------------------------------------------------


def changes(edits: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """path -> (first base blob, last after blob) over all applied edits, oldest first. A file of
    which no edit is in effect any more is not changed, whatever others have made of it."""
    found: dict[str, tuple[str, str]] = {}
    gone = standing.undone(edits)
    in_effect: set[str] = set()
    for edit in standing.in_order(edits):
        for file in edit.get("files") or ():
            path = str(file.get("path"))
            base, after = str(file.get("base") or ""), str(file.get("after") or "")
            first = found[path][0] if path in found else base
            found[path] = (first, after)
            if edit.get("id") not in gone and not edit.get("undoes"):
                in_effect.add(path)
    return {
        path: pair
        for path, pair in sorted(found.items())
        if pair[0] != pair[1] and path in in_effect
    }


def diff_of(edit: Mapping[str, Any], blob: Callable[[str], bytes]) -> dict[str, Any]:
    """{files_changed, diff} of one edit."""
    files = {str(file["path"]): file for file in edit.get("files") or ()}
    found = {path: (str(file["base"]), str(file["after"])) for path, file in files.items()}
    return _diff(found, modes([{**edit, "state": "applied", "undoes": ()}]), blob)


def diff(edits: Sequence[Mapping[str, Any]], blob: Callable[[str], bytes]) -> dict[str, Any]:
    """{files_changed, diff}: one unified diff from before the session to after it."""
    return _diff(changes(edits), modes(edits), blob)


def modes(edits: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """path -> (first, last) permission bits of files that were made executable, or no longer are,
    over all applied edits."""
    found: dict[str, tuple[int, int]] = {}
    for edit in standing.in_order(edits):
        for file in edit.get("files") or ():
            path, was, mode = str(file.get("path")), file.get("was") or 0, file.get("mode") or 0
            if not file.get("base") or not file.get("after") or not was:
                found.pop(path, None)
                continue
            found[path] = (found[path][0] if path in found else was, mode)
    return {path: pair for path, pair in found.items() if (pair[0] ^ pair[1]) & 0o100}


def _diff(
    found: Mapping[str, tuple[str, str]],
    turned: Mapping[str, tuple[int, int]],
    blob: Callable[[str], bytes],
) -> dict[str, Any]:
    """`turned`: modes that have changed, told as git does."""
    parts: list[str] = []
    size = 0
    paths = sorted({*found, *turned})
    for path in paths:
        part = ""
        if path in turned:
            old, new = (f"100{mode & 0o777:o}" for mode in turned[path])
            part = f"diff --git a/{path} b/{path}\nold mode {old}\nnew mode {new}\n"
        base, after = found.get(path, ("", ""))
        if base != after:
            part += _file_diff(path, base, after, blob)
        size += len(part.encode())
        if size > DIFF_BYTES:
            parts.append(f"diff of {path} and what follows left out: too large\n")
            break
        parts.append(part)
    return {"files_changed": paths, "diff": "".join(parts)}


def _file_diff(path: str, base: str, after: str, blob: Callable[[str], bytes]) -> str:
    old, new = (blob(name) if name else b"" for name in (base, after))
    if max(len(old), len(new)) > FILE_BYTES or b"\0" in old[:8192] or b"\0" in new[:8192]:
        return f"Binary files a/{path} and b/{path} differ\n"
    a, b = (raw.decode("utf-8", "replace").splitlines(keepends=True) for raw in (old, new))
    said = [f"--- a/{path}\n" if base else "--- /dev/null\n"]
    said.append(f"+++ b/{path}\n" if after else "+++ /dev/null\n")
    for group in _Matched(opcodes(a, b)).get_grouped_opcodes(3):
        said.append(
            f"@@ -{_extent(group[0][1], group[-1][2])} +{_extent(group[0][3], group[-1][4])} @@\n"
        )
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                said += [_line(" ", line) for line in a[i1:i2]]
                continue
            said += [_line("-", line) for line in a[i1:i2]]
            said += [_line("+", line) for line in b[j1:j2]]
    return "".join(said) if len(said) > 2 else ""


class _Matched(difflib.SequenceMatcher[str]):
    """Only groups what is known already."""

    def __init__(self, codes: list[Any]) -> None:
        super().__init__(None, (), ())
        self._codes = codes

    def get_opcodes(self) -> list[Any]:
        return self._codes


def opcodes(a: list[str], b: list[str]) -> list[tuple[str, int, int, int, int]]:
    """As difflib's, in bounded time: what it would take too long for is told line by line, or as
    one replacement. The hub's loop waits for this."""
    first, limit = 0, min(len(a), len(b))
    while first < limit and a[first] == b[first]:
        first += 1
    last = 0
    while last < limit - first and a[-1 - last] == b[-1 - last]:
        last += 1
    one, other = a[first : len(a) - last], b[first : len(b) - last]
    if _work(one, other) <= DIFF_WORK:
        middle = difflib.SequenceMatcher(None, one, other).get_opcodes()
    elif len(one) == len(other):
        middle = [
            ("equal" if same else "replace", start, end, start, end)
            for same, start, end in _runs(one, other)
        ]
    else:
        middle = [("replace", 0, len(one), 0, len(other))]
    codes: list[tuple[str, int, int, int, int]] = []
    if first:
        codes.append(("equal", 0, first, 0, first))
    codes += [
        (tag, i1 + first, i2 + first, j1 + first, j2 + first) for tag, i1, i2, j1, j2 in middle
    ]
    if last:
        codes.append(("equal", len(a) - last, len(a), len(b) - last, len(b)))
    return codes


DIFF_WORK: Final = 1_000_000
"""Pairs of equal lines that difflib may look at in one pass: some tenths of a second."""


def _work(one: list[str], other: list[str]) -> int:
    counts = Counter(other)
    popular = len(other) // 100 + 1 if len(other) >= 200 else len(other)  # as difflib has it
    return sum(n for line in one if (n := counts[line]) <= popular)


def _runs(one: list[str], other: list[str]) -> Iterable[tuple[bool, int, int]]:
    """(equal?, start, end) of two lists of one length."""
    start = 0
    for i in range(1, len(one) + 1):
        if i == len(one) or (one[i] == other[i]) != (one[start] == other[start]):
            yield one[start] == other[start], start, i
            start = i


def _extent(start: int, end: int) -> str:
    if end - start == 1:
        return str(start + 1)
    return f"{start + 1 if end > start else start},{end - start}"


def _line(mark: str, line: str) -> str:
    return mark + line if line.endswith("\n") else f"{mark}{line}\n\\ No newline at end of file\n"
