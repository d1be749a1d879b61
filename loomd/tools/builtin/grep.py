"""grep(pattern, path)"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import subprocess
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from loomd.tools import copy as copies
from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, ToolError, tool
from loomd.tools.paths import matching
from loomd.tools.prefilter import prefilter

LIMIT: Final = 10_000
LINE: Final = 500
WHOLE: Final = 32 << 20
"""A file up to so many bytes is read at once, a longer one line by line."""

TOLD: Final = 100
"""Places that were not searched, each in a line; of more only the number is told."""

FEW: Final = 100
"""So many files are searched sooner than ripgrep is started."""

_PLAINLY: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""Neither through a link, nor waiting for whoever writes into a pipe."""

LARGE: Final = 64 << 10
"""Bytes of a git index that names more than that."""


@tool(access="read")
def grep(
    pattern: str,
    ctx: Context,
    path: str = ".",
    glob: str = "",
    ignore_case: bool = False,
    context: int = 0,
) -> str:
    """Lines that a regular expression (Python's) is found in, as `path:line:text`; what git
    ignores and binary files are left out. A file that could not be searched is told as
    `[not searched: path: why]`.

    Args:
        pattern: the regular expression
        path: a file or a folder, relative to the checkout
        glob: only files whose path fits, for example **/*.py; a pattern without / is for names
        ignore_case: upper and lower case are the same
        context: so many lines before and after each hit are shown too, as `path-line-text`
    """
    if not pattern:
        raise ToolError("`pattern` is empty", "bad_args")
    flags = re.IGNORECASE if ignore_case else 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later Python may read otherwise
            text, filter = re.compile(pattern, flags), prefilter(pattern, flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise ToolError(f"`pattern` is no regular expression: {error}", "bad_args") from None
    if not 0 <= context <= 100:
        raise ToolError("`context` is 0 to 100", "bad_args")
    place = _checkout.resolve(ctx, path)
    search = _Search(ctx.repo.resolve(), text, context)
    if place.is_dir():
        below = _checkout.shown(ctx, place)
        ripgrep = _Ripgrep(search.root, below, filter, ctx.env)
        shut: list[OSError] = []
        try:
            if _size(search.root / ".git" / "index") > LARGE:
                ripgrep.start()  # it walks the tree while git does
            names = _checkout.named(ctx, below, shut)
            if len(names) > FEW:
                ripgrep.start()
            search.skipped = [f"{error.filename}/: {error.strerror}" for error in shut]
            if glob.strip():
                names = _fitting(glob, names)
            done = ripgrep.without_a_hit()
            left = [name for name in names if name not in done]
            search.all(_checkout.plain(search.root, left))
            search.count += len(names) - len(left)
        finally:
            ripgrep.close()
    elif place.exists():
        search.all([_checkout.shown(ctx, place)])
    else:
        raise _checkout.missing(ctx, path, place)
    return search.said()


def _fitting(glob: str, names: list[str]) -> list[str]:
    try:
        return matching(glob, names)
    except ValueError as error:
        raise ToolError(f"`glob`: {error}", "bad_args") from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Search:
    """What was found so far. count: files that were looked at, by us or by ripgrep."""

    def __init__(self, root: Path, pattern: re.Pattern[str], context: int) -> None:
        self.root = root
        self.pattern = pattern
        self.context = context
        self.hits = 0
        self.lines: list[str] = []
        self.skipped: list[str] = []
        self.count = 0

    def all(self, names: list[str]) -> None:
        self.count = len(names)
        for name in names:
            if why := self._file(name):
                self.skipped.append(f"{name}: {why}")
            if self.hits > LIMIT:
                break

    def _file(self, name: str) -> str:
        """Adds the lines of one file; why it could not be searched. A binary file has no lines."""
        try:
            fd = os.open(f"{self.root}/{name}", _PLAINLY)
        except FileNotFoundError:
            return ""
        except OSError as error:
            linked = error.errno in (errno.ELOOP, errno.ENXIO)  # or a socket
            return "no plain file" if linked else error.strerror or str(error)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return "no plain file"
            size = found.st_size
            start = os.read(fd, size + 1 if size <= WHOLE else _checkout.LOOKED_AT)
            if _checkout.binary_kind(start):
                return ""
            if len(start) == size:
                self._lines(name, _split(start))
            else:
                self._long(name, fd)
        except OSError as error:
            return error.strerror or str(error)
        finally:
            os.close(fd)
        return ""

    def _long(self, name: str, fd: int) -> None:
        """Line by line: too large for once, or not of the size that it was said to have."""
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "rb", closefd=False) as file:
            self._lines(name, [line for part in file for line in _split(part)])

    def _lines(self, name: str, lines: list[str]) -> None:
        search = self.pattern.search
        found = [number for number, hit in enumerate(map(search, lines)) if hit]
        del found[LIMIT + 1 - self.hits :]
        self.hits += len(found)
        if found:
            self._show(name, lines, found)

    def _show(self, name: str, lines: list[str], found: list[int]) -> None:
        last = -1
        hits = set(found)
        for number in found:
            first = max(number - self.context, last + 1)
            if self.context and self.lines and (first > last + 1 or last < 0):
                self.lines.append("--")
            for n in range(first, min(number + self.context + 1, len(lines))):
                mark = ":" if n in hits else "-"
                line = lines[n] if len(lines[n]) <= LINE else lines[n][:LINE] + "..."
                self.lines.append(f"{name}{mark}{n + 1}{mark}{line}")
                last = n

    def said(self) -> str:
        said = self.lines
        if self.hits > LIMIT and not self.context:
            said = said[:LIMIT]
        if not said:
            said = [f"nothing found in {self.count} files"]
        said = said + [f"[not searched: {one}]" for one in self.skipped[:TOLD]]
        if len(self.skipped) > TOLD:
            more = len(self.skipped) - TOLD
            said.append(f"[not searched: {more} more places/: as those before]")
        if self.hits > LIMIT:
            said.append(f"[only the first {LIMIT} lines are shown; there are more]")
        return "\n".join(said)


