"""Thoughts that open models write into their text, in tags, told apart from what they say. Pure.

A tag counts where it begins or ends a line, and not in code: an answer about tags quotes them.
"""

from __future__ import annotations

import re

_FENCED = re.compile(r"^ {0,3}```.*?(?:^ {0,3}```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_TICKED = re.compile(r"`[^`\n]*`")
_OPENS = re.compile(r"^[ \t]*<(think|thinking|thought)>", re.MULTILINE)
_CLOSES = re.compile(r"</(?:think|thinking|thought)>\s*")
_LONE = re.compile(
    r"(?:^[ \t]*</(?:think|thinking|thought)>|</(?:think|thinking|thought)>[ \t]*$)\s*",
    re.MULTILINE,
)


def code(text: str) -> list[tuple[int, int]]:
    """Where code stands in a text of Markdown: fences and ticks, [from, to)."""
    fences = [match.span() for match in _FENCED.finditer(text)]
    ticks = [match.span() for match in _TICKED.finditer(text)]
    return fences + [one for one in ticks if not within(one[0], fences)]


def within(at: int, spans: list[tuple[int, int]]) -> bool:
    return any(begin <= at < end for begin, end in spans)


def split(text: str) -> tuple[str, str]:
    """(text, reasoning). A thought that never ends is all reasoning; one whose beginning the
    server's template has swallowed is what stands before its end."""
    if not _LONE.search(text) and not _OPENS.search(text):
        return text, ""
    said: list[str] = []
    thoughts: list[str] = []
    at = 0
    # Ticks and fences inside a thought pair with nothing outside it: looked for anew behind each.
    while opening := _next(_OPENS, text, at):
        closing = _CLOSES.search(text, opening.end())
        said.append(text[at : opening.start()])
        end, at = (closing.start(), closing.end()) if closing else (len(text), len(text))
        thoughts.append(text[opening.end() : end].strip())
    said.append(text[at:])
    if not thoughts and (closing := _next(_LONE, text, 0)):
        thoughts, said = [text[: closing.start()].strip()], [text[closing.end() :]]
    return "".join(said), "\n\n".join(thought for thought in thoughts if thought)


def _next(tag: re.Pattern[str], text: str, at: int) -> re.Match[str] | None:
    quoted = [(begin + at, end + at) for begin, end in code(text[at:])]
    for match in tag.finditer(text, at):
        if not within(match.start(), quoted):
            return match
    return None
