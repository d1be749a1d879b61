"""The rules of exactly-once mail, over an abstract transaction. Pure: no clock, no I/O.

`Rules` holds what is committed (the caches of `actors` and `sessions`); a `Batch` is one
transaction in the making: it changes copies of rows, and `Rules.adopt` takes them over when, and
only when, the transaction is durable. Each job of a batch yields one `Result`: what the loop may
do and say afterwards.

Invariants:
- a commit is applied iff its incarnation is the fence and its step is the last one + 1
- a mail lies in table `mail` until the commit that consumes it; then it lies in `inputs`
- a recipient's sequence in a lane has no gap and comes from its `actors` row
- a job is checked whole before its first write, so a refused one leaves no trace
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any, Final, Literal

import msgspec

from loomd.actor.behaviour import Spec
from loomd.hub import accounts, gateways, poison, recovery, supervision
from loomd.store.schema import (
    TABLES,
    last_number,
    mail_key,
    name_key,
    number_key,
    session_of,
    text_key,
)
from loomd.store.tables import (
    MAX_KEY,
    ActorRow,
    EffectRow,
    InputRow,
    SessionRow,
    StoredMail,
    TimerRow,
    Transaction,
    actor_row,
    effect_row,
    session_row,
    stored_mail,
    timer_row,
)
from loomd.wire import codec
from loomd.wire.bodies import Ended, Undelivered
from loomd.wire.errors import LoomError
from loomd.wire.messages import (
    CONTROL,
    WORK,
    ChildChange,
    Commit,
    Committed,
    Event,
    Fenced,
    Hello,
    Mail,
    Refused,
    Status,
    Welcome,
)

MAILBOX_BOUND: Final = 10_000
"""Unconsumed work mails of one actor; answers and control mail are outside the bound."""

MAX_BODY: Final = codec.BODY_LIMIT
"""A mail must fit a frame together with its ids."""

SHARE_FROM: Final = 128
"""Bytes from which a body for several recipients is stored once."""

FAILS: Final = 10
"""Ends in a row without a commit between them after which an actor is given up."""

HUB: Final = "hub"
MODELS: Final = "models"
DAEMON: Final = "daemon"
"""Session under which events of the daemon's own actors are kept."""

LIVE: Final = frozenset({"starting", "running", "waiting", "paused"})
OVER: Final = frozenset({"done", "failed", "stopped"})

ANSWERS: Final = frozenset(
    {
        "tool_result",
        "model_outcome",
        "performed",
        "priced",
        "report",
        "recalled",
        "applied",
        "changed",
        "undo_plan",
        "decision",
        "undelivered",
        "ended",
        "keeper_ready",
    }
)
"""Bodies that answer something: never refused for a full mailbox, or the asker would hang."""

OF_EDITS: Final = frozenset({"apply", "applied", "changed", "plan_undo", "undo_plan"})
"""Bodies that wake whoever they are for: what a session that is over has changed can be undone."""

NOT_BY_SESSION: Final = frozenset({"ledger", "queue", "decisions"})
"""Tables with an owner whose keys do not begin with a session."""

TEST_KINDS: Final = frozenset({"echo", "echo-performer"})
"""Kinds that exist for bench and tests."""

ANSWERING: Final = frozenset({"models", "gateway"})
"""Kinds that answer what the hub itself has asked."""

STARTERS: Final = TEST_KINDS | {"team"}
"""Kinds whose commits may start and stop other actors of their session."""


Why = Literal["full", "no_such_actor", "poison", "given_back"]
"""Why a mail was not delivered."""


class _Tag(msgspec.Struct):
    t: str = ""


_tag = msgspec.msgpack.Decoder(_Tag)
_encode = msgspec.msgpack.Encoder().encode


def tag_of(body: bytes) -> str:
    """The type of an encoded body, "" if it has none. Only asked when something is out of order."""
    try:
        return _tag.decode(body).t
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


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


