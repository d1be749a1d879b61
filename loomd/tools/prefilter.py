"""A regular expression of Python's -> one that ripgrep takes and that misses nothing. Pure.

The two dialects differ, in letters and in features. So ripgrep only says which files may hold a
match, and Python's own search decides: what is made here matches every line that the original
matches, and perhaps more. Outside of ASCII it does not look closely: any character there is one to
four bytes from 0x80 on, whether they are UTF-8 or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Final

HIGH: Final = r"[\x80-\xff]{1,4}"
ANYTHING: Final = r"[\x00-\x09\x0b-\xff]*"
BOM: Final = r"(?:\xef\xbb\xbf)?"

COUNT: Final = 50
"""A repetition beyond this is not counted any more: counting is what makes automata large."""

_ASCII: Final = tuple(chr(n) for n in range(128) if n != 10)
_OTHER_CASES: Final = frozenset("iksIKS")
"""ASCII letters that are another case of a character beyond ASCII."""

_CATEGORIES: Final[dict[Any, str]] = {
    sre.CATEGORY_DIGIT: r"\d",
    sre.CATEGORY_NOT_DIGIT: r"\D",
    sre.CATEGORY_SPACE: r"\s",
    sre.CATEGORY_NOT_SPACE: r"\S",
    sre.CATEGORY_WORD: r"\w",
    sre.CATEGORY_NOT_WORD: r"\W",
}


class _Untold(Exception):
    """Something that has no counterpart."""


def prefilter(pattern: str, flags: int = 0) -> str | None:
    """For lines without their ends. None: there is none; every file must be searched."""
    try:
        tree = _parser.parse(pattern, flags)
        return f"(?-u){_sequence(tree, tree.state.flags)}"
    except (_Untold, re.error, RecursionError, OverflowError):
        return None


def _sequence(nodes: Iterable[tuple[Any, Any]], flags: int) -> str:
    return "".join(_node(kind, value, flags) for kind, value in nodes)


def _node(kind: Any, value: Any, flags: int) -> str:
    if kind is sre.LITERAL:
        return _literal(value, flags)
    if kind is sre.NOT_LITERAL:
        return _one_of([(sre.NEGATE, None), (sre.LITERAL, value)], flags)
    if kind is sre.ANY:
        return rf"(?:[\x00-\x09\x0b-\x7f]|{HIGH})"
    if kind is sre.IN:
        return _one_of(value, flags)
    if kind is sre.BRANCH:
        return f"(?:{'|'.join(_sequence(one, flags) for one in value[1])})"
    if kind is sre.SUBPATTERN:
        _, added, removed, inner = value
        return f"(?:{_sequence(inner, (flags | added) & ~removed)})"
    if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        least, most, inner = value
        many = "" if most is sre.MAXREPEAT or most > COUNT else most
        return f"(?:{_sequence(inner, flags)}){{{min(least, COUNT)},{many}}}"
    if kind is sre.ATOMIC_GROUP:
        return f"(?:{_sequence(value, flags)})"
    if kind is sre.AT:
        return _position(value)
    if kind in (sre.ASSERT, sre.ASSERT_NOT):
        return ""  # what stands around is left to the search that decides
    if kind is sre.GROUPREF:
        return ANYTHING
    if kind is sre.GROUPREF_EXISTS:
        _, yes, no = value
        return f"(?:{_sequence(yes, flags)}|{_sequence(no or (), flags)})"
    raise _Untold(kind)


def _position(where: Any) -> str:
    if where in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING):
        return f"^{BOM}"
    if where in (sre.AT_END, sre.AT_END_STRING):
        return r"\r?$"
    return ""  # edges of words


def _literal(code: int, flags: int) -> str:
    char = chr(code)
    if char == "\n":
        raise _Untold("a line has no end in it")
    if code > 127:
        if flags & re.IGNORECASE:
            return f"(?:[A-Za-z]|{HIGH})"
        if code == 0xFFFD or 0xD800 <= code < 0xE000:
            return HIGH  # what is shown in the place of bytes that are no UTF-8
        return "".join(f"\\x{byte:02x}" for byte in char.encode())
    if flags & re.IGNORECASE and char.isalpha():
        both = f"[{char.lower()}{char.upper()}]"
        return f"(?:{both}|{HIGH})" if char in _OTHER_CASES else both
    return char if char.isalnum() else f"\\x{code:02x}"


def _one_of(items: Iterable[tuple[Any, Any]], flags: int) -> str:
    items = list(items)
    negated = bool(items) and items[0][0] is sre.NEGATE
    if negated:
        del items[0]
    any_case = bool(flags & re.IGNORECASE)
    high = negated or any_case or any(_beyond_ascii(kind, value) for kind, value in items)
    letters = any_case and any(_beyond_ascii(kind, value) for kind, value in items)
    kept = []
    for char in _ASCII:
        cases = {char, char.lower(), char.upper()} if any_case else {char}
        # Of a negated set too, one case that fits is enough: more may match, never less.
        fits = any(negated != any(_in(k, v, c) for k, v in items) for c in cases)
        if fits or (letters and char.isalpha()):
            kept.append(ord(char))
    if not kept and not high:
        raise _Untold("it fits nothing")
    ascii_ = f"[{''.join(f'{chr(92)}x{code:02x}' for code in kept)}]" if kept else ""
    if not high:
        return ascii_
    return f"(?:{ascii_}|{HIGH})" if ascii_ else HIGH


def _beyond_ascii(kind: Any, value: Any) -> bool:
    if kind is sre.LITERAL:
        return bool(value > 127)
    if kind is sre.RANGE:
        return bool(value[1] > 127)
    return True


def _in(kind: Any, value: Any, char: str) -> bool:
    if kind is sre.LITERAL:
        return bool(ord(char) == value)
    if kind is sre.RANGE:
        return bool(value[0] <= ord(char) <= value[1])
    if kind is sre.CATEGORY and value in _CATEGORIES:
        return re.match(_CATEGORIES[value], char) is not None
    raise _Untold(kind)
