"""The four timers of a call, and in which of its phases a call is.

A call connects, waits for the first byte of its answer, then for one piece after the other; `total`
runs all the while. Whatever comes over the connection counts as a sign of life, also what is no
piece of an answer (the comments by which a proxy keeps a stream alive): `between` is for what is
dead, `total` for what only breathes. Where the connection cannot be watched (an adapter that does
not use httpx) the pieces themselves are the signs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import Any, Final

from loomd.gateway.failure import timed_out
from loomd.wire.bodies import Failed, Phase

CONNECT: Final = "connect"
FIRST_BYTE: Final = "first_byte"
ANSWER: Final = "answer"

SLACK: Final = 64
"""A clock of a phase may run out this part of its time late, never early."""

OnPhase = Callable[[str], None]
"""Gets CONNECT, FIRST_BYTE and ANSWER as a call enters them."""


@dataclass(frozen=True)
class Clocks:
    """Seconds. `first_byte_s`: from the connection to the first byte of the answer; `between_s`:
    from one sign of life to the next."""

    connect_s: float = 10.0
    first_byte_s: float = 60.0
    between_s: float = 45.0
    total_s: float = 600.0

    @staticmethod
    def of(settings: Mapping[str, Any], provider: str = "") -> Clocks:
        """From `models.clocks`, a map with any of the fields, and what `providers.NAME` has of
        them: a server of one's own may have to load its model first."""
        models = settings.get("models") or {}
        own = (settings.get("providers") or {}).get(provider) or {}
        said = {
            field.name: value
            for table in (models.get("clocks") or {}, own)
            for field in fields(Clocks)
            if (value := table.get(field.name)) is not None
        }
        return replace(Clocks(), **said)


class Watch:
    """The clocks of one call. `async with` it around the call: TimeoutError when one runs out, and
    then `failed` says which.

    Of a call whose connection is not seen to begin nobody knows when it stood: it has the times of
    connection and first byte together.
    """

    def __init__(self, clocks: Clocks, on_phase: OnPhase = lambda phase: None) -> None:
        self.clocks = clocks
        self.headers: Mapping[str, str] = {}  # of the newest response
        self.status: int | None = None  # of it
        self.where = ""  # host and port of the newest request
        self.broken: Exception | None = None  # what its connection ended with, if it did
        self._on_phase = on_phase
        self._phase = ""
        self._running = False
        self._set = 0.0  # when the clock of the phase was set
        self._allowed_s = clocks.connect_s + clocks.first_byte_s
        self._step = asyncio.timeout(self._allowed_s)
        self._total = asyncio.timeout(clocks.total_s)

    def whole(self) -> None:
        """The answer is asked for in one piece: its first byte comes when all of it is made."""
        self.clocks = replace(self.clocks, first_byte_s=self.clocks.total_s)
        self._allowed_s = self.clocks.connect_s + self.clocks.first_byte_s
        self._step = asyncio.timeout(self._allowed_s)

    async def __aenter__(self) -> Watch:
        self._token = CURRENT.set(self)
        await self._total.__aenter__()
        await self._step.__aenter__()
        self._running = True
        self._phase = FIRST_BYTE
        self._on_phase(FIRST_BYTE)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        CURRENT.reset(self._token)
        self._running = False
        try:
            await self._step.__aexit__(kind, error, trace)
        except TimeoutError as late:
            await self._total.__aexit__(TimeoutError, late, late.__traceback__)
            raise
        await self._total.__aexit__(kind, error, trace)

    @property
    def phase(self) -> str:
        """ "": it has not begun."""
        return self._phase

    def connecting(self) -> None:
        self._enter(CONNECT, self.clocks.connect_s)

    def connected(self) -> None:
        self._enter(FIRST_BYTE, self.clocks.first_byte_s)

    def heard(self) -> None:
        """A sign of life."""
        self._enter(ANSWER, self.clocks.between_s)

    def _enter(self, phase: str, seconds: float) -> None:
        if not self._running or self.late:
            return  # a connection may be closed after its call
        now = asyncio.get_running_loop().time()
        slack = seconds / SLACK
        if phase == self._phase and now < self._set + slack:
            return  # of a thousand streams the timers alone would be work
        changed = phase != self._phase
        self._phase, self._allowed_s, self._set = phase, seconds, now
        self._step.reschedule(now + seconds + slack)
        if changed:
            self._on_phase(phase)

    @property
    def late(self) -> bool:
        """Whether a clock has run out."""
        return self._step.expired() or self._total.expired()

    def failed(self) -> Failed:
        """Which clock has run out; the first one, if the process was away and both have."""
        step, total = self._step.when(), self._total.when()
        first = self._step.expired() and step is not None and total is not None and step < total
        if self._total.expired() and not first:
            return timed_out("total", self.clocks.total_s)
        phases: Mapping[str, Phase] = {CONNECT: "connect", FIRST_BYTE: "first_byte"}
        return timed_out(phases.get(self._phase, "stalled"), self._allowed_s)


CURRENT: ContextVar[Watch | None] = ContextVar("watch", default=None)
"""The watch over what this task does on the network."""
