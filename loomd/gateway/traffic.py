"""What passes on the connections of calls, told to their watches: connection, headers, bytes.

litellm's adapters make their HTTP clients themselves, each in its own way, and tell nothing of what
happens below an answer's pieces. All of them end at httpx's transport, so that is where it is seen;
nothing of what passes is changed. `CURRENT` of loomd.gateway.clocks says whose call it is.

A call whose connection has broken sends nothing more: litellm's own handler would send the same
request again (1.106: with every adapter but OpenAI's), which the provider may answer and charge a
second time while one attempt is booked. So would the clients of a dozen providers (deepinfra,
nvidia_nim, zai, ...), twice, and after an error of the server too: they are told not to.
Whether to try again is for `models` to say.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import httpx

from loomd.gateway.clocks import CURRENT, Watch

LIMITS: Final = re.compile(r"(x-ratelimit-|anthropic-ratelimit-).{1,80}|retry-after(-ms)?")
"""Names of headers that say how much more a provider takes, and when."""

NO_RETRY: Final = "x-should-retry"
"""By this header servers tell the clients of several providers whether to repeat a request."""

MOST: Final = 32
LONGEST: Final = 200


def limits(headers: Mapping[str, str]) -> dict[str, str]:
    """Those headers, names lowered: at most MOST, of LONGEST characters each. An adapter may have
    put the provider's behind a prefix of its own."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower().removeprefix("llm_provider-")
        if LIMITS.fullmatch(name) and len(found) < MOST:
            found[name] = str(value)[:LONGEST]
    return found


class _Heard(httpx.AsyncByteStream):
    """A response's body as it comes."""

    def __init__(self, stream: Any, watch: Watch) -> None:
        self._stream = stream
        self._watch = watch

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._stream:
                self._watch.heard()
                yield piece
        except httpx.TransportError as error:
            self._watch.broken = error
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()


_plain = httpx.AsyncHTTPTransport.handle_async_request


async def _watched(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
    watch = CURRENT.get()
    if watch is None:
        return await _plain(transport, request)

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("connect_tcp.started"):
            watch.connecting()
        elif event.endswith("send_request_headers.started"):
            watch.connected()

    if watch.broken is not None:
        raise watch.broken
    watch.where = request.url.netloc.decode("ascii", "replace")
    request.extensions = {**request.extensions, "trace": trace}
    try:
        response = await _plain(transport, request)
    except httpx.TransportError as error:
        watch.broken = error
        raise
    watch.headers, watch.status = limits(response.headers), response.status_code
    if response.is_error:
        response.headers[NO_RETRY] = "false"
    response.stream = _Heard(response.stream, watch)
    return response


def watch() -> None:
    """From here on, in this process. How many calls there are at once is decided by `models`: a
    client library's pool must not have some of them wait unseen."""
    httpx._config.DEFAULT_LIMITS.max_connections = None
    httpx.AsyncHTTPTransport.handle_async_request = _watched  # type: ignore[method-assign, assignment]
