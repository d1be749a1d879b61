"""A real OpenAI-compatible server on this machine: chat completions, streamed, tool calls.

Scripted: each request takes the next `Answer` of the script (or what `brain` makes of it). Faults
are real: errors with headers, pages of HTML, streams cut or stalled in the middle, until an event
lets them go on. A request to `/messages` is answered in that dialect. Standard library only.

In a test:      with OpenAIServer() as server: server.say(Answer(text="hello")); server.base_url
                daemons(server.config("[limits]..."), **KEYS): a daemon whose default model it is
On its own:     python -m tests.openai_server [--port N] [--script FILE.json]   prints its base URL
                POST /script takes a JSON list of answers, GET /requests tells what came in
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

KEY = "sk-secret-of-this-test"
KEYS = {"TEST_PROVIDER_KEY": KEY}
"""Of the environment of a daemon that speaks with it."""

BOUND_S = 30.0
"""How long requests are waited for."""


@dataclass
class Answer:
    """One answer. `calls`: (name, arguments as an object or as raw JSON text).

    status     other than 200: an error with `body` (text, else an OpenAI error with `text`)
    body       raw body in place of everything, with `content_type`
    cut_after  pieces after which the connection is cut, without an end; -1: before the headers
    stall_after pieces after which nothing comes until `release` is set
    finish     finish_reason; "" = the stream ends without one
    piece      characters per streamed piece
    """

    text: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    reasoning: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    content_type: str = "application/json"
    code: str = ""
    cut_after: int | None = None
    stall_after: int | None = None
    finish: str | None = None
    usage: dict[str, Any] | None = field(
        default_factory=lambda: {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 40},
        }
    )
    piece: int = 5
    ids: str = "call_{n}"
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)

    def finish_reason(self) -> str | None:
        if self.finish is not None:
            return self.finish or None
        return "tool_calls" if self.calls else "stop"


Brain = Callable[[dict[str, Any]], Answer]


class OpenAIServer:
    """`requests`: the bodies that came in, in order, each with `_authorization`."""

    def __init__(self, brain: Brain | None = None, port: int = 0) -> None:
        self.requests: list[dict[str, Any]] = []
        self.script: list[Answer] = []
        self.brain = brain
        self._given: list[Answer] = []
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._http = _Server(("127.0.0.1", port), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.02,), name="openai-server"
        )

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def config(self, more: str = "", models: str = "") -> str:
        """config.toml of a daemon whose default model answers here; `models`: other keys of that
        table, `more`: other tables. No clock ends a stalled answer: who waits for its connection to
        be closed must not be served by it."""
        return (
            f'[models]\ndefault = "openai/gpt-5-mini"\n{models}'
            f'[providers.openai]\napi_base = "{self.base_url}"\n'
            f'api_key_env = "TEST_PROVIDER_KEY"\nfirst_byte_s = 900\nbetween_s = 900\n{more}'
        )

    def say(self, *answers: Answer) -> None:
        with self._lock:
            self.script.extend(answers)

    def wait_requests(self, n: int, timeout: float = BOUND_S) -> None:
        with self._arrived:
            done = self._arrived.wait_for(lambda: len(self.requests) >= n, timeout)
        assert done, f"{len(self.requests)} of {n} requests came"

    def take(self, request: dict[str, Any]) -> Answer:
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
            if self.brain is not None and not self.script:
                answer = self.brain(request)
            elif self.script:
                answer = self.script.pop(0)
            else:
                answer = Answer(status=500, text="the script has no more answers")
            self._given.append(answer)
            return answer

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for answer in self._given:
            answer.release.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def serve(self) -> None:
        self._http.serve_forever()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined by server_close: a test leaks no thread
    owner: OpenAIServer


class _Cut(Exception):
    """The connection is to be dropped now."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/requests":
            self._whole(200, json.dumps(self.server.owner.requests))
        elif self.path.endswith("/models"):
            self._whole(200, json.dumps({"object": "list", "data": []}))
        else:
            self._whole(404, '{"error": {"message": "no such page"}}')

    def do_POST(self) -> None:
        self.close_connection = True  # one request per connection: no idle keep-alive threads
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        request = json.loads(raw or b"null")
        if self.path == "/script":
            self.server.owner.say(*(_answer(one) for one in request))
            self._whole(200, "{}")
            return
        named = self.path.endswith("/messages")
        if not (named or self.path.endswith("/chat/completions")):
            self._whole(404, '{"error": {"message": "no such page"}}')
            return
        request["_authorization"] = self.headers.get("authorization")
        answer = self.server.owner.take(request)
        try:
            if answer.cut_after == -1:
                raise _Cut
            if answer.body or answer.status != 200:
                self._fault(answer)
            elif named:
                self._named(answer)
            elif request.get("stream"):
                self._stream(answer, request)
            else:
                self._whole(200, json.dumps(_completion(answer, request)), answer.headers)
        except (_Cut, BrokenPipeError, ConnectionResetError):
            answer.gone.set()
        finally:
            self.close_connection = True

    def _fault(self, answer: Answer) -> None:
        body = answer.body or json.dumps(
            {"error": {"message": answer.text, "type": "error", "code": answer.code or None}}
        )
        self._whole(answer.status, body, answer.headers, answer.content_type)

    def _whole(
        self,
        status: int,
        body: str,
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(data)))
        self.send_header("connection", "close")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, answer: Answer, request: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.send_header("connection", "close")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for n, chunk in enumerate(_chunks(answer, request)):
            if answer.cut_after is not None and n >= answer.cut_after:
                raise _Cut
            if answer.stall_after is not None and n >= answer.stall_after:
                self._stall(answer)
            self._event(json.dumps(chunk))
        if answer.finish != "":
            self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _named(self, answer: Answer) -> None:
        """A stream of the messages API."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for one in _named(answer):
            self.wfile.write(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode())

    def _stall(self, answer: Answer) -> None:
        """Nothing more until released (at the latest by the end of the server), or until the other
        side has gone (then `gone` is set). No clock ends it: an answer that went on by itself on a
        slow machine would be another answer."""
        if answer.release.is_set():
            return
        self.wfile.flush()
        answer.stalled.set()
        self.connection.settimeout(0.01)
        while not answer.release.is_set():
            try:
                if self.connection.recv(1) == b"":
                    raise _Cut
            except TimeoutError:
                continue
            except OSError:
                raise _Cut from None
        self.connection.settimeout(None)

    def _event(self, data: str) -> None:
        raw = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()


def _answer(plain: dict[str, Any]) -> Answer:
    plain = dict(plain)
    plain["calls"] = [(name, args) for name, args in plain.get("calls", [])]
    return Answer(**plain)


def _arguments(args: Any) -> str:
    return args if isinstance(args, str) else json.dumps(args)


def _completion(answer: Answer, request: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [
            {
                "id": answer.ids.format(n=n),
                "type": "function",
                "function": {"name": name, "arguments": _arguments(args)},
            }
            for n, (name, args) in enumerate(answer.calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason()}
    whole = {"id": "c-1", "object": "chat.completion", "created": 1, "model": request["model"]}
    return whole | {"choices": [choice], "usage": answer.usage}


def _chunks(answer: Answer, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks of a streamed answer, arguments in pieces as real servers send them."""

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {
            "id": "c-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": request["model"],
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }

    def pieces(text: str) -> list[str]:
        return [text[i : i + answer.piece] for i in range(0, len(text), answer.piece)]

    chunks = [chunk({"role": "assistant", "content": ""})]
    chunks += [chunk({"reasoning_content": piece}) for piece in pieces(answer.reasoning)]
    chunks += [chunk({"content": piece}) for piece in pieces(answer.text)]
    for n, (name, args) in enumerate(answer.calls):
        function = {"name": name, "arguments": ""}
        id = answer.ids.format(n=n)
        call = {"index": n, "id": id, "type": "function", "function": function}
        chunks.append(chunk({"tool_calls": [call]}))
        chunks += [
            chunk({"tool_calls": [{"index": n, "function": {"arguments": piece}}]})
            for piece in pieces(_arguments(args))
        ]
    finish = answer.finish_reason()
    if finish:
        chunks.append(chunk({}, finish))
    asked = (request.get("stream_options") or {}).get("include_usage")
    if asked and answer.usage is not None and answer.finish != "":
        chunks.append(chunk({}) | {"choices": [], "usage": answer.usage})
    return chunks


