"""What single servers do, each in its own way: hosted ones first, then those that run at home."""

from __future__ import annotations

import json
from typing import Any

from tests.gateway.zoo.server import Case, delta, events, whole
from tests.gateway.zoo.wire import answered, error

GEMINI = "gemini/gemini-2.5-flash"


def gemini(*parts: dict[str, Any], finish: str = "STOP", **more: Any) -> tuple[bytes, ...]:
    """A stream of one event."""
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish}
    counted = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}
    body = {"candidates": [candidate], "usageMetadata": counted, **more}
    return (b"data: " + json.dumps(body).encode() + b"\r\n\r\n",)


def written(text: str) -> tuple[bytes, ...]:
    half = len(text) // 2
    return events(delta(content=text[:half]), delta(content=text[half:]), delta("stop"))


def fullwidth(text: str) -> tuple[bytes, ...]:
    return written(text.replace("|", "\uff5c"))


CALL = [("read", {"path": "a.py"})]
WRITTEN = [("written", 1)]

CASES = (
    Case("gemini: a text", gemini({"text": "Hello"}), text="Hello", model=GEMINI, cost="computed"),
    Case(
        "gemini: a thought and a call",
        gemini(
            {"text": "hm", "thought": True},
            {"functionCall": {"name": "read", "args": {"path": "a.py"}}},
        ),
        calls=CALL,
        reasoning="hm",
        model=GEMINI,
    ),
    Case(
        "gemini: stopped for safety",
        gemini(finish="SAFETY"),
        failed=("filtered", "filter"),
        model=GEMINI,
    ),
    Case(
        "gemini: a quota of requests, with the time to wait in the body",
        **answered(
            "429 Too Many Requests",
            {
                "error": {
                    "code": 429,
                    "message": "You exceeded your current quota. Please retry in 39.5s.",
                    "status": "RESOURCE_EXHAUSTED",
                    "details": [
                        {
                            "@type": "type.googleapis.com/google.rpc.RetryInfo",
                            "retryDelay": "39s",
                        }
                    ],
                }
            },
        ),
        failed=("rate_limited", "quota"),
        retryable=True,
        retry_after=39.0,
        model=GEMINI,
    ),
    Case(
        "azure: filters of the question before the answer, in choices that are none",
        events(
            {"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "id": "", "model": ""},
            delta(content="Hello"),
            delta("stop"),
        ),
        text="Hello",
    ),
    Case(
        "openrouter: the provider behind it fails in the middle",
        events(
            delta(content="Hel"),
            {
                "id": "gen-1",
                "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
                "error": {"code": 502, "message": "Provider disconnected unexpectedly"},
            },
        ),
        failed=("overloaded", "Provider disconnected"),
        retryable=True,
    ),
    Case(
        "openrouter: no credit",
        **answered("402 Payment Required", error("Insufficient credits. Add more", code=402)),
        failed=("quota", "credits"),
    ),
    Case(
        "groq: it could not read the call that the model wrote",
        **answered(
            "400 Bad Request",
            error(
                "Failed to call a function. Please adjust your prompt.",
                type="invalid_request_error",
                code="tool_use_failed",
                failed_generation='<function=read{"path": "a"}</function>',
            ),
        ),
        failed=("malformed", "Failed to call a function"),
        retryable=True,
    ),
    Case(
        "deepseek: it has no room to finish",
        events(delta(content="Hel"), delta("insufficient_system_resource")),
        failed=("overloaded", ""),
        retryable=True,
    ),
    Case(
        "deepseek: blank lines until the whole answer is there",
        (b"\n", b"\n\n", *whole(content="Hello")),
        kind="application/json",
        stream=False,
        text="Hello",
    ),
    Case(
        "deepseek: no balance",
        **answered("402 Payment Required", error("Insufficient Balance", code="invalid_request")),
        failed=("quota", "Balance"),
    ),
    Case(
        "xai: the credits are used up",
        **answered(
            "403 Forbidden",
            {
                "code": "The caller does not have permission to execute the operation",
                "error": "Your team has either used all available credits or reached its limit",
            },
        ),
        failed=("quota", "credits"),
    ),
    Case(
        "mistral: what is wrong, as a list",
        **answered(
            "400 Bad Request",
            {
                "object": "error",
                "message": {"detail": [{"loc": ["body", "tools"], "msg": "Field required"}]},
                "type": "invalid_request_error",
            },
        ),
        failed=("malformed", "Field required"),
    ),
    Case(
        "vllm: it was started without calls",
        **answered(
            "400 Bad Request",
            {
                "object": "error",
                "message": '"auto" tool choice requires --enable-auto-tool-choice',
                "type": "BadRequestError",
                "code": 400,
            },
        ),
        failed=("malformed", "--enable-auto-tool-choice"),
    ),
    Case(
        "vllm: a path that it does not have",
        **answered("404 Not Found", {"detail": "Not Found"}),
        failed=("unknown_model", "Not Found"),
    ),
    Case(
        "llama.cpp: the window is too small",
        **answered(
            "400 Bad Request",
            error(
                "the request exceeds the available context size, try increasing it",
                code=400,
                type="exceed_context_size_error",
            ),
        ),
        failed=("context_overflow", "context size"),
    ),
    Case(
        "lm studio: no model is loaded",
        **answered("404 Not Found", error("No models loaded. Please load a model in the page.")),
        failed=("unknown_model", "No models loaded"),
    ),
    Case(
        "lm studio: an error as an event of its own name",
        (b'event: error\ndata: {"error":{"message":"The model has crashed"}}\n\n',),
        failed=("server", "crashed"),
        retryable=True,
    ),
    Case(
        "ollama: a pipe of its own kind is closed",
        events(delta(content="Hel"), {"error": {"message": "llama runner process has terminated"}}),
        failed=("server", "terminated"),
        retryable=True,
    ),
    Case(
        "kimi: a call in its template's words",
        written(
            "I look. <|tool_calls_section_begin|><|tool_call_begin|>functions.read:0"
            '<|tool_call_argument_begin|>{"path": "a.py"}<|tool_call_end|>'
            "<|tool_calls_section_end|>"
        ),
        calls=CALL,
        text="I look.",
        repairs=[*WRITTEN, ("namespace", 1)],
    ),
    Case(
        "deepseek: a call in its template's words",
        fullwidth(
            "<|tool▁calls▁begin|><|tool▁call▁begin|>function<|tool▁sep|>read\n```json\n"
            '{"path": "a.py"}\n```<|tool▁call▁end|><|tool▁calls▁end|><|end▁of▁sentence|>'
        ),
        calls=CALL,
        text="",
        repairs=[*WRITTEN],
    ),
    Case(
        "deepseek: a call in its newer template's words",
        fullwidth(
            "<|tool▁calls▁begin|><|tool▁call▁begin|>read<|tool▁sep|>"
            '{"path": "a.py"}<|tool▁call▁end|><|tool▁calls▁end|>'
        ),
        calls=CALL,
        text="",
        repairs=WRITTEN,
    ),
    Case(
        "gpt-oss: a call in its template's words",
        written(
            "<|channel|>commentary to=functions.read <|constrain|>json<|message|>"
            '{"path": "a.py"}<|call|>'
        ),
        calls=CALL,
        text="",
        repairs=WRITTEN,
    ),
    Case(
        "minimax: a call in its template's words",
        written(
            '<minimax:tool_call>\n<invoke name="read">\n<parameter name="path">a.py</parameter>\n'
            '<parameter name="offset">3</parameter>\n</invoke>\n</minimax:tool_call>'
        ),
        calls=[("read", {"path": "a.py", "offset": 3})],
        text="",
        repairs=WRITTEN,
    ),
    Case(
        "words of a template that are spoken of",
        written("The mark `<|tool_call_begin|>` begins a call of read, and `<invoke name=` too."),
        text="The mark `<|tool_call_begin|>` begins a call of read, and `<invoke name=` too.",
    ),
)
