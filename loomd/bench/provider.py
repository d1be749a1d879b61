"""A provider in a process of its own: `python -m loomd.bench.provider` prints its port.

A request's model says what it answers: `openai/w-PIECES-MS` streams so many pieces, one every so
many milliseconds (the first at once), or says the same in one answer if it is asked for that. GET
/times tells when (monotonic seconds, of this machine) each answer since the last time began and
ended, under the text of its first message. Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any, Final

CONFIG: Final = """
[models]
default = "{model}"
[providers.openai]
api_base = "http://127.0.0.1:{port}/v1"
api_key_file = "KEY-FILE"
concurrency = 5000
stream = {stream}
"""

PIECE: Final = "word "


class Provider:
    """The server's process, as the bench sees it."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def config(self, model: str, *, stream: bool) -> str:
        """A daemon's configuration that uses it."""
        return CONFIG.format(model=model, port=self.port, stream=str(stream).lower())

    def times(self) -> dict[str, list[float]]:
        """text -> [begun, ended] of the answers since the last time."""
        url = f"http://127.0.0.1:{self.port}/times"
        with urllib.request.urlopen(url, timeout=30) as reply:
            found: dict[str, list[float]] = json.loads(reply.read())
        return found


@contextlib.contextmanager
def serving() -> Iterator[Provider]:
    process = subprocess.Popen(
        [sys.executable, "-m", "loomd.bench.provider"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield Provider(int(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


# --- the process -------------------------------------------------------------------------------


class _Server:
    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    self._reply(writer, self.times)
                    self.times = {}
                else:
                    fields = head.lower().split(b"content-length:")[1]
                    body = json.loads(await reader.readexactly(int(fields.split(b"\r\n")[0])))
                    await self._answer(writer, body)
                await writer.drain()
        writer.close()

    def _reply(self, writer: asyncio.StreamWriter, value: Any) -> None:
        raw = json.dumps(value).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}"
        writer.write(f"{head}\r\n\r\n".encode() + raw)

    async def _answer(self, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        _, pieces, pause = body["model"].rsplit("-", 2)
        text = body["messages"][0]["content"]
        begun = time.monotonic()
        if body.get("stream"):
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                b"transfer-encoding: chunked\r\n\r\n"
            )
            for n in range(int(pieces)):
                wait = begun + n * int(pause) / 1000 - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                _event(writer, {"delta": {"content": PIECE}, "finish_reason": None})
                await writer.drain()
            _event(writer, {"delta": {}, "finish_reason": "stop"}, usage=_USAGE)
            _part(writer, b"data: [DONE]\n\n")
            writer.write(b"0\r\n\r\n")
        else:
            message = {"role": "assistant", "content": PIECE * int(pieces)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._reply(writer, _BASE | {"choices": [choice], "usage": _USAGE})
        self.times[text] = [begun, time.monotonic()]


_BASE: Final = {"id": "b", "object": "chat.completion", "created": 0, "model": "bench"}
_USAGE: Final = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}


def _event(writer: asyncio.StreamWriter, choice: dict[str, Any], **more: Any) -> None:
    chunk = _BASE | {"object": "chat.completion.chunk", "choices": [{"index": 0} | choice]} | more
    _part(writer, f"data: {json.dumps(chunk)}\n\n".encode())


def _part(writer: asyncio.StreamWriter, raw: bytes) -> None:
    writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")


async def _main() -> None:
    made = _Server()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), end.set)
    await end.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(_main())
