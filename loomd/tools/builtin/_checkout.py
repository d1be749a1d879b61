"""Paths of a checkout, for the built-in tools: nothing outside of it, nothing that is no text."""

from __future__ import annotations

import difflib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from loomd.tools import copy as copies
from loomd.tools.contract import Context, ToolError
from loomd.tools.propose import name_of

MAX_FILE: Final = 50 << 20

LOOKED_AT: Final = 64 << 10
"""Bytes at a file's beginning by which it is known to be no text."""

_KINDS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89PNG\r\n", "PNG image"), (b"\xff\xd8\xff", "JPEG image"), (b"GIF87a", "GIF image"),
    (b"GIF89a", "GIF image"), (b"II*\0", "TIFF image"), (b"MM\0*", "TIFF image"),
    (b"\0\0\1\0", "icon"), (b"8BPS", "Photoshop image"), (b"%PDF", "PDF document"),
    (b"PK\x03\x04", "ZIP archive"), (b"\x1f\x8b", "gzip archive"), (b"BZh", "bzip2 archive"),
    (b"\xfd7zXZ", "xz archive"), (b"\x28\xb5\x2f\xfd", "zstd archive"),
    (b"7z\xbc\xaf", "7-Zip archive"),
    (b"\x7fELF", "ELF program"), (b"\xcf\xfa\xed\xfe", "Mach-O program"), (b"\0asm", "WebAssembly"),
    (b"\xca\xfe\xba\xbe", "Java class"), (b"SQLite format 3", "SQLite database"),
    (b"ID3", "MP3 audio"), (b"OggS", "Ogg media"), (b"fLaC", "FLAC audio"),
    (b"\x1aE\xdf\xa3", "Matroska video"), (b"wOFF", "font"), (b"wOF2", "font"),
)  # fmt: skip

_INSIDE: Final[tuple[tuple[bytes, int, bytes, str], ...]] = (
    (b"RIFF", 8, b"WEBP", "WebP image"), (b"RIFF", 8, b"WAVE", "WAV audio"),
    (b"RIFF", 8, b"AVI ", "AVI video"), (b"", 4, b"ftypavif", "AVIF image"),
    (b"", 4, b"ftypheic", "HEIC image"), (b"", 4, b"ftyp", "MP4 video"),
    (b"", 257, b"ustar", "tar archive"),
)  # fmt: skip
"""Start, and what stands at an offset."""

_STARTS: Final = (
    *(start for start, _ in _KINDS), *(start for start, *_ in _INSIDE if start),
    b"BM", b"MZ", b"\xff\xfe", b"\xfe\xff",
)  # fmt: skip
_LATER: Final = re.compile(b".{4}ftyp|.{257}ustar", re.DOTALL).match
"""Marks that stand at an offset, whatever the start."""

FEW: Final = 16
"""So many files of a folder are looked at one by one."""


def resolve(ctx: Context, path: str) -> Path:
    """The place of `path` with all links followed. ToolError(denied) outside of the checkout, and
    where nobody may read: an edit shows what stands there too."""
    root = ctx.repo.resolve()
    if "\0" in path:
        raise ToolError(f"not a path: {path!r}", "bad_args")
    try:
        real = (root / path).resolve()
    except (OSError, RuntimeError) as error:
        raise ToolError(f"{_cut(path)}: {error}", "failed") from None
    if not real.is_relative_to(root):
        raise ToolError(f"{_cut(path)} is outside of the checkout {ctx.repo}", "denied")
    try:
        real.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no file can have it
            raise ToolError(f"{_cut(path)}: {error.strerror}", "bad_args") from None
    if ctx.barred.denied(str(real.relative_to(root))):
        raise ToolError(f"permission denied: a rule denies to read {_cut(path)}", "denied")
    return real


def _cut(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:100]}...{path[-100:]}"


def shown(ctx: Context, place: Path) -> str:
    """A place as a path relative to the checkout."""
    return str(place.relative_to(ctx.repo.resolve()))


def missing(ctx: Context, path: str, place: Path) -> ToolError:
    """`path` is not there; names files of a like name."""
    wanted = place.name
    names = [name for name in listed(ctx) if os.path.basename(name) == wanted]
    if not names:
        every = listed(ctx)
        by_name = {os.path.basename(name): name for name in every}
        names = [by_name[near] for near in difflib.get_close_matches(wanted, by_name, 3, 0.8)]
    hint = f"; there is {', '.join(names[:3])}" if names else ""
    return ToolError(f"{path} does not exist{hint}", "not_found")


