"""The behaviour of the actor `S/tools`. Pure.

    ToolCall -> permission -> (question -> Decision) -> effect `call-ID` -> ToolResult to the agent,
                                                        or Propose to the team
    a command in the background -> effect `job-ID` too, for as long as it runs
    Apply    -> effect `apply-EDIT`, one at a time -> Applied to the team
    PlanUndo -> effect `undo-ID`, which only reads the checkout -> UndoPlan to the team
    a standing effect `generation-N` ends with generation N + 1 and is opened anew for it; or it
    ends with what is broken, or with what cannot be while a call waits, and N stays

A call that waits (for a person, for the first generation) and an order to apply that waits for its
predecessor stand in table `calls`, so that the state stays small and nothing is forgotten.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from loomd.actor.behaviour import (
    Birth,
    Cancel,
    Change,
    Delete,
    EffectEnded,
    Emit,
    Init,
    Input,
    Mailed,
    Open,
    Put,
    Reader,
    Send,
    Show,
    TimerDue,
)
from loomd.store.schema import name_key, project_of, text_key
from loomd.tools import background, queue, seen, surroundings
from loomd.tools.compatible import clash, wrong
from loomd.tools.desk import Book, Desk, book, brief, question_of
from loomd.tools.needs import needs
from loomd.tools.permissions import Decided
from loomd.tools.protected import NOWHERE, Ground
from loomd.wire import codec
from loomd.wire.bodies import (
    TEAM_TOOLS,
    Applied,
    Apply,
    Body,
    CallEnded,
    CancelCall,
    Configured,
    Decision,
    Discard,
    FileChange,
    Note,
    Permits,
    PlanUndo,
    Propose,
    Reload,
    ToolCall,
    ToolResult,
    Undelivered,
    UndoPlan,
)
from loomd.wire.errors import LoomError

ACCEPTED: Final = frozenset({"asking", "lined"})
"""Stages of a call that has been checked against its tool's schema and waits."""

FIRST: Final = "generation-0"
"""The effect that forms the first generation, from a fresh snapshot."""

SLOT: Final = "slot-"
"""Effects that wait for a slot of the daemon: they end with one in the performer's hand."""

SWITCHED: Final = frozenset({"web_fetch"})
"""Built-in tools that are off until the configuration's table `tools` switches them on."""


@dataclass
class Waiting:
    """A row of table `calls`. n: the order in which they came.

    stage: asking (a person) | early (the first generation) | lined (a call: its turn, or room) |
    queued (an order to apply: its predecessor)
    """

    n: int
    stage: str
    body: ToolCall | Apply
    question: str = ""


@dataclass
class State:
    """args, settings: of its spec, and those in force; folders: agent -> where its last command
    has left it; waiting: key in table `calls` -> what waits; open: call id -> tool name; running:
    the same calls as `queue` sees them; applying: the edit that is being applied, "" for none;
    slot: the effect that waits for a slot of the daemon, "" for none; room: how many calls run at
    once; read: what agents have read (loomd.tools.seen); off: tools that the configuration has not
    switched on; offered, broken: the tools and the errors of the row in `toolsets`; aside: call id
    -> agent, of calls under way that have no process of their own; jobs: rows of those that run,
    or whose proposal nobody has asked for."""

    name: str
    session: str
    book: Book
    args: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    generation: int = 0
    hash: str = ""
    seen: str = ""  # the snapshot that was last tried, whatever came of it
    without: list[str] = field(default_factory=list)  # modules that the one in force leaves out
    tries: int = 0  # how often one was refused: names of effects are never used again
    held: bool = False  # a generation was refused for a call that waits
    count: int = 0
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    begun: int = 0  # jobs so far
    most_jobs: int = background.MAX_JOBS
    open: dict[str, str] = field(default_factory=dict)
    running: dict[str, queue.Running] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    applying: str = ""
    slot: str = ""
    room: int = queue.SESSION_CALLS
    read: dict[str, dict[str, Any]] = field(default_factory=dict)
    off: frozenset[str] = frozenset()
    offered: list[str] = field(default_factory=list)
    broken: list[dict[str, str]] = field(default_factory=list)

    @property
    def team(self) -> str:
        return f"{self.session}/team"


