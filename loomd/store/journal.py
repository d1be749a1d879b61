"""Reading what grows: pages of the event log, entries of a log. Pure over a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from loomd.store.schema import last_number, name_key, number_key
from loomd.store.tables import Transaction
from loomd.wire import codec

PAGE_ROWS: Final = 500
PAGE_BYTES: Final = 512 << 10
"""Of one page: well below the limit of a frame, whatever the rows hold."""

EVENT_FIELDS: Final = ("seq", "ts", "type", "actor", "cause", "data")


def event_of(raw: bytes) -> dict[str, Any]:
    """An event row as clients see it: {seq, ts, type, actor, cause, data}."""
    value = codec.unpack(raw)
    return {
        "seq": value["seq"],
        "ts": value["ts"],
        "type": value["type"],
        "actor": value["actor"],
        "cause": value.get("cause", ""),
        "data": value.get("data", {}),
    }


def last_event(txn: Transaction, session: str) -> int:
    """The highest event sequence of a session, 0 if it has none."""
    found = txn.last("events", name_key(session))
    return 0 if found is None else last_number(found[0])


def events(txn: Transaction, session: str, after: int, limit: int = PAGE_ROWS) -> dict[str, Any]:
    """One page of events with seq > `after`: {events, last, more}. `last`: the log's highest."""
    limit = max(1, min(limit, PAGE_ROWS))
    page: list[dict[str, Any]] = []
    size = 0
    more = False
    prefix = name_key(session)
    for _, raw in txn.scan("events", prefix, number_key(session, after) if after > 0 else b""):
        size += len(raw)
        if len(page) == limit or (page and size > PAGE_BYTES):
            more = True
            break
        page.append(event_of(raw))
    return {"events": page, "last": last_event(txn, session), "more": more}


def entries(txn: Transaction, log: str, first: int, last: int) -> Iterator[tuple[int, bytes]]:
    """Encoded entries first..last (inclusive) of a log, in order."""
    start = number_key(log, first - 1) if first > 0 else b""
    for key, raw in txn.scan("log", name_key(log), start):
        n = last_number(key)
        if n > last:
            return
        yield n, raw
