"""A proposal onto the disk: planned first, then temp file, fsync, rename, file by file.

After a crash the same proposal is applied again: a file whose content is `after` is done, one whose
content is `base` is written, anything else is a conflict and nothing (more) is written. No path may
leave the checkout, neither by `..` nor through a symbolic link, also if a command makes one
meanwhile (`pinned`).

If somebody has written one of the files between a crash and the second application, those that the
first had written are made as they were: an edit has happened or it has not, never half of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from loomd.supervise.crash import crash_point
from loomd.tools import protected
from loomd.tools.pinned import chmod, pinned, read
from loomd.tools.propose import name_of
from loomd.wire.bodies import Applied, FileChange
from loomd.wire.errors import LoomError

State = Literal["done", "write", "remove", "mode", "conflict"]


@dataclass(frozen=True)
class OnDisk:
    """What stands at a path. hash "": no file. mode: its permission bits."""

    hash: str
    mode: int = 0


@dataclass(frozen=True)
class Step:
    change: FileChange
    state: State
    detail: str = ""


def plan(
    files: Sequence[FileChange], disk: Callable[[str], OnDisk], *, exact: bool = False
) -> list[Step]:
    """What is to be done for each file. Pure, given what stands on the disk."""
    steps = []
    for file in files:
        now = disk(file.path)
        executable = bool(file.mode & 0o100)
        if now.hash == file.after:
            same = not now.hash or bool(now.mode & 0o100) == executable
            if exact and now.hash and file.base:
                same = now.mode == file.mode
            steps.append(Step(file, "done" if same else "mode"))
        elif now.hash == file.base:
            steps.append(Step(file, "write" if file.after else "remove"))
        else:
            steps.append(Step(file, "conflict", _conflict(file, now)))
    return steps


def _conflict(file: FileChange, now: OnDisk) -> str:
    if not now.hash:
        return f"{file.path} is not there any more"
    if not file.base:
        return f"{file.path} exists already"
    return f"{file.path} has changed since the edit was proposed: read it again"


def apply(
    repo: Path,
    edit: str,
    files: Sequence[FileChange],
    blob: Callable[[str], bytes],
    name: str,
    *,
    again: bool = False,
    exact: bool = False,
) -> Applied:
    """Applies all files or, if one of them conflicts, none. `name`: of the actor, for the crash
    points; `again`: an application of it has died; `exact`: see `Apply`. Idempotent. Blocks on the
    disk."""
    begun: list[tuple[Path, OnDisk, Step]] = []
    root = repo.resolve()
    try:
        paths = {file.path: inside(repo, file.path) for file in files}
        before = {file.path: look(root, paths[file.path]) for file in files}
        steps = plan(files, before.__getitem__, exact=exact)
        conflicts = [step.detail for step in steps if step.state == "conflict"]
        if conflicts:
            said = "; ".join(conflicts)
            if again and (stands := _take_back(root, _written(paths, steps), blob, name)):
                said += f"; {_standing(stands)}"
            return Applied(edit=edit, state="conflict", detail=said)
        for left in left_over(set(paths.values()), name):
            left.unlink(missing_ok=True)
        for step in steps:
            path = step.change.path
            begun.append((paths[path], before[path], step))
            _do(root, paths[path], step, blob, name, exact=exact)
        if exact:
            _prune(root, [paths[file.path] for file in files if not file.after])
    except (LoomError, OSError) as error:
        said = error.message if isinstance(error, LoomError) else f"could not be written: {error}"
        if stands := _take_back(root, begun, blob, name):
            said += f"; {_standing(stands)}"
        return Applied(edit=edit, state="failed", detail=said)
    return Applied(edit=edit, state="applied")


def _standing(paths: Sequence[str]) -> str:
    return f"written all the same, and could not be taken back: {', '.join(paths)}"


def _written(paths: Mapping[str, Path], steps: Sequence[Step]) -> list[tuple[Path, OnDisk, Step]]:
    """What an application that died had written, as if it had just been begun here."""
    found = []
    for step in steps:
        change = step.change
        if step.state == "done" and change.base != change.after:
            begun = Step(change, "write" if change.after else "remove")
            found.append((paths[change.path], OnDisk(change.base, change.was), begun))
    return found


def _prune(root: Path, gone: Sequence[Path]) -> None:
    """Folders that nothing is in any more, now that these files are gone."""
    for path in gone:
        folder = path.parent
        while folder != root and root in folder.parents:
            try:
                with pinned(root, folder) as place:
                    place.rmdir()
                    _sync(place.parent)
            except FileNotFoundError:
                pass
            except OSError:  # something else is in it
                break
            folder = folder.parent


def _take_back(
    root: Path, begun: Sequence[tuple[Path, OnDisk, Step]], blob: Callable[[str], bytes], name: str
) -> list[str]:
    """Makes what was begun as it was, last first; the paths where that failed. A crash meanwhile
    is one of the application: what stands then is `base` or `after`."""
    stands = []
    for path, was, step in reversed(begun):
        change = step.change
        back = msgspec.structs.replace(change, base=change.after, after=change.base)
        try:
            if step.state == "mode":
                _chmod(root, path, was.mode)
            elif step.state != "done" and look(root, path).hash == change.after != was.hash:
                _do(root, path, Step(back, "write" if was.hash else "remove"), blob, name)
                if was.hash and was.mode:
                    _chmod(root, path, was.mode)
        except (LoomError, OSError):
            stands.append(change.path)
    return stands


def inside(repo: Path, path: str) -> Path:
    """The place of `path`, whose folder really lies in the checkout. LoomError(bad_request)."""
    root = repo.resolve()
    given = Path(path)
    if given.is_absolute() or ".." in given.parts or not given.parts:
        raise LoomError("bad_request", f"not a path inside the checkout: {path!r}")
    folder = (root / given.parent).resolve()
    if not folder.is_relative_to(root):
        raise LoomError("bad_request", f"{path} leads out of the checkout through a link")
    parts = folder.relative_to(root).parts
    if ".git" in parts or given.name == ".git":
        raise LoomError("bad_request", f"{path} lies in .git, which edits may not touch")
    if led := protected.FOLDERS.intersection(parts).difference(given.parts):
        raise LoomError("bad_request", f"{path} leads to {', '.join(led)} through a link")
    return folder / given.name


def _chmod(root: Path, path: Path, mode: int) -> None:
    with pinned(root, path) as place:
        chmod(place, mode)


def look(root: Path, path: Path) -> OnDisk:
    """What stands at `path` below `root`. LoomError if it is neither nothing nor a plain file."""
    found = kind_of(path)
    if found is None:
        return OnDisk("")
    return OnDisk(name_of(read(root, path)), stat.S_IMODE(found.st_mode))


def kind_of(path: Path) -> os.stat_result | None:
    """Of the plain file at `path`; None: there is nothing. LoomError if it is something else."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(found.st_mode):
        raise LoomError("bad_request", f"{path.name} is no plain file")
    return found


