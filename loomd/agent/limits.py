"""What ends an agent that would go on: iterations, tokens, wall time, repeated calls. Pure.

Each is an outcome of its own with a kind, a text and a hint, never a made-up success. Money is not
counted here: the models actor reserves it before each call and answers `budget`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loomd.agent.state import Counters
from loomd.wire import codec
from loomd.wire.bodies import Call

LONGEST_CYCLE: Final = 3
"""A, A, A and A-B-A-B and A-B-C-A-B-C are seen; longer cycles run into the iterations."""


@dataclass(frozen=True)
class Limits:
    """None: no limit. `wall_s` seconds, `view_tokens` estimated tokens of the view."""

    iterations: int | None = 30
    tokens: int | None = None
    wall_s: float | None = 1800.0
    repeats: int | None = 3
    view_tokens: int = 24_000


@dataclass(frozen=True)
class Exceeded:
    kind: str
    text: str
    hint: str


def limits(*sources: Mapping[str, Any] | None) -> Limits:
    """Limits from settings and spec; later sources win. Unknown keys are others' business."""
    found: dict[str, Any] = {}
    for source in sources:
        found.update(source or {})
    default = Limits()
    return Limits(
        iterations=found.get("iterations", default.iterations),
        tokens=found.get("tokens", default.tokens),
        wall_s=found.get("wall_s", default.wall_s),
        repeats=found.get("repeats", default.repeats),
        view_tokens=found.get("view_tokens") or default.view_tokens,
    )


def exceeded(limit: Limits, counters: Counters) -> Exceeded | None:
    """Asked before each request."""
    if limit.iterations is not None and counters.iterations >= limit.iterations:
        return Exceeded(
            "limit",
            f"stopped after {counters.iterations} model requests without an end",
            "raise limits.iterations, or give a smaller task",
        )
    if limit.tokens is not None and counters.tokens >= limit.tokens:
        return Exceeded(
            "limit",
            f"stopped after {counters.tokens} tokens (limit {limit.tokens})",
            "raise limits.tokens, or give a smaller task",
        )
    return None


def wall(limit: Limits) -> Exceeded:
    """What it is when the wall timer fires."""
    return Exceeded(
        "limit",
        f"stopped after {limit.wall_s or 0:g} seconds",
        "raise limits.wall_s, or give a smaller task",
    )


def signature(calls: Sequence[Call]) -> str:
    """The same for the same calls with the same arguments in the same order, whatever their ids."""
    digest = hashlib.blake2b(digest_size=8)
    for call in calls:
        digest.update(codec.encode([call.name, sorted(call.args.items())]))
    return digest.hexdigest()


def record(limit: Limits, counters: Counters, calls: Sequence[Call]) -> Exceeded | None:
    """Remembers a turn's calls; tells if the last turns are one cycle, `repeats` times over."""
    if limit.repeats is None or limit.repeats < 2:
        return None
    counters.history.append(signature(calls))
    del counters.history[: -LONGEST_CYCLE * limit.repeats]
    for period in range(1, LONGEST_CYCLE + 1):
        last = counters.history[-period * limit.repeats :]
        if len(last) == period * limit.repeats and last == last[:period] * limit.repeats:
            names = ", ".join(dict.fromkeys(call.name for call in calls))
            what = f"the same call ({names})" if period == 1 else f"the same {period} turns"
            return Exceeded(
                "repeats",
                f"stopped: {what} {limit.repeats} times in a row",
                "the model goes in circles: try another model, or say what it should do instead",
            )
    return None
