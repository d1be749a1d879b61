"""Line ends and byte order marks: what a model writes takes those of the file. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BOM: Final = "\ufeff"


def ending(line: str) -> str:
    r"""The end of a line: `\n`, `\r\n`, or none."""
    if line.endswith("\r\n"):
        return "\r\n"
    return "\n" if line.endswith("\n") else ""


def usual(lines: Sequence[str]) -> str:
    """The end that most of the lines have."""
    crlf = sum(1 for line in lines if line.endswith("\r\n"))
    plain = sum(1 for line in lines if line.endswith("\n")) - crlf
    return "\r\n" if crlf > plain else "\n"


def like(base: bytes, content: str) -> str:
    """A whole new content with the mark and, if all of its lines end alike, the ends of `base`."""
    if base.startswith(BOM.encode()) and not content.startswith(BOM):
        content = BOM + content
    crlf = base.count(b"\r\n")
    if crlf and crlf == base.count(b"\n") and "\r" not in content:
        content = content.replace("\n", "\r\n")
    return content


def find(text: str, wanted: str) -> list[tuple[int, int]]:
    """Where `wanted` stands in `text`, as (start, end), not overlapping. As it is written; if it
    does not stand there so, with whatever line ends the file has in its place."""
    found = _all(text, wanted)
    if found or "\r\n" not in text or "\n" not in wanted:
        return found
    # Positions in the text without \r map back by the number of \r\n before them.
    flat: list[str] = []
    origin: list[int] = []
    at = 0
    for part in text.split("\r\n"):
        flat.append(part)
        origin.extend(range(at, at + len(part)))
        at += len(part) + 2
        origin.append(at - 2)
    origin[-1] = len(text)
    plain = "\n".join(flat)
    spans = _all(plain, wanted.replace("\r\n", "\n"))
    return [
        (origin[start], origin[end] if end < len(origin) else len(text)) for start, end in spans
    ]


def _all(text: str, wanted: str) -> list[tuple[int, int]]:
    found = []
    at = text.find(wanted)
    while at >= 0:
        found.append((at, at + len(wanted)))
        at = text.find(wanted, at + len(wanted))
    return found


def fitted(new: str, replaced: str, around: str) -> str:
    """`new` with the line ends of what it replaces, or of the file where that has none."""
    if "\r" in new:
        return new
    crlf = replaced.count("\r\n")
    plain = replaced.count("\n") - crlf
    if crlf == plain == 0:
        return new.replace("\n", usual(around.splitlines(keepends=True)))
    return new.replace("\n", "\r\n") if crlf > plain else new
