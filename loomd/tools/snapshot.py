"""What calls change in the checkout itself, where no review is required: found by comparing.

Before such a call every file that git does not ignore is known by its stamp (inode, size, times,
mode) and its content is kept; afterwards what has another stamp is compared. Contents are kept
outside of the checkout, once each, while the host runs; only what has changed becomes blobs.
Whatever others write while a call is under way counts as the call's; of
calls that run at once it is the first to end.

Crash-safe: the index lies on disk before a call begins, and what came of a call before the index
goes on. A successor of a host that was killed meanwhile finds both, and asks `interrupted`.

Not covered, and said where it can be known: files of more than `MAX_FILE` bytes, links, names that
are no UTF-8, and whatever git ignores.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from loomd.store.blobs import put_blob
from loomd.tools import copy as copies
from loomd.tools import pinned
from loomd.tools.propose import MAX_HUNKS, capped, change, name_of, weight
from loomd.wire import codec
from loomd.wire.bodies import Changed, FileChange, ToolCall

MAX_FILE: Final = 8 << 20
MAX_CHANGED: Final = 800
"""Files of one call: a commit carries them twice."""

MAX_LEFT: Final = 50

ENDS: Final = 64
"""Ends of calls that stay on disk, the last ones: far more than can wait for their commit."""

COMMITTED_S: Final = 5.0
_CLOCK_REALTIME_COARSE: Final = 5  # linux/time.h; Python has no name for it

RACY_NS: Final = 50_000_000
"""A file that was written so shortly before the index was made may have been written again within
the same tick of the file system's clock: it is compared by its content."""


@dataclass(frozen=True)
class Known:
    """stamp: inode, size, mtime, ctime (ns); mode: permission bits; hash: of its content, "" if
    that was not kept."""

    stamp: tuple[int, int, int, int]
    mode: int
    hash: str


@dataclass
class Index:
    """files: path -> what stood there; taken: when, by the file system's clock."""

    taken: int = 0
    files: dict[str, Known] = field(default_factory=dict)


