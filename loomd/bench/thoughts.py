"""Figures of calls of models: what a call costs beside litellm alone, many streams, the first word.

An echo actor asks, `models` decides, a gateway performs, a provider on this machine answers.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any, Final

from loomd.bench import provider
from loomd.bench.instance import Bench, running
from loomd.bench.report import Figure
from loomd.wire import codec, sockets, topics
from loomd.wire.errors import LoomError
from loomd.wire.messages import Delta

MS: Final = 1000.0
CALLS: Final = 200
WARM: Final = 20
STREAMS: Final = 1000
SECONDS: Final = 30
BOUND_S: Final = 120.0


def _think(
    bench: Bench, name: str, n: int, model: str, *, at_once: int = 1, mark: str = "think"
) -> None:
    """n calls, `at_once` of them at any time; `bench.until(name, mark)` waits for the last."""
    bench.tell(name, op="think", n=n, model=model, at_once=at_once, mark=mark)


def _outcomes(bench: Bench, name: str) -> list[float]:
    """Epoch seconds of the actor's steps with an answer, the one that asked first before them."""
    saved = bench.saved(name)
    if saved.get("wrong"):
        raise LoomError("failed", str(saved["wrong"]))
    return [now for kind, now in bench.times(name) if kind == "mail"]


def model_overhead(bench: Bench, agents: int) -> Iterator[Figure]:
    """From a step that asks until the step with the answer, which asks again: a whole answer, not
    streamed. Then the same call by litellm in a process, to the same server."""
    model = "openai/w-1-0"
    with (
        provider.serving() as said,
        running(said.config(model, stream=False), "none is needed") as own,
    ):
        name = own.spawn(own.session(), "asker")
        _think(own, name, WARM + CALLS, model)
        own.until(name, "think")
        times = _outcomes(own, name)[WARM:]
        ours = [(b - a) * MS for a, b in itertools.pairwise(times)]
        alone = asyncio.run(_alone(said, model))
    floor = sorted(alone)[len(alone) // 2]
    yield Figure(
        "model_overhead",
        "ms",
        [one - floor for one in ours],
        3.0,
        note=f"beyond litellm in process, p50 {floor:.2f} ms",
    )


async def _alone(said: provider.Provider, model: str) -> list[float]:
    from loomd.gateway import litellm_backend

    litellm: Any = vars(litellm_backend)["litellm"]
    samples = []
    for _ in range(WARM + CALLS):
        began = time.perf_counter()
        await litellm.acompletion(
            model=model,
            messages=[{"role": "user", "content": "x"}],
            api_base=said.base,
            api_key="none",
            max_retries=0,
        )
        samples.append((time.perf_counter() - began) * MS)
    await litellm.close_litellm_async_clients()
    return samples[WARM:]


def model_streams(bench: Bench, agents: int) -> Iterator[Figure]:
    """A thousand answers at once, of a piece a second for half a minute: each one's time from the
    server's first byte until its actor has it, as a multiple of the server's own; and the pings of
    an actor meanwhile."""
    model = f"openai/w-{SECONDS + 1}-1000"
    with (
        provider.serving() as said,
        running(said.config(model, stream=True), "none is needed") as own,
    ):
        session = own.session()
        quiet = own.spawn(session, "quiet")
        own.client.ask(quiet, op="echo", value=0)
        names = [own.spawn(session, f"asker-{n}") for n in range(10)]
        _think(own, names[0], 1, "openai/w-1-0", mark="warm")  # litellm is there
        own.until(names[0], "warm")
        said.times()
        for name in names:
            _think(own, name, STREAMS // len(names), model, at_once=STREAMS // len(names))
        pings = []
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            began = time.perf_counter()
            own.client.ask(quiet, op="echo", value=0)
            pings.append((time.perf_counter() - began) * MS)
            time.sleep(0.01)
        for name in names:
            own.until(name, "think")
        ratios = _ratios(own, names, said.times())
    yield Figure(
        "model_streams",
        "x",
        ratios,
        1.15,
        judged="max",
        note=f"{STREAMS} at once, {SECONDS} s each; of the server's own time",
    )
    yield Figure("model_streams_pings", "ms", pings, 2.0, judged="p99", note="beside them")


def _ratios(own: Bench, names: list[str], served: dict[str, list[float]]) -> list[float]:
    """The i-th answer of an actor is not the i-th that it asked for: the latest ends against the
    latest, each against its own rank."""
    shift = time.time() - time.monotonic()
    found = []
    for name in names:
        ours = sorted(_outcomes(own, name))[-STREAMS // len(names) :]
        theirs = sorted(
            (times for text, times in served.items() if text.startswith(f"{name}:")),
            key=lambda one: one[1],
        )
        if len(theirs) != len(ours):
            raise LoomError("failed", f"{name}: {len(ours)} answers, the server made {len(theirs)}")
        found += [
            (ended - shift - begun) / (finished - begun)
            for ended, (begun, finished) in zip(ours, theirs, strict=True)
        ]
    return found


def first_delta(bench: Bench, agents: int) -> Iterator[Figure]:
    """From the server's first piece until a client that follows the session has it."""
    model = "openai/w-3-20"
    with (
        provider.serving() as said,
        running(said.config(model, stream=True), "none is needed") as own,
    ):
        session = own.session()
        name = own.spawn(session, "asker")
        own.client.ask(name, op="echo", value=0)
        client = sockets.make_sub(own.places.events, [topics.deltas(session)])
        try:
            _think(own, name, 1, model)  # litellm is there, the subscription in force
            own.until(name, "think")
            said.times()
            while client.receive_nowait() is not None:
                pass
            seen = []
            for n in range(100):
                _think(own, name, 1, model, mark=f"think {n}")
                seen.append(_first_text(client))
                own.until(name, f"think {n}")
            begun = sorted(times[0] for times in said.times().values())
        finally:
            client.close()
    samples = [(at - sent) * MS for at, sent in zip(seen, begun, strict=True)]
    yield Figure("first_delta", "ms", samples, 60.0, note="server to client")


def _first_text(client: sockets.Socket) -> float:
    """Monotonic seconds at which the first piece of the next answer is there."""
    end = time.monotonic() + BOUND_S
    while time.monotonic() < end:
        frames = client.receive(1.0)
        if frames is None:
            continue
        message = codec.published(frames[-1])
        if isinstance(message, Delta) and message.data.get("type") == "delta":
            at = time.monotonic()
            if message.data["offset"] == 0:
                return at
    raise LoomError("timeout", "no piece of an answer came")
