"""The actor `gateway-N`: performs what `models` orders, and says what came of it.

The behaviour is a pass-through: one effect per order, named REQUEST#ATTEMPT. In one commit an
effect's end is mailed to models (`Performed`) and, if it is an answer, to the asker
(`ModelOutcome`): a crash between the two cannot be. The performer runs each order as a task on the
host's loop; real providers through `litellm_backend`, imported when the first one is needed.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from loomd.actor import behaviour as act
from loomd.actor import newer
from loomd.actor.behaviour import Birth, Change, Input, OpenEffect, Report, Stage
from loomd.actor.pump import DRAIN_S
from loomd.gateway import catalogue, classify, ratelimits, recorder, view
from loomd.gateway.keys import Keys, read_keys
from loomd.gateway.played import Played, offline_reply
from loomd.gateway.streams import Answer, Streams
from loomd.gateway.types import Reply, Resolved, Watcher
from loomd.supervise.crash import crash_point
from loomd.wire import bodies, codec
from loomd.wire.bodies import Failed, ModelOutcome, Outcome, Perform, Performed, Usage
from loomd.wire.errors import LoomError
from loomd.wire.models import ships

if TYPE_CHECKING:
    from loomd.gateway.litellm_backend import Backend

MODELS = "models"
OFFLINE = "offline/"

ATTEMPTS = 2
"""Starts of one order: a second one after this process was killed, then no more: each may have
been paid for. Offline models cost nothing and may always be asked again."""

OFFLINE_ATTEMPTS = 10
"""An order that has killed the gateway this often is not started again."""

TOOLSET_WAIT_S = 5.0
"""How long the first request of a session waits for the tool host to tell its tools."""

TOOLSET_POLL_S = 0.02

_log = structlog.get_logger()


# --- the behaviour -----------------------------------------------------------------------------


@dataclass
class State:
    """`open`: effect id -> request id. It follows from the open effects and is never saved."""

    open: dict[str, str] = field(default_factory=dict)
    shown: int = 0


class GatewayBehaviour:
    """See the module."""

    version = 1

    def init(self, birth: Birth) -> State:
        return State(
            {
                effect.id: effect.body.request.id if isinstance(effect.body, Perform) else effect.id
                for effect in birth.effects
            }
        )

    def step(self, state: State, input: Input, now: float) -> tuple[State, list[Change]]:
        out: list[Change] = []
        match input:
            case act.Mailed(sender="models", body=Perform() as order):
                id = f"{order.request.id}#{order.attempt}"
                if id not in state.open:
                    state.open[id] = order.request.id
                    out.append(act.Open(id, order))
            case act.Mailed(sender="models", body=bodies.AskPrice() as ask):
                id = f"price:{ask.model}"
                if id not in state.open:
                    state.open[id] = id
                    out.append(act.Open(id, ask))
            case act.EffectEnded(effect=id, result=bodies.Priced() as priced):
                state.open.pop(id, None)
                out.append(act.Send(MODELS, priced))
            case act.Mailed(sender="models", body=bodies.CancelModel(request=request)):
                out += [act.Cancel(id) for id, of in state.open.items() if of == request]
            case act.EffectEnded(effect=id, request=Perform() as order, result=Performed() as end):
                state.open.pop(id, None)
                out.append(act.Send(MODELS, end))
                if not isinstance(end.outcome, Failed):
                    outcome = ModelOutcome(
                        request=end.request,
                        outcome=end.outcome,
                        usage=end.usage,
                        model=end.model,
                    )
                    out.append(act.Send(order.request.agent, outcome))
            case act.Mailed(sender="hub", body=bodies.Undelivered(reason="poison") as lost):
                self._set_aside(state, lost, out)
            case _:
                pass  # Init, Undelivered (the asker has ended), and what nobody should send
        if len(state.open) != state.shown:
            state.shown = len(state.open)
            calls = f"{state.shown} calls" if state.shown else ""
            out.append(act.Show("working" if state.shown else "idle", calls))
        return state, out

    def _set_aside(self, state: State, lost: bodies.Undelivered, out: list[Change]) -> None:
        """A call that ended the gateway again and again will not be made: `models` must hear it."""
        order = codec.body(lost.body) if lost.body else None
        if not lost.id.startswith(f"{lost.to}/effect."):
            return
        if isinstance(order, bodies.AskPrice):
            state.open.pop(f"price:{order.model}", None)
            out.append(act.Send(MODELS, bodies.Priced(model=order.model)))
        if not isinstance(order, Perform):
            return
        state.open.pop(f"{order.request.id}#{order.attempt}", None)
        failed = Failed(kind="interrupted", detail="this call ended the gateway again and again")
        ended = Performed(
            request=order.request.id,
            agent=order.request.agent,
            model=order.model,
            attempt=order.attempt,
            outcome=failed,
        )
        out.append(act.Send(MODELS, ended))

    def save(self, state: State) -> Any:
        return {}

    def upgrade(self, saved: Any, version: int) -> Any:
        return saved

    def answer(self, state: State, question: bodies.Body, reader: act.Reader) -> bodies.Body:
        if not isinstance(question, bodies.Note):
            raise LoomError("bad_request", "a gateway answers a status question (Note) only")
        return bodies.Note(data={"open": sorted(state.open)})


# --- the performer -----------------------------------------------------------------------------


class GatewayPerformer:
    """One task per order; `cancel` closes its connection."""

    drain_s = DRAIN_S

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Reply]] = {}
        self._pricing: dict[str, asyncio.Task[bodies.Priced]] = {}
        self._closing = False
        self._backend: asyncio.Task[Backend] | None = None
        self._configured = 0  # the generation of the settings that it has
        self._keys = Keys({})

    async def open(self, stage: Stage) -> None:
        self._stage = stage
        # An image of this process holds keys.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _let_pass_what_litellm_drops(asyncio.get_running_loop(), lambda text: self._keys.hide(text))
        self._streams = Streams(stage)
        self._played = Played(stage.directories.config.parent)
        self._keys = Keys(read_keys(stage.keys_fd))
        for name, value in self._keys.variables.items():
            # litellm's providers look for their default names in the environment. These stay in
            # this process: what /proc shows is the environment of the exec, which has none of them.
            os.environ.setdefault(name, value)
        if _needs_provider(stage.settings):
            self._loading()  # beside the first orders

    def start(self, effect: OpenEffect, report: Report) -> None:
        order = effect.body
        loop = asyncio.get_running_loop()
        if isinstance(order, bodies.AskPrice):
            self._find_price(effect.id, order, report)
            return
        assert isinstance(order, Perform), f"an effect of {type(order).__name__}"
        started = time.time()
        answer = self._streams.open(effect.id, order, effect.attempt)
        task = loop.create_task(self._perform(effect, order, answer))
        self._tasks[effect.id] = task

        def done(ended: asyncio.Task[Reply]) -> None:
            self._tasks.pop(effect.id, None)
            self._streams.close(effect.id)
            if self._closing:
                return
            if ended.cancelled():
                # Here and not in the task: one that is cancelled before its first step never runs.
                reply = CANCELLED if answer.cancelled() else BROKEN
            elif (error := ended.exception()) is not None:
                context = {"message": f"order {effect.id} failed", "exception": error}
                loop.call_exception_handler(context)
                return
            else:
                reply = ended.result()
            crash_point("gateway.after_call", self._stage.spec.name)
            reply = replace(reply, outcome=hidden(reply.outcome, self._keys))
            report(performed(effect, order, reply, started, time.time()))

        task.add_done_callback(done)

    def busy(self) -> bool:
        return bool(self._tasks)

    def cancel(self, id: str) -> None:
        if (task := self._tasks.get(id)) is not None and self._streams.unwanted(id):
            task.cancel()

    async def close(self) -> None:
        """An orderly stop reports nothing: open orders are the successor's."""
        self._closing = True
        tasks = [*self._tasks.values(), *self._pricing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._keys.close()
        if self._backend is not None and self._backend.done() and not self._backend.exception():
            await self._backend.result().close()

    async def ask(self, question: bodies.Body) -> bodies.Body | None:
        """`Note`s with one of these keys: `streams` (a session; `have`: stream -> characters;
        `among`: how many share a reply), `models` (true), `record` (a session; `after`)."""
        match question:
            case bodies.Note(data={"streams": str(session), "have": dict(have), "among": int(n)}):
                return bodies.Note(data=self._streams.snapshot(session, have, n))
            case bodies.Note(data={"models": True}):
                return bodies.Note(data=await self._models())
            case bodies.Note(data={"record": str(session), "after": int(after)}):
                reader = self._stage.reader
                made = await asyncio.to_thread(recorder.page, reader, session, after)
                return bodies.Note(data=made)
            case _:
                return None

    def _find_price(self, id: str, ask: bodies.AskPrice, report: Report) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._price(ask))
        self._pricing[id] = task

        def done(ended: asyncio.Task[bodies.Priced]) -> None:
            self._pricing.pop(id, None)
            if self._closing or ended.cancelled():
                return
            if (error := ended.exception()) is not None:
                context = {"message": f"the price of {ask.model} failed", "exception": error}
                loop.call_exception_handler(context)
                return
            report(ended.result())

        task.add_done_callback(done)

    async def _price(self, ask: bodies.AskPrice) -> bodies.Priced:
        """From the price map that is loaded: nobody is asked."""
        try:
            backend = await asyncio.shield(self._loading())
        except ImportError as error:  # each call says so too
            _log.warning("litellm cannot be imported", error=str(error))
            return bodies.Priced(model=ask.model)
        return backend.priced(ask.model)

    async def _models(self) -> list[dict[str, Any]]:
        """See loomd.gateway.catalogue."""
        settings = self._settings()
        about = catalogue.nothing
        if not all(ships(model) for model in catalogue.uses(settings)):
            try:
                await asyncio.shield(self._loading())
                about = importlib.import_module("loomd.gateway.litellm_backend").about
            except ImportError as error:
                raise LoomError("failed", f"litellm cannot be imported: {error}") from None
        generation = newer.generation(self._stage.reader)
        return await catalogue.rows(settings, self._keys, about, generation)

    async def _perform(self, effect: OpenEffect, order: Perform, answer: Answer) -> Reply:
        most = OFFLINE_ATTEMPTS if ships(order.model) else ATTEMPTS
        starts = effect.attempt + order.lost
        if starts > most:
            detail = f"the gateway was killed {starts - 1} times during this call"
            return Reply(Failed(kind="interrupted", detail=detail))
        crash_point("gateway.before_call", self._stage.spec.name)
        try:
            resolved = await self._resolve(order)
        except LoomError as error:
            return Reply(Failed(kind="malformed", detail=error.message), Usage(calls=0))
        return await self._complete(resolved, answer)

    async def _complete(self, resolved: Resolved, watcher: Watcher) -> Reply:
        if resolved.model.startswith(OFFLINE):
            return offline_reply(resolved)
        if ships(resolved.model):
            return await self._played.complete(resolved, watcher)
        try:
            backend = await asyncio.shield(self._loading())
        except ImportError as error:
            return Reply(Failed(kind="server", detail=f"litellm cannot be imported: {error}"))
        return await backend.complete(resolved, watcher)

    async def _resolve(self, order: Perform) -> Resolved:
        request = order.request
        if request.purpose == "check":
            return catalogue.checked(order)
        if request.tools != ():
            # The lead may think before the tool host, born beside it, has told its tools.
            end = time.monotonic() + TOOLSET_WAIT_S
            while view.toolset(self._stage.reader, request.session) is None:
                if time.monotonic() >= end:
                    break
                await asyncio.sleep(TOOLSET_POLL_S)
        return view.resolve(self._stage.reader, request, order.model)

    def _loading(self) -> asyncio.Task[Backend]:
        """The backend; its import takes seconds unless the template has done it, so a thread.

        Newer settings make another one: calls under way end on the one that they began with, and
        what is open on the network belongs to neither.
        """
        generation = newer.generation(self._stage.reader)
        if self._backend is None or generation != self._configured:
            self._configured = generation
            self._keys.forget()
            self._backend = asyncio.get_running_loop().create_task(self._load())
        return self._backend

    async def _load(self) -> Backend:
        module = await asyncio.to_thread(importlib.import_module, "loomd.gateway.litellm_backend")
        made: Backend = module.Backend(self._settings(), self._keys)
        return made

    def _settings(self) -> dict[str, Any]:
        return newer.in_force(self._stage.settings, self._stage.reader)