class Batch:
    """One transaction in the making."""

    def __init__(self, rules: Rules, txn: Transaction, now: float) -> None:
        self.rules = rules
        self.txn = txn
        self.now = now
        self.actors: dict[str, ActorRow] = {}
        self.sessions: dict[str, SessionRow] = {}
        self.respecified: set[str] = set()
        self._born: dict[str, Known] = {}
        self._result = Result()
        self._attempts = 0  # rows of the ledger that are in no sum yet

    def flush(self) -> None:
        """Writes the changed rows, once each; the transaction may be committed then."""
        for name, row in self.actors.items():
            self.txn.put("actors", name_key(name), _encode(row))
        for name, session in self.sessions.items():
            self.txn.put("sessions", name_key(name), _encode(session))
        if self._attempts:
            accounts.sum_up(self.txn)
            self._attempts = 0

    # --- rows ----------------------------------------------------------------------------------

    def actor(self, name: str) -> ActorRow | None:
        """A copy of the row that may be changed; None: no such actor."""
        row = self.actors.get(name)
        if row is None:
            held = self.rules.actors.get(name)
            if held is None:
                return None
            row = self.actors[name] = copy(held)
            row.seq = row.seq.copy()
            row.boxed = row.boxed.copy()
        return row

    def peek(self, name: str) -> ActorRow | None:
        """The row, only to be read."""
        return self.actors.get(name) or self.rules.actors.get(name)

    def session(self, name: str) -> SessionRow | None:
        """A copy of the row that may be changed; None: no such session."""
        row = self.sessions.get(name)
        if row is None:
            held = self.rules.sessions.get(name)
            if held is None:
                return None
            row = self.sessions[name] = copy(held)
        return row

    def peek_session(self, name: str) -> SessionRow | None:
        return self.sessions.get(name) or self.rules.sessions.get(name)

    def known(self, name: str) -> Known:
        """Of an actor that exists."""
        return self._born.get(name) or self.rules.known[name]

    def members(self, session: str) -> list[str]:
        """All actors of a session, ended ones too."""
        names = set(self.rules.members.get(session, ()))
        names.update(name for name, known in self._born.items() if known.session == session)
        return sorted(names)

    def live(self, session: str) -> bool:
        """Whether mail alone may wake the actors of this session."""
        if not session:
            return True
        row = self.peek_session(session)
        return row is None or row.state not in OVER

    # --- jobs ----------------------------------------------------------------------------------

    def hello(self, hello: Hello) -> Result:
        """Moves the fence to this incarnation, in line with the commits before and after it."""
        result = self._begin()
        held = self.peek(hello.actor)
        if held is None or held.wanted != "running":
            # Ended, or sent to sleep before this incarnation was born: the root gets to hear it.
            state = "" if held is None else "has ended" if held.wanted == "ended" else "is asleep"
            result.reply = Fenced(reason=f"it {state}" if state else "no such actor")
            if held is not None:
                result.ended.append(hello.actor)
            return result
        if hello.incarnation < held.fence:
            result.reply = Fenced(reason="a newer incarnation exists")
            return result
        if hello.incarnation > held.fence:
            row = self.actor(hello.actor)
            assert row is not None
            again = row.fence != 0
            moved = again and hello.generation > row.generation  # to newer code
            if (
                again
                and not (row.slept or moved)
                and boot_of(row.fence) == boot_of(hello.incarnation)
            ):
                row.restarts += 1
            row.fence = hello.incarnation
            row.generation = hello.generation
            kind = "actor_restarted"
            if not again or row.slept:
                kind = "actor_woken" if again else "actor_started"
            elif moved:
                kind = "actor_upgraded"
            data: dict[str, Any] = {"name": hello.actor, "incarnation": hello.incarnation}
            if kind == "actor_upgraded":
                data["generation"] = hello.generation
            if kind == "actor_restarted":
                data["reason"] = row.waiting_for if row.status == "restarting" else ""
            if row.status in ("restarting", "starting", "asleep"):
                row.status, row.waiting_for, since = row.told
                row.status_since = since or self.now
                result.status = (hello.actor, row.status, row.waiting_for, row.status_since)
            row.slept = False
            gateways.seen(self, hello.actor, hello.incarnation, up=True)
            self.event(session_of(hello.actor), kind, hello.actor, data)
            held = row
        result.reply = Welcome(epoch=self.rules.epoch, step=held.step)
        result.known = (held.seq[CONTROL], held.seq[WORK])
        return result

    def commit(self, commit: Commit) -> Result:
        """Applies one step, acknowledges it again, or refuses it."""
        result = self._begin()
        held = self.peek(commit.actor)
        if held is None:
            result.reply = Fenced(reason="no such actor")
            return result
        if commit.incarnation != held.fence:
            result.reply = Fenced(reason="another incarnation is in force")
            return result
        if commit.step == held.step:
            result.reply = Committed(step=commit.step)
            return result
        if held.wanted == "ended":
            result.reply = Fenced(reason="it has ended")
            return result
        if commit.step != held.step + 1:
            result.reply = Fenced(reason=f"step {commit.step} after step {held.step}")
            return result
        refused = self._problem(commit, held)
        if refused is not None:
            result.reply = refused
            return result
        row = self.actor(commit.actor)
        assert row is not None
        self._apply(commit, row)
        result.reply = Committed(step=commit.step)
        return result

    def exited(self, note: dict[str, Any]) -> Result:
        """The root's word that an incarnation is dead. `note`: see the link protocol.

        Blames the mail in hand and books a failure on the actor's ladder; an actor that its
        supervisor will not restart (`final`) and that is still wanted is ensured again, unless it
        was temporary or ends again and again. Told twice, it is booked once.
        """
        result = self._begin()
        name, incarnation = str(note.get("name")), int(note.get("incarnation") or 0)
        held = self.peek(name)
        if held is None or incarnation < held.fence or incarnation <= held.booked:
            return result
        reason = exit_reason(note)
        blame = note.get("blame") or {}
        if incarnation == held.fence and blame:
            poison.blame(self, name, blame, reason)
        row = self.actor(name)
        assert row is not None
        row.booked = incarnation
        if row.wanted == "running":
            row.status, row.waiting_for = "restarting", reason
        elif row.wanted == "asleep":
            row.status, row.waiting_for = "asleep", ""
        row.status_since = self.now
        if row.wanted == "running" and gateways.died(note):
            gateways.seen(self, name, incarnation, up=False)
        if row.wanted == "running" and recovery.is_failure(note):
            recovery.fell(self, name, row, reason)
        result.status = (name, row.status, row.waiting_for, self.now)
        if note.get("final") and row.wanted == "running":
            row.fails += 1
            if self.known(name).restart == "temporary" or row.fails >= FAILS:
                self.end(name, f"gave up: {reason}", by=HUB)
            else:
                result.wake.append(name)
        return result

    def wake(self, name: str) -> Result:
        """Somebody needs it to run: an ask, a due timer. Who is halted stays so: it runs on when
        its session is resumed, even if it sleeps again before."""
        result = self._begin()
        row = self.peek(name)
        if row is not None and row.wanted == "asleep":
            self.awaken(name, halted=row.halted)
        return result

    def due(self, name: str) -> Result:
        """A timer of a sleeper is due. If its session is over it sleeps on, but for the team; who
        is halted sleeps on in any case: it gets its timers when it is resumed."""
        row = self.peek(name)
        halted = row is not None and row.halted
        if not halted and (self.live(session_of(name)) or self.known(name).kind == "team"):
            return self.wake(name)
        return self._begin()

    def settle(self, names: Sequence[str]) -> Result:
        """Actors of sessions that are over, woken for something that is done: asleep again."""
        result = self._begin()
        for name in names:
            row = self.peek(name)
            if row is None or row.wanted != "running" or self.live(session_of(name)):
                continue
            if not self.busy(name, row):
                self.sleep(name)
                result.ended.append(name)
        return result

    def begin(self) -> Result:
        """For the rules of requests: a fresh result to fill."""
        return self._begin()

    # --- pieces --------------------------------------------------------------------------------

    def create(self, spec: Spec) -> None:
        """Wants an actor running: a new row, or an old one woken or revived with this spec."""
        row = self.actor(spec.name)
        if row is None:
            row = ActorRow(spec=encode_spec(spec), created=self.now, status_since=self.now)
            self.actors[spec.name] = row
            self._born[spec.name] = Known(spec.kind, spec.session, spec.restart)
            self.respecified.add(spec.name)
        elif row.wanted == "ended":
            row.spec = encode_spec(spec)
            row.wanted, row.ended_reason, row.status = "running", "", "starting"
            row.status_since, row.fails = self.now, 0
            row.recovery, row.rung = None, ""
            self._born[spec.name] = Known(spec.kind, spec.session, spec.restart)
            self.respecified.add(spec.name)
        row.wanted, row.halted = "running", False
        self._result.wake.append(spec.name)

    def respec(self, spec: Spec) -> None:
        """One of the daemon's own actors, as this start of the daemon wants it."""
        self.create(spec)
        row = self.actor(spec.name)
        assert row is not None
        row.spec = encode_spec(spec)
        self._born[spec.name] = Known(spec.kind, spec.session, spec.restart)
        self.respecified.add(spec.name)

    def sleep(self, name: str) -> None:
        row = self.actor(name)
        if row is None or row.wanted != "running":
            return
        row.wanted, row.slept = "asleep", True
        row.status, row.waiting_for, row.status_since = "asleep", "", self.now

    def end(self, name: str, reason: str, by: str) -> None:
        """Ends an actor for good: what waits for it is answered, the team is told once."""
        row = self.actor(name)
        if row is None or row.wanted == "ended":
            return
        row.wanted, row.ended_reason = "ended", reason
        row.status, row.waiting_for, row.status_since = "ended", "", self.now
        self._result.ended.append(name)
        session = session_of(name)
        if self.known(name).kind == gateways.KIND:
            gateways.give_back(self, name)
        self.event(session, "actor_ended", name, {"name": name, "reason": reason})
        for table in ("timers", "effects"):
            for key, _ in list(self.txn.scan(table, name_key(name))):
                self.txn.delete(table, key)
                if table == "timers":
                    self._result.timers.append((name, _part(key, name), None, b""))
        for key, raw in list(self.txn.scan("mail", name_key(name))):
            mail = stored_mail.decode(raw)
            self.txn.delete("mail", key)
            self.undelivered(mail.sender, mail.id, name, "no_such_actor", self.body_of(mail))
        row.boxed = [0, 0]
        team = f"{session}/team"
        if session and team not in (name, by):
            told = codec.encode(Ended(name=name, reason=reason))
            self.deliver(team, CONTROL, f"{name}/ended.{row.step}", HUB, told)

    def body_of(self, mail: StoredMail) -> bytes:
        """The body of a stored mail, wherever it lies."""
        if not mail.shared:
            return mail.body
        return self.txn.get("bodies", mail.shared.encode()) or b""

    def deliver(
        self,
        to: str,
        lane: int,
        id: str,
        sender: str,
        body: bytes,
        cause: str = "",
        *,
        shared: str = "",
        force: bool = False,
    ) -> Why | Literal[""]:
        """Puts one mail into a mailbox: "" or why not (`full`, `no_such_actor`).

        `shared`: the body is stored in table `bodies` under this key. `force`: wakes the recipient
        even if its session is over, as does what a team and its tool host say to each other about
        an edit; never one that is halted.
        """
        held = self.peek(to)
        if held is None or held.wanted == "ended":
            return "no_such_actor"
        if lane == WORK and held.boxed[WORK] >= self.rules.bound and tag_of(body) not in ANSWERS:
            return "full"
        row = self.actor(to)
        assert row is not None
        row.seq[lane] = seq = row.seq[lane] + 1
        row.boxed[lane] += 1
        frame = _encode(
            Mail(
                seq=seq,
                lane=lane,
                id=id,
                sender=sender,
                body=body,
                cause=cause,
                ts=self.now,
            )
        )
        stored = frame
        if shared:
            stored = _encode(
                StoredMail(
                    seq=seq,
                    lane=lane,
                    id=id,
                    sender=sender,
                    body=b"",
                    cause=cause,
                    ts=self.now,
                    shared=shared,
                )
            )
        self.txn.put("mail", mail_key(to, lane, seq), stored)
        self._result.mails.append((to, lane, seq, frame))
        if row.wanted == "asleep" and not row.halted:
            force = force or tag_of(body) in OF_EDITS
            if force or self.live(session_of(to)):
                self.awaken(to)
        return ""

    def event(
        self, session: str, type: str, actor: str, data: dict[str, Any], cause: str = ""
    ) -> int:
        """The next event of a session's log; its sequence, 0 if there is no such session."""
        row = self.session(session or DAEMON)
        if row is None:
            if session:
                return 0
            row = self.sessions[DAEMON] = SessionRow(
                session=DAEMON, repo="", state="running", created=self.now
            )
        row.last_event = seq = row.last_event + 1
        if type == "recovery":
            self._recovered(row, actor, data)
        event = _encode(
            Event(
                session=row.session,
                seq=seq,
                ts=self.now,
                type=type,
                actor=actor,
                cause=cause,
                data=data,
            )
        )
        self.txn.put("events", number_key(row.session, seq), event)
        self._result.events.append((row.session, event))
        return seq

    def arm(self, name: str, key: str, due: float, body: bytes) -> None:
        """A timer of table `timers` is armed from here on."""
        self._result.timers.append((name, key, due, body))

    def disarm(self, name: str, key: str) -> None:
        self._result.timers.append((name, key, None, b""))

    def bounce(self, name: str) -> None:
        """Its next incarnation shall find something: it is woken, or restarted in order."""
        row = self.peek(name)
        if row is not None and row.wanted == "asleep":
            self.awaken(name)
        else:
            self._result.bounced.append(name)

    def _recovered(self, session: SessionRow, name: str, data: dict[str, Any]) -> None:
        """A climb or a descent, ours or one that the actor has told: kept for people."""
        session.recoveries = recovery.shown(session.recoveries, self.now, data)
        row = self.actor(name)
        if row is not None:
            row.rung = "" if data.get("rung") == "restart" else str(data.get("rung") or "")[:40]

    def stop(self, name: str) -> None:
        """Asks the root to end its process, whatever its row says."""
        self._result.ended.append(name)

    # --- inside --------------------------------------------------------------------------------

    def _begin(self) -> Result:
        self._result = Result()
        return self._result

    def awaken(self, name: str, *, halted: bool = False) -> None:
        """One that is asleep: wanted running from here on."""
        row = self.actor(name)
        assert row is not None
        row.wanted, row.status, row.status_since = "running", "starting", self.now
        row.fails, row.halted = 0, halted
        self._result.wake.append(name)

    def rest(self, session: str) -> None:
        for name in self.members(session):
            self.sleep(name)
        self._result.over.append(session)
        team = f"{session}/team"
        row = self.peek(team)
        if row is not None and row.wanted == "asleep" and any(row.boxed):
            self.awaken(team)  # something was said meanwhile, and would never be heard

    def _rouse(self, session: str) -> None:
        """A session goes on: whoever has something to do runs again."""
        for name in self.members(session):
            row = self.peek(name)
            if row is not None and row.wanted == "asleep" and self.busy(name, row):
                self.awaken(name)

    def busy(self, name: str, row: ActorRow) -> bool:
        """Whether mail or an open effect keeps it from sleeping."""
        return any(row.boxed) or any(
            not effect_row.decode(raw).standing
            for _, raw in self.txn.scan("effects", name_key(name))
        )

    def undelivered(self, sender: str, id: str, to: str, reason: Why, body: bytes) -> None:
        """Tells the sender, if it is an actor that can be told."""
        if tag_of(body) == "undelivered":
            return
        # Whole, whatever its size: by it the sender knows what will not be answered.
        told = Undelivered(id=id, to=to, reason=reason, body=body)
        self.deliver(sender, CONTROL, f"{id}!{to}", HUB, codec.encode(told))

    def _problem(self, commit: Commit, row: ActorRow) -> Refused | None:
        """Why this commit can never be applied. Reads only."""
        try:
            self._check(commit, row)
        except LoomError as error:
            return Refused(code=error.code, detail=error.message, step=commit.step)
        return None

    def _check(self, commit: Commit, row: ActorRow) -> None:
        name = commit.actor
        known = self.known(name)
        session = known.session
        ref = commit.input
        if ref.kind == "mail":
            if self.txn.get("mail", mail_key(name, ref.lane & 1, ref.seq)) is None:
                raise _bad(f"no mail {ref.lane}.{ref.seq} in the mailbox")
        elif ref.kind == "effect":
            key = _checked_key(text_key(name, ref.key))
            if self.txn.get("effects", key) is None:
                raise _bad(f"no effect {ref.key!r} is open")
        elif ref.kind == "timer":
            _checked_key(text_key(name, ref.key))
        if commit.state is not None and len(commit.state) > codec.BLOB_LIMIT:
            raise LoomError("too_large", f"state of {len(commit.state)} bytes")
        for put in commit.rows:
            owners = TABLES.get(put.table)
            if owners is None or known.kind not in owners:
                raise _bad(f"{known.kind} does not own table {put.table!r}")
            _checked_key(put.key)
            if put.table not in NOT_BY_SESSION and not put.key.startswith(name_key(session)):
                raise _bad(f"row of table {put.table} is not of session {session!r}")
        for i, entry in enumerate(commit.log, row.log + 1):
            if entry.n != i:
                raise _bad(f"log entry {entry.n} where {i} comes next")
        for out in commit.outbox:
            if len(out.body) > MAX_BODY:
                raise LoomError("too_large", f"mail body of {len(out.body)} bytes")
            for to in out.to:
                _checked_key(mail_key(to, out.lane, 0))
        for timer in commit.timers:
            _checked_key(text_key(name, timer.key))
        for effect in commit.effects:
            _checked_key(text_key(name, effect.id))
        for child in commit.children:
            self._check_child(child, name, known)
        for event in commit.events:
            if event.session and session and event.session != session:
                raise _bad(f"event for session {event.session!r} from {name}")
        if commit.session is not None and known.kind not in STARTERS:
            raise _bad(f"{known.kind} may not change its session")

    def _check_child(self, child: ChildChange, name: str, known: Known) -> None:
        mine = child.name == name or (
            known.kind in STARTERS and session_of(child.name) == known.session
        )
        if not mine and not self._lets_leave(child, known):
            raise _bad(f"{name} may not change {child.name!r}")
        _checked_key(mail_key(child.name, WORK, 0))
        if child.wanted == "running":
            spec = read_spec(child.spec or {})
            if spec.name != child.name or spec.session != known.session:
                raise _bad(f"the spec of {child.name!r} names another actor or session")

    def _lets_leave(self, child: ChildChange, known: Known) -> bool:
        """models ends a gateway that it has no call with any more; a dead one it lets sleep."""
        if known.kind != "models" or child.wanted == "running":
            return False
        return self.peek(child.name) is not None and self.known(child.name).kind == gateways.KIND

    def _apply(self, commit: Commit, row: ActorRow) -> None:
        txn, result, name, step = self.txn, self._result, commit.actor, commit.step
        session = self.known(name).session
        row.step = step
        row.fails = 0
        row.generation = commit.generation
        if row.recovery is not None and row.recovery.rung:
            recovery.held(self, name, row)
        if commit.state is not None:
            row.state, row.version = commit.state, commit.version
        self._consume(commit, row)
        for put in commit.rows:
            if put.value is None:
                txn.delete(put.table, put.key)
            else:
                txn.put(put.table, put.key, put.value)
                self._attempts += put.table == accounts.LEDGER
        for entry in commit.log:
            txn.put("log", number_key(name, entry.n), entry.value)
            row.log = entry.n
        for timer in commit.timers:
            key = text_key(name, timer.key)
            if timer.due is None:
                txn.delete("timers", key)
            else:
                txn.put("timers", key, _encode(TimerRow(due=timer.due, body=timer.body)))
            result.timers.append((name, timer.key, timer.due, timer.body))
        for effect in commit.effects:
            key = text_key(name, effect.id)
            before = txn.get("effects", key)  # there already: it is opened again by a successor
            opened = EffectRow(
                body=effect.body,
                attempt=effect.attempt,
                standing=effect.standing,
                crashes=0 if before is None else effect_row.decode(before).crashes,
            )
            txn.put("effects", key, _encode(opened))
        for event in commit.events:
            self.event(event.session or session, event.type, name, event.data, event.cause)
        if commit.session is not None:
            self._session_change(commit)
        for child in commit.children:
            self._child_change(child, name)
        for i, out in enumerate(commit.outbox):
            id = f"{name}/{step}.{i}"
            shared = ""
            if len(out.to) > 1 and len(out.body) >= SHARE_FROM:
                shared = id
                txn.put("bodies", id.encode(), out.body)
            for to in out.to:
                if to == HUB and self.known(name).kind in ANSWERING:
                    self._result.told.append(out.body)
                    continue
                why = self.deliver(to, out.lane, id, name, out.body, out.cause, shared=shared)
                if why:
                    self.undelivered(name, id, to, why, out.body)
        if commit.status is not None:
            self._show(name, row, commit.status)
        if commit.session is not None and commit.session.state in OVER:
            self.rest(session)

    def _show(self, name: str, row: ActorRow, status: Status) -> None:
        if row.wanted != "running":
            return
        row.status, row.waiting_for = status.state, status.waiting_for
        row.status_since = status.since or self.now
        row.told = (row.status, row.waiting_for, row.status_since)
        self._result.status = (name, row.status, row.waiting_for, row.status_since)

    def _consume(self, commit: Commit, row: ActorRow) -> None:
        ref, name = commit.input, commit.actor
        record = InputRow(kind=ref.kind, now=commit.now, generation=commit.generation)
        if ref.kind == "mail":
            lane = ref.lane & 1
            key = mail_key(name, lane, ref.seq)
            raw = self.txn.get("mail", key)
            assert raw is not None
            self.txn.delete("mail", key)
            row.boxed[lane] -= 1
            record.lane, record.seq, record.mail = lane, ref.seq, msgspec.Raw(raw)
            self._result.consumed = (name, lane, ref.seq)
        elif ref.kind == "timer":
            record.key = ref.key
            key = text_key(name, ref.key)
            raw = self.txn.get("timers", key)
            if raw is not None:
                timer = timer_row.decode(raw)
                record.due, record.body = timer.due, timer.body
                # One that was armed anew while its predecessor fired stays. Told by its due time,
                # not by the clock: that may have been set back since it fired.
                if timer.due == ref.due or (not ref.due and timer.due <= commit.now):
                    self.txn.delete("timers", key)
                    self._result.timers.append((name, ref.key, None, b""))
        elif ref.kind == "effect":
            record.key = ref.key
            key = text_key(name, ref.key)
            raw = self.txn.get("effects", key)
            if raw is not None:
                record.body = ref.body or effect_row.decode(raw).body
                self.txn.delete("effects", key)
        else:
            record.key = ref.key
        self.txn.put("inputs", number_key(name, commit.step), _encode(record))

    def _child_change(self, child: ChildChange, by: str) -> None:
        if child.wanted == "running":
            self.create(read_spec(child.spec or {}))
            if supervision.failed(self.peek_session(session_of(child.name))):
                supervision.halt(self, child.name)  # while its supervisor gives up: not now
        elif child.wanted == "ended":
            self.end(child.name, child.reason, by)
        else:
            if self.known(child.name).kind == gateways.KIND:
                gateways.give_back(self, child.name)
            row = self.peek(child.name)
            if row is None or self.busy(child.name, row):
                return
            self.sleep(child.name)
            self._result.ended.append(child.name)

    def _session_change(self, commit: Commit) -> None:
        change = commit.session
        assert change is not None
        row = self.session(session_of(commit.actor))
        if row is None:
            return
        if supervision.failed(row) and not supervision.concludes(self, row, change.state):
            return
        was = row.state
        if change.state is not None:
            row.state = change.state
            if change.state in OVER:
                row.ended = self.now if was not in OVER else row.ended
            else:
                row.ended = None
        if change.kind is not None:
            row.kind = change.kind
        if change.answer is not None:
            row.answer = change.answer
        if change.data:
            row.data = {**row.data, **change.data}
        if was in OVER and row.state in LIVE:
            self._rouse(row.session)


