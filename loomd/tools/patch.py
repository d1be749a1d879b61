"""Patches in the `*** Begin Patch` grammar: text -> sections -> new contents. Pure.

    *** Begin Patch
    *** Add File: PATH          each line of the content behind a +
    *** Delete File: PATH
    *** Update File: PATH
    *** Move to: PATH           optional
    @@ LINE                     optional: the hunk comes after this line; several narrow it down
     context, -old, +new
    *** End of File             optional: the hunk ends with the file
    *** End Patch

Hunks come in the order of the file. One that stands nowhere, or in several places, is an error that
names it and shows the nearest lines; nothing is guessed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from loomd.tools import newlines
from loomd.tools.newlines import BOM

SHOWN: Final = 12
"""Lines that an error shows."""


class PatchError(Exception):
    """What is wrong, for the model. code: bad_args (no patch), failed, conflict, not_found."""

    def __init__(self, text: str, code: str = "failed") -> None:
        super().__init__(text)
        self.text = text
        self.code = code


@dataclass
class Hunk:
    """lines: (mark, text) with marks ' ', '-', '+'. number: in its section, from 1; line: of the
    patch, where it begins."""

    number: int
    line: int
    anchors: list[str] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    at_end: bool = False

    @property
    def old(self) -> list[str]:
        return [text for mark, text in self.lines if mark != "+"]


@dataclass
class Section:
    kind: Literal["add", "delete", "update"]
    path: str
    line: int
    content: list[str] = field(default_factory=list)
    hunks: list[Hunk] = field(default_factory=list)
    move: str = ""


# --- reading -------------------------------------------------------------------------------------

_HEAD: Final = re.compile(r"\*\*\* (Add|Delete|Update) File: *(.+?)\s*")
_MOVE: Final = re.compile(r"\*\*\* Move to: *(.+?)\s*")
_RANGE: Final = re.compile(r"@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@ ?")
"""The head of a hunk in a unified diff: its numbers are not trusted, what stands behind them is."""


def parse(text: str) -> list[Section]:
    """The sections of a patch. PatchError(bad_args) names the line."""
    lines = text.split("\n")
    first = next((n for n, line in enumerate(lines) if line.strip()), len(lines))
    if first < len(lines) and lines[first].strip().startswith(("```", "<<")):
        first += 1  # a fence, or the beginning of a here-document
    if first >= len(lines) or lines[first].strip() != "*** Begin Patch":
        raise PatchError("a patch begins with the line `*** Begin Patch`", "bad_args")
    last = next((n for n, ln in enumerate(lines) if ln.strip() == "*** End Patch"), None)
    if last is None:
        raise PatchError("the patch has no end: its last line is `*** End Patch`", "bad_args")
    sections: list[Section] = []
    for n in range(first + 1, last):
        _take(sections, lines[n].removesuffix("\r"), n + 1)
    if not sections:
        raise PatchError("the patch changes no file", "bad_args")
    for section in sections:
        _check(section)
    return sections


def named(text: str) -> list[str]:
    """Every path that a patch may be about, whether it is one or not."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    heads = [match[2] for line in lines if (match := _HEAD.fullmatch(line))]
    return heads + [match[1] for line in lines if (match := _MOVE.fullmatch(line))]


def _take(sections: list[Section], line: str, number: int) -> None:
    """One line of the patch."""
    if head := _HEAD.fullmatch(line):
        kind: Literal["add", "delete", "update"]
        kind = "add" if head[1] == "Add" else "delete" if head[1] == "Delete" else "update"
        sections.append(Section(kind, head[2], number))
        return
    if not sections:
        if line.strip():
            raise PatchError(_wrong(number, line, "`*** Add|Delete|Update File: PATH`"), "bad_args")
        return
    section = sections[-1]
    if move := _MOVE.fullmatch(line):
        if section.kind != "update" or section.hunks or section.move:
            raise PatchError(
                f"line {number}: `Move to` belongs right under `Update File`", "bad_args"
            )
        section.move = move[1]
    elif section.kind == "add":
        if not line.startswith("+"):
            if line.strip():
                raise PatchError(
                    _wrong(number, line, "a line of the new file, behind a +"), "bad_args"
                )
            return  # between sections
        section.content.append(line[1:])
    elif section.kind == "delete":
        if line.strip():
            raise PatchError(_wrong(number, line, "the next file"), "bad_args")
    else:
        _take_hunk(section, line, number)


