"""A session's own layer over the copies that its commands work in: what builds and caches leave.

What git ignores is no change of the project, but the next command wants it: objects, caches of
tests, installed packages. At the end of a call it is moved aside, into the next copy at the same
path it is moved back: renames, however much it is. A call that was killed or cancelled takes its
layer with it: half a build is worse than none.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from loomd.tools import copy as copies
from loomd.tools.scratch import remove

FOLDER: Final = "layer"
_NAMES: Final = "names.json"
_CHILD: Final = "\x7f"
"""A file that nobody has. Whether it would be ignored says so of its folder, which need not exist
where git is asked."""


def lay(copy: copies.Copy, scratch: Path) -> None:
    """Moves the layer below `scratch`, if there is one, into a fresh copy and a fresh home. By a
    confined process only: what stands in the layer was written by commands."""
    layer = scratch / FOLDER
    try:
        names = json.loads((layer / _NAMES).read_text())
        for number, name in enumerate(names):
            target = _place(copy, scratch, name)
            _remove(target)
            # A folder of the checkout that has gone meanwhile takes its builds with it.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.rename(layer / str(number), target)
    except FileNotFoundError:
        pass  # the first call here
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # not as `keep` leaves it: some command was at it, and goes without
    _remove(layer)


def keep(copy: copies.Copy, scratch: Path) -> None:
    """Moves what git ignores in the copy, and the caches of the home, to the layer."""
    layer = scratch / FOLDER
    names = _ignored(copy)
    if (scratch / "home/.cache").is_dir():
        names.append("~/.cache")
    layer.mkdir()
    for number, name in enumerate(names):
        os.rename(_place(copy, scratch, name), layer / str(number))
    (layer / _NAMES).write_text(json.dumps(names))


def leave_only(scratch: Path) -> None:
    """Removes everything below `scratch` but the layer."""
    for entry in scratch.iterdir() if scratch.is_dir() else ():
        if entry.name != FOLDER:
            remove(entry)


def _place(copy: copies.Copy, scratch: Path, name: str) -> Path:
    return scratch / "home" / name[2:] if name.startswith("~/") else copy.root / name


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _ignored(copy: copies.Copy) -> list[str]:
    """Folders and files of the copy that git ignores; none inside of another."""
    whole = set(copies.ignored_folders(copy.repo))
    known = set(_parents(path for path in copy.original if not _inside(path, whole)))
    found: list[str] = []
    folders: list[str] = []
    files: list[str] = []
    stack = [""]
    while stack:
        inside = stack.pop()
        with os.scandir(copy.root / inside) as entries:
            for entry in entries:
                path = f"{inside}/{entry.name}" if inside else entry.name
                if entry.is_symlink() or path == ".git" or not _is_text(path):
                    continue
                excluded = entry.name in copies.EXCLUDED or entry.name.endswith(_BUILT)
                if excluded or path in whole:
                    found.append(path)
                elif entry.is_dir():
                    (stack if path in known else folders).append(path)
                elif _touched(copy, path, entry.stat()):
                    files.append(path)
    asked = [f"{path}/{_CHILD}" for path in folders] + files
    ignored = set(copies.check_ignored(copy.repo, asked))
    found += [path for path in folders if f"{path}/{_CHILD}" in ignored]
    return found + [path for path in files if path in ignored]


_BUILT: Final = (".pyc", ".pyo", ".egg-info")


def _touched(copy: copies.Copy, path: str, now: os.stat_result) -> bool:
    if not stat.S_ISREG(now.st_mode):
        return False
    return copy.seen.get(path) != (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)


def _parents(paths: Iterable[str]) -> Iterable[str]:
    for path in paths:
        while "/" in path:
            path = path.rpartition("/")[0]
            yield path


def _inside(path: str, folders: set[str]) -> bool:
    return not folders.isdisjoint(_parents([path]))


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
