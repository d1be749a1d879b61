"""What a terminal would show: output of commands as text for a model. Pure."""

from __future__ import annotations

import re
from typing import Final

_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, movements
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC, DCS, ...: titles, links
    r"|\x1b[ -/]*[0-~]"
)

_PICTURES: Final = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {
    127: "\u2421"
}

BINARY_SHARE: Final = 0.1
"""Of bytes that are no UTF-8: beyond it an output is no text."""


def text_of(data: bytes) -> str:
    """As text without escape sequences, each line as its last carriage return left it; other
    control characters are shown as their pictures. Binary data is not shown at all."""
    if is_binary(data):
        return f"[binary output, {len(data)} bytes]"
    return plain(data.decode("utf-8", "replace"))


def is_binary(data: bytes) -> bool:
    """Whether too much of it is no UTF-8."""
    bad = data.decode("utf-8", "replace").count("\ufffd")
    return bad > max(8.0, len(data) * BINARY_SHARE)


def plain(text: str) -> str:
    """The same for what has been decoded."""
    if "\x1b" in text:
        text = _ESCAPES.sub("", text)
    if "\r" in text or "\b" in text:
        text = "\n".join(_overwritten(line) for line in text.split("\n"))
    return text.translate(_PICTURES)


def _overwritten(line: str) -> str:
    """A line whose beginning was written again and again, as progress bars are."""
    line = line.rstrip("\r")
    if "\b" in line:
        kept: list[str] = []
        for char in line:
            if char != "\b":
                kept.append(char)
            elif kept and kept[-1] != "\r":
                kept.pop()
        line = "".join(kept)
    shown = ""
    for part in line.split("\r"):
        shown = part + shown[len(part) :]
    return shown


def cut(head: bytes, tail: bytes, size: int) -> str:
    """What is shown of an output of `size` bytes that begins with `head` and ends with `tail`; if
    nothing lies between them, they are one."""
    left = size - len(head) - len(tail)
    if left <= 0:
        return text_of(head + tail).rstrip("\n")
    return f"{text_of(head)}\n[... {left} bytes left out ...]\n{text_of(_whole(tail))}".rstrip("\n")


def _whole(tail: bytes) -> bytes:
    """Without the rest of a character that was cut in two."""
    skip = 0
    while skip < min(3, len(tail)) and tail[skip] & 0xC0 == 0x80:
        skip += 1
    return tail[skip:]
