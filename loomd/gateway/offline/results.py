"""What tools say, read as data: file contents, hits, paths, test runs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from loomd.gateway.offline.modules import is_python

# --- read --------------------------------------------------------------------------------------

_NUMBERED = re.compile(r" *(\d+)(?:\t|→|\| ?)")
_MORE = re.compile(
    r"\[(?=[^\]\n]*\b(?:truncated|more|of|continue|offset|lines)\b)[^\]\n]*?\]\s*\Z", re.IGNORECASE
)
_OFFSET = re.compile(r"offset\s*[=: ]\s*(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Page:
    """A piece of a file. `next`: the offset to go on at, None at the end."""

    text: str
    next: int | None = None


def page(text: str) -> Page:
    """A result of `read`: numbered lines or plain text, with a remark in brackets at the end if
    there is more."""
    following = None
    found = _MORE.search(text)
    offset = _OFFSET.search(found.group()) if found is not None else None
    if found is not None and offset and text[: found.start()].endswith(("", "\n")):
        following = int(offset.group(1))
        text = text[: found.start()]
    lines = text.split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    numbers = [_NUMBERED.match(line) for line in lines]
    if lines and all(numbers):
        counted = [int(match.group(1)) for match in numbers if match is not None]
        if counted == list(range(counted[0], counted[0] + len(counted))):
            stripped = [
                line[match.end() :]
                for line, match in zip(lines, numbers, strict=True)
                if match is not None
            ]
            return Page("\n".join(stripped) + "\n", following)
    return Page(text, following)


# --- grep, glob, list --------------------------------------------------------------------------

_HIT = re.compile(r"(?P<path>[^\n]+?):(?P<line>\d+)(?::\d+)?[:\-](?P<text>.*)")


def hit_paths(text: str) -> list[str]:
    """The files that a grep found something in."""
    found: dict[str, None] = {}
    for line in text.split("\n"):
        if match := _HIT.match(line):
            found[match["path"].strip().removeprefix("./")] = None
    return list(found)


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
    exit_ = _EXIT.search(text)
    if exit_ and exit_.group(1) == "5":
        return Tests("none")
    if "INTERNALERROR" in text or (exit_ and exit_.group(1) not in ("0", "5")):
        return Tests("failed", _last(lines), 1)
    return Tests("unknown", _last(lines) if not ok else "")


def _last(lines: Iterable[str]) -> str:
    return next((line[:160] for line in reversed(list(lines)) if line), "")