def _split(data: bytes) -> list[str]:
    """Lines without their ends, and without the mark at the beginning of a file."""
    text = _checkout.text_of(data).removeprefix("\ufeff")
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]  # what comes after the last line's end is no line
    return [line.removesuffix("\r") for line in lines] if "\r" in text else lines


class _Ripgrep:
    """Says in which files there is nothing: those that it has searched without a hit. What it does
    not name, because it walks otherwise than git, may not read it, or is not there at all, is for
    our own search; so it can make us quicker, and never change what is found."""

    def __init__(self, root: Path, below: str, filter: str | None, env: Mapping[str, str]) -> None:
        self.root = root
        self.program = shutil.which("rg", path=env.get("PATH")) if filter else None
        never = [word for name in copies.EXCLUDED for word in ("--glob", f"!{name}")]
        self.command = [
            self.program or "rg", "--no-config", "--color=never", "--files-without-match",
            "--null", "--text", "--encoding=none", "--hidden", "--no-messages",
            "--no-ignore-dot", "--no-ignore-global", *never, "--regexp", filter or "",
            "--", *([] if below == "." else [below]),
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.output = -1

    def start(self) -> None:
        if self.program is None or self.process is not None:
            return
        self.output = os.memfd_create("ripgrep")  # a pipe would have to be read meanwhile
        with contextlib.suppress(OSError):
            self.process = subprocess.Popen(
                self.command,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=subprocess.DEVNULL,
                env={"LC_ALL": "C"},
            )

    def without_a_hit(self) -> frozenset[str]:
        if self.process is None:
            return frozenset()
        self.process.wait()
        with open(self.output, "rb", closefd=False) as file:
            file.seek(0)
            said = os.fsdecode(file.read()).split("\0")
        return frozenset(said[:-1])  # after the last end nothing comes, or a path cut short

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.output >= 0:
            os.close(self.output)
