"""The only import of litellm: a resolved request in, a `Reply` out, its pieces on the way.

Importing this module imports litellm, which takes seconds and 150 MB: the second template does it
before it forks, else the gateway does it in a thread when the first real model is used. Everything
that litellm would do besides the call (its own retries, telemetry, fetching its price map, aiohttp
sessions that nobody closes) is off. Nothing but cancellation is raised out of `complete`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

# Before the import: without it litellm fetches its price map and leaves a thread behind.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("LITELLM_LOG", "ERROR")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own and its dependencies' imports, nothing of ours
    import litellm

from loomd.gateway import classify, counts, view
from loomd.gateway.source import Source
from loomd.gateway.types import Reply, Resolved
from loomd.wire.bodies import Failed, Outcome, Priced, Usage

litellm.telemetry = False
litellm.disable_hf_tokenizer_download = True
litellm.num_retries = 0
litellm.drop_params = True  # a model that takes no temperature is asked without one
litellm.suppress_debug_info = True
litellm.disable_streaming_logging = True
litellm.disable_aiohttp_transport = True

OnPiece = Callable[[str, str], None]
"""(text, reasoning) that a chunk added."""

Price = tuple[float, float]

NO_KEY = "none"
"""Said to a server that the user runs: its client library demands some key."""

CALL = {
    "max_retries": 0,
    "num_retries": 0,
    "stream": True,
    # With tools in a call litellm would import its MCP gateway, and that a package that is not
    # among its dependencies (1.106: every call with tools fails without it).
    "_skip_mcp_handler": True,
}

PRICES = f"litellm {importlib.metadata.version('litellm')}"
"""The version of the price map: it comes with the library."""

PROVIDERS = frozenset(str(getattr(one, "value", one)) for one in litellm.provider_list)


@dataclass(frozen=True)
class Clocks:
    """Seconds. `first_byte`: from the start of the call to its first piece; `between`: from one
    piece to the next."""

    connect_s: float = 10.0
    first_byte_s: float = 120.0
    between_s: float = 60.0
    total_s: float = 900.0

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Clocks:
        """From `models.clocks`, a map with any of the fields."""
        return Clocks(**((settings.get("models") or {}).get("clocks") or {}))


class Backend:
    """Calls any model that litellm knows, and any OpenAI-compatible server by `api_base`."""

    def __init__(self, settings: Mapping[str, Any], keys: Mapping[str, str]) -> None:
        self._providers: Mapping[str, Mapping[str, Any]] = settings.get("providers") or {}
        self._keys = keys
        self.clocks = Clocks.of(settings)

    async def complete(self, resolved: Resolved, on_piece: OnPiece) -> Reply:
        assembly = classify.Assembly()
        headers: dict[str, str] = {}
        clocks = self.clocks
        price = _price(resolved.model)
        outcome: Outcome
        waited = classify.timed_out("first_byte", clocks.first_byte_s)
        stalled = classify.timed_out("stalled", clocks.between_s)
        total = asyncio.timeout(clocks.total_s)
        try:
            arguments = self._arguments(resolved)
            # A whole answer has no first byte before its last.
            first = clocks.first_byte_s if "stream_options" in arguments else None
            async with total, asyncio.timeout(first) as clock:
                stream = await litellm.acompletion(**arguments)
                headers = _headers_of(stream)
                source = Source(stream, arguments)
                try:
                    async with contextlib.aclosing(source.chunks(assembly)) as chunks:
                        async for chunk in chunks:
                            waited = stalled
                            clock.reschedule(asyncio.get_running_loop().time() + clocks.between_s)
                            on_piece(*assembly.feed(chunk))
                finally:
                    # Also on cancellation: the connection is closed, not drained.
                    await source.close()
            outcome = classify.outcome(assembly.answer(), resolved.tools)
        except TimeoutError:
            outcome = classify.timed_out("total", clocks.total_s) if total.expired() else waited
        except Exception as error:  # noqa: BLE001 - litellm raises anything; all of it is classified
            headers = _headers(error) or headers
            outcome = _failed(error)
        return await self._reply(resolved, assembly, outcome, price, headers)

    def priced(self, model: str) -> Priced:
        """What a call of `model` costs, from litellm's price map."""
        longest = _info(model).get("max_output_tokens")
        return Priced(
            model=model,
            price=_price(model),
            version=PRICES,
            max_output=longest if isinstance(longest, int) and longest > 0 else None,
        )

    async def close(self) -> None:
        """Closes pooled connections."""
        close: Any = getattr(litellm, "close_litellm_async_clients")  # noqa: B009 - not in its stubs
        await close()

    def _arguments(self, resolved: Resolved) -> dict[str, Any]:
        provider, slash, name = resolved.model.partition("/")
        provider, name = (provider, name) if slash else ("openai", resolved.model)
        configured = self._providers.get(provider) or {}
        base = configured.get("api_base") or ""
        key = self._key(configured) or self._keys.get(f"{provider.upper()}_API_KEY", "")
        arguments: dict[str, Any] = {
            **CALL,
            "model": f"{provider}/{name}",
            "messages": view.chat(resolved),
            "timeout": httpx.Timeout(
                # Ours are the ones that matter; these end what has lost its task.
                max(self.clocks.first_byte_s, self.clocks.between_s) + 5.0,
                connect=self.clocks.connect_s,
            ),
        }
        if base:
            arguments["api_base"] = base
            if provider not in PROVIDERS:
                # A name of the user's own for a server of the common kind.
                arguments["model"] = f"openai/{name}"
            key = key or NO_KEY
        if configured.get("stream", True):
            arguments["stream_options"] = {"include_usage": True}
        elif base and arguments["model"].startswith("openai/"):
            # Asked for a whole answer and read as it comes: litellm would rebuild it, and fails
            # at what it does not know.
            arguments["extra_body"] = {"stream": False}
        else:
            arguments["stream"] = False
        if key:
            arguments["api_key"] = key
        if resolved.tools:
            arguments["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": tool.parameters,
                    },
                }
                for tool in resolved.tools
            ]
        if resolved.max_tokens is not None:
            arguments["max_tokens"] = resolved.max_tokens
        if resolved.temperature is not None:
            arguments["temperature"] = resolved.temperature
        return arguments

    def _key(self, configured: Mapping[str, Any]) -> str:
        """The configured key; "": litellm's default for the provider. A named variable or file
        that is missing raises, so that no other key is sent in its place."""
        if name := configured.get("api_key_env"):
            key = self._keys.get(name) or os.environ.get(name) or ""
            if not key:
                raise NoKeyError(f"the variable {name} (api_key_env) was not set for the daemon")
            return key
        if path := configured.get("api_key_file"):
            try:
                return Path(path).expanduser().read_text().strip()
            except OSError as error:
                raise NoKeyError(f"api_key_file {path}: {error.strerror}") from None
        return ""

    async def _reply(
        self,
        resolved: Resolved,
        assembly: classify.Assembly,
        outcome: Outcome,
        price: Price | None,
        headers: Mapping[str, str],
    ) -> Reply:
        version = "" if price is None else PRICES
        usage, whole = counts.tokens(assembly.usage)
        if not whole and price is not None and not isinstance(outcome, Failed):
            # A server that does not count, or in part: what has a price is counted here.
            counted = await asyncio.to_thread(_counted, resolved, assembly)
            reported = None if usage is None else usage.cost_usd
            usage = msgspec.structs.replace(counted, cost_usd=reported) if counted else usage
            whole = counted is not None
        if usage is None:
            none = Usage(cost_usd=None, calls=1)
            return Reply(outcome, none, "unknown", price, headers, version)
        cost = _cost(resolved.model, usage) if price is not None and whole else None
        known = "unknown" if cost is None else "computed"
        told = usage.cost_usd
        if told is not None and (cost is None or not math.isclose(told, cost, rel_tol=1e-6)):
            # litellm puts its own computation into what it has read: another figure is the
            # provider's.
            cost, known = told, "reported"
        usage = msgspec.structs.replace(usage, cost_usd=cost)
        return Reply(outcome, usage, known, price, headers, version)


