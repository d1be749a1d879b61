"""What a provider's headers say of its limits: how much there is, how much is left, until when.

Two families of names: `x-ratelimit-limit-requests`, `-remaining-requests`, `-reset-requests` (with
durations such as `1m30.5s`), and `anthropic-ratelimit-requests-limit`, `-remaining`, `-reset` (with
times). Of a limit that does not say both its size and what is left nothing is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal

from loomd.wire.bodies import RateLimit

What = Literal["requests", "tokens", "input_tokens", "output_tokens"]

WHATS: Final[dict[str, What]] = {
    "requests": "requests",
    "tokens": "tokens",
    "input-tokens": "input_tokens",
    "output-tokens": "output_tokens",
}

LONGEST_S: Final = 86400.0
"""No limit that is told takes longer than a day to be whole again."""

PREFIX: Final = "llm_provider-"
"""What the client library puts before names that are not its own."""

_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")


def read(headers: Mapping[str, str], now: float) -> tuple[RateLimit, ...]:
    """`now`: epoch seconds, for resets that are times."""
    plain = {str(name).lower().removeprefix(PREFIX): str(headers[name]) for name in headers}
    found = []
    for name, what in WHATS.items():
        limit, remaining = (
            _number(plain.get(f"x-ratelimit-{part}-{name}"))
            if f"x-ratelimit-{part}-{name}" in plain
            else _number(plain.get(f"anthropic-ratelimit-{name}-{part}"))
            for part in ("limit", "remaining")
        )
        if limit is None or remaining is None or limit <= 0:
            continue
        reset = plain.get(f"x-ratelimit-reset-{name}") or plain.get(
            f"anthropic-ratelimit-{name}-reset"
        )
        found.append(
            RateLimit(
                what=what,
                limit=limit,
                remaining=min(limit, remaining),
                reset_s=_reset(reset or "", now),
            )
        )
    return tuple(found)


def _number(text: str | None) -> float | None:
    """A count; None for what is none. Some servers say `limit, limit;w=60`: the first counts."""
    match = re.match(r"\s*(\d{1,15})(?:\.\d+)?\s*(?:[,;]|$)", text or "")
    return float(match[1]) if match else None


def _reset(text: str, now: float) -> float | None:
    """Seconds from now: of a duration, a number of seconds, or a time. None: not said."""
    text = text.strip()
    parts = _PART.findall(text)
    if parts and "".join(f"{n}{unit}" for n, unit in parts) == text:
        seconds = sum(float(n) * _UNITS[unit] for n, unit in parts)
    elif re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
        if seconds > LONGEST_S:  # a time in epoch seconds
            seconds -= now
    else:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            return None
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now
    return min(LONGEST_S, max(0.0, seconds))
