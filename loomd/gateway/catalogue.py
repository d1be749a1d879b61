"""The models that are configured, for `loomctl models`: what for, where, at what price; and what
each of them is asked to see whether it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from loomd.gateway import keys
from loomd.gateway.keys import Keys, NoKeyError
from loomd.gateway.types import Resolved
from loomd.wire.bodies import Entry, Perform
from loomd.wire.models import OFFLINE, SHIPPED, provider_of, ships

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

    use(models.get("default") or OFFLINE, "default")
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
        provider = provider_of(model)
        configured = (settings.get("providers") or {}).get(provider) or {}
        known = {} if ships(model) else about(model)
        made.append(
            {
                "model": model,
                "uses": why,
                "provider": provider,
                "api_base": keys.address(configured.get("api_base") or ""),
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
    if provider in SHIPPED:
        return 0.0
    cost = known.get(name)
    return None if cost is None else round(float(cost) * MILLION, 6)


async def _key(provider: str, configured: Mapping[str, Any], found: Keys) -> str:
    """Where the key is from, or why there is none; nothing of the key itself."""
    if provider in SHIPPED:
        return "none needed"
    try:
        key = await found.of(provider, configured)
    except NoKeyError as error:
        return f"missing: {error}"
    if not key:
        return "none" if configured.get("api_base") else "missing"
    return keys.source(configured) or f"env {provider.upper()}_API_KEY"


def checked(order: Perform) -> Resolved:
    """What a model is asked to see whether it answers: for one word."""
    return Resolved(
        role="check",
        pinned=(),
        entries=(Entry(role="user", text="Answer with the one word: ready"),),
        tools=(),
        model=order.model,
        max_tokens=order.request.max_tokens,
        agent=order.request.agent,
        purpose="check",
        request=order.request.id,
    )
