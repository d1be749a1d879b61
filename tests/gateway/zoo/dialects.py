"""Providers with a dialect of their own, which litellm reads."""

from __future__ import annotations

import json
from typing import Any

from tests.gateway.zoo.server import JSON, Case, status

CLAUDE = "anthropic/claude-sonnet-4-5"
OLLAMA = "ollama_chat/llama3.1"


def messages(*events: dict[str, Any]) -> tuple[bytes, ...]:
    """A stream of the messages API: named events."""
    return tuple(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)


START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [],
        "stop_reason": None,
        "usage": {
            "input_tokens": 9,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 2,
            "output_tokens": 1,
        },
    },
}


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": one} for one in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def end(reason: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": None},
            "usage": {"output_tokens": 5},
        },
        {"type": "message_stop"},
    ]


TEXT = {"type": "text", "text": ""}


def lines(*objects: dict[str, Any]) -> tuple[bytes, ...]:
    return tuple(json.dumps(one).encode() + b"\n" for one in objects)


CASES = (
    Case(
        "messages: a text",
        messages(START, *block(0, TEXT, {"type": "text_delta", "text": "Hello"}), *end("end_turn")),
        text="Hello",
        model=CLAUDE,
        usage={"output_tokens": 5, "cached_tokens": 4, "cache_write_tokens": 2},
        cost="computed",
    ),
    Case(
        "messages: thoughts and a call",
        messages(
            START,
            {"type": "ping"},
            *block(
                0,
                {"type": "thinking", "thinking": "", "signature": ""},
                {"type": "thinking_delta", "thinking": "hm"},
                {"type": "signature_delta", "signature": "c2ln"},
            ),
            *block(1, TEXT, {"type": "text_delta", "text": "I look."}),
            *block(
                2,
                {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {}},
                {"type": "input_json_delta", "partial_json": ""},
                {"type": "input_json_delta", "partial_json": '{"path": '},
                {"type": "input_json_delta", "partial_json": '"a.py"}'},
            ),
            *end("tool_use"),
        ),
        calls=[("read", {"path": "a.py"})],
        ids=["toolu_1"],
        text="I look.",
        reasoning="hm",
        model=CLAUDE,
    ),
    Case(
        "messages: two calls",
        messages(
            START,
            *block(
                0,
                {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {}},
                {"type": "input_json_delta", "partial_json": '{"path": "a.py"}'},
            ),
            *block(
                1,
                {"type": "tool_use", "id": "toolu_2", "name": "list_files", "input": {}},
            ),
            *end("tool_use"),
        ),
        calls=[("read", {"path": "a.py"}), ("list_files", {})],
        ids=["toolu_1", "toolu_2"],
        model=CLAUDE,
    ),
    Case(
        "messages: cut off by the limit",
        messages(
            START, *block(0, TEXT, {"type": "text_delta", "text": "half"}), *end("max_tokens")
        ),
        failed=("malformed", "cut off"),
        model=CLAUDE,
    ),
    Case(
        "messages: an error inside the stream",
        messages(
            START, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        ),
        failed=("overloaded", "Overloaded"),
        retryable=True,
        model=CLAUDE,
    ),
    Case(
        "messages: overloaded at once",
        (b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}',),
        head=status("529 Overloaded"),
        failed=("overloaded", "Overloaded"),
        retryable=True,
        model=CLAUDE,
    ),
    Case(
        "messages: whole",
        (
            json.dumps(
                START["message"]
                | {
                    "content": [
                        {"type": "text", "text": "I look."},
                        {
                            "type": "tool_use",
                            "id": "toolu_1",
                            "name": "read",
                            "input": {"path": "a"},
                        },
                    ],
                    "stop_reason": "tool_use",
                }
            ).encode(),
        ),
        kind=JSON,
        stream=False,
        calls=[("read", {"path": "a"})],
        text="I look.",
        model=CLAUDE,
    ),
    Case(
        "lines: a text",
        lines(
            {
                "model": "llama3.1",
                "message": {"role": "assistant", "content": "Hel"},
                "done": False,
            },
            {"model": "llama3.1", "message": {"role": "assistant", "content": "lo"}, "done": False},
            {
                "model": "llama3.1",
                "message": {"role": "assistant", "content": ""},
                "done": True,
                "done_reason": "stop",
                "prompt_eval_count": 9,
                "eval_count": 2,
            },
        ),
        text="Hello",
        kind="application/x-ndjson",
        model=OLLAMA,
        usage={"input_tokens": 9, "output_tokens": 2},
    ),
    Case(
        "lines: a call written into the text",
        lines(
            {
                "model": "llama3.1",
                "message": {
                    "role": "assistant",
                    "content": '{"name": "read", "parameters": {"path": "a.py"}}',
                },
                "done": False,
            },
            {
                "model": "llama3.1",
                "message": {"role": "assistant", "content": ""},
                "done": True,
                "done_reason": "stop",
            },
        ),
        calls=[("read", {"path": "a.py"})],
        kind="application/x-ndjson",
        model=OLLAMA,
        repairs=[("written", 1)],
    ),
    Case(
        "lines: no such model",
        (b'{"error": "model \'llama3.1\' not found, try pulling it first"}',),
        head=status("404 Not Found"),
        failed=("unknown_model", "not found"),
        model=OLLAMA,
    ),
)
