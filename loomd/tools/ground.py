"""The ground that the rules of a session's calls stand on: looked up on the disk, once for each
host; what may have changed, before each call."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from loomd.tools import credentials, pinned, profile
from loomd.tools.profile import Ground
from loomd.wire.endpoints import Instance


def interpreter_folders(env: Mapping[str, str], repo: str) -> tuple[list[str], list[str]]:
    """Installations that the session's programs come from: this interpreter's, the session's
    virtual environment with the Python under it, and every prefix on the session's PATH.

    Second: those that the checkout names by its links and files, whose author may be anybody.
    """
    own = [sys.prefix, sys.base_prefix, sys.exec_prefix]
    named: list[str] = []
    venv = env.get("VIRTUAL_ENV", "")
    if venv:
        (named if _inside_of(venv, repo) else own).extend([venv, *_under_venv(venv)])
    for entry in env.get("PATH", "").split(":"):
        if not os.path.isabs(entry) or not os.path.isdir(entry):
            continue
        said = named if _inside_of(entry, repo) else own
        said.append(entry)
        prefix = os.path.dirname(entry.rstrip("/"))
        name = os.path.basename(entry.rstrip("/"))
        if name == "shims":
            said.append(prefix)
        elif name in ("bin", "sbin"):
            said.append(prefix)
            said += [os.path.join(prefix, part) for part in ("lib", "lib64", "libexec", "share")]
            said += _under_venv(prefix)
        for program in ("python3", "python"):
            real = os.path.realpath(os.path.join(entry, program))
            if os.path.isfile(real) and os.path.basename(os.path.dirname(real)) == "bin":
                said.append(os.path.dirname(os.path.dirname(real)))
    return list(dict.fromkeys(own)), list(dict.fromkeys(named))


def _inside_of(path: str, repo: str) -> bool:
    """Does its way lead through the checkout, wherever it ends?"""
    way = (Path(path), *Path(path).parents)
    return any(profile.below(os.path.realpath(one), repo) for one in way)


def _under_venv(prefix: str) -> list[str]:
    """The installation that a virtual environment was made from."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in Path(prefix, "pyvenv.cfg").read_text().splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "home" and os.path.isabs(value.strip()):
                return [os.path.dirname(os.path.realpath(value.strip()))]
    return []


def package_folders() -> tuple[str, ...]:
    """Where this package and what it imports lie (an editable install lies anywhere)."""
    here = str(Path(__file__).resolve().parent.parent)
    return (here, *(p for p in sys.path if p and os.path.basename(p) == "site-packages"))


def without(folders: Iterable[str], never: Iterable[str]) -> tuple[str, ...]:
    """The folders, without links in their paths, that neither contain nor are one of `never`: home,
    state, runtime, root."""
    barred = {os.path.realpath(path) for path in never if path} | {"/"}
    kept = []
    for folder in dict.fromkeys(folders):
        real = os.path.realpath(folder)
        if not any(bar == real or bar.startswith(real.rstrip("/") + "/") for bar in barred):
            kept.append(real)
    return tuple(dict.fromkeys(kept))


@cache
def home_of_user() -> str:
    """As the user data base has it: HOME may be anything."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return os.path.expanduser("~")


def hidden(at: Instance, settings: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(folders, files) that no call sees: real paths, each of them there."""
    homes = {os.path.realpath(home) for home in (home_of_user(), os.path.expanduser("~"))}
    wanted = [str(at.state), str(at.runtime), str(at.config), str(at.config.parent / "environment")]
    wanted += [path for home in homes for path in credentials.places(home)]
    with contextlib.suppress(OSError), os.scandir(credentials.HOST_KEYS) as entries:
        wanted += [entry.path for entry in entries if credentials.host_key(entry.path)]
    wanted += _other_homes(homes)
    for provider in (settings.get("providers") or {}).values():
        if provider.get("api_key_file"):
            wanted.append(os.path.expanduser(provider["api_key_file"]))
    folders, files = [], []
    there = [os.path.realpath(path) for path in dict.fromkeys(wanted) if os.path.lexists(path)]
    for path in dict.fromkeys(there):
        if os.path.isdir(path):
            # A home inside of another is no other's, and nobody's checkout is taken from him.
            if path != "/" and path not in homes:
                folders.append(path)
        elif os.path.lexists(path):
            files.append(path)
    return folders, files


