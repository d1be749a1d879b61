"""The private copy of a checkout that commands run in, and what they changed there.

Everything is copied (by reference where the file system can), except big folders that git ignores:
those stand in the copy as links to the original, which a confined command can read and not write.
What a command changed is found by comparing; files that git ignores, caches and links are left out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loomd.tools import gitrun, pinned
from loomd.tools.contract import NewFile, ToolError

EXCLUDED: Final = frozenset(
    {
        ".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis",
        ".tox", ".nox", ".venv", "venv", "node_modules", ".eggs", ".coverage", ".DS_Store",
    }
)  # fmt: skip
"""Names that are no change of a project, whatever git says."""

MAX_CHANGED: Final = 200
MAX_FILE: Final = 8 << 20
LINKED: Final = 200
"""An ignored folder with more files than this is linked instead of copied."""

_GONE: Final = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP)
"""Of a file that is not there any more, not ours to read, or a link by now."""

_FICLONE: Final = 0x40049409


@dataclass
class Copy:
    """A copy at `root` of the checkout `repo`. seen: path -> (inode, size, mtime ns, ctime ns) of
    each copied file, original: of what it was copied from; links: paths that stand in the copy as
    links to the original; barred: (path, is it a folder) of what was left out, for nobody may read
    it."""

    repo: Path
    root: Path
    seen: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    original: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    links: set[str] = field(default_factory=set)
    barred: list[tuple[str, bool]] = field(default_factory=list)


def make(repo: Path, root: Path, barred: Callable[[str], bool] | None = None) -> Copy:
    """Copies the checkout to `root`, which is made, without what is barred. OSError if the disk
    does not take it."""
    copy = Copy(repo, root)
    ignored = set(ignored_folders(repo))
    stack = [""]
    while stack:
        inside = stack.pop()
        folder = root / inside
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                place = held.enter_context(pinned.folder(repo, inside))
                entries = held.enter_context(os.scandir(place))
            except OSError:
                if not inside:
                    raise
                continue  # as of files: gone meanwhile, a link by now, or not ours to read
            for entry in entries:
                path = f"{inside}/{entry.name}" if inside else entry.name
                target = root / path
                if barred is not None and barred(path):
                    copy.barred.append((path, entry.is_dir(follow_symlinks=False)))
                elif entry.is_symlink():
                    os.symlink(os.readlink(entry.path), target)
                    copy.links.add(path)
                elif path == ".git/objects":
                    _borrow(repo, target)
                elif entry.is_dir(follow_symlinks=False):
                    if path in ignored and _many(entry.path):
                        os.symlink(repo / path, target)
                        copy.links.add(path)
                        copy.barred += below(repo, path, barred) if barred is not None else ()
                    else:
                        stack.append(path)
                elif entry.is_file(follow_symlinks=False):
                    try:
                        copy.original[path] = _stamp(repo / path)
                        clone(entry.path, target)
                    except OSError as error:
                        if error.errno not in _GONE:
                            raise
                        copy.original.pop(path, None)
                        continue  # gone meanwhile, or not ours to read
                    copy.seen[path] = _stamp(target)
        if inside:
            with contextlib.suppress(OSError):
                shutil.copystat(repo / inside, folder)
                folder.chmod(folder.stat().st_mode | 0o700)  # what it holds must be removable
    return copy


def below(repo: Path, inside: str, barred: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    """(path, is it a folder) of what is barred in a folder of the checkout."""
    stack = [inside]
    while stack:
        folder = stack.pop()
        with contextlib.suppress(OSError), os.scandir(repo / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                deep = entry.is_dir(follow_symlinks=False)
                if barred(path):
                    yield path, deep
                elif deep and path != ".git":
                    stack.append(path)


def _borrow(repo: Path, objects: Path) -> None:
    """An object store that reads the original's, which may be large, and writes its own."""
    for name in ("info", "pack"):
        (objects / name).mkdir(parents=True)
    (objects / "info" / "alternates").write_text(f"{repo / '.git' / 'objects'}\n")


def _many(folder: str) -> bool:
    count = 0
    for _, _, files in os.walk(folder):
        count += len(files)
        if count > LINKED:
            return True
    return False


def clone(source: str, target: Path) -> None:
    """One file with its mode and times; by reference if the file system can."""
    with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as one:
        found = os.fstat(one.fileno())
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            try:
                fcntl.ioctl(fd, _FICLONE, one.fileno())
            except OSError:
                _copy_bytes(one.fileno(), fd, found.st_size)
            os.fchmod(fd, stat.S_IMODE(found.st_mode) | 0o600)
            os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(fd)


def _copy_bytes(source: int, target: int, size: int) -> None:
    while True:
        try:
            done = os.copy_file_range(source, target, max(size, 1 << 16))
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            while chunk := os.read(source, 1 << 20):
                os.write(target, chunk)
            return
        if done == 0:
            return


def _stamp(path: Path) -> tuple[int, int, int, int]:
    found = path.lstat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


# --- what changed --------------------------------------------------------------------------------