def _let_pass_what_litellm_drops(
    loop: asyncio.AbstractEventLoop, hide: Callable[[str], str]
) -> None:
    """litellm starts tasks of its own (for its logs) and drops them. The host ends the process on
    any error that nobody awaited; one of those says nothing about our work and is only logged."""
    ours = loop.get_exception_handler()

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        task = context.get("task") or context.get("future")
        coroutine = task.get_coro() if isinstance(task, asyncio.Task) else None
        code = getattr(coroutine, "cr_code", None)
        if code is not None and "/litellm/" in code.co_filename:
            _log.warning("litellm dropped a task", error=hide(repr(context.get("exception"))))
        elif ours is not None:
            ours(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handler)


CANCELLED = Reply(
    Failed(kind="cancelled", detail="cancelled before a provider was asked"),
    Usage(calls=0),
    "computed",
)
BROKEN = Reply(Failed(kind="network", detail="the client library gave the call up", retryable=True))


def performed(
    effect: OpenEffect, order: Perform, reply: Reply, started: float, ended: float
) -> Performed:
    """What is said to models. Every start but this one was lost with the process that made it."""
    return Performed(
        request=order.request.id,
        agent=order.request.agent,
        model=order.model,
        attempt=order.attempt,
        outcome=classify.number(reply.outcome, order.request.id),
        usage=reply.usage,
        lost=effect.attempt - 1,
        started=started,
        ended=ended,
        cost_known=reply.cost_known,
        price=reply.price,
        price_version=reply.price_version,
        limits=ratelimits.read(reply.headers, ended),
    )


def hidden(outcome: Outcome, keys: Keys) -> Outcome:
    """A failure's words without the keys that a server has repeated in them."""
    if not isinstance(outcome, Failed):
        return outcome
    detail, hint = keys.hide(outcome.detail), keys.hide(outcome.hint)
    return msgspec.structs.replace(outcome, detail=detail, hint=hint)


def _needs_provider(settings: Mapping[str, Any]) -> bool:
    models = settings.get("models") or {}
    named = [models.get("default"), models.get("fast"), *(models.get("roles") or {}).values()]
    return bool(settings.get("providers")) or any(name and not ships(name) for name in named)


def main(birth: Any) -> None:
    """Entry point of the process."""
    from loomd.actor.host import run

    run(birth, GatewayBehaviour(), GatewayPerformer())
