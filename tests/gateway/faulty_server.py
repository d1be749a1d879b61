"""A server of the common kind that does to each request what its `Fault` says. Real sockets.

The model's name in the request names the fault: `openai/f-3` is `faults[3]`.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

FOREVER = 3600.0
TEXT = "hello there, this is whole"

Phase = Literal["accept", "headers", "body", "middle", "end"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    status     of the response
    delay      (before which phase, seconds)
    cut        bytes of the whole response after which the connection ends; `reset`: by a reset;
               `half_open`: it only falls silent
    garbage    bytes in place of the body; `at`: put into the body at that byte
    drip       bytes of the body sent at once, with a pause after each
    streamed   without a length in the head
    """

    status: int = 200
    delay: tuple[Phase, float] = ("accept", 0.0)
    cut: int | None = None
    reset: bool = False
    half_open: bool = False
    garbage: bytes = b""
    at: int | None = None
    drip: int = 0
    streamed: bool = True

    @property
    def harmless(self) -> bool:
        """Whether there is an answer in it all the same."""
        waits = self.delay[1] < 1.0
        return self.status == 200 and waits and self.cut is None and not self.garbage


GOOD = Fault()


def _body(fault: Fault) -> bytes:
    if fault.status != 200:
        return json.dumps({"error": {"message": "a fault", "type": "error"}}).encode()
    said: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        for piece in re.findall(r".{1,4}", TEXT)
    ]
    said.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    events = [f"data: {json.dumps({**head, **chunk})}\n\n" for chunk in said]
    return "".join([*events, "data: [DONE]\n\n"]).encode()


def response(fault: Fault) -> tuple[bytes, bytes]:
    """(head, body)."""
    body = _body(fault)
    if fault.garbage:
        at = fault.at
        body = fault.garbage if at is None else body[:at] + fault.garbage + body[at:]
    kind = "text/event-stream" if fault.status == 200 else "application/json"
    head = f"HTTP/1.1 {fault.status} X\r\ncontent-type: {kind}\r\nconnection: close\r\n"
    if not fault.streamed:
        head += f"content-length: {len(body)}\r\n"
    return f"{head}\r\n".encode(), body


class FaultyServer:
    """`served`: how many requests have come, by the index of their fault."""

    def __init__(self) -> None:
        self.faults: Sequence[Fault] = ()
        self.served: dict[int, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-server")
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        self._port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", raw)
            asked = json.loads(await reader.readexactly(int(length[1]) if length else 0))
            index = int(asked["model"].removeprefix("f-"))
            self.served[index] = self.served.get(index, 0) + 1
            answering = self._loop.create_task(self._answer(self.faults[index], writer))
            gone = self._loop.create_task(reader.read())
            try:
                await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (answering, gone):
                    task.cancel()
                await asyncio.gather(answering, gone, return_exceptions=True)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side has gone: that is what some faults are for
        finally:
            writer.transport.abort()

    async def _answer(self, fault: Fault, writer: asyncio.StreamWriter) -> None:
        phase, seconds = fault.delay
        head, body = response(fault)
        half = len(body) // 2
        parts: list[tuple[Phase, bytes]] = [
            ("accept", b""),
            ("headers", head),
            ("body", body[:half]),
            ("middle", body[half:]),
            ("end", b""),
        ]
        left = fault.cut
        for where, part in parts:
            if where == phase:
                await asyncio.sleep(seconds)
            piece = part if left is None else part[:left]
            await self._send(0 if where == "headers" else fault.drip, writer, piece)
            if left is not None:
                left -= len(piece)
                if left <= 0:
                    return await self._break(fault, writer)
        writer.close()
        await writer.wait_closed()

    async def _send(self, drip: int, writer: asyncio.StreamWriter, part: bytes) -> None:
        step = drip or max(1, len(part))
        for start in range(0, len(part), step):
            writer.write(part[start : start + step])
            await writer.drain()
            if drip:
                await asyncio.sleep(0.002)

    async def _break(self, fault: Fault, writer: asyncio.StreamWriter) -> None:
        if fault.half_open:
            await asyncio.sleep(FOREVER)
        if fault.reset:
            made = writer.get_extra_info("socket")
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
