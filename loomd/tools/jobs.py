"""The jobs of a tool host: commands in the background, each with its guard and its worker.

An order to the generation in force, as for a call; but a job's guard does not keep that generation:
when it retires the guard becomes a child of the nursery, and dies with it. What a job prints is
read from its spool, so that any number of agents can poll at their own pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from loomd.actor.behaviour import OpenEffect, Report, Stage
from loomd.store.blobs import get_blob, put_blob
from loomd.store.schema import name_key, text_key
from loomd.tools import background, links, outputs, spool, terminal
from loomd.tools.builtin import job as job_tool
from loomd.tools.contract import ToolError, check_arguments, describe
from loomd.tools.frames import Frames, frame
from loomd.tools.generations import Generations, Gone
from loomd.tools.needs import needs
from loomd.tools.places import Places
from loomd.tools.results import Ending, Results
from loomd.tools.scratch import remove
from loomd.wire import codec
from loomd.wire.bodies import Body, Note, Propose, ToolCall, ToolResult
from loomd.wire.errors import LoomError

if TYPE_CHECKING:
    from loomd.tools.calls import Calls, Running

FOREVER_S: Final = 1e8

HEAD: Final = 12_000
TAIL: Final = 24_000
"""Bytes that one poll shows."""

TYPED: Final = 64 << 10
"""Bytes of input that a job has not read yet, at most: they lie in a socket's buffer, where more
would block its guard."""

GRACE_S: Final = 5.0
"""From SIGTERM to SIGKILL."""

WAIT_S: Final = 600.0
SETTLE_S: Final = 0.1
"""After the first news a poll waits for more, until nothing has come for this long, ..."""
SETTLED_S: Final = 1.0
"""... at most so long."""

TOOL: Final = describe(job_tool.job)

FOLDER: Final = "jobs"


@dataclass(eq=False)
class Job:
    """One job of this host. folder: of its spool; seen: agent -> bytes it has been told; unread:
    bytes of its input that it has not taken; result: what came of it; end: how that is told."""

    id: str
    call: ToolCall
    folder: Path
    started: float
    begun: asyncio.Future[Body]
    writer: asyncio.StreamWriter | None = None
    seen: dict[str, int] = field(default_factory=dict)
    unread: int = 0
    result: Body | None = None
    end: str = ""
    proposal: str = ""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wakes everyone who waits for news."""
        news, self.news = self.news, asyncio.Event()
        news.set()

    def say(self, value: Mapping[str, Any]) -> None:
        if self.writer is not None:
            self.writer.write(frame(value))


