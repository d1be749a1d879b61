"""The models actor as a script: inputs in, changes out, its rows kept in a dict as the hub would.

Every step checks the invariants, and that an incarnation born after it from rows and saved state
would be the same: a crash between any two steps changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loomd.actor import behaviour as act
from loomd.models import ledger
from loomd.models.process import ModelsBehaviour
from loomd.models.state import State
from loomd.wire import bodies as b
from loomd.wire import codec

AGENT = "s-1/lead"
MODEL = "openai/gpt-5-mini"
SPEC = act.Spec(name="models", kind="models")


class Rows:
    """A reader over rows in a dict."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {}

    def row(self, table: str, key: bytes) -> Any | None:
        raw = self.tables.get(table, {}).get(key)
        return None if raw is None else codec.unpack(raw)

    def rows(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        for key, raw in sorted(self.tables.get(table, {}).items()):
            if key.startswith(prefix):
                yield key, codec.unpack(raw)

    def entries(self, log: str, first: int, last: int) -> Iterator[tuple[int, b.Entry]]:
        return iter(())

    def entry_bytes(self, log: str, n: int) -> bytes | None:
        return None

    def blob(self, name: str) -> bytes:
        raise KeyError(name)

    def apply(self, changes: list[act.Change]) -> None:
        for change in changes:
            if isinstance(change, act.Put):
                self.tables.setdefault(change.table, {})[change.key] = codec.pack(change.value)
            elif isinstance(change, act.Delete):
                del self.tables[change.table][change.key]


class Counter:
    """One life of the models actor, over any number of incarnations."""

    def __init__(self, settings: dict[str, Any] | None = None, now: float = 1000.0) -> None:
        self.settings = settings or {"models": {"default": MODEL}}
        self.now = now
        self.behaviour = ModelsBehaviour()
        self.rows = Rows()
        self.saved: Any = None
        self.state = self._born()
        self.timer: float | None = None
        self.events: list[act.Emit] = []
        self._n = 0

    def _born(self) -> State:
        saved = None if self.saved is None else codec.unpack(codec.pack(self.saved))
        return self.behaviour.init(
            act.Birth(spec=SPEC, saved=saved, effects=(), reader=self.rows, settings=self.settings)
        )

    def restart(self) -> None:
        self.state = self._born()

    def step(self, input: act.Input) -> list[act.Change]:
        self.state, changes = self.behaviour.step(self.state, input, self.now)
        self.state.validate()
        self.rows.apply(changes)
        self.saved = self.behaviour.save(self.state)
        for change in changes:
            if isinstance(change, act.SetTimer):
                self.timer = change.due
            elif isinstance(change, act.CancelTimer):
                self.timer = None
            elif isinstance(change, act.Emit):
                self.events.append(change)
        again = self._born()
        again.validate()
        assert again.queue == self.state.queue
        assert again.limiter == self.state.limiter
        assert again.escalation == self.state.escalation
        held, now = again.budget.reserved, self.state.budget.reserved
        assert held.keys() == now.keys()
        assert all(abs(held[node] - now[node]) < 1e-9 for node in now)
        assert again.budget.spent == self.state.budget.spent
        from_ledger: dict[str, float] = {}
        for row in self.ledger():
            path, usd = ledger.booked(row)
            for node in path if usd else ():
                from_ledger[node] = from_ledger.get(node, 0.0) + usd
        assert from_ledger == again.budget.spent
        assert list(again.settled) == list(self.state.settled)
        assert again.rows == self.state.rows and again.wake == self.state.wake
        assert self.behaviour.save(again) == self.saved
        return changes

    def mail(self, body: b.Body, sender: str = AGENT) -> list[act.Change]:
        self._n += 1
        if isinstance(body, b.Configured):  # as the next incarnation finds them
            self.settings = {**self.settings, **body.settings}
        return self.step(
            act.Mailed(step=self._n, id=f"{sender}/{self._n}", sender=sender, body=body)
        )

    def ask(self, id: str = "r1", **fields: Any) -> list[act.Change]:
        fields = {"session": "s-1", "agent": AGENT} | fields
        return self.mail(b.ModelRequest(id=id, **fields), sender=fields["agent"])

    def end(
        self, order: b.Perform, outcome: b.Outcome | None = None, **fields: Any
    ) -> list[act.Change]:
        """The gateway's report on an order. Without an outcome: a final answer."""
        fields = {
            "usage": b.Usage(input_tokens=10, output_tokens=5, cost_usd=0.01),
            "cost_known": "computed",
            "price": (1e-6, 2e-6),
            "started": self.now,
            "ended": self.now,
        } | fields
        performed = b.Performed(
            request=order.request.id,
            agent=order.request.agent,
            model=order.model,
            attempt=order.attempt,
            outcome=outcome or b.FinalAnswer(text="done"),
            **fields,
        )
        return self.mail(performed, sender="gateway-1")

    def price(
        self, model: str = MODEL, price: tuple[float, float] | None = (1e-6, 2e-6)
    ) -> list[act.Change]:
        """The gateway's answer to the question what this model costs."""
        return self.mail(b.Priced(model=model, price=price, version="v"), sender="gateway-1")

    def wait(self) -> list[act.Change]:
        """Until the timer is due."""
        assert self.timer is not None, "nothing is waited for"
        self.now, self.timer = max(self.now, self.timer), None
        self._n += 1
        return self.step(act.TimerDue(step=self._n, key="wake", due=self.now))

    def ledger(self) -> list[dict[str, Any]]:
        return [row for _, row in self.rows.rows("ledger", b"")]


def orders(changes: list[act.Change]) -> list[b.Perform]:
    """What was ordered from the gateway."""
    return [
        change.body
        for change in changes
        if isinstance(change, act.Send) and isinstance(change.body, b.Perform)
    ]


def told(changes: list[act.Change]) -> list[tuple[str, b.ModelOutcome]]:
    """Outcomes mailed from here."""
    return [
        (str(change.to), change.body)
        for change in changes
        if isinstance(change, act.Send) and isinstance(change.body, b.ModelOutcome)
    ]


def failed(changes: list[act.Change]) -> str:
    """The kind of the one failure told."""
    [(_, outcome)] = told(changes)
    assert isinstance(outcome.outcome, b.Failed)
    return outcome.outcome.kind


def fail(kind: str, *, retryable: bool = True, retry_after: float | None = None) -> b.Failed:
    return b.Failed(kind=kind, detail="as told", retryable=retryable, retry_after=retry_after)
