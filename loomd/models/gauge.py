"""One limit of one provider's key: requests or tokens per minute, ours and the provider's own.

Ours is configured and exact: never more than that in any 60 seconds, counted in slices. Theirs is
learned from the headers of answers: so much was left, and it comes back evenly until the time that
they named. What is taken before a call is an estimate, corrected when the call has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loomd.wire.bodies import RateLimit

MINUTE_S = 60.0
SLICE_S = 2.0
"""Of the minute, as it is counted: what was taken in a slice is held against us until the last
instant of the slice is a minute ago."""

LONGEST_TOLD_S = 60.0
"""After what a provider has told one call is tried all the same: if it was true, a 429 says so and
for how long; if not, a header must not silence a provider that answers."""

TINY = 1e-9


@dataclass
class Gauge:
    """ours   the configured limit per minute; None: none
    taken  [slice, amount], oldest first, of the last minute
    limit  the provider's; 0: it has not said
    left   of it, at the time `at`; `rate` per second come back
    heard  when the call began whose answer told it last
    """

    ours: float | None = None
    taken: list[list[float]] = field(default_factory=list)
    limit: float = 0.0
    left: float = 0.0
    rate: float = 0.0
    at: float = 0.0
    heard: float = 0.0

    def ready_at(self, amount: float, now: float) -> float:
        """When so much may be taken: `now`, or later. More than the whole limit is let through
        once nothing else is held against it."""
        theirs = self._theirs_at(amount, now)
        if theirs > now:
            theirs = min(theirs, self.at + LONGEST_TOLD_S)
        return max(now, self._ours_at(amount, now), theirs)

    def whole_at(self, amount: float, now: float) -> float:
        """The same, if all that the provider has told is true."""
        return max(now, self._ours_at(amount, now), self._theirs_at(amount, now))

    def _ours_at(self, amount: float, now: float) -> float:
        if self.ours is None:
            return now
        self._forget(now)
        used = sum(held for _, held in self.taken)
        room = self.ours - min(amount, self.ours)
        at = now
        for start, held in self.taken:
            if used <= room + TINY:
                break
            used -= held
            at = start + SLICE_S + MINUTE_S
        return at

    def _theirs_at(self, amount: float, now: float) -> float:
        if not self.limit:
            return now
        lacking = min(amount, self.limit) - self._level(now)
        return now if lacking <= TINY else now + lacking / self.rate

    def _level(self, now: float) -> float:
        return min(self.limit, self.left + self.rate * max(0.0, now - self.at))

    def take(self, amount: float, now: float) -> None:
        """A call begins."""
        if self.ours is not None:
            start = now // SLICE_S * SLICE_S
            if self.taken and self.taken[-1][0] >= start:
                self.taken[-1][1] += amount
            else:
                self.taken.append([start, amount])
        if self.limit:
            self.left, self.at = self._level(now) - amount, now

    def correct(self, began: float, estimate: float, actual: float, now: float) -> None:
        """A call that began then took another amount than was estimated. What the provider has said
        since is right already."""
        start = began // SLICE_S * SLICE_S
        for held in self.taken:
            if held[0] == start:
                held[1] = max(0.0, held[1] + actual - estimate)
        if self.limit and began > self.heard:
            self.left, self.at = min(self.limit, self._level(now) + estimate - actual), now

    def learn(self, told: RateLimit, began: float, now: float, under_way: float) -> None:
        """What an answer's headers said; the call began then. An answer that took longer than one
        that began after it tells nothing new. `under_way`: what calls that began since have taken:
        the provider may not have seen them yet."""
        if told.limit <= 0 or began < self.heard:
            return
        gone = told.limit - told.remaining
        evenly = told.limit / MINUTE_S
        rate = gone / told.reset_s if told.reset_s and gone > 0 else evenly
        self.limit, self.rate, self.heard = told.limit, rate, began
        self.left, self.at = min(told.remaining, told.limit) - under_way, now

    def _forget(self, now: float) -> None:
        self.taken = [held for held in self.taken if held[0] + SLICE_S + MINUTE_S > now]

    def saved(self) -> list[Any]:
        return [self.taken, self.limit, self.left, self.rate, self.at, self.heard]

    @staticmethod
    def of(saved: list[Any]) -> Gauge:
        taken, limit, left, rate, at, heard = saved
        return Gauge(None, [list(held) for held in taken], limit, left, rate, at, heard)
