"""Rows as CONTRACT shows them: JSON-able values from the state. Pure over a transaction."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from loomd.store.journal import PAGE_BYTES, PAGE_ROWS
from loomd.store.schema import name_key
from loomd.store.tables import SessionRow, Transaction
from loomd.wire import codec
from loomd.wire.errors import LoomError

TABLES: Final = ("tasks", "claims", "edits", "decisions", "keepers", "questions")
APPLIED: Final = ("applied",)
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
    """tasks | claims | edits | decisions | keepers | questions of a session."""
    if table not in TABLES:
        raise LoomError("usage", f"no board {table!r}", f"one of: {', '.join(TABLES)}")
    if table != "decisions":
        return rows(txn, table, name_key(session.session))
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
    return graph


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


# --- usage ---------------------------------------------------------------------------------------


def _day(row: Mapping[str, Any]) -> str:
    return datetime.fromtimestamp(float(row.get("ts") or 0.0), UTC).strftime("%Y-%m-%d")


KEYS: Final[dict[str, Callable[[Mapping[str, Any]], str]]] = {
    "session": lambda row: str(row.get("session") or ""),
    "agent": lambda row: str(row.get("agent") or ""),
    "model": lambda row: str(row.get("model") or ""),
    "purpose": lambda row: str(row.get("purpose") or ""),
    "day": _day,
}


def ledger(txn: Transaction) -> Iterable[Mapping[str, Any]]:
    for _, raw in txn.scan("ledger", b""):
        row = codec.unpack(raw)
        if isinstance(row, dict):
            yield row


def usage(lines: Iterable[Mapping[str, Any]], by: str, session: str = "") -> list[dict[str, Any]]:
    """Sums of the ledger. A cost that is not known makes the sum unknown (None), never zero."""
    if by not in KEYS:
        raise LoomError("usage", f"cannot sum by {by!r}", f"one of: {', '.join(KEYS)}")
    key_of = KEYS[by]
    sums: dict[str, dict[str, Any]] = {}
    for line in lines:
        if session and line.get("session") != session:
            continue
        key = key_of(line)
        total = sums.get(key)
        if total is None:
            total = sums[key] = {
                "key": key,
                "calls": 0,
                "input_tokens": 0,
                "output_tokens": 0,
                "cached_tokens": 0,
                "cost_usd": 0.0,
            }
        total["calls"] += 1
        for name in ("input_tokens", "output_tokens", "cached_tokens"):
            total[name] += int(line.get(name) or 0)
        cost = line.get("cost_usd")
        known = total["cost_usd"]
        total["cost_usd"] = None if cost is None or known is None else known + cost
    return [sums[key] for key in sorted(sums)]


# --- what a session changed ----------------------------------------------------------------------


def changes(edits: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """path -> (first base blob, last after blob) over all applied edits, oldest first."""
    found: dict[str, tuple[str, str]] = {}
    applied = [edit for edit in edits if edit.get("state") in APPLIED]
    applied.sort(key=lambda edit: float(edit.get("ended") or edit.get("created") or 0.0))
    for edit in applied:
        for file in edit.get("files") or ():
            path = str(file.get("path"))
            base, after = str(file.get("base") or ""), str(file.get("after") or "")
            first = found[path][0] if path in found else base
            found[path] = (first, after)
    return {path: pair for path, pair in sorted(found.items()) if pair[0] != pair[1]}


def diff(edits: Iterable[Mapping[str, Any]], blob: Callable[[str], bytes]) -> dict[str, Any]:
    """{files_changed, diff}: one unified diff from before the session to after it."""
    found = changes(edits)
    parts: list[str] = []
    size = 0
    for path, (base, after) in found.items():
        part = _file_diff(path, base, after, blob)
        size += len(part.encode())
        if size > DIFF_BYTES:
            parts.append(f"diff of {path} and what follows left out: too large\n")
            break
        parts.append(part)
    return {"files_changed": list(found), "diff": "".join(parts)}


def _file_diff(path: str, base: str, after: str, blob: Callable[[str], bytes]) -> str:
    old, new = (blob(name) if name else b"" for name in (base, after))
    if max(len(old), len(new)) > FILE_BYTES or b"\0" in old[:8192] or b"\0" in new[:8192]:
        return f"Binary files a/{path} and b/{path} differ\n"
    lines = difflib.unified_diff(
        old.decode("utf-8", "replace").splitlines(keepends=True),
        new.decode("utf-8", "replace").splitlines(keepends=True),
        f"a/{path}" if base else "/dev/null",
        f"b/{path}" if after else "/dev/null",
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
