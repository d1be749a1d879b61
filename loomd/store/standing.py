"""Which applied edits of a session are in effect, and which have been taken back. Pure.

A row of table `edits` says how the edit has ended and is not changed afterwards: that it was taken
back is said by a later row, of the undo, which names it in `undoes`. An undo may be taken back
too; then what it had taken is in effect again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

UNDO: Final = "undo"
"""In place of a tool's name, in the row of an undo."""


def in_order(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The applied edits, oldest first: by their place, which rows of older daemons do not have."""
    applied = [row for row in rows if row.get("state") == "applied"]
    return sorted(
        applied,
        key=lambda row: (
            int(row.get("place") or 0),
            float(row.get("ended") or row.get("created") or 0.0),
        ),
    )


def undone(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Edits that are not in effect -> the undo that has taken them back.

    An undo that is taken back itself is spent: what brings back its own effect is to take back what
    took it. It turns exactly what it had turned, so that it says what became of the files: what was
    gone already when it came stays gone.
    """
    gone: dict[str, str] = {}
    turned: dict[str, dict[str, bool] | None] = {}
    """Undo -> edit -> is it gone by that, or back? None: no undo."""
    for row in in_order(rows):
        id = str(row.get("id"))
        turns: dict[str, bool] = {}
        targets = [str(one) for one in row.get("undoes") or ()]
        for one in targets:
            if one not in turned or one in gone:
                continue
            before = turned[one]
            if before is None:
                turns[one] = True
                continue
            gone[one] = id
            for edit, was in before.items():
                if (edit in gone) == was:
                    turns[edit] = not was
        for edit, goes in turns.items():
            if goes:
                gone[edit] = id
            else:
                del gone[edit]
        turned[id] = turns if targets else None
    return gone
