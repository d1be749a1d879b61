"""Names of models, `PROVIDER/NAME`, and those that ship with loomd. Pure; loads nothing."""

from __future__ import annotations

from typing import Final

OFFLINE: Final = "offline/rules"
"""What is asked when no model is configured; the only one of its provider."""

SHIPPED: Final = frozenset({"offline", "replay", "scripted"})
"""Providers that need no key and no network, and sell nothing."""


def split(model: str) -> tuple[str, str]:
    """(provider, the model's name there); a name without a provider is openai's."""
    provider, slash, name = model.partition("/")
    return (provider, name) if slash else ("openai", model)


def provider_of(model: str) -> str:
    """`openai/gpt-5-mini` -> `openai`."""
    return split(model)[0]


def ships(model: str) -> bool:
    """Whether its provider ships with loomd."""
    return provider_of(model) in SHIPPED
