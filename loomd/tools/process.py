"""The process of a session's tool host: entry point, and the performer.

The nursery is forked first, before the host opens a socket. The performer never blocks the loop:
what waits for the disk runs in threads, which exist only in this process and after the fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from loomd.actor.behaviour import OpenEffect, Report, Stage
from loomd.store.blobs import get_blob, put_blob
from loomd.store.schema import text_key
from loomd.tools import generation as generations
from loomd.tools import nursery, sandbox
from loomd.tools.apply import apply
from loomd.tools.call import Frames, checked_state
from loomd.tools.contract import ToolError
from loomd.tools.host import FIRST, ToolsBehaviour
from loomd.tools.propose import name_of
from loomd.wire import codec
from loomd.wire.bodies import (
    Applied,
    Apply,
    Body,
    FileChange,
    Note,
    Propose,
    Reload,
    Reloaded,
    ToolCall,
    ToolResult,
)
from loomd.wire.errors import LoomError

if TYPE_CHECKING:
    from loomd.supervise.link import ProcessBirth

FORM_S: Final = 20.0
"""How long importing the tool files may take."""

CLOSE_S: Final = 3.0
MAX_DEATHS: Final = 5
SHOWN: Final = 16_000
"""Characters of a result that stand beside its blob, for people and for the log."""

NOTE: Final = 48_000

LIMITS: Final[dict[str, Any]] = {
    "call_s": 120.0,
    "memory_mb": 4096,
    "address_mb": 16_384,
    "processes": 512,
    "file_mb": 4096,
}
"""Of one call: seconds, resident memory of its tree, address space of each of its processes,
processes, and size of a file that it writes."""

MAX_RESULT: Final = 448 << 10
"""Bytes of what a call's end is told as. A commit carries it twice, as input and as mail, and the
state of the tool too; a frame holds 1 MiB."""

MAX_CALL_S: Final = 3600.0

DRAIN_S: Final = 120.0
"""How long a tool host that is to leave for new code waits for its calls, and takes no new ones.
As long as a call may take by default."""

ROOM_S: Final = 30.0
"""A tool with a time-out of its own gets this much more, for the copy and the comparison."""

SAFE_TO_REPEAT: Final = frozenset({"write", "edit"})
"""Built-in tools that only compute a proposal: after a crash they run again like reads."""

STARTS: Final = 5
"""Of a call that may be repeated, over deaths of the tool host. More than the one repetition that
would do against a single death: it costs nothing, and a job should not fail because two processes
were killed in one second."""

RUNS: Final = 3
"""Of a call within one start: its generation died before it began, or its process was killed from
outside."""

_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


def main(birth: ProcessBirth) -> None:
    """Entry point."""
    control, pid = nursery.fork(birth.name)
    from loomd.actor.host import run

    run(birth, behaviour(), ToolsPerformer(control, pid))


def behaviour() -> ToolsBehaviour:
    """With the tools that ship: what a generation adds to them is an input."""
    return ToolsBehaviour([spec.row(source) for source, spec in generations.builtins()])


@dataclass(eq=False)
class Generation:
    """One formed generation. calls: how many are under way."""

    hash: str
    pid: int
    sock: socket.socket
    rows: dict[str, dict[str, Any]]
    order: list[dict[str, Any]]
    loaded: list[str]
    without: list[str]
    retired: bool = False


class Broken(Exception):
    """A generation that cannot be: [{module, error}]."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__(str(errors))
        self.errors = errors


@dataclass(eq=False)
class Running:
    """A call under way. `cancelled` is what it is told when its guard is not there yet."""

    writer: asyncio.StreamWriter | None = None
    cancelled: bool = False


@dataclass
class Ending:
    """What came of a call's process: its result frame, and how it ended. born: its guard spoke."""

    born: bool = False

    result: dict[str, Any] | None = None
    end: dict[str, Any] | None = None


@dataclass
class Places:
    """Where this session's calls live, computed once."""

    repo: Path
    scratch: Path
    tools: Path
    generations: Path
    blobs: Path
    runtime: Path
    readable: tuple[str, ...]
    env: dict[str, str]
    limits: dict[str, Any]
    review: bool


