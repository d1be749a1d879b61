"""The scratch folder of a session: what calls work in, and its removal.

A call that is not confined (`sandbox = "full"`), by root, may leave a mount in it. Whoever removed
the folder through that would remove what is mounted there: it is taken off first, or all stays.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_DETACH, _NOFOLLOW = 2, 8


def remove(folder: Path) -> None:
    """Removes the folder with all that is in it, and nothing else; what cannot be removed stays."""
    for point in reversed(_mounted(folder)):
        if _libc.umount2(os.fsencode(point), _DETACH | _NOFOLLOW) != 0:
            return
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.unlink(missing_ok=True)


def _mounted(folder: Path) -> list[str]:
    """Mount points at and below the folder, in the order in which they were made."""
    root = os.path.realpath(folder)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [_plain(line.split(" ", 5)[4]) for line in file]
    return [point for point in points if point == root or point.startswith(f"{root}/")]


def _plain(field: str) -> str:
    """Blanks and the like are written as octal there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
