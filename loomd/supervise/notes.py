"""Notes of ends, kept until a hub has booked them. Pure.

A hub that is dead, or that is killed before it has read its link, must not cost a session its
`gave_up`, nor a mail its blame. So each such note has a number and stays here until a hub says,
after its commit, that it has taken it; the next hub gets what is left before anything else.

Numbers are `boot << 32 | counter`: they never repeat, and a later note has a higher one.

The root's own death loses them: every process dies with it, and the next start resumes what the
state on disk says is wanted. A session that gave up in that very instant runs once more, with a
fresh budget; that is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from loomd.supervise import spec as s

LIMIT: Final = 4096
"""Notes kept: some hundred bytes each, and fewer than a hub's link queues."""

_ORDERLY: Final = frozenset({s.NORMAL, s.FENCED, s.UPGRADED, s.ASLEEP, s.COULD_NOT_START})


def weight(note: Mapping[str, Any]) -> int:
    """What its loss would cost: 2 a session its end, 1 a failure its blame, 0 only a reason: what
    a new hub finds out by `which` as well."""
    if note["op"] == "gave_up":
        return 2
    if note["blame"]:
        return 1
    failed = note["signal"] or note["status"] not in _ORDERLY
    return 1 if failed and not note["asked"] else 0


class Notes:
    """What no hub has acknowledged yet. At the limit the oldest of the lightest goes."""

    def __init__(self, boot: int, limit: int = LIMIT) -> None:
        self._last = boot << 32
        self._limit = limit
        # By weight, each in the order of their numbers.
        self._kept: tuple[dict[int, dict[str, Any]], ...] = ({}, {}, {})

    def __len__(self) -> int:
        return sum(map(len, self._kept))

    def keep(self, note: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The note with its number, and the one that had to go for it."""
        self._last += 1
        numbered = {**note, "number": self._last}
        self._kept[weight(note)][self._last] = numbered
        if len(self) <= self._limit:
            return numbered, None
        lightest = next(kept for kept in self._kept if kept)
        return numbered, lightest.pop(next(iter(lightest)))

    def after(self, number: int) -> list[dict[str, Any]]:
        """Those with a higher number, oldest first."""
        found = [note for kept in self._kept for n, note in kept.items() if n > number]
        return sorted(found, key=_number)

    def taken(self, number: int) -> None:
        """A hub has booked it."""
        for kept in self._kept:
            kept.pop(number, None)

    def freeze(self) -> dict[str, Any]:
        return {"last": self._last, "kept": self.after(0)}

    @classmethod
    def thaw(cls, frozen: Mapping[str, Any]) -> Notes:
        """Raises LookupError, TypeError or ValueError."""
        made = cls(0)
        made._last = int(frozen["last"])
        kept: Iterable[dict[str, Any]] = frozen["kept"]
        for note in kept:
            made._kept[weight(note)][int(note["number"])] = note
        return made


def _number(note: Mapping[str, Any]) -> int:
    number: int = note["number"]
    return number
