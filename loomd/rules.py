"""Permission rules: their syntax, and what a pattern matches. Pure; standard library only.

    shell(pytest *)     commands        read(**/.env)   edit(src/**)    paths
    web_fetch(*.x.org)  hosts           word_count(a)   a tool's first argument        shell    all

A pattern of a command is words, quoted as in a shell. `*` alone is any number of words, within a
word any text; a last word that ends in `*` takes what follows too. `?` is one character, `[*]` and
`[?]` are the unquoted wildcards of a command line as written, quoted characters are themselves.

A pattern of a path is relative to the checkout, or begins with `/` or `~/`: `*` stays within a
folder, `**` does not; `\\` makes the next character itself.

Words of a command are plain text but for the marks below: no literal character is ever one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, get_args

Verdict = Literal["deny", "ask", "allow"]
VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)
"""In their order: what stands first holds."""

SOME: Final = "\uf8f0"
"""In a word of a command: text of a variable or of a substitution, within this one word."""
MANY: Final = "\uf8f1"
"""The same, unquoted: it may become any number of words."""
STAR: Final = "\uf8f2"
"""An unquoted `*` of a command line: names of files."""
MARK: Final = "\uf8f3"
"""An unquoted `?` of a command line."""
HOME: Final = "\uf8f4"
"""An unquoted `~` at the begin of a word, or `$HOME`."""
MARKS: Final = frozenset((SOME, MANY, STAR, MARK, HOME))

_ANY: Final = "\uf8f8"
_ONE: Final = "\uf8f9"
RESERVED: Final = re.compile("[\uf8f0-\uf8ff\0]")
"""Characters that no command, path or pattern may have."""

_RULE: Final = re.compile(r"([A-Za-z_*][A-Za-z0-9_*]*)\s*(?:\((.*)\))?", re.DOTALL)

PATH_MAX: Final = 4096
"""What Linux takes: no longer path names a file."""

CONSIDERED: Final = 1000
"""Characters of a word up to which two wildcards are compared; beyond it they may match."""


class RuleError(ValueError):
    """A rule that is none; the message says what would be right."""


@dataclass(frozen=True)
class Rule:
    """`tool`: a name, or a glob of names. `pattern` None: every call of it. `source`: who set it:
    config, project, saved, session. `id`: of a saved one."""

    verdict: Verdict
    text: str
    tool: str
    pattern: str | None
    source: str = "config"
    id: str = ""

    def names(self, tool: str) -> bool:
        """Whether this is about the tool of that name."""
        return self.tool == tool or ("*" in self.tool and text_matches(self.tool, tool))


def parse(verdict: Verdict, text: str, source: str = "config", id: str = "") -> Rule:
    """RuleError."""
    found = _RULE.fullmatch(text.strip())
    if found is None or RESERVED.search(text):
        raise RuleError(
            f'a tool, or a tool and a pattern, such as "shell(pytest *)" or "read(**/.env)", '
            f"not {text!r}"
        )
    tool, pattern = found[1], found[2]
    if pattern is not None and not (words(pattern) if tool in COMMANDS else pattern):
        raise RuleError(f"a pattern between the parentheses, or none: {tool!r}, not {text!r}")
    return Rule(verdict, text.strip(), tool, pattern, source, id)


COMMANDS: Final = frozenset({"shell", "git"})
"""Tools whose patterns are words of a command."""


# --- commands ------------------------------------------------------------------------------------


@lru_cache(maxsize=2048)
def words(pattern: str) -> tuple[str, ...]:
    """The words of a command's pattern, with marks for wildcards. RuleError: an open quote."""
    made: list[str] = []
    word: list[str] | None = None
    i = 0
    while i < len(pattern):
        char = pattern[i]
        if char.isspace():
            if word is not None:
                made.append("".join(word))
            word = None
            i += 1
            continue
        fresh = word is None
        word = [] if word is None else word
        if char in "'\"":
            end = _closing(pattern, i)
            word.append(re.sub(r'\\(["\\$`])', r"\1", pattern[i + 1 : end]) if char == '"'
                        else pattern[i + 1 : end])  # fmt: skip
            i = end + 1
        elif char == "\\" and i + 1 < len(pattern):
            word.append(pattern[i + 1])
            i += 2
        elif pattern[i : i + 3] in ("[*]", "[?]"):
            word.append(STAR if pattern[i + 1] == "*" else MARK)
            i += 3
        else:
            wild = {"*": _ANY, "?": _ONE}.get(char, char)
            if fresh and char == "~" and pattern[i + 1 : i + 2] in ("", "/", " "):
                wild = HOME
            word.append(wild)
            i += 1
    if word is not None:
        made.append("".join(word))
    return tuple(made)


