"""The calls of a tool host: each is handed to a generation, and conversed with to its end.

effect -> order to a guard, over a socket of its own -> {lock} {seen} {result} {end} -> results
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from loomd.actor.behaviour import OpenEffect, Report, Stage
from loomd.store.schema import text_key
from loomd.tools import background, ground, landlock, layer, links, outputs, seen
from loomd.tools.denied import explain
from loomd.tools.frames import Frames, frame
from loomd.tools.generations import Generation, Generations, Gone
from loomd.tools.jobs import Jobs
from loomd.tools.needs import Needs, needs
from loomd.tools.places import MAX_CALL_S, ROOM_S, Places, author
from loomd.tools.profile import Need, Rules, rules
from loomd.tools.results import Ending, Results, killed
from loomd.tools.sandbox import lacking
from loomd.tools.scratch import remove
from loomd.tools.slots import Slots
from loomd.tools.surroundings import TOOL, Surroundings
from loomd.tools.witness import Witness
from loomd.wire import codec, topics
from loomd.wire.bodies import Body, Note, Propose, ToolCall, ToolResult
from loomd.wire.errors import LoomError

SAFE_TO_REPEAT: Final = seen.PROPOSES | {"propose"}
"""Built-in tools that only compute a proposal: after a crash they run again like reads."""

STARTS: Final = 5
"""Of a call that may be repeated, over deaths of the tool host. More than the one repetition that
would do against a single death: it costs nothing, and a job should not fail because two processes
were killed in one second."""

RUNS: Final = 3
"""Of a call within one start: its generation died before it began, or its process was killed from
outside."""

_GONE: Final = {"exit": 0, "signal": 0, "reason": "gone", "output": b"", "size": 0}

_INTERRUPTED: Final = (
    "interrupted: the tool host was restarted while this call was under way; it may or may not "
    "have had its effect. Look before you call again"
)


_READ_ONLY: Final = (
    "permission denied: the sandbox profile is `read-only`, so nothing is changed. Changes need "
    '`sandbox = "workspace"` under [permissions]'
)


@dataclass(eq=False)
class Running:
    """A call under way. `cancelled` is what it is told when its guard is not there yet; `slot`: a
    descriptor of loomd.tools.slots; `waiting`: for one, after a restart."""

    slot: int | None = None
    waiting: asyncio.Task[int] | None = None
    writer: asyncio.StreamWriter | None = None
    cancelled: bool = False
    stopped: asyncio.Event = field(default_factory=asyncio.Event)


class Calls:
    """All that are under way. `under_way`: effect id -> its call; `hand`: slots that were waited
    for, each for the next call that starts; `lines`: effect id -> a wait for one."""

    def __init__(
        self, stage: Stage, places: Places, generations: Generations, results: Results
    ) -> None:
        self.stage = stage
        self.places = places
        self.generations = generations
        self.results = results
        self.witness = Witness(places.repo, places.snapshots, places.blobs)
        self.slots = Slots(stage.directories.runtime / "slots", places.daemon_calls)
        self.ground = links.ground(stage.directories, str(places.repo))
        self.hand: list[int] = []
        self.lines: dict[str, asyncio.Task[int]] = {}
        self.under_way: dict[str, Running] = {}
        self.jobs = Jobs(stage, places, generations, results, self)
        self.surroundings = Surroundings(stage.spec.session, stage.reader)
        self._states: dict[str, dict[str, Any]] = {}
        self._state_locks: dict[str, asyncio.Lock] = {}
        self._rooms: set[int] = set()

    def begin(self, effect: OpenEffect) -> bool:
        """Known from now on: it may be cancelled before its task has run. False if the daemon has
        no slot for it; one that has begun before waits for its slot in `make`."""
        assert isinstance(effect.body, ToolCall)
        if background.aside(effect.body):
            self.under_way[effect.id] = Running()
            return True
        slot = self.hand.pop(0) if self.hand else self.slots.take_nowait()
        if slot is None and effect.attempt == 1:
            return False
        self.under_way[effect.id] = Running(slot)
        return True

    def cancel(self, id: str) -> None:
        if (line := self.lines.get(id)) is not None:
            line.cancel()
        running = self.under_way.get(id)
        if running is None:
            return
        running.cancelled = True
        if running.waiting is not None:
            running.waiting.cancel()
        running.stopped.set()
        if running.writer is not None:
            running.writer.write(frame({"cancel": True}))

    async def line_up(self, effect: OpenEffect, report: Report) -> None:
        """Waits for a slot and keeps it in hand, or (`give_back`) gives back what is there."""
        if isinstance(effect.body, Note) and effect.body.data:
            self.empty_hand()
            report(Note(data={}))
            return
        line = self.lines[effect.id] = asyncio.ensure_future(self.slots.take())
        try:
            self.hand.append(await _unless_cancelled(line))
        except _Cancelled:
            report(Note(data={}))
        else:
            report(Note(data={"slot": True}))
        finally:
            del self.lines[effect.id]

    def empty_hand(self) -> None:
        while self.hand:
            os.close(self.hand.pop())

    async def make(self, effect: OpenEffect, call: ToolCall, report: Report) -> None:
        running = self.under_way[effect.id]
        try:
            if running.slot is None and not background.aside(call):
                running.waiting = asyncio.ensure_future(self.slots.take())
                with contextlib.suppress(_Cancelled):  # said below, with the result
                    running.slot = await _unless_cancelled(running.waiting)
                running.waiting = None
            body, more = await self._witnessed(effect, call, running)
        finally:
            self.under_way.pop(effect.id, None)
            if running.slot is not None:
                os.close(running.slot)
        if isinstance(body, Note):  # it was not made
            report(body)
            return
        report(Note(data={"body": codec.encode(body), **more}))

    async def _witnessed(
        self, effect: OpenEffect, call: ToolCall, running: Running
    ) -> tuple[Body, dict[str, Any]]:
        """With what the call has changed in the checkout itself, for the journal."""
        row = (await self.generations.in_force()).rows.get(call.name)
        if row is None or background.aside(call) or not self.direct(row, needs(row, call.args)):
            return await self._perform(effect, call, running)
        try:
            await self.witness.begin(effect, call)
        except OSError as error:
            text = f"not done: what stands in the checkout could not be kept, for undo: {error}"
            return ToolResult(id=call.id, ok=False, error="failed", text=text), {}
        body, more = await self._perform(effect, call, running)
        changed, remark = await self.changed(effect, call)
        if remark and isinstance(body, ToolResult):
            body = msgspec.structs.replace(body, text=body.text + remark)
        return body, more | changed

    async def changed(self, effect: OpenEffect, call: ToolCall) -> tuple[dict[str, Any], str]:
        """({changed: a Changed, if anything has}, a remark) of a call that was witnessed."""
        try:
            changed = await self.witness.end(effect, call)
        except OSError as error:
            return {}, f"\n[its changes could not be journaled, for undo: {error}]"
        return {} if changed is None else {"changed": codec.encode(changed)}, ""

    def direct(self, row: Mapping[str, Any], need: Needs) -> bool:
        """May a call write the checkout itself? Where nothing confines it, also from a private
        copy. Of git: only what changes files."""
        if need.writes or need.access == "read":
            return need.writes == "checkout"
        if self.places.review and self.places.profile != "full":
            return False
        access = str(row["access"])
        return access == "execute" or (access == "write" and row["source"] != "builtin")

    async def _perform(
        self, effect: OpenEffect, call: ToolCall, running: Running
    ) -> tuple[Body, dict[str, Any]]:
        """What is told, and what else the behaviour must know. Note {links} if it was not made: it
        was judged by what its paths say, and links in them lead elsewhere."""
        if background.about(call):
            return await self.jobs.answer(call, running)
        if background.wanted(call):
            return await self.jobs.made(call, running), {}
        async with self.generations.using() as accepted:
            found = await asyncio.to_thread(links.found, call, self.ground)
            if found != call.links:
                return Note(data={"links": found}), {}
            body, state = await self._perform_on(accepted, effect, call, running)
        return body, {} if state is None else {"state": state}

    async def _perform_on(
        self, accepted: Generation, effect: OpenEffect, call: ToolCall, running: Running
    ) -> tuple[Body, dict[str, Any] | None]:
        """On the generation that was in force when the call began, whatever comes meanwhile."""
        row = accepted.rows.get(call.name)
        if row is None:
            text = f"there is no tool {call.name!r} any more"
            return ToolResult(id=call.id, ok=False, error="no_such_tool", text=text), None
        if effect.attempt > (STARTS if self._repeatable(row, needs(row, call.args)) else 1):
            return ToolResult(id=call.id, ok=False, error="interrupted", text=_INTERRUPTED), None
        if running.cancelled:
            return ToolResult(id=call.id, ok=False, error="cancelled", text="cancelled"), None
        if row["access"] == "write" and self.places.profile == "read-only":
            return ToolResult(id=call.id, ok=False, error="denied", text=_READ_ONLY), None
        async with contextlib.AsyncExitStack() as held:
            scratch = held.enter_context(self._room())
            need = needs(row, call.args)
            who = await asyncio.to_thread(author, self.places.repo) if need.writes else {}
            ending, limits = Ending(), self.places.limits
            order: dict[str, Any] = {}
            scratched = False
            given: dict[str, Any] = {}
            try:
                for _ in range(RUNS):
                    ending = Ending()
                    current = accepted if not accepted.gone else await self.generations.in_force()
                    order = self.order(call, row, need, scratch, current)
                    order["env"] |= who
                    limits, scratched, given = order["limits"], order["scratched"], order["kept"]
                    try:
                        await self._converse(current, order, call, running, ending, held)
                    except Gone:
                        continue
                    if not ending.born:
                        continue  # its generation died before it began: nothing has happened
                    if running.cancelled or not (_harmless(row) and killed(ending)):
                        break
                spooled = scratch if is_shell(row) else None
                body, state = await self.results.came_of(call, ending, limits, spooled)
            except LoomError as error:  # nothing here can confine it
                text = f"{error.message}. {error.hint}".strip(". ")
                return ToolResult(id=call.id, ok=False, error="failed", text=text), None
            finally:
                if scratched:
                    whole = ending.result is not None and not (ending.end or {}).get("reason")
                    await asyncio.to_thread(layer.leave_only if whole else remove, scratch)
            body = await self.told(body, order)
            if is_shell(row):
                return body, self._left(call, given, ending)
            if state is None:
                return body, None
            self._states[call.name] = state
            return body, {"tool": call.name, "value": state}

    def _left(self, call: ToolCall, given: dict[str, Any], ending: Ending) -> dict[str, Any] | None:
        """What a command leaves for the next one of its agent, to be stored."""
        left = (ending.result or {}).get("kept")
        try:
            return None if left is None else self.surroundings.left(call.agent, given, left)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None  # its process has not told what ours would

    @contextlib.contextmanager
    def _room(self) -> Iterator[Path]:
        """A folder for one call, the next one that is free: what builds have left there lies at the
        paths that they know. Short: whoever makes a Unix socket below it has 107 bytes."""
        number = next(n for n in itertools.count() if n not in self._rooms)
        self._rooms.add(number)
        try:
            yield self.places.scratch / f"w{number}"
        finally:
            self._rooms.discard(number)

    async def told(self, body: Body, order: Mapping[str, Any]) -> Body:
        """What came of a call, with what its surroundings say to it. A thread looks at the disk,
        where that must be looked at."""
        uncovered, scratched = order.get("uncovered"), order.get("scratched")
        taken = await asyncio.to_thread(self.take_away, order) if uncovered else []
        if not scratched:
            return body
        if isinstance(body, ToolResult) and body.ok:
            return self.explained(body, order, taken)
        return await asyncio.to_thread(self.explained, body, order, taken)

    def take_away(self, order: Mapping[str, Any]) -> list[str]:
        """What is there now and must not be: set aside."""
        aside = self.places.scratch / "taken"
        return ground.take_away(self.places.repo, order["uncovered"], aside)

    def explained(self, body: Body, order: Mapping[str, Any], taken: Sequence[str]) -> Body:
        """With what the sandbox was in the way of, if it was; and with what it does not keep from
        a call on this kernel."""
        folder = f"{order['scratch']}/checkout" if order["copy"] else order["repo"]
        listed = None if order["backend"] == "bubblewrap" else landlock.SYSTEM
        allowed = msgspec.convert(order["rules"], Rules)
        text = ""
        if isinstance(body, ToolResult) and not body.ok:
            text = explain(body.text, allowed, folder, ground.outside, listed)
        elif isinstance(body, Propose):
            text = explain(body.note, allowed, folder, ground.outside, listed)
        if taken:
            text += f"\n[taken away again: {', '.join(taken)}: what others run no command makes]"
        lacks = lacking(order["backend"], self.places.facts) if allowed.confined else ()
        if lacks and isinstance(body, ToolResult):
            told = {"backend": order["backend"], "not_covered": list(lacks)}
            body = msgspec.structs.replace(body, data={**body.data, "sandbox": told})
        if not text:
            return body
        if isinstance(body, ToolResult):
            return msgspec.structs.replace(body, text=f"{body.text}\n{text.strip()}")
        assert isinstance(body, Propose)
        return msgspec.structs.replace(body, note=f"{body.note}\n{text.strip()}")

    def _repeatable(self, row: Mapping[str, Any], need: Needs) -> bool:
        """May a call that was under way when the host died be made again? What only reads, what
        only computes a proposal, and a command in a private copy, if it cannot leave that."""
        if need.access == "read":
            return True
        if row["source"] != "builtin" or need.writes:
            return False
        if row["name"] in SAFE_TO_REPEAT:
            return True
        return row["access"] == "execute" and not self.direct(row, need)

    def order(
        self,
        call: ToolCall,
        row: Mapping[str, Any],
        need: Needs,
        scratch: Path,
        current: Generation,
    ) -> dict[str, Any]:
        """What the guard is told."""
        p = self.places
        access = need.access
        builtin = row["source"] == "builtin"
        changes = access == "execute" or (access == "write" and not builtin)
        copied = changes and p.review and not need.writes
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
        asked = Need(
            access,
            foreign=scratched,
            copied=copied,
            git=bool(need.writes),
            files=need.writes != "git",
        )
        allowed = rules(
            p.profile, asked, p.ground(scratch, current.hash, writes=changes and not copied)
        )
        if is_shell(row) and allowed.confined:
            folder = outputs.folder(p.scratch)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            allowed = replace(allowed, read=(*allowed.read, str(folder)))
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
            "kept": {**self.surroundings.of(call.agent), "cwd": call.cwd} if is_shell(row) else {},
            "rules": msgspec.to_builtins(allowed),
            "barred": p.barred(call.name),
            "uncovered": ground.uncovered(p.repo) if str(p.repo) in allowed.write else {},
            "backend": p.backend() if allowed.confined else "",
            "bwrap": p.facts.bwrap,
        }

    async def _converse(
        self,
        current: Generation,
        order: dict[str, Any],
        call: ToolCall,
        running: Running,
        ending: Ending,
        held: contextlib.AsyncExitStack,
    ) -> None:
        """From the order to the end of the call's guard. Gone: there is nobody to order."""
        tool = call.name
        raw = frame(order)
        mine = await self.generations.hand_over(current)
        reader, writer = await asyncio.open_connection(sock=mine)
        try:
            writer.write(raw)
            running.writer = writer
            if running.cancelled:
                writer.write(frame({"cancel": True}))
            frames = Frames()
            locked = False
            while ending.end is None:
                try:
                    data = await reader.read(1 << 20)
                except ConnectionError:  # reset, or broken while the order was written
                    data = b""
                if not data:
                    return
                for said in frames.feed(data):
                    if "lock" in said and not locked:
                        locked = True
                        lock = self._state_locks.setdefault(tool, asyncio.Lock())
                        # A cancelled call must not wait for another's lock: the guard goes on
                        # listening, so its end is read while we wait.
                        await self._lock(lock, reader, frames, ending, held)
                        if ending.end is None:
                            writer.write(frame({"state": self._state(tool)}))
                    elif "seen" in said:
                        known = self._seen(order["agent"], said["seen"])
                        writer.write(frame({"seen": known}))
                    elif "progress" in said:
                        self.publish(call, said)
                    elif "result" in said:
                        ending.result = said["result"]
                    elif "end" in said:
                        ending.end = said["end"]
                    elif "born" in said:
                        ending.born = True
        finally:
            running.writer = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def publish(self, call: ToolCall, said: Mapping[str, Any], job: str = "") -> None:
        """A piece of what a call says while it runs, to whoever looks on."""
        data = {
            "type": "delta",
            "agent": call.agent,
            "call": call.id,
            "tool": call.name,
            "kind": "output",
            "offset": said["offset"],
            "text": said["progress"],
        }
        if job:
            data["job"] = job
        self.stage.publish(topics.deltas(self.stage.spec.session), data)

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
            while True:
                await asyncio.wait({taking, reading}, return_when=asyncio.FIRST_COMPLETED)
                if taking.done() and not reading.done():
                    held.callback(lock.release)
                    reading.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await reading
                    return
                data = reading.result()
                for said in frames.feed(data):
                    ending.end = said.get("end", ending.end)
                if not data and ending.end is None:
                    ending.end = {**_GONE}
                if taking.done():
                    held.callback(lock.release)
                if ending.end is not None or taking.done():
                    return
                reading = asyncio.ensure_future(reader.read(1 << 20))  # it only said something
        finally:
            if not taking.done():
                taking.cancel()
            if not reading.done():
                reading.cancel()

    def _seen(self, agent: str, path: str) -> list[str] | None:
        key = text_key(self.stage.spec.session, seen.row_of(agent, path))
        return seen.known(self.stage.reader.row("tool_state", key))

    def _state(self, tool: str) -> dict[str, Any]:
        """As the last call left it; from the table at first."""
        if tool not in self._states:
            key = text_key(self.stage.spec.session, tool)
            row = self.stage.reader.row("tool_state", key)
            self._states[tool] = row if isinstance(row, dict) else {}
        return self._states[tool]


def is_shell(row: Mapping[str, Any]) -> bool:
    return (row["source"], row["name"]) == ("builtin", TOOL)


class _Cancelled(Exception):
    """A wait for a slot was called off."""


async def _unless_cancelled(line: asyncio.Task[int]) -> int:
    """The slot. _Cancelled if the wait was called off; if this task is, the wait is too."""
    try:
        return await line
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            line.cancel()
            raise
        raise _Cancelled from None


def _harmless(row: Mapping[str, Any]) -> bool:
    """Built in, and its process changes nothing, not even the state of its tool."""
    return row["source"] == "builtin" and (row["access"] == "read" or row["name"] in SAFE_TO_REPEAT)
