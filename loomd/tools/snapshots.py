"""Snapshots of the tool files, in the state directory under the hash of their content.

So the generation that was recorded can be formed again whatever stands in the folders now. The
user's files lie flat in `state/generations/HASH/`, those of a trusted repo in `.repo/` below.

Who works with a snapshot holds a shared lock on its folder, from before it is made until its last
call has ended. What nobody holds and no session has recorded is removed (`sweep`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from loomd.wire.errors import LoomError

REPO: Final = ".repo"
"""Folder of a snapshot that holds the repo's files; no file of the user's has such a name."""

MAX_FILES: Final = 1000
MAX_BYTES: Final = 20 << 20
TRIES: Final = 10

HALF_S: Final = 60.0
"""Age from which on what is not finished never will be."""


class Kept:
    """A snapshot that stays while this is open. `hash` "": none, only what ships."""

    def __init__(self, hash: str, fd: int) -> None:
        self.hash = hash
        self._fd = fd

    def close(self) -> None:
        """May be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()  # of one whose taker was cancelled


def nothing() -> Kept:
    """The snapshot of no files."""
    return Kept("", -1)


def keep(hash: str, generations: Path) -> Kept:
    """Holds a snapshot that is there. LoomError(not_found) if it is not."""
    if not hash:
        return nothing()
    for _ in range(TRIES):
        try:
            fd = os.open(generations / hash, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            break
        if _held(fd, generations / hash):
            return Kept(hash, fd)
        os.close(fd)
    raise LoomError("not_found", f"the snapshot {hash} of the tool files is gone")


def take(user: Path, repo: Path | None, generations: Path) -> Kept:
    """Copies the tool files to `generations/HASH`, durably, and holds them. `repo`: the folder of
    a trusted repo. LoomError if there is too much of it, OSError if it cannot be read or written.
    """
    contents = dict(_contents(user))
    if repo is not None:
        contents |= {f"{REPO}/{name}": content for name, content in _contents(repo)}
    if len(contents) > MAX_FILES or sum(map(len, contents.values())) > MAX_BYTES:
        raise LoomError("too_large", f"more than {MAX_FILES} tool files or {MAX_BYTES >> 20} MB")
    hash = _hash(contents)
    generations.mkdir(mode=0o700, parents=True, exist_ok=True)
    for _ in range(TRIES):
        with contextlib.suppress(LoomError):
            return keep(hash, generations)
        _write(contents, generations / hash)
    raise LoomError("failed", f"the snapshot {generations / hash} could not be made")


def manifest(folder: Path) -> dict[str, str]:
    """File -> hash of its content, of a snapshot; files of the repo as `.loom/tools/NAME`."""
    found = dict(_contents(folder))
    found |= {f".loom/tools/{name}": content for name, content in _contents(folder / REPO)}
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


def sweep(generations: Path, recorded: Callable[[], set[str]]) -> list[str]:
    """Removes the snapshots that nobody holds and that are not among `recorded` (asked once those
    to go are locked: who has recorded one held it before), and halves that a crash has left."""
    with contextlib.ExitStack() as held:
        free = {}
        for path in sorted(generations.iterdir()) if generations.is_dir() else ():
            with contextlib.suppress(OSError):
                if path.name.startswith(".") and time.time() - path.stat().st_mtime < HALF_S:
                    continue  # it is just being made
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                held.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free[path.name] = path
        gone = sorted(free.keys() - recorded()) if free else []
        for name in gone:
            # Out of the way at once: whoever opens it from now on makes a new one.
            aside = generations / f".gone-{os.getpid()}-{name}"
            with contextlib.suppress(OSError):
                os.rename(free[name], aside)
                shutil.rmtree(aside, ignore_errors=True)
    return gone


def _held(fd: int, path: Path) -> bool:
    """Locks the folder; False if it was removed, or replaced, before we had it."""
    fcntl.flock(fd, fcntl.LOCK_SH)
    with contextlib.suppress(FileNotFoundError):
        there, ours = path.stat(), os.fstat(fd)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
    return False


def _write(contents: dict[str, bytes], target: Path) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
    fd = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        for name, content in contents.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        os.fsync(fd)
        with contextlib.suppress(OSError):  # another session was faster, or it was swept
            os.rename(temporary, target)
            _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(fd)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _hash(contents: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        for part in (name.encode("utf-8", "surrogateescape"), content):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _contents(source: Path) -> Iterator[tuple[str, bytes]]:
    """(path below `source`, content) of what counts: no hidden files, no bytecode."""
    size = count = 0
    for folder, names, files in os.walk(source):
        names[:] = sorted(n for n in names if n != "__pycache__" and not n.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if name.startswith(".") or name.endswith((".pyc", ".pyo", "~")) or not path.is_file():
                continue
            try:
                with open(path, "rb") as file:
                    content = file.read(MAX_BYTES + 1 - size)  # whatever else it holds
            except FileNotFoundError:
                continue  # an editor replaces it: there is another event to come
            size += len(content)
            count += 1
            if count > MAX_FILES or size > MAX_BYTES:
                raise LoomError(
                    "too_large",
                    f"{source} holds more than {MAX_FILES} files or {MAX_BYTES >> 20} MB",
                )
            yield str(path.relative_to(source)), content
