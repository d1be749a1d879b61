"""The behaviour of the actor `S/tools`. Pure.

    ToolCall -> permission -> (question -> Decision) -> effect `call-ID` -> ToolResult to the agent,
                                                        or Propose to the team
    Apply    -> effect `apply-EDIT`, one at a time -> Applied to the team
    a standing effect `generation-N` ends with generation N + 1 and is opened anew for it

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
from loomd.store.schema import name_key, text_key
from loomd.tools.permissions import decide
from loomd.wire import codec
from loomd.wire.bodies import (
    TEAM_TOOLS,
    Applied,
    Apply,
    Body,
    CancelCall,
    Decision,
    Discard,
    FileChange,
    Note,
    Propose,
    ToolCall,
    ToolResult,
    Undelivered,
)
from loomd.wire.errors import LoomError

FIRST: Final = "generation-0"
"""The effect that forms the first generation, from a fresh snapshot."""

SHOWN: Final = 2_000
"""Characters of a call's arguments in a question."""


@dataclass
class Waiting:
    """A row of table `calls`. stage: asking | early | queued; n: the order in which they came."""

    n: int
    stage: str
    body: ToolCall | Apply
    question: str = ""


@dataclass
class State:
    """waiting: key in table `calls` -> what waits; open: call id -> tool name; applying: the edit
    that is being applied, "" for none."""

    name: str
    session: str
    mode: str
    yes: bool
    generation: int = 0
    hash: str = ""
    granted: list[str] = field(default_factory=list)
    count: int = 0
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    open: dict[str, str] = field(default_factory=dict)
    applying: str = ""

    @property
    def team(self) -> str:
        return f"{self.session}/team"


