"""Whatever a server does, a request ends in exactly one outcome, and the gateway lives."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from loomd.actor import behaviour as act
from loomd.gateway.keys import Keys
from loomd.gateway.process import GatewayPerformer
from loomd.wire import bodies as b
from tests.gateway.faulty_server import FOREVER, GOOD, TEXT, Fault, FaultyServer
from tests.gateway.looking import Looking
from tests.gateway.test_gateway import FakeStage
from tests.gateway.test_litellm import imported, resolved
from tests.gateway.test_litellm import pytestmark as litellms
from tests.gateway.test_view import Log, request

__all__ = ["imported"]

pytestmark = [
    *litellms,
    # A clock that runs out before litellm has sent its request leaves the sending of it behind.
    pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning"),
]

CLOCKS = {"connect_s": 5.0, "first_byte_s": 0.5, "between_s": 0.5, "total_s": 1.5}
PATIENT_S = 60.0
CALM = {"first_byte_s": 30.0, "between_s": 30.0, "total_s": 60.0}
BOUND_S = 30.0

KINDS = frozenset(
    {
        *("rate_limited", "overloaded", "timeout", "context_overflow", "auth", "quota", "refused"),
        *("filtered", "malformed", "empty", "network", "server", "unknown_model"),
    }
)

PHASES = st.sampled_from(["accept", "headers", "body", "middle", "end"])
FAULTS = st.builds(
    Fault,
    status=st.sampled_from([200, 200, 200, 200, 204, 301, 400, 401, 404, 429, 500, 503, 529]),
    delay=st.tuples(PHASES, st.sampled_from([0.0, 0.0, 0.05, FOREVER])),
    cut=st.none() | st.integers(0, 1200),
    reset=st.booleans(),
    half_open=st.booleans(),
    garbage=st.sampled_from(
        [b"", b"", b"\xff\xfe\x00", b"data: {\n\n", b"data: [1, 2\r\r", b"<html>"]
    )
    | st.binary(max_size=40),
    at=st.none() | st.integers(0, 900),
    drip=st.sampled_from([0, 0, 1, 64]),
    streamed=st.booleans(),
)


@pytest.fixture(scope="module")
def faulty(imported: None) -> Iterator[FaultyServer]:
    with FaultyServer() as made:
        yield made


def perform(
    server: FaultyServer, faults: list[Fault], clocks: dict[str, float] = CLOCKS
) -> list[list[b.Body]]:
    """All of them at once, through one gateway; what was reported of each, and of a good one that
    comes after them."""
    server.faults = [*faults, GOOD]
    server.served.clear()
    plain: dict[str, Any] = {
        "providers": {
            "openai": {"api_base": server.base_url},
            "calm": {"api_base": server.base_url, **CALM},
        },
        "models": {"clocks": clocks},
    }
    reports: list[list[b.Body]] = [[] for _ in server.faults]

    async def run() -> None:
        performer = GatewayPerformer()
        loop = asyncio.get_running_loop()
        errors: list[Any] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        await performer.open(FakeStage(Log(b.Entry(role="user", text="hi")), plain))

        async def one(index: int) -> None:
            done = asyncio.Event()

            def report(body: b.Body) -> None:
                reports[index].append(body)
                done.set()

            provider = "openai" if index < len(faults) else "calm"
            model = f"{provider}/f-{index}"
            order = b.Perform(request=request((1, 1)), model=model, attempt=index + 1)
            performer.start(act.OpenEffect(f"r#{index}", order, 1), report)
            await asyncio.wait_for(done.wait(), BOUND_S)

        await asyncio.gather(*(one(index) for index in range(len(faults))))
        await one(len(faults))
        assert not performer.busy()
        await performer.close()
        assert errors == []

    asyncio.run(run())
    gc.collect()  # here, where warnings about it are known
    return reports


@settings(
    max_examples=8,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # each try takes seconds: too long to shrink
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(FAULTS, min_size=8, max_size=14))
def test_each_request_ends_in_exactly_one_outcome_and_the_gateway_lives(
    faulty: FaultyServer, faults: list[Fault]
) -> None:
    reports = perform(faulty, faults)
    for fault, told in zip([*faults, GOOD], reports, strict=True):
        [done] = told
        assert isinstance(done, b.Performed)
        match done.outcome:
            case b.Failed(kind=kind, detail=detail, phase=phase):
                assert kind in KINDS and detail, (fault, done.outcome)
                # (A busy machine may be too slow for these clocks.)
                assert not fault.harmless or kind == "timeout", (fault, done.outcome)
                # Every clock that runs out says which it was; a server's own time-out has none.
                assert phase or kind != "timeout" or fault.status != 200
            case b.FinalAnswer(text=text):
                assert text == TEXT or fault.garbage, (fault, text)
    assert all(times == 1 for times in faulty.served.values()), faulty.served


@pytest.mark.parametrize(
    ("fault", "kind", "phase"),
    [
        (Fault(delay=("accept", FOREVER)), "timeout", "first_byte"),
        (Fault(delay=("headers", FOREVER)), "timeout", "first_byte"),
        (Fault(delay=("body", FOREVER)), "timeout", "first_byte"),
        (Fault(delay=("middle", FOREVER)), "timeout", "stalled"),
        (Fault(cut=200, half_open=True), "timeout", "stalled"),
        (Fault(cut=0, half_open=True), "timeout", "first_byte"),
        (Fault(drip=1, garbage=b": still here\n\n" * 200, at=0), "timeout", "total"),
        (Fault(cut=0), "network", ""),
        (Fault(cut=0, reset=True), "network", ""),
        (Fault(cut=300, reset=True), "network", ""),
        (Fault(status=503), "overloaded", ""),
        # What it was is known, though the words for it were cut off.
        (Fault(status=429, cut=126, drip=64, reset=True), "rate_limited", ""),
        (Fault(status=401, cut=100, reset=True, streamed=False), "auth", ""),
    ],
    ids=str,
)
def test_each_phase_has_its_own_clock(
    faulty: FaultyServer, fault: Fault, kind: str, phase: str
) -> None:
    # Only the clock that is to run out is a short one: of two, a busy machine chooses.
    name = {"": "", "stalled": "between_s"}.get(phase, f"{phase}_s")
    clocks = {key: s if key == name else PATIENT_S for key, s in CLOCKS.items()}
    [[done], [after]] = perform(faulty, [fault], clocks)
    assert isinstance(done, b.Performed) and isinstance(done.outcome, b.Failed), done
    assert (done.outcome.kind, done.outcome.phase) == (kind, phase), done.outcome
    assert isinstance(after, b.Performed) and after.outcome == b.FinalAnswer(text=TEXT)


@pytest.mark.parametrize(
    "provider", ["openai", "deepinfra", "nvidia_nim", "anthropic", "ollama_chat", "xai", "mistral"]
)
def test_one_attempt_is_one_request_whatever_the_adapter_would_repeat(
    faulty: FaultyServer, provider: str
) -> None:
    from loomd.gateway.litellm_backend import Backend

    faulty.faults = [Fault(cut=0), Fault(status=500), Fault(status=503), Fault(status=429)]
    faulty.served.clear()
    base = faulty.base_url.removesuffix("/v1") if provider == "ollama_chat" else faulty.base_url
    plain = {"providers": {provider: {"api_base": base}}}

    async def run() -> list[str]:
        backend = Backend(plain, Keys({}))
        try:
            replies = [
                await backend.complete(resolved(f"{provider}/f-{n}"), Looking())
                for n in range(len(faulty.faults))
            ]
        finally:
            await backend.close()
        return [reply.outcome.kind for reply in replies if isinstance(reply.outcome, b.Failed)]

    assert asyncio.run(run()) == ["network", "server", "overloaded", "rate_limited"]
    assert faulty.served == {0: 1, 1: 1, 2: 1, 3: 1}
