"""The timers of a call, and the headers that are handed on."""

from __future__ import annotations

import asyncio
import time

import pytest

from loomd.gateway.clocks import CURRENT, Clocks, Watch
from loomd.gateway.traffic import limits
from loomd.wire.bodies import Failed


def test_the_times_of_a_provider_go_before_those_of_all() -> None:
    settings = {
        "models": {"clocks": {"connect_s": 1.0, "total_s": 2.0}},
        "providers": {"mine": {"first_byte_s": 300.0, "total_s": 900.0, "between_s": None}},
    }
    assert Clocks.of({}) == Clocks(10, 60, 45, 600)
    assert Clocks.of(settings, "openai") == Clocks(1.0, 60, 45, 2.0)
    assert Clocks.of(settings, "mine") == Clocks(1.0, 300.0, 45, 900.0)


NEVER = 1000.0


@pytest.mark.parametrize(
    ("clocks", "steps", "phase", "seconds", "told"),
    [
        (Clocks(0.01, NEVER, NEVER, NEVER), "connecting", "connect", 0.01, ["connect"]),
        (
            Clocks(NEVER, 0.01, NEVER, NEVER),
            "connecting connected",
            "first_byte",
            0.01,
            ["connect", "first_byte"],
        ),
        (Clocks(0.01, 0.02, NEVER, NEVER), "", "first_byte", 0.03, []),
        (Clocks(NEVER, NEVER, 0.01, NEVER), "connected heard heard", "stalled", 0.01, ["answer"]),
        (Clocks(NEVER, NEVER, NEVER, 0.01), "connected heard", "total", 0.01, ["answer"]),
    ],
)
def test_the_clock_of_the_phase_runs_out(
    clocks: Clocks, steps: str, phase: str, seconds: float, told: list[str]
) -> None:
    phases: list[str] = []

    async def call(watch: Watch) -> None:
        async with watch:
            assert CURRENT.get() is watch
            for step in steps.split():
                getattr(watch, step)()
            await asyncio.Event().wait()

    async def run() -> Failed:
        watch = Watch(clocks, phases.append)
        with pytest.raises(TimeoutError):
            await call(watch)
        assert CURRENT.get() is None
        watch.heard()  # what comes after its end moves nothing
        return watch.failed()

    failed = asyncio.run(run())
    assert (failed.kind, failed.phase, failed.retryable) == ("timeout", phase, True)
    assert f"{seconds:g} s" in failed.detail
    assert phases == ["first_byte", *told]


def test_of_two_clocks_that_ran_out_while_the_process_was_away_the_first_is_told() -> None:
    async def run() -> Failed:
        watch = Watch(Clocks(NEVER, 0.01, NEVER, 0.02))

        async def call() -> None:
            async with watch:
                watch.connected()
                time.sleep(0.03)  # as a stopped process does
                await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            await call()
        return watch.failed()

    assert asyncio.run(run()).phase == "first_byte"


def test_a_cancelled_call_is_no_timeout() -> None:
    async def run() -> None:
        watch = Watch(Clocks())

        async def call() -> None:
            async with watch:
                await asyncio.Event().wait()

        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_the_headers_of_limits_and_nothing_else() -> None:
    said = {
        "X-RateLimit-Remaining-Requests": "9",
        "anthropic-ratelimit-tokens-reset": "2026-01-01T00:00:00Z",
        "llm_provider-x-ratelimit-limit-tokens": "100",
        "Retry-After": "7",
        "retry-after-ms": "7000",
        "set-cookie": "secret",
        "x-request-id": "1",
    }
    assert limits(said) == {
        "x-ratelimit-remaining-requests": "9",
        "anthropic-ratelimit-tokens-reset": "2026-01-01T00:00:00Z",
        "x-ratelimit-limit-tokens": "100",
        "retry-after": "7",
        "retry-after-ms": "7000",
    }
    many = {f"x-ratelimit-{n}": "x" * 1000 for n in range(100)}
    assert len(limits(many)) == 32 and max(map(len, limits(many).values())) == 200