def _do(
    root: Path,
    path: Path,
    step: Step,
    blob: Callable[[str], bytes],
    name: str,
    *,
    exact: bool = False,
) -> None:
    if step.state == "done":
        return
    crash_point("apply.before_rename", name)
    with pinned(root, path, make=step.state == "write") as place:
        _done(place, step, blob, name, exact=exact)
    crash_point("apply.after_rename", name)


def _done(path: Path, step: Step, blob: Callable[[str], bytes], name: str, *, exact: bool) -> None:
    """`path`: pinned."""
    change = step.change
    if step.state == "remove":
        path.unlink()
        _sync(path.parent)
    elif step.state == "mode":
        chmod(path, _mode(path, change, exact))
    else:
        mode = _mode(path, change, exact)
        fd, temporary = tempfile.mkstemp(prefix=_prefix(name), dir=path.parent)
        try:
            with open(fd, "wb") as file:
                file.write(blob(change.after))
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _sync(path.parent)


def _mode(path: Path, change: FileChange, exact: bool) -> int:
    """The permission bits: those that stand, with the executable ones as proposed."""
    if exact:
        return change.mode & 0o777
    try:
        mode = stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return change.mode & 0o777
    return mode | (mode & 0o444) >> 2 if change.mode & 0o100 else mode & ~0o111


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _prefix(name: str) -> str:
    return f".loom-{name_of(name.encode())[:10]}-"


def left_over(paths: Collection[Path], name: str) -> list[Path]:
    """Temporary files of an application by `name` that was killed, beside what it was to write."""
    found: list[Path] = []
    for folder in {path.parent for path in paths}:
        if folder.is_dir():
            found += [p for p in folder.glob(_prefix(name) + "*") if not p.is_symlink()]
    return found