class ToolsBehaviour:
    """`builtin`: the toolset rows of the tools that ship, in force until the first generation."""

    version = 1

    def __init__(self, builtin: Sequence[Mapping[str, Any]]) -> None:
        self.builtin = [dict(row) for row in builtin]

    def init(self, birth: Birth) -> State:
        args, settings = birth.spec.args, birth.settings
        permissions = {**(settings.get("permissions") or {}), **(args.get("permissions") or {})}
        session = birth.spec.session or birth.spec.name.partition("/")[0]
        state = State(
            name=birth.spec.name,
            session=session,
            mode=str(permissions.get("mode", "on-request")),
            yes=bool(args.get("yes")),
        )
        if birth.saved is not None:
            state.generation = birth.saved["generation"]
            state.hash = birth.saved["hash"]
            state.granted = list(birth.saved["granted"])
            state.count = birth.saved["count"]
        row = birth.reader.row("toolsets", name_key(session))
        tools = row["tools"] if isinstance(row, dict) else self.builtin
        state.tools = {tool["name"]: tool for tool in tools}
        for key, value in birth.reader.rows("calls", name_key(session)):
            body = codec.body(value["body"])
            if isinstance(body, ToolCall | Apply):
                id = key[len(name_key(session)) :].decode()
                state.waiting[id] = Waiting(value["n"], value["stage"], body, value["question"])
        for effect in birth.effects:
            if isinstance(effect.body, ToolCall):
                state.open[effect.body.id] = effect.body.name
            elif isinstance(effect.body, Apply):
                state.applying = effect.body.edit
        return state

    def save(self, state: State) -> dict[str, Any]:
        return {
            "generation": state.generation,
            "hash": state.hash,
            "granted": state.granted,
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
            case EffectEnded():
                step.ended(input.request, input.result)
            case TimerDue():
                pass  # none is ever set
        step.show()
        return state, step.out


class _Step:
    """One step: the state it owns, and what is to change."""

    def __init__(self, state: State, builtin: list[dict[str, Any]], now: float) -> None:
        self.s = state
        self.builtin = builtin
        self.now = now
        self.out: list[Change] = []

    def born(self) -> None:
        self.out.append(Put("toolsets", name_key(self.s.session), self._toolset(self.builtin, [])))
        self.out.append(Open(FIRST, Note(data={"generation": 0, "hash": ""})))

    def mailed(self, body: Body, sender: str) -> None:
        match body:
            case ToolCall():
                reply_to = body.reply_to or sender
                self._call(msgspec.structs.replace(body, reply_to=reply_to))
            case CancelCall():
                self._cancel(body)
            case Decision():
                self._decided(body)
            case Apply():
                self._apply(body)
            case Discard():
                self._forget(f"apply-{body.edit}")
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
            case ToolCall() as call:
                self.s.open.pop(call.id, None)
                self._refuse(call, "crashed", text)
            case Apply() as order:
                ended = Applied(edit=order.edit, state="failed", detail=text)
                if self.s.applying in ("", order.edit):
                    self._applied(order, ended)
                else:
                    self.out.append(Send(self.s.team, ended))
            case _:
                pass

    def ended(self, request: Body, result: Body) -> None:
        match request:
            case ToolCall():
                self._returned(request, result)
            case Apply():
                self._applied(request, result)
            case _:
                self._formed(result)

    def show(self) -> None:
        asking = [one.question for one in self.s.waiting.values() if one.stage == "asking"]
        if asking:
            self.out.append(Show("waiting", f"permission {asking[0]}"))
        elif self.s.open or self.s.applying:
            self.out.append(Show("acting"))
        else:
            self.out.append(Show("idle"))

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
        if wrong := _wrong(tool["parameters"], call.args):
            self._refuse(call, "bad_args", f"{call.name}: {wrong}")
            return
        decided = decide(s.mode, tool["access"], yes=s.yes, granted=s.granted, tool=call.name)
        match decided.verdict:
            case "allow":
                self._open(call)
            case "deny":
                self._refuse(call, "denied", f"permission denied: {decided.reason}")
            case "ask":
                self._ask(call, tool["access"])

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.s.tools, 3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        return f"there is no tool {name!r}{hint}"

    def _open(self, call: ToolCall) -> None:
        self.s.open[call.id] = call.name
        self.out.append(Open(f"call-{call.id}", call))

    def _refuse(self, call: ToolCall, error: str, text: str) -> None:
        self._answer(call, ToolResult(id=call.id, ok=False, error=error, text=text))

    def _answer(self, call: ToolCall, result: ToolResult) -> None:
        self.out.append(Send(call.reply_to, result))

    def _returned(self, call: ToolCall, result: Body) -> None:
        """The end of a call's effect: Note {body, state: {tool, value} | absent}."""
        s = self.s
        s.open.pop(call.id, None)
        body: Body = result
        if isinstance(result, Note):
            body = codec.body(result.data["body"])
            if kept := result.data.get("state"):
                key = text_key(s.session, kept["tool"])
                self.out.append(Put("tool_state", key, kept["value"]))
        match body:
            case Propose():
                self.out.append(Send(s.team, body))
            case ToolResult():
                self._answer(call, body)
            case _:
                self._refuse(call, "failed", "the call ended without a result")

    def _cancel(self, cancel: CancelCall) -> None:
        id = f"call-{cancel.id}"
        if cancel.id in self.s.open:
            self.out.append(Cancel(id))
        elif (waiting := self.s.waiting.get(id)) is not None:
            call = waiting.body
            assert isinstance(call, ToolCall)
            self._close_question(waiting)
            self._forget(id)
            text = cancel.reason or "cancelled before it began"
            self._refuse(call, "cancelled", text)

    # --- waiting -------------------------------------------------------------------------------

    def _wait(self, id: str, stage: str, body: ToolCall | Apply, question: str = "") -> None:
        s = self.s
        s.count += 1
        s.waiting[id] = Waiting(s.count, stage, body, question)
        row = {"n": s.count, "stage": stage, "body": codec.encode(body), "question": question}
        self.out.append(Put("calls", text_key(s.session, id), row))

    def _forget(self, id: str) -> None:
        if self.s.waiting.pop(id, None) is not None:
            self.out.append(Delete("calls", text_key(self.s.session, id)))

    # --- permission ----------------------------------------------------------------------------

    def _ask(self, call: ToolCall, access: str) -> None:
        s = self.s
        question = f"{s.session}-p{s.count + 1}"  # unique among all sessions: it is what one types
        self._wait(f"call-{call.id}", "asking", call, question)
        text = f"{call.agent} wants to {_said(access)}: {_shown(call)}"
        row = self._question_row(call, question, text)
        self.out.append(Put("questions", text_key(s.session, question), row))
        data = {"id": question, "text": text, "agent": call.agent, "tool": call.name}
        self.out.append(Emit("permission_asked", data))

    def _question_row(self, call: ToolCall, question: str, text: str) -> dict[str, Any]:
        return {
            "id": question,
            "session": self.s.session,
            "actor": self.s.name,
            "kind": "permission",
            "text": text,
            "tool": call.name,
            "args": {name: _brief(value) for name, value in call.args.items()},
            "agent": call.agent,
            "call": call.id,
            "state": "open",
            "asked": self.now,
            "by": "",
            "allow": None,
        }

    def _close_question(self, waiting: Waiting) -> None:
        if waiting.question and isinstance(waiting.body, ToolCall):
            row = self._question_row(waiting.body, waiting.question, "withdrawn")
            row = {**row, "state": "closed", "text": _shown(waiting.body)}
            self.out.append(Put("questions", text_key(self.s.session, waiting.question), row))

    def _decided(self, decision: Decision) -> None:
        s = self.s
        id = next((i for i, w in s.waiting.items() if w.question == decision.question), None)
        if id is None:
            return  # cancelled meanwhile
        call = s.waiting[id].body
        assert isinstance(call, ToolCall)
        self._forget(id)
        if not decision.allow:
            reason = f": {decision.text}" if decision.text else ""
            self._refuse(
                call, "denied", f"permission denied by {decision.by or 'the user'}{reason}"
            )
            return
        self._open(call)
        if decision.scope != "once" and call.name not in s.granted:
            s.granted.append(call.name)
            same = sorted(
                (w.n, i)
                for i, w in s.waiting.items()
                if w.stage == "asking" and isinstance(w.body, ToolCall) and w.body.name == call.name
            )
            for _, other in same:
                waiting = s.waiting[other]
                assert isinstance(waiting.body, ToolCall)
                self._close_question(waiting)
                self._forget(other)
                self._open(waiting.body)

    # --- applying ------------------------------------------------------------------------------

    def _apply(self, order: Apply) -> None:
        """One at a time, each committed before the next: after a crash the disk shows the only one
        that may be half done."""
        order = Apply(edit=order.edit, files=tuple(_bare(file) for file in order.files))
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

    # --- generations ---------------------------------------------------------------------------

    def _formed(self, result: Body) -> None:
        """A generation that passed: Note {hash, tools, errors}."""
        s = self.s
        data = result.data if isinstance(result, Note) else {}
        first = s.generation == 0
        s.generation += 1
        s.hash = data.get("hash", "")
        rows = data.get("tools") or self.builtin
        s.tools = {tool["name"]: tool for tool in rows}
        errors = list(data.get("errors") or ())
        self.out.append(Put("toolsets", name_key(s.session), self._toolset(rows, errors)))
        self.out.append(
            Open(
                f"generation-{s.generation}",
                Note(
                    data={
                        "generation": s.generation,
                        "hash": s.hash,
                        "without": [error["module"] for error in errors if error["module"]],
                    }
                ),
                standing=True,
            )
        )
        if errors:
            self.out.append(Emit("tools_broken", {"errors": errors}))
        elif not first:
            self.out.append(
                Emit("tools_reloaded", {"generation": s.generation, "changed": data["changed"]})
            )
        early = sorted((w.n, i) for i, w in s.waiting.items() if w.stage == "early")
        for _, id in early:
            call = s.waiting[id].body
            assert isinstance(call, ToolCall)
            self._forget(id)
            self._call(call)

    def _toolset(
        self, rows: Sequence[Mapping[str, Any]], errors: list[dict[str, str]]
    ) -> dict[str, Any]:
        return {
            "generation": self.s.generation,
            "hash": self.s.hash,
            "tools": [dict(row) for row in rows],
            "errors": errors,
        }


def _bare(file: FileChange) -> FileChange:
    """What applying needs of a change: no hunks, no diff."""
    return msgspec.structs.replace(file, hunks=(), diff="")


def _wrong(schema: Mapping[str, Any], args: Mapping[str, Any]) -> str:
    """What can be told without the function: nobody is asked about a call that cannot be made."""
    known = schema.get("properties") or {}
    said = [f"`{name}` is missing" for name in schema.get("required") or () if name not in args]
    said += [f"`{name}` is unknown" for name in args if name not in known]
    if not said:
        return ""
    return f"{'; '.join(said)}. It takes: {', '.join(known)}"


def _said(access: str) -> str:
    return {"execute": "run", "network": "use the network with", "write": "change"}.get(
        access, access
    )


def _brief(value: Any) -> Any:
    if isinstance(value, str) and len(value) > SHOWN:
        return f"{value[:SHOWN]}... ({len(value)} characters)"
    return value if isinstance(value, str | int | float | bool | None) else str(value)[:SHOWN]


def _shown(call: ToolCall) -> str:
    """`name(args)` in short; of a command just that."""
    if call.name == "shell" and isinstance(call.args.get("command"), str):
        return f"shell: {_brief(call.args['command'])}"
    args = ", ".join(f"{name}={_brief(value)!r}" for name, value in call.args.items())
    return f"{call.name}({args})"[: 2 * SHOWN]
