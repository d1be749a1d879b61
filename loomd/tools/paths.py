"""Patterns for paths: `*` within a name, `**` across folders, `?`, `[abc]`, `{a,b}`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable


def matching(pattern: str, paths: Iterable[str]) -> list[str]:
    """The paths, relative to the checkout, that fit; a pattern without `/` is for names alone.
    ValueError as `compiled`."""
    pattern = pattern.strip().removeprefix("./")
    fits = compiled(pattern).fullmatch
    if "/" in pattern:
        return [path for path in paths if fits(path)]
    return [path for path in paths if fits(path.rpartition("/")[2])]


def compiled(pattern: str) -> re.Pattern[str]:
    """For the whole path. ValueError: it is none, and why."""
    try:
        return re.compile(translate(pattern))
    except (re.error, RecursionError, OverflowError) as error:
        said = getattr(error, "msg", error)
        raise ValueError(f"{pattern!r} is no pattern for paths: {said}") from None


def translate(pattern: str) -> str:
    """A pattern for paths as a regular expression for the whole path."""
    made = ""
    at = 0
    depth = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**/", at):
            made += "(?:[^/]+/)*"
            at += 3
            continue
        if pattern.startswith("**", at):
            made += ".*"
            at += 2
            continue
        if char == "*":
            made += "[^/]*"
        elif char == "?":
            made += "[^/]"
        elif char == "[" and (end := pattern.find("]", at + 2)) > 0:
            inner = pattern[at + 1 : end].replace("\\", "\\\\")
            made += f"[^/{inner[1:]}]" if inner[0] in "!^" else f"[{inner}]"
            at = end
        elif char == "{" and "}" in pattern[at:]:
            made += "(?:"
            depth += 1
        elif char == "}" and depth:
            made += ")"
            depth -= 1
        elif char == "," and depth:
            made += "|"
        else:
            made += re.escape(char)
        at += 1
    return made
