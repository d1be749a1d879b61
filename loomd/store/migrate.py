"""The schema on disk becomes today's. Pure over a transaction; the whole way is one transaction.

`meta` row `schema` holds the version. A state without it is empty. A newer one is refused before
anything is written: an older daemon must not damage what it does not understand.

Version 0 is the layout of the first prototypes, without `log` and `boxed` in the actors' rows; its
migration is also the example for those to come: one function per version, each from n to n + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from loomd.store.schema import VERSION, last_number, name_key
from loomd.store.tables import Transaction
from loomd.wire import codec
from loomd.wire.errors import LoomError

SCHEMA_KEY: Final = b"schema"
EPOCH_KEY: Final = b"epoch"


class NewerSchema(LoomError):
    """The state was written by a newer loomd."""

    def __init__(self, found: int) -> None:
        super().__init__(
            "bad_state",
            f"the state has schema {found}, this loomd knows {VERSION}",
            "start a newer loomd on it, or set LOOM_STATE_DIR to another folder",
        )


def _from_0(txn: Transaction) -> None:
    for key, raw in list(txn.scan("actors", b"")):
        row = codec.unpack(raw)
        name = key.rstrip(b"\0").decode()
        last = txn.last("log", name_key(name))
        row["log"] = 0 if last is None else last_number(last[0])
        row["boxed"] = [
            sum(1 for _ in txn.scan("mail", name_key(name) + bytes((lane,)))) for lane in (0, 1)
        ]
        txn.put("actors", key, codec.pack(row))


MIGRATIONS: Final[dict[int, Callable[[Transaction], None]]] = {0: _from_0}
"""From version n to n + 1."""


def version_of(txn: Transaction) -> int | None:
    """The schema on disk; None: an empty state."""
    raw = txn.get("meta", SCHEMA_KEY)
    return None if raw is None else int(codec.unpack(raw))


def check(txn: Transaction) -> None:
    """Raises NewerSchema. Reads only."""
    found = version_of(txn)
    if found is not None and found > VERSION:
        raise NewerSchema(found)


def migrate(txn: Transaction) -> list[int]:
    """Brings the state to VERSION; the versions that were passed. Raises NewerSchema."""
    check(txn)
    found = version_of(txn)
    passed: list[int] = []
    if found is not None:
        for version in range(found, VERSION):
            MIGRATIONS[version](txn)
            passed.append(version)
    if found != VERSION:
        txn.put("meta", SCHEMA_KEY, codec.pack(VERSION))
    return passed
