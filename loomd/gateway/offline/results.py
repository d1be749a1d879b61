"""What tools say, read as data: file contents, hits, paths, test runs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from loomd.gateway.offline.modules import is_python

# --- read --------------------------------------------------------------------------------------

_MORE = re.compile(r"\[[^\]\n]*\bcontinue with offset=\d+\]\s*\Z")


def whole(text: str) -> str | None:
    """The file's text from a result of `read`; None if the file goes on: a page is a megabyte, and
    a file beyond it is no code that these rules work on. Each line stands behind its number."""
    if _MORE.search(text):
        return None
    ended = text.endswith("\n")
    lines = text.removesuffix("\n").split("\n") if text else []
    heads = [_NUMBER.match(line) for line in lines]
    if not all(head and int(head[1]) == n for n, head in enumerate(heads, 1)):
        return text
    bare = "\n".join(line[head.end() :] for line, head in zip(lines, heads, strict=True) if head)
    return bare + "\n" if ended else bare


_NUMBER = re.compile(r" *(\d+)\t")

# --- grep, glob, list --------------------------------------------------------------------------

_HIT = re.compile(r"(?P<path>[^\n]+?):(?P<line>\d+)(?::\d+)?[:\-](?P<text>.*)")


def hit_paths(text: str) -> list[str]:
    """The files that a grep found something in."""
    found: dict[str, None] = {}
    for line in text.split("\n"):
        if match := _HIT.match(line):
            found[match["path"].strip().removeprefix("./")] = None
    return list(found)


_NOT_SEARCHED = re.compile(r"\[not searched: (?P<path>.+): (?P<why>[^:\n]+)\]")


def not_searched(text: str) -> dict[str, str]:
    """What a grep could not look into, of what may hold Python: path -> why. Folders end in /."""
    found = {}
    for line in text.split("\n"):
        match = _NOT_SEARCHED.fullmatch(line)
        if match and (is_python(match["path"]) or match["path"].endswith("/")):
            found[match["path"]] = match["why"]
    return found


def python_paths(text: str) -> list[str]:
    """The Python files in a listing, one path per line."""
    found = []
    for line in text.split("\n"):
        path = line.strip().removeprefix("./")
        if is_python(path) and not path.startswith("["):
            found.append(path)
    return found


def cut_off(text: str) -> bool:
    """Does a listing say that there is more?"""
    last = text.rstrip().rpartition("\n")[2]
    return bool(re.match(r"[\[(].*\b(truncated|more|first|limit|capped)\b", last, re.IGNORECASE))


# --- test runs ---------------------------------------------------------------------------------

_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed|deselected|warnings?)")
_EXIT = re.compile(r"exit(?:ed)?(?: with)?(?: (?:code|status))?\s*[:=]?\s*(-?\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Tests:
    """state: passed failed none (no tests) absent (no pytest) unknown (did not end, not allowed).
    `line`: pytest's last line."""

    state: str
    line: str = ""
    failed: int = 0
    passed: int = 0

    def said(self) -> str:
        match self.state:
            case "passed" | "failed":
                return self.line
            case "none":
                return "there are none"
            case "absent":
                return "pytest is not there"
        return "not run" + (f" ({self.line})" if self.line else "")


def tests(text: str, ok: bool) -> Tests:
    lines = [line.strip(" =") for line in text.split("\n")]
    summary = next((line for line in reversed(lines) if _COUNT.search(line)), "")
    if "No module named pytest" in text:
        return Tests("absent")
    if summary:
        counts = {word.rstrip("s"): int(n) for n, word in _COUNT.findall(summary)}
        failed = counts.get("failed", 0) + counts.get("error", 0)
        passed = counts.get("passed", 0)
        if failed or passed:
            return Tests("failed" if failed else "passed", summary, failed, passed)
    if re.search(r"no tests ran|collected 0 items", text):
        return Tests("none")
    exits = _EXIT.findall(text)
    code = exits[-1] if exits else ""
    if code == "5":
        return Tests("none")
    if code == "127":
        return Tests("unknown", "no such command")
    if "INTERNALERROR" in text or "[killed by SIG" in text or code not in ("", "0"):
        return Tests("failed", _last(lines), 1)
    if code == "0":
        return Tests("passed", "exit code 0")
    return Tests("unknown", _last(lines) if not ok else "")


def _last(lines: Iterable[str]) -> str:
    return next((line[:160] for line in reversed(list(lines)) if line), "")
