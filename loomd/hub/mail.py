"""The rules of exactly-once mail, over an abstract transaction. Pure: no clock, no I/O.

A `Batch` is one transaction in the making, over what is committed (`rules`). Each job of a batch
yields one `Result`: what the loop may do and say once it is durable.

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
from loomd.hub import accounts, commits, gateways, poison, recovery
from loomd.hub.rules import DAEMON, HUB, OVER, Known, Result, Rules, boot_of, encode_spec
from loomd.store.schema import (
    last_number,
    mail_key,
    name_key,
    number_key,
    session_of,
)
from loomd.store.tables import (
    ActorRow,
    SessionRow,
    StoredMail,
    Transaction,
    effect_row,
    stored_mail,
    timer_row,
)
from loomd.wire import codec
from loomd.wire.bodies import Ended, Undelivered
from loomd.wire.messages import (
    CONTROL,
    WORK,
    Commit,
    Committed,
    Event,
    Fenced,
    Hello,
    Mail,
    Welcome,
)

FAILS: Final = 10
"""Ends in a row without a commit between them after which an actor is given up."""

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
        self.result = Result()
        self.attempts = 0  # rows of the ledger that are in no sum yet

    def flush(self) -> None:
        """Writes the changed rows, once each; the transaction may be committed then."""
        for name, row in self.actors.items():
            self.txn.put("actors", name_key(name), _encode(row))
        for name, session in self.sessions.items():
            self.txn.put("sessions", name_key(name), _encode(session))
        if self.attempts:
            accounts.sum_up(self.txn)
            self.attempts = 0

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
        result = self.begin()
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
        result = self.begin()
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
        refused = commits.problem(self, commit, held)
        if refused is not None:
            result.reply = refused
            return result
        row = self.actor(commit.actor)
        assert row is not None
        commits.apply(self, commit, row)
        result.reply = Committed(step=commit.step)
        return result

    def exited(self, note: dict[str, Any]) -> Result:
        """The root's word that an incarnation is dead. `note`: see the link protocol.

        Blames the mail in hand and books a failure on the actor's ladder; an actor that its
        supervisor will not restart (`final`) and that is still wanted is ensured again, unless it
        was temporary or ends again and again. Told twice, it is booked once.
        """
        result = self.begin()
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
        result = self.begin()
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
        return self.begin()

    def settle(self, names: Sequence[str]) -> Result:
        """Actors of sessions that are over, woken for something that is done: asleep again."""
        result = self.begin()
        for name in names:
            row = self.peek(name)
            if row is None or row.wanted != "running" or self.live(session_of(name)):
                continue
            if not self.busy(name, row):
                self.sleep(name)
                result.ended.append(name)
        return result

    def begin(self) -> Result:
        """A fresh result to fill: each job begins with it."""
        self.result = Result()
        return self.result

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
        self.result.wake.append(spec.name)

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
        self.result.ended.append(name)
        session = session_of(name)
        if self.known(name).kind == gateways.KIND:
            gateways.give_back(self, name)
        self.event(session, "actor_ended", name, {"name": name, "reason": reason})
        for table in ("timers", "effects"):
            for key, _ in list(self.txn.scan(table, name_key(name))):
                self.txn.delete(table, key)
                if table == "timers":
                    self.result.timers.append((name, _part(key, name), None, b""))
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
        self.result.mails.append((to, lane, seq, frame))
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
        self.result.events.append((row.session, event))
        return seq

    def arm(self, name: str, key: str, due: float, body: bytes) -> None:
        """A timer of table `timers` is armed from here on."""
        self.result.timers.append((name, key, due, body))

    def disarm(self, name: str, key: str) -> None:
        self.result.timers.append((name, key, None, b""))

    def bounce(self, name: str) -> None:
        """Its next incarnation shall find something: it is woken, or restarted in order."""
        row = self.peek(name)
        if row is not None and row.wanted == "asleep":
            self.awaken(name)
        else:
            self.result.bounced.append(name)

    def _recovered(self, session: SessionRow, name: str, data: dict[str, Any]) -> None:
        """A climb or a descent, ours or one that the actor has told: kept for people."""
        session.recoveries = recovery.shown(session.recoveries, self.now, data)
        row = self.actor(name)
        if row is not None:
            row.rung = "" if data.get("rung") == "restart" else str(data.get("rung") or "")[:40]

    def stop(self, name: str) -> None:
        """Asks the root to end its process, whatever its row says."""
        self.result.ended.append(name)

    # --- inside --------------------------------------------------------------------------------

    def awaken(self, name: str, *, halted: bool = False) -> None:
        """One that is asleep: wanted running from here on."""
        row = self.actor(name)
        assert row is not None
        row.wanted, row.status, row.status_since = "running", "starting", self.now
        row.fails, row.halted = 0, halted
        self.result.wake.append(name)

    def rest(self, session: str) -> None:
        for name in self.members(session):
            self.sleep(name)
        self.result.over.append(session)
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
