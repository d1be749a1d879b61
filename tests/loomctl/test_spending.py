"""What people read of models and money."""

from __future__ import annotations

import pytest

from loomctl import spending


@pytest.mark.parametrize(
    ("type", "data", "seen"),
    [
        (
            "model_retry",
            {"model": "a/b", "kind": "server", "delay_s": 1.26, "detail": "oh"},
            "a/b: server, again in 1.3 s: oh",
        ),
        (
            "model_fallback",
            {"from": "a/b", "to": "c/d", "kind": "timeout"},
            "a/b: timeout, on with c/d",
        ),
        (
            "model_cooldown",
            {"provider": "a", "kind": "rate_limited", "pause_s": 7.0},
            "a: rate_limited, nobody asks it for 7.0 s",
        ),
        (
            "model_breaker",
            {"model": "a/b", "state": "open", "failures": 5, "kind": "server", "period_s": 10.0},
            "a/b failed 5 times in a row (server): left alone for 10 s",
        ),
        ("model_breaker", {"model": "a/b", "state": "closed"}, "a/b answers again"),
        (
            "model_escalated",
            {"from": "a/b", "to": "c/d", "kind": "malformed"},
            "a/b failed twice (malformed), on with c/d",
        ),
        (
            "model_deescalated",
            {"from": "c/d", "to": "a/b"},
            "c/d has done it, back to a/b",
        ),
        (
            "budget_warning",
            {"scope": "task", "of": "s-1/t-2", "spent_usd": 0.41, "limit_usd": 0.5, "share": 0.82},
            "82 % of the budget of the task s-1/t-2 is spent: $0.4100 of $0.5000",
        ),
        (
            "budget_unbounded",
            {"model": "mine/llama"},
            "the price of mine/llama is not known: no budget bounds it",
        ),
    ],
)
def test_each_event_is_a_sentence(type: str, data: dict[str, object], seen: str) -> None:
    assert spending.line(type, data) == seen


def test_no_event_is_without_a_sentence() -> None:
    for type in spending.TYPES:
        assert not spending.line(type, {}).startswith("{"), type
