"""The only import of litellm: a resolved request in, a `Reply` out, its pieces on the way.

Importing this module imports litellm, which takes seconds and 150 MB: the second template does it
before it forks, else the gateway does it in a thread when the first real model is used. Everything
that litellm would do besides the call (its own retries, telemetry, fetching its price map, aiohttp
sessions that nobody closes) is off. Nothing but cancellation is raised out of `complete`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import msgspec

# Before the import: without it litellm fetches its price map and leaves a thread behind.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("LITELLM_LOG", "ERROR")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own and its dependencies' imports, nothing of ours
    import litellm

from loomd.gateway import calling, classify, traffic, view
from loomd.gateway.clocks import CONNECT, Clocks, Watch
from loomd.gateway.keys import Keys, NoKeyError
from loomd.gateway.types import Reply, Resolved, Watcher
from loomd.wire.bodies import Failed, Outcome, Usage

litellm.telemetry = False
litellm.disable_hf_tokenizer_download = True
litellm.num_retries = 0
litellm.drop_params = True  # a model that takes no temperature is asked without one
litellm.suppress_debug_info = True
litellm.disable_streaming_logging = True
litellm.disable_aiohttp_transport = True
litellm.callbacks = []
litellm.input_callback = litellm.success_callback = litellm.failure_callback = []
for _name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
    # What it has to say comes as exceptions; its log may hold what it has sent.
    logging.getLogger(_name).disabled = True
traffic.watch()

Price = tuple[float, float]

COUNT_S = 2.0
"""For counting the tokens of a call that was cancelled."""

CANCELLED = Failed(kind="cancelled", detail="cancelled while the model was working")

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

PROVIDERS = frozenset(str(getattr(one, "value", one)) for one in litellm.provider_list)


class Backend:
    """Calls any model that litellm knows, and any OpenAI-compatible server by `api_base`."""

    def __init__(self, settings: Mapping[str, Any], keys: Keys) -> None:
        self._settings = settings
        self._providers: Mapping[str, Mapping[str, Any]] = settings.get("providers") or {}
        self._keys = keys

    async def complete(self, resolved: Resolved, watcher: Watcher) -> Reply:
        """One attempt. Cancelled by who wants no answer any more (`watcher.cancelled`) it ends
        with what it has cost so far; cancelled otherwise it ends at once."""
        assembly = classify.Assembly()
        price = _price(resolved.model)
        provider, _ = _split(resolved.model)
        watch = Watch(Clocks.of(self._settings, provider), watcher.phase)
        outcome: Outcome
        try:
            arguments = await self._arguments(resolved, watch.clocks)
            async with watch:
                stream = await litellm.acompletion(**arguments)
                try:
                    async for chunk in stream:
                        watch.heard()
                        plain = chunk.model_dump(exclude_none=True)
                        if not watcher.pieces(*assembly.feed(plain), calling.pieces(plain)):
                            break
                finally:
                    # Also on cancellation: the connection is closed, not drained.
                    await stream.aclose()
            if _cut(stream):
                assembly.finish = ""
            outcome = assembly.outcome()
        except asyncio.CancelledError:
            if not watcher.cancelled():
                raise
            outcome = CANCELLED
        except TimeoutError:
            outcome = watch.failed()
        except Exception as error:  # noqa: BLE001 - litellm raises anything; all of it is classified
            outcome = _failed(error)
            watch.headers = watch.headers or traffic.limits(_headers(error))
        return await self._reply(resolved, assembly, outcome, price, watch)

    async def close(self) -> None:
        """Closes pooled connections."""
        close: Any = getattr(litellm, "close_litellm_async_clients")  # noqa: B009 - not in its stubs
        await close()

    async def _arguments(self, resolved: Resolved, clocks: Clocks) -> dict[str, Any]:
        provider, name = _split(resolved.model)
        configured = self._providers.get(provider) or {}
        base = configured.get("api_base") or ""
        key = await self._keys.of(provider, configured)
        arguments: dict[str, Any] = {
            **CALL,
            "model": f"{provider}/{name}",
            "messages": view.chat(resolved),
            "stream_options": {"include_usage": True},
            # Ours are the ones that matter; this ends what has lost its task.
            "timeout": httpx.Timeout(clocks.total_s + 5.0),
        }
        if base:
            arguments["api_base"] = base
            if provider not in PROVIDERS:
                # A name of the user's own for a server of the common kind.
                arguments["model"] = f"openai/{name}"
            key = key or NO_KEY
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

    async def _reply(
        self,
        resolved: Resolved,
        assembly: classify.Assembly,
        outcome: Outcome,
        price: Price | None,
        watch: Watch,
    ) -> Reply:
        usage = assembly.tokens()
        cost: float | None = None
        known = "unknown"
        if usage is None:
            usage = Usage(cost_usd=None, calls=1)
            if price is not None and outcome == CANCELLED:
                usage, cost, known = await self._so_far(resolved, assembly, price, watch)
        else:
            cost = _cost(resolved.model, assembly.usage) if price is not None else None
            known = "unknown" if cost is None else "computed"
            told = usage.cost_usd
            if told is not None and (cost is None or not math.isclose(told, cost, rel_tol=1e-6)):
                # litellm puts its own computation into the usage: another figure is the provider's.
                cost, known = told, "reported"
        counted = msgspec.structs.replace(usage, cost_usd=cost)
        return Reply(outcome, counted, known, price, dict(watch.headers))

    async def _so_far(
        self, resolved: Resolved, assembly: classify.Assembly, price: Price, watch: Watch
    ) -> tuple[Usage, float | None, str]:
        """What a cancelled call has cost: what was sent and what has come, counted here, because
        nobody else will say. A call that no server has got yet has cost nothing."""
        if watch.phase in ("", CONNECT):
            return Usage(calls=1), 0.0, "computed"
        try:
            async with asyncio.timeout(COUNT_S):
                sent, made = await asyncio.to_thread(_counted, resolved, assembly)
        except Exception:  # noqa: BLE001 - tokenizers raise anything; it is told as unknown
            return Usage(cost_usd=None, calls=1), None, "unknown"
        usage = Usage(input_tokens=sent, output_tokens=made, calls=1)
        return usage, sent * price[0] + made * price[1], "computed"


def _cut(stream: Any) -> bool:
    """Whether the provider never said that its answer is finished: litellm then says `stop` in
    its place, which would make half an answer look whole."""
    said = (
        getattr(stream, "received_finish_reason", "?"),
        getattr(stream, "intermittent_finish_reason", None),
    )
    return said == (None, None)


def _split(model: str) -> tuple[str, str]:
    """(provider, the model's name there); a name without a provider is openai's."""
    provider, slash, name = model.partition("/")
    return (provider, name) if slash else ("openai", model)


# --- money -------------------------------------------------------------------------------------


def about(model: str) -> dict[str, Any]:
    """What litellm's map says of a model, under its names; {} if it is not in there."""
    provider, name = _split(model)
    try:
        return dict(litellm.get_model_info(model=name, custom_llm_provider=provider))
    except Exception:  # noqa: BLE001 - it raises a bare Exception for a model it does not know
        return {}


def _price(model: str) -> Price | None:
    """USD per input and output token from litellm's price map."""
    info = about(model)
    prices = info.get("input_cost_per_token"), info.get("output_cost_per_token")
    if prices[0] is None or prices[1] is None:
        return None
    return float(prices[0]), float(prices[1])


def _counted(resolved: Resolved, assembly: classify.Assembly) -> tuple[int, int]:
    """(input, output) tokens of an answer as far as it has come, by litellm's tokenizers."""
    made = [*assembly.text, *assembly.reasoning]
    made += [piece.name + piece.arguments for piece in assembly.calls.values()]
    sent = litellm.token_counter(model=resolved.model, messages=view.chat(resolved))
    text = classify.characters("".join(made))
    return sent, litellm.token_counter(model=resolved.model, text=text) if text else 0


def _cost(model: str, usage: Mapping[str, Any]) -> float | None:
    provider, name = _split(model)
    try:
        there, back = litellm.cost_per_token(
            model=name, custom_llm_provider=provider, usage_object=litellm.Usage(**usage)
        )
    except Exception:  # noqa: BLE001 - as above; an unknown cost is told as unknown
        return None
    return float(there + back)


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
    # A connection that breaks in the middle of an answer is an error without a word.
    said = next((str(one) for one in (error, *chain) if str(one)), f"it broke off ({names[0]})")
    return classify.failure(names, status, said, _headers(error), time.time())


def _headers(error: Exception) -> dict[str, str]:
    """Of the provider's response, if there was one."""
    headers: dict[str, str] = {}
    for one in _chain(error):
        response = getattr(one, "response", None)
        found = getattr(response, "headers", None) or getattr(one, "litellm_response_headers", None)
        if found:
            headers = {**dict(found), **headers}
    return headers


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
