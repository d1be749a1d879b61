"""Tokens: who counts them, and where the counts stand."""

from __future__ import annotations

from typing import Any

from tests.gateway.zoo.server import JSON, Case, delta, events, whole

OWN = "mine/llama"
"""A model of no known price."""

BYOK = {
    "prompt_tokens": 9171,
    "completion_tokens": 113,
    "cost": 0.0005,
    "is_byok": True,
    "cost_details": {"upstream_inference_cost": 0.036},
}


def counted(name: str, usage: dict[str, Any], want: dict[str, Any], **more: Any) -> Case:
    """Told in the last chunk."""
    last = {**delta(), "choices": [], "usage": usage}
    sent = events(delta(content="Hello"), delta("stop"), last)
    return Case(name, sent, text="Hello", usage=want, **more)


CASES = (
    counted(
        "in the last chunk",
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        {"input_tokens": 100, "output_tokens": 20, "cached_tokens": 0},
        cost="computed",
    ),
    counted(
        "cached and reasoning tokens",
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 64},
            "completion_tokens_details": {"reasoning_tokens": 12},
        },
        {"cached_tokens": 64, "reasoning_tokens": 12, "input_tokens": 100},
        cost="computed",
    ),
    counted(
        "the cache under other names",
        {"prompt_tokens": 100, "completion_tokens": 20, "prompt_cache_hit_tokens": 30},
        {"cached_tokens": 30},
    ),
    counted(
        "what was written to the cache",
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "cache_read_input_tokens": 10,
            "cache_creation_input_tokens": 50,
        },
        {"cached_tokens": 10, "cache_write_tokens": 50},
    ),
    counted(
        "input and output under other names",
        {"input_tokens": 7, "output_tokens": 3},
        {"input_tokens": 7, "output_tokens": 3},
    ),
    counted(
        "a cost that the provider tells",
        {"prompt_tokens": 7, "completion_tokens": 3, "cost": 0.0125},
        {"cost_usd": 0.0125},
        cost="reported",
    ),
    counted(
        "a cost of nothing, of a model that has a price",
        {"prompt_tokens": 100, "completion_tokens": 20, "cost": 0},
        {"cost_usd": 0.000065},
        cost="computed",
    ),
    counted(
        "a cost of nothing, of a model of no known price",
        {"prompt_tokens": 7, "completion_tokens": 3, "cost": 0},
        {"cost_usd": 0.0},
        model=OWN,
        cost="reported",
    ),
    counted(
        "openrouter: a key of one's own behind it",
        BYOK,
        {"cost_usd": 0.0365},
        model=OWN,
        cost="reported",
    ),
    counted(
        "openrouter: the cost of a model that is in no price map",
        {"prompt_tokens": 7, "completion_tokens": 3, "cost": 0.0125},
        {"cost_usd": 0.0125},
        model="openrouter/openai/gpt-5-mini",
        cost="reported",
    ),
    counted(
        "openrouter: no cost, of a model that is in no price map",
        {"prompt_tokens": 7, "completion_tokens": 3},
        {"cost_usd": None},
        model="openrouter/anthropic/claude-sonnet-4.5",
        cost="unknown",
    ),
    counted(
        "openrouter: a key of one's own behind it, which costs nobody knows what",
        {**BYOK, "cost_details": {"upstream_inference_cost": None}},
        {"cost_usd": None},
        model=OWN,
        cost="unknown",
    ),
    counted(
        "a sum and one part of it",
        {"prompt_tokens": 7, "total_tokens": 10},
        {"input_tokens": 7, "output_tokens": 3},
        model=OWN,
    ),
    counted(
        "one part alone, of a model without a price",
        {"completion_tokens": 3},
        {"input_tokens": 0, "output_tokens": 3, "cost_usd": None},
        model=OWN,
        cost="unknown",
    ),
    counted(
        "null counts",
        {"prompt_tokens": None, "completion_tokens": None},
        {"cost_usd": None},
        model=OWN,
        cost="unknown",
    ),
    counted(
        "zeros of a server that does not count",
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"input_tokens": 0, "cost_usd": None},
        model=OWN,
        cost="unknown",
    ),
    Case(
        "nobody counts, and the model has no price",
        events(delta(content="Hello"), delta("stop")),
        text="Hello",
        model=OWN,
        usage={"input_tokens": 0, "output_tokens": 0, "cost_usd": None},
        cost="unknown",
    ),
    Case(
        "nobody counts, and the model has a price: counted here",
        events(delta(content="Hello"), delta("stop")),
        text="Hello",
        usage={"output_tokens": 1},
        cost="computed",
    ),
    Case(
        "again and again, the last counts",
        events(
            delta(content="Hel") | {"usage": {"prompt_tokens": 7, "completion_tokens": 1}},
            delta(content="lo") | {"usage": {"prompt_tokens": 7, "completion_tokens": 2}},
            delta("stop") | {"usage": None},
        ),
        text="Hello",
        usage={"input_tokens": 7, "output_tokens": 2},
    ),
    Case(
        "in a place of its own",
        events(
            delta(content="Hello"),
            delta("stop") | {"x_groq": {"usage": {"prompt_tokens": 7, "completion_tokens": 2}}},
        ),
        text="Hello",
        usage={"input_tokens": 7, "output_tokens": 2},
    ),
    Case(
        "of a whole answer",
        whole(content="Hello", usage={"prompt_tokens": 7, "completion_tokens": 2}),
        text="Hello",
        kind=JSON,
        stream=False,
        usage={"input_tokens": 7, "output_tokens": 2},
        cost="computed",
    ),
)