def _take_hunk(section: Section, line: str, number: int) -> None:
    hunks = section.hunks
    if line.startswith("@@"):
        if not hunks or hunks[-1].lines:
            hunks.append(Hunk(len(hunks) + 1, number))
        anchor = line[_range.end() :] if (_range := _RANGE.match(line)) else line[2:].strip()
        if anchor.strip():
            hunks[-1].anchors.append(anchor.strip())
        return
    if line.strip() == "*** End of File":
        if not hunks or not hunks[-1].lines:
            raise PatchError(
                f"line {number}: `End of File` comes after the lines of a hunk", "bad_args"
            )
        hunks[-1].at_end = True
        return
    if line.startswith("***"):
        raise PatchError(_wrong(number, line, "a line of a hunk, or the next file"), "bad_args")
    if not hunks or hunks[-1].at_end:
        hunks.append(Hunk(len(hunks) + 1, number))
    if line[:1] in (" ", "-", "+"):
        hunks[-1].lines.append((line[0], line[1:]))
    elif not line:
        hunks[-1].lines.append((" ", ""))  # an empty line whose space was lost
    elif line.startswith("\\"):
        return  # `\ No newline at end of file`: ends stay as they are
    else:
        raise PatchError(
            _wrong(number, line, "a space, - or + before a line of a hunk"), "bad_args"
        )


def _wrong(number: int, line: str, right: str) -> str:
    return f"line {number} of the patch: {line[:80]!r}; expected {right}"


def _check(section: Section) -> None:
    for hunk in section.hunks:
        while hunk.lines and hunk.lines[-1] == (" ", "") and not hunk.at_end:
            hunk.lines.pop()  # what is left empty before the next section is no context
    section.hunks = [hunk for hunk in section.hunks if hunk.lines]
    for hunk in section.hunks:
        if all(mark == " " for mark, _ in hunk.lines):
            raise PatchError(f"{_named(section, hunk)} changes nothing", "bad_args")
    if section.kind == "update" and not section.hunks and not section.move:
        raise PatchError(f"line {section.line}: no change of {section.path} is given", "bad_args")


def _named(section: Section, hunk: Hunk) -> str:
    return f"hunk {hunk.number} of {section.path} (line {hunk.line} of the patch)"


# --- applying ------------------------------------------------------------------------------------

Read = Callable[[str], bytes | None]
"""The content of a file as it stands; None: there is none."""


def apply(
    sections: Sequence[Section], read: Read, changed: Callable[[str], bool] = lambda path: False
) -> dict[str, tuple[bytes | None, bytes | None, str]]:
    """path -> (content before, content after, path whose mode it gets), None for no file.

    `changed`: has the file changed since the agent read it? Then each hunk must stand exactly once
    in all of it. PatchError.
    """
    before: dict[str, bytes | None] = {}
    after: dict[str, bytes | None] = {}
    modes: dict[str, str] = {}

    def now(path: str) -> bytes | None:
        if path not in after:
            before[path] = after[path] = read(path)
        return after[path]

    for section in sections:
        path = section.path
        content = now(path)
        if section.kind == "add":
            if content is not None:
                raise PatchError(f"{path} exists already: use `*** Update File`", "failed")
            after[path] = "".join(f"{line}\n" for line in section.content).encode()
            continue
        if content is None:
            raise PatchError(f"{path} does not exist", "not_found")
        if section.kind == "delete":
            if changed(path):
                raise PatchError(f"{path} has changed since you read it: read it again", "conflict")
            after[path] = None
            continue
        made = updated(section, content, changed(path))
        if section.move and section.move != path:
            if now(section.move) is not None:
                raise PatchError(f"{section.move} exists already", "failed")
            after[path], after[section.move] = None, made
            modes[section.move] = modes.get(path, path)
        else:
            after[path] = made
    return {
        path: (before[path], content, modes.get(path, path))
        for path, content in after.items()
        if content != before[path]
    }


