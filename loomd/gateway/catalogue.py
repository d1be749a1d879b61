"""The models that are configured, for `loomctl models`: what for, where, at what price; and whether
each of them answers.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from loomd.gateway import keys
from loomd.gateway.keys import Keys, NoKeyError
from loomd.gateway.types import CallPiece, Reply, Resolved
from loomd.wire.bodies import Entry, Failed

OFFLINE_MODEL: Final = "offline/rules"
KEYLESS: Final = ("offline", "replay", "scripted")
MILLION: Final = 1_000_000

About = Callable[[str], Mapping[str, Any]]
"""What the price map says of a model, under its names; {}: nothing."""


def nothing(model: str) -> Mapping[str, Any]:
    """Without a price map."""
    return {}


def uses(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """model -> what it is configured for, in the order of the configuration."""
    models = settings.get("models") or {}
    found: dict[str, list[str]] = {}

    def use(model: str, what: str) -> None:
        if model:
            found.setdefault(model, []).append(what)

    use(models.get("default") or OFFLINE_MODEL, "default")
    use(models.get("fast") or "", "fast")
    for role, model in (models.get("roles") or {}).items():
        use(model, f"role {role}")
    for model, chain in (models.get("fallback") or {}).items():
        for one in chain:
            use(one, f"fallback of {model}")
    use((settings.get("recovery") or {}).get("model") or "", "recovery")
    return found


async def rows(
    settings: Mapping[str, Any], found: Keys, about: About, generation: int
) -> list[dict[str, Any]]:
    """One per model. Prices are US dollars per million tokens; None: the price map lacks it."""
    made = []
    for model, why in uses(settings).items():
        provider, slash, _ = model.partition("/")
        provider = provider if slash else "openai"
        configured = (settings.get("providers") or {}).get(provider) or {}
        known = {} if provider in KEYLESS else about(model)
        made.append(
            {
                "model": model,
                "uses": why,
                "provider": provider,
                "api_base": configured.get("api_base") or "",
                "key": await _key(provider, configured, found),
                "window": known.get("max_input_tokens"),
                "max_output": known.get("max_output_tokens"),
                "input_usd": _price(known, "input_cost_per_token", provider),
                "output_usd": _price(known, "output_cost_per_token", provider),
                "cached_usd": _price(known, "cache_read_input_token_cost", provider),
                "source": "built in" if provider == "offline" else "config",
                "generation": generation,
            }
        )
    return made


def _price(known: Mapping[str, Any], name: str, provider: str) -> float | None:
    if provider in KEYLESS:
        return 0.0
    cost = known.get(name)
    return None if cost is None else round(float(cost) * MILLION, 6)


async def _key(provider: str, configured: Mapping[str, Any], found: Keys) -> str:
    """Where the key is from, or why there is none; nothing of the key itself."""
    if provider in KEYLESS:
        return "none needed"
    try:
        key = await found.of(provider, configured)
    except NoKeyError as error:
        return f"missing: {error}"
    if not key:
        return "none" if configured.get("api_base") else "missing"
    return keys.source(configured) or f"env {provider.upper()}_API_KEY"


class _Nobody:
    """Looks on at a check."""

    def phase(self, phase: str) -> None:
        pass

    def pieces(self, text: str, reasoning: str, calls: Sequence[CallPiece]) -> bool:
        return True

    def cancelled(self) -> bool:
        return False


async def check(
    model: str, complete: Callable[[Resolved, _Nobody], Awaitable[Reply]]
) -> dict[str, Any]:
    """{ok, kind, detail, ms, cost_usd}: asked for one word. One that was cut short or has only
    thought about it answers all the same."""
    asked = Resolved(
        role="check",
        pinned=(),
        entries=(Entry(role="user", text="Answer with the one word: ready"),),
        tools=(),
        model=model,
        max_tokens=64,
        purpose="check",
    )
    started = time.monotonic()
    reply = await complete(asked, _Nobody())
    outcome = reply.outcome
    if not isinstance(outcome, Failed):
        ok = True
    elif model.partition("/")[0] in KEYLESS:
        ok = outcome.kind != "unknown_model"  # it is there, and has nothing to say to this
    else:
        ok = outcome.kind == "empty" or reply.usage.output_tokens > 0
    failed = outcome if isinstance(outcome, Failed) and not ok else None
    return {
        "ok": ok,
        "kind": failed.kind if failed else "",
        "detail": failed.detail if failed else "",
        "ms": round((time.monotonic() - started) * 1000),
        "cost_usd": reply.usage.cost_usd,
    }
