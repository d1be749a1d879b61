"""A checkout as it stands, kept as a git commit: what git tracks and what it does not (but does not
ignore either). Neither the index nor a file is touched; the commit hangs on a reference of ours.

    refs/loom/snapshots/NAME -> commit of the files -> parents: HEAD, and a commit of the index

It has the shape of a stash: `git stash apply REF` puts it back, `git show REF:PATH` shows a file.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from loomd.tools import gitrun

PREFIX: Final = "refs/loom/snapshots/"

KEPT: Final = 100
"""Snapshots of a repository; the oldest go."""


class StashError(Exception):
    """It could not be made; the message says why."""


def take(repo: Path, name: str, why: str, env: Mapping[str, str]) -> str:
    """Makes a snapshot; its whole reference. `env` as for any git here. StashError."""
    who = {"NAME": "loomd", "EMAIL": "loomd@localhost"}
    given = {**env, **{f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER")
                       for key, value in who.items()}}  # fmt: skip
    folder = Path(_git(repo, given, "rev-parse", "--absolute-git-dir"))
    with tempfile.TemporaryDirectory(prefix="loom-snapshot-", dir=folder) as temporary:
        index = Path(temporary, "index")
        given["GIT_INDEX_FILE"] = str(index)
        real = Path(_git(repo, env, "rev-parse", "--path-format=absolute", "--git-path", "index"))
        if real.is_file():
            shutil.copyfile(real, index)  # with what it knows of the files: only changed are read
        parents = []
        if _ok(repo, given, "rev-parse", "--verify", "--quiet", "HEAD"):
            parents = ["-p", "HEAD"]
        staged = _tree(repo, given)
        if staged:
            stage = _git(repo, given, "commit-tree", staged, *parents, "-m", f"index: {why}")
            parents += ["-p", stage]
        _git(repo, given, "add", "-A", "--", ":/")
        tree = _git(repo, given, "write-tree")
        commit = _git(repo, given, "commit-tree", tree, *parents, "-m", f"before: {why}")
    reference = PREFIX + name
    _git(repo, given, "update-ref", reference, commit)
    _forget(repo, given)
    return reference


def _tree(repo: Path, env: Mapping[str, str]) -> str:
    """The tree of the index; "" while it holds unmerged files."""
    done = _run(repo, env, "write-tree")
    return done.text if done.code == 0 else ""


def _forget(repo: Path, env: Mapping[str, str]) -> None:
    raw = _git(
        repo, env, "for-each-ref", "--sort=-creatordate", "--format=%(refname)", PREFIX.rstrip("/")
    )
    for reference in raw.splitlines()[KEPT:]:
        _git(repo, env, "update-ref", "-d", reference)


def _ok(repo: Path, env: Mapping[str, str], *args: str) -> bool:
    return _run(repo, env, *args).code == 0


def _git(repo: Path, env: Mapping[str, str], *args: str) -> str:
    done = _run(repo, env, *args)
    if done.code != 0:
        said = done.errors.decode("utf-8", "replace").strip()[-500:]
        raise StashError(f"git {args[0]}: {said or f'exit code {done.code}'}")
    return done.text


def _run(repo: Path, env: Mapping[str, str], *args: str) -> gitrun.Ran:
    try:
        return gitrun.run(repo, *args, env=env, options=gitrun.NO_HOOKS)
    except OSError as error:
        raise StashError(f"git cannot be started: {error}") from None