def updated(section: Section, content: bytes, changed: bool = False) -> bytes:
    """A file's content with the hunks of a section. PatchError."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PatchError(f"{section.path} is not UTF-8 (byte {error.start})") from None
    bom = text.startswith(BOM)
    raw = text.removeprefix(BOM).split("\n")
    whole = raw[-1] == ""  # does the last line have an end?
    lines = [line + "\n" for line in raw[:-1]] + ([] if whole else [raw[-1]])
    bare = [line.removesuffix("\n").removesuffix("\r") for line in lines]
    usual = newlines.usual(lines)
    made: list[str] = []
    at = 0
    for hunk in section.hunks:
        start = _place(section, hunk, bare, at, changed)
        made += lines[at:start]
        made += _exchanged(hunk, lines[start : start + len(hunk.old)], usual)
        at = start + len(hunk.old)
    made += lines[at:]
    # A file whose last line has no end keeps it so; any other line has one.
    made = [line if newlines.ending(line) else line + usual for line in made]
    if not whole and made and lines:
        made[-1] = made[-1].removesuffix("\n").removesuffix("\r")
    return ((BOM if bom else "") + "".join(made)).encode()


def _exchanged(hunk: Hunk, found: Sequence[str], usual: str) -> list[str]:
    """The lines of the file in a hunk's place, with its new ones. What stays, stays as it is in the
    file; a new line ends as the one that it replaces, or as the one before."""
    made: list[str] = []
    gone: list[str] = []
    at = 0
    last = ""
    for mark, text in hunk.lines:
        if mark == "+":
            end = newlines.ending(gone.pop(0)) if gone else last
            last = end or usual
            made.append(text + last)
            continue
        line = found[at]
        at += 1
        if mark == " ":
            made.append(line)
            last, gone = newlines.ending(line), []
        else:
            gone.append(line)
    return made


def _place(section: Section, hunk: Hunk, lines: Sequence[str], after: int, changed: bool) -> int:
    """Where the hunk's old lines stand: the index of the first."""
    begin = after
    for anchor in hunk.anchors:
        found = next((n for n in range(begin, len(lines)) if lines[n].strip() == anchor), None)
        if found is None:
            raise PatchError(
                f"{_named(section, hunk)}: `@@ {anchor}` stands nowhere"
                f"{' after the hunk before it' if after else ''}{_near([anchor], lines)}",
                _code(changed),
            )
        begin = found + 1
    old = hunk.old
    if not old:
        return begin if hunk.anchors and not hunk.at_end else len(lines)
    if changed and (everywhere := _all(old, lines, 0)) and len(everywhere) > 1:
        raise PatchError(
            f"{_named(section, hunk)} stands {len(everywhere)} times ({_lines(everywhere)}), and "
            f"{section.path} has changed since you read it: read it again",
            "conflict",
        )
    places = _all(old, lines, begin)
    if not places and hunk.anchors:
        # The line of the anchor may be among the context.
        places = _all(old, lines, max(begin - 1, after))
    if hunk.at_end:
        places = [at for at in places if at + len(old) == len(lines)]
    if len(places) == 1 or (places and hunk.anchors):
        return places[0]
    if places:
        raise PatchError(
            f"{_named(section, hunk)} stands {len(places)} times ({_lines(places)}): give more of "
            "the lines around it, or an `@@` line before it",
            _code(changed),
        )
    above = [at for at in _all(old, lines, 0) if at < begin]
    if above:
        why = f"stands at {_lines(above)}, before the hunk or `@@` line that it comes after"
    elif hunk.at_end and _all(old, lines, begin):
        why = f"does not stand at the end of the file, but at {_lines(_all(old, lines, begin))}"
    else:
        why = f"stands nowhere{_near(old, lines)}"
    raise PatchError(f"{_named(section, hunk)} {why}", _code(changed))


def _code(changed: bool) -> str:
    return "conflict" if changed else "failed"


def _all(old: Sequence[str], lines: Sequence[str], begin: int) -> list[int]:
    """Where the lines stand, from `begin` on: exactly, else but for white space at their ends."""
    for same in (str, str.rstrip):
        wanted = [same(line) for line in old]
        first = wanted[0]
        found = [
            at
            for at in range(begin, len(lines) - len(old) + 1)
            if same(lines[at]) == first
            and [same(line) for line in lines[at : at + len(old)]] == wanted
        ]
        if found:
            return found
    return []


def _lines(places: Sequence[int]) -> str:
    shown = ", ".join(str(at + 1) for at in places[:10])
    return f"line {shown}" if len(places) == 1 else f"lines {shown}"


def _near(old: Sequence[str], lines: Sequence[str]) -> str:
    """The lines of the file that come nearest."""
    stripped = [line.strip() for line in lines]
    wanted = [line.strip() for line in old]
    for at in range(len(lines) - len(old) + 1):
        if stripped[at : at + len(old)] == wanted:
            return f". It differs only in white space from {_shown(lines, at, len(old))}"
    key = max(wanted, key=len)
    if not key or len(lines) > 20_000:
        return ""
    close = difflib.get_close_matches(key, stripped, 1, 0.6)
    if not close:
        return ". Nothing there is like it: read the file again"
    at = max(stripped.index(close[0]) - wanted.index(key), 0)
    return f". The nearest real text is {_shown(lines, at, len(old))}"


def _shown(lines: Sequence[str], at: int, count: int) -> str:
    last = min(at + min(max(count, 1), SHOWN), len(lines))
    return f"lines {at + 1}-{last}:\n" + "\n".join(line[:300] for line in lines[at:last])
