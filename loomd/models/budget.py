"""Money: the worst case is reserved before a call, what it cost is settled after it.

A tree: the day (UTC), the session, the task, the agent. A call is on the path of all four, and fits
only if it fits each that has a limit. A call whose cost did not become known is held against them
with its worst case, unless nothing of it can have been charged; in the ledger it stays unknown. A
model that is in no price map reserves nothing and cannot be bounded by money: said as an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

WARN_AT = 0.8

REMEMBERED_WARNINGS = 200

OUTPUT_TOKENS = 16384
"""That one call may write where a budget bounds it, unless the configuration says otherwise."""

SCHEMA_TOKENS = 4000
"""What the tools' schemas may take of the input, beside the view."""

MOST_SURPLUS = 8.0
"""Times of the reckoned input that a tokenizer may count. What a server says beyond that is its
mistake, and must not refuse every later call."""

ROUNDING = 1e-9
"""USD: sums of sums are not exact."""

Price = tuple[float, float]
"""USD per input token, per output token."""

Verdict = Literal["yes", "wait", "no"]

Path = tuple[str, ...]
"""Nodes of the tree, such as `session:s-1`, the widest first."""


def path_of(day: str, session: str, task: str, agent: str) -> Path:
    """Tasks are numbered in their session. What is asked in none (a check) is the day's alone."""
    if not session:
        return (f"day:{day}",)
    path = (f"day:{day}", f"session:{session}")
    return (
        (*path, f"task:{session}/{task}", f"agent:{agent}") if task else (*path, f"agent:{agent}")
    )


@dataclass(frozen=True)
class Limits:
    """USD; None: no limit."""

    day: float | None = None
    session: float | None = None
    task: float | None = None
    agent: float | None = None

    def of(self, path: Path) -> dict[str, float]:
        """The nodes of this path that have a limit."""
        found = {node: getattr(self, node.partition(":")[0]) for node in path}
        return {node: limit for node, limit in found.items() if limit is not None}


@dataclass
class Budget:
    """`prices`: model -> price; None: in no price map; absent: not asked yet. `longest`: model ->
    tokens that it can write at once. `warned`: node -> the limit of which a warning was given.
    `surplus`: model -> how many times the input that was reckoned with a call has really had, if
    more: its tokenizer counts otherwise. `unsaved`: nodes on which was spent in this step."""

    spent: dict[str, float] = field(default_factory=dict)
    reserved: dict[str, float] = field(default_factory=dict)
    prices: dict[str, Price | None] = field(default_factory=dict)
    longest: dict[str, int] = field(default_factory=dict)
    warned: dict[str, float] = field(default_factory=dict)
    surplus: dict[str, float] = field(default_factory=dict)
    unsaved: set[str] = field(default_factory=set)

    def output(self, model: str, wanted: int | None, usual: int) -> int:
        """The tokens that a bounded call of `model` may write."""
        most = usual if wanted is None else wanted
        return min(most, self.longest.get(model, most))

    def worst(self, model: str, input_tokens: int, output_tokens: int) -> float:
        """The most that a call can cost; 0 if its price cannot be known."""
        price = self.prices.get(model)
        if price is None:
            return 0.0
        most = input_tokens * self.surplus.get(model, 1.0)
        return most * price[0] + output_tokens * price[1]

    def counted(self, model: str, input_tokens: int, reckoned: int) -> None:
        """What a call's input really was: the worst case of the next one is no smaller."""
        times = min(MOST_SURPLUS, input_tokens / max(1, reckoned))
        if times > self.surplus.get(model, 1.0):
            self.surplus[model] = times

    def reserve(self, path: Path, limits: Mapping[str, float], worst: float) -> tuple[Verdict, str]:
        """yes: it is reserved now; wait: calls under way may leave enough; no: they cannot. With
        the node that it did not fit."""
        tight = ""
        for node, limit in limits.items():
            spent = self.spent.get(node, 0.0)
            if spent >= limit or spent + worst > limit + ROUNDING:
                return "no", node
            if spent + self.reserved.get(node, 0.0) + worst > limit + ROUNDING:
                tight = tight or node
        if tight:
            return "wait", tight
        self.hold(path, worst)
        return "yes", ""

    def hold(self, path: Path, amount: float) -> None:
        for node in path if amount else ():
            self.reserved[node] = self.reserved.get(node, 0.0) + amount

    def settle(self, path: Path, amount: float, cost: float) -> None:
        """Gives back what was reserved and books what is held against the budget for it."""
        for node in path if amount else ():
            left = self.reserved.get(node, 0.0) - amount
            if left > ROUNDING:
                self.reserved[node] = left
            else:
                self.reserved.pop(node, None)
        for node in path if cost else ():
            self.spent[node] = self.spent.get(node, 0.0) + cost
            self.unsaved.add(node)

    def warnings(self, limits: Mapping[str, float]) -> Sequence[tuple[str, float, float]]:
        """(node, spent, limit) of those that have passed WARN_AT, each once for a limit."""
        passed = [
            (node, self.spent.get(node, 0.0), limit)
            for node, limit in limits.items()
            if limit > 0
            and self.spent.get(node, 0.0) >= WARN_AT * limit
            and self.warned.get(node) != limit
        ]
        for node, _, limit in passed:
            self.warned.pop(node, None)
            self.warned[node] = limit
        while len(self.warned) > REMEMBERED_WARNINGS:
            del self.warned[next(iter(self.warned))]
        return passed