def read_spec(value: dict[str, Any]) -> Spec:
    """A spec from plain data. LoomError(bad_request)."""
    try:
        spec = msgspec.convert(value, Spec)
    except msgspec.ValidationError as error:
        raise _bad(f"not a spec: {error}") from None
    if session_of(spec.name) != spec.session:
        raise _bad(f"{spec.name!r} is not of session {spec.session!r}")
    return spec


def exit_reason(note: dict[str, Any]) -> str:
    """Why an incarnation ended, in one line."""
    if note.get("reason"):
        return str(note["reason"])
    if note.get("signal"):
        return f"signal {note['signal']}"
    return f"status {note.get('status')}"


def due_timers(txn: Transaction) -> Iterable[tuple[str, str, float, bytes]]:
    """All timers: (actor, key, due, body)."""
    for key, raw in txn.scan("timers", b""):
        name, _, part = key.partition(b"\0")
        row = timer_row.decode(raw)
        yield name.decode(), part.decode(), row.due, row.body


def mailbox(
    txn: Transaction, name: str, lane: int, after: int, limit: int
) -> Sequence[tuple[int, bytes]]:
    """Unconsumed mails with seq > `after`, as the frames to send: [(seq, frame)]."""
    prefix = name_key(name) + bytes((lane,))
    found: list[tuple[int, bytes]] = []
    for key, raw in txn.scan("mail", prefix, mail_key(name, lane, after) if after else b""):
        found.append((last_number(key), whole(txn, raw)))
        if len(found) == limit:
            break
    return found


def whole(txn: Transaction, raw: bytes) -> bytes:
    """The frame of a stored mail: itself, unless its body is shared."""
    if b"\xa6shared" not in raw:
        return raw
    mail = stored_mail.decode(raw)
    if not mail.shared:
        return raw
    fields = {name: getattr(mail, name) for name in Mail.__struct_fields__}
    fields["body"] = txn.get("bodies", mail.shared.encode()) or b""
    return _encode(Mail(**fields))


def _part(key: bytes, name: str) -> str:
    return key[len(name_key(name)) :].decode()


def _bad(message: str) -> LoomError:
    return LoomError("bad_request", message)


def _checked_key(key: bytes) -> bytes:
    if len(key) > MAX_KEY:
        raise _bad(f"a key of {len(key)} bytes")
    return key
