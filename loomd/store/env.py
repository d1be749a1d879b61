"""LMDB: the only file that imports it.

The environment is opened after fork, once per process. The hub opens it first (`Store.writer`: it
makes the tables and migrates); everyone else opens it read-only and reads in transactions that are
over when the call returns. A reader that was killed leaves a slot, which `reader_check` frees.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb

from loomd.store import blobs, journal, migrate
from loomd.store.schema import TABLES, last_number, name_key, number_key
from loomd.store.tables import successor
from loomd.wire import codec
from loomd.wire.bodies import Entry
from loomd.wire.endpoints import Instance
from loomd.wire.errors import LoomError

with contextlib.suppress(ImportError):
    # Newer versions import this in `lmdb.open`, which would cost every process a millisecond.
    importlib.import_module("lmdb._envid")

MAP_SIZE: Final = 1 << 40
"""Sparse: costs nothing and spares resizing."""

MAX_READERS: Final = 8192
PAGE: Final = 256
"""Rows copied out per transaction by the iterators, so that no reader holds an old snapshot."""

T = TypeVar("T")

StoreError = lmdb.Error


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class DiskFull(Exception):
    """The transaction could not be stored for lack of space; nothing of it was."""


class Txn:
    """`tables.Transaction` over LMDB. Values are copies; valid until the transaction ends."""

    __slots__ = ("_dbs", "_txn")

    def __init__(self, txn: Any, dbs: dict[str, Any]) -> None:
        self._txn = txn
        self._dbs = dbs

    def get(self, table: str, key: bytes) -> bytes | None:
        value: bytes | None = self._txn.get(key, db=self._dbs[table])
        return value

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._txn.put(key, value, db=self._dbs[table])

    def delete(self, table: str, key: bytes) -> bool:
        return bool(self._txn.delete(key, db=self._dbs[table]))

    def scan(self, table: str, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db=self._dbs[table]) as cursor:
            found = cursor.set_range(max(prefix, after)) if prefix or after else cursor.first()
            if found and after and cursor.key() == after:
                found = cursor.next()
            while found:
                key = cursor.key()
                if not key.startswith(prefix):
                    return
                yield key, cursor.value()
                found = cursor.next()

    def last(self, table: str, prefix: bytes) -> tuple[bytes, bytes] | None:
        with self._txn.cursor(db=self._dbs[table]) as cursor:
            end = successor(prefix)
            found = cursor.prev() if end and cursor.set_range(end) else cursor.last()
            if found and cursor.key().startswith(prefix):
                return cursor.key(), cursor.value()
            return None


class Store:
    """One open environment. Implements loomd.actor.behaviour.Reader."""

    def __init__(self, env: Any, dbs: dict[str, Any], blob_dir: Path) -> None:
        self._env = env
        self._dbs = dbs
        self._blobs = blob_dir

    # --- opening -------------------------------------------------------------------------------

    @classmethod
    def prepare(cls, places: Instance) -> Store:
        """Opens the state for the `read_only` to come in this process. Raises what that raises."""
        global _prepared
        _prepared = None
        _prepared = cls.read_only(places)
        return _prepared

    @classmethod
    def read_only(cls, places: Instance) -> Store:
        """For every process but the hub. LoomError(bad_state) if it is missing or newer."""
        global _prepared
        prepared, _prepared = _prepared, None
        if prepared is not None:
            return prepared
        return cls._open_to_read(places, every_table=True)

    @classmethod
    def _open_to_read(cls, places: Instance, *, every_table: bool) -> Store:
        try:
            env = lmdb.open(
                str(places.lmdb),
                map_size=MAP_SIZE,
                max_readers=MAX_READERS,
                max_dbs=len(TABLES) + 8,
                readonly=True,
                create=False,
                lock=True,
                readahead=False,
            )
        except lmdb.Error as error:
            raise LoomError("bad_state", f"cannot open the state: {error}") from None
        try:
            dbs = {}
            for name in TABLES:
                try:
                    dbs[name] = env.open_db(name.encode(), create=False)
                except lmdb.NotFoundError:
                    if every_table:
                        raise
            store = cls(env, dbs, places.blobs)
            with store.reading() as txn:
                migrate.check(txn)
        except lmdb.Error as error:
            env.close()
            raise LoomError("bad_state", f"cannot read the state: {error}") from None
        except BaseException:
            env.close()
            raise
        return store

    @classmethod
    def survey(cls, places: Instance) -> Store:
        """For a look at a state that newer code is to take over: tables that only the newer code
        knows are not there yet. Raises as `read_only` does."""
        return cls._open_to_read(places, every_table=False)

    @classmethod
    def writer(cls, places: Instance, map_size: int = MAP_SIZE) -> Store:
        """For the hub: makes the folders and tables, migrates.

        Raises migrate.NewerSchema (nothing was written), LoomError(bad_state | permission_denied),
        DiskFull.
        """
        try:
            places.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            places.lmdb.mkdir(mode=0o700, exist_ok=True)
            places.blobs.mkdir(mode=0o700, exist_ok=True)
            env = lmdb.open(
                str(places.lmdb),
                map_size=map_size,
                max_readers=MAX_READERS,
                max_dbs=len(TABLES) + 8,
                mode=0o600,
                readahead=False,
            )
        except PermissionError as error:
            raise LoomError(
                "permission_denied",
                f"cannot write {error.filename}: {error.strerror}",
                "give the state directory to the user that runs loomd",
            ) from None
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DiskFull(str(error)) from None
            raise LoomError("bad_state", f"cannot make the state directory: {error}") from None
        except lmdb.Error as error:
            if _no_space(error):
                raise DiskFull(str(error)) from None
            code = "permission_denied" if "ermission denied" in str(error) else "bad_state"
            raise LoomError(code, f"cannot open the state in {places.lmdb}: {error}") from None
        try:
            cls._refuse_newer(env)
            dbs = {name: env.open_db(name.encode()) for name in TABLES}
            store = cls(env, dbs, places.blobs)
            with store.writing() as txn:
                migrate.migrate(txn)
        except lmdb.Error as error:
            env.close()
            if _no_space(error):
                raise DiskFull(str(error)) from None
            raise LoomError("bad_state", f"cannot read the state: {error}") from None
        except BaseException:
            env.close()
            raise
        return store

    @staticmethod
    def _refuse_newer(env: Any) -> None:
        """Before the first table is made: a newer state is not touched at all."""
        try:
            meta = env.open_db(b"meta", create=False)
        except lmdb.NotFoundError:
            return
        with env.begin(db=meta) as txn:
            migrate.check(Txn(txn, {"meta": meta}))

    def close(self) -> None:
        self._env.close()

    # --- transactions --------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[Txn]:
        """A snapshot. Keep it short: while it lasts no page that it sees is used again."""
        with self._env.begin(buffers=False) as txn:
            yield Txn(txn, self._dbs)

    @contextmanager
    def writing(self) -> Iterator[Txn]:
        """One durable transaction, aborted by an exception. Raises DiskFull."""
        try:
            with self._env.begin(write=True) as txn:
                yield Txn(txn, self._dbs)
        except lmdb.Error as error:
            if _no_space(error):
                raise DiskFull(str(error)) from None
            raise

    def read(self, function: Callable[[Txn], T]) -> T:
        with self.reading() as txn:
            return function(txn)

    def reader_check(self) -> int:
        """Frees the slots of readers that were killed; how many."""
        return int(self._env.reader_check())

    def size(self) -> dict[str, int]:
        """Bytes and readers, for `status`."""
        info, stat = self._env.info(), self._env.stat()
        return {
            "bytes": (info["last_pgno"] + 1) * stat["psize"],
            "readers": info["num_readers"],
            "last_txn": info["last_txnid"],
        }

    # --- Reader --------------------------------------------------------------------------------

    def row(self, table: str, key: bytes) -> Any | None:
        """The value of one row, or None."""
        with self.reading() as txn:
            raw = txn.get(table, key)
        return None if raw is None else codec.unpack(raw)

    def rows(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        """Rows by prefix, ascending. Not one snapshot: read in pages."""
        for key, raw in self._pages(table, prefix):
            yield key, codec.unpack(raw)

    def entries(self, log: str, first: int, last: int) -> Iterator[tuple[int, Entry]]:
        """Entries first..last (inclusive) of the log of actor `log`."""
        start = number_key(log, first - 1) if first > 0 else b""
        for key, raw in self._pages("log", name_key(log), start):
            n = last_number(key)
            if n > last:
                return
            yield n, codec.entry(raw)

    def entry_bytes(self, log: str, n: int) -> bytes | None:
        """Entry `n` as it was written."""
        with self.reading() as txn:
            return txn.get("log", number_key(log, n))

    def blob(self, name: str) -> bytes:
        """The content of a blob. LoomError(not_found)."""
        return blobs.get_blob(self._blobs, name)

    def actor(self, name: str) -> dict[str, Any] | None:
        """The row of an actor, spec included."""
        row: dict[str, Any] | None = self.row("actors", name_key(name))
        return row

    def effects(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        """(id, {body, attempt}) of the open effects of an actor."""
        prefix = name_key(name)
        return [(key[len(prefix) :].decode(), row) for key, row in self.rows("effects", prefix)]

    def events(
        self, session: str, after: int = 0, limit: int = journal.PAGE_ROWS
    ) -> dict[str, Any]:
        """One page of the event log: {events, last, more}."""
        with self.reading() as txn:
            return journal.events(txn, session, after, limit)

    def _pages(
        self, table: str, prefix: bytes, after: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        while True:
            page: list[tuple[bytes, bytes]] = []
            with self.reading() as txn:
                for pair in txn.scan(table, prefix, after):
                    page.append(pair)
                    if len(page) == PAGE:
                        break
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1][0]


_prepared: Store | None = None
"""Opened by `prepare`: never twice in one process."""


def _no_space(error: Exception) -> bool:
    if isinstance(error, lmdb.MapFullError):
        return True
    # A write that was cut short, as the one that fills the device is, LMDB calls an I/O error. A
    # device that has a real one is tried again too: the state is as the last commit left it.
    text = str(error)
    return any(os.strerror(code) in text for code in NO_SPACE)
