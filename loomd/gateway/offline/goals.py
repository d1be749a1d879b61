"""What the user asks for: the sentences that `offline/rules` understands. Pure.

The whole sentence must be understood: a goal that asks for more than one of these jobs is not
done by halves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from loomd.gateway.offline.project import bad_name


@dataclass(frozen=True)
class Rename:
    """`qualifier` "": any; else `pkg.mod`, `path/mod.py`, `Class` or `pkg.mod:Class`.
    `kind`: "" function method class variable attribute."""

    old: str
    new: str
    qualifier: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Uses:
    name: str
    qualifier: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Outline:
    """`target`: a path or a dotted module name."""

    target: str


@dataclass(frozen=True)
class Bad:
    """A job that is known, asked for with something impossible."""

    reason: str


Goal = Rename | Uses | Outline | Bad

EXAMPLES = (
    "rename parse_cfg to parse_config",
    "find the uses of parse_cfg",
    "outline package/module.py",
)

_KIND = (
    r"(?:(?:the\s+)?(?P<kind>function|method|class|variable|constant|attribute|symbol|name|field"
    r"|parameter|local)\s+)?"
)
_NAME = r"[`'\"]?(?P<{0}>[^\s`'\"]+?)(?:\(\))?[`'\"]?"
_WHERE = (
    r"(?:\s+(?:everywhere|throughout|(?:(?:in|across|throughout|over)\s+)(?:all\s+(?:of\s+)?)?"
    r"(?:(?:the|this|my)\s+)?(?:whole\s+|entire\s+)?(?:repo|repository|project|code|codebase"
    r"|code\s+base|files|package|tree)))*"
)
_BEFORE = r"\s*(?:please\s+|can you\s+|could you\s+)?"
_AFTER = _WHERE + r"(?:,?\s*please)?\s*[.!?]*\s*"

_RENAME = re.compile(
    _BEFORE
    + r"rename\s+"
    + _KIND
    + _NAME.format("old")
    + _WHERE
    + r"\s+(?:to|into|as|->|=>)\s+"
    + _NAME.format("new")
    + _AFTER,
    re.IGNORECASE,
)
_USES = re.compile(
    _BEFORE + r"(?:(?:find|list|show|search)\s+(?:me\s+)?(?:for\s+)?(?:all\s+)?(?:of\s+)?"
    r"(?:the\s+|every\s+)?"
    r"(?:uses?|usages?|references?|callers)\s+(?:of|to|for)\s+"
    + _KIND
    + _NAME.format("name")
    + ")"
    + _AFTER,
    re.IGNORECASE,
)
_WHERE_USED = re.compile(
    _BEFORE
    + r"(?:where\s+(?:is|are)\s+"
    + _KIND
    + _NAME.format("name")
    + r"\s+(?:used|called|referenced)|who\s+(?:uses|calls)\s+"
    + _NAME.format("other")
    + ")"
    + _AFTER,
    re.IGNORECASE,
)
_OUTLINE = re.compile(
    _BEFORE
    + r"(?:(?:show|give|make|print)\s+(?:me\s+)?(?:an?\s+|the\s+)?)?outline\s+(?:of\s+)?(?:the\s+)?"
    r"(?:module\s+|file\s+)?" + _NAME.format("target") + _AFTER,
    re.IGNORECASE,
)


def parse(text: str) -> Goal | None:
    """None: not one of the jobs."""
    plain = " ".join(text.split())
    if match := _RENAME.fullmatch(plain):
        return _rename(match["old"], match["new"], _kind(match["kind"]))
    if match := _USES.fullmatch(plain):
        return _uses(match["name"], _kind(match["kind"]))
    if match := _WHERE_USED.fullmatch(plain):
        return _uses(match["name"] or match["other"], _kind(match["kind"]))
    if match := _OUTLINE.fullmatch(plain):
        return Outline(match["target"].rstrip(",;"))
    return None


def _kind(word: str | None) -> str:
    words = {"constant": "variable", "symbol": "", "name": "", "field": "attribute"}
    low = (word or "").lower()
    return words.get(low, low)


def split(name: str) -> tuple[str, str]:
    """`pkg.mod:C.x` -> (`x`, `pkg.mod:C`)."""
    head, colon, inner = name.rpartition(":")
    if colon:
        owner, _, last = inner.rpartition(".")
        return last, f"{head}:{owner}" if owner else head
    owner, _, last = name.rpartition(".")
    return last, owner


def _rename(old: str, new: str, kind: str) -> Goal:
    name, qualifier = split(old)
    target, other = split(new.rstrip(",;"))
    for one, whole in ((name, old), (target, new)):
        if why := bad_name(one):
            return Bad(why if one == whole else f"{why} (in `{whole}`)")
    if other and other != qualifier:
        return Bad(f"`{new}`: the new name is a plain name; moving code is not among the jobs")
    if name == target:
        return Bad(f"`{name}` already has this name")
    return Rename(name, target, qualifier, kind)


def _uses(name: str, kind: str) -> Goal:
    last, qualifier = split(name.rstrip(",;"))
    if why := bad_name(last):
        return Bad(why)
    return Uses(last, qualifier, kind)
