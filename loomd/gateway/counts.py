"""Tokens and money, as providers count them. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from loomd.gateway.storable import INTEGERS
from loomd.wire.bodies import Usage

# Paths into a provider's usage; the first that is there counts.
INPUT = ("prompt_tokens", "input_tokens", "prompt_eval_count", "promptTokenCount")
OUTPUT = ("completion_tokens", "output_tokens", "eval_count", "candidatesTokenCount")
CACHED = (
    "prompt_tokens_details.cached_tokens",
    "input_tokens_details.cached_tokens",
    "cache_read_input_tokens",
    "prompt_cache_hit_tokens",
    "cached_tokens",
)
WRITTEN = (
    "prompt_tokens_details.cache_creation_tokens",
    "prompt_tokens_details.cache_write_tokens",
    "cache_creation_input_tokens",
)
REASONING = (
    "completion_tokens_details.reasoning_tokens",
    "output_tokens_details.reasoning_tokens",
    "reasoning_tokens",
)


def tokens(told: Mapping[str, Any]) -> tuple[Usage | None, bool]:
    """(usage, whether both input and output are known). None if the provider did not say. The cost
    is the provider's own figure, if it gave one, else None."""
    given, made = _find(told, INPUT), _find(told, OUTPUT)
    whole = _find(told, ("total_tokens",))
    if whole is not None:
        # What is left out of a sum is known.
        if made is None and given is not None and whole >= given:
            made = whole - given
        elif given is None and made is not None and whole >= made:
            given = whole - made
    if given is None and made is None:
        return None, False
    if not (given or made):
        return None, False  # zeros of a server that does not count
    usage = Usage(
        input_tokens=given or 0,
        output_tokens=made or 0,
        cached_tokens=_find(told, CACHED) or 0,
        cache_write_tokens=_find(told, WRITTEN) or 0,
        reasoning_tokens=_find(told, REASONING) or 0,
        cost_usd=_cost(told),
        calls=1,
    )
    return usage, given is not None and made is not None


def _cost(told: Mapping[str, Any]) -> float | None:
    match told.get("cost"):
        case {"total_cost": amount} | amount:
            charged = _money(amount)
    if told.get("is_byok") is not True:
        return charged
    # OpenRouter with a key of the user's own behind it: `cost` is its fee, most often 0, and the
    # provider behind it charges the rest.
    details = told.get("cost_details")
    behind = details.get("upstream_inference_cost") if isinstance(details, Mapping) else None
    rest = _money(behind)
    return None if rest is None else (charged or 0.0) + rest


def _find(told: Mapping[str, Any], paths: tuple[str, ...]) -> int | None:
    for path in paths:
        value: Any = told
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return min(value, INTEGERS[1] >> 1)
    return None


def _money(value: Any) -> float | None:
    """US dollars; None for what is no sum of money."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        amount = float(value)
    except OverflowError:
        return None
    return amount if math.isfinite(amount) and amount >= 0 else None
