"""What the hub looks up in a checkout: only plain files are read, and git is never started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from loomd import plainfile, projects
from loomd import trust as trusts
from loomd.wire.endpoints import Instance
from loomd.wire.errors import LoomError


def trusted(places: Instance, repo: str) -> str:
    """The hash with which a checkout is trusted, "*" whatever it becomes, "" if it is not."""
    return trusts.word(places, Path(repo))


def prepared(places: Instance, repo: str) -> dict[str, Any]:
    """What must be looked up on disk before a session is journaled: {repo, base, rules, project}.
    LoomError(usage)."""
    path = Path(repo)
    if not path.is_absolute():
        raise LoomError("usage", f"{repo!r} is not an absolute path", "name the repo: --repo DIR")
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise LoomError("usage", f"{repo} {what}", "name the repo: --repo DIR")
    if not os.access(path, os.R_OK | os.X_OK):
        raise LoomError("usage", f"{repo} is not readable", "check its permissions")
    path = path.resolve()
    return {
        "repo": str(path),
        "base": head(path),
        "rules": project_rules(path),
        "project": projects.read(path).in_force(trusted(places, str(path))),
    }


RULES_BYTES: Final = 16 << 10
"""Of AGENTS.md: a spec holds 48 KiB in all, and every model request carries these."""


def project_rules(repo: Path) -> str:
    """The repo's AGENTS.md, for every agent of the session; "" if there is none."""
    path = repo / "AGENTS.md"
    try:
        # A link out of the checkout, or a pipe, is not the project's to hand us.
        if not path.is_file() or not path.resolve().is_relative_to(repo):
            return ""
        with path.open("rb") as file:
            raw = file.read(RULES_BYTES + 1)
    except OSError:
        return ""
    text = raw[:RULES_BYTES].decode("utf-8", "replace")
    return text if len(raw) <= RULES_BYTES else text + "\n[cut: the rest is in AGENTS.md]"


def head(repo: Path) -> str:
    """The commit that HEAD names; "" if this is no git repo, or one without a commit.

    The folder may be anybody's: nothing but small plain files is read, and nothing but the name of
    a commit is taken from them.
    """
    git = repo / ".git"
    if git.is_file():  # a worktree: "gitdir: PATH"
        git = repo / _small(git).partition(":")[2].strip()
    said = _small(git / "HEAD").strip()
    if not said.startswith("ref:"):
        return _commit(said)
    ref = said.partition(":")[2].strip()
    if not ref.startswith("refs/") or ".." in ref:
        return ""
    roots = [git]
    if common := _small(git / "commondir").strip():
        roots.append(git / common)
    for root in roots:
        if found := _commit(_small(root / ref).strip()):
            return found
        for line in _small(root / "packed-refs", PACKED_BYTES).splitlines():
            commit, _, name = line.partition(" ")
            if name == ref:
                return _commit(commit)
    return ""


PACKED_BYTES: Final = 16 << 20


def _small(path: Path, limit: int = 4096) -> str:
    """The text of a plain file; "" if it is none, cannot be read, or is larger than `limit`."""
    try:
        with plainfile.opened(path) as (file, status):
            return file.read(limit).decode("utf-8", "replace") if status.st_size <= limit else ""
    except (OSError, ValueError):  # ValueError: a NUL in a path, or no plain file
        return ""


def _commit(text: str) -> str:
    """`text` if it is the name of a commit (SHA-1 or SHA-256 in hex), else ""."""
    return text if len(text) in (40, 64) and not set(text) - set("0123456789abcdef") else ""
