"""The only import of litellm: a resolved request in, a `Reply` out, its pieces on the way.

Importing this module imports litellm, which takes seconds and 150 MB: the second template does it
before it forks, else the gateway does it in a thread when the first real model is used. Everything
that litellm would do besides the call (its own retries, telemetry, fetching its price map, aiohttp
sessions that nobody closes) is off. Nothing but cancellation is raised out of `complete`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import logging
import math
import os
import warnings
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec

# Before the import: without it litellm fetches its price map and leaves a thread behind.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("LITELLM_LOG", "ERROR")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own and its dependencies' imports, nothing of ours
    import litellm
    from litellm.llms.ollama.common_utils import OllamaModelInfo

from loomd.gateway import caching, classify, counts, raised, traffic, view
from loomd.gateway.clocks import CONNECT, Clocks, Watch
from loomd.gateway.keys import Keys
from loomd.gateway.source import Source
from loomd.gateway.types import Reply, Resolved, Watcher
from loomd.wire.bodies import Failed, Outcome, Priced, Usage
from loomd.wire.models import split

litellm.telemetry = False
litellm.disable_hf_tokenizer_download = True
litellm.num_retries = 0
litellm.drop_params = True  # a model that takes no temperature is asked without one
litellm.suppress_debug_info = True
litellm.disable_streaming_logging = True
litellm.disable_aiohttp_transport = True
for _name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
    # What it has to say comes as exceptions; its log may hold what it has sent.
    logging.getLogger(_name).disabled = True
traffic.watch()


def _ask_nobody() -> None:
    """Of some models litellm asks a server what they are: a hub of models, or whoever listens at
    the default address of the server's kind, whatever its `api_base` is. The loop, and thus every
    call, waits for the answer, at each price and each call. Here what is known is in the map."""

    def local(self: Any, model: str, *_: Any, **__: Any) -> dict[str, Any]:
        return {"key": model, "mode": "chat", **LOCAL}

    for place in (OllamaModelInfo, litellm.OllamaConfig, litellm.LemonadeChatConfig):
        setattr(place, "get_model_info", local)  # noqa: B010 - not ours to declare
    setattr(litellm.utils, "_get_max_position_embeddings", lambda model: None)  # noqa: B010


LOCAL = {"litellm_provider": "ollama", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
"""What is known of any model on such a server: it is the user's own."""

_ask_nobody()

EARLY = (
    *("anyio._backends._asyncio", "h11", "h2.connection", "httpcore"),
    *("openai.resources", "openai._send_queue"),
    *("litellm._service_logger", "litellm.litellm_core_utils.default_encoding"),
    *("litellm.proxy._types", "litellm.proxy.openai_files_endpoints.common_utils"),
    "litellm.llms.litellm_proxy.chat.transformation",
    "litellm.llms.openai.chat.gpt_audio_transformation",
    "litellm.llms.openai_like.dynamic_config",
    "litellm.llms.vertex_ai.context_caching.vertex_ai_context_caching",
    "litellm.llms.vertex_ai.vertex_ai_partner_models.anthropic.transformation",
)
"""What else a process's first call and first count import, with its loop waiting for a second:
whoever is cancelled meanwhile pays on, and each gateway has 60 MB of its own for it."""

CALLBACKS = (
    *("callbacks", "input_callback", "success_callback", "failure_callback", "service_callback"),
    *("_async_input_callback", "_async_success_callback", "_async_failure_callback"),
)
"""Lists of whom litellm tells about a call: nobody."""

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for _name in EARLY:
        with contextlib.suppress(ImportError):  # of another version: then the first call does it
            importlib.import_module(_name)

for _name in CALLBACKS:  # after the imports: a module of its own puts one in
    setattr(litellm, _name, [])

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