class ToolsPerformer:
    """Runs the effects of S/tools: calls, orders to apply, generations."""

    drain_s = DRAIN_S

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.control = control
        self.pid = pid
        self.loop: asyncio.AbstractEventLoop
        self.stage: Stage
        self.places: Places
        self.current: Generation | None = None
        self.candidate: Generation | None = None
        self.forming: asyncio.Task[None] | None = None
        self.recorded: tuple[str, list[str]] | None = None
        self.standing: Report | None = None
        self.calls: dict[str, Running] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()  # there is a current generation
        self._committed: asyncio.Future[int] | None = None
        self._reloading = asyncio.Lock()
        self._applying = asyncio.Lock()
        self._orders: dict[int, asyncio.Future[tuple[int, socket.socket]]] = {}
        self._count = 0
        self._deaths: list[float] = []
        self._states: dict[str, dict[str, Any]] = {}
        self._state_locks: dict[str, asyncio.Lock] = {}
        self._exclusive: dict[str, asyncio.Lock] = {}
        self._closing = False

    # --- the performer's protocol --------------------------------------------------------------

    async def open(self, stage: Stage) -> None:
        self.loop = asyncio.get_running_loop()
        self.stage = stage
        self.places = places(stage)
        self.control.setblocking(False)
        self.loop.add_reader(self.control, self._from_nursery)
        await asyncio.to_thread(shutil.rmtree, self.places.scratch, True)

    def start(self, effect: OpenEffect, report: Report) -> None:
        body = effect.body
        if isinstance(body, ToolCall):
            self.calls[effect.id] = Running()
            self._spawn(self._call(effect, body, report))
        elif isinstance(body, Apply):
            self._spawn(self._apply(body, report))
        else:
            self._spawn(self._generation(effect, report))

    def busy(self) -> bool:
        """Calls and orders to apply; the standing effect of the generation never ends."""
        return bool(self.calls) or self._applying.locked()

    def cancel(self, id: str) -> None:
        running = self.calls.get(id)
        if running is None:
            return
        running.cancelled = True
        if running.writer is not None:
            running.writer.write(_frame({"cancel": True}))

    async def ask(self, question: Body) -> Body | None:
        if isinstance(question, Reload):
            return await self._reload()
        return None

    async def close(self) -> None:
        """Closing the control socket is the order: the nursery kills all below it and exits."""
        self._closing = True
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.loop.remove_reader(self.control)
        self.control.close()
        for one in (self.current, self.candidate):
            if one is not None:
                self._drop(one)
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
        await asyncio.to_thread(shutil.rmtree, self.places.scratch, True)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Errors of a task are errors of the actor."""

        async def guarded() -> None:
            await work

        task = self.loop.create_task(guarded())
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

    # --- generations ---------------------------------------------------------------------------

    def _from_nursery(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self.control, 1 << 16, 1)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            self.loop.remove_reader(self.control)
            self._fail(RuntimeError("the nursery is gone"))
            return
        note = json.loads(data)
        future = self._orders.pop(note["formed"], None)
        sock = socket.socket(fileno=fds[0])
        if future is None or future.done():
            sock.close()  # nobody waits any more: the generation sees the end and leaves
        else:
            future.set_result((note["pid"], sock))

    async def _form(self, hash: str, without: list[str]) -> Generation:
        """A generation of the snapshot `hash` ("": only what ships). Broken."""
        self._count += 1
        folder = str(self.places.generations / hash) if hash else ""
        order = {"form": self._count, "folder": folder, "without": without}
        future: asyncio.Future[tuple[int, socket.socket]] = self.loop.create_future()
        self._orders[self._count] = future
        self.control.send(json.dumps(order).encode())
        pid, sock = await future
        sock.setblocking(False)
        try:
            data = await asyncio.wait_for(self.loop.sock_recv(sock, 1 << 18), FORM_S)
        except (TimeoutError, ConnectionResetError) as error:
            self.control.send(json.dumps({"kill": pid}).encode())
            sock.close()
            late = isinstance(error, TimeoutError)
            said = f"importing took longer than {FORM_S:g} s" if late else _DIED
            raise Broken([{"module": "", "error": said}]) from None
        except BaseException:
            sock.close()
            raise
        said_: dict[str, Any] = {"broken": [{"module": "", "error": _DIED}]}
        if data:
            said_ = json.loads(data)
        if "broken" in said_:
            sock.close()
            raise Broken(said_["broken"])
        rows = said_["ready"]
        return Generation(
            hash, pid, sock, {row["name"]: row for row in rows}, rows, said_["loaded"], without
        )

    async def _form_anyhow(self, hash: str, without: list[str]) -> tuple[Generation, list[Any]]:
        """The best generation that can be had: modules that do not import are left out."""
        errors: list[dict[str, str]] = []
        for _ in range(4):
            try:
                return await self._form(hash, without), errors
            except Broken as broken:
                errors += broken.errors
                named = [one["module"] for one in broken.errors if one["module"]]
                if not named:
                    hash = ""
                without = [*without, *named]
        return await self._form("", []), errors

    async def _generation(self, effect: OpenEffect, report: Report) -> None:
        """A standing effect: it ends when the next generation is to be recorded."""
        assert isinstance(effect.body, Note)
        data = effect.body.data
        if effect.id == FIRST:
            hash, errors = await self._snapshot()
            formed, broken = await self._form_anyhow(hash, [])
            self.candidate = formed
            report(Note(data={**_passed(formed), "errors": errors + broken, "changed": []}))
            return
        self.recorded = (data["hash"], list(data.get("without") or ()))
        self.standing = report
        formed_ = self.candidate
        self.candidate = None
        if formed_ is None or formed_.hash != data["hash"]:
            # A predecessor died. What was recorded counts, not what lies in the folder now.
            if formed_ is not None:
                self._drop(formed_)
            formed_, _ = await self._form_anyhow(*self.recorded)
        self._put_in_force(formed_)
        if self._committed is not None and not self._committed.done():
            self._committed.set_result(data["generation"])

    async def _snapshot(self) -> tuple[str, list[dict[str, str]]]:
        try:
            hash = await asyncio.to_thread(
                generations.snapshot, self.places.tools, self.places.generations
            )
        except LoomError as error:
            return "", [{"module": "", "error": error.message}]
        except OSError as error:
            return "", [{"module": "", "error": f"the tool files cannot be read: {error}"}]
        return hash, []

    def _put_in_force(self, formed: Generation) -> None:
        old, self.current = self.current, formed
        if old is not None:
            self._drop(old)
        self.loop.add_reader(formed.sock, self._from_generation, formed)
        self._ready.set()

    def _from_generation(self, one: Generation) -> None:
        """It says nothing after `ready`; what comes is its end."""
        try:
            if one.sock.recv(4096):
                return
        except BlockingIOError:
            return
        except ConnectionResetError:
            pass
        current = one is self.current
        self._drop(one)
        if current and not self._closing:
            self.current = None
            self._ready.clear()
            now = self.loop.time()
            self._deaths = [at for at in self._deaths if now - at < 10.0] + [now]
            if len(self._deaths) > MAX_DEATHS:
                raise RuntimeError("the generation of tools dies again and again")
            self._spawn(self._form_again())

    async def _form_again(self) -> None:
        assert self.recorded is not None
        formed, _ = await self._form_anyhow(*self.recorded)
        if self.current is None:
            self._put_in_force(formed)
        else:
            self._drop(formed)  # a reload was faster

    def _drop(self, one: Generation) -> None:
        """Retires it: at the end of its socket it takes no more calls and leaves after its last."""
        if not one.retired:
            one.retired = True
            self.loop.remove_reader(one.sock)
            one.sock.close()

    async def _reload(self) -> Reloaded:
        async with self._reloading:
            await self._ready.wait()
            current, standing = self.current, self.standing
            row = await self._recorded_row()
            number = int(row.get("generation", 0))
            if current is None or standing is None:
                raise LoomError("not_running", "the tool host is starting; try again")
            hash, errors = await self._snapshot()
            if errors:
                return Reloaded(generation=number, errors=tuple(errors))
            if hash == current.hash and not current.without:
                return Reloaded(generation=number, loaded=tuple(current.loaded))
            try:
                formed = await self._form(hash, [])
            except Broken as broken:
                return Reloaded(
                    generation=number, loaded=tuple(current.loaded), errors=tuple(broken.errors)
                )
            changed = await asyncio.to_thread(self._changed, current, formed)
            self.candidate = formed
            self.standing = None
            self._committed = self.loop.create_future()
            standing(Note(data={**_passed(formed), "errors": [], "changed": changed}))
            number = await self._committed
            return Reloaded(generation=number, loaded=tuple(formed.loaded), changed=tuple(changed))

    async def _recorded_row(self) -> dict[str, Any]:
        row = self.stage.reader.row("toolsets", self.stage.spec.session.encode() + b"\0")
        return row if isinstance(row, dict) else {}

    def _changed(self, old: Generation, new: Generation) -> list[str]:
        """Files that differ between two snapshots."""
        one, other = (
            generations.manifest(self.places.generations / g.hash) if g.hash else {}
            for g in (old, new)
        )
        return sorted(
            name for name in one.keys() | other.keys() if one.get(name) != other.get(name)
        )

    # --- calls ---------------------------------------------------------------------------------

    async def _call(self, effect: OpenEffect, call: ToolCall, report: Report) -> None:
        running = self.calls[effect.id]
        try:
            body, state = await self._perform(effect, call, running)
        finally:
            self.calls.pop(effect.id, None)
        data: dict[str, Any] = {"body": codec.encode(body)}
        if state is not None:
            data["state"] = {"tool": call.name, "value": state}
        report(Note(data=data))

    async def _perform(
        self, effect: OpenEffect, call: ToolCall, running: Running
    ) -> tuple[Body, dict[str, Any] | None]:
        row = (await self._in_force()).rows.get(call.name)
        if row is None:
            text = f"there is no tool {call.name!r} any more"
            return ToolResult(id=call.id, ok=False, error="no_such_tool", text=text), None
        if effect.attempt > (STARTS if self._repeatable(row) else 1):
            return ToolResult(id=call.id, ok=False, error="interrupted", text=_INTERRUPTED), None
        if running.cancelled:
            return ToolResult(id=call.id, ok=False, error="cancelled", text="cancelled"), None
        async with contextlib.AsyncExitStack() as held:
            if row.get("exclusive"):
                lock = self._exclusive.setdefault(call.name, asyncio.Lock())
                await held.enter_async_context(lock)
            # Short: whoever makes a Unix socket below it has 107 bytes for its path.
            scratch = self.places.scratch / name_of(effect.id.encode())[:8]
            order = self._order(call, row, scratch, await self._in_force())
            ending, limits = Ending(), order["limits"]
            try:
                for _ in range(RUNS):
                    ending = Ending()
                    await self._converse(order, call.name, running, ending, held)
                    if not ending.born:
                        continue  # its generation died before it began: nothing has happened
                    if running.cancelled or not (_harmless(row) and _killed(ending)):
                        break
            finally:
                if order["scratched"]:
                    await asyncio.to_thread(shutil.rmtree, scratch, True)
            body, state = await self._came_of(call, ending, limits)
            if state is not None:
                self._states[call.name] = state
            return body, state

    async def _came_of(
        self, call: ToolCall, ending: Ending, limits: dict[str, Any]
    ) -> tuple[Body, dict[str, Any] | None]:
        """What is told, and what is kept. A tool may have written its result frame itself, and
        the disk may be full: neither ends the host and with it the calls of others."""
        try:
            body = await self._body(call, ending, limits)
            size = len(codec.encode(body))
            if size > MAX_RESULT:
                text = f"the result has {size} bytes; at most {MAX_RESULT} can be told"
                return ToolResult(id=call.id, ok=False, error="too_large", text=text), None
            state = (ending.result or {}).get("state") if _fine(body) else None
            return body, None if state is None else checked_state(state)
        except OSError as error:
            text = f"the result could not be stored: {error.strerror or error}"
            return ToolResult(id=call.id, ok=False, error="failed", text=text), None
        except ToolError as error:
            return ToolResult(id=call.id, ok=False, error=error.code, text=error.text), None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            text = f"the process of the call sent no result of ours: {error!r}"[:1000]
            return ToolResult(id=call.id, ok=False, error="crashed", text=text), None

    async def _in_force(self) -> Generation:
        """The current generation; waits while there is none."""
        while self.current is None:
            await self._ready.wait()
        return self.current

    def _repeatable(self, row: Mapping[str, Any]) -> bool:
        """May a call that was under way when the host died be made again? What only reads, what
        only computes a proposal, and a command in a private copy without network."""
        if row["access"] == "read":
            return True
        if row["source"] != "builtin":
            return False
        return row["name"] in SAFE_TO_REPEAT or (row["access"] == "execute" and self.places.review)

    def _order(
        self, call: ToolCall, row: Mapping[str, Any], scratch: Path, current: Generation
    ) -> dict[str, Any]:
        """What the guard is told."""
        p = self.places
        access = row["access"]
        builtin = row["source"] == "builtin"
        changes = access == "execute" or (access == "write" and not builtin)
        copied = changes and p.review
        scratched = changes or not builtin
        limits = dict(p.limits)
        shape = row["parameters"]["properties"].get("timeout_s") or {}
        own = call.args.get("timeout_s", shape.get("default"))
        if isinstance(own, int | float) and not isinstance(own, bool):
            limits["call_s"] = min(max(limits["call_s"], own), MAX_CALL_S) + ROOM_S
        limits["watch"] = scratched
        env = dict(p.env)
        if scratched:
            env |= {"HOME": str(scratch / "home"), "TMPDIR": str(scratch / "tmp")}
        readable = [*p.readable, str(p.repo), *_git_folders(p.repo)]
        if current.hash:
            readable.append(str(p.generations / current.hash))
        writable = [str(scratch)] if scratched else []
        if changes and not copied:
            writable.append(str(p.repo))
        return {
            "id": call.id,
            "tool": call.name,
            "args": call.args,
            "session": self.stage.spec.session,
            "agent": call.agent,
            "repo": str(p.repo),
            "env": env,
            "limits": limits,
            "scratch": str(scratch),
            "scratched": scratched,
            "copy": copied,
            "review": p.review,
            "profile": {
                "read": readable,
                "write": writable,
                "network": access == "network",
                "hide": [str(p.runtime)] if scratched else [],
            },
        }

    async def _converse(
        self,
        order: dict[str, Any],
        tool: str,
        running: Running,
        ending: Ending,
        held: contextlib.AsyncExitStack,
    ) -> None:
        """From the order to the end of the call's guard."""
        raw = _frame(order)
        mine = await self._to_generation()
        reader, writer = await asyncio.open_connection(sock=mine)
        try:
            writer.write(raw)
            running.writer = writer
            if running.cancelled:
                writer.write(_frame({"cancel": True}))
            frames = Frames()
            locked = False
            while ending.end is None:
                try:
                    data = await reader.read(1 << 20)
                except ConnectionResetError:
                    data = b""
                if not data:
                    return
                for frame in frames.feed(data):
                    if "lock" in frame and not locked:
                        locked = True
                        lock = self._state_locks.setdefault(tool, asyncio.Lock())
                        # A cancelled call must not wait for another's lock: the guard goes on
                        # listening, so its end is read while we wait.
                        await self._lock(lock, reader, frames, ending, held)
                        if ending.end is None:
                            writer.write(_frame({"state": self._state(tool)}))
                    elif "result" in frame:
                        ending.result = frame["result"]
                    elif "end" in frame:
                        ending.end = frame["end"]
                    elif "born" in frame:
                        ending.born = True
        finally:
            running.writer = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _lock(
        self,
        lock: asyncio.Lock,
        reader: asyncio.StreamReader,
        frames: Frames,
        ending: Ending,
        held: contextlib.AsyncExitStack,
    ) -> None:
        """Takes the lock, or sees the call end before it has it."""
        taking = asyncio.ensure_future(lock.acquire())
        reading = asyncio.ensure_future(reader.read(1 << 20))
        try:
            await asyncio.wait({taking, reading}, return_when=asyncio.FIRST_COMPLETED)
            if taking.done() and not reading.done():
                held.callback(lock.release)
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading
                return
            if taking.done():
                held.callback(lock.release)
            data = reading.result()
            for frame in frames.feed(data):
                ending.end = frame.get("end", ending.end)
            if ending.end is None:
                ending.end = {"exit": 0, "signal": 0, "reason": "gone", "output": b"", "size": 0}
        finally:
            if not taking.done():
                taking.cancel()
            if not reading.done():
                reading.cancel()

    def _state(self, tool: str) -> dict[str, Any]:
        """As the last call left it; from the table at first."""
        if tool not in self._states:
            key = text_key(self.stage.spec.session, tool)
            row = self.stage.reader.row("tool_state", key)
            self._states[tool] = row if isinstance(row, dict) else {}
        return self._states[tool]

    async def _to_generation(self) -> socket.socket:
        """Hands a call's socket to the current generation; our end of it."""
        while True:
            current = await self._in_force()
            mine, theirs = socket.socketpair()
            mine.setblocking(False)
            try:
                socket.send_fds(current.sock, [b"{}"], [theirs.fileno()])
                return mine
            except BlockingIOError:
                mine.close()
                await asyncio.sleep(0.002)  # its queue is full of orders: it is forking
            except OSError:
                mine.close()
                self._from_generation(current)  # it has just died
                await asyncio.sleep(0)
            finally:
                theirs.close()

    # --- results -------------------------------------------------------------------------------

    async def _body(self, call: ToolCall, ending: Ending, limits: dict[str, Any]) -> Body:
        """What the agent, or the team, is told."""
        end = ending.end or {"exit": 0, "signal": 0, "reason": "gone", "output": b"", "size": 0}
        printed = end["output"].decode("utf-8", "replace").strip()
        result = ending.result
        if result is None or end["reason"]:
            error, text = _ended(end, limits)
            if printed:
                text += f"\n[it had printed:]\n{printed}"
            return ToolResult(id=call.id, ok=False, error=error, text=text)
        if "files" in result:
            return await self._propose(call, result, printed)
        text = result["text"]
        if printed:
            text += f"\n[printed:]\n{printed}"
        data = {k: v for k, v in result["data"].items() if k != "reason"}
        if result["output"]:
            data["output"] = await self._blob(result["output"])
        raw = text.encode("utf-8", "replace")
        blob = ""
        if len(raw) > codec.BLOB_LIMIT:
            blob = await self._blob(raw)
            text = f"{text[:SHOWN]}\n[{len(text)} characters in all]"
        return ToolResult(
            id=call.id,
            ok=bool(result["ok"]),
            error=result["error"] if not result["ok"] else "",
            text=text,
            blob=blob,
            data=_bounded(data),
        )

    async def _propose(self, call: ToolCall, result: dict[str, Any], printed: str) -> Body:
        for content in result["blobs"]:
            await self._blob(content)
        note = result["note"] + (f"\n[printed:]\n{printed}" if printed else "")
        if result["output"]:
            note += f"\n[whole output: blob {await self._blob(result['output'])}]"
        return Propose(
            call=call.id,
            agent=call.agent,
            tool=call.name,
            reason=result["reason"][:2000],
            files=tuple(msgspec.convert(file, FileChange) for file in result["files"]),
            task=call.task,
            note=note.encode()[:NOTE].decode("utf-8", "ignore"),
        )

    async def _blob(self, content: bytes) -> str:
        return await asyncio.to_thread(put_blob, self.places.blobs, content)

    # --- applying ------------------------------------------------------------------------------

    async def _apply(self, order: Apply, report: Report) -> None:
        async with self._applying:
            report(await asyncio.to_thread(self._applied, order))

    def _applied(self, order: Apply) -> Applied:
        p = self.places

        def blob(name: str) -> bytes:
            return get_blob(p.blobs, name)

        return apply(p.repo, order.edit, order.files, blob, self.stage.spec.name)


