"""The rules of mail over the in-memory twin: what their script and property tests share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from loomd.actor.behaviour import Spec
from loomd.hub import mail
from loomd.hub.mail import Batch
from loomd.hub.requests import open_session
from loomd.hub.rules import Result, Rules, begin_epoch
from loomd.store.schema import mail_key, name_key
from loomd.store.tables import ActorRow, Memory, SessionRow, actor_row, session_row
from loomd.wire import codec
from loomd.wire import messages as m
from loomd.wire.bodies import Body, Note

NOW = 1_000_000.0


def validate(rules: Rules, memory: Memory) -> None:
    """The invariants that hold after every transaction."""
    for key, raw in memory.scan("actors", b""):
        name = key[:-1].decode()
        row = actor_row.decode(raw)
        assert row == rules.actors[name], f"cache of {name} differs from disk"
        for lane in (0, 1):
            waiting = mail.mailbox(memory, name, lane, 0, 1_000_000)
            assert len(waiting) == row.boxed[lane], f"{name} counts its mailbox wrong"
            assert all(seq <= row.seq[lane] for seq, _ in waiting)
        if row.wanted == "ended":
            assert row.boxed == [0, 0]
    for key, raw in memory.scan("sessions", b""):
        assert session_row.decode(raw) == rules.sessions[key[:-1].decode()]
        session = key[:-1].decode()
        seqs = [codec.unpack(r)["seq"] for _, r in memory.scan("events", name_key(session))]
        assert seqs == list(range(1, rules.sessions[session].last_event + 1)), "a gap in events"


class Desk:
    """One hub's rules and its state."""

    def __init__(self, memory: Memory | None = None, **rules: Any) -> None:
        self.memory = memory or Memory()
        self.rules = Rules(**rules)
        self.rules.epoch = begin_epoch(self.memory)
        self.rules.load(self.memory)
        self.memory.commit()
        self.now = NOW

    def do(self, *jobs: Callable[[Batch], Result]) -> list[Result]:
        """One transaction."""
        self.now += 1
        batch = Batch(self.rules, self.memory, self.now)
        results = [job(batch) for job in jobs]
        batch.flush()
        self.memory.commit()
        self.rules.adopt(batch)
        validate(self.rules, self.memory)
        return results

    def abort(self, *jobs: Callable[[Batch], Result]) -> None:
        """One transaction that did not become durable."""
        batch = Batch(self.rules, self.memory, self.now)
        for job in jobs:
            job(batch)
        batch.flush()
        self.memory.abort()
        validate(self.rules, self.memory)

    def restarted(self) -> Desk:
        """A new hub over the same state."""
        return Desk(self.memory, poison_crashes=self.rules.poison_crashes, bound=self.rules.bound)

    def spawn(self, name: str, kind: str = "echo", **more: Any) -> None:
        session = name.partition("/")[0] if "/" in name else ""

        def job(batch: Batch) -> Result:
            result = batch.begin()
            if session and batch.peek_session(session) is None:
                batch.sessions[session] = SessionRow(session=session, repo="/r", state="running")
            batch.create(Spec(name=name, kind=kind, session=session, **more))
            return result

        self.do(job)

    def open(self, id: str = "c/1") -> str:
        def job(batch: Batch) -> Result:
            result = batch.begin()
            result.value = open_session(batch, id, repo="/r")
            return result

        session: str = self.do(job)[0].value["session"]
        return session

    def hello(self, name: str, incarnation: int) -> Any:
        hello = m.Hello(actor=name, incarnation=incarnation, token="")
        return self.do(lambda batch: batch.hello(hello))[0]

    def row(self, name: str) -> ActorRow:
        return self.rules.actors[name]

    def box(self, name: str, lane: int = 1) -> list[m.Mail]:
        found = mail.mailbox(self.memory, name, lane, 0, 1000)
        return [codec.to_actor(raw) for _, raw in found]  # type: ignore[misc]

    def events(self, session: str) -> list[dict[str, Any]]:
        return [codec.unpack(raw) for _, raw in self.memory.scan("events", name_key(session))]

    def commit(self, name: str, **parts: Any) -> Result:
        """The next step of an actor, by its incarnation in force."""
        return self.do(lambda batch: batch.commit(self.frame(name, **parts)))[0]

    def frame(
        self, name: str, *, input: m.InputRef | None = None, step: int = 0, **parts: Any
    ) -> m.Commit:
        row = self.row(name)
        return m.Commit(
            actor=name,
            incarnation=parts.pop("incarnation", row.fence),
            step=step or row.step + 1,
            input=input or m.InputRef(kind="init"),
            now=parts.pop("now", time.time()),
            **parts,
        )

    def send(self, sender: str, to: str | tuple[str, ...], body: Body | None = None, **more: Any):
        return self.commit(sender, outbox=(out(to, body, **more),))


def out(to: str | tuple[str, ...], body: Body | None = None, lane: int = 1) -> m.Out:
    return m.Out(
        to=(to,) if isinstance(to, str) else to,
        lane=lane,  # type: ignore[arg-type]
        body=codec.encode(Note(data=1) if body is None else body),
    )


def taking(mail: m.Mail) -> m.InputRef:
    return m.InputRef(kind="mail", lane=mail.lane, seq=mail.seq)


def exit_note(name: str, incarnation: int, **more: Any) -> dict[str, Any]:
    return {
        "op": "exited",
        "name": name,
        "incarnation": incarnation,
        "status": 1,
        "signal": 0,
        "reason": "",
        "blame": None,
        "final": False,
        **more,
    }


__all__ = ["Desk", "exit_note", "mail_key", "out", "taking", "validate"]
