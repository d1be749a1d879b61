"""Whose memory is to be looked at. Pure.

A look costs some 15 microseconds, so that looking at a thousand idle children each second would
cost more than all the rest of the root. An idle actor cannot grow: only who is busy, or has begun
something since the last look, is due.
"""

from __future__ import annotations

OVER_LIMIT = "memory"
"""Reason of a kill: the root found it above its limit."""
OUT_OF_MEMORY = "out of memory"
"""The kernel did, by the cgroup's `memory.max`."""


class MemoryWatch:
    """What each child had begun when it was looked at last."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}

    def due(self, name: str, incarnation: int, steps: int, idle: bool) -> bool:
        """Whether to look now. `steps`: how much it has begun; `idle`: it has nothing in hand."""
        now = (incarnation, steps)
        if idle and self._seen.get(name) == now:
            return False
        self._seen[name] = now
        return True

    def forget(self, name: str) -> None:
        """It is dead."""
        self._seen.pop(name, None)