_DIED: Final = "the process that imported the tool files died"
_INTERRUPTED: Final = (
    "interrupted: the tool host was restarted while this call was under way; it may or may not "
    "have had its effect. Look before you call again"
)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _frame(value: Mapping[str, Any]) -> bytes:
    raw = codec.pack(value)
    return len(raw).to_bytes(4, "big") + raw


def _passed(formed: Generation) -> dict[str, Any]:
    return {"hash": formed.hash, "tools": formed.order}


def _fine(body: Body) -> bool:
    return isinstance(body, Propose) or (isinstance(body, ToolResult) and body.ok)


def _harmless(row: Mapping[str, Any]) -> bool:
    """Built in, and its process changes nothing, not even the state of its tool."""
    return row["source"] == "builtin" and (row["access"] == "read" or row["name"] in SAFE_TO_REPEAT)


def _killed(ending: Ending) -> bool:
    """Whether the call's process, or its guard, was killed and not by us."""
    end = ending.end
    if end is None:
        return True
    return ending.result is None and not end["reason"] and end["signal"] == signal.SIGKILL


def _safe(id: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in id)[-100:]


def _bounded(data: dict[str, Any]) -> dict[str, Any]:
    """Data of a user's tool may be anything; beyond 16 KiB it is left out."""
    try:
        return data if len(codec.pack(data)) <= 16 << 10 else {}
    except (TypeError, ValueError, OverflowError):
        return {}


