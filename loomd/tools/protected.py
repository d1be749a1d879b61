"""Places that no tool call may touch, whatever is allowed: secrets, and what others will run. Pure.

`Ground` knows where things are: what a word of a command means as a path, and where links lead.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from loomd.rules import HOME, MANY, MARKS, PATH_MAX, SOME, path_quoted, path_touches
from loomd.tools import credentials, profile

FOLDERS: Final = frozenset({".git", ".loom", ".githooks", ".husky"})
"""Not written, wherever they are: what is in them runs as the user, outside of any sandbox."""

RC_FILES: Final = frozenset(
    {
        ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".bash_aliases", ".profile",
        ".zshrc", ".zshenv", ".zprofile", ".zlogin", ".zlogout", ".kshrc", ".cshrc", ".tcshrc",
        ".login", ".inputrc", ".xprofile", ".xinitrc", ".xsessionrc", ".tmux.conf", ".screenrc",
        ".vimrc", ".exrc", ".gitconfig", ".envrc", ".direnvrc", ".pythonrc", ".pdbrc", ".gdbinit",
    }
)  # fmt: skip
"""Not written, wherever they are: a program of the user's reads them as commands."""

STARTED: Final = (
    "~/.config/fish", "~/.config/git", "~/.config/systemd", "~/.config/autostart",
    "~/.config/direnv", "~/.config/nvim", "~/.vim", "~/.local/bin", "~/bin",
    "~/.local/share/systemd", "~/.pam_environment", "/etc", "/usr", "/bin", "/sbin", "/lib",
    "/lib64", "/boot", "/var/spool/cron", "/sys",
)  # fmt: skip
"""Not written, with all below them: programs, and what starts them."""

DEVICES: Final = frozenset(
    {"null", "zero", "full", "tty", "stdin", "stdout", "stderr", "random", "urandom"}
)
"""Below /dev: what may be written."""


@dataclass(frozen=True)
class Ground:
    """Where a session's calls work: absolute paths without links, "" for what is not there.

    cwd     where a command starts, relative to the checkout
    links   absolute path -> where it leads, for those that a link is in; what is not there leads
            to itself
    """

    repo: str
    home: str = ""
    state: str = ""
    runtime: str = ""
    config: str = ""
    cwd: str = "."
    links: Mapping[str, str] = field(default_factory=dict)

    def absolute(self, path: str, cwd: str = ".") -> str:
        """The normalised path that a word means; "" if it cannot be known. Wildcards stay: they
        are text of a name."""
        if path.startswith(HOME):
            path = f"{self.home or '/'}/{path[1:].lstrip('/')}"
        if cwd.startswith(HOME):
            cwd = f"{self.home or '/'}/{cwd[1:].lstrip('/')}"
        if not path or SOME in path or MANY in path or HOME in path:
            return ""
        if not path.startswith("/"):
            if any(mark in cwd for mark in MARKS):
                return ""
            path = posixpath.join(self.repo, cwd, path)
        # `//x` is `/x` on Linux.
        return "/" + posixpath.normpath(path).lstrip("/")

    def places(self, path: str, cwd: str = ".") -> tuple[str, ...]:
        """What a path is: as it is written, and where its links lead. Empty if unknown."""
        plain = self.absolute(path, cwd)
        if not plain:
            return ()
        real = self.links.get(plain, plain)
        return (plain,) if real == plain else (plain, real)

    def inside(self, place: str) -> bool:
        """Whether it is in the checkout, or is it."""
        return below(place, self.repo)


NOWHERE: Final = Ground("/")
"""Nothing is known of the machine."""


def below(place: str, folder: str) -> bool:
    return bool(folder) and (place == folder or place.startswith(folder.rstrip("/") + "/"))


def _expanded(ground: Ground, paths: tuple[str, ...]) -> Iterator[str]:
    for path in paths:
        if not path.startswith("~"):
            yield path
        elif ground.home:
            yield ground.home.rstrip("/") + path[1:]


def secret(ground: Ground, place: str) -> str:
    """Why a place may not even be read; "" if it may."""
    if len(place) > PATH_MAX:
        return ""
    path = credentials.holder(place, ground.home)
    # A checkout that lies in there is the user's word that it is none.
    if path and not (below(ground.repo, path) and ground.inside(place)):
        return f"{path} holds secrets"
    if credentials.host_key(place):
        return f"{place} holds secrets"
    if ground.config and place == posixpath.join(posixpath.dirname(ground.config), "environment"):
        return f"{place} holds secrets"
    if any(part == ".ssh" for part in place.split("/")) and not ground.inside(place):
        return f"{place} holds secrets"
    if below(place, ground.state):
        return "the state directory of the daemon is its own"
    if below(place, ground.runtime):
        return "the runtime directory of the daemon is its own"
    parts = place.split("/")
    if parts[1:2] == ["proc"] and parts[-1] in ("environ", "mem", "maps", "kcore", "kmem"):
        return f"{place} holds the memory of a process"
    return ""


def perhaps_secret(ground: Ground, place: str) -> str:
    """Why a path with wildcards may not be read unless a person says so; "" if it may."""
    for path in credentials.places(ground.home):
        if path_touches(f"{path_quoted(path)}/**", place, ground.repo, ground.home):
            return f"it may be {path}, which holds secrets"
    return ""


def run_later(ground: Ground, place: str) -> str:
    """Why a person is asked before a place of the checkout is written; "" if none need be."""
    if not ground.inside(place):
        return ""
    first = place[len(ground.repo.rstrip("/")) :].strip("/").partition("/")[0]
    if first in profile.PROTECTED:
        return f"{first} decides what others run in this checkout"
    return ""


def unwritable(ground: Ground, place: str) -> str:
    """Why a place may not be written; "" if it may as far as this goes."""
    if found := secret(ground, place):
        return found
    parts = [part for part in place.split("/") if part]
    within = parts
    if ground.inside(place):
        within = place[len(ground.repo.rstrip("/")) :].strip("/").split("/")
    for part in within:
        if part.casefold() in FOLDERS:
            return f"what is in {part} runs outside of every sandbox"
    if parts and parts[-1] in RC_FILES:
        return f"{parts[-1]} is read as commands outside of every sandbox"
    if ground.config:
        folder = posixpath.dirname(ground.config)
        for own in (ground.config, f"{folder}/tools", f"{folder}/roles", f"{folder}/trusted"):
            if below(place, own):
                return "the configuration of the daemon is the user's"
    if ground.inside(place):
        return ""
    for path in _expanded(ground, STARTED):
        if below(place, path):
            return f"{path} is the system's, or starts programs"
    if parts[:1] == ["dev"] and not (
        parts[1:] and (parts[1] in DEVICES or parts[1] in ("fd", "pts", "shm"))
    ):
        return f"{place} is a device"
    return ""
