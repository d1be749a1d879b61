"""Requests that are not yet settled: in order of arrival within a session, sessions in turn, those
for which a person waits first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from loomd.models.limiter import Estimate
from loomd.wire import codec
from loomd.wire.bodies import Failed, ModelRequest, Usage

FIRST_GATEWAY = "gateway-1"

FAVOUR = 4
"""Turns in a row of sessions for which a person waits, before another one has one too."""


@dataclass
class Item:
    """One request on its way.

    chain      the model asked for and its fallbacks; `link` is the index of the one in use
    attempt    attempts mailed so far, over all models: the number of the one under way if running
    tries      attempts on the model in use
    not_before epoch seconds; a retry waits for it
    failed_at  when it failed first, or first found the model left alone: patience counts from there
    tokens     that it is taken for until it has ended
    usage      of the attempts that have ended
    lost       starts of the attempt under way by gateways that have died

    Of the attempt under way: the gateway that has it, when it began, the lane that it uses, the
    USD set aside on the nodes of `path`.
    """

    request: ModelRequest
    order: int
    cause: str = ""
    state: Literal["waiting", "running"] = "waiting"
    chain: tuple[str, ...] = ()
    link: int = 0
    attempt: int = 0
    tries: int = 0
    not_before: float = 0.0
    failed_at: float | None = None
    cancelled: bool = False
    gateway: str = ""
    last: Failed | None = None
    began: float = 0.0
    lane: str = ""
    tokens: Estimate = field(default_factory=Estimate)
    reserved: float = 0.0
    path: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    lost: int = 0

    @property
    def model(self) -> str:
        return self.chain[self.link]

    @property
    def session(self) -> str:
        return self.request.session

    def row(self) -> dict[str, Any]:
        """As stored in table `queue`."""
        return {
            "state": self.state,
            "request": codec.encode(self.request),
            "order": self.order,
            "cause": self.cause,
            "chain": list(self.chain),
            "link": self.link,
            "attempt": self.attempt,
            "tries": self.tries,
            "not_before": self.not_before,
            "failed_at": self.failed_at,
            "cancelled": self.cancelled,
            "gateway": self.gateway,
            "last": None if self.last is None else msgspec.to_builtins(self.last),
            "began": self.began,
            "lane": self.lane,
            "tokens": [self.tokens.input, self.tokens.output],
            "reserved": self.reserved,
            "path": list(self.path),
            "usage": msgspec.to_builtins(self.usage),
            "lost": self.lost,
        }

    @staticmethod
    def from_row(row: dict[str, Any]) -> Item:
        request = codec.body(row["request"])
        assert isinstance(request, ModelRequest)
        last = row.get("last")
        return Item(
            request=request,
            order=row["order"],
            cause=row["cause"],
            state=row["state"],
            chain=tuple(row["chain"]),
            link=row["link"],
            attempt=row["attempt"],
            tries=row["tries"],
            not_before=row["not_before"],
            failed_at=row["failed_at"],
            cancelled=row["cancelled"],
            gateway=row.get("gateway", FIRST_GATEWAY),
            last=None if last is None else msgspec.convert(last, Failed),
            began=row.get("began", 0.0),
            lane=row.get("lane", ""),
            tokens=Estimate(*row.get("tokens", ())),
            reserved=row["reserved"],
            path=tuple(row.get("path", ())),
            usage=msgspec.convert(row.get("usage", {}), Usage),
            lost=row.get("lost", 0),
        )


@dataclass
class Queue:
    """`served`: the session that was served last, of those for which a person waits and of the
    others; the next one after it has its turn. `favoured`: turns of the former in a row."""

    items: dict[str, Item] = field(default_factory=dict)
    served: dict[bool, str] = field(default_factory=dict)
    favoured: int = 0

    def add(self, item: Item) -> None:
        self.items[item.request.id] = item

    def get(self, request: str) -> Item | None:
        return self.items.get(request)

    def remove(self, request: str) -> None:
        del self.items[request]

    def waiting(self) -> Iterator[Item]:
        return (item for item in self.items.values() if item.state == "waiting")

    def running(self) -> Iterator[Item]:
        return (item for item in self.items.values() if item.state == "running")

    def take(self, may_start: Callable[[Item], bool]) -> Item | None:
        """The next request that may start, and its session's turn is over. Within a session the
        oldest that may start goes first: one that must pause holds up no other."""
        by_session: dict[str, list[Item]] = {}
        for item in self.waiting():
            by_session.setdefault(item.session, []).append(item)
        urgent = {item.session for item in self.items.values() if item.request.interactive}
        classes = (True, False) if self.favoured < FAVOUR else (False, True)
        for first in classes:
            for name in self._turn(first, {n for n in by_session if (n in urgent) == first}):
                for item in sorted(by_session[name], key=lambda one: one.order):
                    if may_start(item):
                        self.served[first] = name
                        if not name:  # of no session: the turn begins anew
                            del self.served[first]
                        others = any((n in urgent) != first for n in by_session)
                        self.favoured = self.favoured + 1 if first and others else 0
                        return item
        return None

    def _turn(self, first: bool, sessions: set[str]) -> list[str]:
        served = self.served.get(first, "")
        names = sorted(sessions)
        return [n for n in names if n > served] + [n for n in names if n <= served]