class NoKeyError(Exception):
    """The configured key is not there."""


# --- money -------------------------------------------------------------------------------------


def _price(model: str) -> Price | None:
    """USD per input and output token from litellm's price map: the dearest kind of each, since the
    worst case is reserved with it."""
    info = _info(model)
    there, back = info.get("input_cost_per_token"), info.get("output_cost_per_token")
    if there is None or back is None:
        return None
    written = info.get("cache_creation_input_token_cost") or 0.0
    thought = info.get("output_cost_per_reasoning_token") or 0.0
    return max(float(there), float(written)), max(float(back), float(thought))


def _info(model: str) -> Mapping[str, Any]:
    """What litellm's map says of a model; nothing if it is not in there."""
    provider, slash, name = model.partition("/")
    provider, name = (provider, name) if slash else ("openai", model)
    try:
        found: Mapping[str, Any] = litellm.get_model_info(model=name, custom_llm_provider=provider)
    except Exception:  # noqa: BLE001 - it raises a bare Exception for a model it does not know
        return {}
    return found


def _cost(model: str, usage: Usage) -> float | None:
    provider, slash, name = model.partition("/")
    provider, name = (provider, name) if slash else ("openai", model)
    counted = litellm.Usage(
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        prompt_tokens_details={"cached_tokens": usage.cached_tokens},
        completion_tokens_details={"reasoning_tokens": usage.reasoning_tokens},
        cache_creation_input_tokens=usage.cache_write_tokens,
        cache_read_input_tokens=usage.cached_tokens,
    )
    try:
        there, back = litellm.cost_per_token(
            model=name, custom_llm_provider=provider, usage_object=counted
        )
    except Exception:  # noqa: BLE001 - as above; an unknown cost is told as unknown
        return None
    return float(there + back)


def _counted(resolved: Resolved, assembly: classify.Assembly) -> Usage | None:
    """Tokens counted by litellm's tokenizers."""
    try:
        given = litellm.token_counter(model=resolved.model, messages=view.chat(resolved))
        output = litellm.token_counter(model=resolved.model, text=assembly.written())
    except Exception:  # noqa: BLE001 - as above; a count that fails is told as unknown
        return None
    return Usage(input_tokens=given, output_tokens=output, calls=1)


# --- errors ------------------------------------------------------------------------------------


def _failed(error: Exception) -> Failed:
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
    return classify.failure(names, status, str(error), _headers(error), time.time(), codes)


def _of_body(error: BaseException, key: str) -> Any:
    """Of the provider's error object, which litellm's exceptions keep as it was."""
    body = getattr(error, "body", None)
    return body.get(key) if isinstance(body, Mapping) else None


def _headers(error: BaseException) -> dict[str, str]:
    """Of the provider's response, if there was one."""
    headers: dict[str, str] = {}
    for one in _chain(error):
        response = getattr(one, "response", None)
        found = getattr(response, "headers", None) or getattr(one, "litellm_response_headers", None)
        if found:
            headers = {**dict(found), **headers}
    return headers


def _headers_of(stream: Any) -> dict[str, str]:
    """Of the response that a stream comes from; none if the library does not tell."""
    return dict(getattr(stream, "_response_headers", None) or {})


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
