"""Who is connected, what each has on the wire, and asks between them. Pure: decides what to send.

A mailbox lies in the state; on the wire to a host are at most `WINDOW` mails of a lane. `Peer`
keeps a cursor per lane: everything up to it was sent to this incarnation, everything up to `known`
exists. A mail just committed goes out at once if nothing lies between; else it is read later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

WINDOW: Final = 64
HELD_ASKS: Final = 1000
HELD_S: Final = 30.0


class Peer:
    """One welcomed incarnation of an actor. `used`: monotonic time of its last Hello or ask."""

    __slots__ = ("cursor", "flying", "identity", "incarnation", "known", "name", "session", "used")

    def __init__(
        self, name: str, session: str, incarnation: int, identity: bytes, known: tuple[int, int]
    ) -> None:
        self.name = name
        self.session = session
        self.incarnation = incarnation
        self.identity = identity
        self.known = list(known)
        self.cursor = [0, 0]
        self.flying = [0, 0]
        self.used = 0.0

    def offered(self, lane: int, seq: int) -> bool:
        """A mail was committed: whether to send it now (then it counts as sent)."""
        if seq > self.known[lane]:
            self.known[lane] = seq
        if self.cursor[lane] != seq - 1 or self.flying[lane] >= WINDOW:
            return False
        self.cursor[lane] = seq
        self.flying[lane] += 1
        return True

    def consumed(self, lane: int) -> None:
        if self.flying[lane] > 0:
            self.flying[lane] -= 1

    def room(self, lane: int) -> int:
        """How many mails to read from the state and send; 0: none wait, or enough are out."""
        if self.cursor[lane] >= self.known[lane] or self.flying[lane] > WINDOW // 2:
            return 0
        return WINDOW - self.flying[lane]

    def read(self, lane: int, seqs: list[int], limit: int) -> None:
        """These were read and sent. Fewer than `limit`: there are no more up to `known`."""
        self.flying[lane] += len(seqs)
        if seqs:
            self.cursor[lane] = seqs[-1]
        if len(seqs) < limit:
            self.cursor[lane] = max(self.cursor[lane], self.known[lane])


class Peers:
    """By name and by identity; of each name only the newest incarnation."""

    def __init__(self) -> None:
        self.by_name: dict[str, Peer] = {}
        self.by_identity: dict[bytes, Peer] = {}

    def add(self, peer: Peer) -> None:
        self.drop(peer.name)
        self.by_name[peer.name] = peer
        self.by_identity[peer.identity] = peer

    def drop(self, name: str, up_to: int | None = None) -> Peer | None:
        """Forgets a peer, unless its incarnation is newer than `up_to`."""
        peer = self.by_name.get(name)
        if peer is None or (up_to is not None and peer.incarnation > up_to):
            return None
        del self.by_name[name]
        self.by_identity.pop(peer.identity, None)
        return peer


@dataclass
class Held:
    """An ask whose callee is not connected yet."""

    deadline: float
    route: bytes
    id: str
    sender: str
    body: bytes


@dataclass
class Asks:
    """Asks that wait: for their callee's birth, or for its answer."""

    open: dict[str, set[tuple[bytes, str]]] = field(default_factory=dict)
    held: dict[str, list[Held]] = field(default_factory=dict)
    count: int = 0

    def hold(self, to: str, held: Held) -> bool:
        """False: too many are held already."""
        if self.count >= HELD_ASKS:
            return False
        self.held.setdefault(to, []).append(held)
        self.count += 1
        return True

    def release(self, to: str) -> list[Held]:
        """What was held for an actor that is there now, or never will be."""
        released = self.held.pop(to, [])
        self.count -= len(released)
        return released

    def asked(self, to: str, route: bytes, id: str) -> None:
        self.open.setdefault(to, set()).add((route, id))

    def answered(self, by: str, route: bytes, id: str) -> bool:
        """Whether `by` was asked this; an answer to anything else is dropped."""
        waiting = self.open.get(by)
        if waiting is None or (route, id) not in waiting:
            return False
        waiting.discard((route, id))
        return True

    def died(self, name: str) -> list[tuple[bytes, str]]:
        """The asks that die with this incarnation."""
        return sorted(self.open.pop(name, ()))

    def expired(self, now: float) -> Iterator[tuple[str, Held]]:
        """Takes out the held asks whose time is up."""
        for to in list(self.held):
            late = [held for held in self.held[to] if held.deadline <= now]
            if not late:
                continue
            kept = [held for held in self.held[to] if held.deadline > now]
            self.count -= len(late)
            if kept:
                self.held[to] = kept
            else:
                del self.held[to]
            for held in late:
                yield to, held
