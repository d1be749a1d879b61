"""The life of one incarnation without a loop: frames and orders in, steps and commits out.

One input per step, and the next only after its predecessor's commit is acknowledged. The loops that
turn a pump are in `host` (a bare poll) and `perform` (asyncio).

An error in a step is not caught: the slot names the input that was in hand when the process ended,
so that the hub can count it against that mail.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from loomd.actor import newer
from loomd.actor.behaviour import (
    Behaviour,
    Birth,
    EffectEnded,
    Init,
    Input,
    Mailed,
    OpenEffect,
    Spec,
    TimerDue,
)
from loomd.actor.commit import Author, Built, build, encode_state, reopening
from loomd.store.env import Store
from loomd.store.schema import mark_of
from loomd.supervise.crash import crash_point
from loomd.supervise.link import LinkClosed, ProcessBirth
from loomd.supervise.slots import EFFECT, INIT, MAIL, TIMER
from loomd.supervise.spec import CANNOT_START, COULD_NOT_START, FENCED, NORMAL, UPGRADED
from loomd.wire import codec, sockets, topics
from loomd.wire.bodies import Body
from loomd.wire.endpoints import Instance
from loomd.wire.errors import LoomError
from loomd.wire.messages import (
    CONTROL,
    WORK,
    Answer,
    Answered,
    Ask,
    Asked,
    Committed,
    Fenced,
    FromActor,
    Hello,
    Mail,
    Ping,
    Pong,
    Publish,
    Refused,
    Retry,
    Status,
    TimerFired,
    Welcome,
)

_KINDS: Final = {"init": INIT, "mail": MAIL, "timer": TIMER, "effect": EFFECT}

HELLO_S: Final = 0.25
"""A Hello or a commit without an answer for this long is said again: the hub may be restarting."""

RESEND_S: Final = 2.0

DRAIN_S: Final = 30.0
"""How long an actor that is to leave for new code waits for its effects to end. Those that have
not are its successor's, as after a restart."""


