"""The gateways, and which of them gets a call: the one that has the fewest.

A slow one is passed by, because its calls stay; one that is down gets none. What costs nothing
stays with the first, which is always there; the first call of a real model has the others started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from loomd.models.queue import FIRST_GATEWAY
from loomd.wire.bodies import UseGateway

TAKE_BACK_S: Final = 5.0
"""How long the successor of a dead gateway may take before its calls are taken back: it repeats
them itself, and is there in milliseconds unless something is wrong."""

TRY_AGAIN_S: Final = 60.0
"""After that it gets no call for so long."""


@dataclass
class Pool:
    """more     beside the first, from the hub; `called`: whether they were told to come
    leaving  of older code: they end with the last call that they have
    down     gateway -> when it died (epoch seconds), until its successor is there
    out      gateway -> until when it gets no call
    calls    gateway -> attempts that it has
    """

    first: str = FIRST_GATEWAY
    more: tuple[str, ...] = ()
    called: bool = False
    leaving: set[str] = field(default_factory=set)
    down: dict[str, float] = field(default_factory=dict)
    out: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def use(self, said: UseGateway) -> None:
        """As the hub says, at its start."""
        self.called = False
        self.first, self.more = said.gateway, said.more
        mine = () if said.fresh else (said.gateway, *said.more)
        self.leaving = set(said.others) - {said.gateway, *said.more}
        self.down = {name: at for name, at in self.down.items() if name in mine}
        self.out = {name: at for name, at in self.out.items() if name in mine}

    def pick(self, free: bool, now: float) -> str:
        """For a call; `free`: it costs nothing."""
        able = [
            name
            for name in (self.first, *self.more)
            if name not in self.down and self.out.get(name, 0.0) <= now
        ]
        if not able or (free and self.first in able):
            return self.first
        return min(able, key=lambda name: self.calls.get(name, 0))

    def begin(self, gateway: str) -> None:
        self.calls[gateway] = self.calls.get(gateway, 0) + 1

    def end(self, gateway: str) -> None:
        left = self.calls.pop(gateway) - 1
        if left:
            self.calls[gateway] = left

    def seen(self, gateway: str, up: bool, now: float) -> None:
        """One of them has died, or its successor is there."""
        if up:
            self.down.pop(gateway, None)
            self.out.pop(gateway, None)
        elif gateway in (self.first, *self.more):
            self.down.setdefault(gateway, now)

    def lost(self, now: float) -> list[str]:
        """Those whose calls are to be taken back now: there is another to give them to."""
        found = [name for name, at in self.down.items() if at + TAKE_BACK_S <= now]
        if set(found) == {self.first, *self.more}:
            found.remove(self.first)  # the last hope
        for name in found:
            del self.down[name]
            self.out[name] = now + TRY_AGAIN_S
        return sorted(found)

    def dues(self) -> list[float]:
        """When to look again."""
        return [at + TAKE_BACK_S for at in self.down.values()]

    def idle(self) -> list[str]:
        """Those that may leave."""
        return sorted(self.leaving - self.calls.keys())

    def saved(self) -> dict[str, Any]:
        """`calls` follow from the queue."""
        return {
            "first": self.first,
            "more": list(self.more),
            "called": self.called,
            "leaving": sorted(self.leaving),
            "down": self.down,
            "out": self.out,
        }

    @staticmethod
    def of(saved: Mapping[str, Any]) -> Pool:
        return Pool(
            first=saved.get("first") or FIRST_GATEWAY,
            more=tuple(saved.get("more") or ()),
            called=bool(saved.get("called")),
            leaving=set(saved.get("leaving") or ()),
            down=dict(saved.get("down") or {}),
            out=dict(saved.get("out") or {}),
        )
