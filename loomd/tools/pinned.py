"""Files of a checkout that commands may be writing meanwhile: reached folder by folder, by no link.

Between a look at a path and what is done there a command can put a link to anywhere in its place,
and it would be followed with the rights of the daemon. A descriptor of the folder cannot be led
astray: what is done through it is done in that folder, wherever its name points by then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def pinned(root: Path, path: Path, *, make: bool = False) -> Iterator[Path]:
    """`path`, below `root` and without links, by a descriptor of its folder: good for one name, and
    no link but the last may be in it. make: missing folders are made. OSError: a folder on the way
    is none, or not there."""
    fd = _walk(root, path.parent.relative_to(root).parts, make)
    try:
        yield Path(f"/proc/self/fd/{fd}", path.name)
    finally:
        os.close(fd)


def _walk(root: Path, parts: Sequence[str], make: bool) -> int:
    fd = os.open(root, _FOLDER)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
                    os.fsync(fd)
            inner = os.open(part, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = inner
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def folder(root: Path, inside: str) -> Iterator[Path]:
    """A folder below `root` by its descriptor. OSError as above."""
    fd = _walk(root, Path(inside).parts, False)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def read(root: Path, path: Path, most: int = -1) -> bytes:
    """The content of a plain file. OSError, EFBIG if it has more than `most` bytes."""
    with pinned(root, path) as place:
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "no plain file", str(path))
            content = file.read(most + 1 if most >= 0 else -1)
    if 0 <= most < len(content):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def chmod(place: Path, mode: int) -> None:
    """Of a plain file that no link leads to. OSError."""
    fd = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "no plain file", place.name)
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)
