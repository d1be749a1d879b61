"""What the models actor knows: the rules from the settings, and its state with its invariants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loomd.models.breaker import Breaker
from loomd.models.budget import SCHEMA_TOKENS, Budget
from loomd.models.limiter import Limiter, provider_of
from loomd.models.queue import FIRST_GATEWAY, Queue
from loomd.wire.bodies import ModelRequest

OFFLINE_MODEL = "offline/rules"
"""What is asked when no model is configured."""


@dataclass(frozen=True)
class Rules:
    """What of the settings matters here."""

    default: str = ""
    fast: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    fallback: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    session_usd: float | None = None
    view_tokens: int = 24000

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Rules:
        models = settings.get("models") or {}
        return Rules(
            default=models.get("default") or "",
            fast=models.get("fast") or "",
            roles=dict(models.get("roles") or {}),
            fallback={m: tuple(then) for m, then in (models.get("fallback") or {}).items()},
            session_usd=(settings.get("budget") or {}).get("session_usd"),
            view_tokens=(settings.get("limits") or {}).get("view_tokens") or 24000,
        )

    def chain(self, request: ModelRequest) -> tuple[str, ...]:
        """The model for this request, and its fallbacks without repetition."""
        first = request.model or self.roles.get(request.role, "")
        if not first and request.purpose in ("ask", "title"):
            first = self.fast
        first = first or self.default or OFFLINE_MODEL
        return tuple(dict.fromkeys((first, *self.fallback.get(first, ()))))

    def limit(self, request: ModelRequest) -> float | None:
        return self.session_usd if request.budget_usd is None else request.budget_usd

    def worst_input(self, request: ModelRequest) -> int:
        pinned = sum(len(text) for text in request.view.pinned) // 3
        return self.view_tokens + pinned + SCHEMA_TOKENS


@dataclass
class State:
    """`settled`: request id -> (session, encoded ModelOutcome or b""), oldest first.

    gateway  where calls go; leaving: older ones that end with the last call that they have
    """

    settings: Mapping[str, Any]
    rules: Rules = field(init=False)
    queue: Queue = field(default_factory=Queue)
    limiter: Limiter = field(default_factory=Limiter)
    budget: Budget = field(default_factory=Budget)
    breakers: dict[str, Breaker] = field(default_factory=dict)
    settled: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    order: int = 0
    rows: int = 0  # of the ledger
    wake: float = 0.0
    shown: tuple[str, str] = ("", "")
    gateway: str = FIRST_GATEWAY
    leaving: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.configure(self.settings)

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Other rules for what comes; what is under way is counted as before."""
        self.settings = settings
        self.rules = Rules.of(settings)
        self.limiter.limits = {
            name: provider["concurrency"]
            for name, provider in (settings.get("providers") or {}).items()
            if (provider or {}).get("concurrency")
        }

    def breaker(self, model: str) -> Breaker:
        return self.breakers.setdefault(model, Breaker())

    def validate(self) -> None:
        """The invariants; called by tests after every step."""
        running: dict[str, int] = {}
        held: dict[str, float] = {}
        for item in self.queue.items.values():
            assert item.request.id not in self.settled, f"{item.request.id} settled and open"
            assert 0 <= item.link < len(item.chain)
            if item.state == "running":
                provider = provider_of(item.model)
                running[provider] = running.get(provider, 0) + 1
                held[item.session] = held.get(item.session, 0.0) + item.reserved
            else:
                assert not item.reserved
        assert running == self.limiter.active, (running, self.limiter.active)
        for session in held.keys() | self.budget.reserved.keys():
            difference = held.get(session, 0.0) - self.budget.reserved.get(session, 0.0)
            assert abs(difference) < 1e-6, session
