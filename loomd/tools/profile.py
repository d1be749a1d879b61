"""What a call may read, write, see and reach: the three profiles as a table. Pure.

    profile + what the call needs + the ground it stands on -> Rules -> mounts

`read-only`   nothing but the call's own scratch folder is written
`workspace`   the checkout too, except what makes others run code (see PROTECTED); while review is
              required, commands work on a private copy in the scratch folder instead
`full`        nothing is confined

In the first two: no network unless the tool or the settings ask for it; hidden are the state and
the runtime directory, what holds credentials, other users' homes, and the folders of sockets.

The two back ends differ in one thing. bubblewrap shows the disk read-only with the hidden parts
covered; Landlock knows no covers, so there only what `read` lists can be read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

PROFILES: Final = ("read-only", "workspace", "full")

TEMPORARY: Final = ("/tmp", "/var/tmp")
SOCKET_FOLDERS: Final = ("/run", *TEMPORARY)
"""Where programs keep the sockets that they take orders on: a container engine's is root's door."""

STILL_SEEN: Final = ("/run/systemd/resolve", "/run/current-system", "/run/opengl-driver")
"""Of them: what names are resolved with, and where NixOS keeps its programs."""

PROTECTED: Final = (
    ".git", ".loom", ".githooks", ".husky", ".gitmodules", ".gitconfig", ".envrc", ".direnv",
    ".vscode", ".idea", ".devcontainer", ".pre-commit-config.yaml", ".lefthook.yml",
    "lefthook.yml", ".mcp.json", ".claude", ".codex", ".gemini", ".cursor", ".bashrc",
    ".bash_profile", ".bash_login", ".bash_logout", ".profile", ".zshrc", ".zshenv", ".zprofile",
    ".zlogin", ".inputrc", ".vimrc", ".exrc", ".ripgreprc", ".npmrc", ".yarnrc", ".yarnrc.yml",
    ".pypirc", ".netrc", ".gdbinit", ".lldbinit",
)  # fmt: skip
"""Names at the root of a checkout through which what is written there runs later, as somebody else:
hooks, git's own configuration, what shells and editors read when they enter the folder."""

GIT_PROTECTED: Final = (
    "hooks", "config", "config.worktree", "commondir", "info/attributes", "objects/info/alternates",
)  # fmt: skip
"""Inside `.git`, where git itself may write (the `git` tool): what decides which code git runs."""


@dataclass(frozen=True)
class Need:
    """Of one call. foreign: it runs code that does not ship with loomd (a command, a user's tool);
    copied: on a private copy below its scratch folder; git: it is git itself; files: and it
    writes more than what lies in `.git`."""

    access: str
    foreign: bool
    copied: bool = False
    git: bool = False
    files: bool = True


@dataclass(frozen=True)
class Ground:
    """The paths it all goes by: absolute, without links, and those in a tuple exist.

    programs: installations that commands and tools come from; code: snapshots of tool files;
    git: folders of the checkout's repository, wherever they lie; hidden_folders, hidden_files: what
    nobody sees; protected: what of PROTECTED and GIT_PROTECTED there is; read, write: what the
    settings add; network: the settings allow it to everything.
    """

    repo: str
    scratch: str
    programs: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    git: tuple[str, ...] = ()
    hidden_folders: tuple[str, ...] = ()
    hidden_files: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    network: bool = False


@dataclass(frozen=True)
class Rules:
    """What one call may do. read: readable and executable where there are no covers; write:
    writable; keep: inside of `write`, and read-only all the same; hide_folders, hide_files: covered
    where there are covers; own: the folder that stands in for /tmp, "" if nothing does."""

    profile: str
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    hide_folders: tuple[str, ...] = ()
    hide_files: tuple[str, ...] = ()
    network: bool = False
    own: str = ""

    @property
    def confined(self) -> bool:
        return self.profile != "full"