class ToolsBehaviour:
    """`builtin`: the toolset rows of the tools that ship, in force until the first generation;
    `ground`: where things are on this machine, for judging paths."""

    version = 1

    def __init__(self, builtin: Sequence[Mapping[str, Any]], ground: Ground = NOWHERE) -> None:
        self.builtin = [dict(row) for row in builtin]
        self.ground = ground

    def init(self, birth: Birth) -> State:
        args, settings = birth.spec.args, birth.settings
        limits = {**(settings.get("limits") or {}), **(args.get("limits") or {})}
        session = birth.spec.session or birth.spec.name.partition("/")[0]
        state = State(
            name=birth.spec.name,
            session=session,
            book=book(args, settings, (birth.saved or {}).get("granted") or (), self.ground),
            args=args,
            settings=settings,
            room=int(limits.get("session_calls") or queue.SESSION_CALLS),
        )
        project = name_key(project_of(str(args.get("repo") or "")))
        for key, value in birth.reader.rows("permits", project):
            state.book.saved[key[len(project) :].decode()] = value["rule"]
        if birth.saved is not None:
            state.generation = birth.saved["generation"]
            state.hash = birth.saved["hash"]
            state.seen = birth.saved.get("seen", "")
            state.without = list(birth.saved.get("without") or ())
            state.tries = birth.saved.get("tries", 0)
            state.held = birth.saved.get("held", False)
            state.begun = birth.saved.get("begun", 0)
            state.count = birth.saved["count"]
        row = birth.reader.row("toolsets", name_key(session))
        tools = row["tools"] if isinstance(row, dict) else self.builtin
        state.tools = {tool["name"]: tool for tool in tools}
        if isinstance(row, dict):
            state.offered, state.broken = list(state.tools), list(row.get("errors") or ())
        switched = {name for name, on in (settings.get("tools") or {}).items() if on is True}
        state.off = SWITCHED - switched
        for tool in self.builtin:  # it may have been off when the row was written
            if tool["name"] in SWITCHED:
                state.tools.setdefault(tool["name"], tool)
        for key, value in birth.reader.rows("calls", name_key(session)):
            body = codec.body(value["body"])
            if isinstance(body, ToolCall | Apply):
                id = key[len(name_key(session)) :].decode()
                state.waiting[id] = Waiting(value["n"], value["stage"], body, value["question"])
        for key, value in birth.reader.rows("tool_state", text_key(session, surroundings.PREFIX)):
            agent = key[len(name_key(session)) + len(surroundings.PREFIX) :].decode()
            state.folders[agent] = str(value.get("cwd") or "")
        for key, value in birth.reader.rows("tool_state", text_key(session, seen.PREFIX)):
            state.read[key[len(name_key(session)) :].decode()] = value
        limits = {**(settings.get("limits") or {}), **(args.get("limits") or {})}
        state.most_jobs = int(limits.get("jobs") or background.MAX_JOBS)
        for _, row in birth.reader.rows("jobs", name_key(session)):
            if row["state"] == "running" or row["proposal"]:
                state.jobs[row["id"]] = row
        for effect in birth.effects:
            if effect.id.startswith(background.EFFECT):
                continue
            if isinstance(effect.body, ToolCall):
                call = effect.body
                state.open[call.id] = call.name
                if background.aside(call):
                    state.aside[call.id] = call.agent
                else:
                    state.running[call.id] = queue.Running(call.agent, call.name)
            elif effect.id.startswith(SLOT):
                state.slot = effect.id
            elif isinstance(effect.body, Apply):
                state.applying = effect.body.edit
        return state

    def save(self, state: State) -> dict[str, Any]:
        return {
            "generation": state.generation,
            "hash": state.hash,
            "seen": state.seen,
            "without": state.without,
            "tries": state.tries,
            "held": state.held,
            "granted": state.book.granted,
            "begun": state.begun,
            "count": state.count,
        }

    def upgrade(self, saved: Any, version: int) -> Any:
        raise LoomError("bad_state", f"the tool host has no state of version {version}")

    def answer(self, state: State, question: Body, reader: Reader) -> Body:
        match question:
            case Note():
                return Note(
                    data={
                        "generation": state.generation,
                        "hash": state.hash,
                        "tools": list(state.tools.values()),
                        "open": state.open,
                        "waiting": {id: one.stage for id, one in state.waiting.items()},
                        "applying": state.applying,
                        "permissions": state.book.shown(),
                        "jobs": [background.told(row) for row in state.jobs.values()],
                    }
                )
            case _:
                raise LoomError("bad_request", f"a tool host is not asked {type(question)}")

    def step(self, state: State, input: Input, now: float) -> tuple[State, list[Change]]:
        step = _Step(state, self.builtin, now)
        match input:
            case Init():
                step.born()
            case Mailed():
                step.mailed(input.body, input.sender)
            case EffectEnded() if input.effect.startswith(background.EFFECT):
                step.job_ended(input.request, input.result)
            case EffectEnded():
                step.ended(input.effect, input.request, input.result)
            case TimerDue():
                step.due(input.key)
        step.offer()
        step.end()
        return state, step.out