_SOCKET: Final = re.compile(rb"(?:\S+ +){6}\S+ +(/.*)")
"""A line of /proc/net/unix: seven fields, then the path, if it has one."""


def sockets(repo: str, covered: Iterable[str]) -> list[str]:
    """Unix sockets that programs of this machine take orders on (a container engine's is root's
    door), wherever they lie: a file system that can only be read does not keep anybody from
    connecting. Not those in `covered` folders, nor the checkout's own. Real paths.

    One that was bound by a relative path is not found: the kernel tells no more of it.
    """
    folders = tuple(covered)
    found = []
    with contextlib.suppress(OSError), open("/proc/net/unix", "rb") as file:
        paths = {match[1] for line in file if (match := _SOCKET.fullmatch(line.rstrip(b"\n")))}
        for path in map(os.fsdecode, sorted(paths)):
            if any(profile.below(path, folder) for folder in (*folders, repo)):
                continue
            real = os.path.realpath(path)
            if any(profile.below(real, folder) for folder in (*folders, repo)):
                continue
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.lstat(real).st_mode):
                    found.append(real)
    return found


def _other_homes(own: set[str]) -> list[str]:
    found = ["/root"]
    with contextlib.suppress(OSError), os.scandir("/home") as entries:
        found += [entry.path for entry in entries if entry.is_dir()]
    real = [os.path.realpath(path) for path in found]
    return [p for p in real if not any(profile.below(home, p) for home in own)]


def git_folders(repo: Path) -> list[str]:
    """The real folders of the repository: `.git`, or what a linked worktree's `.git` file names.
    Whoever made the checkout says where they are: what is none of git's is not believed."""
    marker = repo / ".git"
    if marker.is_dir():
        return _of_git([marker.resolve()])
    with contextlib.suppress(OSError, UnicodeDecodeError, RuntimeError, ValueError):
        key, _, value = marker.read_text().partition(":")
        if key == "gitdir":
            folder = (repo / value.strip()).resolve()
            parent = folder.parent.parent
            return _of_git([folder, parent] if parent.name == ".git" else [folder])
    return []


def _of_git(folders: Iterable[Path]) -> list[str]:
    return [
        str(folder)
        for folder in folders
        if (folder / "HEAD").is_file()
        and ((folder / "objects").is_dir() or (folder / "commondir").is_file())
    ]


@lru_cache(maxsize=16)
def seen(folders: tuple[str, ...], hidden: tuple[str, ...], repo: str) -> tuple[str, ...]:
    """Those that do not lie in what is hidden: files of the checkout name some of them, and what
    is named is shown. Where the checkout lies itself it may be."""
    covers = [path for path in hidden if not profile.below(repo, path)]
    return tuple(
        folder
        for folder in folders
        if profile.below(folder, repo) or not any(profile.below(folder, path) for path in covers)
    )


_SUBMODULE: Final = re.compile(r'(?m)^[ \t]*path[ \t]*=[ \t]*"?([^"\n]+?)"?[ \t]*$')
_HOOKS: Final = re.compile(r'(?im)^[ \t]*hookspath[ \t]*=[ \t]*"?([^"\n]+?)"?[ \t]*$')


def names(repo: Path, git: Iterable[str]) -> list[str]:
    """What decides which code runs in a checkout, relative to it: with its folder of hooks, and the
    marks of its submodules, into which git looks when it is asked for the state of the whole."""
    found = [f"{path}/.git" for path in _inside(repo, _SUBMODULE, repo / ".gitmodules")]
    for folder in git:
        found += _inside(repo, _HOOKS, Path(folder, "config"))
    return list(dict.fromkeys((*profile.PROTECTED, *found)))


