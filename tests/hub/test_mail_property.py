"""Exactly once and in order, whatever is killed, resent, reordered or aborted.

A machine of a few actors that mail each other over the real rules. Frames lie in a pipe per
incarnation, as in a socket: they arrive in order, late, or not at all; hosts are killed, hubs are
killed before or after their commit. At the end everything is run until it is quiet.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from loomd.store.schema import name_key
from loomd.wire import codec
from loomd.wire import messages as m
from loomd.wire.bodies import Note
from tests.hub.desk import Desk, exit_note, taking, validate

ACTORS = ("s-1/a", "s-1/b", "s-1/c")


class Host:
    """A host as it behaves: one commit in flight, kept until it is acknowledged."""

    def __init__(self, name: str, incarnation: int) -> None:
        self.name = name
        self.incarnation = incarnation
        self.step: int | None = None
        self.inflight: m.Commit | None = None
        self.pipe: deque[m.Commit | m.Hello] = deque()  # on its way to the hub

    def hello(self) -> None:
        self.pipe.append(m.Hello(actor=self.name, incarnation=self.incarnation, token=""))


class World:
    """Actors, pipes and a hub, driven by one seeded random."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.desk = Desk()
        self.next = 1
        self.sent: list[str] = []  # labels whose commit was acknowledged
        self.hosts: dict[str, Host] = {}
        self.old: list[Host] = []  # killed, with frames still in the socket
        for name in ACTORS:
            self.desk.spawn(name)
            self.birth(name)
        self.quiet()

    def birth(self, name: str) -> None:
        host = Host(name, self.next)
        self.next += 1
        host.hello()
        self.hosts[name] = host

    # --- what hosts do ---------------------------------------------------------------------------

    def step(self) -> None:
        """Takes the first mail if there is one, and sends one, in one commit."""
        ready = [h for h in self.hosts.values() if h.step is not None and h.inflight is None]
        if not ready:
            return
        host, to, lane = self.rng.choice(ready), self.rng.choice(ACTORS), self.rng.randrange(2)
        assert host.step is not None
        name = host.name
        waiting = self.desk.box(name, 0) or self.desk.box(name, 1)
        ref = taking(waiting[0]) if waiting else m.InputRef(kind="init")
        label = f"{name}@{host.incarnation}/{host.step + 1}"
        host.inflight = m.Commit(
            actor=name,
            incarnation=host.incarnation,
            step=host.step + 1,
            input=ref,
            now=0.0,
            outbox=(
                m.Out(
                    to=(to,),
                    lane=lane,  # type: ignore[arg-type]
                    body=codec.encode(Note(data=label)),
                ),
            ),
            events=(m.EventOut(type="sent", data={"label": label}),),
        )
        host.pipe.append(host.inflight)

    def resend(self) -> None:
        host = self.hosts[self.rng.choice(ACTORS)]
        if host.inflight is not None:
            host.pipe.append(host.inflight)

    def kill(self) -> None:
        """Its frames stay in the socket; a successor is born at once."""
        name = self.rng.choice(ACTORS)
        host = self.hosts[name]
        self.old.append(host)
        self.birth(name)

    # --- what the hub does -----------------------------------------------------------------------

    def hub(self) -> None:
        self.transaction(self.rng.choices(("done", "aborted", "lost"), (20, 1, 1))[0])

    def transaction(self, fate: str) -> None:
        """Takes frames of several pipes in one transaction. `lost`: the hub dies after it."""
        pipes = [h for h in (*self.hosts.values(), *self.old) if h.pipe]
        if not pipes:
            return
        taken: list[tuple[Host, Any]] = []
        self.rng.shuffle(pipes)
        for host in pipes[: self.rng.randint(1, len(pipes))]:
            for _ in range(self.rng.randint(1, len(host.pipe))):
                taken.append((host, host.pipe.popleft()))
        jobs = [
            (lambda b, f=f: b.hello(f) if isinstance(f, m.Hello) else b.commit(f)) for _, f in taken
        ]
        if fate == "aborted":  # and the hub dies: nothing was stored, nothing is answered
            self.desk.abort(*jobs)
            self.restart_hub()
            return
        results = self.desk.do(*jobs)
        if fate == "lost":
            self.restart_hub()
            return
        for (host, frame), result in zip(taken, results, strict=True):
            self.answer(host, frame, result.reply)

    def restart_hub(self) -> None:
        """All sockets are gone; whoever lives says Hello again."""
        self.desk = self.desk.restarted()
        self.old.clear()
        for host in self.hosts.values():
            host.pipe.clear()
            host.hello()

    def answer(self, host: Host, frame: Any, reply: Any) -> None:
        if self.hosts[host.name] is not host:
            return  # killed meanwhile
        if isinstance(reply, m.Fenced):
            self.birth(host.name)
        elif isinstance(reply, m.Welcome):
            if host.inflight is not None and reply.step == host.inflight.step:
                self.acknowledged(host)
            elif host.inflight is not None:
                assert reply.step == host.inflight.step - 1
                host.pipe.append(host.inflight)
            host.step = reply.step
        elif isinstance(reply, m.Committed):
            if host.inflight is not None and reply.step == host.inflight.step:
                self.acknowledged(host)
        else:
            raise AssertionError(f"{frame} -> {reply}")

    def acknowledged(self, host: Host) -> None:
        assert host.inflight is not None
        host.step = host.inflight.step
        self.sent.append(f"{host.name}@{host.incarnation}/{host.step}")
        host.inflight = None

    # --- what must hold --------------------------------------------------------------------------

    def labels(self, table: str) -> dict[str, list[str]]:
        """Per recipient, the labels in its mailbox or in what it consumed, in order."""
        found: dict[str, list[str]] = {}
        for name in ACTORS:
            found[name] = []
            for _, raw in self.desk.memory.scan(table, name_key(name)):
                value = codec.unpack(raw)
                mail = value if table == "mail" else value.get("mail")
                if mail:
                    found[name].append(codec.unpack(mail["body"])["data"])
        return found

    def exactly_once(self) -> None:
        validate(self.desk.rules, self.desk.memory)
        boxed, consumed = self.labels("mail"), self.labels("inputs")
        everywhere = Counter(label for name in ACTORS for label in boxed[name] + consumed[name])
        assert not [label for label, n in everywhere.items() if n != 1], "a mail was doubled"
        assert set(self.sent) <= set(everywhere), "an acknowledged mail was lost"
        events = [event["data"]["label"] for event in self.desk.events("s-1")
                  if event["type"] == "sent"]  # fmt: skip
        assert sorted(events) == sorted(everywhere), "events and mails tell different stories"

    def in_order(self) -> None:
        """Per sender, recipient and lane: what was sent first is consumed first."""
        for name in ACTORS:
            last: dict[tuple[str, int], int] = {}
            for _, raw in self.desk.memory.scan("inputs", name_key(name)):
                value = codec.unpack(raw)
                if not value.get("mail"):
                    continue
                mail = value["mail"]
                key = mail["sender"], mail.get("lane", 1)
                step = int(codec.unpack(mail["body"])["data"].rpartition("/")[2])
                assert step > last.get(key, 0), f"{name} got {key} out of order"
                last[key] = step

    def late_obituary(self) -> None:
        """Of an incarnation that has a successor: changes nothing."""
        for name, host in self.hosts.items():
            if host.step is not None and host.incarnation > 1:
                before = self.desk.row(name).fence
                self.desk.do(lambda b, n=name, i=host.incarnation: b.exited(exit_note(n, i - 1)))
                assert self.desk.row(name).fence == before

    def quiet(self) -> None:
        """Takes every frame that is on its way, and what follows from it."""
        for _ in range(3):
            for host in (*self.old, *self.hosts.values()):
                while host.pipe:
                    frame = host.pipe.popleft()
                    result = self.desk.do(
                        lambda b, f=frame: b.hello(f) if isinstance(f, m.Hello) else b.commit(f)
                    )
                    self.answer(host, frame, result[0].reply)

    def finish(self) -> None:
        """Run on until it is quiet: nothing hangs."""
        self.quiet()
        for host in self.hosts.values():
            assert host.step is not None and host.inflight is None, f"{host.name} hangs"
        self.exactly_once()
        self.in_order()


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 150))
def test_mail_is_exactly_once_and_in_order(seed: int, length: int) -> None:
    world = World(random.Random(seed))
    actions = (world.step, world.hub, world.resend, world.kill, world.late_obituary)
    for _ in range(length):
        world.rng.choices(actions, (20, 14, 3, 2, 1))[0]()
        world.exactly_once()
        world.in_order()
    world.finish()
