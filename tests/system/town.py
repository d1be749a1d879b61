"""A whole session without processes: every pure behaviour of the main job on one in-memory bus.

What the hub does with a commit is done here with plain dicts: mailboxes in two lanes, rows, logs,
timers. Who steps next is drawn from a seeded `Random`, so that every interleaving is possible and
each can be repeated; `crash` gives an actor a successor made from what it had saved. The gateway
and the tool host, whose work is in the world, are a few lines each.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from loomd.actor import behaviour as act
from loomd.agent.loop import AgentBehaviour
from loomd.agent.process import package_roles
from loomd.gateway import offline
from loomd.gateway.view import resolve
from loomd.keeper.process import KeeperBehaviour
from loomd.models.process import ModelsBehaviour
from loomd.store.schema import TABLES, text_key
from loomd.team.process import TeamBehaviour
from loomd.wire import bodies as b
from loomd.wire import codec

S = "s-town01"
SETTINGS: dict[str, Any] = {
    "models": {"default": "offline/rules", "fast": "offline/rules", "roles": {}, "fallback": {}},
    "providers": {},
    "budget": {"session_usd": None},
    "limits": {"iterations": 60, "wall_s": 1800, "repeats": 3, "view_tokens": 24_000},
    "review": {"required": True},
}
TOOLS = [
    "read",
    "list",
    "glob",
    "grep",
    "edit",
    "shell",
    "spawn",
    "send",
    "ask",
    "share",
    "claim",
    "decide",
    "recall",
    "review",
]
KINDS: dict[str, Any] = {
    "agent": AgentBehaviour(package_roles()),
    "keeper": KeeperBehaviour(),
    "team": TeamBehaviour(),
    "models": ModelsBehaviour(),
}


@dataclass
class Actor:
    spec: act.Spec
    state: Any = None
    saved: Any = None
    step: int = 0
    restarts: int = 0
    lanes: tuple[deque[Any], deque[Any]] = field(default_factory=lambda: (deque(), deque()))
    timers: dict[str, tuple[float, Any]] = field(default_factory=dict)
    ended: bool = False


class Town:
    """`run(goal)` plays until nobody has mail; then `row`, `events`, `files` tell what came."""

    def __init__(
        self,
        files: dict[str, str],
        seed: int = 0,
        crash: float = 0.0,
        team: int = 5,
        view: int = 24_000,
    ) -> None:
        self.files = dict(files)
        limits = {**SETTINGS["limits"], "view_tokens": view}
        self.settings = {**SETTINGS, "limits": limits}
        self.random = Random(seed)
        self.crash = crash
        self.tables: dict[str, dict[bytes, bytes]] = {name: {} for name in TABLES}
        self.logs: dict[str, dict[int, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.actors: dict[str, Actor] = {}
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.row: dict[str, Any] = {}
        self.now = 1_000.0
        self.mails = 0
        self.performed: list[str] = []
        self.world: dict[str, deque[tuple[str, b.Body]]] = {
            "gateway-1": deque(),
            f"{S}/tools": deque(),
        }
        toolset = {"generation": 1, "tools": [{"name": name} for name in TOOLS]}
        self._put("toolsets", text_key(S, "current"), toolset)
        self.start(act.Spec(name="models", kind="models"))
        args = {"repo": "/repo", "model": "", "team": team, "yes": True}
        self.start(act.Spec(name=f"{S}/team", kind="team", session=S, args=args))

    # --- the reader of every actor ---

    def _put(self, table: str, key: bytes, value: Any) -> None:
        self.tables[table][key] = codec.encode(value)

    def row_of(self, table: str, key: bytes) -> Any | None:
        raw = self.tables[table].get(key)
        return None if raw is None else codec.unpack(raw)

    def rows(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        for key in sorted(self.tables[table]):
            if key.startswith(prefix):
                yield key, codec.unpack(self.tables[table][key])

    def entries(self, log: str, first: int, last: int) -> Iterator[tuple[int, b.Entry]]:
        for n in range(first, last + 1):
            if n in self.logs.get(log, {}):
                yield n, codec.entry(self.logs[log][n])

    def entry_bytes(self, log: str, n: int) -> bytes | None:
        return self.logs.get(log, {}).get(n)

    def blob(self, name: str) -> bytes:
        return self.blobs[name]

    # --- actors ---

    def start(self, spec: act.Spec) -> None:
        known = self.actors.get(spec.name)
        if known is not None and not known.ended:
            known.spec = spec
            return
        actor = self.actors[spec.name] = Actor(spec)
        self._birth(actor)
        self._step(actor, act.Init())

    def _birth(self, actor: Actor) -> None:
        reader = _Reader(self)
        actor.state = KINDS[actor.spec.kind].init(
            act.Birth(
                spec=actor.spec,
                saved=actor.saved,
                effects=(),
                reader=reader,
                settings=self.settings,
                restarts=actor.restarts,
            )
        )

    def send(self, to: str, sender: str, body: b.Body, lane: int = 1) -> None:
        body = codec.body(codec.encode(body))
        if to in self.world:
            self.world[to].append((sender, body))
        elif to in self.actors and not self.actors[to].ended:
            self.mails += 1
            self.actors[to].lanes[lane].append((f"m.{self.mails}", sender, body))
        elif not isinstance(body, b.Undelivered):
            raw = codec.encode(body)
            lost = b.Undelivered(id="m", to=to, reason="no_such_actor", body=raw)
            if sender in self.actors:
                self.send(sender, "hub", lost)

    def _step(self, actor: Actor, input: act.Input) -> None:
        behaviour: Any = KINDS[actor.spec.kind]
        self.now += 0.001
        actor.step += 1
        actor.state, changes = behaviour.step(actor.state, input, self.now)
        raw = codec.encode(behaviour.save(actor.state))
        assert len(raw) <= codec.BLOB_LIMIT
        actor.saved = codec.unpack(raw)
        name = actor.spec.name
        for change in changes:
            match change:
                case act.Send():
                    for to in (change.to,) if isinstance(change.to, str) else change.to:
                        self.send(to, name, change.body, change.lane)
                case act.Put():
                    assert actor.spec.kind in TABLES[change.table]
                    self._put(change.table, change.key, change.value)
                case act.Delete():
                    self.tables[change.table].pop(change.key, None)
                case act.Append():
                    log = self.logs.setdefault(name, {})
                    assert change.n == len(log) + 1
                    log[change.n] = codec.encode(change.entry)
                case act.SetTimer():
                    actor.timers[change.key] = (change.due, change.body)
                case act.CancelTimer():
                    actor.timers.pop(change.key, None)
                case act.Emit():
                    self.events.append((name, change.type, change.data))
                case act.Session():
                    new = {"state": change.state, "kind": change.kind, "answer": change.answer}
                    self.row.update({k: v for k, v in new.items() if v is not None}, **change.data)
                case act.Start():
                    self.start(change.spec)
                case act.Stop():
                    if change.name in self.actors:
                        self.actors[change.name].ended = True
                case act.Show() | act.Say():
                    pass
                case _:
                    raise AssertionError(f"not in this town: {change}")

    # --- the loop ---

    def run(self, goal: str, steps: int = 20_000) -> dict[str, Any]:
        self.send(f"{S}/team", "hub", b.Say(text=goal, sender="user"))
        return self.settle(steps)

    def settle(self, steps: int = 20_000) -> dict[str, Any]:
        """Plays until nothing is left to do; the session's row."""
        for _ in range(steps):
            if not self.turn():
                return self.row
        raise AssertionError(f"no end: {self.row} {self.events[-5:]}")

    def turn(self, timers: bool = True) -> bool:
        """One step of one actor; timers only when nobody has mail. False: nothing left to do."""
        ready: list[str] = [
            name for name, one in self.actors.items() if not one.ended and any(one.lanes)
        ]
        ready += [name for name, queue in self.world.items() if queue]
        if not ready:
            return timers and self._timer()
        name = self.random.choice(sorted(ready))
        if name in self.world:
            sender, body = self.world[name].popleft()
            (self._gateway if name == "gateway-1" else self._tools)(sender, body)
            return True
        actor = self.actors[name]
        if self.random.random() < self.crash:
            actor.restarts += 1
            self._birth(actor)
        lane = 0 if actor.lanes[0] else 1
        id, sender, body = actor.lanes[lane].popleft()
        self._step(actor, act.Mailed(actor.step + 1, id, sender, body, id, lane))
        return True

    def _timer(self) -> bool:
        """The next timer, as long as the session is at work."""
        due = [
            (when, name, key)
            for name, actor in self.actors.items()
            if not actor.ended
            for key, (when, _) in actor.timers.items()
        ]
        if not due or self.row.get("state") in ("done", "failed", "stopped"):
            return False
        when, name, key = min(due)
        self.now = max(self.now, when)
        actor = self.actors[name]
        _, body = actor.timers.pop(key)
        self._step(actor, act.TimerDue(actor.step + 1, key, when, body))
        return True

    # --- the world ---

    def _gateway(self, sender: str, body: b.Body) -> None:
        if not isinstance(body, b.Perform):
            return
        request = body.request
        self.performed.append(request.id)
        resolved = resolve(_Reader(self), request, body.model)
        outcome = offline.complete(resolved)
        usage = b.Usage(input_tokens=1, calls=1)
        done = b.Performed(
            request=request.id,
            agent=request.agent,
            model=body.model,
            attempt=body.attempt,
            outcome=outcome,
            usage=usage,
        )
        if not isinstance(outcome, b.Failed):
            said = b.ModelOutcome(
                request=request.id, outcome=outcome, usage=usage, model=body.model
            )
            self.send(request.agent, "gateway-1", said)
        self.send("models", "gateway-1", done)

    def _tools(self, sender: str, body: b.Body) -> None:
        me = f"{S}/tools"
        match body:
            case b.ToolCall(name="edit"):
                self._edit(body)
            case b.ToolCall():
                ok, text = getattr(self, f"_tool_{body.name}")(**body.args)
                self.send(body.reply_to or sender, me, b.ToolResult(id=body.id, ok=ok, text=text))
            case b.Apply():
                state, detail = self._apply(body)
                self.send(sender, me, b.Applied(edit=body.edit, state=state, detail=detail))
            case _:
                pass

    def _store(self, text: str) -> str:
        name = hashlib.sha256(text.encode()).hexdigest()
        self.blobs[name] = text.encode()
        return name

    def _edit(self, call: b.ToolCall) -> None:
        path, old, new = call.args["path"], call.args["old"], call.args["new"]
        base = self.files.get(path, "")
        if base.count(old) != 1:
            text = f"{path} has {base.count(old)} places of `old`; it must be one"
            result = b.ToolResult(id=call.id, ok=False, error="conflict", text=text)
            self.send(call.agent, f"{S}/tools", result)
            return
        after = base.replace(old, new)
        a, c = base.splitlines(keepends=True), after.splitlines(keepends=True)
        hunks = tuple(
            b.Hunk(start=i1 + 1, old=tuple(a[i1:i2]), new=tuple(c[j1:j2]))
            for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, c).get_opcodes()
            if tag != "equal"
        )
        change = b.FileChange(
            path=path,
            base=self._store(base),
            after=self._store(after),
            hunks=hunks,
            diff="".join(difflib.unified_diff(a, c, f"a/{path}", f"b/{path}")),
        )
        proposal = b.Propose(
            call=call.id,
            agent=call.agent,
            tool="edit",
            reason=str(call.args.get("reason") or "edit"),
            files=(change,),
            task=call.task,
        )
        self.send(f"{S}/team", f"{S}/tools", proposal)

    def _apply(self, order: b.Apply) -> tuple[Any, str]:
        for change in order.files:
            if self._store(self.files.get(change.path, "")) not in (change.base, change.after):
                return "conflict", f"{change.path} has changed"
        for change in order.files:
            self.files[change.path] = self.blobs[change.after].decode()
        return "applied", ""

    def _tool_read(self, path: str, offset: int = 1, limit: int = 2_000) -> tuple[bool, str]:
        if path not in self.files:
            return False, f"{path}: no such file"
        lines = self.files[path].splitlines(keepends=True)
        return True, "".join(lines[offset - 1 : offset - 1 + limit])

    def _tool_grep(self, pattern: str, path: str = ".") -> tuple[bool, str]:
        hits = [
            f"{name}:{n}: {line}"
            for name, text in sorted(self.files.items())
            for n, line in enumerate(text.splitlines(), 1)
            if re.search(pattern, line)
        ]
        return True, "\n".join(hits) or "no matches"

    def _tool_glob(self, pattern: str) -> tuple[bool, str]:
        end = pattern.rpartition("*")[2]
        return True, "\n".join(sorted(path for path in self.files if path.endswith(end)))

    def _tool_list(self, path: str = ".") -> tuple[bool, str]:
        return True, "\n".join(sorted(self.files))

    def _tool_shell(self, command: str, **more: Any) -> tuple[bool, str]:
        return True, "3 passed in 0.01s"

    # --- what came of it ---

    def board(self, table: str) -> list[dict[str, Any]]:
        return [value for _, value in self.rows(table, b"")]

    def of(self, type: str) -> list[dict[str, Any]]:
        return [data for _, kind, data in self.events if kind == type]

    def told(self, log: str) -> list[b.Entry]:
        return [codec.entry(raw) for _, raw in sorted(self.logs.get(log, {}).items())]


class _Reader:
    """The town's tables under the names of `Reader`."""

    def __init__(self, town: Town) -> None:
        self.row = town.row_of
        self.rows = town.rows
        self.entries = town.entries
        self.entry_bytes = town.entry_bytes
        self.blob = town.blob
