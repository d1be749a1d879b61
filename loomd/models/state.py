"""What the models actor knows: the rules from the settings, and its state with its invariants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loomd.models.breaker import Breaker
from loomd.models.budget import OUTPUT_TOKENS, SCHEMA_TOKENS, Budget, Limits, path_of
from loomd.models.escalation import Escalation
from loomd.models.limiter import Estimate, Limiter
from loomd.models.pool import Pool
from loomd.models.queue import Item, Queue
from loomd.models.retries import PATIENCE_S, TRIES, Retries
from loomd.wire.bodies import ModelRequest
from loomd.wire.models import OFFLINE, ships

LIKELY_OUTPUT = 2048
"""Tokens that an answer without a limit of its own is taken for, until it has ended."""


@dataclass(frozen=True)
class Rules:
    """What of the settings matters here."""

    default: str = ""
    fast: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    fallback: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    retries: Retries = field(default_factory=Retries)
    limits: Limits = field(default_factory=Limits)
    output_tokens: int = OUTPUT_TOKENS
    view_tokens: int = 24000

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Rules:
        models = settings.get("models") or {}
        budget = settings.get("budget") or {}
        return Rules(
            default=models.get("default") or "",
            fast=models.get("fast") or "",
            roles=dict(models.get("roles") or {}),
            fallback={m: tuple(then) for m, then in (models.get("fallback") or {}).items()},
            retries=Retries(
                tries=models.get("attempts") or TRIES,
                patience_s=models.get("patience_s", PATIENCE_S),
            ),
            limits=Limits(
                day=budget.get("day_usd"),
                session=budget.get("session_usd"),
                task=budget.get("task_usd"),
                agent=budget.get("agent_usd"),
            ),
            output_tokens=budget.get("output_tokens") or OUTPUT_TOKENS,
            view_tokens=(settings.get("limits") or {}).get("view_tokens") or 24000,
        )

    def chain(self, request: ModelRequest) -> tuple[str, ...]:
        """The model for this request, and its fallbacks without repetition; of a check, which is
        about that model, itself."""
        if request.purpose == "check":
            return (request.model,)
        first = request.model or self.roles.get(request.role, "")
        if not first and request.purpose in ("ask", "title"):
            first = self.fast
        first = first or self.default or OFFLINE
        return tuple(dict.fromkeys((first, *self.fallback.get(first, ()))))

    def bounds(self, request: ModelRequest, day: str) -> tuple[tuple[str, ...], dict[str, float]]:
        """The request's path in the tree of budgets, and the limits on it."""
        path = path_of(day, request.session, request.task, request.agent)
        limits = self.limits.of(path)
        if request.budget_usd is not None:
            limits[f"session:{request.session}"] = request.budget_usd
        return path, limits

    def worst_input(self, request: ModelRequest) -> int:
        pinned = sum(len(text) for text in request.view.pinned) // 3
        return self.view_tokens + pinned + SCHEMA_TOKENS

    def estimate(self, request: ModelRequest) -> Estimate:
        """What it takes of a limit on tokens, until it is known."""
        output = LIKELY_OUTPUT if request.max_tokens is None else request.max_tokens
        return Estimate(self.worst_input(request), output)


@dataclass
class State:
    """`settled`: request id -> (session, encoded ModelOutcome or b""), oldest first.

    asking   models whose price is asked for -> when to ask again; 0: the answer will come
    unbound  (session, model) that were told that money cannot bound them
    """

    settings: Mapping[str, Any]
    rules: Rules = field(init=False)
    queue: Queue = field(default_factory=Queue)
    limiter: Limiter = field(default_factory=Limiter)
    budget: Budget = field(default_factory=Budget)
    escalation: Escalation = field(default_factory=Escalation)
    breakers: dict[str, Breaker] = field(default_factory=dict)
    settled: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    order: int = 0
    rows: int = 0  # of the ledger
    wake: float = 0.0
    shown: tuple[str, str] = ("", "")
    pool: Pool = field(default_factory=Pool)
    asking: dict[str, float] = field(default_factory=dict)
    unbound: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.configure(self.settings)

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Other rules for what comes; what is under way is counted as before."""
        self.settings = settings
        self.rules = Rules.of(settings)
        self.limiter.configure(settings.get("providers") or {})

    def breaker(self, model: str) -> Breaker:
        return self.breakers.setdefault(model, Breaker())

    def bounded(self, item: Item, day: str) -> tuple[tuple[str, ...], dict[str, float]]:
        """The item's path and the limits on it; none for what costs nothing."""
        path, limits = self.rules.bounds(item.request, day)
        return path, ({} if ships(item.model) else limits)

    def validate(self) -> None:
        """The invariants; called by tests after every step."""
        running: dict[str, int] = {}
        calls: dict[str, int] = {}
        held: dict[str, float] = {}
        for item in self.queue.items.values():
            assert item.request.id not in self.settled, f"{item.request.id} settled and open"
            assert 0 <= item.link < len(item.chain)
            if item.state == "running":
                running[item.lane] = running.get(item.lane, 0) + 1
                calls[item.gateway] = calls.get(item.gateway, 0) + 1
                for node in item.path:
                    held[node] = held.get(node, 0.0) + item.reserved
            else:
                assert not item.reserved
        active = {name: lane.active for name, lane in self.limiter.lanes.items() if lane.active}
        assert running == active, (running, active)
        assert calls == self.pool.calls, (calls, self.pool.calls)
        for node in held.keys() | self.budget.reserved.keys():
            difference = held.get(node, 0.0) - self.budget.reserved.get(node, 0.0)
            assert abs(difference) < 1e-6, node
