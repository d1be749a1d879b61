"""Money: the worst case is reserved before a call, what it cost is settled after it.

Per session. A model whose price is not known yet reserves all that is left, so that one call finds
out; one whose price cannot be known (it is in no price map) reserves nothing, and its calls cannot
be bounded by money: said once as a warning. An unknown cost is never taken for zero in the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

WARN_AT = 0.8

DEFAULT_OUTPUT_TOKENS = 8192
SCHEMA_TOKENS = 4000
"""What the tools' schemas may take of the input, beside the view."""

Price = tuple[float, float]
"""USD per input token, per output token."""

Verdict = Literal["yes", "wait", "no"]


@dataclass
class Budget:
    """`prices`: model -> price; None: asked for and not known; absent: not asked yet."""

    spent: dict[str, float] = field(default_factory=dict)
    reserved: dict[str, float] = field(default_factory=dict)
    prices: dict[str, Price | None] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)

    def worst(self, model: str, input_tokens: int, output_tokens: int | None) -> float | None:
        """The most that a call can cost; None: its price is not known yet."""
        if model not in self.prices:
            return None
        price = self.prices[model]
        if price is None:
            return 0.0
        output = DEFAULT_OUTPUT_TOKENS if output_tokens is None else output_tokens
        return input_tokens * price[0] + output * price[1]

    def reserve(
        self, session: str, limit: float | None, worst: float | None
    ) -> tuple[Verdict, float]:
        """yes and the amount now reserved; wait: calls under way may leave enough; no: they
        cannot."""
        spent, reserved = self.spent.get(session, 0.0), self.reserved.get(session, 0.0)
        if limit is None:
            amount = worst or 0.0
        elif worst is None:
            if spent >= limit:
                return "no", 0.0
            if reserved:
                return "wait", 0.0
            amount = limit - spent
        elif spent + reserved + worst <= limit:
            amount = worst
        elif reserved and spent + worst <= limit:
            return "wait", 0.0
        else:
            return "no", 0.0
        self.hold(session, amount)
        return "yes", amount

    def hold(self, session: str, amount: float) -> None:
        if amount:
            self.reserved[session] = self.reserved.get(session, 0.0) + amount

    def settle(self, session: str, amount: float, cost: float | None) -> None:
        """Gives back what was reserved and books what it cost (None: unknown)."""
        left = self.reserved.get(session, 0.0) - amount
        if left > 1e-12:
            self.reserved[session] = left
        else:
            self.reserved.pop(session, None)
        if cost:
            self.spent[session] = self.spent.get(session, 0.0) + cost

    def warning(self, session: str, limit: float | None) -> float | None:
        """The share of the budget that is spent, once, when it has passed WARN_AT."""
        if limit is None or limit <= 0 or session in self.warned:
            return None
        share = self.spent.get(session, 0.0) / limit
        if share < WARN_AT:
            return None
        self.warned.add(session)
        return share