def _inside(repo: Path, pattern: re.Pattern[str], file: Path) -> Iterator[str]:
    """The paths that a file of git's settings names, relative to the checkout if they lie in it."""
    with contextlib.suppress(OSError), open(file, encoding="utf-8", errors="replace") as text:
        for said in pattern.findall(text.read(_SETTINGS)):
            path = os.path.normpath(os.path.join(repo, os.path.expanduser(said)))
            if profile.below(path, str(repo)) and path != str(repo):
                yield os.path.relpath(path, repo)


_SETTINGS: Final = 1 << 20
"""Characters of a file of settings that are looked at."""


def protected(repo: str, git: Iterable[str]) -> list[str]:
    """What of the protected names there is now."""
    git = tuple(git)
    found = [f"{repo}/{name}" for name in names(Path(repo), git)]
    found += [f"{folder}/{name}" for folder in git for name in profile.GIT_PROTECTED]
    return [os.path.realpath(path) for path in found if os.path.lexists(path)]


def uncovered(repo: Path) -> dict[str, str]:
    """Protected names that nothing can lie upon, so that they can be made where the checkout itself
    is writable: those that there are not (""), and links (where they lead)."""
    found = {}
    for name in names(repo, git_folders(repo)):
        if not os.path.lexists(repo / name):
            found[name] = ""
        elif os.path.islink(repo / name):
            found[name] = os.readlink(repo / name)
    return found


def take_away(repo: Path, before: Mapping[str, str], aside: Path) -> list[str]:
    """Moves what a call has made of `uncovered` names to the folder `aside`, and makes links as
    they were; what that was. What cannot be moved there (it was made so) gets another name beside
    it, by which nobody looks for it."""
    taken = []
    for name, target in before.items():
        # Where its folder has gone, or has become a link, nothing of the checkout is called so.
        with contextlib.suppress(OSError), pinned.pinned(repo, repo / name) as place:
            if _restored(place, target, aside):
                taken.append(name)
    return taken


def _restored(place: Path, target: str, aside: Path) -> bool:
    """Makes a pinned place as it was: a link to `target`, or nothing (""). False: it still is."""
    if target and place.is_symlink() and os.readlink(place) == target:
        return False
    if os.path.lexists(place):
        _move(place, aside)
    elif not target:
        return False
    if target:
        os.symlink(target, place)
    return True


def _move(place: Path, aside: Path) -> None:
    try:
        folder = tempfile.mkdtemp(prefix=f"{place.name}-", dir=_made(aside))
        shutil.move(place, Path(folder, place.name))
    except OSError:  # shutil.Error is one
        if os.path.lexists(place):
            beside = tempfile.mkdtemp(prefix=f"taken-away{place.name}-", dir=place.parent)
            os.rename(place, Path(beside, place.name))


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def ground(
    repo: Path,
    scratch: Path,
    programs: Iterable[str],
    named: Iterable[str],
    code: Iterable[str],
    hide: tuple[list[str], list[str]],
    permissions: Mapping[str, Any],
    *,
    writes: bool,
) -> Ground:
    """Of one call. named: programs that only the checkout names; writes: it works in the checkout
    itself."""
    covers = tuple(hide[0])
    git = seen(tuple(git_folders(repo)), covers, str(repo))
    return Ground(
        repo=str(repo),
        scratch=str(scratch),
        programs=(*programs, *seen(tuple(named), covers, str(repo))),
        code=tuple(code),
        git=git,
        hidden_folders=tuple(hide[0]),
        hidden_files=tuple(hide[1]),
        protected=tuple(protected(str(repo), git)) if writes else (),
        read=_there(permissions.get("sandbox_read") or ()),
        write=_there(permissions.get("sandbox_write") or ()),
        network=bool(permissions.get("network")),
    )


def _there(paths: Iterable[str]) -> tuple[str, ...]:
    real = [os.path.realpath(os.path.expanduser(path)) for path in paths]
    return tuple(path for path in real if os.path.exists(path))


def outside(path: str, mode: str) -> bool:
    """Without the sandbox: can `path` be `read`, be written or made (`write`), is it there
    (`seen`)?"""
    if mode == "read":
        return os.access(path, os.R_OK)
    if mode == "write":
        there = path if os.path.lexists(path) else os.path.dirname(path)
        return os.access(there, os.W_OK)
    return os.path.lexists(path)
