"""The watches of inotify over folders that come, go, move and are links.

A folder that is not there is waited for at the nearest one above it that is. A link is followed:
what is watched is the folder, or the folder of the file, that it leads to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from inotify_simple import Event, INotify, flags

from loomd.watch.plan import Target, counts, parent

WRITTEN: Final = flags.CLOSE_WRITE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE | flags.CREATE
NEW: Final = flags.CREATE | flags.MOVED_TO
SELF: Final = flags.DELETE_SELF | flags.MOVE_SELF
MASK: Final = WRITTEN | SELF | flags.ONLYDIR
MAX_FOLDERS: Final = 2000
"""Of one target, that nobody's `node_modules` takes all watches of the user."""


@dataclass
class Watch:
    """Of one folder. parts: of every file in it; names: file or folder -> the parts that it alone
    belongs to."""

    path: str
    parts: set[str] = field(default_factory=set)
    names: dict[str, set[str]] = field(default_factory=dict)


class Tree:
    """All watches of one process. `fd` is readable when there is something to `read`."""

    def __init__(self) -> None:
        """OSError: the kernel gives no (more) inotify to this user."""
        self._inotify = INotify(nonblocking=True)
        self._targets: list[Target] = []
        self._watches: dict[int, Watch] = {}
        self.unwatched: list[str] = []  # folders that the kernel gave no watch for

    @property
    def fd(self) -> int:
        return int(self._inotify.fileno())

    def close(self) -> None:
        self._inotify.close()

    def watch(self, targets: Iterable[Target]) -> None:
        """Watches these from now on, and nothing else."""
        self._targets = list(targets)
        self._renew()

    def read(self) -> set[str]:
        """The parts in which something has changed since the last call."""
        changed: set[str] = set()
        moved = False
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                changed.update(target.part for target in self._targets)
                moved = True
                continue
            watch = self._watches.get(event.wd)
            if watch is None:
                continue
            if event.mask & flags.IGNORED:
                del self._watches[event.wd]
                moved = True
                continue
            link = bool(event.mask & NEW) and _is_link(os.path.join(watch.path, event.name))
            if link or event.mask & (flags.ISDIR | SELF) or event.name in watch.names:
                moved = True
            elif event.mask & flags.CREATE:
                continue  # an empty file: its close is still to come
            changed |= self._meant(event, watch)
        if moved:
            self._renew()  # before anybody looks: what comes after that is an event
        return changed

    def _meant(self, event: Event, watch: Watch) -> set[str]:
        if event.mask & SELF:
            return watch.parts.union(*watch.names.values())
        named = watch.names.get(event.name, set())
        return named | (watch.parts if counts(event.name) else set())

    # --- the watches ---------------------------------------------------------------------------

    def _renew(self) -> None:
        """Makes the watches what the targets need now. A watch that is asked for again is the
        same one, if the folder is."""
        self.unwatched = []
        wanted: dict[int, Watch] = {}
        for target in self._targets:
            if target.file:
                self._file(wanted, target.path, target.part)
            else:
                self._folder(wanted, target)
        for wd in self._watches.keys() - wanted.keys():
            with contextlib.suppress(OSError):  # its folder is gone, and it with it
                self._inotify.rm_watch(wd)
        self._watches = wanted

    def _add(self, wanted: dict[int, Watch], path: str) -> Watch | None:
        try:
            wd = self._inotify.add_watch(path, MASK)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EACCES, errno.ENOMEM):
                self.unwatched.append(path)
            return None
        return wanted.setdefault(wd, Watch(path))

    def _file(self, wanted: dict[int, Watch], path: str, part: str) -> None:
        """A file, and if it is a link, the file that it leads to."""
        for one in {path, os.path.realpath(path)}:
            self._named(wanted, one, part)

    def _named(self, wanted: dict[int, Watch], path: str, part: str) -> None:
        """Something in its folder; or the next folder on the way to it, until that is there."""
        above = parent(path)
        while not os.path.isdir(above):
            path, above = above, parent(above)
        watch = self._add(wanted, above)
        if watch is not None:
            watch.names.setdefault(os.path.basename(path), set()).add(part)

    def _folder(self, wanted: dict[int, Watch], target: Target) -> None:
        if not os.path.isdir(target.path):
            self._named(wanted, target.path, target.part)
            return
        if os.path.islink(target.path):
            self._file(wanted, target.path, target.part)  # it may be made to lead elsewhere
        for count, folder in enumerate(_folders(target)):
            if count == MAX_FOLDERS:
                self.unwatched.append(target.path)
                break
            watch = self._add(wanted, folder)
            if watch is not None:
                watch.parts.add(target.part)
            for name in _links(folder):
                self._file(wanted, os.path.join(folder, name), target.part)


def _folders(target: Target) -> Iterator[str]:
    """A target's folder and those below it. Each is watched before it is listed, so that no folder
    made meanwhile is missed."""
    yield target.path
    waiting = [target.path] if target.deep else []
    while waiting:
        folder = waiting.pop()
        with contextlib.suppress(OSError):
            for entry in sorted(os.scandir(folder), key=lambda one: one.name):
                if counts(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield entry.path
                    waiting.append(entry.path)


def _is_link(path: str) -> bool:
    """A symbolic or a hard link: whole from the start."""
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        return stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1)
    return False


def _links(folder: str) -> list[str]:
    """Names of links to files."""
    with contextlib.suppress(OSError):
        return [
            one.name
            for one in os.scandir(folder)
            if one.is_symlink() and counts(one.name) and not one.is_dir()
        ]
    return []