class Snapshots:
    """Of one checkout; `folder` is ours alone. Blocks on the disk; one caller at a time."""

    def __init__(self, repo: Path, folder: Path, blobs: Path) -> None:
        self.repo = repo
        self.folder = folder
        self.blobs = blobs
        self.index = _read(folder / "index")
        self.under_way: set[str] = set()

    def close(self) -> None:
        """After an orderly end there is nothing that a successor would have to find; unless a call
        was ended with the host, or the end of one is so young that it may not be committed."""
        young = time.time() - COMMITTED_S
        if not self.under_way and all(written < young for written, _ in self._ends()):
            shutil.rmtree(self.folder, ignore_errors=True)

    def before(self, id: str) -> None:
        """A call is about to begin. OSError if the disk does not take what must be kept."""
        if not self.under_way or self.index is None:
            (self.folder / "kept").mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / "ended").mkdir(exist_ok=True)
            old = self.index or Index()
            self.index = Index(taken=_clock())
            for path, found in self._scan():
                self.index.files[path] = self._known(path, found, old.files.get(path), old.taken)
            self._drop({known.hash for known in old.files.values()})
            self._write()
            for _, end in sorted(self._ends())[:-ENDS]:
                end.unlink()
        self.under_way.add(id)

    def after(self, id: str, call: ToolCall, reason: str) -> Changed | None:
        """What has changed since; None: nothing. OSError as above."""
        assert self.index is not None
        changed = self._compare(call, reason)
        self._end(id, changed)
        self.under_way.discard(id)
        return changed

    def interrupted(self, id: str, call: ToolCall, reason: str) -> Changed | None:
        """Of a call that was under way when the host was killed. It counts as under way until
        `forget`."""
        self.under_way.add(id)
        if (ended := self._ended(id)) is not None:
            return ended
        if self.index is None:
            return None
        changed = self._compare(call, reason, interrupted=True)
        self._end(id, changed)
        return changed

    def forget(self, id: str) -> None:
        self.under_way.discard(id)

    def wrote(self, paths: Iterable[str]) -> None:
        """Files that an edit was applied to while calls are under way: not theirs."""
        if self.index is None or not self.under_way:
            return
        for path in paths:
            found = _look(self.repo, path)
            if found is None or not stat.S_ISREG(found.st_mode):
                self.index.files.pop(path, None)
            else:
                self.index.files[path] = self._known(path, found, None)
        self._write()

    # --- comparing -----------------------------------------------------------------------------

    def _compare(self, call: ToolCall, reason: str, interrupted: bool = False) -> Changed | None:
        """Also moves the index on, in memory."""
        assert self.index is not None
        then, taken = self.index.files, self.index.taken
        now = Index(taken=_clock())
        touched: list[tuple[str, Known | None, Known | None]] = []
        left: list[str] = []
        for path, found in self._scan():
            known = then.get(path)
            is_ = now.files[path] = self._known(path, found, known, taken)
            if known is None:
                # One that was there already was ignored before: it is not this call's.
                if found.st_ctime_ns >= taken:
                    touched.append((path, None, is_))
            elif (known.hash, known.mode) != (is_.hash, is_.mode) or (
                not is_.hash and known.stamp != is_.stamp
            ):
                touched.append((path, known, is_))
        for path in sorted(then.keys() - now.files.keys()):
            found_ = _look(self.repo, path)
            if found_ is None or not stat.S_ISREG(found_.st_mode):
                touched.append((path, then[path], None))
                if found_ is not None:
                    left.append(f"{path}: no plain file any more")
        files: list[FileChange] = []
        for path, was, is_now in sorted(touched, key=lambda one: one[0]):
            if len(files) >= MAX_CHANGED:
                left.append(f"{path} and what follows: more than {MAX_CHANGED} files")
                break
            made = self._change(path, was, is_now)
            if isinstance(made, str):
                left.append(f"{path}: {made}")
            else:
                files.append(made)
        self.index = now
        if not files and not left:
            return None
        return _bounded(
            Changed(
                call=call.id,
                agent=call.agent,
                tool=call.name,
                task=call.task,
                reason=reason,
                files=capped(tuple(files)),
                left=tuple(
                    os.fsencode(line).decode("utf-8", "backslashreplace")
                    for line in left[:MAX_LEFT]
                ),
                interrupted=interrupted,
            )
        )

    def _change(self, path: str, was: Known | None, is_now: Known | None) -> FileChange | str:
        """The change of one file, its contents stored as blobs; or why it is not covered."""
        try:
            path.encode()
        except UnicodeEncodeError:
            return "its name is no UTF-8"
        if (was is not None and not was.hash) or (is_now is not None and not is_now.hash):
            return f"larger than {MAX_FILE >> 20} MB, or not to be read"
        base = None if was is None else self._kept(was.hash)
        after = None if is_now is None else self._kept(is_now.hash)
        if (was is not None and base is None) or (is_now is not None and after is None):
            return "what was kept of it is lost"
        for content in (base, after):
            if content is not None:
                put_blob(self.blobs, content)
        mode = is_now.mode if is_now is not None else 0o644
        return change(path, base, after, mode, was.mode if was is not None else 0)

    # --- what is kept --------------------------------------------------------------------------

    def _scan(self) -> Iterator[tuple[str, os.stat_result]]:
        """The plain files that git does not ignore; of a folder that is no checkout, all. Git goes
        on naming what it tracks behind a folder that has become a link: that is elsewhere."""
        names = copies.files(self.repo, []) if (self.repo / ".git").exists() else None
        folders: dict[str, bool] = {}
        for path in _walk(self.repo) if names is None else names:
            found = _look(self.repo, path, folders)
            if found is not None and stat.S_ISREG(found.st_mode):
                yield path, found

    def _known(
        self, path: str, found: os.stat_result, known: Known | None, taken: int = 0
    ) -> Known:
        """What stands there; read only if it may be another content than is `known`."""
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        mode = stat.S_IMODE(found.st_mode)
        if known is not None and known.stamp == stamp:
            racy = taken and known.stamp[3] > taken - RACY_NS
            if not racy and (not known.hash or (self.folder / "kept" / known.hash).exists()):
                return known
        if found.st_size > MAX_FILE:
            return Known(stamp, mode, "")
        try:
            content = pinned.read(self.repo, self.repo / path, MAX_FILE)
        except OSError:
            return Known(stamp, mode, "")
        name = name_of(content)
        kept = self.folder / "kept" / name
        if not kept.exists():
            self._put(content, kept)
        return Known(stamp, mode, name)

    def _put(self, content: bytes, kept: Path) -> None:
        fd, temporary = tempfile.mkstemp(dir=self.folder)
        try:
            with open(fd, "wb") as file:
                file.write(content)
            os.rename(temporary, kept)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def _kept(self, name: str) -> bytes | None:
        """None if it is gone, or, after a crash of the machine, not what it was."""
        try:
            content = (self.folder / "kept" / name).read_bytes()
        except FileNotFoundError:
            return None
        return content if hashlib.sha256(content).hexdigest() == name else None

    def _drop(self, names: set[str]) -> None:
        """Contents that no file has any more."""
        assert self.index is not None
        for name in names - {known.hash for known in self.index.files.values()} - {""}:
            (self.folder / "kept" / name).unlink(missing_ok=True)

    # --- on disk -------------------------------------------------------------------------------

    def _write(self) -> None:
        assert self.index is not None
        files = {
            os.fsencode(path): [list(known.stamp), known.mode, known.hash]
            for path, known in self.index.files.items()
        }
        raw = codec.pack({"taken": self.index.taken, "files": files})
        _replace(self.folder / "index", raw)

    def _end(self, id: str, changed: Changed | None) -> None:
        """First what came of it, then the index that no longer shows it."""
        if changed is not None:
            _replace(self.folder / "ended" / name_of(id.encode())[:32], codec.encode(changed))
        self._write()

    def _ends(self) -> list[tuple[float, Path]]:
        """When they were written, and where."""
        folder = self.folder / "ended"
        return [(p.stat().st_mtime, p) for p in folder.iterdir()] if folder.is_dir() else []

    def _ended(self, id: str) -> Changed | None:
        try:
            raw = (self.folder / "ended" / name_of(id.encode())[:32]).read_bytes()
        except FileNotFoundError:
            return None
        body = codec.body(raw)
        return body if isinstance(body, Changed) else None


