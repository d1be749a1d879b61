"""Outputs too long to be shown: each whole in a file that the session's later commands can read.

The last KEPT of a session lie in its scratch folder and go with it; a copy is a blob, which stays.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from loomd.store.blobs import put_file
from loomd.tools import spool

FOLDER: Final = "outputs"
KEPT: Final = 20


def folder(scratch: Path) -> Path:
    """Of a session whose scratch folder this is."""
    return scratch / FOLDER


def keep(source: Path, session: Path, name: str, blobs: Path) -> tuple[Path, str]:
    """Takes the spooled output below `source` into the folder of a session whose scratch folder is
    `session`; (file, blob). OSError if the disk does not take it."""
    place = folder(session)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = place / f"{name}.txt"
    with open(path, "wb") as file:
        for piece in spool.pieces(source):
            file.write(piece)
    old = sorted(place.iterdir(), key=lambda one: one.stat().st_mtime_ns)
    for one in old[:-KEPT]:
        with contextlib.suppress(OSError):
            os.unlink(one)
    return path, put_file(blobs, path)
