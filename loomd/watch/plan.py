"""What is watched, what a change means, and when it is old enough to be acted on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

TOOLS, ROLES, MODELS = "tools", "roles", "models"
PARTS: Final = (TOOLS, ROLES, MODELS)
"""What `reload` takes: tool files, roles, and of the configuration what models are asked with."""

QUIET_S: Final = 0.01
"""Editors and tools save several files, or one file in several steps: none for so long, and they
have done."""

MOST_S: Final = 0.05
"""A stream of saves is acted on at least so often."""


@dataclass(frozen=True)
class Target:
    """Something to watch, whether it is there or not: a folder (with all below it, if `deep`), or
    a file."""

    part: str
    path: str
    deep: bool = False
    file: bool = False


def targets(
    config: str, repos: Iterable[str], files: Mapping[str, Iterable[str]] | None = None
) -> list[Target]:
    """All of an instance: beside the configuration file `config`, and in the repos of the sessions
    that run. `files`: further files -> the parts that depend on them."""
    folder = parent(config)
    found = [
        Target(MODELS, config, file=True),
        Target(TOOLS, f"{folder}/tools", deep=True),
        Target(ROLES, f"{folder}/roles"),
    ]
    found += [
        Target(part, path, file=True) for path, parts in (files or {}).items() for part in parts
    ]
    for repo in sorted(set(repos)):
        found.append(Target(TOOLS, f"{repo}/.loom/tools", deep=True))
        found.append(Target(ROLES, f"{repo}/.loom/roles"))
    return found


def parent(path: str) -> str:
    """`/a/b` of `/a/b/c`."""
    return path.rpartition("/")[0] or "/"


def counts(name: str) -> bool:
    """Whether a file or folder of this name matters to anybody: no hidden ones, which editors make
    beside the file that is edited, no backups and no bytecode."""
    return not name.startswith(".") and not name.endswith(("~", ".pyc")) and name != "__pycache__"


@dataclass
class Settling:
    """Parts with changes that are not acted on yet: since when, and when the last one came."""

    since: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)

    def changed(self, parts: Iterable[str], now: float) -> None:
        for part in parts:
            self.since.setdefault(part, now)
            self.last[part] = now

    def _due(self, part: str) -> float:
        return min(self.last[part] + QUIET_S, self.since[part] + MOST_S)

    def take(self, now: float) -> list[str]:
        """The parts to reload now."""
        due = [part for part in PARTS if part in self.since and self._due(part) <= now]
        for part in due:
            del self.since[part], self.last[part]
        return due

    def next(self) -> float | None:
        """When there may be one; None: nothing has changed."""
        return min(map(self._due, self.since), default=None)