def _read(file: Path) -> Index | None:
    try:
        value: Any = codec.unpack(file.read_bytes())
    except (OSError, ValueError):
        return None
    files = {
        os.fsdecode(path): Known((s[0], s[1], s[2], s[3]), mode, hash)
        for path, (s, mode, hash) in value["files"].items()
    }
    return Index(value["taken"], files)


def _replace(file: Path, raw: bytes) -> None:
    """Whole or not at all, also if the machine is lost."""
    temporary = file.with_name(f"{file.name}.new")
    with open(temporary, "wb") as out:
        out.write(raw)
        out.flush()
        os.fsync(out.fileno())
    os.rename(temporary, file)


def _bounded(changed: Changed) -> Changed:
    files = changed.files
    if weight(files) > MAX_HUNKS:
        files = tuple(msgspec.structs.replace(file, hunks=()) for file in files)
    return msgspec.structs.replace(changed, files=files)


def _look(repo: Path, path: str, folders: dict[str, bool] | None = None) -> os.stat_result | None:
    """What stands at a path of the checkout; None: nothing, or a link leads there. folders: what is
    known of them already."""
    folder = path.rpartition("/")[0]
    if not _own(repo, folder, {} if folders is None else folders):
        return None
    try:
        return (repo / path).lstat()
    except OSError:
        return None


def _own(repo: Path, folder: str, known: dict[str, bool]) -> bool:
    """Is it a folder of the checkout, with no link on the way to it?"""
    if not folder:
        return True
    if folder not in known:
        try:
            plain = stat.S_ISDIR((repo / folder).lstat().st_mode)
        except OSError:
            plain = False
        known[folder] = plain and _own(repo, folder.rpartition("/")[0], known)
    return known[folder]


def _walk(repo: Path) -> Iterator[str]:
    for folder, names, files in os.walk(repo):
        names[:] = [name for name in names if name not in copies.EXCLUDED]
        for name in files:
            if name not in copies.EXCLUDED and not name.endswith((".pyc", ".pyo")):
                yield os.path.relpath(os.path.join(folder, name), repo)


def _clock() -> int:
    """Now, as the kernel stamps files: its coarse clock."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
