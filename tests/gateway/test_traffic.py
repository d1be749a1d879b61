"""One attempt sends one request, whatever becomes of its connection: counted by a server."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from loomd.gateway.keys import Keys
from loomd.gateway.types import Reply, Resolved
from loomd.wire.bodies import Entry, Failed
from tests.gateway.looking import Looking
from tests.gateway.zoo.server import CLOCKS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*ReadOnly.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]

MODELS = (
    "anthropic/claude-sonnet-4-5",
    "gemini/gemini-2.5-flash",
    "mistral/mistral-large-latest",
    "ollama_chat/llama3.1",
    "openai/gpt-5-mini",
)

BREAKS = {
    "without a word": b"",
    "in its head": b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-len",
    "in its body": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    b"content-length: 1000\r\n\r\n{",
}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Before the first test counts descriptors and threads: some adapters log in one of litellm's
    own."""
    __import__("loomd.gateway.litellm_backend")
    asyncio.run(_asked("gemini/gemini-2.5-flash", True, b""))


async def _asked(model: str, stream: bool, sent: bytes) -> tuple[int, Reply]:
    """How many requests came to a server that ends each so, and what was made of it."""
    from loomd.gateway.litellm_backend import Backend

    came = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *([0-9]+)", head)
        await reader.readexactly(int(length.group(1)) if length else 0)
        came += 1
        writer.write(sent)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        provider = model.partition("/")[0]
        settings: dict[str, Any] = {
            "providers": {provider: {"api_base": base, "stream": stream}},
            "models": {"clocks": CLOCKS},
        }
        backend = Backend(settings, Keys({}))
        entries = (Entry(role="user", text="go"),)
        try:
            reply = await backend.complete(
                Resolved(role="lead", pinned=("You.",), entries=entries, tools=(), model=model),
                Looking(),
            )
        finally:
            await backend.close()
    return came, reply


@pytest.mark.parametrize("model", MODELS)
def test_a_connection_that_breaks_is_not_used_for_a_second_request(model: str) -> None:
    for stream in (True, False):
        for where, sent in BREAKS.items():
            came, reply = asyncio.run(_asked(model, stream, sent))
            assert came == 1, f"{came} requests for one attempt that broke off {where}"
            outcome = reply.outcome
            assert isinstance(outcome, Failed) and outcome.kind == "network", outcome
            assert outcome.retryable and reply.cost_known == "unknown", reply
