"""The writer over a real store: one transaction, offenders alone, a full disk, an old hub."""

from __future__ import annotations

import contextlib
import resource
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loomd.hub.mail import Batch
from loomd.hub.rules import Result, Rules, begin_epoch
from loomd.hub.writer import Job, Writer, finish
from loomd.store.env import DiskFull, Store, StoreError
from loomd.wire.endpoints import Instance
from tests.support import BOUND_S


@pytest.fixture
def places(tmp_path: Path) -> Instance:
    return Instance(tmp_path / "config", tmp_path / "state", tmp_path / "run")


class Undone(Exception):
    """Takes a transaction back."""


class Desk:
    def __init__(self, places: Instance, **more: Any) -> None:
        self.store = Store.writer(places, **more)
        self.rules = Rules()
        with self.store.writing() as txn:
            self.rules.epoch = begin_epoch(txn)
        self.writer = Writer(self.store, self.rules, clock=lambda: 1.0)
        self.said: list[tuple[Any, ...]] = []

    def put(self, key: str, size: int = 1, apply: Any = None) -> None:
        def write(batch: Batch) -> Result:
            result = batch.begin()
            batch.txn.put("ledger", key.encode(), b"x" * size)
            return result

        self.writer.put(
            Job(
                apply or write,
                lambda result: self.said.append((key, "done")),
                lambda code, detail: self.said.append((key, code)),
                key,
            )
        )

    def wait(self, count: int) -> None:
        poll = select.poll()
        poll.register(self.writer.fd, select.POLLIN)
        while len(self.said) < count:
            assert poll.poll(BOUND_S * 1000), f"only {self.said}"
            for job in self.writer.results():
                finish(job)

    def close(self) -> None:
        self.writer.stop()
        self.writer.close()
        self.store.close()


@pytest.fixture
def desk(places: Instance) -> Iterator[Desk]:
    made = Desk(places)
    yield made
    made.close()


def fails(batch: Batch) -> Result:
    batch.txn.put("ledger", b"trace", b"x")
    raise ZeroDivisionError("a defect")


def test_all_waiting_jobs_are_one_transaction_answered_in_order(desk: Desk) -> None:
    for n in range(50):
        desk.put(f"k{n}")
    desk.writer.start()
    desk.wait(50)
    assert [key for key, _ in desk.said] == [f"k{n}" for n in range(50)]
    assert desk.writer.transactions == 1
    with desk.store.reading() as txn:
        assert sum(1 for _ in txn.scan("ledger", b"k")) == 50


def test_an_offender_is_refused_alone_and_leaves_no_trace(desk: Desk) -> None:
    desk.put("a")
    desk.put("bad", apply=fails)
    desk.put("too long a key " * 100)
    desk.put("b")
    desk.writer.start()
    desk.wait(4)
    assert [what for _, what in desk.said] == ["done", "internal", "internal", "done"]
    with desk.store.reading() as txn:
        assert [key for key, _ in txn.scan("ledger", b"")] == [b"a", b"b"]


def test_a_lone_offender_is_refused_too(desk: Desk) -> None:
    desk.writer.start()
    desk.put("bad", apply=fails)
    desk.wait(1)
    desk.put("good")
    desk.wait(2)
    assert desk.said == [("bad", "internal"), ("good", "done")]


def test_a_full_disk_is_told_and_nothing_of_the_transaction_is_stored(places: Instance) -> None:
    desk = Desk(places, map_size=1 << 20)
    try:
        desk.writer.start()
        desk.put("small")
        desk.wait(1)
        desk.put("large", 2 << 20)
        desk.wait(2)
        desk.put("small again")
        desk.wait(3)
        assert desk.said == [("small", "done"), ("large", "disk_full"), ("small again", "done")]
        with desk.store.reading() as txn:
            assert txn.get("ledger", b"large") is None
    finally:
        desk.close()


def test_no_space_on_the_device_is_a_full_disk_not_the_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error as LMDB raises it when the kernel says ENOSPC at commit."""
    real = Store.writing

    def full(self: Store) -> Any:
        raise DiskFull("mdb_txn_commit: No space left on device")

    monkeypatch.setattr(Store, "writing", full)
    desk.put("a")
    desk.writer.start()
    desk.wait(1)
    monkeypatch.setattr(Store, "writing", real)
    desk.put("b")
    desk.wait(2)
    assert desk.said == [("a", "disk_full"), ("b", "done")]


def test_a_commit_that_finds_no_space_is_not_acknowledged(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs have their results by then; none of them may be told as done."""
    real = Store.writing

    @contextlib.contextmanager
    def full(self: Store) -> Iterator[Any]:
        with contextlib.suppress(Undone), real(self) as txn:
            yield txn
            raise Undone
        raise DiskFull("mdb_txn_commit: No space left on device")

    monkeypatch.setattr(Store, "writing", full)
    desk.put("a")
    desk.put("b")
    desk.writer.start()
    desk.wait(2)
    assert desk.said == [("a", "disk_full"), ("b", "disk_full")]
    with desk.store.reading() as txn:
        assert txn.get("ledger", b"a") is None


def test_a_write_that_is_cut_short_is_a_full_disk(desk: Desk, places: Instance) -> None:
    """As on a full device: the kernel takes a part of a write, and LMDB says I/O error."""
    desk.put("small")
    desk.writer.start()
    desk.wait(1)
    size = (places.lmdb / "data.mdb").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 2048, before[1]))
        desk.put("large", 1 << 20)
        desk.wait(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    desk.put("again")
    desk.wait(3)
    assert desk.said == [("small", "done"), ("large", "disk_full"), ("again", "done")]
    with desk.store.reading() as txn:
        assert txn.get("ledger", b"large") is None


def test_any_other_error_of_the_store_ends_the_hub(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Store) -> Any:
        raise StoreError("MDB_PANIC")

    monkeypatch.setattr(Store, "writing", broken)
    desk.put("a")
    desk.writer.start()
    with pytest.raises(StoreError, match="PANIC"):
        desk.wait(1)


def test_a_hub_whose_epoch_is_over_writes_nothing_more(desk: Desk) -> None:
    with desk.store.writing() as txn:
        begin_epoch(txn)
    desk.put("late")
    desk.writer.start()
    with pytest.raises(StoreError, match="epoch"):
        desk.wait(1)
    with desk.store.reading() as txn:
        assert txn.get("ledger", b"late") is None


def test_stop_finishes_what_is_queued(desk: Desk) -> None:
    for n in range(10):
        desk.put(f"k{n}")
    desk.writer.start()
    desk.writer.stop()
    for job in desk.writer.results():
        finish(job)
    assert len(desk.said) == 10
