"""Requests that are not yet settled: in order of arrival within a session, sessions in turn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from loomd.wire import codec
from loomd.wire.bodies import Failed, ModelRequest

FIRST_GATEWAY = "gateway-1"
BASE_S = 0.5
CAP_S = 20.0
RETRY_AFTER_CAP_S = 60.0
"""A provider that asks for a longer pause is left for the next model of the chain."""


@dataclass
class Item:
    """One request on its way.

    chain      the model asked for and its fallbacks; `link` is the index of the one in use
    attempt    attempts mailed so far, over all models: the number of the one under way if running
    tries      attempts on the model in use
    reserved   USD set aside while running
    not_before epoch seconds; a retry waits for it
    gateway    that has the attempt under way
    failed_at  when it failed first: patience counts from there
    """

    request: ModelRequest
    order: int
    cause: str = ""
    state: Literal["waiting", "running"] = "waiting"
    chain: tuple[str, ...] = ()
    link: int = 0
    attempt: int = 0
    tries: int = 0
    reserved: float = 0.0
    not_before: float = 0.0
    failed_at: float | None = None
    cancelled: bool = False
    gateway: str = ""
    last: Failed | None = None

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
            "reserved": self.reserved,
            "not_before": self.not_before,
            "failed_at": self.failed_at,
            "cancelled": self.cancelled,
            "gateway": self.gateway,
            "last": None if self.last is None else msgspec.to_builtins(self.last),
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
            reserved=row["reserved"],
            not_before=row["not_before"],
            failed_at=row["failed_at"],
            cancelled=row["cancelled"],
            gateway=row.get("gateway", FIRST_GATEWAY),
            last=None if last is None else msgspec.convert(last, Failed),
        )


@dataclass
class Queue:
    """`served`: the session that was served last; the next one after it has its turn."""

    items: dict[str, Item] = field(default_factory=dict)
    served: str = ""

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
        names = sorted(by_session)
        turn = [name for name in names if name > self.served]
        turn += [name for name in names if name <= self.served]
        for name in turn:
            for item in sorted(by_session[name], key=lambda one: one.order):
                if may_start(item):
                    self.served = name
                    return item
        return None


def backoff(request: str, attempt: int, tries: int, retry_after: float | None) -> float:
    """Seconds until the next try: full jitter in [0, min(CAP_S, BASE_S * 2**tries)), drawn from
    the request's id so that a replay draws the same; never before what the provider asked for."""
    digest = hashlib.sha256(f"{request}#{attempt}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    delay = share * min(CAP_S, BASE_S * 2.0 ** min(tries, 16))
    return float(delay if retry_after is None else max(0.0, retry_after) + delay)
