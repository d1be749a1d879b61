"""A tool host without a hub: behaviour and performer on one loop, commits kept in memory.

`Table` is what would be on disk; `Host` is one incarnation on it. The nursery is real.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loomd.actor.behaviour import (
    Birth,
    Cancel,
    Delete,
    EffectEnded,
    Emit,
    Init,
    Mailed,
    Open,
    OpenEffect,
    Put,
    Send,
    Show,
    Spec,
)
from loomd.store.blobs import get_blob
from loomd.tools import generation, nursery
from loomd.tools.host import ToolsBehaviour
from loomd.tools.process import ToolsPerformer
from loomd.wire import codec
from loomd.wire.bodies import Body, Changed, ToolCall, ToolResult
from loomd.wire.endpoints import Instance

BOUND_S = 60.0
NOBODY = 65534
SESSION = "s-test00"
AGENT = f"{SESSION}/coder-1"


@dataclass
class Table:
    """What is durable, as the hub would hold it. It is a Reader."""

    blobs: Path
    rows_: dict[tuple[str, bytes], Any] = field(default_factory=dict)
    effects: dict[str, tuple[Body, int]] = field(default_factory=dict)
    saved: Any = None
    step: int = 0

    def row(self, table: str, key: bytes) -> Any | None:
        return self.rows_.get((table, key))

    def rows(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        for (name, key), value in sorted(self.rows_.items(), key=lambda one: one[0]):
            if name == table and key.startswith(prefix):
                yield key, value

    def entries(self, log: str, first: int, last: int) -> Iterator[Any]:
        return iter(())

    def entry_bytes(self, log: str, n: int) -> bytes | None:
        return None

    def blob(self, name: str) -> bytes:
        return get_blob(self.blobs, name)


@dataclass
class FakeStage:
    reader: Any
    settings: dict[str, Any]
    spec: Spec
    directories: Instance
    keys_fd: int = -1
    published: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def publish(self, topic: str, data: dict[str, Any]) -> None:
        self.published.append((topic, data))


class Host:
    """One incarnation: steps, commits at once, effects after the commit."""

    def __init__(
        self, places: Instance, repo: Path, table: Table, settings: dict[str, Any], **args: Any
    ) -> None:
        self.table = table
        self.spec = Spec(
            name=f"{SESSION}/tools",
            kind="tools",
            session=SESSION,
            args={"repo": str(repo), "env": {"PATH": os.environ["PATH"]}, **args},
        )
        control, pid = nursery.fork(self.spec.name)
        self.nursery = pid
        self.performer = ToolsPerformer(control, pid)
        rows = [spec.row(source) for source, spec in generation.builtins()]
        self.behaviour = ToolsBehaviour(rows)
        self.stage = FakeStage(table, settings, self.spec, places)
        self.sent: list[tuple[str, Body]] = []
        self.events: list[Emit] = []
        self.shown = ""
        self.failed: list[Any] = []
        self.changed = asyncio.Event()
        self.mails = 0

    async def start(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, c: self._failed(c))
        left = [OpenEffect(id, body, n) for id, (body, n) in self.table.effects.items()]
        self.state = self.behaviour.init(
            Birth(
                spec=self.spec,
                saved=self.table.saved,
                effects=left,
                reader=self.table,
                settings=self.stage.settings,
            )
        )
        await self.performer.open(self.stage)
        if self.table.step == 0:
            self._step(Init())
        for effect in left:
            again = OpenEffect(effect.id, effect.body, effect.attempt + 1)
            self.table.effects[effect.id] = (effect.body, again.attempt)
            self._perform(again)

    def _failed(self, context: dict[str, Any]) -> None:
        self.failed.append(context)
        self.changed.set()

    def mail(self, body: Body, sender: str = AGENT) -> None:
        body = codec.body(codec.encode(body))
        self.mails += 1
        self._step(Mailed(self.table.step + 1, f"{sender}/{self.mails}.0", sender, body))

    def _step(self, input: Any) -> None:
        self.table.step += 1
        self.state, changes = self.behaviour.step(self.state, input, time.time())
        if isinstance(input, EffectEnded):
            del self.table.effects[input.effect]
        self.table.saved = codec.unpack(codec.encode(self.behaviour.save(self.state)))
        starts, cancels = [], []
        for change in changes:
            match change:
                case Put(table=table, key=key, value=value):
                    self.table.rows_[table, key] = codec.unpack(codec.pack(value))
                case Delete(table=table, key=key):
                    self.table.rows_.pop((table, key), None)
                case Open(id=id, body=body):
                    self.table.effects[id] = (codec.body(codec.encode(body)), 1)
                    starts.append(OpenEffect(id, self.table.effects[id][0], 1))
                case Cancel(id=id):
                    cancels.append(id)
                case Send(to=to, body=body):
                    assert isinstance(to, str)
                    self.sent.append((to, codec.body(codec.encode(body))))
                case Emit():
                    self.events.append(change)
                case Show():
                    self.shown = f"{change.state} {change.waiting_for}".strip()
        for effect in starts:
            self._perform(effect)
        for id in cancels:
            self.performer.cancel(id)
        self.changed.set()

    def _perform(self, effect: OpenEffect) -> None:
        def report(result: Body) -> None:
            self._step(EffectEnded(self.table.step + 1, effect.id, effect.body, result))

        self.performer.start(effect, report)

    async def until(self, predicate: Callable[[], Any]) -> Any:
        """Waits until it holds: looks after each commit, and now and then."""
        async with asyncio.timeout(BOUND_S):
            while not (found := predicate()):
                assert not self.failed, self.failed
                self.changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), 0.01)
        return found

    async def ready(self) -> None:
        await self.until(lambda: self.state.generation >= 1 and self.performer.generations.current)

    def answer(self, id: str) -> Any:
        """What came of the call: ToolResult or Propose; None while it is under way."""
        for _, body in self.sent:
            if isinstance(body, Changed):
                continue  # for the journal
            if getattr(body, "id", None) == id or getattr(body, "call", None) == id:
                return body
        return None

    async def call(self, name: str, **args: Any) -> Any:
        id = self.begin(name, **args)
        return await self.until(lambda: self.answer(id))

    async def result(self, name: str, **args: Any) -> ToolResult:
        found = await self.call(name, **args)
        assert isinstance(found, ToolResult), found
        return found

    @property
    def published(self) -> list[tuple[str, dict[str, Any]]]:
        return self.stage.published

    def said(self, text: str) -> dict[str, Any] | None:
        """The first piece of output with this text in it."""
        return next((data for _, data in self.published if text in data["text"]), None)

    def mail_as(self, id: str, name: str, **args: Any) -> None:
        """A call of another agent."""
        other = f"{SESSION}/other-1"
        self.mail(ToolCall(id=id, agent=other, name=name, args=args), other)

    def begin(self, name: str, **args: Any) -> str:
        id = f"c-{self.mails + 1}"
        self.mail(ToolCall(id=id, agent=AGENT, name=name, args=args))
        return id

    async def close(self) -> None:
        await self.performer.close()


def git_repo(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for args in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "base", "--allow-empty"],
    ):
        subprocess.run(["git", *args], cwd=folder, check=True)
    return folder


@contextmanager
def open_repo(files: dict[str, str], *, git: bool = True) -> Iterator[Path]:
    """A repo that other users can reach."""
    base = Path(tempfile.mkdtemp(prefix="loom-", dir="/tmp"))
    base.chmod(0o755)
    try:
        repo = git_repo(base / "repo", files)
        if not git:
            shutil.rmtree(repo / ".git")
        yield repo
    finally:
        for folder, names, _ in os.walk(base):
            for name in names:
                os.chmod(os.path.join(folder, name), 0o700)
        shutil.rmtree(base)


@contextmanager
def nobody() -> Iterator[None]:
    """As a user to whom the bits of a mode mean something: not root."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if me == 0:
            os.seteuid(0)


@asynccontextmanager
async def hosting(
    places: Instance,
    repo: Path,
    table: Table | None = None,
    settings: dict[str, Any] | None = None,
    **args: Any,
) -> AsyncIterator[Host]:
    table = Table(places.blobs) if table is None else table
    settings = {"permissions": {"mode": "on-request"}} if settings is None else settings
    host = Host(places, repo, table, settings, **{"yes": True, **args})
    await host.start()
    try:
        yield host
    finally:
        await host.close()
