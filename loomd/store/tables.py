"""What the rules see of the state: `Transaction`, its in-memory twin, and the hub's own rows. Pure.

Rows are MessagePack maps. The structs here are only a fast way to write and read those maps: any
other reader may `codec.unpack` them.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from loomd.store.schema import TABLES
from loomd.wire.messages import Mail

MAX_KEY = 511
"""Bytes of a key: LMDB's limit."""


class Transaction(Protocol):
    """Tables of ordered byte keys; all changes become visible together or not at all."""

    def get(self, table: str, key: bytes) -> bytes | None: ...
    def put(self, table: str, key: bytes, value: bytes) -> None: ...
    def delete(self, table: str, key: bytes) -> bool: ...

    def scan(self, table: str, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Rows whose key starts with `prefix`, ascending; with `after`, only keys beyond it."""
        ...

    def last(self, table: str, prefix: bytes) -> tuple[bytes, bytes] | None:
        """The last row whose key starts with `prefix`."""
        ...


def successor(prefix: bytes) -> bytes:
    """The smallest key that is beyond all keys with this prefix; b"" if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else b""


class Memory:
    """The in-memory twin of a writable store: one transaction at a time, `abort` undoes it."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {name: {} for name in TABLES}
        self._undo: list[tuple[str, bytes, bytes | None]] = []

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.tables[table].get(key)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        if not 0 < len(key) <= MAX_KEY:
            raise ValueError(f"key of {len(key)} bytes")
        rows = self.tables[table]
        self._undo.append((table, key, rows.get(key)))
        rows[key] = bytes(value)

    def delete(self, table: str, key: bytes) -> bool:
        before = self.tables[table].pop(key, None)
        if before is None:
            return False
        self._undo.append((table, key, before))
        return True

    def scan(self, table: str, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        keys = sorted(self.tables[table])
        start = bisect.bisect_right(keys, after) if after else bisect.bisect_left(keys, prefix)
        for key in keys[max(start, bisect.bisect_left(keys, prefix)) :]:
            if not key.startswith(prefix):
                return
            yield key, self.tables[table][key]

    def last(self, table: str, prefix: bytes) -> tuple[bytes, bytes] | None:
        rows = list(self.scan(table, prefix))
        return rows[-1] if rows else None

    def commit(self) -> None:
        self._undo.clear()

    def abort(self) -> None:
        while self._undo:
            table, key, before = self._undo.pop()
            if before is None:
                self.tables[table].pop(key, None)
            else:
                self.tables[table][key] = before


class Row(msgspec.Struct, kw_only=True):
    """Base of the rows below."""


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where an actor stands on its recovery ladder (loomd.actor.ladder). `falls`: times of its
    failures on this rung, epoch seconds; `since`: when it was entered."""

    rung: int = 0
    falls: tuple[float, ...] = ()
    since: float = 0.0


class ActorRow(Row, kw_only=True):
    """Table `actors`. `spec` stays encoded: it never changes, and every commit writes the row.

    wanted    running | asleep | ended
    fence     the incarnation whose commits are taken; 0: none said Hello yet
    step      of the last commit; log: number of entries of the own log
    seq       last sequence given out, per lane [control, work]
    slept     it was sent to sleep since its last Hello: the next one is no restart
    restarts  by its supervisor; neither wake-ups nor new starts of the daemon
    boxed     unconsumed mails, per lane
    fails     ends in a row without a commit in between that its supervisor did not mend
    recovery  where it stands on its recovery ladder, and since when; None: it never failed
    rung      the rung that it runs on, for people; "": as usual
    booked    the last incarnation whose end is booked: a note of it may come again
    halted    it ran when its session's supervision gave up: it sleeps until the session is resumed
    told      the last (status, waiting_for, since) that it told itself: its successor stands there
    """

    spec: msgspec.Raw
    wanted: str = "running"
    fence: int = 0
    step: int = 0
    version: int = 1
    state: bytes | None = None
    seq: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    status: str = "starting"
    status_since: float = 0.0
    waiting_for: str = ""
    generation: int = 0
    restarts: int = 0
    created: float = 0.0
    ended_reason: str = ""
    log: int = 0
    slept: bool = False
    boxed: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    fails: int = 0
    booked: int = 0
    halted: bool = False
    recovery: History | None = None
    rung: str = ""
    told: tuple[str, str, float] = ("idle", "", 0.0)


class SessionRow(Row, kw_only=True):
    """Table `sessions`. `data`: whatever the team keeps there for people; `noted`: number of the
    last note of the root that its supervision gave up, which may come again."""

    session: str
    repo: str
    goal: str = ""
    state: str = "starting"
    kind: str = ""
    answer: str = ""
    created: float = 0.0
    ended: float | None = None
    model: str = ""
    team: int = 6
    yes: bool = False
    budget_usd: float | None = None
    timeout_s: float | None = None
    env: dict[str, str] = {}
    base: str = ""
    last_event: int = 0
    recoveries: list[dict[str, Any]] = []
    removed: bool = False
    noted: int = 0
    data: dict[str, Any] = {}


class StoredMail(Mail, frozen=True, kw_only=True, tag="mail"):
    """Table `mail`: the very frame that the recipient gets, except when the body is `shared`.

    shared   key in table `bodies`: a body that went to several is stored once
    """

    shared: str = ""


class InputRow(Row, kw_only=True, omit_defaults=True):
    """Table `inputs`: what a step consumed. Replay runs on these rows."""

    kind: str
    now: float
    generation: int = 0
    lane: int = 0
    seq: int = 0
    key: str = ""
    due: float = 0.0
    mail: msgspec.Raw = msgspec.Raw(b"")
    body: bytes = b""


class EffectRow(Row, kw_only=True):
    """`attempt`: how often it was started; `crashes`: how often it has ended its actor, for all
    that is known."""

    body: bytes
    attempt: int = 1
    standing: bool = False
    crashes: int = 0


class TimerRow(Row, kw_only=True):
    """`crashes`: how often it has ended its actor."""

    due: float
    body: bytes = b""
    crashes: int = 0


class DeadRow(Row, kw_only=True):
    """Table `dead`: what ended its reader again and again.

    kind   mail: `lane`, `seq` and `mail`, the stored frame
           timer, effect: `key`, `body`; `due` of a timer, `standing` of an effect
    """

    id: str
    actor: str
    crashes: int
    error: str
    ts: float
    sender: str
    kind: str = "mail"
    lane: int = 0
    seq: int = 0
    mail: bytes = b""
    key: str = ""
    body: bytes = b""
    due: float = 0.0
    standing: bool = False


class RequestRow(Row, kw_only=True):
    """Table `requests`: what a state-changing request was answered (an encoded frame)."""

    reply: bytes
    ts: float


encoder = msgspec.msgpack.Encoder()
actor_row = msgspec.msgpack.Decoder(ActorRow)
session_row = msgspec.msgpack.Decoder(SessionRow)
stored_mail = msgspec.msgpack.Decoder(StoredMail)
effect_row = msgspec.msgpack.Decoder(EffectRow)
timer_row = msgspec.msgpack.Decoder(TimerRow)
dead_row = msgspec.msgpack.Decoder(DeadRow)
request_row = msgspec.msgpack.Decoder(RequestRow)
