"""The tools that a request offered: which of them a model means by a name. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from loomd.gateway.types import ToolSchema

LISTED = 40
"""Names of tools in an error."""

_SPECIAL = re.compile(r"<\|.*", re.DOTALL)
_SPLIT = re.compile(r"\.|::?|/|__")


class Offered:
    """By name. None of them: nothing may be called."""

    def __init__(self, tools: Iterable[ToolSchema]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._plain: dict[str, list[str]] = {}
        for name in self._tools:
            self._plain.setdefault(_plain(name), []).append(name)

    def __bool__(self) -> bool:
        return bool(self._tools)

    def __contains__(self, name: str) -> bool:
        return name in self._tools

    def names(self) -> Iterable[str]:
        return self._tools.keys()

    def meant(self, name: str) -> tuple[str, str]:
        """(tool, kind of repair). ("", "") if none is meant, or more than one may be."""
        if name in self._tools:
            return name, ""
        cut = _SPECIAL.sub("", name).strip().removesuffix("()")
        if cut in self._tools:
            return cut, "namespace"
        if len(same := self._plain.get(_plain(cut), [])) == 1:
            return same[0], "case"
        parts = [part for part in _SPLIT.split(cut) if part]
        # The shortest name behind a prefix that fits: a tool may have a dot of its own.
        for first in range(1, len(parts)):
            tail = "_".join(parts[first:])
            if len(same := self._plain.get(_plain(tail), [])) == 1:
                return same[0], "namespace"
        return "", ""

    def unknown(self, name: str) -> str:
        """For the model that called what is not there."""
        if not name.strip():
            return f"the call names no tool; there are {self._listed()}"
        near = difflib.get_close_matches(name, self._tools, 3)
        hint = f"; did you mean {', '.join(near)}?" if near else f"; there are {self._listed()}"
        return f"there is no tool {name[:100]!r}{hint}"

    def fits(self, name: str, args: Mapping[str, Any]) -> bool:
        """Are these names of arguments ones of this tool, with all that it demands?"""
        schema = self._tools[name].parameters
        known = schema.get("properties") or {}
        return set(schema.get("required") or ()) <= set(args) <= set(known)

    def type_of(self, name: str, parameter: str) -> str:
        """As the schema has it; "" if it does not say."""
        known = self._tools[name].parameters.get("properties") or {}
        declared = (known.get(parameter) or {}).get("type")
        return declared if isinstance(declared, str) else ""

    def _listed(self) -> str:
        names = list(self._tools)[:LISTED]
        return ", ".join(names) + (", ..." if len(self._tools) > LISTED else "")


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "_", name.strip()).casefold()