class Leave(Exception):
    """The orderly end of this incarnation, with the exit status that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class HostError(Exception):
    """The hub refused what this host did: a defect of the actor, so it counts as a crash."""


class Pump:
    """One incarnation between its sockets and its behaviour. Owned by one thread.

    Invariants: at most one commit is in flight; `state` is that of the commit in flight, or of the
    last one; no input is taken while one is in flight; an effect starts only when its opening is
    on disk.
    """

    def __init__(self, birth: ProcessBirth, behaviour: Behaviour[Any]) -> None:
        self.birth = birth
        self.name = birth.name
        self.behaviour = behaviour
        self.places = Instance(
            config=Path(birth.args["config"]),
            state=Path(birth.args["state_dir"]),
            runtime=Path(birth.args["runtime_dir"]),
        )
        self.settings: dict[str, Any] = birth.args.get("settings") or {}
        self.author = Author(
            self.name,
            birth.incarnation,
            int(birth.args.get("package_generation", 0)),
            behaviour.version,
        )
        self.reader: Store | None = None
        self.spec = Spec(name=self.name, kind="")
        # With something that nobody can guess: a ROUTER hears only the first of two peers of one
        # identity, and whoever sees the socket could be the first.
        mark = hashlib.sha256(birth.token.encode()).hexdigest()[:16]
        identity = f"{self.name}#{birth.incarnation}~{mark}"
        self.socket = sockets.make_dealer(self.places.actors, identity)

        # what the loop of a performer hangs in here
        self.on_load: Callable[[], None] | None = None
        self.on_ask: Callable[[Asked, Body], None] | None = None
        self.on_answered: Callable[[Answered], None] | None = None
        self.start_effect: Callable[[OpenEffect], None] | None = None
        self.cancel_effect: Callable[[str], None] | None = None
        self.busy: Callable[[], bool] = lambda: bool(self.open)  # with effects to be waited for
        self.drain_s = DRAIN_S

        self.epoch = 0  # of the hub that welcomed us last
        self.welcomed = False
        self.loaded = False
        self.stopping = False
        self.leave_by: float | None = None  # monotonic: told to leave for new code until then
        self.trial = birth.trial  # the root waits for the first commit on this code
        self.state: Any = None
        self.saved: bytes | None = None  # as it is on disk, or in the commit in flight
        self.shown: Status | None = None
        self.step = 0  # of the last acknowledged commit
        self.inflight: Built | None = None
        self.inflight_raw = b""
        self.deadline: float | None = None  # monotonic: resend Hello or the commit
        self.full = False  # the hub asked to retry: the disk is full

        self._received = [0, 0]  # per lane: the highest mail sequence that came in
        self._control: deque[Mail] = deque()
        self._queue: deque[Mail | TimerFired | tuple[str, Body]] = deque()
        self._asks: deque[Asked] = deque()
        self._first: Input | None = None
        self._fired: dict[str, float] = {}  # timers taken: key -> due
        self.open: dict[str, Body] = {}  # effects started and not yet ended

    @cached_property
    def log(self) -> Any:
        """Made when it is first needed: most actors never log."""
        return logger().bind(actor=self.name, incarnation=self.birth.incarnation)

    @property
    def fd(self) -> int:
        """Of the socket; edge-triggered, see `turn`."""
        return int(self.socket.getsockopt(sockets.FD))

    # --- out -----------------------------------------------------------------------------------

    def send(self, message: FromActor) -> None:
        self._send_raw(codec.encode(message))

    def _send_raw(self, raw: bytes) -> None:
        try:
            self.socket.send(raw, sockets.NOBLOCK)
        except sockets.Again:
            # No hub and a full pipe. Whatever must arrive is said again after the next Welcome.
            self.log.warning("pipe to the hub is full")

    def hello(self) -> None:
        self.welcomed = False
        self.deadline = time.monotonic() + HELLO_S
        self.send(
            Hello(
                actor=self.name,
                incarnation=self.birth.incarnation,
                token=self.birth.token,
                generation=self.author.generation,
            )
        )

    def publish(self, topic: str, data: dict[str, Any]) -> None:
        """What is published may be lost; what no frame holds is."""
        self._publish(Publish(topic=topic, data=data))

    def _publish(self, message: Publish) -> None:
        raw = codec.encode(message)
        if len(raw) > codec.SOFT_LIMIT:
            self.log.warning("too large to publish", topic=message.topic, size=len(raw))
        else:
            self._send_raw(raw)

    def ask(self, id: str, to: str, body: Body) -> None:
        """LoomError(too_large)."""
        self.send(Ask(id=id, to=to, body=_bounded(body, "question")))

    def reply(self, asked: Asked, body: Body | None, error: LoomError | None = None) -> None:
        if error is not None:
            said = error.message[:2000]
            self.send(Answer(route=asked.route, id=asked.id, error=error.code, detail=said))
            return
        try:
            raw = _bounded(body, "answer")
        except LoomError as large:  # or its asker would never hear
            self.reply(asked, None, large)
        else:
            self.send(Answer(route=asked.route, id=asked.id, body=raw))

    # --- in ------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Does all that can be done now. Leave or an error ends the incarnation.

        The descriptor of a zmq socket is edge-triggered and every send may swallow an edge, so a
        turn ends only when a look at the socket after the last send found nothing.
        """
        while self._drain() | self._act():
            pass

    def _drain(self) -> bool:
        got = False
        while True:
            try:
                raw = self.socket.recv(sockets.NOBLOCK)
            except sockets.Again:
                return got
            got = True
            self._frame(raw)

    def _frame(self, raw: bytes) -> None:
        message = codec.to_actor(raw)
        match message:
            case Mail():
                self._mailed(message)
            case Committed():
                if self.inflight is not None and message.step == self.inflight.commit.step:
                    self._committed()
            case TimerFired():
                self._timer(message)
            case Asked():
                self._asks.append(message)
            case Answered():
                if self.on_answered is not None:
                    self.on_answered(message)
            case Welcome():
                self._welcome(message)
            case Ping():
                self.send(Pong(nonce=message.nonce))
            case Retry():
                self._retry(message)
            case Fenced():
                raise Leave(FENCED, message.reason or "fenced")
            case Refused():
                self._refused(message)

    def _mailed(self, mail: Mail) -> None:
        lane = CONTROL if mail.lane == CONTROL else WORK
        if mail.seq <= self._received[lane]:
            return  # delivered again after a Hello
        self._received[lane] = mail.seq
        (self._control if lane == CONTROL else self._queue).append(mail)

    def _timer(self, fired: TimerFired) -> None:
        if self._fired.get(fired.key) != fired.due:
            self._fired[fired.key] = fired.due
            self._queue.append(fired)

    def _welcome(self, welcome: Welcome) -> None:
        again = self.welcomed and welcome.epoch == self.epoch
        self.epoch = welcome.epoch
        self.welcomed = True
        self.deadline = self.leave_by
        if not self.loaded:
            self._load(welcome.step)
        elif self.inflight is not None:
            if welcome.step == self.inflight.commit.step:
                self._committed()  # it was stored, only the acknowledgement was lost
            elif not again:
                self._resend()
        if self.loaded and welcome.step != self.step:
            raise HostError(f"the hub has step {welcome.step}, this host has {self.step}")

    def _refused(self, refused: Refused) -> None:
        if self.inflight is not None and refused.step == self.inflight.commit.step:
            # The input in hand leads to a commit that will never be taken: count it as poison.
            ref = self.inflight.commit.input
            seq = ref.seq if ref.kind == "mail" else mark_of(ref.key)
            self.birth.slot.begin(_KINDS[ref.kind], ref.lane, seq)
            raise HostError(f"commit refused: {refused.code}: {refused.detail}")
        if refused.code == "auth" and not self.loaded:
            raise Leave(COULD_NOT_START, f"not let in: {refused.detail}")
        self.log.warning("refused by the hub", code=refused.code, detail=refused.detail)

    def _retry(self, retry: Retry) -> None:
        if self.inflight is None or retry.step != self.inflight.commit.step:
            return
        self.deadline = time.monotonic() + retry.after_s
        if not self.full:
            self.full = True
            self.publish(
                topics.STATUS,
                {"name": self.name, "state": "waiting", "waiting_for": retry.reason},
            )

    def link_readable(self) -> None:
        """Takes all orders of the root. LinkClosed if it is gone."""
        while (order := self.birth.link.receive()) is not None:
            match order.get("op"):
                case "stop":
                    self.stopping = True
                case "upgrade":
                    if self.leave_by is None:
                        self.leave_by = time.monotonic() + self.drain_s
                        self.deadline = self.deadline or self.leave_by
                case "epoch":
                    if order.get("epoch") != self.epoch:
                        self.hello()
                case op:
                    self.log.warning("unknown order", op=op)

    def _tell_root(self, op: str) -> None:
        with contextlib.suppress(LinkClosed):  # the loop sees it too
            self.birth.link.send({"op": op})

    def timed_out(self) -> None:
        """The deadline has passed: say again what was not answered."""
        if self.leave_by is not None and not (self.welcomed or self._brought()):
            # Nobody to commit to; perhaps a hub that does not speak with this code any more.
            raise Leave(UPGRADED, "new code; no hub")
        if not self.welcomed:
            self.hello()
        elif self.inflight is not None:
            if self.full:
                self._resend()
            else:
                self.hello()
        else:
            self.deadline = None  # the next turn sees what is due

    # --- birth ---------------------------------------------------------------------------------

    def open_state(self) -> None:
        """Opens the environment while the hub writes our fence; nothing is read before Welcome.

        A predecessor's last commit may still be on its way to the hub now; a transaction that is
        begun after Welcome sees it.
        """
        with contextlib.suppress(LoomError):  # not there yet: `_load` will say what is wrong
            self.reader = Store.read_only(self.places)

    def _load(self, step: int) -> None:
        birth = self.birth
        birth.slot.begin(INIT, 0, 0)
        if self.reader is None:
            try:
                self.reader = Store.read_only(self.places)
            except LoomError as error:
                raise Leave(COULD_NOT_START, error.message) from None
        reader = self.reader
        row = reader.actor(self.name)
        if row is None:
            raise Leave(CANNOT_START, "no such actor in the state")
        self.settings = newer.in_force(self.settings, reader)
        self.spec = msgspec.convert(row["spec"], Spec)
        self.step = step
        self.saved = row.get("state")
        saved = None if self.saved is None else codec.unpack(self.saved)
        version = row.get("version") or self.behaviour.version
        if saved is not None and version != self.behaviour.version:
            saved = self.behaviour.upgrade(saved, version)
        left = [
            OpenEffect(
                effect,
                codec.body(value["body"]),
                value["attempt"],
                bool(value.get("standing")),
            )
            for effect, value in reader.effects(self.name)
        ]
        self.state = self.behaviour.init(
            Birth(
                spec=self.spec,
                saved=saved,
                effects=left,
                reader=reader,
                settings=self.settings,
                incarnation=birth.incarnation,
                restarts=row.get("restarts", 0),
            )
        )
        self.loaded = True
        birth.slot.end()
        if self.trial:
            self._tell_root("loaded")
        if self.on_load is not None:
            self.on_load()
        if step == 0:
            self._first = Init(1)
        elif left:
            self._dispatch(reopening(self.author, step + 1, time.time(), left))

    # --- steps ---------------------------------------------------------------------------------

    def _act(self) -> bool:
        if not self.loaded:
            if self.stopping:
                raise Leave(NORMAL, "stopped before it was welcomed")
            if self.leave_by is not None:
                raise Leave(UPGRADED, "new code")
            return False
        if self._asks and (self.inflight is None or self.full):
            self._answer(self._asks.popleft())
            return True
        if self.inflight is not None:
            if self.stopping and (self.full or not self.welcomed):
                raise Leave(NORMAL, "stopped; the last commit could not be stored")
            return False
        if self.stopping:
            # What an effect has brought is stored before: it may have been paid for.
            brought = self._brought()
            if brought is None or not self.welcomed:
                raise Leave(NORMAL, "stopped")
            self._queue.remove(brought)
            self._ended(*brought)
            return True
        if self._may_leave():
            raise Leave(UPGRADED, "new code")
        if not self.welcomed:
            return False
        if self.leave_by is not None:
            return self._drain_on()
        if self._first is not None:
            first, self._first = self._first, None
            self.birth.slot.begin(INIT, 0, 0)
            self._step(first)
        elif self._control:
            self._mail(self._control.popleft())
        elif self._queue:
            match self._queue.popleft():
                case Mail() as mail:
                    self._mail(mail)
                case TimerFired() as fired:
                    self.birth.slot.begin(TIMER, 0, mark_of(fired.key))
                    body = codec.body(fired.body) if fired.body else None
                    self._step(TimerDue(self.step + 1, fired.key, fired.due, body))
                case (id, result):
                    self._ended(id, result)
        else:
            return False
        return True

    def _may_leave(self) -> bool:
        """Whether it leaves for new code now: between two inputs, with no effect to wait for."""
        if self.leave_by is None or self._brought() is not None or self._control:
            return False
        return not self.busy() or time.monotonic() >= self.leave_by

    def _brought(self) -> tuple[str, Body] | None:
        """The next end of an effect that waits for its step."""
        return next((one for one in self._queue if isinstance(one, tuple)), None)

    def _drain_on(self) -> bool:
        """Before it leaves for new code: what may end an effect. New work is its successor's."""
        if self._control:
            self._mail(self._control.popleft())
            return True
        if (brought := self._brought()) is not None:
            self._queue.remove(brought)
            self._ended(*brought)
            return True
        return False

    def _ended(self, id: str, result: Body) -> None:
        self.birth.slot.begin(EFFECT, 0, mark_of(id))
        self._step(EffectEnded(self.step + 1, id, self.open.pop(id), result))

    def _mail(self, mail: Mail) -> None:
        self.birth.slot.begin(MAIL, mail.lane, mail.seq)
        body = codec.body(mail.body)
        self._step(
            Mailed(
                self.step + 1,
                mail.id,
                mail.sender,
                body,
                mail.cause,
                mail.lane,
                mail.seq,
            )
        )

    def _step(self, input: Input) -> None:
        now = time.time()
        crash_point("host.before_step", self.name)
        self.state, changes = self.behaviour.step(self.state, input, now)
        state: bytes | None = encode_state(self.behaviour.save(self.state))
        if state == self.saved:
            state = None
        else:
            self.saved = state
        built = build(self.author, input, now, changes, state, self.shown)
        crash_point("host.after_step", self.name)
        self._dispatch(built)
        self.birth.slot.end()

    def _dispatch(self, built: Built) -> None:
        if built.starts and self.start_effect is None:
            raise HostError(f"{self.name} has no performer for effect {built.starts[0].id}")
        raw = codec.encode(built.commit)
        if len(raw) > codec.SOFT_LIMIT:
            raise LoomError("too_large", f"commit of {len(raw)} bytes", "send blobs")
        self.inflight, self.inflight_raw = built, raw
        self.deadline = time.monotonic() + RESEND_S
        self._send_raw(raw)

    def _resend(self) -> None:
        self.deadline = time.monotonic() + RESEND_S
        self._send_raw(self.inflight_raw)

    def _committed(self) -> None:
        built, self.inflight, self.inflight_raw = self.inflight, None, b""
        assert built is not None
        crash_point("host.after_commit", self.name)
        commit = built.commit
        self.step = commit.step
        self.full = False
        self.deadline = self.leave_by
        if self.trial and commit.input.key != "reopen":
            self.trial = False
            self._tell_root("settled")
        if commit.status is not None:
            self.shown = commit.status
        for timer in commit.timers:  # what was armed anew may fire with the same due time again
            self._fired.pop(timer.key, None)
            if any(isinstance(q, TimerFired) and q.key == timer.key for q in self._queue):
                self._queue = deque(
                    q for q in self._queue if not (isinstance(q, TimerFired) and q.key == timer.key)
                )
        for said in built.says:
            self._publish(said)
        for effect in built.starts:
            self._start(effect)
        for id in built.cancels:
            if id in self.open and self.cancel_effect is not None:
                self.cancel_effect(id)

    # --- effects and asks ----------------------------------------------------------------------

    def _start(self, effect: OpenEffect) -> None:
        assert self.start_effect is not None
        crash_point("host.before_effect", self.name)
        self.open[effect.id] = effect.body
        self.birth.slot.begin(EFFECT, 0, mark_of(effect.id))
        self.start_effect(effect)
        self.birth.slot.end()

    def effect_ended(self, id: str, result: Body) -> None:
        """The performer's report; an input of one of the next steps. A second one is dropped."""
        crash_point("host.after_effect", self.name)
        queued = any(isinstance(q, tuple) and q[0] == id for q in self._queue)
        if id not in self.open or queued:
            self.log.warning("effect reported twice", effect=id)
            return
        self._queue.append((id, result))

    def _answer(self, asked: Asked) -> None:
        try:
            question = codec.body(asked.body)
            if self.on_ask is not None:
                self.on_ask(asked, question)
            else:
                self.answer(asked, question)
        except LoomError as error:
            self.reply(asked, None, error)

    def answer(self, asked: Asked, question: Body) -> None:
        """The behaviour's answer. It changes nothing, so its error hurts only the asker."""
        assert self.reader is not None
        try:
            self.reply(asked, self.behaviour.answer(self.state, question, self.reader))
        except LoomError as error:
            self.reply(asked, None, error)
        except Exception as error:  # noqa: BLE001 - told to the asker and logged, not swallowed
            self.log.error("answer failed", error=traceback.format_exc())
            self.reply(asked, None, LoomError("internal", f"{type(error).__name__}: {error}"))

    def close(self) -> None:
        self.socket.close()
        if self.reader is not None:
            self.reader.close()


def _bounded(body: Body | None, what: str) -> bytes:
    """An encoded body that the hub can send on. LoomError(too_large)."""
    raw = codec.encode(body)
    if len(raw) > codec.BODY_LIMIT:
        detail = f"{what} of {len(raw)} bytes is over {codec.BODY_LIMIT}"
        raise LoomError("too_large", detail, "ask for less, or name a blob")
    return raw


@cache
def logger() -> Any:
    """JSON lines on stderr, which is the actor's output file."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger()


# The first conversion to a type works out its fields, half a millisecond that no birth needs.
msgspec.convert({"name": "", "kind": ""}, Spec)