def changes(copy: Copy) -> tuple[list[NewFile], list[str]]:
    """The files that differ from the checkout as it was copied, and remarks on what was left out.

    ToolError(too_large) if there are more than can be proposed.
    """
    found: dict[str, os.stat_result] = {}
    left: list[str] = []
    for path, entry in _walk(copy.root, ""):
        if stat.S_ISLNK(entry.st_mode):
            if path not in copy.links:
                left.append(f"{path}: a link, which is not carried over")
        elif stat.S_ISREG(entry.st_mode):
            found[path] = entry
    touched = []
    for path, entry in found.items():
        stamp = (entry.st_ino, entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns)
        if copy.seen.get(path) != stamp:
            touched.append(path)
    gone = [path for path in copy.seen if path not in found and not _excluded(path)]
    ignored = set(check_ignored(copy.repo, touched + gone))
    made: list[NewFile] = []
    barred = {path for path, _ in copy.barred}
    for path in sorted([*touched, *gone]):
        if path in ignored:
            continue
        if path in barred:
            left.append(f"{path}: a rule denies what stands there")
            continue
        if not _is_text(path):
            left.append(f"{path}: its name is no UTF-8")
            continue
        base = _content(copy.repo / path)
        if not _as_copied(copy, path):
            after = _content(copy.root / path) if path in found else None
            if after != base:
                left.append(f"{path}: an edit was applied to it meanwhile; run the command again")
            continue
        if path in found:
            if found[path].st_size > MAX_FILE:
                left.append(f"{path}: larger than {MAX_FILE >> 20} MB")
                continue
            after = _content(copy.root / path)
            mode = stat.S_IMODE(found[path].st_mode) & 0o777
        else:
            after, mode = None, 0o644
        if base == after and (base is None or _executable(copy.repo / path) == bool(mode & 0o100)):
            continue
        made.append(NewFile(path, base, after, mode))
    if len(made) > MAX_CHANGED:
        raise ToolError(
            f"the command changed {len(made)} files; at most {MAX_CHANGED} can be proposed at "
            "once. Nothing was kept",
            "too_large",
        )
    return made, left


def _as_copied(copy: Copy, path: str) -> bool:
    """Is the original still what was copied? Otherwise the copy would undo another's edit."""
    try:
        now = _stamp(copy.repo / path)
    except (FileNotFoundError, NotADirectoryError):
        return path not in copy.original
    return copy.original.get(path) == now


def _walk(root: Path, inside: str) -> Iterable[tuple[str, os.stat_result]]:
    stack = [inside]
    while stack:
        folder = stack.pop()
        try:
            entries = os.scandir(root / folder)
        except OSError:
            continue
        with entries:
            for entry in entries:
                if entry.name in EXCLUDED or entry.name.endswith((".pyc", ".pyo")):
                    continue
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.endswith(".egg-info"):
                        stack.append(path)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        yield path, entry.stat(follow_symlinks=False)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _excluded(path: str) -> bool:
    parts = path.split("/")
    return any(part in EXCLUDED or part.endswith((".pyc", ".pyo", ".egg-info")) for part in parts)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _executable(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o100)
    except FileNotFoundError:
        return False


# --- git -----------------------------------------------------------------------------------------
# Only ever in the original checkout: the copy's configuration may have been written by the command.


def git(repo: Path, *args: str, input: bytes = b"", ok: tuple[int, ...] = (0,)) -> bytes | None:
    """Output of a git command that only reads; None if there is no git, or it is no checkout."""
    done = _run(repo, *args, input=input)
    return done.output if done is not None and done.code in ok else None


def _run(repo: Path, *args: str, input: bytes = b"") -> gitrun.Ran | None:
    env = {
        **gitrun.NEUTRAL,
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
    }
    try:
        return gitrun.run(repo, *args, env=env, input=input)
    except OSError:
        return None


def _names(raw: bytes | None) -> list[str]:
    return [part for part in os.fsdecode(raw or b"").split("\0") if part]


_SHUT: Final = re.compile(rb"could not open directory '(.+?)/?': ")


def files(repo: Path, shut: list[OSError], below: str = "") -> list[str] | None:
    """Tracked and untracked files below a folder that git does not ignore; None if it is no git
    checkout. Folders that git could not look into are added to `shut`."""
    never = [f"--exclude={name}" for name in sorted(EXCLUDED)]  # of what is not tracked
    where = ["--", below] if below else []
    done = _run(
        repo, "--literal-pathspecs", "ls-files", "-z", "-co", "--exclude-standard",
        "--deduplicate", *never, *where,
    )  # fmt: skip
    if done is None or done.code != 0:
        return None
    for match in _SHUT.finditer(done.errors):
        denied = errno.EACCES
        shut.append(PermissionError(denied, os.strerror(denied), os.fsdecode(match[1])))
    return _names(done.output)


def ignored_folders(repo: Path) -> list[str]:
    """Folders that git ignores as a whole."""
    raw = git(
        repo, "ls-files", "-z", "-oi", "--exclude-standard", "--directory", "--no-empty-directory"
    )
    return [name.rstrip("/") for name in _names(raw) if name.endswith("/")]


def check_ignored(repo: Path, paths: list[str]) -> list[str]:
    """Those of `paths` that git ignores and does not track."""
    if not paths:
        return []
    data = b"\0".join(os.fsencode(path) for path in paths)
    return _names(git(repo, "check-ignore", "-z", "--stdin", input=data, ok=(0, 1)))
