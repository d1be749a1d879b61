"""A model that fails again and again is left alone for a while, then tried with one call.

closed -> (THRESHOLD failures in a row) -> open until `until` -> half open: one probe ->
closed, or open again for twice as long. Only failures of the model's side count; a request that is
itself wrong says nothing about the model.
"""

from __future__ import annotations

from dataclasses import dataclass

THRESHOLD = 5
FIRST_S = 5.0
LONGEST_S = 60.0

COUNTED = frozenset({"overloaded", "timeout", "network", "server", "auth", "quota", "malformed"})
"""Kinds of failure that count. `rate_limited` is the limiter's: the model works."""

HOPELESS = frozenset({"auth", "quota"})
"""Kinds that time alone does not mend: nobody waits for such a model."""


@dataclass
class Breaker:
    """`failures` in a row; `until` > 0: open until then; `probing`: the one probe is under way;
    `kind`: of the last failure."""

    failures: int = 0
    until: float = 0.0
    period: float = FIRST_S
    probing: bool = False
    kind: str = ""

    def ready_at(self) -> float:
        """When a call may start: 0 now, else epoch seconds; infinity while a probe is under way."""
        if not self.until:
            return 0.0
        return float("inf") if self.probing else self.until

    def begin(self) -> None:
        if self.until:
            self.probing = True

    def succeeded(self) -> None:
        self.failures, self.until, self.period, self.probing = 0, 0.0, FIRST_S, False
        self.kind = ""

    def failed(self, kind: str, now: float) -> None:
        """The end of a call that did not succeed. A kind that does not count ends a probe well:
        the model answered."""
        if kind not in COUNTED:
            if self.probing and kind not in ("cancelled", "interrupted"):
                self.succeeded()
            self.probing = False
            return
        self.failures += 1
        self.kind = kind
        if self.probing:
            self.probing = False
            self.period = min(LONGEST_S, self.period * 2)
            self.until = now + self.period
        elif not self.until and self.failures >= THRESHOLD:
            self.until = now + self.period
