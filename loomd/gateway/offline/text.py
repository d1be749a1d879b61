"""Positions in Python source: lines, tokens, and the expressions inside f-strings. Pure.

Lines count from 1, columns are characters from 0 (ast counts UTF-8 bytes: `Text.char`). Lines end
at \\n, \\r\\n and \\r, as Python reads them, not at form feeds or U+2028 as in `str.splitlines`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import unicodedata
import warnings
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

_NEWLINE = re.compile(r"\r\n|\r|\n")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")

FSTRINGS_ARE_TOKENS = sys.version_info >= (3, 12)
"""From 3.12 on the tokenizer goes into f-strings, and ast's positions in them are right."""


class CannotRead(Exception):
    """This source cannot be analysed; the text says why, for a person."""


def split_lines(source: str) -> list[str]:
    """Lines with their ends."""
    return _LINE.findall(source)


def normal(name: str) -> str:
    """An identifier as Python compares it."""
    return name if name.isascii() else unicodedata.normalize("NFKC", name)


@dataclass(frozen=True)
class Token:
    """A token at (line, col) .. end, both in the whole file."""

    type: int
    text: str
    start: tuple[int, int]
    end: tuple[int, int]


@dataclass
class Text:
    """A parsed piece of source, the file or (up to 3.11) an expression inside an f-string.

    `line`, `col`: where its first character stands in the file.
    """

    source: str
    tree: ast.AST
    line: int = 1
    col: int = 0
    wrapped: int = 0  # characters put before the piece to make it parse
    lines: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    names: list[Token] = field(default_factory=list)
    starts: list[tuple[int, int]] = field(default_factory=list)
    by_end: dict[tuple[int, int], Token] = field(default_factory=dict)

    def place(self, line: int, col: int) -> tuple[int, int]:
        """Position in the piece -> position in the file."""
        if line == 1:
            return self.line, col - self.wrapped + self.col
        return self.line + line - 1, col

    def char(self, line: int, offset: int) -> tuple[int, int]:
        """ast's (lineno, col_offset) -> position in the file."""
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        col = offset if text.isascii() else len(text.encode()[:offset].decode("utf-8", "replace"))
        return self.place(line, col)

    def start(self, node: ast.AST) -> tuple[int, int]:
        return self.char(node.lineno, node.col_offset)  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> tuple[int, int]:
        return self.char(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def names_between(self, start: tuple[int, int], end: tuple[int, int]) -> list[Token]:
        first, last = bisect_left(self.starts, start), bisect_left(self.starts, end)
        return self.names[first:last]

    def name_at(self, start: tuple[int, int]) -> Token | None:
        index = bisect_left(self.starts, start)
        found = self.names[index] if index < len(self.names) else None
        return found if found is not None and found.start == start else None

    def name_before(self, end: tuple[int, int]) -> Token | None:
        """The name token that ends exactly at `end`."""
        return self.by_end.get(end)

    def last_name_before(self, start: tuple[int, int]) -> Token | None:
        index = bisect_left(self.starts, start)
        return self.names[index - 1] if index else None

    def add_tokens(self, source: str) -> None:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            made = Token(token.type, token.string, self.place(*token.start), self.place(*token.end))
            self.tokens.append(made)
            if token.type == tokenize.NAME:
                self.names.append(made)
                self.starts.append(made.start)
                self.by_end[made.end] = made


_BROKEN = (SyntaxError, ValueError, tokenize.TokenError, RecursionError, MemoryError)


def parse(source: str, mode: str = "exec") -> ast.AST:
    """Without the compiler's warnings: of those the code's owner knows already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compile(source, "<source>", mode, ast.PyCF_ONLY_AST, dont_inherit=True)


def read_module(source: str) -> Text:
    """Raises CannotRead."""
    bom = source.startswith("\ufeff")
    plain = _NEWLINE.sub("\n", source[1:] if bom else source)
    try:
        tree = parse(plain)
        text = Text(plain, tree, col=1 if bom else 0, lines=plain.split("\n"))
        text.add_tokens(plain)
    except _BROKEN as error:
        raise CannotRead(f"is not Python that this interpreter can parse: {error}") from error
    return text


# --- expressions inside f-strings (only where the tokenizer does not go into them) ----------------


def _piece(expression: str, line: int, col: int) -> Text:
    wrapped = f"({expression})"
    try:
        text = Text(
            wrapped,
            parse(wrapped, "eval"),
            line=line,
            col=col,
            wrapped=1,
            lines=wrapped.split("\n"),
        )
        text.add_tokens(wrapped)
    except _BROKEN as error:
        raise CannotRead(f"line {line}: an f-string that cannot be analysed: {error}") from error
    return text


def _position(string: Token, index: int) -> tuple[int, int]:
    """Position in the file of character `index` of a string token."""
    before = string.text[:index]
    newlines = before.count("\n")
    if not newlines:
        return string.start[0], string.start[1] + index
    return string.start[0] + newlines, index - before.rindex("\n") - 1


_PREFIX = re.compile(r"([A-Za-z]*)('''|\"\"\"|'|\")")


def is_fstring(token: Token) -> bool:
    match = _PREFIX.match(token.text)
    return token.type == tokenize.STRING and bool(match) and "f" in match.group(1).lower()  # type: ignore[union-attr]


@dataclass(frozen=True)
class Field:
    """A replacement field: its expression's characters first..last (exclusive) in the token."""

    first: int
    last: int
    debug: bool = False  # {x=}


def fields_of(token: Token) -> list[Field]:
    """The replacement fields of an f-string token in order, those in format specs included."""
    match = _PREFIX.match(token.text)
    if match is None:
        raise CannotRead(f"line {token.start[0]}: a string that cannot be read")
    raw, quote = "r" in match.group(1).lower(), match.group(2)
    found: list[Field] = []
    end = len(token.text) - len(quote)
    _literal(token.text, match.end(), end, raw, found, nested=False)
    return found


def _literal(text: str, i: int, end: int, raw: bool, found: list[Field], nested: bool) -> int:
    """Reads literal text from `i`; in a format spec (`nested`) up to the closing brace."""
    while i < end:
        char = text[i]
        if char == "\\" and not raw:
            if text.startswith("\\N{", i):
                i = text.find("}", i) + 1 or end
            else:
                i += 1 if text[i + 1 : i + 2] in "{}" else 2
        elif char == "{":
            if text.startswith("{{", i) and not nested:
                i += 2
            else:
                i = _field(text, i + 1, end, raw, found)
        elif char == "}":
            if nested:
                return i
            i += 2
        else:
            i += 1
    return i


def _field(text: str, i: int, end: int, raw: bool, found: list[Field]) -> int:
    first, depth, quote = i, 0, ""
    while i < end:
        char = text[i]
        if quote:
            if text.startswith(quote, i):
                i += len(quote) - 1
                quote = ""
        elif char in "'\"":
            quote = char * 3 if text.startswith(char * 3, i) else char
            i += len(quote) - 1
        elif char in "([{":
            depth += 1
        elif char in ")]}" and depth:
            depth -= 1
        elif depth == 0 and (char in ":}" or (char == "!" and text[i + 1 : i + 2] != "=")):
            break
        i += 1
    last = i
    expression = text[first:last]
    stripped = expression.rstrip()
    debug = stripped.endswith("=") and stripped[-2:] not in ("==", "!=", "<=", ">=")
    if debug:
        last = first + len(stripped) - 1
    found.append(Field(first, last, debug))
    if text[i : i + 1] == "!":
        while i < end and text[i] not in ":}":
            i += 1
    if text[i : i + 1] == ":":
        i = _literal(text, i + 1, end, raw, found, nested=True)
    return i + 1


def pieces(text: Text, node: ast.JoinedStr) -> Iterator[tuple[Text, bool]]:
    """The expressions of an f-string with positions that can be relied on, and whether each is
    of the form {x=}. Raises CannotRead when they are not those that the parser saw."""
    start, end = text.start(node), text.end(node)
    wanted = [
        ast.dump(n.value)
        for n in _formatted(node)  # in source order
    ]
    made: list[tuple[Text, bool]] = []
    for token in text.tokens:
        if start <= token.start < end and is_fstring(token):
            for field_ in fields_of(token):
                line, col = _position(token, field_.first)
                expression = token.text[field_.first : field_.last]
                made.append((_piece(expression, line, col), field_.debug))
    if [ast.dump(_body(piece)) for piece, _ in made] != wanted:
        raise CannotRead(f"line {start[0]}: an f-string whose parts cannot be told")
    yield from made


def _formatted(node: ast.JoinedStr) -> Iterator[ast.FormattedValue]:
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            yield part
            if isinstance(part.format_spec, ast.JoinedStr):
                yield from _formatted(part.format_spec)


def _body(text: Text) -> ast.expr:
    assert isinstance(text.tree, ast.Expression)
    return text.tree.body


def expression_of(text: Text) -> ast.expr:
    return _body(text)


def literal_text(token: Token) -> str:
    """A string token with the expressions of an f-string blanked out, line by line as it was."""
    if not is_fstring(token):
        return token.text
    chars = list(token.text)
    for field_ in fields_of(token):
        for i in range(field_.first, field_.last):
            if chars[i] not in "\r\n":
                chars[i] = " "
    return "".join(chars)
