"""The generations of a session's tool host: which one is in force, and how the next one gets there.

The nursery forms them on an order; one that passes is a candidate until the behaviour has recorded
it, then calls go to it and its predecessor retires with its last call. One that dies is formed
again, as recorded. A newer save takes the place of what is still being formed for an older one.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog

from loomd.actor.behaviour import OpenEffect, Report, Stage
from loomd.store.schema import name_key
from loomd.supervise import kernel
from loomd.tools import snapshots
from loomd.tools.host import FIRST
from loomd.tools.places import Places
from loomd.tools.snapshots import Kept
from loomd.wire.bodies import Note, Reloaded
from loomd.wire.errors import LoomError

GRACE_S: Final = 3.0
"""After the time of its modules has passed, until a generation that is still silent is killed."""

WATCH_S: Final = 0.1
"""How often the memory of one that imports is looked at."""

MAX_DEATHS: Final = 5

_DIED: Final = "the process that imported the tool files died"
_STUCK: Final = "importing does not end, and nothing interrupts it; it was killed"

log = structlog.get_logger()


@dataclass(eq=False)
class Generation:
    """One formed generation. calls: how many are under way on it; retired: it takes no new ones;
    gone: its process has ended."""

    kept: Kept
    pid: int
    sock: socket.socket
    rows: dict[str, dict[str, Any]]
    order: list[dict[str, Any]]
    loaded: list[str]
    without: list[str]
    calls: int = 0
    retired: bool = False
    gone: bool = False

    @property
    def hash(self) -> str:
        return self.kept.hash


class Broken(Exception):
    """A generation that cannot be: [{module, error}]."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__(str(errors))
        self.errors = errors


class Gone(Exception):
    """The generation that a call was meant for has ended."""


@dataclass(frozen=True)
class Outcome:
    """What the behaviour made of a candidate. errors: why it was refused."""

    generation: int
    errors: tuple[dict[str, str], ...] = ()


def _grown(pid: int) -> int:
    """Bytes that a generation holds beyond the nursery, which it was forked from; 0 if it is
    gone."""
    stat = kernel.stat_of(pid)
    return 0 if stat is None else kernel.memory_of(pid) - kernel.memory_of(stat.parent)


