"""The store: opening, refusing, reading; and that the twin behaves like the original."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from loomd.store import journal, migrate
from loomd.store.env import DiskFull, Store, StoreError, _no_space
from loomd.store.schema import VERSION, name_key, number_key, text_key
from loomd.store.tables import Memory, actor_row, successor
from loomd.wire import codec
from loomd.wire.bodies import Entry
from loomd.wire.endpoints import Instance
from loomd.wire.errors import LoomError
from loomd.wire.messages import Event


@pytest.fixture
def places(tmp_path: Path) -> Instance:
    return Instance(tmp_path / "config", tmp_path / "state", tmp_path / "run")


@pytest.fixture
def store(places: Instance) -> Iterator[Store]:
    made = Store.writer(places)
    yield made
    made.close()


def test_a_fresh_state_has_the_schema_and_all_tables(store: Store, places: Instance) -> None:
    assert store.row("meta", migrate.SCHEMA_KEY) == VERSION
    assert list(store.rows("mail", b"")) == []
    assert places.lmdb.stat().st_mode & 0o777 == 0o700


def test_a_newer_schema_is_refused_and_not_touched(places: Instance) -> None:
    store = Store.writer(places)
    with store.writing() as txn:
        txn.put("meta", migrate.SCHEMA_KEY, codec.pack(VERSION + 1))
    store.close()
    before = (places.lmdb / "data.mdb").read_bytes()
    with pytest.raises(migrate.NewerSchema, match=str(VERSION + 1)):
        Store.writer(places)
    with pytest.raises(migrate.NewerSchema):
        Store.read_only(places)
    assert (places.lmdb / "data.mdb").read_bytes() == before


def test_an_older_schema_is_migrated_in_one_transaction(places: Instance) -> None:
    old = {"spec": {"name": "s-1/a", "kind": "echo", "session": "s-1"}, "seq": [0, 1], "step": 2}
    store = Store.writer(places)
    with store.writing() as txn:
        txn.put("meta", migrate.SCHEMA_KEY, codec.pack(0))
        txn.put("actors", name_key("s-1/a"), codec.pack(old))
        txn.put("log", number_key("s-1/a", 4), b"")
        txn.put("mail", name_key("s-1/a") + b"\x01" + bytes(8), b"")
    store.close()
    store = Store.writer(places)
    assert store.row("meta", migrate.SCHEMA_KEY) == VERSION
    with store.reading() as txn:
        row = actor_row.decode(txn.get("actors", name_key("s-1/a")) or b"")
    assert (row.log, row.boxed, row.step) == (4, [0, 1], 2)
    store.close()


def test_a_state_that_is_missing_or_no_state_is_an_error_with_a_code(places: Instance) -> None:
    with pytest.raises(LoomError) as missing:
        Store.read_only(places)
    assert missing.value.code == "bad_state"
    places.lmdb.mkdir(parents=True)
    (places.lmdb / "data.mdb").write_bytes(b"garbage" * 4000)
    with pytest.raises(LoomError) as garbage:
        Store.writer(places)
    assert garbage.value.code == "bad_state"


def test_a_state_directory_that_is_a_file_is_an_error_with_a_code(places: Instance) -> None:
    places.state.write_text("")
    with pytest.raises(LoomError) as error:
        Store.writer(places)
    assert error.value.code == "bad_state"


def test_a_full_map_is_told_and_the_transaction_undone(places: Instance) -> None:
    store = Store.writer(places, map_size=1 << 20)
    with pytest.raises(DiskFull):
        fill(store, 2 << 20)
    with store.reading() as txn:
        assert txn.get("log", b"a") is None
    store.close()


def test_what_the_kernel_says_of_space_is_understood() -> None:
    import lmdb

    assert _no_space(lmdb.MapFullError())
    assert _no_space(lmdb.Error("mdb_txn_commit: No space left on device"))
    assert _no_space(lmdb.Error("mdb_txn_commit: Input/output error"))  # a short write
    assert not _no_space(lmdb.Error("mdb_txn_begin: MDB_PANIC"))


def test_readers_see_what_is_committed_and_only_that(store: Store) -> None:
    with store.writing() as txn:
        txn.put("log", number_key("a", 1), codec.encode(Entry(role="user", text="hi")))
        assert store.entry_bytes("a", 1) is None
    assert [(n, entry.text) for n, entry in store.entries("a", 1, 9)] == [(1, "hi")]


def test_a_read_only_store_reads_and_cannot_write(places: Instance) -> None:
    Store.writer(places).close()
    reader = Store.read_only(places)
    assert reader.row("meta", migrate.SCHEMA_KEY) == VERSION
    with pytest.raises(StoreError):
        fill(reader, 1)
    reader.close()


def fill(store: Store, size: int) -> None:
    with store.writing() as txn:
        txn.put("log", b"a", b"x")
        txn.put("log", b"b", b"x" * size)


def test_entries_are_a_range_across_pages(store: Store) -> None:
    with store.writing() as txn:
        for n in range(1, 1001):
            raw = codec.encode(Entry(role="user", text=str(n)))
            txn.put("log", number_key("a", n), raw)
        txn.put("log", number_key("b", 1), codec.encode(Entry(role="user")))
    assert [n for n, _ in store.entries("a", 200, 800)] == list(range(200, 801))
    assert [n for n, _ in store.entries("a", 0, 2000)] == list(range(1, 1001))
    assert store.entry_bytes("a", 1001) is None


def test_effects_and_actors_are_read_by_name(store: Store) -> None:
    with store.writing() as txn:
        txn.put("effects", text_key("a", "e/1"), codec.pack({"body": b"q", "attempt": 2}))
        txn.put("effects", text_key("ab", "e"), codec.pack({"body": b"q", "attempt": 1}))
        txn.put("actors", name_key("a"), codec.pack({"step": 3}))
    assert store.effects("a") == [("e/1", {"body": b"q", "attempt": 2})]
    assert store.actor("a") == {"step": 3}
    assert store.actor("b") is None


KILLED = """
import os, sys
from pathlib import Path
from loomd.store.env import Store
from loomd.wire.endpoints import Instance
base = Path(sys.argv[1])
store = Store.read_only(Instance(base / "config", base / "state", base / "run"))
with store.reading() as txn:
    txn.get("meta", b"schema")
    print("reading", flush=True)
    sys.stdin.read()
