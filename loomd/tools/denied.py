"""Which rule of the sandbox a failed call has run into, and how to ask for more. Pure.

Read from what programs print when the kernel refuses them something. Nothing is blamed on the
sandbox that would have been refused without it, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from loomd.tools.profile import TEMPORARY, Rules, below, hidden, may_read, may_write

SHOWN: Final = 3
"""So many paths are named."""

LINES: Final = 400
"""So many lines of an output are looked at, the last ones."""

_REFUSED: Final = re.compile(
    r"permission denied|operation not permitted|read-only file system|cross-device link|"
    r"\b(?:EACCES|EPERM|EROFS|EXDEV)\b|PermissionError",
    re.I,
)
_READ_ONLY: Final = re.compile(r"read-only file system|\bEROFS\b|cross-device|\bEXDEV\b", re.I)
_ABSENT: Final = re.compile(r"no such file or directory|\bENOENT\b|FileNotFoundError", re.I)
_OFFLINE: Final = re.compile(
    r"network is unreachable|\bENETUNREACH\b|could not resolve|couldn't resolve|"
    r"temporary failure in name resolution|name or service not known|\bEAI_AGAIN\b|"
    r"failed to resolve|nameresolutionerror|no route to host|getaddrinfo failed",
    re.I,
)
_QUOTED: Final = re.compile("['\"`\u2018\u201c]([^'\"`\u2019\u201d]+)['\"`\u2019\u201d]")
_ABSOLUTE: Final = re.compile(r"(?<![\w.])(/[^\s:'\"`,;()\[\]]+)")

Outside = Callable[[str, str], bool]
"""(path, "read" | "write" | "seen"): would it be so without the sandbox?"""


def explain(
    text: str,
    rules: Rules,
    folder: str,
    outside: Outside,
    listed: tuple[str, ...] | None = None,
) -> str:
    """What the profile has forbidden, of what `text` complains about, and the way to ask for more;
    "" if that is nothing. folder: where the call worked; listed: as in `may_read`."""
    if not rules.confined:
        return ""
    said: dict[str, str] = {}
    offline = False
    for line in text.splitlines()[-LINES:]:
        offline = offline or (not rules.network and bool(_OFFLINE.search(line)))
        refused, absent = _REFUSED.search(line), _ABSENT.search(line)
        if not refused and not absent:
            continue
        for path in _paths(line, folder):
            if path in said:
                continue
            shut = refused and not may_read(rules, path, listed) and outside(path, "read")
            if shut or (absent and hidden(rules, path) and outside(path, "seen")):
                said[path] = "read"
            elif (
                refused
                and not may_write(rules, path)
                and outside(path, "write")
                and (_READ_ONLY.search(line) or may_read(rules, path, listed))
            ):
                said[path] = "write"
    parts = [_part(path, kind, rules) for path, kind in list(said.items())[:SHOWN]]
    if offline:
        parts.append("the network is not there: `network = true` gives it to every command")
    if not parts:
        return ""
    more = f"; and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return (
        f"[the sandbox (profile {rules.profile}) is in the way: {'; '.join(parts)}{more}. These "
        "are keys of [permissions] in config.toml: a person can set them, for the next call]"
    )


def _part(path: str, kind: str, rules: Rules) -> str:
    if any(below(path, kept) for kept in rules.keep):
        return f"{path} decides what others run, so no command writes it (of git: the `git` tool)"
    if kind == "write":
        if rules.profile == "read-only":
            return f'{path} can only be read: `sandbox = "workspace"` lets the checkout be written'
        return f'{path} can only be read: `sandbox_write = ["{path}"]` lets it be written'
    if any(below(path, folder) for folder in TEMPORARY):
        return f"{path} of the others is not seen, /tmp is the call's own"
    return f'{path} is hidden: `sandbox_read = ["{path}"]` shows it'


def _paths(line: str, folder: str) -> Iterator[str]:
    """Absolute paths that a complaint may be about, without `.` and `..`."""
    found = [part for part in _QUOTED.findall(line) if _like_a_path(part)]
    found += _ABSOLUTE.findall(line)
    if not found:
        # `touch: cannot touch x: Read-only file system`, `sh: 1: cannot create a/b: ...`
        for part in line.split(": ")[:-1]:
            words = part.split()
            if words and _like_a_path(words[-1]):
                found.append(words[-1])
    for path in found:
        yield plain(path if path.startswith("/") else f"{folder}/{path}")


def _like_a_path(word: str) -> bool:
    return bool(word) and "\0" not in word and len(word) < 4096 and not word.isdigit()


def plain(path: str) -> str:
    """An absolute path without `.`, `..` and doubled slashes."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)
