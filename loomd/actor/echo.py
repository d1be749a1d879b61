"""Actors without a meaning, for the bench and the tests: they do what their mails say.

A mail is `Note(data={"op": ...})`. Kind `echo` only thinks; kind `echo-performer` opens effects
too. Everything that a kill test wants to know afterwards is durable: `seen` (per sender the last
number), `wrong` (numbers that came twice, out of order or too late) and the own log.

    add n                the next number of a sender: checked, counted, appended to the log
    flood to n           sends `add` 1..n to each of `to`, one number per step
    ping to n            n round trips with `to`; the times are in table `inputs`
    loop n               n steps by mail to itself
    broadcast to n       one mail to many
    call to name args n  n calls of a tool at the tool host `to`, one after another
    think n model at_once mark   n calls of a model, so many at once; `mark` is done with the last
    start spec · stop name asleep · timer key after · effect id do · cancel id · emit type
    crash · hang · exit · segv · allocate mb · burn s · collect     misbehaves in this very step

A timer `crash:x`, and the end of an effect `crash:x`, misbehave in their steps too.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from loomd.actor.behaviour import (
    Append,
    Birth,
    Cancel,
    Change,
    EffectEnded,
    Emit,
    Init,
    Input,
    Mailed,
    Open,
    OpenEffect,
    Reader,
    Report,
    Send,
    SetTimer,
    Show,
    Spec,
    Stage,
    Start,
    Stop,
    TimerDue,
)
from loomd.actor.host import run
from loomd.actor.pump import DRAIN_S
from loomd.wire import codec, sockets
from loomd.wire.bodies import (
    Body,
    Entry,
    Failed,
    ModelOutcome,
    ModelRequest,
    Note,
    ToolCall,
    ToolResult,
    View,
)
from loomd.wire.errors import LoomError
from loomd.wire.messages import Delta

if TYPE_CHECKING:
    from loomd.supervise.link import ProcessBirth

OUTSIDE = frozenset({"client", "user", "hub", ""})
"""Senders that have no mailbox."""


class Saved(msgspec.Struct):
    """What is committed. `wrong` holds at most 20 notes."""

    count: int = 0
    log: int = 0
    bounces: int = 0
    loops: int = 0
    timers: int = 0
    seen: dict[str, int] = {}
    ended: dict[str, Any] = {}
    wrong: list[str] = []
    done: list[str] = []
    other: list[str] = []
    series: dict[str, Any] = {}  # calls still to make


@dataclass
class State:
    saved: Saved
    name: str
    session: str
    incarnation: int
    restarts: int


class EchoBehaviour:
    version = 1

    def init(self, birth: Birth) -> State:
        saved = Saved() if birth.saved is None else msgspec.convert(birth.saved, Saved)
        return State(saved, birth.spec.name, birth.spec.session, birth.incarnation, birth.restarts)

    def save(self, state: State) -> Saved:
        return state.saved

    def upgrade(self, saved: Any, version: int) -> Any:
        return saved

    def answer(self, state: State, question: Body, reader: Reader) -> Body:
        data = question.data if isinstance(question, Note) else None
        match data:
            case {"op": "echo", "value": value}:
                return Note(data=value)
            case {"op": "state"}:
                return Note(
                    data={
                        "state": msgspec.to_builtins(state.saved),
                        "incarnation": state.incarnation,
                        "restarts": state.restarts,
                    }
                )
            case {"op": "refuse"}:
                raise LoomError("bad_request", "refused as asked")
            case {"op": "fail"}:
                raise RuntimeError("failed as asked")
            case _:
                return Note(data=data)

    def step(self, state: State, input: Input, now: float) -> tuple[State, list[Change]]:
        match input:
            case Init():
                return state, [Show("idle")]
            case TimerDue():
                misbehave(input.key.partition(":")[0], {})
                state.saved.timers += 1
                state.saved.done.append(f"timer {input.key}")
                return state, []
            case EffectEnded():
                result = input.result.data if isinstance(input.result, Note) else None
                misbehave(input.effect.partition(":")[0], {})
                state.saved.ended[input.effect] = result
                return state, []
            case Mailed(body=Note(data=dict() as data)):
                return state, self._told(state, input, data, now)
            case Mailed(body=ModelOutcome() as outcome):
                return state, self._thought(state, outcome)
            case Mailed(body=ToolResult() as result):
                return state, self._result(state, input, result)
            case Mailed():
                state.saved.other.append(type(input.body).__name__)
                del state.saved.other[:-20]
                return state, []
            case _:
                raise AssertionError(input)

    def _result(self, state: State, mail: Mailed, result: ToolResult) -> list[Change]:
        """The next call of a series; a call that failed ends it."""
        saved = state.saved
        if result.ok and saved.series.get("n", 0) > 0:
            return self._told(state, mail, saved.series, 0.0)
        saved.done.append("call" if result.ok else f"call failed: {result.text[:200]}")
        return []

    def _thought(self, state: State, outcome: ModelOutcome) -> list[Change]:
        """The next call of a series; one that failed is noted."""
        saved = state.saved
        series = saved.series
        series["answered"] += 1
        if isinstance(outcome.outcome, Failed):
            said = f"{outcome.outcome.kind}: {outcome.outcome.detail}"
            saved.wrong = [*saved.wrong, said[:200]][:20]
        if series["answered"] == series["n"]:
            saved.done.append(series["mark"])
        return _asks(state, 1)

    def _told(self, state: State, mail: Mailed, data: dict[str, Any], now: float) -> list[Change]:
        saved = state.saved
        match data:
            case {"op": "add", "n": int(n)}:
                source = mail.sender if mail.sender not in OUTSIDE else data.get("source", "client")
                last = saved.seen.get(source, 0)
                if n != last + 1:
                    saved.wrong = [*saved.wrong, f"{source}: {n} after {last}"][:20]
                saved.seen[source] = n
                saved.count += 1
                saved.log += 1
                return [Append(saved.log, Entry(role="note", text=f"{source} {n}"))]
            case {"op": "flood", "to": list(to), "n": int(n)}:
                i = int(data.get("i", 1))
                changes: list[Change] = [Send(one, Note(data={"op": "add", "n": i})) for one in to]
                if i < n:
                    changes.append(Send(state.name, Note(data={**data, "i": i + 1})))
                else:
                    saved.done.append("flood")
                return changes
            case {"op": "ping", "to": str(to), "n": int(n)}:
                return [Send(to, Note(data={"op": "bounce", "n": n}))]
            case {"op": "bounce", "n": int(n)}:
                return [Send(mail.sender, Note(data={"op": "bounced", "n": n}))]
            case {"op": "bounced", "n": int(n)}:
                saved.bounces += 1
                if n > 1:
                    return [Send(mail.sender, Note(data={"op": "bounce", "n": n - 1}))]
                saved.done.append("ping")
                return []
            case {"op": "loop", "n": int(n)}:
                saved.loops += 1
                if n > 1:
                    return [Send(state.name, Note(data={"op": "loop", "n": n - 1}))]
                saved.done.append("loop")
                return []
            case {"op": "call", "to": str(to), "name": str(name), "n": int(n)}:
                saved.series = {**data, "n": n - 1}
                args = dict(data.get("args", {}))
                return [
                    Send(to, ToolCall(id=f"{name}:{n}", agent=state.name, name=name, args=args))
                ]
            case {"op": "think", "n": int(), "model": str()}:
                saved.series = {"at_once": 1, "mark": "think", **data, "asked": 0, "answered": 0}
                return _asks(state, saved.series["at_once"])
            case {"op": "broadcast", "to": list(to), "n": int(n)}:
                return [Send(tuple(to), Note(data={"op": "add", "n": n}))]
            case {"op": "echo"}:
                return [Send(mail.sender, Note(data={"echo": data.get("value")}))]
            case {"op": "start", "name": str(name)}:
                kind = data.get("kind", "echo")
                return [Start(Spec(name=name, kind=kind, session=state.session))]
            case {"op": "stop", "name": str(name)}:
                return [Stop(name, asleep=bool(data.get("asleep")))]
            case {"op": "timer", "key": str(key)}:
                return [SetTimer(key, now + float(data.get("after", 0.0)))]
            case {"op": "effect", "id": str(id)}:
                return [Open(id, Note(data=data.get("do")))]
            case {"op": "cancel", "id": str(id)}:
                return [Cancel(id)]
            case {"op": "emit", "type": str(type)}:
                return [Emit(type, data.get("data", {}))]
            case {"op": "grow", "kb": int(kb)}:
                saved.done.append("x" * kb * 1024)
                return []
            case {"op": str(op)}:
                misbehave(op, data)
                saved.done.append(op)
                return []
            case _:
                return []


def _asks(state: State, count: int) -> list[Change]:
    """The next calls of its series. Each is pinned to its own number."""
    series = state.saved.series
    changes: list[Change] = []
    for number in range(series["asked"] + 1, min(series["asked"] + count, series["n"]) + 1):
        one = f"{state.name}:{series['mark']}.{number}"
        asked = ModelRequest(
            id=one,
            session=state.session,
            agent=state.name,
            model=series["model"],
            view=View(pinned=(one,)),
            tools=(),
        )
        changes.append(Send("models", asked))
    series["asked"] += len(changes)
    return changes


_hoard: list[bytearray] = []


def misbehave(op: str, data: dict[str, Any]) -> None:
    """What no behaviour may do; supervision is tested with it."""
    match op:
        case "crash":
            raise RuntimeError("crashed as told")
        case "hang":
            while True:
                pass
        case "exit":
            os._exit(int(data.get("status", 3)))
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "collect":
            gc.collect()
        case "allocate":
            _hoard.append(bytearray(int(data["mb"]) << 20))
        case "burn":
            end = time.monotonic() + float(data["s"])
            while time.monotonic() < end:
                pass
        case _:
            pass


@dataclass
class EchoPerformer:
    """Effects: `{"do": "now"}` ends at once, `again` once it is started again, `never` when
    cancelled, `listen` hears a topic."""

    drain_s = DRAIN_S
    stage: Stage | None = None
    running: dict[str, Report] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)
    listening: list[sockets.Socket] = field(default_factory=list)
    heard: dict[str, int] = field(default_factory=dict)

    async def open(self, stage: Stage) -> None:
        self.stage = stage

    def start(self, effect: OpenEffect, report: Report) -> None:
        data = effect.body.data if isinstance(effect.body, Note) else None
        match data:
            case {"do": "never"}:
                self.running[effect.id] = report
            case {"do": "again"} if effect.attempt == 1:
                pass
            case {"do": "later", "s": float(s)}:
                self.late.add(effect.id)
                asyncio.get_running_loop().call_later(s, self._later, effect, report)
            case {"do": "fail"}:
                asyncio.get_running_loop().call_soon(_fail)
            case {"do": "block"}:
                misbehave("hang", {})
            case {"do": "listen", "topic": str(topic)}:
                self._listen(topic)
                report(Note(data={"attempt": effect.attempt}))
            case _:
                report(Note(data={"attempt": effect.attempt}))

    def _later(self, effect: OpenEffect, report: Report) -> None:
        self.late.discard(effect.id)
        report(Note(data={"attempt": effect.attempt}))

    def busy(self) -> bool:
        """Those that will end by themselves."""
        return bool(self.late)

    def cancel(self, id: str) -> None:
        report = self.running.pop(id, None)
        if report is not None:
            report(Note(data={"cancelled": True}))

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        for socket in self.listening:
            loop.remove_reader(int(socket.getsockopt(sockets.FD)))
            socket.close()

    async def ask(self, question: Body) -> Body | None:
        match question:
            case Note(data={"op": "publish", "topic": str(topic), "n": n}):
                assert self.stage is not None
                self.stage.publish(topic, {"n": n, "at": time.monotonic_ns()})
                return Note(data={"n": n})
            case Note(data={"op": "heard"}):
                return Note(data=self.heard)
            case _:
                return None

    def _listen(self, topic: str) -> None:
        assert self.stage is not None
        socket = sockets.make_sub(self.stage.directories.events, [topic])
        self.listening.append(socket)
        fd = int(socket.getsockopt(sockets.FD))
        asyncio.get_running_loop().add_reader(fd, self._hear, socket)
        self._hear(socket)

    def _hear(self, socket: sockets.Socket) -> None:
        while (frames := socket.receive_nowait()) is not None:
            now = time.monotonic_ns()
            message = codec.published(frames[1])
            if isinstance(message, Delta) and "n" in message.data:
                self.heard[str(message.data["n"])] = now - message.data["at"]


def _fail() -> None:
    raise RuntimeError("failed as told, in a callback")


def main(birth: ProcessBirth) -> None:
    """Entry point of kind `echo`."""
    run(birth, EchoBehaviour(), None)


def main_performer(birth: ProcessBirth) -> None:
    """Entry point of kind `echo-performer`."""
    run(birth, EchoBehaviour(), EchoPerformer())
