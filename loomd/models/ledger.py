"""The rows of table `ledger`: one per attempt, those that a killed gateway lost included.

`cost_usd` is None where it is not known; `booked_usd` is what is held against the budgets for the
attempt: its cost, or its worst case where that is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loomd.models.budget import path_of
from loomd.store.days import day_of
from loomd.store.schema import number_key
from loomd.wire.bodies import Failed, ModelRequest, Performed
from loomd.wire.models import provider_of, ships

PREFIX = "ledger"

UNCHARGED = frozenset({"rate_limited", "auth", "quota", "unknown_model", "context_overflow"})
"""Kinds of failure by which a provider refuses a call before it works on it."""

COUNTS = (
    *("input_tokens", "output_tokens", "cached_tokens"),
    *("cache_write_tokens", "reasoning_tokens"),
)


def key(n: int) -> bytes:
    """Of the n-th row since the state began."""
    return number_key(PREFIX, n)


def outcome_of(performed: Performed) -> str:
    """tool_calls | final | the kind of failure."""
    outcome = performed.outcome
    return outcome.kind if isinstance(outcome, Failed) else str(outcome.__struct_config__.tag)


def cost_of(performed: Performed) -> tuple[float | None, str]:
    """USD and how that is known: reported | computed | unknown (None, never zero)."""
    if ships(performed.model):
        return 0.0, "computed"
    usage = performed.usage
    if performed.cost_known != "unknown" and usage.cost_usd is not None:
        return usage.cost_usd, performed.cost_known
    outcome = performed.outcome
    unreached = isinstance(outcome, Failed) and outcome.phase == "connect"
    uncharged = usage.calls == 0 or unreached or outcome_of(performed) in UNCHARGED
    if uncharged and not usage.input_tokens and not usage.output_tokens:
        return 0.0, "computed"
    return None, "unknown"


def rows(
    request: ModelRequest, performed: Performed, worst: float, day: str, now: float
) -> list[dict[str, Any]]:
    """The attempt, after the `lost` ones before it, which may have been paid for: their tokens
    and cost are unknown. Given up without another try (`interrupted`): the lost ones only.
    `worst`: USD that a call could cost; `day`: whose budget pays."""
    free = ships(performed.model)
    base: dict[str, Any] = {
        "ts": performed.ended or now,
        "day": day,
        "session": request.session,
        "agent": request.agent,
        "role": request.role,
        "task": request.task,
        "purpose": request.purpose,
        "request": request.id,
        "model": performed.model,
        "provider": provider_of(performed.model),
        "attempt": performed.attempt,
        "price_version": "" if free else performed.price_version,
    }
    one = f"{request.id}#{performed.attempt}"
    made = [
        base
        | dict.fromkeys(COUNTS, 0)
        | {
            "id": f"{one}.lost{n}",
            "cost_usd": 0.0 if free else None,
            "cost_known": "computed" if free else "unknown",
            "booked_usd": 0.0 if free else worst,
            "outcome": "lost",
            "lost": True,
            "duration_s": 0.0,
        }
        for n in range(1, performed.lost + 1)
    ]
    if outcome_of(performed) == "interrupted":
        return made
    cost, known = cost_of(performed)
    made.append(
        base
        | {name: getattr(performed.usage, name) for name in COUNTS}
        | {
            "id": one,
            "cost_usd": cost,
            "cost_known": known,
            "booked_usd": worst if cost is None else cost,
            "outcome": outcome_of(performed),
            "lost": False,
            "duration_s": max(0.0, performed.ended - performed.started),
        }
    )
    return made


def booked(row: Mapping[str, Any]) -> tuple[tuple[str, ...], float]:
    """The nodes that a stored row counts against, and with how many USD."""
    day = row.get("day") or day_of(row["ts"])
    path = path_of(day, row["session"], row.get("task") or "", row["agent"])
    amount = row["booked_usd"] if "booked_usd" in row else row["cost_usd"]
    return path, amount or 0.0
