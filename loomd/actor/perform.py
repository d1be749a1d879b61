"""The loop of an actor with a performer: the same pump, turned by asyncio.

The performer gets a `Stage`: what the host lends it. Effects start after their commit is
acknowledged and after `open`; their reports are queued as inputs. An error in any callback or task
of the performer is an error of the actor: the process ends with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from loomd.actor.behaviour import OpenEffect, Performer, Reader, Spec
from loomd.actor.pump import Leave, Pump
from loomd.store.schema import mark_of
from loomd.supervise.slots import EFFECTS
from loomd.wire import codec
from loomd.wire.bodies import Body
from loomd.wire.endpoints import Instance
from loomd.wire.errors import LoomError
from loomd.wire.messages import Answered, Asked

BEATS: Final = 4
"""While effects are open the loop shows so often per `heartbeat_s` that it turns."""


End = Callable[[BaseException], NoReturn]


@dataclass
class HostStage:
    """What the host lends a performer; see loomd.actor.behaviour.Stage."""

    reader: Reader
    settings: dict[str, Any]
    spec: Spec
    directories: Instance
    keys_fd: int
    _pump: Pump
    _sent: Callable[[], None]
    _asks: dict[str, asyncio.Future[Body]] = field(default_factory=dict)
    _asked: int = 0

    def publish(self, topic: str, data: dict[str, Any]) -> None:
        self._pump.publish(topic, data)
        self._sent()

    async def ask(self, to: str, body: Body, timeout: float = 30.0) -> Body:
        """Asks another actor, past the journal. LoomError with its code, or `timeout`."""
        self._asked += 1
        id = f"{self.spec.name}#{self._pump.birth.incarnation}/{self._asked}"
        answer: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
        self._asks[id] = answer
        self._pump.ask(id, to, body)
        self._sent()
        try:
            return await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            raise LoomError("timeout", f"{to} did not answer within {timeout} s") from None
        finally:
            self._asks.pop(id, None)

    def answered(self, message: Answered) -> None:
        waiting = self._asks.get(message.id)
        if waiting is None or waiting.done():
            return
        if message.error:
            waiting.set_exception(LoomError(message.error, message.detail))
            return
        try:
            waiting.set_result(codec.body(message.body))
        except LoomError as error:
            waiting.set_exception(error)


class _Loop:
    """Turns the pump on the running asyncio loop until it leaves or fails."""

    def __init__(self, pump: Pump, performer: Performer) -> None:
        self.pump = pump
        self.performer = performer
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[NoReturn] = self.loop.create_future()
        self.tasks: set[asyncio.Task[None]] = set()
        self.stage: HostStage | None = None
        self.opened = False
        self._ready = asyncio.Event()  # set with `opened`
        self.waiting: list[OpenEffect] = []  # committed before the performer was open
        self.cancelled: set[str] = set()  # of those
        self.turning = False
        self.turns_soon = False
        self.timer: asyncio.TimerHandle | None = None
        self.beating: asyncio.TimerHandle | None = None
        supervision = pump.settings.get("supervision") or {}
        self.beat_s = float(supervision.get("heartbeat_s", 5)) / BEATS
        pump.on_load = self.load
        pump.on_ask = self.ask
        pump.on_answered = self.answered
        pump.start_effect = self.start
        pump.cancel_effect = self.cancel
        pump.busy = self.busy
        pump.drain_s = performer.drain_s

    async def run(self) -> None:
        link = self.pump.birth.link.fileno()
        self.loop.set_exception_handler(self._callback_failed)
        self.loop.add_reader(self.pump.fd, self.turn)
        self.loop.add_reader(link, self.link_readable)
        self.turn()
        try:
            await self.ended
        finally:
            self.loop.remove_reader(self.pump.fd)
            self.loop.remove_reader(link)

    # --- turning -------------------------------------------------------------------------------

    def turn(self) -> None:
        self._guarded(self.pump.turn)
        self._arm()

    def sent(self) -> None:
        """Something was sent outside of a turn: it may have swallowed an edge of the socket's
        descriptor, so that mail would lie there until something else happens."""
        if not (self.turning or self.turns_soon):
            self.turns_soon = True
            self.loop.call_soon(self._turn_after)

    def _turn_after(self) -> None:
        self.turns_soon = False
        self.turn()

    def link_readable(self) -> None:
        self._guarded(self.pump.link_readable)
        self.turn()

    def _guarded(self, what: Any) -> None:
        if self.ended.done() or self.turning:
            return  # over, or called from within a turn, which goes on until nothing is left
        self.turning = True
        try:
            what()
        except BaseException as error:  # noqa: BLE001 - carried to `run`, which ends with it
            self.fail(error)
        finally:
            self.turning = False

    def _arm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.pump.deadline is not None and not self.ended.done():
            wait = max(0.0, self.pump.deadline - time.monotonic())
            self.timer = self.loop.call_later(wait, self._due)
        if self.pump.open and not self.ended.done():
            if self.beating is None:
                self._beat()
            else:
                self._mark()  # a step has taken the slot, and given it back

    def _due(self) -> None:
        self.timer = None
        if self.pump.deadline is not None and time.monotonic() >= self.pump.deadline:
            self._guarded(self.pump.timed_out)
        self.turn()

    def _mark(self) -> None:
        """What goes wrong from here on, an open effect is to blame for."""
        open = self.pump.open
        only = mark_of(next(iter(open))) if len(open) == 1 else 0
        self.pump.birth.slot.begin(EFFECTS, 0, only)

    def _beat(self) -> None:
        self.beating = None
        if self.pump.open and not self.ended.done():
            self._mark()
            self.beating = self.loop.call_later(self.beat_s, self._beat)
        else:
            self.pump.birth.slot.end()

    def fail(self, error: BaseException) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.fail(error if error is not None else RuntimeError(context["message"]))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    # --- what the pump calls -------------------------------------------------------------------

    def load(self) -> None:
        pump = self.pump
        assert pump.reader is not None
        self.stage = HostStage(
            pump.reader, pump.settings, pump.spec, pump.places, pump.birth.keys_fd, pump, self.sent
        )
        self._spawn(self._open(self.stage))

    async def _open(self, stage: HostStage) -> None:
        await self.performer.open(stage)
        self.opened = True
        self._ready.set()
        waiting, self.waiting = self.waiting, []
        for effect in waiting:
            self._perform(effect)
            if effect.id in self.cancelled:
                self.performer.cancel(effect.id)
        self.cancelled.clear()
        self.turn()

    def start(self, effect: OpenEffect) -> None:
        if self.opened:
            self._perform(effect)
        else:
            self.waiting.append(effect)

    def _perform(self, effect: OpenEffect) -> None:
        def report(result: Body) -> None:
            if not self.ended.done():
                self.pump.effect_ended(effect.id, result)
                self.loop.call_soon(self.turn)

        self.performer.start(effect, report)

    def busy(self) -> bool:
        return bool(self.waiting) or self.performer.busy()

    def cancel(self, id: str) -> None:
        if self.opened:
            self.performer.cancel(id)
        else:
            self.cancelled.add(id)

    def ask(self, asked: Asked, question: Body) -> None:
        self._spawn(self._ask(asked, question))

    async def _ask(self, asked: Asked, question: Body) -> None:
        try:
            # One that was woken for this ask gets it before its performer is open.
            await self._ready.wait()
            answer = await self.performer.ask(question)
        except LoomError as error:
            self.pump.reply(asked, None, error)
        else:
            if answer is None:
                self.pump.answer(asked, question)
            else:
                self.pump.reply(asked, answer)
        self.turn()  # the sends may have swallowed an edge of the socket's descriptor

    def answered(self, message: Answered) -> None:
        if self.stage is not None:
            self.stage.answered(message)


async def _main(pump: Pump, performer: Performer, end: End) -> None:
    loop = _Loop(pump, performer)
    try:
        try:
            await loop.run()
        except Leave:
            for task in list(loop.tasks):
                task.cancel()
            if loop.opened:
                await performer.close()
            raise
    except BaseException as error:  # noqa: BLE001 - `end` says it and ends the process
        end(error)


def perform(pump: Pump, performer: Performer, end: End) -> NoReturn:
    """Runs until the pump leaves (`Leave`) or something fails, then calls `end` with it.

    `end` is called on the loop: leaving the loop would first wait for its threads, and a dead
    actor's subtree must be gone before its successor starts.
    """
    asyncio.run(_main(pump, performer, end))
    raise AssertionError("the loop ended without a reason")
