"""A shell line, taken apart: every command that `sh -c` would run, wherever it stands in it. Pure.

POSIX shell, and what bash adds where both read it alike. What the two read differently, or what
nobody can know before it runs, is `unclear`: the commands that could be found are still there, so
that what must never happen is seen in them, but nobody may take them for the whole line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from loomd.rules import HOME, MANY, MARK, RESERVED, SOME, STAR

MAX_LINE: Final = 64 << 10
MAX_DEPTH: Final = 16

Kind = Literal["read", "write", "both"]

_BLANK: Final = " \t"
_META: Final = " \t\n;&|<>()"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGN: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\+?=")
_REDIRECT: Final = re.compile(r"(\d*)(<<<|<<-|<<|<>|<&|>>|>&|>\||<|>)|(&>>|&>)")
_SKIPPED: Final = frozenset(
    {"if", "then", "elif", "else", "fi", "while", "until", "do", "done", "!", "{", "}"}
)
_BEYOND: Final = frozenset({"case", "select", "function", "coproc", "[["})
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]")
_DEFAULT: Final = re.compile(
    r"([A-Za-z_][A-Za-z0-9_]*|[0-9@*#])(:?[-+=?][\w ./:,@%+-]*)?", re.ASCII
)
_NUMBERS: Final = frozenset("?$!#")


@dataclass(frozen=True)
class Redirect:
    """A file that a command reads or writes by `<` or `>`. `target`: a word with marks."""

    kind: Kind
    target: str


@dataclass(frozen=True)
class Command:
    """One simple command. Words are plain text with the marks of `loomd.rules`.

    scope   the subshells it stands in, outermost first: what `cd` does there ends there
    after   what joins it to the command before: "" | ";" | "&&" | "||" | "|" | "&"
    stdin   the text of its here-document; None if it has none
    """

    words: tuple[str, ...] = ()
    assigns: tuple[tuple[str, str], ...] = ()
    redirects: tuple[Redirect, ...] = ()
    scope: tuple[int, ...] = ()
    after: str = ""
    stdin: str | None = None


@dataclass(frozen=True)
class Line:
    """In the order in which they stand; those of a substitution before the command that has it."""

    commands: tuple[Command, ...]
    unclear: tuple[str, ...] = ()


def parse(text: str, depth: int = 0) -> Line:
    """Never raises: what cannot be read is `unclear`."""
    if len(text) > MAX_LINE:
        return Line((), (f"it has more than {MAX_LINE} characters",))
    if RESERVED.search(text):
        return Line((), ("it has characters that no command has",))
    reader = _Reader(text, depth)
    reader.commands_until("")
    return Line(tuple(reader.commands), tuple(dict.fromkeys(reader.unclear)))


@dataclass
class _Making:
    """A command that is being read."""

    words: list[str] = field(default_factory=list)
    assigns: list[tuple[str, str]] = field(default_factory=list)
    redirects: list[Redirect] = field(default_factory=list)
    heredoc: _Heredoc | None = None

    @property
    def empty(self) -> bool:
        return not (self.words or self.assigns or self.redirects or self.heredoc)


@dataclass
class _Heredoc:
    end: str
    quoted: bool
    tabs: bool
    text: str | None = None


class _Open(Exception):
    """Something that was opened is never closed."""


class _Reader:
    def __init__(self, text: str, depth: int) -> None:
        self.text = text
        self.at = 0
        self.depth = depth
        self.commands: list[Command] = []
        self.unclear: list[str] = []
        self.pending: list[_Heredoc] = []
        self.making: list[tuple[int, _Making]] = []  # have a here-document still to be read
        self.scopes = 0
        self.scope: tuple[int, ...] = ()

    # --- commands ------------------------------------------------------------------------------

    def commands_until(self, closing: str, scope: tuple[int, ...] = ()) -> None:
        """Reads commands up to `closing` ("" or ")"), which is taken too."""
        if self.depth > MAX_DEPTH:
            self.unclear.append("it is nested too deeply")
            self.at = len(self.text)
            return
        self.depth += 1
        try:
            self._commands(closing, scope)
        except _Open as error:
            self.unclear.append(str(error))
            self.at = len(self.text)
        self.depth -= 1

    def _commands(self, closing: str, scope: tuple[int, ...]) -> None:
        base = len(scope)
        after = ""
        now = _Making()
        while True:
            self._blanks()
            char = self.text[self.at : self.at + 1]
            if char == "":
                self._end(now, scope, after)
                if closing or len(scope) > base:
                    raise _Open("a parenthesis is never closed")
                self._heredocs()
                return
            if char == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif char == "\n":
                self._end(now, scope, after)
                now, after = _Making(), ";"
                self.at += 1
                self._heredocs()
            elif char == "(":
                if not now.empty:
                    self.unclear.append("it defines a function, or uses a pattern of bash")
                    self._end(now, scope, after)
                    now = _Making()
                if self.text.startswith("((", self.at):
                    self.unclear.append("`((` is arithmetic to one shell and not to the other")
                self.scopes += 1
                self.scope = scope = (*scope, self.scopes)
                self.at += 1
            elif char == ")":
                self._end(now, scope, after)
                now, after = _Making(), ";"
                self.at += 1
                if len(scope) > base:
                    self.scope = scope = scope[:-1]
                elif closing:
                    return
                else:
                    self.unclear.append("a parenthesis is closed that was not opened")
            elif self._redirect(now):
                pass
            elif char in ";&|":
                self._end(now, scope, after)
                now, after = _Making(), self._operator()
            else:
                self._word(now)

    def _blanks(self) -> None:
        while True:
            if self.text[self.at : self.at + 1] in (" ", "\t"):
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            else:
                return

    def _operator(self) -> str:
        for operator in ("&&", "||", ";;", "|&", ";", "&", "|"):
            if self.text.startswith(operator, self.at):
                self.at += len(operator)
                return {";;": ";", "|&": "|"}.get(operator, operator)
        raise AssertionError(self.text[self.at])

    def _end(self, now: _Making, scope: tuple[int, ...], after: str) -> None:
        if now.empty:
            return
        command = Command(tuple(now.words), tuple(now.assigns), tuple(now.redirects), scope, after)
        if now.heredoc is not None:
            self.making.append((len(self.commands), now))
        self.commands.append(command)

    # --- words ---------------------------------------------------------------------------------

    def _word(self, now: _Making) -> None:
        start = self.at
        first = not now.words
        word = self.word(assign=first)
        source = self.text[start : self.at]
        if first and not now.assigns and source in _SKIPPED:
            return
        if first and not now.assigns and source in _BEYOND:
            self.unclear.append(f"`{source}` is beyond this analysis")
            return
        if first and not now.assigns and source == "for":
            self._for()
            return
        found = _ASSIGN.match(source) if first else None
        if found is not None:
            if self.text[self.at : self.at + 1] == "(" and self.at == start + found.end():
                self.unclear.append("an array is no variable of every shell")
            # What comes into a variable is one text, whatever it is made of.
            now.assigns.append((found[1], word[found.end() :].replace(MANY, SOME)))
            return
        now.words.append(word)

    def _for(self) -> None:
        """`for NAME in WORDS`: the words are values only, but may hold substitutions."""
        self._blanks()
        name = _NAME.match(self.text, self.at)
        if name is None:
            self.unclear.append("`for` has no name that every shell reads")
            return
        self.at = name.end()
        self._blanks()
        if not re.match(r"in[ \t\n]", self.text[self.at : self.at + 3]):
            return
        self.at += 2
        while True:
            self._blanks()
            char = self.text[self.at : self.at + 1]
            if char == "" or char in _META:
                return
            self.word()

    def word(self, *, assign: bool = False) -> str:
        """The word that begins here, with marks."""
        out: list[str] = []
        start, text, braces = self.at, self.text, False
        if text[self.at] == "~":
            self.at += 1
            following = text[self.at : self.at + 1]
            if following == "" or following in _META + "/":
                out.append(HOME)
            else:
                out.append(SOME)  # another user's, or another directory of a stack
        while self.at < len(text):
            char = text[self.at]
            if char in _META:
                break
            if char == "\\":
                if text.startswith("\\\n", self.at):
                    self.at += 2
                    continue
                out.append(text[self.at + 1 : self.at + 2])
                self.at += 2
            elif char == "'":
                end = self._find("'", self.at + 1)
                out.append(text[self.at + 1 : end])
                self.at = end + 1
            elif char == '"':
                self.at += 1
                out.append(self._double())
            elif char == "$":
                out.append(self._dollar(quoted=False))
            elif char == "`":
                out.append(self._backticks(quoted=False))
            elif char == "*":
                out.append(STAR)
                self.at += 1
            elif char == "?":
                out.append(MARK)
                self.at += 1
            elif char == "[":
                out.append(self._bracket())
            elif char == "{":
                braces = True
                out.append(char)
                self.at += 1
            elif char == "~" and assign and text[self.at - 1] in "=:" and self.at > start:
                out.append(HOME)
                self.at += 1
            else:
                out.append(char)
                self.at += 1
        source = text[start : self.at]
        inside = source[source.find("{") :] if braces else ""
        if "}" in inside and ("," in inside or ".." in inside):
            self.unclear.append("`{...}` becomes several words in one shell only")
        return "".join(out)

    def _find(self, closing: str, start: int) -> int:
        end = self.text.find(closing, start)
        if end < 0:
            raise _Open(f"{closing} is never closed")
        return end

    def _bracket(self) -> str:
        """`[...]` in a word is a pattern if it is closed in it; a lone `[` is a command."""
        found = re.compile(r"\[[!^]?\]?[^\]\s;&|<>()'\"$`\\/]*\]").match(self.text, self.at)
        if found is None:
            self.at += 1
            return "["
        self.at = found.end()
        return MANY

    def _double(self) -> str:
        """The rest of a "..." of which the first quote is taken."""
        out: list[str] = []
        text = self.text
        while self.at < len(text):
            char = text[self.at]
            if char == '"':
                self.at += 1
                return "".join(out)
            out.append(self._piece('$`"\\\n'))
        raise _Open('" is never closed')

    def _piece(self, escaped: str) -> str:
        """The next of what the shell expands and does not split, in quotes or a here-document; a
        backslash takes their meaning from the characters `escaped`."""
        char = self.text[self.at]
        if char == "$":
            return self._dollar(quoted=True)
        if char == "`":
            return self._backticks(quoted=True)
        if char != "\\":
            self.at += 1
            return char
        following = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        if following not in escaped:
            return char + following
        return "" if following == "\n" else following

    def _dollar(self, *, quoted: bool) -> str:
        text = self.text
        mark = SOME if quoted else MANY
        following = text[self.at + 1 : self.at + 2]
        if text.startswith("$((", self.at):
            return self._arithmetic(mark)
        if following == "(":
            self.at += 2
            self._substitution()
            return mark
        if following == "{":
            end = self._find("}", self.at)
            found = _DEFAULT.fullmatch(text, self.at + 2, end)
            self.at = end + 1
            if found is None:
                self.unclear.append("`${...}` computes something")
                return mark
            return self._variable(found[1], mark) if found[2] is None else mark
        if following in ("'", '"') and not quoted:
            self.unclear.append(f"`${following}` is a quote in one shell only")
            self.at += 1
            return ""
        name = _PLAIN.match(text, self.at + 1)
        if name is None:
            if following == "[":
                self.unclear.append("`$[` is arithmetic in one shell only")
            self.at += 1
            return "$"
        self.at = name.end()
        return self._variable(name[0], mark)

    def _variable(self, name: str, mark: str) -> str:
        if name == "HOME":
            return HOME
        if name == "PWD":
            return "."
        if name == "@":
            return MANY
        return SOME if name in _NUMBERS else mark

    def _arithmetic(self, mark: str) -> str:
        end = self.text.find("))", self.at)
        inside = self.text[self.at + 3 : end] if end >= 0 else "`"
        if not re.fullmatch(r"[\w\s+*/%<>=!&|^~?:,-]*", inside, re.ASCII):
            self.unclear.append("`$((...))` may run what it computes with")
            self.at += 2  # as a substitution, so that what it holds is seen
            self._substitution()
            return mark
        self.at = end + 2
        return SOME

    def _substitution(self) -> None:
        """The rest of a `$(...)`; its commands are commands of this line."""
        outer = self.scope
        self.scopes += 1
        self.scope = (*outer, self.scopes)
        self.commands_until(")", self.scope)
        self.scope = outer

    def _backticks(self, *, quoted: bool) -> str:
        start = end = self.at + 1
        while self.text[end : end + 1] != "`":
            if end >= len(self.text):
                raise _Open("` is never closed")
            end += 2 if self.text[end] == "\\" else 1
        inside = re.sub(r"\\([`$\\" + ('"' if quoted else "") + "])", r"\1", self.text[start:end])
        self._nested(inside)
        self.at = end + 1
        return SOME if quoted else MANY

    def _nested(self, text: str) -> None:
        inner = parse(text, self.depth + 1)
        self._take(inner.commands)
        self.unclear += inner.unclear

    def _take(self, commands: Iterable[Command]) -> None:
        """Commands of a substitution that was read on its own."""
        self.scopes += 1
        base = (*self.scope, self.scopes)
        for one in commands:
            scope = (*base, *(-n for n in one.scope))
            self.commands.append(
                Command(one.words, one.assigns, one.redirects, scope, one.after, one.stdin)
            )

    # --- redirections --------------------------------------------------------------------------

    def _redirect(self, now: _Making) -> bool:
        """Reads a redirection if one stands here."""
        text = self.text
        if text.startswith(("<(", ">("), self.at):
            self.at += 2
            self._substitution()
            now.words.append(SOME)
            return True
        found = _REDIRECT.match(text, self.at)
        if found is None:
            return False
        self.at = found.end()
        operator = found[2] or found[3]
        self._blanks()
        if self.at >= len(text) or text[self.at] in _META:
            if text.startswith(("<(", ">("), self.at):
                self.at += 2
                self._substitution()
                return True
            self.unclear.append(f"`{operator}` has no target")
            return True
        start = self.at
        target = self.word()
        if operator in ("<<", "<<-"):
            source = text[start : self.at]
            plain = not re.search(r"['\"\\]", source)
            if plain and any(mark in target for mark in (SOME, MANY, STAR, MARK, HOME)):
                self.unclear.append("the end of a here-document is a name of this analysis")
            heredoc = _Heredoc(target, not plain, operator == "<<-")
            self.pending.append(heredoc)
            now.heredoc = heredoc
        elif operator == "<<<":
            pass  # a text, whose substitutions have been read with the word
        elif operator in ("<&", ">&") and re.fullmatch(r"\d+-?|-", target):
            pass  # another descriptor of its own
        else:
            kind: Kind = (
                "both" if operator == "<>" else "read" if operator in ("<", "<&") else "write"
            )
            now.redirects.append(Redirect(kind, target))
        return True

    def _heredocs(self) -> None:
        """The bodies of here-documents, which begin here."""
        for heredoc in self.pending:
            lines = []
            while True:
                if self.at >= len(self.text):
                    self.unclear.append(f"the here-document up to {heredoc.end!r} has no end")
                    break
                end = self.text.find("\n", self.at)
                end = len(self.text) if end < 0 else end
                line = self.text[self.at : end]
                self.at = min(end + 1, len(self.text))
                line = line.lstrip("\t") if heredoc.tabs else line
                if line == heredoc.end:
                    break
                lines.append(line + "\n")
            heredoc.text = "".join(lines)
            if not heredoc.quoted:
                heredoc.text = self._expanded(heredoc.text)
        self.pending.clear()
        for index, made in self.making:
            assert made.heredoc is not None
            old = self.commands[index]
            self.commands[index] = Command(
                old.words, old.assigns, old.redirects, old.scope, old.after, made.heredoc.text
            )
        self.making.clear()

    def _expanded(self, text: str) -> str:
        """A here-document in which the shell expands: its substitutions are commands."""
        inner = _Reader(text, self.depth + 1)
        out: list[str] = []
        try:
            while inner.at < len(text):
                out.append(inner._piece("$`\\"))
        except _Open as error:
            inner.unclear.append(str(error))
        self._take(inner.commands)
        self.unclear += inner.unclear
        return "".join(out)
