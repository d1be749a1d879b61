"""What a client library has raised -> Failed: names, status, codes and words from the whole chain
of exceptions, and from what was seen on the connection.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from loomd.gateway import classify
from loomd.gateway.clocks import Watch
from loomd.gateway.keys import NoKeyError
from loomd.wire.bodies import Failed


def failed(error: Exception, watch: Watch) -> Failed:
    """What it says of the call. `watch` has seen what the library does not tell."""
    if watch.late:
        # A clock has run out, and what it has ended said something else of it.
        return watch.failed()
    if isinstance(error, NoKeyError):
        return classify.failure(("AuthenticationError",), 401, str(error))
    chain = list(_chain(error))
    names = tuple(
        dict.fromkeys(
            kind.__name__
            for one in chain
            for kind in type(one).__mro__
            if kind not in (object, BaseException, Exception)
        )
    )
    status = next(
        (s for one in chain if isinstance(s := getattr(one, "status_code", None), int)), None
    )
    codes = tuple(
        code
        for one in chain
        for key in ("code", "type")
        if isinstance(code := getattr(one, key, None) or _of_body(one, key), str)
    )
    # A connection that breaks in the middle of an answer is an error without a word.
    said = next((str(one) for one in (error, *chain) if classify.readable(str(one))), "")
    said = said or f"the connection broke off ({names[0]})"
    if watch.broken is not None:
        # The client library says no more than "Connection error.".
        cause = next((str(one) for one in _chain(watch.broken) if str(one)), "it broke off")
        said = f"{watch.where}: {cause}"
    made = classify.failure(names, status, said, headers(error), time.time(), codes)
    if "LLM Provider NOT provided" in made.detail:
        said = "litellm knows no provider of this name, and no api_base is configured for it"
        return msgspec.structs.replace(made, detail=said)
    if made.kind == "network" and watch.status is not None and watch.status >= 400:
        # The server had said what it was; only the words for it were cut off.
        said = f"the server answered with status {watch.status}, and broke off"
        return classify.failure((), watch.status, said, watch.headers, time.time())
    return made


def _of_body(error: BaseException, key: str) -> Any:
    """Of the provider's error object, which litellm's exceptions keep as it was."""
    body = getattr(error, "body", None)
    return body.get(key) if isinstance(body, Mapping) else None


def headers(error: Exception) -> dict[str, str]:
    """Of the provider's response, if there was one."""
    told: dict[str, str] = {}
    for one in _chain(error):
        response = getattr(one, "response", None)
        found = getattr(response, "headers", None) or getattr(one, "litellm_response_headers", None)
        if found:
            told = {**dict(found), **told}
    return told


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the origin of a wrapper first."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [getattr(error, "original_exception", None), error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]
