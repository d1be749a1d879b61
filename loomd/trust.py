"""Which repos are trusted: what a repo carries in `.loom/` may loosen what holds, and run, only for
these.

One line per repo in the file `trusted` beside config.toml, which no repo and no agent can write:
the hash of what was trusted (`loomd.projects`) and the real path. With another content of `.loom/`
it is trusted no longer. A path without a hash is trusted whatever becomes of it.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path
from typing import Final

from loomd import projects
from loomd.settings import ConfigError
from loomd.wire.endpoints import Instance

FILE: Final = "trusted"
ANY: Final = "*"
"""In place of a hash: whatever it becomes."""

_LINE: Final = re.compile(r"(?:([0-9a-f]{64}) )?(/.*)")


def word(places: Instance, repo: Path) -> str:
    """The hash with which a repo is trusted, ANY, or "": it is not."""
    return _read(places).get(str(repo.resolve()), "")


def files(places: Instance) -> tuple[Path, ...]:
    """What a change of trust is seen by."""
    return (places.config.parent / FILE,)


def trusted(places: Instance, repo: Path) -> bool:
    """Whether the user has said that this repo, as it is now, is theirs to run code from."""
    said = word(places, repo)
    if not said or said == ANY:
        return bool(said)
    try:
        return projects.read(repo.resolve()).hash == said
    except ConfigError:
        return False


def trust(places: Instance, repo: Path, said: str) -> None:
    """Trusts a repo with a hash, or ANY; "" takes it back. OSError."""
    if "\n" in str(repo.resolve()):  # the rest of the path would be a line of its own
        raise OSError(errno.EINVAL, "a path with a line break in it")
    known = _read(places)
    known.pop(str(repo.resolve()), None)
    if said:
        known[str(repo.resolve())] = said
    lines = [path if hash == ANY else f"{hash} {path}" for path, hash in known.items()]
    folder = places.config.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(prefix=f".{FILE}-", dir=folder)
    try:
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / FILE)
    except BaseException:
        os.unlink(temporary)
        raise


def _read(places: Instance) -> dict[str, str]:
    try:
        raw = files(places)[0].read_bytes()
    except OSError:
        return {}
    found = {}
    for line in raw.decode("utf-8", "surrogateescape").split("\n"):
        if match := _LINE.fullmatch(line):
            found[match[2]] = match[1] or ANY
    return found