class Jobs:
    """All of a session since this host began."""

    def __init__(
        self,
        stage: Stage,
        places: Places,
        generations: Generations,
        results: Results,
        calls: Calls,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.stage = stage
        self.places = places
        self.generations = generations
        self.results = results
        self.calls = calls
        self.jobs: dict[str, Job] = {}
        self._beginning: dict[str, Job] = {}

    # --- the life of a job ---------------------------------------------------------------------

    def begin(self, effect: OpenEffect) -> None:
        """Known from now on: the call that asked for it may look for it."""
        call = effect.body
        assert isinstance(call, ToolCall)
        if effect.attempt > 1:
            return
        folder = self.places.scratch / call.id
        job = Job(call.id, call, folder, self.loop.time(), self.loop.create_future())
        self.jobs[job.id] = job
        self._beginning[call.reply_to] = job

    async def run(self, effect: OpenEffect, report: Report) -> None:
        """From its beginning to its end."""
        assert isinstance(effect.body, ToolCall)
        job = self.jobs.get(effect.body.id)
        row = (await self.generations.in_force()).rows["shell"]
        direct = self.calls.direct(row, needs(row, effect.body.args))
        ending = Ending()
        body: Body
        if job is None:
            await self._lost(effect, direct, report)
            return
        found = await asyncio.to_thread(links.found, job.call, self.calls.ground)
        if found != job.call.links:  # as of any call: it is judged again by where they lead
            del self.jobs[job.id]
            job.begun.set_result(Note(data={"links": found}))
            report(Note(data={"links": found}))
            return
        try:
            if direct:
                await self.calls.witness.begin(effect, job.call)
            order = await self._converse(job, ending)
        except Gone:
            text = "the process that starts commands died before it began; start it again"
            body = ToolResult(id=job.id, ok=False, error="crashed", text=text)
        except OSError as error:
            text = f"not done: what stands in the checkout could not be kept, for undo: {error}"
            body = ToolResult(id=job.id, ok=False, error="failed", text=text)
        except LoomError as error:  # nothing here can confine it
            text = f"{error.message}. {error.hint}".strip(". ")
            body = ToolResult(id=job.id, ok=False, error="failed", text=text)
        else:
            body, _ = await self.results.came_of(job.call, ending, order["limits"])
            body = await self.calls.told(body, order)
        if not job.begun.done():
            job.begun.set_result(_failed(body, job.id))
        if isinstance(body, Propose):
            raw = codec.encode(body)
            job.proposal = await asyncio.to_thread(put_blob, self.places.blobs, raw)
        job.folder = await asyncio.to_thread(self._aside, job.folder)
        output, remark = await asyncio.to_thread(self._whole, job)
        changed, unsaid = await self._changed(effect, direct)
        job.end, job.result = f"{_end_of(body)}{remark}{unsaid}", body
        job.tell()
        said = background.note(body, job.end, output, job.proposal)
        report(Note(data={**said, **changed}))

    async def _lost(self, effect: OpenEffect, direct: bool, report: Report) -> None:
        """Of a job of an earlier host: what it had changed in the checkout is looked for."""
        assert isinstance(effect.body, ToolCall)
        said = background.lost_note(effect.body.id)
        changed: dict[str, Any] = {}
        if direct:
            with contextlib.suppress(OSError):  # nothing was kept, and so nothing is known
                await self.calls.witness.begin(effect, effect.body)
                changed, _ = await self._changed(effect, direct)
        report(Note(data={**said, **changed}))

    async def _changed(self, effect: OpenEffect, direct: bool) -> tuple[dict[str, Any], str]:
        assert isinstance(effect.body, ToolCall)
        return await self.calls.changed(effect, effect.body) if direct else ({}, "")

    async def _converse(self, job: Job, ending: Ending) -> dict[str, Any]:
        """From the order to the end of its guard. Gone; LoomError: nothing can confine it."""
        current = await self.generations.in_force()
        row = current.rows["shell"]
        args = {"timeout_s": 0, **job.call.args}
        call = msgspec.structs.replace(job.call, args=args)
        order = self.calls.order(call, row, needs(row, call.args), job.folder, current)
        order |= {"job": True, "limits": {**order["limits"], "call_s": FOREVER_S}}
        raw = frame(order)
        mine = await self.generations.hand_over(current, lasting=True)
        reader, writer = await asyncio.open_connection(sock=mine)
        job.writer = writer
        try:
            writer.write(raw)
            frames = Frames()
            while ending.end is None:
                try:
                    data = await reader.read(1 << 20)
                except ConnectionResetError:
                    data = b""
                if not data:
                    break
                for said in frames.feed(data):
                    self._heard(job, ending, said)
        finally:
            job.writer = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return order

    def _heard(self, job: Job, ending: Ending, said: dict[str, Any]) -> None:
        if "progress" in said:
            self.calls.publish(job.call, said, job.id)
            job.tell()
        elif "started" in said:
            if not job.begun.done():
                text = f"[{job.id} has begun; ask for its output with job(id={job.id!r})]"
                job.begun.set_result(ToolResult(id=job.id, text=text, data={"job": job.id}))
        elif "taken" in said:
            job.unread = max(0, job.unread - said["taken"])
        elif "result" in said:
            ending.result = said["result"]
        elif "end" in said:
            ending.end = said["end"]
        elif "born" in said:
            ending.born = True

    def _aside(self, scratch: Path) -> Path:
        """Keeps what it has printed for those who ask later, and nothing else of its folder."""
        kept = self.places.scratch / FOLDER / scratch.name
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in spool.names(scratch):
            with contextlib.suppress(OSError):
                os.rename(scratch / name, kept / name)
        remove(scratch)
        return kept

    def _whole(self, job: Job) -> tuple[str, str]:
        """(blob, remark) of all that it has printed."""
        size = spool.size(job.folder)
        if size == 0:
            return "", ""
        p = self.places
        try:
            path, blob = outputs.keep(job.folder, p.scratch, job.id, p.blobs)
        except OSError as error:
            return "", f"\n[the output could not be kept: {error.strerror or error}]"
        cut = size > HEAD + TAIL
        return blob, f"\n[the whole output, for your commands: {path}]" if cut else ""

    async def made(self, call: ToolCall, running: Running) -> Body:
        """The answer to the call that began a job: as soon as its process runs. Note {links} if it
        was not begun, see Calls."""
        job = self._beginning.pop(call.id, None)
        if job is None:
            return msgspec.structs.replace(background.lost(call.id), id=call.id)
        stopped = asyncio.ensure_future(running.stopped.wait())
        waits: set[asyncio.Future[Any]] = {job.begun, stopped}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if running.cancelled:
            job.say({"cancel": True})
            return ToolResult(id=call.id, ok=False, error="cancelled", text="cancelled")
        body = job.begun.result()
        return msgspec.structs.replace(body, id=call.id) if isinstance(body, ToolResult) else body

    # --- what agents ask -----------------------------------------------------------------------

    async def answer(self, call: ToolCall, running: Running) -> tuple[Body, dict[str, Any]]:
        """Of a call of `job`: what is told, and more for the behaviour: {told: job id} if the
        proposal of that job has been told with it."""
        try:
            given = {one.name: one.default for one in TOOL.parameters}
            given |= check_arguments(TOOL, call.args)
            return await self._answer(call, running, **given)
        except ToolError as error:
            return ToolResult(id=call.id, ok=False, error=error.code, text=error.text), {}

    async def _answer(
        self,
        call: ToolCall,
        running: Running,
        id: str,
        action: str,
        text: str,
        wait_s: float,
        eof: bool,
    ) -> tuple[Body, dict[str, Any]]:
        if action == "list":
            return ToolResult(id=call.id, text=self._list()), {}
        job = self.jobs.get(id)
        if job is None:
            return self._former(call, id)
        if action == "input":
            self._type(job, text, eof)
        elif action == "kill":
            await self.kill(job)
        await self._news(job, call.agent, min(max(0.0, wait_s), WAIT_S), running)
        return self._poll(job, call)

    def _type(self, job: Job, text: str, eof: bool) -> None:
        raw = text.encode("utf-8", "surrogateescape")
        if job.result is not None or job.writer is None:
            raise ToolError(f"{job.id} has ended; poll it to see how")
        if job.unread + len(raw) > TYPED:
            raise ToolError(
                f"{job.id} has not read {job.unread} bytes of its input yet; at most {TYPED} wait",
                "too_large",
            )
        if not raw and not eof:
            raise ToolError("`text` is empty, and it is not the end of its input", "bad_args")
        job.unread += len(raw)
        job.say({"input": raw, "eof": eof})

    async def kill(self, job: Job) -> None:
        """Ends it and waits for its end."""
        job.say({"terminate": GRACE_S})
        await self._over(job, GRACE_S + 1.0)
        if job.result is None:
            job.say({"cancel": True})
            await self._over(job, GRACE_S)

    async def _over(self, job: Job, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while job.result is None:
                    await job.news.wait()

    async def _news(self, job: Job, agent: str, wait_s: float, running: Running) -> None:
        """Waits until it has said something that the agent has not been told, or has ended."""
        end = self.loop.time() + wait_s
        seen = job.seen.get(agent, 0)
        while job.result is None and not running.cancelled:
            news = job.news
            if spool.size(job.folder) > seen or (left := end - self.loop.time()) <= 0:
                break
            await _either(news, running.stopped, left)
        settled = min(end, self.loop.time() + SETTLED_S)
        while job.result is None and (left := settled - self.loop.time()) > 0:
            if not await _either(job.news, running.stopped, min(left, SETTLE_S)):
                break

    def _poll(self, job: Job, call: ToolCall) -> tuple[Body, dict[str, Any]]:
        seen = job.seen.get(call.agent, 0)
        first, last, new = spool.ends(job.folder, HEAD, TAIL, seen)
        job.seen[call.agent] = seen + new
        said = terminal.cut(first, last, new)
        if job.result is not None:
            text = f"{said}\n[{job.id} has ended]\n{job.end}".lstrip()
            proposal, job.proposal = job.proposal, ""
            return self._told(call, job.id, text, proposal)
        age = self.loop.time() - job.started
        status = f"{job.id} runs, {age:.1f} s, {job.seen[call.agent]} bytes so far"
        nothing = "" if new else "; nothing new"
        waits = f"; {job.unread} bytes of its input are not read yet" if job.unread else ""
        text = f"{said}\n[{status}{nothing}{waits}]".lstrip()
        data = {"job": job.id, "state": "running"}
        return ToolResult(id=call.id, text=text, data=data), {}

    def _former(self, call: ToolCall, id: str) -> tuple[Body, dict[str, Any]]:
        """Of a job of an earlier host there is what its row says."""
        row = self._row(id) if id else None
        if row is None:
            raise ToolError(f"there is no job {id!r}. {self._list()}", "not_found")
        if row["state"] == "running":  # its end is about to be booked
            row = {**row, "state": "lost", "text": background.LOST}
        text = f"[{id} has ended: {row['state']}]\n{row['text']}"
        return self._told(call, id, text, row["proposal"])

    def _told(
        self, call: ToolCall, id: str, text: str, proposal: str
    ) -> tuple[Body, dict[str, Any]]:
        """The end of a job; with it, once, what it changed: then the call is answered when that
        has been decided."""
        if proposal:
            body = codec.body(get_blob(self.places.blobs, proposal))
            if isinstance(body, Propose):
                made = msgspec.structs.replace(
                    body, call=call.id, agent=call.agent, task=call.task or body.task, note=text
                )
                return made, {"told": id}
        row = self._row(id) or {}
        data = {"job": id, "state": row.get("state") or "ended"}
        return ToolResult(id=call.id, text=text, data=data), {}

    def _row(self, id: str) -> dict[str, Any] | None:
        row = self.stage.reader.row("jobs", text_key(self.stage.spec.session, id))
        return row if isinstance(row, dict) else None

    def _list(self) -> str:
        rows = [row for _, row in self.stage.reader.rows("jobs", name_key(self.stage.spec.session))]
        if not rows:
            return "This session has no jobs."
        rows.sort(key=lambda row: row["started"])
        lines = []
        for row in rows[-50:]:
            job = self.jobs.get(row["id"])
            state = row["state"]
            if state == "running" and job is not None:
                state = f"running, {self.loop.time() - job.started:.0f} s"
            command = " ".join(str(row["command"]).split())[:120]
            lines.append(f"{row['id']} [{state}] {row['agent'].rpartition('/')[2]}: {command}")
        return "\n".join(lines)

    # --- what people ask -----------------------------------------------------------------------

    async def asked(self, data: Mapping[str, Any]) -> Note:
        """{job, action: show | kill} -> {id, state, text}. LoomError(not_found)."""
        id = str(data["job"])
        job, row = self.jobs.get(id), self._row(id)
        if row is None:
            raise LoomError("not_found", f"there is no job {id!r}", "see: loomctl jobs SESSION")
        if job is None:
            return Note(data={"id": id, "state": row["state"], "text": row["text"]})
        if data.get("action") == "kill":
            await self.kill(job)
        first, last, size = spool.ends(job.folder, HEAD, TAIL)
        text = terminal.cut(first, last, size)
        state = "running"
        if job.result is not None:
            text = f"{text}\n{job.end}".strip()
            state = background.state_of(job.result)
        return Note(data={"id": id, "state": state, "text": text})


def _end_of(body: Body) -> str:
    if isinstance(body, Propose):
        return body.note
    return body.text if isinstance(body, ToolResult) else ""


def _failed(body: Body, id: str) -> ToolResult:
    """The answer to who began a job that has ended before it ran."""
    if isinstance(body, ToolResult):
        return body
    return ToolResult(id=id, ok=False, error="failed", text="it ended before it began")


async def _either(one: asyncio.Event, other: asyncio.Event, seconds: float) -> bool:
    """Waits for one of the two; False if neither came in time."""
    waits = {asyncio.ensure_future(event.wait()) for event in (one, other)}
    try:
        done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
