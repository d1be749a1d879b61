"""The ledger as people ask for it. Pure over a transaction.

It grows for ever, and whoever asks holds up everybody's mail: so its sums are rows of their own,
brought up to date in the transaction that adds to it. They follow from the ledger alone; `meta`
says up to which row they hold, so that rows of a version without sums are taken in once.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from loomd.store.days import day_of
from loomd.store.journal import PAGE_ROWS
from loomd.store.schema import last_number, name_key, number_key
from loomd.store.tables import Transaction
from loomd.wire import codec
from loomd.wire.errors import LoomError

LEDGER: Final = "ledger"
SUMS: Final = "sums"
SUMMED: Final = b"summed"
"""Row of `meta`: the number of the last row of the ledger that is in the sums."""

LONGEST: Final = 160
"""Bytes of a name in a key; a longer one stands there as its hash."""


def _day(row: Mapping[str, Any]) -> str:
    """Whose budget has paid: a call may end after midnight."""
    return str(row.get("day") or day_of(float(row.get("ts") or 0.0)))


KEYS: Final[dict[str, Callable[[Mapping[str, Any]], str]]] = {
    "session": lambda row: str(row.get("session") or ""),
    "agent": lambda row: str(row.get("agent") or ""),
    "model": lambda row: str(row.get("model") or ""),
    "purpose": lambda row: str(row.get("purpose") or ""),
    "day": _day,
}

TOKENS: Final = (
    *("input_tokens", "output_tokens", "cached_tokens"),
    *("cache_write_tokens", "reasoning_tokens"),
)


def _part(name: str) -> bytes:
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) <= LONGEST and b"\0" not in raw:
        return raw
    return b"\xff" + hashlib.blake2b(raw, digest_size=16).digest().hex().encode()


def _key(by: str, key: str, session: str | None) -> bytes:
    """Of a sum over everything (session None) or over one session."""
    of = b"*" if session is None else b"=" + _part(session)
    return b"\0".join((of, by.encode(), _part(key)))


def _rows_of(session: str) -> str:
    """What the keys that lead to a session's rows begin with."""
    return "#" + _part(session).decode("latin-1")


def _nothing(key: str) -> dict[str, Any]:
    return {
        "key": key,
        "calls": 0,
        **dict.fromkeys(TOKENS, 0),
        "known_usd": 0.0,
        "unknown": 0,
        "lost": 0,
    }


def _add(total: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name in ("calls", *TOKENS, "known_usd", "unknown", "lost"):
        total[name] += more[name]


def _of_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """One attempt as a sum."""
    cost = line.get("cost_usd")
    return {
        "calls": 1,
        **{name: int(line.get(name) or 0) for name in TOKENS},
        "known_usd": 0.0 if cost is None else cost,
        "unknown": int(cost is None),
        "lost": int(bool(line.get("lost"))),
    }


def sum_up(txn: Transaction) -> None:
    """Takes in what has come to the ledger since the last time."""
    alike: dict[tuple[str, ...], dict[str, Any]] = {}
    summed = txn.get("meta", SUMMED)
    after = b"" if summed is None else number_key(LEDGER, codec.unpack(summed))
    key = b""
    for key, raw in txn.scan(LEDGER, b"", after):
        line = codec.unpack(raw)
        if isinstance(line, dict):
            names = tuple(name_of(line) for name_of in KEYS.values())
            _add(alike.setdefault(names, _nothing("")), _of_line(line))
            txn.put(SUMS, number_key(_rows_of(names[0]), last_number(key)), b"")
    for names, more in alike.items():
        _take_in(txn, dict(zip(KEYS, names, strict=True)), more)
    if key:
        txn.put("meta", SUMMED, codec.pack(last_number(key)))


def _take_in(txn: Transaction, names: Mapping[str, str], more: Mapping[str, Any]) -> None:
    for by, name in names.items():
        for of in (None, names["session"]) if by != "session" else (None,):
            place = _key(by, name, of)
            kept = txn.get(SUMS, place)
            total = _nothing(name) if kept is None else codec.unpack(kept)
            _add(total, more)
            txn.put(SUMS, place, codec.pack(total))


def _shown(total: Mapping[str, Any]) -> dict[str, Any]:
    shown = dict(total)
    shown["cost_usd"] = None if total["unknown"] else total["known_usd"]
    read = total["input_tokens"]
    shown["cached_share"] = round(total["cached_tokens"] / read, 4) if read else None
    return shown


def usage(txn: Transaction, by: str, session: str = "") -> list[dict[str, Any]]:
    """Sums of the ledger. A cost that is not known makes the sum unknown (None), never zero;
    `known_usd` is what is known of it, `unknown` how many attempts are not in it, `lost` how many
    of all went with their gateway. `cached_share`: of the input that is known, what providers say
    came from their caches; None: nothing of it is known."""
    if by not in KEYS:
        raise LoomError("usage", f"cannot sum by {by!r}", f"one of: {', '.join(KEYS)}")
    if session and by == "session":
        found = txn.get(SUMS, _key(by, session, None))
        return [] if found is None else [_shown(codec.unpack(found))]
    prefix = _key(by, "", session or None)
    made = [_shown(codec.unpack(raw)) for _, raw in txn.scan(SUMS, prefix)]
    return sorted(made, key=lambda total: str(total["key"]))


def of_session(txn: Transaction, session: str) -> dict[str, Any]:
    """The sum of one, also if nothing was asked in it."""
    found = usage(txn, "session", session)
    return found[0] if found else _shown(_nothing(session))


def attempts(txn: Transaction, session: str = "") -> list[dict[str, Any]]:
    """The newest rows themselves, PAGE_ROWS at most, oldest first."""
    if session:
        mine = txn.scan(SUMS, name_key(_rows_of(session)))
        numbers = [last_number(key) for key, _ in deque(mine, PAGE_ROWS)]
    else:
        newest = txn.last(LEDGER, b"")
        last = 0 if newest is None else last_number(newest[0])
        numbers = list(range(max(1, last - PAGE_ROWS + 1), last + 1))
    rows = (txn.get(LEDGER, number_key(LEDGER, n)) for n in numbers)
    return [codec.unpack(raw) for raw in rows if raw is not None]
