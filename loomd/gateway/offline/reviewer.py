"""Checks proposed edits before they touch the disk. Pure.

Of a rename: each changed line differs in whole identifiers only, the old name for the new one,
none of them inside a string (but for names listed in `__all__` and `__slots__`), and the file as
it would be compiles. Of any other change: only that Python still compiles; it says so.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from loomd.gateway.offline.modules import is_python
from loomd.gateway.offline.results import whole
from loomd.gateway.offline.talk import Talk, calls, plural
from loomd.gateway.offline.text import CannotRead, Token, is_fstring, literal_text, parse
from loomd.gateway.types import Resolved
from loomd.wire.bodies import Entry, FinalAnswer, Outcome

PAGE = 100_000
TRIES = 2

_REQUEST = re.compile(r"Review request (\S+) by (\S+)")
_REASON = re.compile(r"^Reason: (.*)$", re.MULTILINE)
_DIFF = re.compile(r"^```diff\n(.*)^```", re.MULTILINE | re.DOTALL)
_NAMES = re.compile(r"rename `([^`]+)` to `([^`]+)`", re.IGNORECASE)
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass
class Hunk:
    """Lines of the base from `start` on: (" " | "-" | "+", text)."""

    start: int
    lines: list[tuple[str, str]] = field(default_factory=list)

    def side(self, mark: str) -> list[str]:
        return [text for kind, text in self.lines if kind in (" ", mark)]


@dataclass
class Request:
    edit: str
    reason: str
    names: tuple[str, str] | None
    files: dict[str, list[Hunk]]
    cut: bool


def review(resolved: Resolved, talk: Talk) -> Outcome:
    """The next move, from the conversation alone: requests without a verdict are read for, then
    judged, several at once."""
    pending, read = _pending(resolved.entries)
    if not pending:
        return FinalAnswer(text="Reviewed." if _any(resolved.entries) else "Nothing to review.")
    wanted = sorted({p for r in pending for p in r.files if is_python(p) and p not in read})
    if wanted and talk.has("read"):
        made = [("read", {"path": path, "offset": 1, "limit": PAGE}) for path in wanted]
        return calls(made, f"{plural(len(pending), 'edit')} to review.", resolved.request)
    made = []
    for request in pending:
        verdict, reason = judge(request, read)
        made.append(("review", {"edit": request.edit, "verdict": verdict, "reason": reason}))
    return calls(made, "", resolved.request)


def _any(entries: Iterable[Entry]) -> bool:
    return any(e.role == "user" and _REQUEST.match(e.text) for e in entries)


def _pending(entries: Sequence[Entry]) -> tuple[list[Request], dict[str, str | None]]:
    """Requests without a verdict, and the files read since the oldest of them came (None: could
    not be read, or not whole)."""
    results = {e.call: e for e in entries if e.role == "tool"}
    asked: dict[str, tuple[int, Entry]] = {}
    tries: dict[str, int] = {}
    for n, entry in enumerate(entries):
        if entry.role == "user" and (match := _REQUEST.match(entry.text)):
            asked[match.group(1)] = (n, entry)
            tries.pop(match.group(1), None)
        for call in entry.calls:
            if call.name == "review":
                edit = str(call.args.get("edit"))
                tries[edit] = tries.get(edit, 0) + 1
                result = results.get(call.id)
                if result is None or result.ok or tries[edit] >= TRIES:
                    asked.pop(edit, None)
    since = min((n for n, _ in asked.values()), default=len(entries))
    read: dict[str, str | None] = {}
    for n, entry in enumerate(entries):
        for call in entry.calls:
            if call.name == "read" and n > since and (result := results.get(call.id)):
                read[str(call.args.get("path"))] = whole(result.text) if result.ok else None
    return [_request(entry.text) for _, entry in asked.values()], read


def _request(text: str) -> Request:
    head = _REQUEST.match(text)
    reason = _REASON.search(text)
    diff = _DIFF.search(text)
    said = reason.group(1) if reason else ""
    names = _NAMES.search(said)
    return Request(
        edit=head.group(1) if head else "",
        reason=said,
        names=(names.group(1), names.group(2)) if names else None,
        files=read_diff(diff.group(1) if diff else ""),
        cut=diff is None or bool(re.search(r"^\[cut: ", diff.group(1), re.MULTILINE)),
    )


def read_diff(diff: str) -> dict[str, list[Hunk]]:
    files: dict[str, list[Hunk]] = {}
    path, before, left = "", "", [0, 0]
    for line in diff.split("\n"):
        if left[0] <= 0 and left[1] <= 0:
            if line.startswith("--- "):
                before = _path(line[4:])
            elif line.startswith("+++ "):
                path = _path(line[4:])
                path = before if path == "/dev/null" else path
                files.setdefault(path, [])
            elif match := _HUNK.match(line):
                files.setdefault(path, []).append(Hunk(int(match.group(1))))
                left = [int(match.group(2) or 1), int(match.group(4) or 1)]
            continue
        mark, text = line[:1], line[1:]
        if mark == "\\":
            continue
        mark = mark or " "
        if mark in " -":
            left[0] -= 1
        if mark in " +":
            left[1] -= 1
        files[path][-1].lines.append((mark, text))
    return files


def _path(text: str) -> str:
    name = text.split("\t")[0].strip()
    return name[2:] if name[:2] in ("a/", "b/") else name


# --- the verdict -------------------------------------------------------------------------------


def judge(request: Request, read: dict[str, str | None]) -> tuple[str, str]:
    """(approve | revise, reason)."""
    if request.cut or not request.files:
        return "revise", "the diff is too long to be read whole: propose smaller edits"
    names = request.names or _guess(request)
    faults = []
    checked = []
    for path, hunks in sorted(request.files.items()):
        base = read.get(path)
        after = None
        if base is not None:
            after = apply(base, hunks)
            if after is None:
                faults.append(f"{path}: the diff does not fit the file as it is")
                continue
        if names is not None:
            faults += [f"{path}: {fault}" for fault in _not_a_rename(hunks, *names)]
        if is_python(path) and base is not None and after is not None:
            faults += [f"{path}: {fault}" for fault in _broken(base, after)]
            if names is not None and not faults:
                faults += [f"{path}: {fault}" for fault in _in_strings(base, after, *names)]
            checked.append(path)
    if faults:
        return "revise", "; ".join(faults[:6])
    compiles = f"; {', '.join(checked)} still compiles" if checked else "; not compiled"
    if names is None:
        return "approve", f"only mechanically checked{compiles}"
    return "approve", f"only the identifier `{names[0]}` became `{names[1]}`{compiles}"


_WORD = re.compile(r"\w+")


def _guess(request: Request) -> tuple[str, str] | None:
    """The names of a rename that was proposed without saying so."""
    for hunks in request.files.values():
        for before, after in _pairs(hunks):
            old, new = _WORD.findall(before), _WORD.findall(after)
            if len(old) != len(new):
                return None
            changed = {(a, b) for a, b in zip(old, new, strict=True) if a != b}
            if len(changed) == 1:
                pair = changed.pop()
                every = [p for h in request.files.values() for p in _pairs(h)]
                if all(_swapped(a, b, *pair) for a, b in every) and every:
                    return pair
            return None
    return None


def _pairs(hunks: Sequence[Hunk]) -> list[tuple[str, str]]:
    """Changed lines, old and new; [("", line)] and the like where their numbers differ."""
    pairs = []
    for hunk in hunks:
        minus: list[str] = []
        plus: list[str] = []
        for mark, text in [*hunk.lines, (" ", "")]:
            if mark == "-" and not plus:
                minus.append(text)
            elif mark == "+":
                plus.append(text)
            else:
                length = max(len(minus), len(plus))
                minus += [""] * (length - len(minus))
                plus += [""] * (length - len(plus))
                pairs += list(zip(minus, plus, strict=True))
                minus, plus = ([text], []) if mark == "-" else ([], [])
    return pairs


def _swapped(before: str, after: str, old: str, new: str) -> bool:
    """Is `after` `before` with whole words exchanged, or an import given an `as`?"""
    pattern = rf"\b{re.escape(old)}\b"
    at = 0
    made = []
    for match in re.finditer(pattern, before):
        made.append((re.escape(before[at : match.start()]), match.group()))
        at = match.end()
    shape = ""
    for text, word in made:
        choices = (word, new, f"{word} as {new}", f"{new} as {word}")
        shape += text + "(?:" + "|".join(re.escape(c) for c in choices) + ")"
    shape += re.escape(before[at:])
    return bool(made) and re.fullmatch(shape, after) is not None


def _not_a_rename(hunks: Sequence[Hunk], old: str, new: str) -> list[str]:
    faults = []
    for before, after in _pairs(hunks):
        if not _swapped(before, after, old, new):
            shown = (after or before).strip()[:100]
            faults.append(f"more than `{old}` -> `{new}` changes in `{shown}`")
    return faults


def apply(base: str, hunks: Sequence[Hunk]) -> str | None:
    """The file after the hunks; None if they do not fit."""
    lines = [line.removesuffix("\r") for line in base.split("\n")]  # as diffs count lines
    made: list[str] = []
    at = 0
    for hunk in hunks:
        first = max(hunk.start - 1, 0) if hunk.side("-") else hunk.start
        old = [line.removesuffix("\r") for line in hunk.side("-")]
        if first < at or lines[first : first + len(old)] != old:
            return None
        made += lines[at:first]
        made += [line.removesuffix("\r") for line in hunk.side("+")]
        at = first + len(old)
    return "\n".join([*made, *lines[at:]])


def _broken(base: str, after: str) -> list[str]:
    try:
        parse(base.removeprefix("\ufeff"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # it was so before
    try:
        parse(after.removeprefix("\ufeff"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [f"it would no longer compile: {error}"]
    return []


def _in_strings(base: str, after: str, old: str, new: str) -> list[str]:
    """Strings and comments that the change would touch."""
    try:
        one, other = _words(base), _words(after)
    except (CannotRead, tokenize.TokenError, SyntaxError):
        return ["its strings cannot be told"]
    if len(one) != len(other):
        return ["the number of its strings changes"]
    faults = []
    for (line, before), (_, now) in zip(one, other, strict=True):
        if before == now:
            continue
        listed = re.fullmatch(r"[rRuU]?(['\"]{1,3})" + re.escape(old) + r"\1", before)
        if listed and now == before.replace(old, new):
            continue  # a name in __all__ or __slots__; which the author has told apart
        faults.append(f"line {line}: it changes the inside of a string or comment")
    return faults


def _words(source: str) -> list[tuple[int, str]]:
    found = []
    plain = re.sub(r"\r\n|\r", "\n", source.removeprefix("\ufeff"))
    for token in tokenize.generate_tokens(io.StringIO(plain).readline):
        if token.type not in (tokenize.STRING, tokenize.COMMENT):
            continue
        made = Token(token.type, token.string, token.start, token.end)
        text = literal_text(made) if is_fstring(made) else token.string
        if is_fstring(made):
            text = re.sub(r" +", " ", text)  # an expression's width is not the string's
        found.append((token.start[0], text))
    return found
