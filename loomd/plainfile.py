"""Plain files that people name: read without waiting, and left without a descriptor.

A path may be anything by now. A pipe would be waited for, a device may have no end, and Python's
`open` of a descriptor that is a folder raises and leaves it open.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class NotPlainError(ValueError):
    """There is something, but no plain file."""

    def __init__(self) -> None:
        super().__init__("it is no file")


@contextmanager
def opened(path: Path, *, follow: bool = True) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """The file and what it is. OSError, NotPlainError; ValueError for a path with a NUL. `follow`:
    where a link leads; else one is an OSError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise NotPlainError
        with open(fd, "rb", closefd=False) as file:
            yield file, status
    finally:
        os.close(fd)
