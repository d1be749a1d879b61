"""litellm for real, against a real server on this machine, in this process."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loomd.actor import behaviour as act
from loomd.gateway import ratelimits, streams
from loomd.gateway.keys import Keys
from loomd.gateway.types import Reply, Resolved, ToolSchema
from loomd.wire import bodies as b
from tests.gateway.looking import Looking
from tests.gateway.test_gateway import Bench, FakeStage
from tests.gateway.test_view import Log, request
from tests.openai_server import Answer, OpenAIServer

pytestmark = [
    # litellm's own, and pydantic's about litellm's models; nothing of ours is let through
    pytest.mark.filterwarnings("ignore:.*ReadOnly.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]

CLOCKS = {"connect_s": 5.0, "first_byte_s": 15.0, "between_s": 15.0, "total_s": 30.0}
MODEL = "openai/gpt-5-mini"

READ = ToolSchema(
    "read", "reads a file", {"type": "object", "properties": {"path": {"type": "string"}}}
)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Before the first test counts descriptors and threads."""
    __import__("loomd.gateway.litellm_backend")


def settings(server: OpenAIServer, **more: Any) -> dict[str, Any]:
    base = {"api_base": server.base_url}
    return {
        "providers": {"openai": base | more, "mine": base},
        "models": {"clocks": CLOCKS},
    }


def resolved(model: str = MODEL, **more: Any) -> Resolved:
    entries = (b.Entry(role="user", text="read a.py"),)
    fields: dict[str, Any] = {"role": "lead", "pinned": ("You are the lead.",), "tools": (READ,)}
    return Resolved(entries=entries, model=model, **(fields | more))


def complete(
    plain: dict[str, Any],
    what: Resolved | None = None,
    keys: dict[str, str] | None = None,
    pieces: list[str] | None = None,
    looking: Looking | None = None,
) -> Reply:
    from loomd.gateway.litellm_backend import Backend

    async def run() -> Reply:
        backend = Backend(plain, Keys(keys or {}))
        try:
            return await backend.complete(what or resolved(), looking or Looking(pieces))
        finally:
            await backend.close()

    return asyncio.run(run())


def failed(reply: Reply) -> b.Failed:
    assert isinstance(reply.outcome, b.Failed), reply.outcome
    return reply.outcome


def test_a_streamed_answer_with_its_pieces_tokens_and_cost(server: OpenAIServer) -> None:
    server.say(Answer(text="hello there", reasoning="hm"))
    pieces: list[str] = []
    reply = complete(settings(server), pieces=pieces)
    assert reply.outcome == b.FinalAnswer(text="hello there", reasoning="hm")
    assert [piece for piece in pieces if piece] == ["hello", " ther", "e"]
    usage = reply.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (100, 20, 40)
    assert usage.cost_usd is not None and usage.cost_usd > 0
    assert reply.cost_known == "computed" and reply.price is not None


def test_what_the_server_is_asked(server: OpenAIServer) -> None:
    server.say(Answer(text="x"))
    complete(settings(server), resolved(max_tokens=77), keys={"OPENAI_API_KEY": "unused"})
    [asked] = server.requests
    assert asked["model"] == "gpt-5-mini" and asked["stream"] is True
    assert asked["messages"] == [
        {"role": "system", "content": "You are the lead."},
        {"role": "user", "content": "read a.py"},
    ]
    [tool] = asked["tools"]
    assert tool["function"] == {
        "name": "read",
        "description": "reads a file",
        "parameters": READ.parameters,
    }
    assert 77 in (asked.get("max_tokens"), asked.get("max_completion_tokens"))


def test_tool_calls_with_arguments_in_pieces(server: OpenAIServer) -> None:
    server.say(Answer(calls=[("read", {"path": "a.py"}), ("read", '{"path": ')], text="I look"))
    outcome = complete(settings(server)).outcome
    assert isinstance(outcome, b.ToolCalls) and outcome.text == "I look"
    first, second = outcome.calls
    assert first.args == {"path": "a.py"} and first.provider_id == "call_0"
    assert second.args == {} and "not JSON" in second.error


