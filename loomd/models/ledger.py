"""The rows of table `ledger`: one per attempt, those that a killed gateway lost included."""

from __future__ import annotations

from typing import Any

from loomd.models.limiter import OFFLINE, provider_of
from loomd.store.schema import number_key
from loomd.wire.bodies import Failed, ModelRequest, Performed

PREFIX = "ledger"


def key(n: int) -> bytes:
    """Of the n-th row since the state began."""
    return number_key(PREFIX, n)


def outcome_of(performed: Performed) -> str:
    """tool_calls | final | the kind of failure."""
    outcome = performed.outcome
    return outcome.kind if isinstance(outcome, Failed) else str(outcome.__struct_config__.tag)


def rows(request: ModelRequest, performed: Performed, now: float) -> list[dict[str, Any]]:
    """The attempt, after the `lost` ones before it, which may have been paid for: their tokens
    and cost are unknown. Given up without another try (`interrupted`): the lost ones only."""
    offline = provider_of(performed.model) == OFFLINE
    base: dict[str, Any] = {
        "ts": performed.ended or now,
        "session": request.session,
        "agent": request.agent,
        "role": request.role,
        "task": request.task,
        "purpose": request.purpose,
        "request": request.id,
        "model": performed.model,
        "provider": provider_of(performed.model),
        "attempt": performed.attempt,
    }
    one = f"{request.id}#{performed.attempt}"
    made = [
        base
        | {
            "id": f"{one}.lost{n}",
            "input_tokens": 0,
            "output_tokens": 0,
            "cached_tokens": 0,
            "cost_usd": 0.0 if offline else None,
            "cost_known": "computed" if offline else "unknown",
            "outcome": "lost",
            "lost": True,
            "duration_s": 0.0,
        }
        for n in range(1, performed.lost + 1)
    ]
    if outcome_of(performed) == "interrupted":
        return made
    usage = performed.usage
    cost = 0.0 if offline else usage.cost_usd
    known = "computed" if offline else performed.cost_known
    made.append(
        base
        | {
            "id": one,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cached_tokens": usage.cached_tokens,
            "cost_usd": cost if known != "unknown" else None,
            "cost_known": known if cost is not None else "unknown",
            "outcome": outcome_of(performed),
            "lost": False,
            "duration_s": max(0.0, performed.ended - performed.started),
        }
    )
    return made
