"""What a command prints, whole, in files of its call's scratch folder.

`output.START` holds the bytes from START on. The first file takes the most, and of those that
follow only the last two are kept, so that an endless output has an end on the disk. Written by the
worker; read by the tool host, which trusts nothing there: the command can write to that folder too.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HEAD: Final = 32 << 20
SEGMENT: Final = 8 << 20

_NAME: Final = re.compile(r"output\.(0|[1-9][0-9]{0,17})")


class Spool:
    """Takes an output as it comes. size: bytes so far; trouble: why nothing is kept any more."""

    def __init__(self, folder: Path, head: int = HEAD, segment: int = SEGMENT) -> None:
        self.folder = folder
        self.size = 0
        self.trouble = ""
        self._segment = segment
        self._room = head
        self._fd = -1
        self._later: list[Path] = []
        for name in names(folder):  # of an earlier command in the same folder
            with contextlib.suppress(OSError):
                os.unlink(folder / name)

    def write(self, data: bytes) -> None:
        start, self.size = self.size, self.size + len(data)
        view = memoryview(data)
        try:
            while view and not self.trouble:
                if self._fd < 0 or self._room == 0:
                    self._next(start)
                done = os.write(self._fd, view[: self._room])
                self._room -= done
                start += done
                view = view[done:]
        except OSError as error:  # a full disk: the command goes on, and so does what is shown
            self.trouble = error.strerror or str(error)

    def _next(self, start: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._room = self._segment
        path = self.folder / f"output.{start}"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if start > 0:
            self._later.append(path)
        for old in self._later[:-2]:
            with contextlib.suppress(OSError):
                old.unlink()
        del self._later[:-2]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def names(folder: Path) -> list[str]:
    """Of the files there."""
    return [f"output.{start}" for start, _ in _parts(folder)]


def size(folder: Path) -> int:
    """Bytes of the output so far, those that are not kept among them."""
    return max((start + length for start, length in _parts(folder)), default=0)


def read(folder: Path, start: int, most: int) -> tuple[int, bytes]:
    """(where it begins, at most `most` bytes) of what is kept from `start` on; it begins later
    where files have been dropped."""
    for at, length in _parts(folder):
        if at + length > start:
            begin = max(start, at)
            return begin, _read(folder, at, begin - at, most)
    return start, b""


def pieces(folder: Path, piece: int = 1 << 20) -> Iterator[bytes]:
    """All that is kept, in order; where something is missing it is said."""
    done = 0
    for at, _ in _parts(folder):
        if at > done:
            yield b"\n[... %d bytes were not kept ...]\n" % (at - done)
            done = at
        while data := _read(folder, at, done - at, piece):
            done += len(data)
            yield data


def ends(folder: Path, head: int, tail: int, start: int = 0) -> tuple[bytes, bytes, int]:
    """(first, last, size) of what came from `start` on: at most so many bytes of each; all of it
    is in `first` if it is no more than both together."""
    whole = size(folder)
    length = max(0, whole - start)
    if length <= head + tail:
        return _span(folder, start, length), b"", length
    return _span(folder, start, head), _span(folder, whole - tail, tail), length


def _span(folder: Path, start: int, length: int) -> bytes:
    made = bytearray()
    while len(made) < length:
        at, data = read(folder, start + len(made), length - len(made))
        if not data or at != start + len(made):
            break
        made += data
    return bytes(made)


def _parts(folder: Path) -> list[tuple[int, int]]:
    """(start, bytes) of each file, in order; what is no plain file of its own is none."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if match := _NAME.fullmatch(name):
                with contextlib.suppress(OSError):
                    entry = os.lstat(folder / name)
                    if _plain(entry):
                        found.append((int(match[1]), entry.st_size))
    return sorted(found)


def _plain(entry: os.stat_result) -> bool:
    return stat.S_ISREG(entry.st_mode) and entry.st_nlink == 1


def _read(folder: Path, start: int, skip: int, most: int) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(folder / f"output.{start}", flags)
    except OSError:
        return b""
    try:
        # A link to another's file would be read with the rights of the tool host.
        return os.pread(fd, most, skip) if _plain(os.fstat(fd)) else b""
    except OSError:
        return b""
    finally:
        os.close(fd)