def _closing(pattern: str, start: int) -> int:
    quote, i = pattern[start], start + 1
    while i < len(pattern) and pattern[i] != quote:
        i += 2 if quote == '"' and pattern[i] == "\\" else 1
    if i >= len(pattern):
        raise RuleError(f"a pattern whose quotes are closed, not {pattern!r}")
    return i


def quoted(words_: Sequence[str]) -> str:
    """Words as a pattern that matches them and nothing else. No word may have MANY or SOME."""
    return " ".join(_quote(word) for word in words_)


def _quote(word: str) -> str:
    if not word:
        return "''"
    out = []
    for piece in re.split(f"([{STAR}{MARK}{HOME}])", word):
        if piece in (STAR, MARK):
            out.append("[*]" if piece == STAR else "[?]")
        elif piece == HOME:
            out.append("~")
        elif piece and re.fullmatch(r"[\w@%+=:,./-]+", piece, re.ASCII):
            out.append(piece)
        elif piece:
            out.append("'" + piece.replace("'", "'\\''") + "'")
    return "".join(out)


def fixed(pattern: str) -> int:
    """How many words at the begin of a command's pattern have no wildcard."""
    count = 0
    for word in words(pattern):
        if _ANY in word or _ONE in word:
            break
        count += 1
    return count


def covers(pattern: str, command: Sequence[str]) -> bool:
    """Whether every command that `command` may become is matched."""
    return _meet(_spread(pattern), command, _within, lambda word: False)


def touches(pattern: str, command: Sequence[str]) -> bool:
    """Whether some command that `command` may become is matched."""
    return _meet(_spread(pattern), command, _near, lambda word: MANY in word)


def _spread(pattern: str) -> tuple[str, ...]:
    parts = words(pattern)
    if parts and parts[-1].endswith(_ANY) and parts[-1] != _ANY:
        return (*parts, _ANY)
    return parts


def _meet(
    pattern: Sequence[str],
    items: Sequence[str],
    same: Callable[[str, str], bool],
    wild: Callable[[str], bool],
) -> bool:
    """Whether a sequence with `_ANY` and one with wild items have a member in common. Row by row:
    reach[j] says whether what stands so far in the pattern meets items[:j]."""
    reach = [True]
    for item in items:
        reach.append(reach[-1] and wild(item))
    for part in pattern:
        fresh = [reach[0] and part == _ANY]
        for j, item in enumerate(items):
            if part == _ANY or wild(item):
                fresh.append(reach[j + 1] or fresh[j])
            else:
                fresh.append(reach[j] and same(part, item))
        reach = fresh
    return reach[-1]


def _within(pattern: str, text: str) -> bool:
    """A glob on one word; marks are text that only a wildcard, or the same mark, matches."""
    if MANY in text:
        return False  # only `*` alone covers any number of words
    return glob(pattern, text)


def _near(pattern: str, text: str) -> bool:
    """Whether two globs have a text in common."""
    if not any(mark in text for mark in MARKS):
        return glob(pattern, text)
    if len(text) > CONSIDERED or len(pattern) > CONSIDERED:
        return True
    return _meet(
        pattern,
        text,
        lambda part, char: part in (_ONE, char) or char == MARK,
        lambda char: char in (SOME, STAR, HOME),
    )