class Generations:
    """Of one host. `control`: the socket to the nursery. `failed`: told of what ends the host;
    `spawn`: runs a task whose error does so too."""

    def __init__(
        self,
        control: socket.socket,
        stage: Stage,
        places: Places,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.control = control
        self.stage = stage
        self.places = places
        self._spawn = spawn
        self._failed = failed
        self.current: Generation | None = None
        self.candidate: Generation | None = None
        self.recorded: tuple[str, list[str]] | None = None
        self.standing: Report | None = None
        self._retired: set[Generation] = set()  # with calls under way
        self._ready = asyncio.Event()  # there is a current generation
        self._decided: asyncio.Future[Outcome] | None = None
        self._askers: list[asyncio.Future[Reloaded]] = []
        self._asked = asyncio.Event()
        self._reloading = False
        self._sweeping = self._untidy = False
        self._orders: dict[int, asyncio.Future[tuple[int, socket.socket]]] = {}
        self._count = 0
        self._deaths: list[float] = []
        self.closing = False
        control.setblocking(False)
        self.loop.add_reader(control, self._from_nursery)

    def close(self) -> None:
        """Closing the control socket is the order: the nursery kills all below it and exits."""
        self.loop.remove_reader(self.control)
        self.control.close()
        for one in {self.current, self.candidate, *self._retired} - {None}:
            assert one is not None
            self._end(one)

    # --- calls ---------------------------------------------------------------------------------

    async def in_force(self) -> Generation:
        """The current generation; waits while there is none."""
        while self.current is None:
            await self._ready.wait()
        return self.current

    @asynccontextmanager
    async def using(self) -> AsyncIterator[Generation]:
        """The current generation, which stays until the call that began on it has ended."""
        one = await self.in_force()
        one.calls += 1
        try:
            yield one
        finally:
            one.calls -= 1
            if one.retired:
                self._retire(one)

    async def hand_over(self, one: Generation, *, lasting: bool = False) -> socket.socket:
        """Hands a call's socket to a generation; our end of it. lasting: a job's, which the
        generation does not wait for when it retires. Gone."""
        order = b'{"lasting": true}' if lasting else b"{}"
        while not one.gone:
            mine, theirs = socket.socketpair()
            mine.setblocking(False)
            try:
                socket.send_fds(one.sock, [order], [theirs.fileno()])
                return mine
            except BlockingIOError:
                mine.close()
                await asyncio.sleep(0.002)  # its queue is full of orders: it is forking
            except OSError:
                mine.close()
                self._said(one)  # it has just died
                await asyncio.sleep(0)
            finally:
                theirs.close()
        raise Gone

    # --- forming -------------------------------------------------------------------------------

    def _from_nursery(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self.control, 1 << 16, 1)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            self.loop.remove_reader(self.control)
            self._failed(RuntimeError("the nursery is gone"))
            return
        note = json.loads(data)
        future = self._orders.pop(note["formed"], None)
        sock = socket.socket(fileno=fds[0])
        if future is None or future.done():
            sock.close()  # nobody waits any more
            self._kill(note["pid"])
        else:
            future.set_result((note["pid"], sock))

    def _kill(self, pid: int) -> None:
        if not self.closing:
            self.control.send(json.dumps({"kill": pid}).encode())

    async def _form(self, kept: Kept, without: list[str]) -> Generation:
        """A generation of a snapshot, which is then its own. Broken."""
        self._count += 1
        order = {
            "form": self._count,
            "folder": str(self.places.generations / kept.hash) if kept.hash else "",
            "without": without,
            "import_s": self.places.limits["import_s"],
        }
        future: asyncio.Future[tuple[int, socket.socket]] = self.loop.create_future()
        self._orders[self._count] = future
        self.control.send(json.dumps(order).encode())
        pid, sock = await future
        sock.setblocking(False)
        try:
            said = await self._listen(sock, pid)
        except BaseException:
            sock.close()
            self._kill(pid)
            raise
        rows = said["ready"]
        by_name = {row["name"]: row for row in rows}
        return Generation(kept, pid, sock, by_name, rows, said["loaded"], without)

    async def _listen(self, sock: socket.socket, pid: int) -> dict[str, Any]:
        """What a new generation says once all is imported. Broken."""
        module = ""
        while True:
            data = await self._next(sock, pid, module)
            if not data:
                raise Broken([{"module": module, "error": _DIED}])
            said: dict[str, Any] = json.loads(data)
            if "broken" in said:
                raise Broken(said["broken"])
            if "ready" in said:
                return said
            module = said["begins"]

    async def _next(self, sock: socket.socket, pid: int, module: str) -> bytes:
        """The next message of a new generation, b"" at its end. Broken: its module takes too long
        or more memory than a call may."""
        limits = self.places.limits
        end = self.loop.time() + limits["import_s"] + GRACE_S
        receiving = self.loop.create_task(self.loop.sock_recv(sock, 1 << 18))
        try:
            while not (await asyncio.wait({receiving}, timeout=WATCH_S))[0]:
                if _grown(pid) > limits["memory_mb"] << 20:
                    text = f"importing takes more than {limits['memory_mb']} MB of memory"
                    raise Broken([{"module": module, "error": f"{text}; it was killed"}])
                if self.loop.time() >= end:
                    raise Broken([{"module": module, "error": _STUCK}])
            return receiving.result()
        except ConnectionResetError:
            return b""
        finally:
            if not receiving.done():
                receiving.cancel()
                await asyncio.wait({receiving})

    async def _form_anyhow(
        self, kept: Kept, without: list[str]
    ) -> tuple[Generation, list[dict[str, str]]]:
        """The best generation that can be had: modules that do not import are left out."""
        errors: list[dict[str, str]] = []
        for _ in range(4):
            try:
                return await self._form(kept, without), errors
            except Broken as broken:
                errors += broken.errors
                named = [one["module"] for one in broken.errors if one["module"]]
                if not named:
                    kept.close()
                    kept = snapshots.nothing()
                without = [*without, *named]
        kept.close()
        return await self._form(snapshots.nothing(), []), errors

    async def _form_recorded(self) -> Generation:
        """What was recorded counts, not what lies in the folders now."""
        assert self.recorded is not None
        hash, without = self.recorded
        try:
            kept = await asyncio.to_thread(snapshots.keep, hash, self.places.generations)
        except (LoomError, OSError) as error:
            log.error("generation lost", session=self.stage.spec.session, error=str(error))
            kept = snapshots.nothing()  # the folders are looked at next
        formed, errors = await self._form_anyhow(kept, without)
        if errors:
            log.error("generation incomplete", session=self.stage.spec.session, errors=errors)
        return formed

    async def _snapshot(self) -> tuple[Kept, list[dict[str, str]]]:
        places = self.places
        try:
            kept = await asyncio.to_thread(
                snapshots.take, places.tools, places.repo_tools(), places.generations
            )
        except LoomError as error:
            return snapshots.nothing(), [{"module": "", "error": error.message}]
        except OSError as error:
            said = f"the tool files cannot be read: {error}"
            return snapshots.nothing(), [{"module": "", "error": said}]
        return kept, []

    # --- the one in force ----------------------------------------------------------------------

    async def stand(self, effect: OpenEffect, report: Report) -> None:
        """A standing effect: it ends when the next generation is to be recorded, or is broken."""
        assert isinstance(effect.body, Note)
        data = effect.body.data
        if effect.id == FIRST:
            kept, errors = await self._snapshot()
            hash = kept.hash
            formed, broken = await self._form_anyhow(kept, [])
            self.candidate = formed
            report(_passed(formed, seen=hash, errors=errors + broken))
            return
        self.recorded = (data["hash"], list(data.get("without") or ()))
        self.standing = report
        formed_ = self.candidate
        self.candidate = None
        current, first = self.current, self.current is None
        if current is not None and self._is_recorded(current):
            if formed_ is not None:
                self._end(formed_)  # refused
        else:
            if formed_ is None or not self._is_recorded(formed_):
                if formed_ is not None:
                    self._end(formed_)
                formed_ = await self._form_recorded()
            self._put_in_force(formed_)
        if self._decided is not None and not self._decided.done():
            refused = tuple(data.get("refused") or ())
            self._decided.set_result(Outcome(data["generation"], refused))
        if first:  # what was saved while nobody looked
            self._spawn(self._catch_up())
        self._tidy()

    def _is_recorded(self, one: Generation) -> bool:
        return (one.hash, one.without) == self.recorded

    def _put_in_force(self, formed: Generation) -> None:
        old, self.current = self.current, formed
        if old is not None:
            self._retire(old)
        self.loop.add_reader(formed.sock, self._said, formed)
        self._ready.set()

    def _said(self, one: Generation) -> None:
        """It says nothing after `ready`; what comes is its end."""
        try:
            if one.sock.recv(4096):
                return
        except BlockingIOError:
            return
        except ConnectionResetError:
            pass
        current = one is self.current
        self._end(one)
        if current and not self.closing:
            self.current = None
            self._ready.clear()
            now = self.loop.time()
            self._deaths = [at for at in self._deaths if now - at < 10.0] + [now]
            if len(self._deaths) > MAX_DEATHS:
                raise RuntimeError("the generation of tools dies again and again")
            self._spawn(self._form_again())

    async def _form_again(self) -> None:
        formed = await self._form_recorded()
        if self.current is None and self._is_recorded(formed):
            self._put_in_force(formed)
        else:
            self._end(formed)  # a reload was faster

    def _retire(self, one: Generation) -> None:
        """It takes no new calls, and leaves after its last."""
        one.retired = True
        if one.calls and not one.gone:
            self._retired.add(one)
        else:
            self._end(one)

    def _end(self, one: Generation) -> None:
        """At the end of its socket its process takes no more orders and leaves."""
        if not one.gone:
            one.gone = one.retired = True
            self._retired.discard(one)
            self.loop.remove_reader(one.sock)
            one.sock.close()
            one.kept.close()
            self._tidy()

    def _tidy(self) -> None:
        """Removes snapshots that nobody refers to any more, in a while if that is being done."""
        self._untidy = True
        if not (self._sweeping or self.closing):
            self._sweeping = True
            self._spawn(self._sweep())

    async def _sweep(self) -> None:
        try:
            while self._untidy:
                self._untidy = False
                await asyncio.to_thread(snapshots.sweep, self.places.generations, self._in_use)
        except OSError as error:
            log.warning("generations not swept", error=str(error))
        finally:
            self._sweeping = False

    def _in_use(self) -> set[str]:
        """The snapshots that are some session's recorded generation."""
        return {row["hash"] for _, row in self.stage.reader.rows("toolsets", b"")}

    # --- reload --------------------------------------------------------------------------------

    async def reload(self) -> Reloaded:
        """Puts what lies in the folders now in force, or says why not."""
        asker: asyncio.Future[Reloaded] = self.loop.create_future()
        self._askers.append(asker)
        self._asked.set()
        if not self._reloading:
            self._reloading = True
            self._spawn(self._reloads())
        return await asker

    async def _catch_up(self) -> None:
        kept, errors = await self._snapshot()
        seen, current = self._row().get("seen"), self.current
        try:
            if errors or kept.hash == seen or (current is not None and kept.hash == current.hash):
                return  # nothing new, or known not to work
        finally:
            kept.close()
        await self.reload()

    async def _reloads(self) -> None:
        """One after the other, as long as somebody asks; each answers all whose question came
        before its snapshot."""
        try:
            while self._askers:
                await self._ready.wait()
                self._asked.clear()
                askers, self._askers = self._askers, []
                said = await self._reload()
                if said is None:
                    self._askers = askers + self._askers
                    continue
                for one in askers:
                    if not one.done():
                        one.set_result(said)
        finally:
            self._reloading = False

    async def _reload(self) -> Reloaded | None:
        """None: a newer save has come while this one was formed."""
        current, standing = self.current, self.standing
        number = int(self._row().get("generation", 0))
        if current is None or standing is None:
            said = {"module": "", "error": "the tool host is starting; try again"}
            return Reloaded(generation=number, errors=(said,))
        kept, errors = await self._snapshot()
        none = Reloaded(generation=number, loaded=tuple(current.loaded))
        if errors:
            return _with(none, errors)
        if kept.hash == current.hash and not current.without:
            kept.close()
            if self._row().get("errors"):  # the author has taken the fault back
                await self._decide(standing, Note(data={"hash": current.hash, "broken": []}))
            return none
        forming = self.loop.create_task(self._form(kept, []))
        if await self._superseded(kept.hash, forming):
            kept.close()
            return None
        try:
            formed = forming.result()
        except Broken as broken:
            kept.close()
            data = {"hash": kept.hash, "broken": broken.errors}
            await self._decide(standing, Note(data=data))
            return _with(none, broken.errors)
        changed = await asyncio.to_thread(self._changed, current, formed)
        self.candidate = formed
        outcome = await self._decide(standing, _passed(formed, seen=formed.hash, changed=changed))
        if outcome.errors:
            return _with(none, list(outcome.errors))
        return Reloaded(
            generation=outcome.generation, loaded=tuple(formed.loaded), changed=tuple(changed)
        )

    async def _decide(self, standing: Report, note: Note) -> Outcome:
        """Ends the standing effect; what the behaviour has recorded."""
        self.standing = None
        self._decided = self.loop.create_future()
        standing(note)
        return await self._decided

    async def _superseded(self, hash: str, forming: asyncio.Task[Generation]) -> bool:
        """Waits until a generation is formed; True if the files have changed before that: then it
        is not needed any more, and nobody waits for one that may hang."""
        asked = self.loop.create_task(self._asked.wait())
        try:
            while True:
                await asyncio.wait({forming, asked}, return_when=asyncio.FIRST_COMPLETED)
                if forming.done():
                    return False
                self._asked.clear()
                kept, errors = await self._snapshot()
                kept.close()
                if not errors and kept.hash != hash and not forming.done():
                    forming.cancel()
                    await asyncio.wait({forming})
                    if not forming.cancelled() and forming.exception() is None:
                        self._end(forming.result())
                    return True
                asked = self.loop.create_task(self._asked.wait())
        finally:
            asked.cancel()
            forming.cancel()

    def _row(self) -> dict[str, Any]:
        row = self.stage.reader.row("toolsets", name_key(self.stage.spec.session))
        return row if isinstance(row, dict) else {}

    def _changed(self, old: Generation, new: Generation) -> list[str]:
        """Files that differ between two snapshots."""
        one, other = (
            snapshots.manifest(self.places.generations / g.hash) if g.hash else {}
            for g in (old, new)
        )
        return sorted(
            name for name in one.keys() | other.keys() if one.get(name) != other.get(name)
        )


def _with(said: Reloaded, errors: list[dict[str, str]]) -> Reloaded:
    """The same answer with what is wrong."""
    return Reloaded(generation=said.generation, loaded=said.loaded, errors=tuple(errors))


def _passed(
    formed: Generation,
    *,
    seen: str,
    errors: list[dict[str, str]] | None = None,
    changed: list[str] | None = None,
) -> Note:
    """What the behaviour records. seen: the snapshot that was tried."""
    return Note(
        data={
            "hash": formed.hash,
            "seen": seen,
            "without": formed.without,
            "tools": formed.order,
            "errors": errors or [],
            "changed": changed or [],
        }
    )