def test_a_provider_of_the_users_own_name_and_a_model_of_no_known_price(
    server: OpenAIServer,
) -> None:
    server.say(Answer(text="x"))
    reply = complete(settings(server), resolved("mine/llama"))
    assert reply.outcome == b.FinalAnswer(text="x")
    assert server.requests[0]["model"] == "llama"
    assert reply.usage.cost_usd is None and reply.cost_known == "unknown" and reply.price is None
    assert reply.usage.input_tokens == 100


@pytest.mark.parametrize(
    ("answer", "kind", "retryable"),
    [
        (Answer(status=401, text="Incorrect API key provided"), "auth", False),
        (Answer(status=400, text="maximum context length is 9"), "context_overflow", False),
        (Answer(status=404, text="The model does not exist"), "unknown_model", False),
        (Answer(status=429, text="quota", code="insufficient_quota"), "quota", False),
        (Answer(status=429, text="You exceeded your current quota"), "quota", False),
        (Answer(status=500, text="oops"), "server", True),
        (Answer(status=502, body="<html>Bad gateway</html>"), "overloaded", True),
        (Answer(status=503, text="busy"), "overloaded", True),
        (Answer(body="<!DOCTYPE html><p>Login", content_type="text/html"), "malformed", False),
        (Answer(body="data: {no\n\n", content_type="text/event-stream"), "malformed", False),
        (Answer(text="hello there", cut_after=3), "network", True),
        (Answer(cut_after=-1), "network", True),
        (Answer(cut_after=0), "network", True),
        (Answer(text="half an ans", finish=""), "network", True),
        (Answer(text="half an ans", finish="length"), "malformed", False),
        (Answer(text="half an ans", finish="content_filter"), "filtered", False),
        (Answer(), "empty", True),
    ],
    ids=lambda value: (value.text or value.body)[:20] if isinstance(value, Answer) else str(value),
)
def test_every_fault_has_its_kind_and_is_asked_once(
    server: OpenAIServer, answer: Answer, kind: str, retryable: bool
) -> None:
    server.say(answer)
    made = failed(complete(settings(server)))
    assert (made.kind, made.retryable) == (kind, retryable), made
    assert len(server.requests) == 1


def test_retry_after_is_told(server: OpenAIServer) -> None:
    server.say(Answer(status=429, text="slow", headers={"retry-after": "7"}))
    assert failed(complete(settings(server))).retry_after == 7.0


LIMITS = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "12",
    "x-ratelimit-reset-requests": "48s",
    "x-ratelimit-limit-tokens": "1000",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-reset-tokens": "1m0s",
}
TOLD = (
    b.RateLimit(what="requests", limit=60, remaining=12, reset_s=48),
    b.RateLimit(what="tokens", limit=1000, remaining=0, reset_s=60),
)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(text="fine", headers=LIMITS),
        Answer(text="half", headers=LIMITS, cut_after=2),
        Answer(status=429, text="slow", headers=LIMITS | {"retry-after": "7"}),
    ],
    ids=["answer", "cut", "429"],
)
def test_what_is_left_of_the_providers_limits_is_told(server: OpenAIServer, answer: Answer) -> None:
    server.say(answer)
    assert ratelimits.read(complete(settings(server)).headers, 0.0) == TOLD


def test_tokens_that_were_thought_or_put_into_a_cache_are_counted(server: OpenAIServer) -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "cache_creation_input_tokens": 30,
        "completion_tokens_details": {"reasoning_tokens": 11},
    }
    server.say(Answer(text="x", usage=usage))
    counted = complete(settings(server)).usage
    assert (counted.cache_write_tokens, counted.reasoning_tokens) == (30, 11)


