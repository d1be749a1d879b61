"""Which calls of a turn wait for which: those that write the same file go in call order. Pure.

Only calls that name their files are known here; what a command changes shows when it has run.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Final

from loomd.wire.bodies import Call

_ONE_PATH: Final = frozenset({"write", "edit"})
_PATCHES: Final = frozenset({"apply_patch"})
_HEADS: Final = re.compile(
    r"^\*\*\* (?:(?:Add|Update|Delete) File|Move to):[ \t]*(.+?)[ \t]*$", re.MULTILINE
)


def written(call: Call, repo: str) -> frozenset[str]:
    """The files that a call says it will write, relative to the checkout where they are in it."""
    if call.error:
        return frozenset()
    if call.name in _ONE_PATH:
        path = call.args.get("path")
        return frozenset((_plain(path, repo),)) if isinstance(path, str) and path else frozenset()
    if call.name in _PATCHES:
        patch = call.args.get("patch")
        found = _HEADS.findall(patch) if isinstance(patch, str) else []
        return frozenset(_plain(path, repo) for path in found)
    if call.name == "propose":
        changes = call.args.get("changes")
        paths = [
            one.get("path")
            for one in (changes if isinstance(changes, list) else ())
            if isinstance(one, dict)
        ]
        return frozenset(_plain(path, repo) for path in paths if isinstance(path, str) and path)
    return frozenset()


def _plain(path: str, repo: str) -> str:
    if repo and posixpath.isabs(path):
        inside = posixpath.relpath(posixpath.normpath(path), posixpath.normpath(repo))
        return path if inside.startswith("..") else inside
    return posixpath.normpath(path)


def after(calls: Sequence[Call], repo: str) -> dict[str, tuple[str, ...]]:
    """Call id -> ids of earlier calls of the turn that must have ended before it begins. Of each
    file only its last writer counts: that one waits for those before it."""
    last: dict[str, str] = {}
    found: dict[str, tuple[str, ...]] = {}
    for call in calls:
        files = written(call, repo)
        before = tuple(dict.fromkeys(last[file] for file in sorted(files) if file in last))
        if before:
            found[call.id] = before
        for file in files:
            last[file] = call.id
    return found
