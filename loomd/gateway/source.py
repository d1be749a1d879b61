"""An answer on its way: from the connection that litellm has opened to plain dicts, one a chunk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx

from loomd.gateway.assembly import Assembly
from loomd.gateway.events import Events

REST_S = 0.05
"""How long the end of a body is waited for behind the last word of its stream."""


class Source:
    """What `litellm.acompletion` has returned for these arguments. Of the servers of the common
    kind the bytes themselves are read (loomd.gateway.events): litellm's own reading loses what it
    does not expect (indexes, content in parts, who counted the tokens) and takes half a millisecond
    a chunk. Of all others it is litellm that knows the dialect."""

    def __init__(self, answer: Any, arguments: Mapping[str, Any]) -> None:
        self._answer = answer
        self._whole = not arguments["stream"]
        self._asked_stream = "stream_options" in arguments
        inner = getattr(answer, "completion_stream", None)
        response = getattr(inner, "response", None)
        self._response = response if hasattr(response, "aiter_bytes") else None

    async def chunks(self, assembly: Assembly) -> AsyncGenerator[Mapping[str, Any], None]:
        if self._whole:
            yield self._answer.model_dump(exclude_none=True)
            return
        if self._response is None:
            async for chunk in self._answer:
                yield chunk.model_dump(exclude_none=True)
            if _cut(self._answer):
                assembly.finish = "none"
            return
        events = Events()
        packets = self._response.aiter_bytes()
        try:
            async for packet in packets:
                for chunk in events.feed(packet):
                    yield chunk
                if events.done or events.over:
                    break
        except (httpx.ReadError, httpx.RemoteProtocolError):
            # Cut after its last word: nothing is missing.
            if assembly.finish == "none":
                raise
        for chunk in events.end():
            yield chunk
        if events.done:
            # Read to its very end, a connection can be used again.
            with contextlib.suppress(TimeoutError, httpx.HTTPError):
                async with asyncio.timeout(REST_S):
                    async for _ in packets:
                        pass
        assembly.received(events)
        if self._asked_stream and not events.streamed:
            assembly.repairs.note("whole")

    async def close(self) -> None:
        if not self._whole:
            await self._answer.aclose()


def _cut(stream: Any) -> bool:
    """Whether the provider never said that its answer is finished: litellm then says `stop` in
    its place, which would make half an answer look whole."""
    said = (
        getattr(stream, "received_finish_reason", "?"),
        getattr(stream, "intermittent_finish_reason", None),
    )
    return said == (None, None)
