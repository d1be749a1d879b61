"""The way here: framing, cuts, pages of HTML, errors with and without a status."""

from __future__ import annotations

import json
from typing import Any

from tests.gateway.zoo.server import JSON, Case, called, delta, events, fragment, status, whole

HELLO = events(delta(content="Hel"), delta(content="lo"), delta("stop"))
STREAM = b"".join(HELLO)


def answered(line: str, body: Any, *headers: str, kind: str = JSON) -> dict[str, Any]:
    """Status line and headers, and a body."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {"head": status(line, *headers, kind=kind), "sent": (raw,)}


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


NGINX = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad "
    b"Gateway</h1></center>\r\n<hr><center>nginx/1.24.0</center>\r\n</body>\r\n</html>\r\n"
)

CASES = (
    Case("comments that keep the line open", (b": ping\n\n", b":\n\n", *HELLO), text="Hello"),
    Case(
        "comments between and inside events",
        (HELLO[0], b": OPENROUTER PROCESSING\n\n", b": x\n" + HELLO[1], *HELLO[2:]),
        text="Hello",
    ),
    Case("lines that end with CRLF", (STREAM.replace(b"\n", b"\r\n"),), text="Hello"),
    Case("lines that end with CR", (STREAM.replace(b"\n", b"\r"),), text="Hello"),
    Case(
        "a CRLF that is cut in two",
        tuple(
            part
            for one in HELLO
            for part in (one.replace(b"\n", b"\r\n")[:-1], one.replace(b"\n", b"\r\n")[-1:])
        ),
        text="Hello",
    ),
    Case("no space behind the colon", (STREAM.replace(b"data: ", b"data:"),), text="Hello"),
    Case("a byte order mark", (b"\xef\xbb\xbf" + STREAM,), text="Hello"),
    Case("all events in one packet", (STREAM,), text="Hello"),
    Case(
        "one event over ten packets",
        tuple(
            piece
            for one in HELLO
            for piece in (
                one[i : i + len(one) // 10 + 1] for i in range(0, len(one), len(one) // 10 + 1)
            )
        ),
        text="Hello",
    ),
    Case("byte by byte", tuple(STREAM[i : i + 1] for i in range(len(STREAM))), text="Hello"),
    Case(
        "names and ids of events",
        tuple(b"event: message\nid: 7\nretry: 10\n" + one for one in HELLO),
        text="Hello",
    ),
    Case(
        "one object over two lines of data",
        (
            STREAM.replace(b'"created":', b'\ndata: "created":').replace(
                b'"created": 1', b'"created": 1'
            ),
        ),
        text="Hello",
    ),
    Case("no [DONE]", HELLO[:-1], text="Hello"),
    Case(
        "no blank line at the end",
        (STREAM.removesuffix(b"data: [DONE]\n\n").rstrip(),),
        text="Hello",
    ),
    Case("something behind [DONE]", (*HELLO, b"data: {nonsense\n\n"), text="Hello"),
    Case(
        "one object a line, without events",
        (STREAM.removesuffix(b"data: [DONE]\n\n").replace(b"data: ", b"").replace(b"\n\n", b"\n"),),
        text="Hello",
        kind="application/x-ndjson",
        failed=None,
    ),
    Case(
        "the last chunk twice",
        (*HELLO[:2], *events(delta("stop", content="!"), delta("stop", content="!"))),
        text="Hello!",
        repairs=[("repeated", 0)],
    ),
    Case("the end twice", (*HELLO[:-1], *HELLO[2:]), text="Hello", repairs=[("repeated", 0)]),
    Case(
        "a text that is cut inside a character",
        events(
            b'{"choices":[{"index":0,"delta":{"content":"gr\xc3"}}]}',
            b'{"choices":[{"index":0,"delta":{"content":"\xbcn"}}]}',
            delta("stop"),
        ),
        text="gr\u00fcn",
    ),
    Case(
        "a text that is no UTF-8",
        events(b'{"choices":[{"index":0,"delta":{"content":"gr\xfcn"}}]}', delta("stop")),
        text="gr\ufffdn",
        repairs=[("characters", 0)],
    ),
    # cuts
    Case(
        "cut in the middle of a text", HELLO[:2], cut=True, failed=("network", ""), retryable=True
    ),
    Case(
        "ended in the middle of a text",
        HELLO[:2],
        failed=("network", "ended before"),
        retryable=True,
    ),
    Case(
        "cut in the middle of a call",
        called(fragment('{"path": "a', "read", index=0, id="a"))[:2],
        cut=True,
        failed=("network", ""),
        retryable=True,
    ),
    Case(
        "cut in the middle of an event",
        (HELLO[0], HELLO[1][:30]),
        cut=True,
        failed=("network", ""),
        retryable=True,
    ),
    Case(
        "ended in the middle of an event",
        (HELLO[0], HELLO[1][:30]),
        failed=("network", "ended before"),
        retryable=True,
    ),
    Case("cut behind the last word", HELLO[:-1], cut=True, text="Hello"),
    Case(
        "cut in the middle of a body",
        (whole(content="Hello")[0][:60],),
        kind=JSON,
        stream=False,
        cut=True,
        failed=("network", ""),
        retryable=True,
    ),
    Case(
        "no body at all",
        (b"",),
        head=b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        failed=("malformed", "no answer"),
    ),
    Case("no answer at all", (b"",), head=b"\r\n", failed=("network", ""), retryable=True),
    Case(
        "no HTTP", (b"SSH-2.0-OpenSSH_9.2\r\n",), head=b" ", failed=("network", ""), retryable=True
    ),
    # what is no stream
    Case(
        "garbage for an event",
        events(b"{no"),
        failed=("malformed", "no answer of a chat model: {no"),
    ),
    Case(
        "garbage between events", (HELLO[0], b"data: {no\n\n", *HELLO[1:]), failed=("malformed", "")
    ),
    Case(
        "a page of HTML",
        failed=("malformed", "an HTML page: Log in"),
        **answered("200 OK", b"<!DOCTYPE html><html><body>Log in</body></html>", kind="text/html"),
    ),
    Case(
        "a page of HTML that is not found",
        failed=("malformed", "an HTML page: Not Found"),
        **answered("404 Not Found", b"<html><body>Not Found</body></html>", kind="text/html"),
    ),
    Case(
        "a page of HTML for a whole answer",
        failed=("malformed", "an HTML page: Log in"),
        stream=False,
        **answered("200 OK", b"<html><body>Log in</body></html>", kind="text/html"),
    ),
    Case(
        "a whole answer that is no JSON",
        failed=("malformed", "nope"),
        stream=False,
        **answered("200 OK", b"nope"),
    ),
    Case(
        "an event without end",
        (b"data: {", *(b"x" * (1 << 20) for _ in range(6))),
        failed=("malformed", "more than any answer has"),
    ),
    Case(
        "a body without end",
        (b"{", *(b" " * (1 << 20) for _ in range(6))),
        kind=JSON,
        failed=("malformed", "more than any answer has"),
    ),
    # errors inside
    Case(
        "an error for an answer",
        (json.dumps(error("Overloaded", type="overloaded_error")).encode(),),
        kind=JSON,
        failed=("overloaded", "Overloaded"),
        retryable=True,
    ),
    Case(
        "an error for a whole answer",
        (json.dumps(error("Rate limit reached", code=429)).encode(),),
        kind=JSON,
        stream=False,
        failed=("rate_limited", "Rate limit"),
        retryable=True,
    ),
    Case(
        "an error that is a text",
        (b'{"error": "model \'x\' not found"}',),
        kind=JSON,
        failed=("unknown_model", "not found"),
    ),
    Case(
        "an error without its name",
        (b'{"object": "error", "message": "out of memory", "code": 500}',),
        kind=JSON,
        failed=("server", "out of memory"),
        retryable=True,
    ),
    Case(
        "an error called detail",
        (b'{"detail": "Unauthorized"}',),
        kind=JSON,
        failed=("auth", "Unauthorized"),
    ),
    Case(
        "an error inside a stream",
        (HELLO[0], *events(error("The server is overloaded", type="overloaded_error"))),
        failed=("overloaded", "overloaded"),
        retryable=True,
    ),
    Case(
        "an error inside a stream, as an event",
        (
            HELLO[0],
            b'event: error\ndata: {"error": {"message": "boom", "type": "server_error"}}\n\n',
        ),
        failed=("server", "boom"),
        retryable=True,
    ),
    Case(
        "an error inside a choice",
        events(
            {
                "choices": [
                    {
                        "index": 0,
                        "delta": {"content": ""},
                        "finish_reason": "error",
                        "error": {"code": 502, "message": "Provider disconnected"},
                    }
                ]
            }
        ),
        failed=("overloaded", "Provider disconnected"),
        retryable=True,
    ),
    Case(
        "a window that is too small, inside a stream",
        events(
            error(
                "the request exceeds the available context size",
                code=400,
                type="exceed_context_size_error",
            )
        ),
        failed=("context_overflow", "context size"),
        retryable=False,
    ),
    # errors with a status
    Case(
        "a wrong key",
        failed=("auth", "Incorrect API key"),
        retryable=False,
        **answered("401 Unauthorized", error("Incorrect API key provided", code="invalid_api_key")),
    ),
    Case(
        "a key that may not",
        failed=("auth", "not allowed"),
        retryable=False,
        **answered("403 Forbidden", error("not allowed")),
    ),
    Case(
        "no credit",
        failed=("quota", "no credit"),
        **answered("402 Payment Required", error("no credit")),
    ),
    Case(
        "no quota",
        failed=("quota", "exceeded"),
        retryable=False,
        **answered("429 Too Many Requests", error("You exceeded it", code="insufficient_quota")),
    ),
    Case(
        "too many requests",
        failed=("rate_limited", "slow"),
        retryable=True,
        retry_after=7.0,
        **answered("429 Too Many Requests", error("slow down"), "retry-after: 7"),
    ),
    Case(
        "too many requests, in milliseconds",
        failed=("rate_limited", "slow"),
        retry_after=1.5,
        **answered("429 Too Many Requests", error("slow down"), "retry-after-ms: 1500"),
    ),
    Case(
        "no such model",
        failed=("unknown_model", "does not exist"),
        **answered("404 Not Found", error("The model `x` does not exist", code="model_not_found")),
    ),
    Case(
        "a context that is too long",
        failed=("context_overflow", "maximum context"),
        **answered(
            "400 Bad Request",
            error(
                "This model's maximum context length is 8192 tokens", code="context_length_exceeded"
            ),
        ),
    ),
    Case(
        "a body that is too large",
        failed=("context_overflow", ""),
        **answered("413 Payload Too Large", b"<html>too large</html>", kind="text/html"),
    ),
    Case(
        "a request that it does not take",
        failed=("malformed", "temperature"),
        retryable=False,
        **answered("400 Bad Request", error("temperature is not supported")),
    ),
    Case(
        "an error of the server",
        failed=("server", "oops"),
        retryable=True,
        **answered("500 Internal Server Error", error("oops")),
    ),
    Case(
        "a proxy's 502",
        failed=("overloaded", "Bad Gateway"),
        retryable=True,
        **answered(
            "502 Bad Gateway",
            NGINX,
            kind="text/html",
        ),
    ),
    Case(
        "a proxy's 504",
        failed=("timeout", ""),
        retryable=True,
        **answered("504 Gateway Timeout", b"<html>504 Gateway Time-out</html>", kind="text/html"),
    ),
    Case(
        "busy, with a time to wait",
        failed=("overloaded", "busy"),
        retryable=True,
        retry_after=3.0,
        **answered("503 Service Unavailable", error("busy"), "retry-after: 3"),
    ),
    Case(
        "a model that is being loaded",
        failed=("overloaded", "Loading model"),
        retryable=True,
        **answered(
            "503 Service Unavailable", error("Loading model", type="unavailable_error", code=503)
        ),
    ),
    Case(
        "overloaded, with a status of its own",
        failed=("overloaded", "Overloaded"),
        retryable=True,
        **answered("529 Overloaded", error("Overloaded", type="overloaded_error")),
    ),
    Case(
        "an error without a body",
        failed=("server", ""),
        retryable=True,
        **answered("500 Internal Server Error", b""),
    ),
)
