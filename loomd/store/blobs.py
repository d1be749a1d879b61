"""Values over 64 KiB: files under `blobs/`, named by the hex SHA-256 of their content.

The sender writes and fsyncs a blob before the commit that names it, so a row never names a file
that is not there. Blobs are never changed and never deleted by default.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from loomd.wire.errors import LoomError

_HEX = frozenset("0123456789abcdef")


def name_of(content: bytes) -> str:
    """The name that `content` has as a blob."""
    return hashlib.sha256(content).hexdigest()


def path_of(directory: Path, name: str) -> Path:
    """Where the blob lies. LoomError(bad_request) if `name` is none."""
    if len(name) != 64 or not _HEX.issuperset(name):
        raise LoomError("bad_request", f"not the name of a blob: {name!r}")
    return directory / name[:2] / name


def put_blob(directory: Path, content: bytes) -> str:
    """Writes `content` (fsynced, renamed into place) unless it is there; its name.

    OSError if the disk does not take it; then nothing of it is visible.
    """
    name = name_of(content)
    path = path_of(directory, name)
    if not path.exists():
        _write(directory, path, (content,))
    return name


def put_file(directory: Path, source: Path) -> str:
    """As `put_blob`, for the content of a file of any size, which nobody changes meanwhile."""
    digest = hashlib.sha256()
    with open(source, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
        name = digest.hexdigest()
        path = path_of(directory, name)
        if path.exists():
            return name
        file.seek(0)
        _write(directory, path, iter(lambda: file.read(1 << 20), b""))
    return name


def get_blob(directory: Path, name: str) -> bytes:
    """The content of a blob. LoomError(not_found)."""
    try:
        return path_of(directory, name).read_bytes()
    except FileNotFoundError:
        raise LoomError("not_found", f"no such blob: {name}") from None


def _write(directory: Path, path: Path, pieces: Iterable[bytes]) -> None:
    for folder in (directory, path.parent):
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync(folder.parent)
    fd, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with open(fd, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
