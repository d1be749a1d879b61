"""Where the calls of a session live and what they may take, computed once for each host."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loomd.actor.behaviour import Stage
from loomd.tools import sandbox
from loomd.trust import trusted

LIMITS: Final[dict[str, Any]] = {
    "call_s": 120.0,
    "memory_mb": 4096,
    "address_mb": 16_384,
    "processes": 512,
    "file_mb": 4096,
    "import_s": 10.0,
}
"""Of one call: seconds, resident memory of its tree, address space of each of its processes,
processes, and size of a file that it writes. Of a tool file: seconds that importing it may take."""

MAX_CALL_S: Final = 3600.0

ROOM_S: Final = 30.0
"""A tool with a time-out of its own gets this much more, for the copy and the comparison."""

_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


@dataclass
class Places:
    """Where this session's calls live, computed once."""

    repo: Path
    scratch: Path
    tools: Path
    generations: Path
    blobs: Path
    runtime: Path
    readable: tuple[str, ...]
    env: dict[str, str]
    limits: dict[str, Any]
    review: bool
    trusted: Callable[[], bool]

    def repo_tools(self) -> Path | None:
        """The folder of the repo's own tools; None: it has none, or nobody trusts it (yet)."""
        folder = self.repo / ".loom" / "tools"
        return folder if folder.is_dir() and self.trusted() else None


def places(stage: Stage) -> Places:
    """From the spec, the settings and the instance."""
    spec, settings, at = stage.spec, stage.settings, stage.directories
    args = spec.args
    env = session_env(args.get("env") or {})
    review = args.get("review")
    if review is None:
        review = (settings.get("review") or {}).get("required", True)
    limits = dict(LIMITS)
    for source in (settings.get("limits") or {}, args.get("limits") or {}):
        limits |= {key: source[key] for key in LIMITS if source.get(key) is not None}
    repo = Path(args["repo"]).resolve()
    home = os.path.expanduser("~")
    never = (home, str(at.state), str(at.runtime))
    wanted = (*sandbox.interpreter_folders(env), *sandbox.package_folders())
    return Places(
        repo=repo,
        scratch=at.scratch / _safe(spec.session),
        tools=at.config.parent / "tools",
        generations=at.generations,
        blobs=at.blobs,
        runtime=at.runtime,
        readable=sandbox.without(wanted, never),
        env=env,
        limits=limits,
        review=bool(review),
        trusted=lambda: trusted(at, repo),
    )


def session_env(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of calls: the session opener's, without our own variables and secrets. This
    interpreter's programs come last on the PATH, so that there always is a `python`."""
    env = {
        name: value
        for name, value in given.items()
        if not name.startswith("LOOM_") and not any(part in name.upper() for part in _SECRET)
    }
    own = os.path.join(sys.prefix, "bin")
    path = env.get("PATH") or "/usr/local/bin:/usr/bin:/bin"
    env["PATH"] = path if own in path.split(":") else f"{path}:{own}"
    env.setdefault("LANG", "C.UTF-8")
    env.setdefault("HOME", "/nonexistent")
    for name in (
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
        "XDG_STATE_HOME",
        "DBUS_SESSION_BUS_ADDRESS",
    ):
        env.pop(name, None)
    return env


def git_folders(repo: Path) -> list[str]:
    """The real folders of a linked worktree's `.git` file."""
    marker = repo / ".git"
    if not marker.is_file():
        return []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        key, _, value = marker.read_text().partition(":")
        if key == "gitdir":
            folder = (repo / value.strip()).resolve()
            parent = folder.parent.parent
            return [str(folder), str(parent)] if parent.name == ".git" else [str(folder)]
    return []


def _safe(id: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in id)[-100:]
