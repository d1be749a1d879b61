"""Who has been busy for too long. Pure.

What counts is how long somebody was busy while the root itself could look: where the whole machine
stood still (a paused container, a virtual machine without a processor), everybody who was in a step
would be found hung afterwards, and what they had in hand blamed for it.
"""

from __future__ import annotations

from collections import deque

INIT_FACTOR = 6
"""`init` may take this many heartbeats: it rebuilds what is never committed."""
FORGIVEN = 2 * INIT_FACTOR
"""Gaps that are held against nobody, the newest: a root that is always late finds the hung too."""


class Hangs:
    """Looks at the clock, in nanoseconds of CLOCK_MONOTONIC. `limit`: a heartbeat. A look that
    comes half a heartbeat after the one before is late: the time between the two does not count."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._looked = 0
        self._gaps: deque[tuple[int, int]] = deque(maxlen=FORGIVEN)

    def look(self, now: int) -> None:
        """Before everybody is looked at, once each time."""
        if now - self._looked > self.limit // 2:
            self._gaps.append((self._looked, now))
        self._looked = now

    def hung(self, since: int, *, init: bool = False) -> bool:
        """Whether it is, if it has been busy `since` then; 0: it is idle."""
        limit = self.limit * INIT_FACTOR if init else self.limit
        busy = self._looked - since
        if since <= 0 or busy <= limit:
            return False
        return busy - sum(max(0, end - max(begin, since)) for begin, end in self._gaps) > limit
