"""Snapshots: complete or not there, kept while somebody needs them, gone afterwards."""

import os
import threading

import pytest

from loomd.tools import snapshots
from loomd.wire.errors import LoomError


@pytest.fixture
def user(tmp_path):
    folder = tmp_path / "tools"
    (folder / "pack").mkdir(parents=True)
    (folder / "mine.py").write_text("one")
    (folder / "pack" / "data.json").write_text("{}")
    return folder


@pytest.fixture
def generations(tmp_path):
    return tmp_path / "generations"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_snapshot_holds_what_the_folders_held(user, generations, tmp_path):
    (user / ".hidden.py").write_text("no")
    (user / "mine.py~").write_text("no")
    (user / "__pycache__").mkdir()
    (user / "__pycache__" / "mine.pyc").write_text("no")
    repo = tmp_path / "its"
    repo.mkdir()
    (repo / "mine.py").write_text("its")
    kept = snapshots.take(user, repo, generations)
    (user / "mine.py").write_text("two")
    found = generations / kept.hash
    assert (found / "mine.py").read_text() == "one"
    assert set(snapshots.manifest(found)) == {"mine.py", "pack/data.json", ".loom/tools/mine.py"}
    assert snapshots.take(user, repo, generations).hash != kept.hash
    (user / "mine.py").write_text("one")
    assert snapshots.take(user, repo, generations).hash == kept.hash
    assert snapshots.take(user, None, generations).hash != kept.hash


def test_no_folder_is_an_empty_snapshot(generations, tmp_path):
    kept = snapshots.take(tmp_path / "none", None, generations)
    assert kept.hash and snapshots.manifest(generations / kept.hash) == {}


def test_what_is_kept_or_recorded_stays_and_the_rest_goes(user, generations):
    first = snapshots.take(user, None, generations)
    (user / "mine.py").write_text("two")
    second = snapshots.take(user, None, generations)
    (user / "mine.py").write_text("three")
    third = snapshots.take(user, None, generations)
    for name in (".half", ".fresh"):
        (generations / name).mkdir()
    os.utime(generations / ".half", (1, 1))
    second.close()
    third.close()
    assert snapshots.sweep(generations, lambda: {third.hash}) == sorted([".half", second.hash])
    assert names(generations) == sorted([".fresh", first.hash, third.hash])
    first.close()
    first.close()
    snapshots.sweep(generations, lambda: {third.hash})
    assert names(generations) == [".fresh", third.hash]
    with pytest.raises(LoomError):
        snapshots.keep(first.hash, generations)
    snapshots.keep(third.hash, generations).close()


def test_whoever_comes_while_one_is_swept_makes_it_anew(user, generations):
    old = snapshots.take(user, None, generations)
    old.close()
    begun, kept = threading.Event(), []

    def late():
        begun.set()
        kept.append(snapshots.take(user, None, generations))

    thread = threading.Thread(target=late)

    def recorded():
        thread.start()  # it finds the folder, and waits for its lock
        begun.wait()
        return set()

    assert snapshots.sweep(generations, recorded) == [old.hash]
    thread.join()
    assert kept[0].hash == old.hash
    assert (generations / old.hash / "mine.py").read_text() == "one"
    assert snapshots.sweep(generations, set) == []
    kept[0].close()


def test_a_file_without_end_is_refused_before_it_is_read(user, generations):
    with open(user / "big.bin", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LoomError) as refused:
        snapshots.take(user, None, generations)
    assert refused.value.code == "too_large"


def test_too_much_is_refused(user, generations, monkeypatch):
    monkeypatch.setattr(snapshots, "MAX_FILES", 1)
    with pytest.raises(LoomError) as refused:
        snapshots.take(user, None, generations)
    assert refused.value.code == "too_large"
    assert not generations.exists()
