"""The process of a session's tool host: entry point, and the performer.

The nursery is forked first, before the host opens a socket. The performer never blocks the loop:
what waits for the disk runs in threads, which exist only in this process and after the fork.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loomd.actor.behaviour import OpenEffect, Report, Stage
from loomd.store.blobs import get_blob
from loomd.tools import background, generation, links, nursery, undo
from loomd.tools.apply import apply
from loomd.tools.calls import Calls
from loomd.tools.generations import Generations
from loomd.tools.host import SLOT, ToolsBehaviour
from loomd.tools.places import Places, facts, places
from loomd.tools.protected import NOWHERE, Ground
from loomd.tools.results import Results
from loomd.tools.scratch import remove
from loomd.wire.bodies import Applied, Apply, Body, Note, PlanUndo, Reload, ToolCall
from loomd.wire.endpoints import Instance

if TYPE_CHECKING:
    from loomd.supervise.link import ProcessBirth

CLOSE_S: Final = 3.0

DRAIN_S: Final = 120.0
"""How long a tool host that is to leave for new code waits for its calls, and takes no new ones.
As long as a call may take by default."""


def main(birth: ProcessBirth) -> None:
    """Entry point."""
    control, pid = nursery.fork(birth.name)
    from loomd.actor.host import run

    at = Instance(*(Path(birth.args[key]) for key in ("config", "state_dir", "runtime_dir")))
    run(birth, behaviour(links.ground(at)), ToolsPerformer(control, pid))


def behaviour(ground: Ground = NOWHERE) -> ToolsBehaviour:
    """With the tools that ship: what a generation adds to them is an input."""
    return ToolsBehaviour([spec.row(source) for source, spec in generation.builtins()], ground)


class ToolsPerformer:
    """Runs the effects of S/tools: calls, jobs, orders to apply, generations."""

    drain_s = DRAIN_S

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.control = control
        self.pid = pid
        self.loop: asyncio.AbstractEventLoop
        self.stage: Stage
        self.places: Places
        self.generations: Generations
        self.calls: Calls
        self.tasks: set[asyncio.Task[None]] = set()
        self._applying = asyncio.Lock()
        self._closing = False

    async def open(self, stage: Stage) -> None:
        self.loop = asyncio.get_running_loop()
        self.stage = stage
        self.places = places(stage)
        self.generations = Generations(self.control, stage, self.places, self._spawn, self._fail)
        self.places.facts = await asyncio.to_thread(facts, stage.directories)
        self.calls = Calls(stage, self.places, self.generations, Results(self.places))
        await asyncio.to_thread(remove, self.places.scratch)

    def start(self, effect: OpenEffect, report: Report) -> None:
        body = effect.body
        if isinstance(body, ToolCall) and effect.id.startswith(background.EFFECT):
            self.calls.jobs.begin(effect)
            self._spawn(self.calls.jobs.run(effect, report))
        elif isinstance(body, ToolCall):
            if self.calls.begin(effect):
                self._spawn(self.calls.make(effect, body, report))
            else:
                self.loop.call_soon(report, Note(data={"crowded": True}))
        elif effect.id.startswith(SLOT):
            self._spawn(self.calls.line_up(effect, report))
        elif isinstance(body, Apply):
            self._spawn(self._apply(body, effect.attempt > 1, report))
        elif isinstance(body, PlanUndo):
            self._spawn(self._plan(body, report))
        elif isinstance(body, Reload):
            self._spawn(self._reload(report))
        else:
            self._spawn(self.generations.stand(effect, report))

    def busy(self) -> bool:
        """Calls and orders to apply; the standing effect of the generation never ends, and jobs
        may not for days."""
        return bool(self.calls.under_way) or self._applying.locked()

    def cancel(self, id: str) -> None:
        self.calls.cancel(id)

    async def ask(self, question: Body) -> Body | None:
        if isinstance(question, Reload):
            return await self.generations.reload()
        if (
            isinstance(question, Note)
            and isinstance(question.data, dict)
            and "job" in question.data
        ):
            return await self.calls.jobs.asked(question.data)
        return None

    async def close(self) -> None:
        self._closing = self.generations.closing = True
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.calls.empty_hand()
        self.generations.close()
        ended: asyncio.Future[None] = self.loop.create_future()
        pidfd = os.pidfd_open(self.pid)
        self.loop.add_reader(pidfd, _resolve, ended)
        try:
            await asyncio.wait_for(ended, CLOSE_S)
        except TimeoutError:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            self.loop.remove_reader(pidfd)
            os.close(pidfd)
        await asyncio.to_thread(os.waitpid, self.pid, 0)
        await asyncio.to_thread(self.calls.witness.close)
        await asyncio.to_thread(remove, self.places.scratch)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Errors of a task are errors of the actor."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._closing:
            self.loop.call_exception_handler({"message": "tool host", "exception": error})

    async def _reload(self, report: Report) -> None:
        report(await self.generations.reload())

    async def _apply(self, order: Apply, again: bool, report: Report) -> None:
        async with self._applying:
            applied = await asyncio.to_thread(self._applied, order, again)
            await self.calls.witness.wrote([file.path for file in order.files])
            report(applied)

    def _applied(self, order: Apply, again: bool) -> Applied:
        return apply(
            self.places.repo,
            order.edit,
            order.files,
            partial(get_blob, self.places.blobs),
            self.stage.spec.name,
            again=again,
            exact=order.exact,
        )

    async def _plan(self, order: PlanUndo, report: Report) -> None:
        """Not while an edit is being applied: what it would read might be gone a moment later."""
        async with self._applying:
            report(await asyncio.to_thread(undo.plan, self.places.repo, self.places.blobs, order))


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
