"""What does not come out of the checkout, whichever folder a call looks through. Pure.

Rules about reading are judged by the paths that a call names. One that looks through a folder names
none of what it finds there, and a command is not seen through at all: so what a rule denies is left
out of the one's results, of the copy that the other works in, and of what its sandbox shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from loomd import rules
from loomd.rules import Rule


def patterns(
    tool: str, known: Iterable[Rule], hidden: Iterable[str], repo: str, home: str
) -> dict[str, list[str]]:
    """{deny, ask}: regular expressions for absolute paths, by the rules for `tool` and for reading;
    with what nobody sees (`hidden`, absolute paths) inside of the checkout, which may be a home."""
    made: dict[str, list[str]] = {"deny": [], "ask": []}
    for rule in known:
        if rule.pattern is not None and rule.verdict != "allow" and (
            rule.tool == "read" or rule.names(tool)
        ):  # fmt: skip
            made[rule.verdict].append(rules.path_regex(rule.pattern, repo, home))
    inside = (path for path in hidden if path.startswith(repo.rstrip("/") + "/"))
    made["deny"] += [f"{re.escape(path)}(?:/.*)?" for path in inside]
    return made


class Barred:
    """Questions about paths relative to the checkout `repo`; false if there are no such rules."""

    def __init__(self, repo: str = "", said: Mapping[str, Sequence[str]] | None = None) -> None:
        deny, ask = (said or {}).get("deny") or (), (said or {}).get("ask") or ()
        self._root = repo.rstrip("/")
        self._deny = _any(deny)
        self._unasked = _any((*deny, *ask))

    def __bool__(self) -> bool:
        return self._unasked is not None

    def denied(self, path: str) -> bool:
        """By a deny rule, or because nobody sees it."""
        return self._deny is not None and self._is(self._deny, path)

    def left_out(self, path: str) -> bool:
        """Of what is found in a folder: nobody was asked about this."""
        return self._unasked is not None and self._is(self._unasked, path)

    def _is(self, pattern: re.Pattern[str], path: str) -> bool:
        whole = self._root if path in ("", ".") else f"{self._root}/{path}"
        return pattern.fullmatch(whole) is not None


def _any(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(f"(?:{one})" for one in patterns), re.DOTALL) if patterns else None
