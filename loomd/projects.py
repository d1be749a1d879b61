"""What a checkout says of itself in `.loom/`: its configuration, tools and roles.

Whoever can write the repo can write this. So it may tighten what holds, never loosen it, until the
user has trusted exactly this content: trust is bound to a hash over every file, and ends with the
first change. What is no plain file of a moderate size cannot be trusted at all.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loomd import plainfile
from loomd import settings as settings_of
from loomd.settings import ConfigError

FOLDER: Final = ".loom"
MAX_FILES: Final = 500
MAX_FILE: Final = 1 << 20


@dataclass(frozen=True)
class Project:
    """config: what `.loom/config.toml` says; hash: over all files, "" if there are none, or if they
    cannot be trusted (why_not); files: {path, size}."""

    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    hash: str = ""
    files: list[dict[str, Any]] = field(default_factory=list)
    why_not: str = ""

    def believed(self, trusted: str) -> bool:
        """Whether the user's word `trusted` (loomd.trust) is for this content."""
        return trusted == "*" or (bool(self.hash) and trusted == self.hash)

    def in_force(self, trusted: str) -> dict[str, Any]:
        """What of it holds if the user trusts `trusted`: {trusted, hash, permissions, review,
        session_usd, ignored}. Whatever could loosen is ignored without trust."""
        believed = self.believed(trusted)
        said: dict[str, Any] = {"trusted": believed, "hash": self.hash, "ignored": []}
        permissions = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in (self.config.get("permissions") or {}).items()
        }
        if permissions.get("allow") and not believed:
            said["ignored"].append("permissions.allow")
            del permissions["allow"]
        said["permissions"] = permissions
        required = (self.config.get("review") or {}).get("required")
        if required is False and not believed:
            said["ignored"].append("review.required")
            required = None
        said["review"] = required
        said["session_usd"] = (self.config.get("budget") or {}).get("session_usd")
        return said


def read(repo: Path) -> Project:
    """What stands in the checkout now. ConfigError: its configuration is wrong."""
    top = repo / FOLDER
    digest = hashlib.sha256()
    files: list[dict[str, Any]] = []
    config: dict[str, dict[str, Any]] = {}
    why_not = ""
    if not os.path.lexists(top):
        return Project()
    for path in _walk(top):
        name = str(path.relative_to(repo))
        if len(files) >= MAX_FILES:
            why_not = f"there are more than {MAX_FILES} files"
            break
        content = _plain(path)
        if content is None:
            why_not = why_not or f"{name} is no plain file of at most {MAX_FILE} bytes"
            if path == top / "config.toml":
                raise ConfigError(f"{path}: is no plain file that can be read")
            continue
        if path == top / "config.toml":
            try:
                config = settings_of.parse_project(content.decode(), str(path))
            except UnicodeDecodeError as error:
                raise ConfigError(f"{path}: is not UTF-8: {error}") from None
        files.append({"path": name, "size": len(content)})
        encoded = os.fsencode(name)
        digest.update(b"%d %s %d " % (len(encoded), encoded, len(content)))
        digest.update(content)
    hash = digest.hexdigest() if files and not why_not else ""
    return Project(config, hash, files, why_not)


def _walk(top: Path) -> list[Path]:
    """Every entry below that is no folder, in order; caches of Python are nobody's word."""
    found: list[Path] = []
    if top.is_symlink() or not top.is_dir():
        return [top]
    for folder, names, others in os.walk(top):
        links = [name for name in names if os.path.islink(os.path.join(folder, name))]
        names[:] = sorted(name for name in names if name != "__pycache__" and name not in links)
        found += [Path(folder) / name for name in (*others, *links)]
        if len(found) > MAX_FILES:
            break
    return sorted(found)


def _plain(path: Path) -> bytes | None:
    """The content of a plain file; None if it is none: a link may lead anywhere."""
    try:
        with plainfile.opened(path, follow=False) as (file, status):
            if status.st_size > MAX_FILE:
                return None
            content = file.read(MAX_FILE + 1)
    except (OSError, plainfile.NotPlainError):
        return None
    return content if len(content) <= MAX_FILE else None
