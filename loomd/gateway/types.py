"""What a backend gets and what it gives back. Pure values, of no provider's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from loomd.wire.bodies import Entry, Outcome, Usage


@dataclass(frozen=True)
class ToolSchema:
    """A tool as the model sees it. `parameters`: JSON schema of an object."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})


@dataclass(frozen=True)
class Resolved:
    """A model request with its view read from the state: everything that a backend may know.

    `entries` are in the view's order, blobs already read into `text`. `model` is concrete
    (`provider/name`). `max_tokens` and `temperature` None: the provider's default. `shared`: of the
    pinned texts, how many of the first ones others see too. `repo`: where the checkout is.
    """

    role: str
    pinned: tuple[str, ...]
    entries: tuple[Entry, ...]
    tools: tuple[ToolSchema, ...]
    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    agent: str = ""
    session: str = ""
    task: str = ""
    purpose: str = "turn"
    request: str = ""
    shared: int = 0
    repo: str = ""


@dataclass(frozen=True)
class Reply:
    """What one attempt came to. `usage.cost_usd` None: unknown; `cost_known` says where the figure
    is from: reported (by the provider), computed (from a price map), unknown. `price`: USD per
    input and per output token, if the model is in the price map, whose version is
    `price_version`. `headers`: those of the response that say how much more the provider takes, and
    when."""

    outcome: Outcome
    usage: Usage = field(default_factory=lambda: Usage(cost_usd=None, calls=1))
    cost_known: str = "unknown"
    price: tuple[float, float] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    price_version: str = ""


@dataclass(frozen=True)
class CallPiece:
    """What a chunk adds to the arguments of the turn's call `index`; `name`: if it says that."""

    index: int
    name: str
    text: str


class Watcher(Protocol):
    """Who looks on while an answer comes."""

    def phase(self, phase: str) -> None:
        """The call has entered it: see loomd.gateway.clocks."""
        ...

    def pieces(self, text: str, reasoning: str, calls: Sequence[CallPiece]) -> bool:
        """What has come; False: it is more than any answer may have, read no more."""
        ...

    def cancelled(self) -> bool:
        """Whether nobody wants the answer any more (else a cancelled task means: end at once)."""
        ...
