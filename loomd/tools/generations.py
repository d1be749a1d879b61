"""The generations of a session's tool host: which one is in force, and how the next one gets there.

The nursery forms them on an order; one that passes is a candidate until the behaviour has recorded
it, then calls go to it and its predecessor retires. One that dies is formed again, as recorded.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from loomd.actor.behaviour import OpenEffect, Report, Stage
from loomd.tools import generation
from loomd.tools.host import FIRST
from loomd.tools.places import Places
from loomd.wire.bodies import Note, Reloaded
from loomd.wire.errors import LoomError

FORM_S: Final = 20.0
"""How long importing the tool files may take."""

MAX_DEATHS: Final = 5

_DIED: Final = "the process that imported the tool files died"


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


class Generations:
    """Of one host. `control`: the socket to the nursery. `failed`: told of what ends the host;
    `spawn`: runs a task whose error does so too."""

    def __init__(
        self,
        control: socket.socket,
        stage: Stage,
        places: Places,
        spawn: Callable[[Awaitable[None]], object],
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
        self._ready = asyncio.Event()  # there is a current generation
        self._committed: asyncio.Future[int] | None = None
        self._reloading = asyncio.Lock()
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
        for one in (self.current, self.candidate):
            if one is not None:
                self._drop(one)

    async def in_force(self) -> Generation:
        """The current generation; waits while there is none."""
        while self.current is None:
            await self._ready.wait()
        return self.current

    async def hand_over(self) -> socket.socket:
        """Hands a call's socket to the current generation; our end of it."""
        while True:
            current = await self.in_force()
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
                self._said(current)  # it has just died
                await asyncio.sleep(0)
            finally:
                theirs.close()

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

    async def stand(self, effect: OpenEffect, report: Report) -> None:
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
                generation.snapshot, self.places.tools, self.places.generations
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
        self._drop(one)
        if current and not self.closing:
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

    async def reload(self) -> Reloaded:
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
            generation.manifest(self.places.generations / g.hash) if g.hash else {}
            for g in (old, new)
        )
        return sorted(
            name for name in one.keys() | other.keys() if one.get(name) != other.get(name)
        )


def _passed(formed: Generation) -> dict[str, Any]:
    return {"hash": formed.hash, "tools": formed.order}