"""


def test_the_slots_of_killed_readers_are_freed(store: Store, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"reading\n"
        os.kill(reader.pid, signal.SIGKILL)
        reader.wait()
    assert store.reader_check() == 1
    assert store.reader_check() == 0


# --- pages of events -----------------------------------------------------------------------------


def put_events(txn: Any, count: int, size: int = 1) -> None:
    for seq in range(1, count + 1):
        event = Event(
            session="s-1", seq=seq, ts=1.0, type="x", actor="a", data={"text": "x" * size}
        )
        txn.put("events", number_key("s-1", seq), codec.encode(event))
    txn.put("events", number_key("s-10", 1), b"")


def test_events_come_in_pages_with_a_cursor() -> None:
    memory = Memory()
    put_events(memory, 1200)
    seen: list[int] = []
    after = 0
    while True:
        page = journal.events(memory, "s-1", after)
        assert page["last"] == 1200
        seen += [event["seq"] for event in page["events"]]
        if not page["more"]:
            break
        after = seen[-1]
    assert seen == list(range(1, 1201))
    assert journal.events(memory, "s-2", 0) == {"events": [], "last": 0, "more": False}


def test_a_page_of_large_events_still_fits_a_frame() -> None:
    memory = Memory()
    put_events(memory, 60, 50_000)
    page = journal.events(memory, "s-1", 0)
    assert page["more"] and 0 < len(page["events"]) < 60
    assert len(codec.encode(page)) < codec.SOFT_LIMIT


# --- the twin ------------------------------------------------------------------------------------

keys = st.binary(min_size=1, max_size=3)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, st.binary(max_size=3)),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("get"), keys),
        st.tuples(st.just("scan"), st.binary(max_size=2), st.binary(max_size=3)),
        st.tuples(st.just("last"), st.binary(max_size=2)),
    ),
    max_size=30,
)


def run(txn: Any, operation: tuple[Any, ...]) -> Any:
    name, *args = operation
    result = getattr(txn, name)("log", *args)
    return list(result) if name == "scan" else result


@settings(max_examples=40, deadline=None)
@given(committed=operations, aborted=operations)
def test_the_twin_behaves_like_the_original(
    tmp_path_factory: pytest.TempPathFactory, committed: Any, aborted: Any
) -> None:
    base = tmp_path_factory.mktemp("twin")
    store = Store.writer(Instance(base / "c", base / "s", base / "r"))
    memory = Memory()
    try:
        with store.writing() as txn:
            for operation in committed:
                assert run(txn, operation) == run(memory, operation), operation
        memory.commit()
        with undone(), store.writing() as txn:
            for operation in aborted:
                assert run(txn, operation) == run(memory, operation), operation
            raise Undo
        memory.abort()
        with store.reading() as txn:
            assert run(txn, ("scan", b"", b"")) == run(memory, ("scan", b"", b""))
    finally:
        store.close()


class Undo(Exception):
    pass


def undone() -> AbstractContextManager[Any]:
    return pytest.raises(Undo)


@given(prefix=st.binary(max_size=3), key=st.binary(max_size=5))
def test_the_successor_of_a_prefix_is_beyond_all_its_keys(prefix: bytes, key: bytes) -> None:
    after = successor(prefix)
    if after:
        assert prefix + key < after
    else:
        assert prefix.strip(b"\xff") == b""