def _named(answer: Answer) -> list[dict[str, Any]]:
    """The same answer as events of the messages API; `usage` as that API counts."""
    usage = answer.usage or {}
    given = {key: value for key, value in usage.items() if key != "output_tokens"}
    started = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": given}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": started}]
    blocks: list[tuple[dict[str, Any], dict[str, Any]]] = []
    if answer.text:
        blocks.append(({"type": "text", "text": ""}, {"type": "text_delta", "text": answer.text}))
    for n, (name, args) in enumerate(answer.calls):
        block = {"type": "tool_use", "id": answer.ids.format(n=n), "name": name, "input": {}}
        blocks.append((block, {"type": "input_json_delta", "partial_json": _arguments(args)}))
    for index, (block, delta) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events.append({"type": "content_block_stop", "index": index})
    reason = "tool_use" if answer.calls else "end_turn"
    made = {"output_tokens": usage.get("output_tokens", 0)}
    events.append({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": made})
    return [*events, {"type": "message_stop"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", help="a JSON file with a list of answers")
    options = parser.parse_args()
    server = OpenAIServer(port=options.port)
    if options.script:
        with open(options.script) as file:
            server.say(*(_answer(one) for one in json.load(file)))
    print(server.base_url, flush=True)
    server.serve()


if __name__ == "__main__":
    main()
