"""What the headers of providers say of their limits."""

from __future__ import annotations

import pytest

from loomd.gateway.ratelimits import LONGEST_S, read
from loomd.wire.bodies import RateLimit

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z


def told(headers: dict[str, str]) -> list[tuple[str, float, float, float | None]]:
    return [(one.what, one.limit, one.remaining, one.reset_s) for one in read(headers, NOW)]


def test_requests_and_tokens_of_the_common_kind() -> None:
    headers = {
        "X-RateLimit-Limit-Requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
        "content-type": "text/event-stream",
    }
    assert told(headers) == [("requests", 60, 59, 1.0), ("tokens", 150000, 149984, 360.0)]


def test_the_other_kind_with_times_and_input_and_output_apart() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2023-11-14T22:13:50Z",
        "llm_provider-anthropic-ratelimit-input-tokens-limit": "40000",
        "llm_provider-anthropic-ratelimit-input-tokens-remaining": "100",
        "llm_provider-anthropic-ratelimit-input-tokens-reset": "2023-11-14T22:14:20Z",
        "anthropic-ratelimit-output-tokens-limit": "8000",
        "anthropic-ratelimit-output-tokens-remaining": "8000",
    }
    assert told(headers) == [
        ("requests", 50, 0, 30.0),
        ("input_tokens", 40000, 100, 60.0),
        ("output_tokens", 8000, 8000, None),
    ]


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("120ms", 0.12),
        ("1h2m3.5s", 3723.5),
        ("12", 12.0),
        (str(int(NOW) + 40), 40.0),
        ("2023-11-14T22:13:10Z", 0.0),  # it is over
        ("2023-11-14T22:13:30", 10.0),
        ("9999h", LONGEST_S),
        ("soon", None),
        ("", None),
        ("-3", None),
    ],
)
def test_a_reset_is_a_duration_a_number_or_a_time(reset: str, seconds: float | None) -> None:
    headers = {
        "x-ratelimit-limit-requests": "9",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": reset,
    }
    assert told(headers) == [("requests", 9, 1, seconds)]


@pytest.mark.parametrize(
    ("limit", "remaining"),
    [
        ("9", ""),
        ("", "1"),
        ("0", "0"),
        ("nan", "1"),
        ("-1", "1"),
        ("many", "few"),
        ("9" * 400, "1"),
    ],
)
def test_a_limit_that_is_not_said_whole_is_not_told(limit: str, remaining: str) -> None:
    headers = {"x-ratelimit-limit-tokens": limit, "x-ratelimit-remaining-tokens": remaining}
    assert read(headers, NOW) == ()


def test_more_left_than_there_is_is_all_of_it() -> None:
    headers = {
        "x-ratelimit-limit-requests": "100, 100;w=60",
        "x-ratelimit-remaining-requests": "250",
    }
    assert read(headers, NOW) == (RateLimit(what="requests", limit=100, remaining=100),)