def rules(profile: str, need: Need, ground: Ground) -> Rules:
    """The rules of a call. An unknown profile is taken as the strictest."""
    network = need.access == "network" or (need.foreign and ground.network)
    if profile == "full":
        return Rules("full", network=True)
    if profile not in PROFILES:
        profile = "read-only"
    read = [*ground.programs, *ground.code, ground.repo, *ground.git]
    write: list[str] = []
    if need.foreign:
        read += ground.read
        write.append(ground.scratch)
        if profile == "workspace":
            write += ground.write
            if need.access in ("write", "execute") and not need.copied:
                write += [ground.repo] if need.files else []
                write += ground.git if need.git else ()
    keep = [path for path in ground.protected if any(below(path, w) for w in write)]
    if need.git:
        keep = [path for path in keep if path not in ground.git]
    return Rules(
        profile,
        read=_unique(read),
        write=_unique(write),
        keep=_unique(keep),
        # Ours too: a linter of the project's is code of the project's.
        hide_folders=_unique((*(SOCKET_FOLDERS if need.foreign else ()), *ground.hidden_folders)),
        hide_files=ground.hidden_files,
        network=network,
        own=f"{ground.scratch}/tmp" if need.foreign else "",
    )


def without(rules: Rules, repo: str, barred: Iterable[tuple[str, bool]]) -> Rules:
    """The same without what is barred in the checkout: (path, is it a folder)."""
    if not rules.confined:
        return rules
    files, folders = list(rules.hide_files), list(rules.hide_folders)
    for path, folder in barred:
        (folders if folder else files).append(f"{repo}/{path}")
    return replace(rules, hide_files=_unique(files), hide_folders=_unique(folders))


# --- mounts --------------------------------------------------------------------------------------

Kind = Literal["cover", "blank", "read", "write"]


@dataclass(frozen=True)
class Mount:
    """cover: an empty folder; blank: an unreadable file; read, write: `source` is seen there."""

    kind: Kind
    target: str
    source: str = ""


def mounts(rules: Rules) -> tuple[Mount, ...]:
    """In the order in which they are made: a deeper one lies on top of the one above it."""
    made: list[Mount] = []
    for folder in rules.hide_folders:
        if folder in TEMPORARY:
            made.append(Mount("write", folder, rules.own))
        else:
            made.append(Mount("cover", folder))
    named = {*rules.read, *rules.write}  # the settings show them
    made += [Mount("blank", file) for file in rules.hide_files if file not in named]
    read = (*rules.read, *STILL_SEEN)
    for path in read:
        cover = _nearest(path, rules.hide_folders)
        shown = _nearest(path, (other for other in read if other != path))
        if cover and len(shown) < len(cover):
            made.append(Mount("read", path, path))
    made += [Mount("write", path, path) for path in rules.write]
    made += [Mount("read", path, path) for path in rules.keep]
    # A path may be named twice: the later word holds, and is said once.
    last = {mount.target: mount for mount in made}
    return tuple(sorted(last.values(), key=lambda mount: mount.target.count("/")))


# --- questions -----------------------------------------------------------------------------------


def may_write(rules: Rules, path: str) -> bool:
    """Of an absolute path without links."""
    if not rules.confined:
        return True
    if path in rules.hide_files:
        return path in rules.write
    allowed, barred = _nearest(path, rules.write), _nearest(path, rules.keep)
    covered = _nearest(path, rules.hide_folders)
    if len(covered) > len(allowed):
        return covered in TEMPORARY and len(covered) > len(_nearest(path, rules.read))
    return bool(allowed) and len(barred) < len(allowed)


def hidden(rules: Rules, path: str) -> bool:
    """Whether what is outside at `path` cannot be seen, on either back end."""
    if not rules.confined:
        return False
    if path in rules.hide_files:
        return path not in rules.read and path not in rules.write
    covered = _nearest(path, rules.hide_folders)
    shown = max(_nearest(path, (*rules.read, *STILL_SEEN)), _nearest(path, rules.write), key=len)
    return bool(covered) and len(shown) < len(covered)


def may_read(rules: Rules, path: str, listed: tuple[str, ...] | None = None) -> bool:
    """listed: folders that everybody reads, where only what is listed can be read (Landlock alone);
    None where all is that is not hidden."""
    if hidden(rules, path):
        return False
    if listed is None or not rules.confined:
        return True
    return bool(_nearest(path, (*listed, *rules.read, *rules.write)))


def below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or inside of it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _nearest(path: str, folders: Iterable[str]) -> str:
    """The deepest of the folders that `path` is in; "" if it is in none."""
    return max((folder for folder in folders if below(path, folder)), key=len, default="")


def _unique(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(paths))