# A clock that runs out before litellm has sent its request leaves the sending of it behind.
@pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")
@pytest.mark.parametrize(
    ("stall", "clocks", "phase", "said"),
    [
        (3, {"between_s": 0.2}, "stalled", "in the middle"),
        (0, {"first_byte_s": 0.2}, "first_byte", "first byte"),
        (3, {"total_s": 0.2}, "total", "not finished"),
    ],
)
def test_a_stalled_stream_is_ended_by_its_own_clock_and_its_connection_closed(
    server: OpenAIServer, stall: int, clocks: dict[str, float], phase: str, said: str
) -> None:
    answer = Answer(text="hello there", stall_after=stall)
    server.say(answer)
    plain = settings(server) | {"models": {"clocks": CLOCKS | clocks}}
    made = failed(complete(plain))
    assert made.kind == "timeout" and made.retryable and said in made.detail
    assert clocks.keys() == {"between_s" if made.phase == "stalled" else f"{made.phase}_s"}
    assert made.phase == phase
    if "between_s" in clocks:  # the others may end before the server has begun
        assert answer.gone.wait(15)
    gc.collect()  # here, where warnings about it are known


def test_nobody_at_the_address(server: OpenAIServer) -> None:
    plain = {"providers": {"openai": {"api_base": "http://user:secret-word@127.0.0.1:1/v1"}}}
    made = failed(complete(plain))
    assert made.kind == "network" and "running?" in made.hint
    assert made.detail.startswith("127.0.0.1:1: ") and "onnect" in made.detail
    assert "secret-word" not in made.detail


def test_keys_come_from_the_named_variable_or_file_and_from_nowhere_else(
    server: OpenAIServer, tmp_path: Path
) -> None:
    server.say(Answer(text="x"), Answer(text="x"), Answer(text="x"))
    complete(settings(server, api_key_env="MY_KEY"), keys={"MY_KEY": "k1", "OPENAI_API_KEY": "no"})
    file = tmp_path / "key"
    file.write_text("k2\n")
    complete(settings(server, api_key_file=str(file)))
    complete(settings(server))
    said = [one["_authorization"] for one in server.requests]
    assert said == ["Bearer k1", "Bearer k2", "Bearer none"]
    missing = failed(complete(settings(server, api_key_env="MY_KEY")))
    assert missing.kind == "auth" and "MY_KEY" in missing.detail
    gone = failed(complete(settings(server, api_key_file=str(tmp_path / "gone"))))
    assert gone.kind == "auth" and len(server.requests) == 3


def test_a_provider_nobody_knows() -> None:
    made = failed(complete({}, resolved("nosuch/thing/of/theirs:free")))
    assert made.kind == "unknown_model" and "no api_base is configured" in made.detail


@pytest.mark.parametrize(
    ("model", "name"),
    [("vllm/qwen", "qwen"), ("ollama/llama3", "llama3"), ("mine/org/m:free", "org/m:free")],
)
def test_a_server_of_the_common_kind_is_one_whatever_it_is_called(
    server: OpenAIServer, model: str, name: str
) -> None:
    server.say(Answer(text="x"))
    base = {"api_base": server.base_url}
    reply = complete({"providers": {model.partition("/")[0]: base}}, resolved(model))
    assert reply.outcome == b.FinalAnswer(text="x")
    [asked] = server.requests
    assert asked["model"] == name and asked["tools"]


def test_the_rate_limit_headers_of_answers_and_of_errors_are_handed_on(
    server: OpenAIServer,
) -> None:
    said = {"x-ratelimit-remaining-requests": "9", "x-request-id": "1"}
    server.say(
        Answer(text="x", headers=said),
        Answer(status=429, text="slow", headers={"retry-after": "7", **said}),
    )
    assert complete(settings(server)).headers == {"x-ratelimit-remaining-requests": "9"}
    limited = complete(settings(server)).headers
    assert limited == {"x-ratelimit-remaining-requests": "9", "retry-after": "7"}


def test_a_provider_has_times_of_its_own(server: OpenAIServer) -> None:
    server.say(Answer(text="hello there", stall_after=3))
    made = failed(complete(settings(server, between_s=0.2)))
    assert (made.kind, made.phase) == ("timeout", "stalled")


def test_nobody_at_home_is_told_of_what_litellm_does() -> None:
    import logging

    import litellm

    from loomd.gateway import litellm_backend

    assert litellm.telemetry is False and litellm.disable_hf_tokenizer_download is True
    assert not any(getattr(litellm, name) for name in litellm_backend.CALLBACKS)
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"
    assert logging.getLogger("LiteLLM").disabled


