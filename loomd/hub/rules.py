"""What the rules of the hub know: all that is committed, in memory. Pure: no clock, no I/O.

`Rules` holds the caches of `actors` and `sessions`; a `Batch` (`mail`) changes copies, and
`Rules.adopt` takes them over when, and only when, its transaction is durable. A `Result` is what
follows from one job of a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from loomd.actor.behaviour import Spec
from loomd.store.schema import session_of
from loomd.store.tables import ActorRow, SessionRow, Transaction, actor_row, session_row
from loomd.wire import codec
from loomd.wire.errors import LoomError

if TYPE_CHECKING:
    from loomd.hub.mail import Batch

MAILBOX_BOUND: Final = 10_000
"""Unconsumed work mails of one actor; answers and control mail are outside the bound."""

HUB: Final = "hub"
MODELS: Final = "models"
DAEMON: Final = "daemon"
"""Session under which events of the daemon's own actors are kept."""

LIVE: Final = frozenset({"starting", "running", "waiting", "paused"})
OVER: Final = frozenset({"done", "failed", "stopped"})

TEST_KINDS: Final = frozenset({"echo", "echo-performer"})
"""Kinds that exist for bench and tests."""


class Result(msgspec.Struct, gc=False):
    """What follows from one job, once it is durable.

    reply    frame for whoever sent the job
    mails    (recipient, lane, seq, encoded Mail)
    consumed (actor, lane, seq) of the mail that the commit consumed
    events   (session, encoded Event)
    timers   (actor, key, due or None, body)
    wake     actors to be ensured at the root; ended: to be stopped; over: sessions to be ended;
             bounced: to be restarted in order
    status   (actor, state, waiting_for, since), for subscribers
    told     bodies of mails to the hub itself
    known    Hello: (control, work) the last sequences given out
    """

    reply: Any = None
    mails: list[tuple[str, int, int, bytes]] = []
    consumed: tuple[str, int, int] | None = None
    events: list[tuple[str, bytes]] = []
    timers: list[tuple[str, str, float | None, bytes]] = []
    wake: list[str] = []
    ended: list[str] = []
    over: list[str] = []
    bounced: list[str] = []
    status: tuple[str, str, str, float] | None = None
    told: list[bytes] = []
    known: tuple[int, int] | None = None
    value: Any = None


class Known(msgspec.Struct, frozen=True):
    """The parts of a spec that the rules need on every commit."""

    kind: str
    session: str
    restart: str = "transient"


_known = msgspec.msgpack.Decoder(Known)


class Rules:
    """What is committed, in memory. Changed only by `load` and `adopt`."""

    def __init__(self, *, poison_crashes: int = 3, bound: int = MAILBOX_BOUND) -> None:
        self.poison_crashes = poison_crashes
        self.bound = bound
        self.epoch = 0
        self.actors: dict[str, ActorRow] = {}
        self.known: dict[str, Known] = {}
        self.sessions: dict[str, SessionRow] = {}
        self.members: dict[str, set[str]] = {}

    def load(self, txn: Transaction) -> None:
        """Everything from the state: at the start of a hub."""
        self.actors = {
            key[:-1].decode(): actor_row.decode(raw) for key, raw in txn.scan("actors", b"")
        }
        self.sessions = {
            key[:-1].decode(): session_row.decode(raw) for key, raw in txn.scan("sessions", b"")
        }
        self.known.clear()
        self.members.clear()
        for name, row in self.actors.items():
            self._index(name, row)

    def adopt(self, batch: Batch) -> None:
        """Takes over what `batch` changed: its transaction is durable now."""
        for name, row in batch.actors.items():
            if self.actors.get(name) is None or name in batch.respecified:
                self._index(name, row)
            self.actors[name] = row
        self.sessions.update(batch.sessions)

    def _index(self, name: str, row: ActorRow) -> None:
        self.known[name] = known = _known.decode(row.spec)
        self.members.setdefault(known.session, set()).add(name)

    def spec(self, name: str) -> Spec:
        """The whole spec of an actor that exists."""
        return msgspec.msgpack.decode(self.actors[name].spec, type=Spec)

    def awake(self, name: str) -> bool:
        """Whether it is wanted running."""
        row = self.actors.get(name)
        return row is not None and row.wanted == "running"


def boot_of(incarnation: int) -> int:
    """The start of the daemon that an incarnation belongs to."""
    return incarnation >> 32


def begin_epoch(txn: Transaction) -> int:
    """+1, in the first transaction of a hub; the new one."""
    raw = txn.get("meta", b"epoch")
    epoch = 1 + (0 if raw is None else int(codec.unpack(raw)))
    txn.put("meta", b"epoch", codec.pack(epoch))
    return epoch


def check_epoch(txn: Transaction, epoch: int) -> bool:
    """Whether this hub is still the one that may write."""
    raw = txn.get("meta", b"epoch")
    return raw is not None and codec.unpack(raw) == epoch


def encode_spec(spec: Spec) -> msgspec.Raw:
    """A spec for its row: a full map, whatever is a default."""
    plain = msgspec.to_builtins({name: getattr(spec, name) for name in Spec.__struct_fields__})
    return msgspec.Raw(codec.pack(plain))


def read_spec(value: dict[str, Any]) -> Spec:
    """A spec from plain data. LoomError(bad_request)."""
    try:
        spec = msgspec.convert(value, Spec)
    except msgspec.ValidationError as error:
        raise LoomError("bad_request", f"not a spec: {error}") from None
    if session_of(spec.name) != spec.session:
        detail = f"{spec.name!r} is not of session {spec.session!r}"
        raise LoomError("bad_request", detail)
    return spec
