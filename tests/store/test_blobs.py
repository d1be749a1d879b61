"""Blobs: written whole under the name of their content, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loomd.store.blobs import get_blob, name_of, put_blob, put_file
from loomd.wire.errors import LoomError


def test_a_blob_is_found_under_the_hash_of_its_content(tmp_path: Path) -> None:
    name = put_blob(tmp_path / "blobs", b"content")
    assert name == name_of(b"content")
    assert get_blob(tmp_path / "blobs", name) == b"content"
    assert (tmp_path / "blobs" / name[:2] / name).exists()


def test_the_same_content_is_written_once(tmp_path: Path) -> None:
    name = put_blob(tmp_path, b"x")
    inode = (tmp_path / name[:2] / name).stat().st_ino
    assert put_blob(tmp_path, b"x") == name
    assert (tmp_path / name[:2] / name).stat().st_ino == inode
    assert len(os.listdir(tmp_path / name[:2])) == 1


def test_a_disk_that_takes_nothing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    folder = tmp_path / name_of(b"x")[:2]
    folder.mkdir()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        put_blob(tmp_path, b"x")
    assert os.listdir(folder) == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoomError) as error:
        get_blob(tmp_path, name)
    assert error.value.code == "bad_request"


def test_a_blob_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(LoomError) as error:
        get_blob(tmp_path, "0" * 64)
    assert error.value.code == "not_found"


def test_a_file_becomes_the_same_blob_as_its_content(tmp_path: Path) -> None:
    content = b"line\n" * 500_000
    source = tmp_path / "source"
    source.write_bytes(content)
    name = put_file(tmp_path / "blobs", source)
    assert name == name_of(content)
    assert get_blob(tmp_path / "blobs", name) == content
    assert put_blob(tmp_path / "blobs", content) == put_file(tmp_path / "blobs", source) == name
    assert source.exists()
