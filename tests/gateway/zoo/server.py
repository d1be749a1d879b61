"""A server that sends bytes: a case of the zoo as it would be seen on the network, through litellm.

`Case.sent` are the packets after the head, each a chunk of its own (`transfer-encoding: chunked`
keeps them apart on the way); `head` replaces status line and headers, and then everything is raw.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loomd.gateway.keys import Keys
from loomd.gateway.types import Reply, Resolved, ToolSchema
from loomd.wire.bodies import Entry, Failed, FinalAnswer, Outcome, ToolCalls, Usage
from tests.gateway.looking import Looking

CLOCKS = {"connect_s": 5.0, "first_byte_s": 15.0, "between_s": 15.0, "total_s": 30.0}

STREAM = "text/event-stream"
JSON = "application/json"


def tool(name: str, **properties: str) -> ToolSchema:
    known = {key: {"type": kind} for key, kind in properties.items()}
    required = list(properties)[:1]
    return ToolSchema(name, name, {"type": "object", "properties": known, "required": required})


TOOLS = (
    tool("read", path="string", offset="integer"),
    tool("write", path="string", content="string"),
    tool("grep", pattern="string", path="string"),
    tool("list_files", path="string"),
)


@dataclass
class Case:
    """What is sent, and what is made of it.

    calls     (name, arguments) of each; a text instead of arguments: the error has it in it
    failed    kind, and a text that its detail has in it
    repairs   kinds, with the place of the call (0: the answer)
    usage     fields of Usage
    """

    name: str
    sent: tuple[bytes, ...]
    calls: list[tuple[str, Any]] | None = None
    text: str | None = None
    failed: tuple[str, str] | None = None
    reasoning: str = ""
    repairs: list[tuple[str, int]] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    ids: list[str] | None = None
    kind: str = STREAM
    head: bytes = b""
    stream: bool = True
    tools: tuple[ToolSchema, ...] = TOOLS
    model: str = "openai/gpt-5-mini"
    cut: bool = False
    retryable: bool | None = None
    retry_after: float | None = None
    cost: str = ""


def events(*chunks: Any, done: bool = True) -> tuple[bytes, ...]:
    """A stream: each of these an event; bytes are the event's data as they are."""
    data = [
        one if isinstance(one, bytes) else json.dumps(one, ensure_ascii=False).encode()
        for one in chunks
    ]
    made = [b"data: " + one + b"\n\n" for one in data]
    return (*made, b"data: [DONE]\n\n") if done else tuple(made)


def status(line: str, *headers: str, kind: str = JSON) -> bytes:
    """A head; the body ends with the connection."""
    lines = [f"HTTP/1.1 {line}", f"content-type: {kind}", *headers, "connection: close", "", ""]
    return "\r\n".join(lines).encode()


def delta(finish: str | None = None, **said: Any) -> dict[str, Any]:
    """One chunk of a stream."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": said, "finish_reason": finish}],
    }


def whole(finish: str | None = "stop", usage: Any = None, **said: Any) -> tuple[bytes, ...]:
    """A body: one answer."""
    made: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", **said}, "finish_reason": finish}
        ],
    }
    if usage is not None:
        made["usage"] = usage
    return (json.dumps(made).encode(),)


def fragment(arguments: Any = None, name: str = "", **more: Any) -> dict[str, Any]:
    """A piece of a call; `more`: index, id, type."""
    function: dict[str, Any] = {} if not name else {"name": name}
    if arguments is not None:
        function["arguments"] = arguments
    return {**more, "function": function}


def called(*calls: dict[str, Any], finish: str = "tool_calls") -> tuple[bytes, ...]:
    """A stream of one call's pieces, an event each."""
    return events(
        delta(role="assistant", content=None),
        *(delta(tool_calls=[one]) for one in calls),
        delta(finish),
    )


def arguments(raw: str, finish: str = "tool_calls") -> tuple[bytes, ...]:
    """A stream of one call of `read` with these arguments, in two pieces."""
    half = len(raw) // 2
    return called(
        fragment(raw[:half], "read", index=0, id="call_a", type="function"),
        fragment(raw[half:], index=0),
        finish=finish,
    )