def _ended(end: Mapping[str, Any], limits: Mapping[str, Any]) -> tuple[str, str]:
    """(error, text) of a call that has no result."""
    match end["reason"]:
        case "timeout":
            return "timeout", f"killed: the call had not ended after {limits['call_s']:g} s"
        case "cancelled":
            return "cancelled", "cancelled while it ran; it was killed"
        case "memory":
            return "crashed", f"killed: out of memory, a call may use {limits['memory_mb']} MB"
        case "processes":
            return "crashed", f"killed: it had more than {limits['processes']} processes"
        case "gone":
            return "crashed", "the process of the call was killed from outside"
    if end["signal"]:
        name = signal.Signals(end["signal"]).name
        hint = " (from outside, or by the kernel for want of memory)" if name == "SIGKILL" else ""
        return "crashed", f"the process of the call died of {name}{hint}"
    return "crashed", f"the process of the call ended itself (exit code {end['exit']})"


# --- places --------------------------------------------------------------------------------------


def places(stage: Stage) -> Places:
    """From the spec, the settings and the instance."""
    spec, settings, at = stage.spec, stage.settings, stage.directories
    args = spec.args
    env = session_env(args.get("env") or {})
    review = args.get("review")
    if review is None:
        review = (settings.get("review") or {}).get("required", True)
    limits = dict(LIMITS)
    for source in (settings.get("limits") or {}, args.get("limits") or {}):
        limits |= {key: source[key] for key in LIMITS if source.get(key) is not None}
    repo = Path(args["repo"]).resolve()
    home = os.path.expanduser("~")
    never = (home, str(at.state), str(at.runtime))
    wanted = (*sandbox.interpreter_folders(env), *sandbox.package_folders())
    return Places(
        repo=repo,
        scratch=at.scratch / _safe(spec.session),
        tools=at.config.parent / "tools",
        generations=at.generations,
        blobs=at.blobs,
        runtime=at.runtime,
        readable=sandbox.without(wanted, never),
        env=env,
        limits=limits,
        review=bool(review),
    )


def session_env(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of calls: the session opener's, without our own variables and secrets. This
    interpreter's programs come last on the PATH, so that there always is a `python`."""
    env = {
        name: value
        for name, value in given.items()
        if not name.startswith("LOOM_") and not any(part in name.upper() for part in _SECRET)
    }
    own = os.path.join(sys.prefix, "bin")
    path = env.get("PATH") or "/usr/local/bin:/usr/bin:/bin"
    env["PATH"] = path if own in path.split(":") else f"{path}:{own}"
    env.setdefault("LANG", "C.UTF-8")
    env.setdefault("HOME", "/nonexistent")
    for name in (
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
        "XDG_STATE_HOME",
        "DBUS_SESSION_BUS_ADDRESS",
    ):
        env.pop(name, None)
    return env


def _git_folders(repo: Path) -> list[str]:
    """The real folders of a linked worktree's `.git` file."""
    marker = repo / ".git"
    if not marker.is_file():
        return []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        key, _, value = marker.read_text().partition(":")
        if key == "gitdir":
            folder = (repo / value.strip()).resolve()
            parent = folder.parent.parent
            return [str(folder), str(parent)] if parent.name == ".git" else [str(folder)]
    return []