def test_nobody_is_asked_what_a_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """litellm knows servers that it would ask, and a new version may know more of them."""

    from loomd.gateway import litellm_backend

    asked: list[Any] = []

    def refuse(*args: Any, **more: Any) -> Any:
        asked.append(args)
        raise OSError("nobody is to be asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for provider in litellm_backend.PROVIDERS:
        litellm_backend.about(f"{provider}/owner/some-model")
        litellm_backend._price(f"{provider}/some-model")
    assert asked == []
    assert litellm_backend._price("ollama_chat/llama3.1") == (0.0, 0.0)


def test_only_the_configured_server_is_asked(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = socket.getaddrinfo
    asked: list[Any] = []

    def only(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if str(port) not in server.base_url:
            asked.append((host, port))
            raise OSError("nobody else is to be asked")
        return found(host, port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", only)
    for provider in ("ollama", "ollama_chat", "lemonade", "openai"):
        server.say(Answer(status=400, text="no"))
        complete(
            {"providers": {provider: {"api_base": server.base_url}}}, resolved(f"{provider}/m")
        )
    assert asked == []


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("github_copilot/gpt-4o", None),  # in the map, without a price
        ("dashscope/qwen3-coder-plus", (6e-06, 6e-05)),  # by tiers
        ("mine/llama", None),
        ("openrouter/openai/gpt-5-mini", None),  # whose abilities alone litellm knows
    ],
)
def test_a_price_that_the_map_lacks_is_unknown_and_of_tiers_the_dearest(
    model: str, price: Any
) -> None:
    from loomd.gateway import litellm_backend

    assert litellm_backend._price(model) == price


# --- through the performer ---------------------------------------------------------------------


def stage(server: OpenAIServer) -> FakeStage:
    log = Log(b.Entry(role="user", text="hi"))
    return FakeStage(log, settings(server))


ORDER = b.Perform(request=request((1, 1)), model=MODEL)
KINDS = ("text", "arguments")


def test_a_price_is_told_without_asking_anybody(server: OpenAIServer) -> None:
    async def run(model: str) -> b.Body:
        async with Bench(stage(server)) as bench:
            done: asyncio.Future[b.Body] = asyncio.get_running_loop().create_future()
            ask = act.OpenEffect(f"price:{model}", b.AskPrice(model=model), 1)
            bench.performer.start(ask, done.set_result)
            return await asyncio.wait_for(done, 15)

    known = asyncio.run(run(MODEL))
    assert isinstance(known, b.Priced) and known.price is not None and known.max_output
    assert 0 < known.price[0] < known.price[1] and known.version.startswith("litellm ")
    assert asyncio.run(run("mine/llama")) == b.Priced(model="mine/llama", version=known.version)
    assert server.requests == []


def test_the_performer_publishes_deltas_and_numbers_the_calls(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PHASE_S", 60.0)
    server.say(Answer(text="a longer answer", calls=[("read", {"path": "a"})], headers=LIMITS))
    here = stage(server)

    async def run() -> b.Performed:
        async with Bench(here) as bench:
            return await bench.result(bench.start(ORDER, attempt=2))

    done = asyncio.run(run())
    assert isinstance(done.outcome, b.ToolCalls) and done.outcome.calls[0].id == "r.1"
    assert done.lost == 1 and done.price is not None and done.limits == TOLD
    said = [data for _, data in here.published if data["type"] == "delta"]
    by_kind = {kind: "".join(d["text"] for d in said if d["kind"] == kind) for kind in KINDS}
    assert by_kind == {"text": "a longer answer", "arguments": '{"path": "a"}'}
    phases = [data["phase"] for _, data in here.published if data["type"] == "call"]
    assert phases == []  # none lasted so long
    assert {topic for topic, _ in here.published} == {"d/s-1/"}


def test_a_cancel_closes_the_connection(server: OpenAIServer) -> None:
    answer = Answer(text="hello there", stall_after=2)
    server.say(answer)

    async def run() -> b.Performed:
        async with Bench(stage(server)) as bench:
            id = bench.start(ORDER)
            assert await asyncio.to_thread(answer.stalled.wait, 15)
            bench.performer.cancel(id)
            return await bench.result(id)

    done = asyncio.run(run())
    assert isinstance(done.outcome, b.Failed) and done.outcome.kind == "cancelled"
    assert answer.gone.wait(15)
    # What has been sent is paid for, and what has come (which may not be read yet).
    assert done.usage.input_tokens > 0
    assert done.usage.cost_usd and done.cost_known == "computed"


def test_the_words_of_a_failure_are_without_the_key(server: OpenAIServer) -> None:
    server.say(Answer(status=401, text="Incorrect API key provided: sk-canary-of-this-test"))
    plain = settings(server, api_key_command=["echo", "sk-canary-of-this-test"])

    async def run() -> b.Performed:
        async with Bench(FakeStage(Log(b.Entry(role="user", text="hi")), plain)) as bench:
            return await bench.result(bench.start(ORDER))

    made = asyncio.run(run()).outcome
    assert isinstance(made, b.Failed) and made.kind == "auth"
    assert "provided: [key]" in made.detail and "canary" not in made.detail
    assert server.requests[0]["_authorization"] == "Bearer sk-canary-of-this-test"


def test_models_are_listed(server: OpenAIServer) -> None:
    plain = settings(server, api_key_env="NOT_SET_FOR_THIS_TEST")
    plain["models"] |= {
        "default": "mine/llama",
        "fast": "offline/rules",
        "roles": {"reviewer": "mine/gone"},
        "fallback": {"mine/llama": ["openai/gpt-5-mini", "mine/gone"]},
    }

    async def run() -> list[dict[str, Any]]:
        async with Bench(FakeStage(Log(), plain)) as bench:
            answer = await bench.performer.ask(b.Note(data={"models": True}))
            assert isinstance(answer, b.Note)
            return list(answer.data)

    rows = {row["model"]: row for row in asyncio.run(run())}
    assert list(rows) == ["mine/llama", "offline/rules", "mine/gone", "openai/gpt-5-mini"]
    assert rows["mine/gone"]["uses"] == ["role reviewer", "fallback of mine/llama"]
    assert rows["mine/llama"]["window"] is None
    known = rows["openai/gpt-5-mini"]
    assert known["window"] > 1000 and known["input_usd"] > 0 and known["output_usd"] > 0
    assert known["key"].startswith("missing: the variable NOT_SET_FOR_THIS_TEST")
    free = rows["offline/rules"]
    assert (free["key"], free["input_usd"]) == ("none needed", 0.0)
    assert not server.requests


def test_calls_go_side_by_side(server: OpenAIServer) -> None:
    slow = Answer(text="slow one", stall_after=1)
    server.say(slow, Answer(text="quick one"))

    async def run() -> list[b.Outcome]:
        async with Bench(stage(server)) as bench:
            first = bench.start(ORDER)
            assert await asyncio.to_thread(slow.stalled.wait, 15)
            second = bench.start(b.Perform(request=request((1, 1)), model=MODEL, attempt=2))
            quick = await bench.result(second)
            slow.release.set()
            return [quick.outcome, (await bench.result(first)).outcome]

    assert asyncio.run(run()) == [b.FinalAnswer(text="quick one"), b.FinalAnswer(text="slow one")]


FIRST = """
import asyncio, sys
from loomd.gateway.keys import Keys
from loomd.gateway.litellm_backend import Backend
from tests.gateway.looking import Looking
from tests.gateway.test_litellm import resolved

async def main():
    backend = Backend({"providers": {"openai": {"api_base": sys.argv[1]}}}, Keys({}))
    before = set(sys.modules)
    reply = await backend.complete(resolved(), Looking())
    await backend.close()
    assert reply.usage.cost_usd, reply
    print(*sorted(set(sys.modules) - before), sep=chr(10))

asyncio.run(main())
"""


def test_the_first_call_of_a_process_imports_nothing_more(server: OpenAIServer) -> None:
    server.say(Answer(text="hello", usage=None))  # so that tokens are counted too
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FIRST, server.base_url],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.split() == [], (done.stdout, done.stderr)
