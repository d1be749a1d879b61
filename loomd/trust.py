"""Which repos are trusted: what a repo carries in `.loom/` counts only for these.

One line per repo, its real path, in the file `trusted` beside config.toml, which no repo and no
agent can write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from loomd.wire.endpoints import Instance

FILE: Final = "trusted"


def files(places: Instance) -> tuple[Path, ...]:
    """What a change of trust is seen by."""
    return (places.config.parent / FILE,)


def trusted(places: Instance, repo: Path) -> bool:
    """Whether the user has said that this repo is theirs to run code from."""
    try:
        lines = files(places)[0].read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return str(repo.resolve()) in lines