def glob(pattern: str, text: str) -> bool:
    """Whether `_ANY` and `_ONE` in the pattern can be filled so that it is the text. Goes back to
    the last `_ANY` only, so that no pattern takes more than their product."""
    i = j = 0
    star, mark = -1, 0
    while j < len(text):
        if i < len(pattern) and pattern[i] == _ANY:
            star, mark, i = i, j, i + 1
        elif i < len(pattern) and (
            pattern[i] == text[j] or (pattern[i] == _ONE and text[j] not in MARKS)
        ):
            i, j = i + 1, j + 1
        elif star >= 0:
            i, mark = star + 1, mark + 1
            j = mark
        else:
            return False
    return not pattern[i:].strip(_ANY)


# --- paths and names -----------------------------------------------------------------------------


def path_matches(pattern: str, path: str, repo: str, home: str) -> bool:
    """Whether an absolute, normalised path is one of the pattern's."""
    return _path(pattern, path, repo, home, lambda part, name: glob(part, name))


def path_touches(pattern: str, path: str, repo: str, home: str) -> bool:
    """Whether a path with marks for wildcards may become one of the pattern's."""

    def same(part: str, name: str) -> bool:
        # No wildcard of a shell takes the dot that hides a file.
        return _near(part, name) and not (part.startswith(".") and name.startswith((STAR, MARK)))

    return _path(pattern, path, repo, home, same)


def _path(pattern: str, path: str, repo: str, home: str, same: Callable[[str, str], bool]) -> bool:
    if len(path) > PATH_MAX:
        return False
    base = pattern[:1] if pattern in ("~", "/") or pattern.startswith(("~/", "/")) else ""
    root = {"/": "", "~": home.rstrip("/")}.get(base, repo.rstrip("/"))
    if path != root and not path.startswith(root + "/"):
        return False
    # `*` alone is one name, and no `_ANY` of names.
    parts = [
        _ANY if part == "**" else _ANY * 2 if part == "*" else _wild(part)
        for part in _segments(pattern[len(base) :])
    ]
    names = _segments(path[len(root) :])
    return _meet(parts, names, same, lambda name: False)


def _segments(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def path_regex(pattern: str, repo: str, home: str) -> str:
    """A regular expression for exactly the paths that `path_matches` takes: for many of them."""
    base = pattern[:1] if pattern in ("~", "/") or pattern.startswith(("~/", "/")) else ""
    root = {"/": "", "~": home.rstrip("/")}.get(base, repo.rstrip("/"))
    made = re.escape(root)
    for part in _segments(pattern[len(base) :]):
        if part == "**":
            made += "(?:/[^/]+)*"
        else:
            glob_ = re.sub(f"{_ANY}+", _ANY, _wild(part))
            made += "/" + "".join(
                {_ANY: "[^/]*", _ONE: "[^/]"}.get(char, re.escape(char)) for char in glob_
            )
    return made if made else "/"


def path_quoted(path: str) -> str:
    """A path as a pattern that matches it and nothing else."""
    return re.sub(r"([*?\\~])", r"\\\1", path)


def text_matches(pattern: str, text: str) -> bool:
    """A glob over any text: hosts, and first arguments of other tools."""
    return glob(_wild(pattern), text)


@lru_cache(maxsize=2048)
def _wild(pattern: str) -> str:
    out, i = "", 0
    while i < len(pattern):
        char = pattern[i]
        if char == "\\" and i + 1 < len(pattern):
            i += 1
            out += pattern[i]
        else:
            out += {"*": _ANY, "?": _ONE}.get(char, char)
        i += 1
    return out


def text_quoted(text: str) -> str:
    """A text as a glob that matches it and nothing else."""
    return re.sub(r"([*?\\])", r"\\\1", text)
