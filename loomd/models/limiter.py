"""How many calls may be under way at each provider, and the pauses that providers ask for."""

from __future__ import annotations

from dataclasses import dataclass, field

CONCURRENCY = 8
"""Calls at once at one provider, unless the configuration says otherwise."""

OFFLINE = "offline"
FREE = frozenset({OFFLINE, "replay", "scripted"})
"""Providers that ship with loomd: nothing is bought from them."""


def provider_of(model: str) -> str:
    """`openai/gpt-5-mini` -> `openai`; a name without a provider is openai's."""
    provider, slash, _ = model.partition("/")
    return provider if slash else "openai"


@dataclass
class Limiter:
    """`limits`: calls at once by provider. `paused`: provider -> epoch seconds."""

    limits: dict[str, int] = field(default_factory=dict)
    active: dict[str, int] = field(default_factory=dict)
    paused: dict[str, float] = field(default_factory=dict)

    def full(self, provider: str) -> bool:
        return self.active.get(provider, 0) >= self.limits.get(provider, CONCURRENCY)

    def ready_at(self, provider: str) -> float:
        """The end of the pause that the provider asked for; 0: none."""
        return self.paused.get(provider, 0.0)

    def begin(self, provider: str) -> None:
        self.active[provider] = self.active.get(provider, 0) + 1

    def end(self, provider: str) -> None:
        left = self.active.get(provider, 0) - 1
        assert left >= 0, f"a call of {provider} ended that had not begun"
        if left:
            self.active[provider] = left
        else:
            self.active.pop(provider)

    def pause(self, provider: str, until: float) -> None:
        self.paused[provider] = max(until, self.paused.get(provider, 0.0))

    def forget_past(self, now: float) -> None:
        self.paused = {name: until for name, until in self.paused.items() if until > now}