async def _serve(
    cases: Sequence[Case],
    asked: list[list[dict[str, Any]]],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """The first folder of the path is the number of the case."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        number = int(head.split(b"/", 2)[1])
        case = cases[number]
        length = re.search(rb"(?i)content-length: *([0-9]+)", head)
        body = await reader.readexactly(int(length.group(1)) if length else 0)
        asked[number].append(json.loads(body))
        if case.head:
            writer.write(case.head + b"".join(case.sent))
        else:
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: "
                + case.kind.encode()
                + b"\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
            )
            for packet in case.sent:
                writer.write(f"{len(packet):x}\r\n".encode() + packet + b"\r\n")
                await writer.drain()
            if not case.cut:
                writer.write(b"0\r\n\r\n")
        await writer.drain()
    except ConnectionError:
        pass  # the client has read enough
    finally:
        writer.close()


@dataclass
class Result:
    """The one attempt, what the server was asked, and what came of it."""

    reply: Reply
    asked: list[dict[str, Any]]


async def _run(cases: Sequence[Case]) -> list[Result]:
    asked: list[list[dict[str, Any]]] = [[] for _ in cases]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve(cases, asked, reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        root = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        replies = [await _complete(case, f"{root}/{number}") for number, case in enumerate(cases)]
    return [Result(*one) for one in zip(replies, asked, strict=True)]


async def _complete(case: Case, root: str) -> Reply:
    from loomd.gateway.litellm_backend import Backend

    provider, _, _ = case.model.partition("/")
    base = root if provider in ("anthropic", "ollama_chat", "gemini") else f"{root}/v1"
    settings = {
        "providers": {provider: {"api_base": base, "stream": case.stream}},
        "models": {"clocks": CLOCKS},
    }
    backend = Backend(settings, Keys({}))
    resolved = Resolved(
        role="lead",
        pinned=("You are the lead.",),
        entries=(Entry(role="user", text="go"),),
        tools=case.tools,
        model=case.model,
    )
    try:
        return await backend.complete(resolved, Looking())
    finally:
        await backend.close()


def run(cases: Sequence[Case]) -> list[Result]:
    """All of them on one server, one after another: each makes one attempt."""
    return asyncio.run(_run(cases))


def check(case: Case, result: Result) -> None:
    """Raises AssertionError with the whole outcome if it is another than the case's."""
    reply = result.reply
    outcome: Outcome = reply.outcome
    assert len(result.asked) == 1, f"{len(result.asked)} requests were made"
    if not case.model.startswith("gemini/"):  # which says it in the address
        stream = result.asked[0].get("stream", False)
        assert stream == case.stream, "asked for another form than is configured"
    match outcome:
        case ToolCalls():
            _check_calls(case, outcome)
        case FinalAnswer():
            assert case.text is not None and outcome.text == case.text, outcome
        case Failed():
            assert case.failed is not None, outcome
            kind, said = case.failed
            assert outcome.kind == kind and said.lower() in outcome.detail.lower(), outcome
            if case.retryable is not None:
                assert outcome.retryable == case.retryable, outcome
            assert outcome.retry_after == case.retry_after, outcome
    if not isinstance(outcome, Failed):
        assert [(one.kind, one.call) for one in outcome.repairs] == case.repairs, outcome
        assert outcome.reasoning == case.reasoning, outcome
    for key, value in case.usage.items():
        assert getattr(reply.usage, key) == value, reply.usage
    if case.cost:
        assert reply.cost_known == case.cost, reply
        assert (reply.usage.cost_usd is None) == (case.cost == "unknown"), reply.usage
    assert isinstance(reply.usage, Usage) and reply.usage.calls == 1


def _check_calls(case: Case, outcome: ToolCalls) -> None:
    assert case.calls is not None, outcome
    assert [call.name for call in outcome.calls] == [name for name, _ in case.calls], outcome
    for call, (_, wanted) in zip(outcome.calls, case.calls, strict=True):
        if isinstance(wanted, str):
            assert wanted in call.error and call.args == {}, call
        else:
            assert (call.args, call.error) == (wanted, ""), call
    if case.text is not None:
        assert outcome.text == case.text, outcome
    if case.ids is not None:
        assert [call.provider_id for call in outcome.calls] == case.ids, outcome