def content(ctx: Context, path: str, place: Path) -> bytes:
    """The bytes of a text file. ToolError: not_found, too_large, or failed with its kind."""
    try:
        found = place.stat()
        if stat.S_ISDIR(found.st_mode):
            raise ToolError(f"{path} is a folder: use list or glob", "bad_args")
        if not stat.S_ISREG(found.st_mode):
            raise ToolError(f"{path} is no plain file", "failed")
        if found.st_size > MAX_FILE:
            raise ToolError(
                f"{path} has {found.st_size} bytes; files over {MAX_FILE >> 20} MB are not read",
                "too_large",
            )
        data = place.read_bytes()
    except FileNotFoundError:
        raise missing(ctx, path, place) from None
    except OSError as error:
        raise ToolError(f"{path} cannot be read: {error.strerror}", "failed") from None
    kind = binary_kind(data)
    if kind:
        raise ToolError(f"{path} is a binary file ({kind}, {len(data)} bytes)", "failed")
    return data


def binary_kind(data: bytes) -> str:
    """What kind of binary file this is; "" for text."""
    if not data.startswith(_STARTS) and not _LATER(data):
        return "data" if data.find(b"\0", 0, LOOKED_AT) >= 0 else ""
    for start, kind in _KINDS:
        if data.startswith(start):
            return kind
    for start, at, mark, kind in _INSIDE:
        if data.startswith(start) and data.startswith(mark, at):
            return kind
    if data.startswith(b"BM") and b"\0" in data[2:14]:
        return "BMP image"
    if data.startswith(b"MZ") and b"\0" in data[:LOOKED_AT]:
        return "Windows program"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16 text"
    if b"\0" in data[:LOOKED_AT]:
        return "data"
    return ""


def known(ctx: Context, shown: str, content: bytes) -> bool:
    """Is this what the agent has read last, or has it never read the file?"""
    seen = ctx.seen(shown)
    return seen is None or name_of(content) in seen


def no_git(ctx: Context, path: str, place: Path) -> None:
    """ToolError(denied) for what lies in `.git`."""
    if ".git" in place.relative_to(ctx.repo.resolve()).parts:
        raise ToolError(f"{path} lies in .git, which edits may not touch", "denied")


def text_of(data: bytes) -> str:
    """As UTF-8; what is none is shown as replacement characters."""
    return data.decode("utf-8", "replace")


def listed(ctx: Context, below: str = "", shut: list[OSError] | None = None) -> list[str]:
    """The files below a folder of the checkout, ignored ones left out, as relative paths in order.

    Folders that may not be looked into are added to `shut`, as errors that name them relative to
    the checkout.
    """
    return plain(ctx.repo.resolve(), named(ctx, below, shut))


def named(ctx: Context, below: str = "", shut: list[OSError] | None = None) -> list[str]:
    """As `listed`, without a look at them and in no order: links, and what is tracked and deleted,
    are among them."""
    repo = ctx.repo.resolve()
    closed: list[OSError] = []
    below = "" if below == "." else below
    names = copies.files(repo, closed, below) if (repo / ".git").exists() else None
    if names is None:
        names = list(_walk(repo, below, closed))
    if shut is not None:
        shut += closed
    return [name for name in names if not ctx.barred.left_out(name)] if ctx.barred else names


def plain(root: Path, names: Iterable[str]) -> list[str]:
    """Those that are files, in order: not deleted though tracked, no links, no submodules. A look
    into a folder costs as much as one at a few files."""
    kept = []
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    for folder, inside in folders.items():
        if len(inside) <= FEW:
            kept += [name for name in inside if _is_file(f"{root}/{name}")]
            continue
        files = _files_in(root / folder)
        at = len(folder) + 1 if folder else 0
        kept += inside if files is None else [name for name in inside if name[at:] in files]
    return sorted(kept)


def _is_file(path: str) -> bool:
    """As `_files_in` would say."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


def _files_in(folder: Path) -> frozenset[str] | None:
    """None: it may not be looked into, and what is known to be there is taken to be there."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(e.name for e in entries if e.is_file(follow_symlinks=False))
    except PermissionError:
        return None
    except OSError:
        return frozenset()


def _walk(repo: Path, below: str, shut: list[OSError]) -> Iterator[str]:
    def closed(error: OSError) -> None:
        shut.append(OSError(error.errno, error.strerror, os.path.relpath(error.filename, repo)))

    for folder, names, files in os.walk(repo / below, onerror=closed):
        names[:] = [name for name in names if name not in copies.EXCLUDED]
        for name in files:
            if name not in copies.EXCLUDED and not name.endswith((".pyc", ".pyo")):
                yield os.path.relpath(os.path.join(folder, name), repo)
