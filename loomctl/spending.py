"""Events about models and money, as lines for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

TYPES: Final = frozenset(
    {
        *("model_retry", "model_fallback", "model_cooldown", "model_breaker"),
        *("model_escalated", "model_deescalated", "budget_warning", "budget_unbounded"),
        "model_taken_back",
    }
)


def line(type: str, data: Mapping[str, Any]) -> str:
    """What an event of one of `TYPES` says."""
    model, kind = data.get("model", "?"), data.get("kind", "?")
    match type:
        case "model_retry":
            delay = float(data.get("delay_s") or 0.0)
            return f"{model}: {kind}, again in {delay:.1f} s: {data.get('detail', '')}"
        case "model_fallback":
            return f"{data.get('from')}: {kind}, on with {data.get('to')}"
        case "model_cooldown":
            pause = float(data.get("pause_s") or 0.0)
            return f"{data.get('provider')}: {kind}, nobody asks it for {pause:.1f} s"
        case "model_breaker" if data.get("state") == "open":
            failures, period = data.get("failures"), float(data.get("period_s") or 0.0)
            return f"{model} failed {failures} times in a row ({kind}): left alone for {period:g} s"
        case "model_breaker":
            return f"{model} answers again"
        case "model_escalated":
            return f"{data.get('from')} failed twice ({kind}), on with {data.get('to')}"
        case "model_deescalated":
            return f"{data.get('from')} has done it, back to {data.get('to')}"
        case "model_taken_back":
            gone = data.get("gateway")
            return f"{gone} does not come back: its call of {model} is made by another"
        case "budget_warning":
            spent, limit = float(data.get("spent_usd") or 0.0), float(data.get("limit_usd") or 0.0)
            share = 100 * spent / limit if limit else 100.0
            whose = f"the {data.get('scope', 'session')} {data.get('of', '')}".strip()
            return f"{share:.0f} % of the budget of {whose} is spent: ${spent:.4f} of ${limit:.4f}"
        case "budget_unbounded":
            return f"the price of {model} is not known: no budget bounds it"
        case _:
            return str(dict(data))