PRICES = f"litellm {importlib.metadata.version('litellm')}"
"""The version of the price map: it comes with the library."""

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
        provider, _ = split(resolved.model)
        watch = Watch(Clocks.of(self._settings, provider), watcher.phase)
        outcome: Outcome
        try:
            arguments = await self._arguments(resolved, watch.clocks)
            if "stream_options" not in arguments:
                watch.whole()
            async with watch:
                source = Source(await litellm.acompletion(**arguments), arguments)
                try:
                    async with contextlib.aclosing(source.chunks(assembly)) as chunks:
                        async for chunk in chunks:
                            watch.heard()
                            if not watcher.pieces(*assembly.feed(chunk)):
                                break
                finally:
                    # Also on cancellation: the connection is closed, not drained.
                    await source.close()
            outcome = classify.outcome(assembly.answer(), resolved.tools)
        except asyncio.CancelledError:
            if not watcher.cancelled():
                raise
            outcome = CANCELLED
        except TimeoutError:
            outcome = watch.failed()
        except Exception as error:  # noqa: BLE001 - litellm raises anything; all of it is classified
            outcome = raised.failed(error, watch)
            watch.headers = watch.headers or traffic.limits(raised.headers(error))
        if isinstance(outcome, Failed) and outcome.kind == "auth":
            self._keys.refused(self._providers.get(provider) or {})
        return await self._reply(resolved, assembly, outcome, price, watch)

    def priced(self, model: str) -> Priced:
        """What a call of `model` costs, from litellm's price map."""
        longest = about(model).get("max_output_tokens")
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
        # A closed client would be found again under another loop of the same address.
        cache: Any = litellm.in_memory_llm_clients_cache
        cache.flush_cache()

    async def _arguments(self, resolved: Resolved, clocks: Clocks) -> dict[str, Any]:
        provider, name = split(resolved.model)
        configured = self._providers.get(provider) or {}
        base = configured.get("api_base") or ""
        key = await self._keys.of(provider, configured)
        arguments: dict[str, Any] = {
            **CALL,
            "model": f"{provider}/{name}",
            "messages": _messages(resolved, f"{provider}/{name}", configured),
            # Ours are the ones that matter; this ends what has lost its task.
            "timeout": httpx.Timeout(clocks.total_s + 5.0),
        }
        if base:
            arguments["api_base"] = base
            if _is_common(provider, base):
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

    async def _reply(
        self,
        resolved: Resolved,
        assembly: classify.Assembly,
        outcome: Outcome,
        price: Price | None,
        watch: Watch,
    ) -> Reply:
        usage, whole = counts.tokens(assembly.usage)
        cost: float | None = None
        if not whole and price is not None:
            counted = await self._count(resolved, assembly, outcome, watch)
            if counted is not None:
                reported = None if usage is None else usage.cost_usd
                usage, whole = msgspec.structs.replace(counted, cost_usd=reported), True
        known = "unknown"
        if usage is None:
            usage = Usage(cost_usd=None, calls=1)
        else:
            cost = _cost(resolved.model, usage) if price is not None and whole else None
            known = "unknown" if cost is None else "computed"
            told = usage.cost_usd
            if cost and told == 0.0:
                told = None  # of one who does not reckon: a budget must not be blind by it
            if told is not None and (cost is None or not math.isclose(told, cost, rel_tol=1e-6)):
                # litellm puts its own computation into what it has read: another figure is the
                # provider's.
                cost, known = told, "reported"
        return Reply(
            outcome,
            msgspec.structs.replace(usage, cost_usd=cost),
            known,
            price,
            dict(watch.headers),
            PRICES if price is not None else "",
        )

    async def _count(
        self, resolved: Resolved, assembly: classify.Assembly, outcome: Outcome, watch: Watch
    ) -> Usage | None:
        """What a server that does not count, or in part, has read and written; so far, of a call
        that was cancelled: nobody else will say. None: it is not known. A call that no server has
        got yet has cost nothing."""
        if outcome != CANCELLED:
            if isinstance(outcome, Failed):
                return None
            return await asyncio.to_thread(_counted, resolved, assembly)
        if watch.phase in ("", CONNECT):
            return Usage(calls=1)
        try:
            async with asyncio.timeout(COUNT_S):
                return await asyncio.to_thread(_counted, resolved, assembly)
        except TimeoutError:
            return None


def _messages(
    resolved: Resolved, model: str, configured: Mapping[str, Any]
) -> list[dict[str, Any]]:
    messages = view.chat(resolved)
    if caching.wanted(model, configured, resolved.purpose):
        return caching.marked(messages, resolved.pinned, resolved.shared)
    return messages


def _is_common(provider: str, base: str) -> bool:
    """Whether a server at this address is of the common kind, whatever litellm takes the name for:
    a name of the user's own, that of a library which would load the model into this process, or
    an Ollama asked at its common address."""
    if provider in ("ollama", "ollama_chat"):
        return base.rstrip("/").endswith("/v1")
    return provider not in PROVIDERS or provider in ("vllm", "custom", "openai_like")


# --- money -------------------------------------------------------------------------------------


def about(model: str) -> dict[str, Any]:
    """What litellm's map says of a model, under its names; {} if it is not in there. A price that
    is not in the map is None: litellm itself says 0 in its place."""
    provider, name = split(model)
    try:
        info = dict(litellm.get_model_info(model=name, custom_llm_provider=provider))
    except Exception:  # noqa: BLE001 - it raises a bare Exception for a model it does not know
        return {}
    # Of resold models it may know what they can, and nothing else.
    told = litellm.model_cost.get(info.get("key")) or {}
    if LOCAL.items() <= info.items():
        return info
    for cost in ("input_cost_per_token", "output_cost_per_token"):
        if told.get(cost) is None:
            # By tiers of length: the worst case is the dearest.
            tiers = [tier.get(cost) for tier in told.get("tiered_pricing") or ()]
            info[cost] = max((one for one in tiers if one is not None), default=None)
    return info


def _price(model: str) -> Price | None:
    """USD per input and output token from litellm's price map: the dearest kind of each, since the
    worst case is reserved with it."""
    info = about(model)
    there, back = info.get("input_cost_per_token"), info.get("output_cost_per_token")
    if there is None or back is None:
        return None
    written = info.get("cache_creation_input_token_cost") or 0.0
    thought = info.get("output_cost_per_reasoning_token") or 0.0
    return max(float(there), float(written)), max(float(back), float(thought))


def _cost(model: str, usage: Usage) -> float | None:
    provider, name = split(model)
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
