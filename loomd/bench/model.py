"""A model that says what the bench wants: an OpenAI-compatible server on this machine.

Each conversation gets the calls of its script in its first answer, and a last word after them; one
that is held gets the beginning of an answer, and no end.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from loomd.bench.instance import KEY_FILE

NAME: Final = "openai/bench"
CONFIG: Final = """
[models]
default = "{name}"
[providers.openai]
api_base = "http://127.0.0.1:{port}/v1"
api_key_file = "{key}"
[review]
required = false
"""

Calls = list[tuple[str, dict[str, Any]]]


class Model:
    """`calls`: what the next conversation is told to call; `holds`: whether its answer has no end.
    Owned by the bench's thread. Of each answer that is held `begun` gets an item, and `closed` when
    (perf_counter seconds) the other side has closed its connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.calls: Calls = []
        self.holds = False
        self.begun: queue.Queue[bool] = queue.Queue()
        self.closed: queue.Queue[float] = queue.Queue()

    def config(self) -> str:
        """A daemon's configuration that uses it."""
        return CONFIG.format(name=NAME, port=self.port, key=KEY_FILE)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: Model

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.close_connection = True
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        messages = json.loads(raw)["messages"]
        acted = any(message["role"] == "tool" for message in messages)
        delta: dict[str, Any] = {"role": "assistant"}
        if acted or not self.model.calls:
            delta["content"] = "done"
        else:
            delta["tool_calls"] = [
                {
                    "index": i,
                    "id": f"call_{i}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(args)},
                }
                for i, (name, args) in enumerate(self.model.calls)
            ]
        reason = "tool_calls" if "tool_calls" in delta else "stop"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for piece, finish in ((delta, None), ({}, reason)):
            if finish is not None and self.model.holds:
                return self._hold()
            chunk = {
                "id": "bench",
                "object": "chat.completion.chunk",
                "created": 0,
                "model": "bench",
                "choices": [{"index": 0, "delta": piece, "finish_reason": finish}],
            }
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def _hold(self) -> None:
        self.model.begun.put(True)
        with contextlib.suppress(ConnectionError):
            while self.connection.recv(1024):
                pass
        self.model.closed.put(time.perf_counter())


@contextlib.contextmanager
def serving() -> Iterator[Model]:
    """The server, in threads of its own, gone afterwards."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    model = Model(http.server_address[1])
    http.RequestHandlerClass = type("Handler", (_Handler,), {"model": model})
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), name="bench-model")
    thread.start()
    try:
        yield model
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