class _Step:
    """One step: the state it owns, and what is to change."""

    def __init__(self, state: State, builtin: list[dict[str, Any]], now: float) -> None:
        self.s = state
        self.builtin = builtin
        self.now = now
        self.out: list[Change] = []
        self.decided = False  # a call waits no more
        self.desk = Desk(state.book, state.session, state.name, state.tools, now, self.out)
        self.fresh: set[str] = set()  # calls that have come into the line in this step

    def born(self) -> None:
        self.out.append(Put("toolsets", name_key(self.s.session), self._toolset(self.builtin, [])))
        self.out.append(Open(FIRST, Note(data={"generation": 0, "hash": ""})))

    def mailed(self, body: Body, sender: str) -> None:
        match body:
            case ToolCall():
                reply_to = body.reply_to or sender
                self._call(msgspec.structs.replace(body, reply_to=reply_to))
            case CallEnded():
                self._succeeds(body.id)
            case CancelCall():
                self._cancel(body)
            case Decision():
                self._decided(body)
            case Configured() if sender == "hub":
                self.s.settings = {**self.s.settings, **body.settings}
                self.s.book.configure(self.s.args, self.s.settings)
                self._reconsider()
            case Permits():
                self.desk.told(body.rules)
                self._reconsider()
            case Apply():
                self._apply(body)
            case Discard():
                self._forget(f"apply-{body.edit}")
            case PlanUndo():
                self.out.append(Open(f"undo-{body.undo}", body))
            case Undelivered(reason="poison"):
                self._set_aside(body)
            case _:
                pass  # not for us, and nobody waits for an answer to it

    def _set_aside(self, lost: Undelivered) -> None:
        """A call that ended this host again and again is not made: whoever waits must hear it."""
        if lost.to != self.s.name or not lost.body:
            return
        text = "not done: it ended the tool host again and again"
        match codec.body(lost.body):
            case ToolCall() as call if call.id in self.s.jobs:
                self.job_ended(call, Note(data=background.lost_note(call.id)))
            case ToolCall() as call:
                self.s.open.pop(call.id, None)
                self.s.running.pop(call.id, None)
                self.s.aside.pop(call.id, None)
                self._refuse(call, "crashed", text)
            case Apply() as order:
                ended = Applied(edit=order.edit, state="failed", detail=text)
                if self.s.applying in ("", order.edit):
                    self._applied(order, ended)
                else:
                    self.out.append(Send(self.s.team, ended))
            case PlanUndo() as order:
                self._planned(order, UndoPlan(undo=order.undo, error="failed", detail=text))
            case _:
                pass

    def ended(self, effect: str, request: Body, result: Body) -> None:
        if effect.startswith(SLOT):
            self._granted(effect, result)
            return
        match request:
            case ToolCall():
                self._returned(request, result)
            case Apply():
                self._applied(request, result)
            case PlanUndo():
                self._planned(request, result)
            case Reload():
                pass  # it has ended the standing effect, or there was nothing new
            case _:
                self._formed(result)

    def end(self) -> None:
        """After every input."""
        self._fill()
        self._try_again()
        self._show()

    def _show(self) -> None:
        asking = [one.question for one in self.s.waiting.values() if one.stage == "asking"]
        if asking:
            self.out.append(Show("waiting", f"permission {asking[0]}"))
        elif self.s.open or self.s.applying:
            self.out.append(Show("acting", self._line()))
        elif line := self._line():
            self.out.append(Show("waiting", line))
        else:
            self.out.append(Show("idle"))

    def offer(self) -> None:
        """The configuration may have changed since the row was written."""
        s = self.s
        wanted = [name for name in s.tools if name not in s.off]
        if s.offered and sorted(wanted) != sorted(s.offered):
            row = self._toolset(list(s.tools.values()), s.broken)
            self.out.append(Put("toolsets", name_key(s.session), row))

    # --- calls ---------------------------------------------------------------------------------

    def _call(self, call: ToolCall) -> None:
        s = self.s
        if call.name in TEAM_TOOLS:
            self._refuse(
                call,
                "no_such_tool",
                f"`{call.name}` is answered by the team ({s.team}), not by the tool host",
            )
            return
        tool = s.tools.get(call.name)
        if tool is None or tool["source"] == "team":
            if s.generation == 0:
                self._wait(f"call-{call.id}", "early", call)
            else:
                self._refuse(call, "no_such_tool", self._unknown(call.name))
            return
        if call.name in s.off:
            text = f"{call.name} is off; whoever runs loomd may set tools.{call.name} = true"
            self._refuse(call, "denied", f"{text} in config.toml")
            return
        if said := wrong(tool["parameters"], call.args):
            self._refuse(call, "bad_args", f"{call.name}: {said}")
            return
        need = needs(tool, call.args)
        if need.refused:
            self._refuse(call, "bad_args", f"{call.name}: {need.refused}")
            return
        self._judge(call)

    def _judge(self, call: ToolCall) -> None:
        if call.name == surroundings.TOOL:
            folder = self.s.folders.get(call.agent, "")
            call = msgspec.structs.replace(call, cwd=folder)
        found = self.desk.judge(call)
        match found.verdict:
            case "allow":
                self._open(call)
            case "deny":
                self._refuse(call, "denied", f"permission denied: {found.reason}")
            case "ask":
                self._ask(call, found)

    def _deny(self, call: ToolCall, reason: str) -> None:
        """What was allowed and is not made all the same."""
        self.desk.denied(call.id, call.agent, call.name, brief(call), reason)
        self._refuse(call, "denied", f"permission denied: {reason}")

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.s.tools, 3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        return f"there is no tool {name!r}{hint}"

    def _open(self, call: ToolCall) -> None:
        """What is allowed: it starts in this step, or as soon as `queue` lets it."""
        if not background.aside(call):
            self._wait(f"call-{call.id}", "lined", call)
        elif not background.wanted(call) or self._begin_job(call):
            self.s.open[call.id] = call.name
            self.s.aside[call.id] = call.agent
            self.out.append(Open(f"call-{call.id}", call))

    def _refuse(self, call: ToolCall, error: str, text: str) -> None:
        self._answer(call, ToolResult(id=call.id, ok=False, error=error, text=text))

    def _answer(self, call: ToolCall, result: ToolResult) -> None:
        self.out.append(Send(call.reply_to, result))

    def _returned(self, call: ToolCall, result: Body) -> None:
        """The end of a call's effect: Note {body, state: {tool, value} | absent}; Note {links} if
        it was not made, for links in its paths lead elsewhere than it was judged by."""
        s = self.s
        s.open.pop(call.id, None)
        s.aside.pop(call.id, None)
        was = s.running.pop(call.id, None)
        body: Body = result
        if isinstance(result, Note) and result.data.get("crowded"):
            self._back_in_line(call, was.n if was is not None else 0)
            return
        if isinstance(result, Note) and "links" in result.data:
            if call.links:
                self._deny(call, "its links change meanwhile")
            else:
                self._judge(msgspec.structs.replace(call, links=result.data["links"]))
            return
        if isinstance(result, Note):
            body = codec.body(result.data["body"])
            if changed := result.data.get("changed"):
                self.out.append(Send(s.team, codec.body(changed)))
            if kept := result.data.get("state"):
                key = text_key(s.session, kept["tool"])
                self.out.append(Put("tool_state", key, kept["value"]))
                if kept["tool"] == f"{surroundings.PREFIX}{call.agent}":
                    s.folders[call.agent] = str(kept["value"].get("cwd") or "")
            if job := s.jobs.pop(result.data.get("told", ""), None):
                self._put_job({**job, "proposal": ""})
        if s.tools.get(call.name, {}).get("source") == "builtin":
            for part, row in seen.learned(s.read, call, body):
                s.read[part] = row
                self.out.append(Put("tool_state", text_key(s.session, part), row))
        match body:
            case Propose():
                if why := self.desk.refused(body):
                    self._deny(call, why)
                else:
                    self.out.append(Send(s.team, body))
            case ToolResult():
                self._answer(call, body)
            case _:
                self._refuse(call, "failed", "the call ended without a result")

    def _cancel(self, cancel: CancelCall) -> None:
        s = self.s
        if not cancel.agent:
            self._cancel_one(cancel.id, cancel.reason)
            return
        theirs = [id for id, one in s.running.items() if one.agent == cancel.agent]
        theirs += [id for id, agent in s.aside.items() if agent == cancel.agent]
        theirs += [
            one.body.id
            for one in s.waiting.values()
            if isinstance(one.body, ToolCall) and one.body.agent == cancel.agent
        ]
        for id in theirs:
            self._cancel_one(id, cancel.reason)

    def _cancel_one(self, call_id: str, reason: str) -> None:
        id = f"call-{call_id}"
        if call_id in self.s.open:
            self.out.append(Cancel(id))
        elif (waiting := self.s.waiting.get(id)) is not None:
            call = waiting.body
            assert isinstance(call, ToolCall)
            if waiting.question:
                self.desk.close(call, waiting.question, "cancelled")
            self._forget(id)
            self._refuse(call, "cancelled", reason or "cancelled before it began")

    # --- the line ------------------------------------------------------------------------------

    def _queue(self) -> list[queue.Queued]:
        """The calls that are allowed and wait, in the order in which they came."""
        found = [
            queue.Queued(id, one.n, one.body.agent, one.body.name, one.body.after)
            for id, one in self.s.waiting.items()
            if one.stage == "lined" and isinstance(one.body, ToolCall)
        ]
        return sorted(found, key=lambda call: call.n)

    def _startable(self, crowded: bool) -> list[str]:
        s = self.s
        return queue.startable(self._queue(), s.running.values(), s.tools, s.room, crowded)

    def _behind(self, call: queue.Queued, earlier: Sequence[queue.Queued]) -> str:
        s = self.s
        running = s.running.values()
        return queue.obstacle(call, earlier, running, s.tools, s.room, bool(s.slot))

    def _fill(self) -> None:
        """Starts what may start, and says of what has just come why it waits."""
        s = self.s
        for id in self._startable(bool(s.slot)):
            self._make(id)
        left = self._queue()
        for i, call in enumerate(left):
            if call.id in self.fresh:
                waits = {"call": call.id.removeprefix("call-"), "agent": call.agent}
                behind = self._behind(call, left[:i])
                self.out.append(Emit("call_queued", {**waits, "tool": call.tool, "behind": behind}))
        if s.slot and not self._startable(False):
            self.out.append(Cancel(s.slot))  # nobody could use it now

    def _make(self, id: str) -> None:
        waiting = self.s.waiting[id]
        call = waiting.body
        assert isinstance(call, ToolCall)
        if id in self.fresh:  # its row was never stored
            self.fresh.remove(id)
            del self.s.waiting[id]
            key = text_key(self.s.session, id)
            self.out = [one for one in self.out if not (isinstance(one, Put) and one.key == key)]
        else:
            self._forget(id)
            self.out.append(Emit("call_started", {"call": call.id, "agent": call.agent}))
        self.s.open[call.id] = call.name
        self.s.running[call.id] = queue.Running(call.agent, call.name, waiting.n)
        self.out.append(Open(id, call))

    def _line(self) -> str:
        """For people: how many wait, and the first one's reason."""
        line = self._queue()
        if not line:
            return ""
        return f"{len(line)} queued: {self._behind(line[0], ())}"

    def _succeeds(self, ended: str) -> None:
        """A call has its result: those that come after it wait for it no more."""
        s = self.s
        for id, one in s.waiting.items():
            if isinstance(one.body, ToolCall) and ended in one.body.after:
                after = tuple(other for other in one.body.after if other != ended)
                one.body = msgspec.structs.replace(one.body, after=after)
                self.out.append(Put("calls", text_key(s.session, id), _waiting_row(one)))

    def _back_in_line(self, call: ToolCall, n: int) -> None:
        """The daemon had no slot for it: nothing has happened yet. It gets its old place."""
        self._wait(f"call-{call.id}", "lined", call, n=n)
        if not self.s.slot:
            self._want_slot()

    def _want_slot(self) -> None:
        self.s.slot = self._number(SLOT)
        self.out.append(Open(self.s.slot, Note()))

    def _number(self, prefix: str) -> str:
        """A name for an effect that was never used."""
        self.s.count += 1
        return f"{prefix}{self.s.count}"

    def _granted(self, effect: str, result: Body) -> None:
        """A slot is in the performer's hand, for the first call that starts in this step. If there
        are more, the next slot is waited for."""
        if effect != self.s.slot:
            return  # one that was given back
        self.s.slot = ""
        startable = self._startable(False)
        if isinstance(result, Note) and result.data.get("slot"):
            if startable:
                self._make(startable[0])
                startable = self._startable(False)
            else:
                self.out.append(Open(self._number(SLOT), Note(data={"give_back": True})))
        if startable:
            self._want_slot()

    # --- waiting -------------------------------------------------------------------------------

    def _wait(
        self, id: str, stage: str, body: ToolCall | Apply, question: str = "", n: int = 0
    ) -> None:
        s = self.s
        s.count += 1
        s.waiting[id] = one = Waiting(n or s.count, stage, body, question)
        if stage == "lined":
            self.fresh.add(id)
        self.out.append(Put("calls", text_key(s.session, id), _waiting_row(one)))

    def _forget(self, id: str) -> None:
        if (forgotten := self.s.waiting.pop(id, None)) is not None:
            self.decided = self.decided or forgotten.stage in ACCEPTED
            self.out.append(Delete("calls", text_key(self.s.session, id)))

    # --- permission ----------------------------------------------------------------------------

    def _ask(self, call: ToolCall, found: Decided) -> None:
        s = self.s
        question = f"{s.session}-p{s.count + 1}"  # unique among all sessions: it is what one types
        self._wait(f"call-{call.id}", "asking", call, question)
        self.desk.ask(call, found, question)

    def _asked(self, question: str) -> tuple[str, ToolCall] | None:
        """(key in table `calls`, the call) that is asked about; None if it was cancelled."""
        for id, waiting in self.s.waiting.items():
            if waiting.question == question and isinstance(waiting.body, ToolCall):
                return id, waiting.body
        return None

    def _decided(self, decision: Decision) -> None:
        asked = self._asked(decision.question)
        if asked is None:
            return  # cancelled, or its time was over
        id, call = asked
        self._forget(id)
        more = self.desk.answered(call, decision)
        if not decision.allow:
            reason = f": {decision.text}" if decision.text else ""
            by = decision.by or "the user"
            self._refuse(call, "denied", f"permission denied by {by}{reason}")
            return
        if self.desk.now_denied(call):
            self._judge(call)
            return
        self._open(call)
        if more:
            self._reconsider()

    def _reconsider(self) -> None:
        """Rules have changed: what waits may need no answer any more."""
        asking = sorted(
            (w.n, id, w.question, w.body)
            for id, w in self.s.waiting.items()
            if w.stage == "asking" and isinstance(w.body, ToolCall)
        )
        for _, id, question, call in asking:
            if self.desk.now_allowed(call):
                self.desk.close(call, question, "another answer allows it")
                self._forget(id)
                self._judge(call)

    def due(self, timer: str) -> None:
        """A question's time is over."""
        asked = self._asked(question_of(timer)) if question_of(timer) else None
        if asked is not None:
            id, call = asked
            text = self.desk.unanswered(call, question_of(timer))
            self._forget(id)
            self._refuse(call, "denied", f"permission denied: {text}")

    # --- jobs ----------------------------------------------------------------------------------

    def _begin_job(self, call: ToolCall) -> bool:
        """Opens the effect of a job, before that of the call which is answered when it runs; False
        if there are too many."""
        s = self.s
        running = [id for id, row in s.jobs.items() if row["state"] == "running"]
        if len(running) >= s.most_jobs:
            text = f"{len(running)} jobs run already: end one of {', '.join(running)}, or wait"
            self._refuse(call, "failed", text)
            return False
        s.begun += 1
        id = f"j-{s.begun}"
        s.jobs[id] = background.begun(id, s.session, call, self.now)
        self._put_job(s.jobs[id])
        self.out.append(Emit("job_started", background.told(s.jobs[id])))
        order = msgspec.structs.replace(call, id=id, reply_to=call.id)
        self.out.append(Open(f"{background.EFFECT}{id}", order))
        return True

    def job_ended(self, request: Body, result: Body) -> None:
        """The end of a job's effect: a Note of background.note."""
        assert isinstance(request, ToolCall)
        row = self.s.jobs.pop(request.id, None)
        if row is None:
            return
        assert isinstance(result, Note)
        if "links" in result.data:  # not begun: its call is judged again, and begins another
            self.out.append(Delete("jobs", text_key(self.s.session, row["id"])))
            self.out.append(Emit("job_ended", {**background.told(row), "state": "not begun"}))
            return
        if changed := result.data.get("changed"):
            self.out.append(Send(self.s.team, codec.body(changed)))
        row = background.ended(row, result.data, self.now)
        if row["proposal"]:
            self.s.jobs[request.id] = row
        self._put_job(row)
        self.out.append(Emit("job_ended", background.told(row)))

    def _put_job(self, row: dict[str, Any]) -> None:
        self.out.append(Put("jobs", text_key(self.s.session, row["id"]), row))

    # --- applying ------------------------------------------------------------------------------

    def _apply(self, order: Apply) -> None:
        """One at a time, each committed before the next: after a crash the disk shows the only one
        that may be half done."""
        files = tuple(_bare(file) for file in order.files)
        order = msgspec.structs.replace(order, files=files)
        if self.s.applying:
            self._wait(f"apply-{order.edit}", "queued", order)
        else:
            self._start(order)

    def _start(self, order: Apply) -> None:
        self.s.applying = order.edit
        self.out.append(Open(f"apply-{order.edit}", order))

    def _applied(self, order: Apply, result: Body) -> None:
        if not isinstance(result, Applied):
            result = Applied(edit=order.edit, state="failed", detail="ended without a result")
        self.out.append(Send(self.s.team, result))
        self.s.applying = ""
        queued = [(w.n, i) for i, w in self.s.waiting.items() if w.stage == "queued"]
        if queued:
            _, id = min(queued)
            following = self.s.waiting[id].body
            assert isinstance(following, Apply)
            self._forget(id)
            self._start(following)

    def _planned(self, order: PlanUndo, result: Body) -> None:
        if not isinstance(result, UndoPlan):
            detail = "ended without a result"
            result = UndoPlan(undo=order.undo, error="failed", detail=detail)
        self.out.append(Send(self.s.team, result))

    # --- generations ---------------------------------------------------------------------------

    def _formed(self, result: Body) -> None:
        """A generation that passed: Note {hash, seen, without, tools, errors, changed}. One that
        did not: {hash, broken}; with nothing broken the author has taken a fault back."""
        s = self.s
        data = result.data if isinstance(result, Note) else {}
        if "broken" in data:
            self._stay(data["hash"], list(data["broken"]))
            return
        rows = data.get("tools") or self.builtin
        if refused := self._clashes(rows):
            s.held = True
            self._stay(data["hash"], refused, refused)
            return
        first = s.generation == 0
        s.generation += 1
        s.hash = data.get("hash", "")
        s.seen = data.get("seen", s.hash)
        s.without = list(data.get("without") or ())
        s.held = False
        s.tools = {tool["name"]: tool for tool in rows}
        self.desk.tools = s.tools
        errors = list(data.get("errors") or ())
        self.out.append(Put("toolsets", name_key(s.session), self._toolset(rows, errors)))
        self._stand()
        if errors:
            self.out.append(Emit("tools_broken", {"errors": errors}))
        if not first:
            self.out.append(
                Emit("tools_reloaded", {"generation": s.generation, "changed": data["changed"]})
            )
        early = sorted((w.n, i) for i, w in s.waiting.items() if w.stage == "early")
        for _, id in early:
            call = s.waiting[id].body
            assert isinstance(call, ToolCall)
            self._forget(id)
            self._call(call)

    def _stand(self, refused: Sequence[Mapping[str, str]] = ()) -> None:
        """The effect that holds the generation in force."""
        s = self.s
        tried = f".{s.tries}" if s.tries else ""
        note = {"generation": s.generation, "hash": s.hash, "without": s.without}
        if refused:
            note["refused"] = [dict(one) for one in refused]
        self.out.append(Open(f"generation-{s.generation}{tried}", Note(data=note), standing=True))

    def _stay(
        self, seen: str, errors: list[dict[str, str]], refused: Sequence[Mapping[str, str]] = ()
    ) -> None:
        """The generation in force stays; people are told once why there is no newer one."""
        s = self.s
        s.tries += 1
        again, s.seen = s.seen == seen, seen
        self.out.append(
            Put("toolsets", name_key(s.session), self._toolset([*s.tools.values()], errors))
        )
        self._stand(refused)
        if errors and not again:
            self.out.append(Emit("tools_broken", {"errors": errors, "generation": s.generation}))
        elif not errors:
            self.out.append(Emit("tools_mended", {"generation": s.generation}))

    def _clashes(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """What of new tools cannot be while a call waits that was accepted by the old ones, for a
        person or for its turn: [{module, error}]."""
        s = self.s
        new = {row["name"]: row for row in rows}
        found = []
        for waiting in s.waiting.values():
            call = waiting.body
            if waiting.stage not in ACCEPTED or not isinstance(call, ToolCall):
                continue
            old = s.tools.get(call.name)
            if why := clash(old, new.get(call.name), call.args):
                asking = waiting.stage == "asking"
                what = f"for approval of a call ({waiting.question})" if asking else "with a call"
                then = "that is decided" if asking else "that has begun"
                error = (
                    f"{call.name}: {why}, and {call.agent} waits {what}; the new version is tried "
                    f"again when {then}"
                )
                module = str((old or {}).get("source", "")).removeprefix("tools/")
                found.append({"module": module, "error": error})
        return found

    def _try_again(self) -> None:
        """A call that new code may have waited for is decided, or has begun."""
        s = self.s
        if s.held and self.decided:
            s.held = False
            s.tries += 1
            self.out.append(Open(f"reload-{s.tries}", Reload()))

    def _toolset(
        self, rows: Sequence[Mapping[str, Any]], errors: list[dict[str, str]]
    ) -> dict[str, Any]:
        rows = [row for row in rows if row["name"] not in self.s.off]
        self.s.offered, self.s.broken = [row["name"] for row in rows], errors
        return {
            "generation": self.s.generation,
            "hash": self.s.hash,
            "seen": self.s.seen,
            "tools": [dict(row) for row in rows],
            "errors": errors,
        }


def _waiting_row(one: Waiting) -> dict[str, Any]:
    return {
        "n": one.n,
        "stage": one.stage,
        "body": codec.encode(one.body),
        "question": one.question,
    }


def _bare(file: FileChange) -> FileChange:
    """What applying needs of a change: no hunks, no diff."""
    return msgspec.structs.replace(file, hunks=(), diff="")
