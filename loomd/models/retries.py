"""Whether a failed attempt is made again, and when. Pure, and drawn without chance."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from loomd.wire.bodies import Failed

TRIES = 4
"""Attempts on one model before its fallback, or the end."""

PATIENCE_S = 180.0
"""How long after its first failure a request may still be tried on one model."""

BASE_S = 0.5
CAP_S = 20.0
RETRY_AFTER_CAP_S = 60.0
"""A provider that asks for a longer pause is left for the next model of the chain."""

FINAL = frozenset({"cancelled", "budget", "unknown_goal", "refused", "filtered", "interrupted"})
"""Kinds that no other try and no other model would make better, or that may have been paid for."""


@dataclass(frozen=True)
class Retries:
    """tries    attempts on one model
    patience_s from the first failure to the last attempt that may begin
    """

    tries: int = TRIES
    patience_s: float = PATIENCE_S

    def delay(
        self, failed: Failed, request: str, attempt: int, tries: int, waited: float
    ) -> float | None:
        """Seconds until the next attempt on this model; None: there is none. `waited`: since the
        request's first failure on it."""
        if not failed.retryable or failed.kind in FINAL or tries >= self.tries:
            return None
        if (failed.retry_after or 0.0) > RETRY_AFTER_CAP_S:
            return None
        delay = backoff(request, attempt, tries, failed.retry_after)
        return None if waited + delay > self.patience_s else delay


def backoff(request: str, attempt: int, tries: int, retry_after: float | None) -> float:
    """Seconds until the next try: full jitter in [0, min(CAP_S, BASE_S * 2**tries)), drawn from
    the request's id so that a replay draws the same; never before what the provider asked for."""
    digest = hashlib.sha256(f"{request}#{attempt}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    delay = share * min(CAP_S, BASE_S * 2.0 ** min(tries, 16))
    return float(delay if retry_after is None else max(0.0, retry_after) + delay)
