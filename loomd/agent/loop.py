"""The agent's machine: idle -> thinking -> acting -> thinking ... -> done | failed. Pure.

One method per input and one per move; `state.MOVES` lists every legal move. Whatever is said is
appended to the log when it arrives; it enters the view before the next request (`_think`). So a
turn in the view is always: what was said, the assistant's entry, the results in call order.

A crash needs no code here. A step is committed whole or not at all; an answer to a request or a
call that was out lies in the mailbox, and the successor takes it as if nothing had happened.
Nothing is asked again, so nothing is paid twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, assert_never

import msgspec

from loomd.actor import behaviour as act
from loomd.actor import roles as rl
from loomd.agent import limits as lim
from loomd.agent import order
from loomd.agent import recovery as rec
from loomd.agent import view as vw
from loomd.agent.limits import Exceeded, Limits
from loomd.agent.prompt import cut, pinned, review_text, shared_blocks
from loomd.agent.state import AT_REST, MOVES, AgentState, Arrived, OpenCall, Phase, Task
from loomd.wire import codec
from loomd.wire.bodies import (
    TEAM_TOOLS,
    Assign,
    Body,
    Call,
    CallEnded,
    CancelCall,
    CancelModel,
    Configured,
    Control,
    Entry,
    Failed,
    FinalAnswer,
    Inquiry,
    KeeperReady,
    ModelOutcome,
    ModelRequest,
    Note,
    Offload,
    Recover,
    Report,
    Restarted,
    ReviewRequest,
    RoleChanged,
    Say,
    TeamCall,
    ToolCall,
    ToolCalls,
    ToolResult,
    Undelivered,
    Usage,
    View,
)
from loomd.wire.errors import LoomError

WALL: Final = "wall"

EVENT_TEXT: Final = 2_000
ANSWER_TEXT: Final = 48_000
REPORT_TEXT: Final = 60_000
SAID_TEXT: Final = 600_000
ARGS_BYTES: Final = 300_000
"""Bytes of a text in an event, beside calls, in a report and in one entry, and of one turn's
arguments.
A commit carries an entry and the mails that follow from it, and must stay below the frame limit."""

TASK_TEXT: Final = 6_000
OWN_REPORT: Final = 2_000
"""Bytes of the last report that an agent remembers, for a conversation begun anew."""

MAX_QUEUED: Final = 3
MAX_CALLS: Final = 128
MAX_ASIDE: Final = 8
MAX_SHRINKS: Final = 3
MAX_INQUIRIES: Final = 32

KEPT: Final = 6
"""Messages and turns that stay in view after `offload`, unless it says otherwise."""

ASKS: Final = frozenset({"ask", "ask_user"})
"""Calls that a person answers."""

LONG_CALLS: Final = ASKS | {"spawn"}
"""Calls that wait for another agent or a person: the status says `waiting`, not `acting`."""

ACTORS: Final = frozenset({"team", "tools"})

UNUSABLE: Final = frozenset({"empty", "malformed"})
"""Outcomes that are tried again with a word to the model."""

MAX_RETRIES: Final = 2
"""Answers in a row that go back to the model because they, or a call in them, cannot be used."""


ABOUT: Final = {"review": "edit", "answer": "question"}
"""Calls that settle what was asked, and the argument that names it."""

UNSAID: Final = frozenset({"bad_args", "cancelled", "interrupted", "timeout"})
"""Errors of a `review` call after which the edit still awaits its verdict; any other says that
the edit waits no more (withdrawn, ended)."""


class IllegalMove(AssertionError):
    """The machine was about to make a move that `MOVES` does not know: a defect of ours."""


@dataclass
class Agent:
    """An agent in memory: what is saved, and what is derived from its spec at each birth."""

    saved: AgentState
    spec: act.Spec
    role: rl.Role
    limits: Limits
    settings: Mapping[str, Any]
    broken: Mapping[str, str] = field(default_factory=dict)

    @property
    def fallback(self) -> str:
        """Of its model, as configured."""
        return rec.fallback_of(self.spec, self.role, self.settings)

    @property
    def team(self) -> str:
        return f"{self.spec.session}/team"

    @property
    def tools(self) -> str:
        return f"{self.spec.session}/tools"


class AgentBehaviour:
    """`roles`: those that ship, by name. An agent of a role that nobody wrote gets a plain one."""

    version = 1

    def __init__(self, roles: Mapping[str, rl.Role]) -> None:
        self._roles = roles

    def init(self, birth: act.Birth) -> Agent:
        spec = birth.spec
        saved = AgentState()
        if birth.saved is not None:
            saved = msgspec.convert(birth.saved, AgentState)
        places = (rl.USER, str(spec.args.get("repo") or ""))
        rows = [(place, birth.reader.row("config", rl.row_key(place))) for place in places]
        written = rl.parsed(rl.in_force(rows))
        broken = {n: why for _, row in rows for n, why in ((row or {}).get("errors") or {}).items()}
        return Agent(
            saved=saved,
            spec=spec,
            role=rl.role_of({**self._roles, **written}, spec.role),
            limits=lim.limits(birth.settings.get("limits"), spec.args.get("limits")),
            settings=birth.settings,
            broken=broken,
        )

    def step(self, state: Agent, input: act.Input, now: float) -> tuple[Agent, list[act.Change]]:
        match input:
            case act.Mailed(sender="hub", body=RoleChanged() as changed):
                # For its next turn: what a request or a call is out for goes on as it is.
                state.role = self._changed(changed)
            case act.Mailed(sender="hub", body=Configured() as configured):
                state.settings = {**state.settings, **configured.settings}
            case _:
                return self._step(state, input, now)
        return state, []

    def _changed(self, changed: RoleChanged) -> rl.Role:
        if changed.text:
            return rl.parse_role(changed.text, changed.file)
        return rl.role_of(self._roles, changed.role)

    def _step(self, state: Agent, input: act.Input, now: float) -> tuple[Agent, list[act.Change]]:
        turn = Step(state, now)
        turn.take(input)
        if isinstance(input, act.Init):
            turn.warn(state.broken)
        turn.show()
        return state, turn.out

    def save(self, state: Agent) -> AgentState:
        return state.saved

    def upgrade(self, saved: Any, version: int) -> Any:
        raise LoomError("bad_state", f"agent state of version {version} is not known")

    def answer(self, state: Agent, question: Body, reader: act.Reader) -> Body:
        """A `Note` gets the agent's state for people."""
        if not isinstance(question, Note):
            raise LoomError("bad_request", f"an agent has no answer to {type(question).__name__}")
        s = state.saved
        return Note(
            data={
                "phase": s.phase,
                "paused": s.paused,
                "turn": s.turn,
                "request": s.request,
                "calls": [call.name for call in s.calls if call.result is None],
                "task": s.task.id if s.task else "",
                "reviews": list(s.reviews),
                "entries": s.entries,
                "view_tokens": s.view.tokens,
                "iterations": s.counters.iterations,
                "tokens": s.counters.tokens,
                "kind": s.kind,
                "rung": rec.rung_of(s),
            }
        )


class Step:
    """One step: the state it works on, and the changes it leaves."""

    def __init__(self, agent: Agent, now: float) -> None:
        self.agent = agent
        self.s = agent.saved
        self.now = now
        self.out: list[act.Change] = []

    # --- inputs --------------------------------------------------------------------------------

    def take(self, input: act.Input) -> None:
        match input:
            case act.Init() | act.EffectEnded():
                pass
            case act.TimerDue():
                self._timer(input)
            case act.Mailed():
                self._mailed(input.body, input.sender)
            case _:
                assert_never(input)

    def warn(self, broken: Mapping[str, str]) -> None:
        """People must not believe that a role is in force which is not."""
        mine = self.agent.spec.role
        for role, error in sorted(broken.items()):
            if mine in (role, "lead"):
                self.emit("role_broken", {"role": role, "error": cut(error, EVENT_TEXT)})

    def _mailed(self, body: Body, sender: str) -> None:
        match body:
            case Assign():
                self._assigned(body, sender)
            case Say():
                self._said(body, sender)
            case ReviewRequest():
                self._review_asked(body)
            case Inquiry():
                self._asked(body)
            case ModelOutcome():
                self._answered(body)
            case ToolResult():
                self._returned(body)
            case KeeperReady():
                self._kept(body)
            case Control():
                self._controlled(body)
            case Undelivered():
                self._undelivered(body)
            case Restarted():
                self._restarted(body)
            case Recover():
                rec.recover(self, body)
            case _:
                # Nothing that an agent asked for: said in the log of events, never a crash.
                self.emit("ignored", {"body": type(body).__name__, "sender": sender})

    def _assigned(self, body: Assign, sender: str) -> None:
        entry = self.append(Entry(role="user", text=body.text, sender=body.sender or sender))
        task = Task(body.task, cut(body.text, TASK_TEXT), entry)
        if self.s.phase in AT_REST and self.s.task is None:
            self._begin(task)
        elif len(self.s.tasks) < MAX_QUEUED:
            self.s.tasks.append(task)
        else:
            self.s.arrived.append(entry)
            self._report(task.id, "failed", "this agent has too many tasks already", kind="busy")

    def _said(self, body: Say, sender: str) -> None:
        said_by = body.sender or sender
        self.s.person = self.s.person or "/" not in said_by
        self.s.arrived.append(self.append(Entry(role="user", text=body.text, sender=said_by)))
        # What a peer says to an agent without work waits for its next task: it costs no call.
        if self.s.phase in AT_REST and "/" not in said_by:
            self._rise()

    def _review_asked(self, body: ReviewRequest) -> None:
        entry = self.append(Entry(role="user", text=review_text(body), sender=self.agent.team))
        self.s.arrived.append(entry)
        self.s.reviews[body.edit] = entry.n
        if self.s.phase in AT_REST:
            self._rise()

    def _asked(self, body: Inquiry) -> None:
        entry = self.append(Entry(role="user", text=body.text, sender=body.sender))
        self.s.arrived.append(entry)
        if not body.optional:
            self.s.inquiries[body.id] = entry.n
            while len(self.s.inquiries) > MAX_INQUIRIES:  # what was said of it stays in the log
                del self.s.inquiries[min(self.s.inquiries, key=self.s.inquiries.__getitem__)]
        if self.s.phase in AT_REST:
            self._rise()

    def _answered(self, body: ModelOutcome) -> None:
        s = self.s
        if s.phase != "thinking" or body.request != s.request:
            return  # of a request that was cancelled
        s.request = ""
        outcome = body.outcome
        s.usage = _sum(s.usage, body.usage)
        s.counters.tokens += body.usage.input_tokens + body.usage.output_tokens
        self.emit("model_outcome", _about_outcome(body))
        if not isinstance(outcome, Failed):
            rec.answered(self)
        match outcome:
            case ToolCalls():
                if outcome.calls:
                    self._act(outcome, body)
                elif outcome.text:
                    self._conclude(
                        FinalAnswer(text=outcome.text, reasoning=outcome.reasoning), body
                    )
                else:
                    self._model_failed(Failed(kind="empty", detail="neither text nor calls"))
            case FinalAnswer():
                self._conclude(outcome, body)
            case Failed():
                self._model_failed(outcome)
            case _:
                assert_never(outcome)

    def _returned(self, body: ToolResult) -> None:
        call = next((c for c in self.s.calls if c.id == body.id and c.result is None), None)
        if call is None:
            return  # cancelled meanwhile, or answered twice
        self._close(call, body)
        if call.awaited:  # an edit ends with the team: the tool host would not hear of it
            self.out.append(act.Send(self.agent.tools, CallEnded(id=call.id)))
        self._all_returned()

    def _kept(self, ready: KeeperReady) -> None:
        view = self.s.view
        vw.leave(view, self.agent.spec.name, ready.span, ready.line)
        if self.s.phase == "shrinking" and view.leaving is None:
            self.think()
        mine = f"{ready.span.first}-{ready.span.last}"
        if (call := self._offloading(mine)) is not None:
            keeper = ready.keeper.rpartition("/")[2]
            text = (
                f"entries {mine} have left your view; {keeper} holds them. "
                f'recall("{keeper}:{mine}") gives them word for word, recall(query) searches'
            )
            self._close(call, ToolResult(id=call.id, text=text))
            self._all_returned()

    def _offloading(self, about: str = "") -> OpenCall | None:
        """The call that waits for a keeper to take a stretch over."""
        return next(
            (
                call
                for call in self.s.calls
                if call.to == "keeper" and call.result is None and about in ("", call.about)
            ),
            None,
        )

    def _timer(self, timer: act.TimerDue) -> None:
        if timer.key == WALL and timer.due == self.s.wall:
            if self.s.paused or self._asking():
                self._arm()  # a person's time is not the agent's
            else:
                self.s.wall = 0.0
                self._exceeded(lim.wall(self.agent.limits))

    def _asking(self) -> bool:
        """Is a person's answer all that it waits for?"""
        return bool(self.s.calls) and all(
            call.name in ASKS for call in self.s.calls if call.result is None
        )

    def _arm(self) -> None:
        wall = self.agent.limits.wall_s
        if wall is not None:
            self.s.wall = self.now + wall
            self.out.append(act.SetTimer(WALL, self.s.wall))

    def _controlled(self, body: Control) -> None:
        s = self.s
        match body.op:
            case "pause":
                s.paused = True
            case "resume":
                if s.paused and s.wall:
                    self._arm()
                s.paused = False
                if s.phase == "held":
                    self.think()
            case "step":
                if s.phase == "held":
                    self._request()
            case "cancel" | "stop":
                kind = "cancelled" if body.op == "cancel" else "stopped"
                self._cancelled(kind, body.reason or kind)
            case _:
                assert_never(body.op)

    def _cancelled(self, kind: str, reason: str) -> None:
        """Ends the task in hand and those that wait; each gets its report."""
        s = self.s
        s.paused = False
        tasks, s.tasks = s.tasks, []
        if s.phase not in AT_REST:
            self._fail(kind, reason)
        elif kind == "stopped":  # whoever stops an agent waits for its last word
            self._report("", "failed", reason, kind)
        for task in tasks:
            s.arrived.append(task.entry)
            self._report(task.id, "failed", reason, kind)

    def _undelivered(self, body: Undelivered) -> None:
        """What was refused counts as failed, so that nobody waits for ever."""
        try:
            refused: Body | None = codec.body(body.body)
        except LoomError:
            refused = None
        detail = f"{body.to} could not take it: {body.reason}"
        match refused:
            case ModelRequest():
                outcome = Failed(kind="server", detail=detail, retryable=True)
                self._answered(ModelOutcome(request=refused.id, outcome=outcome))
            case ToolCall() | TeamCall():
                self._returned(ToolResult(id=refused.id, ok=False, error="failed", text=detail))
            case Offload():
                self.s.view.leaving = None
                if (call := self._offloading()) is not None:
                    text = f"no keeper: {detail}"
                    self._returned(ToolResult(id=call.id, ok=False, error="failed", text=text))
                if self.s.phase == "shrinking":
                    self._fail("context_overflow", f"no keeper: {detail}")
            case _:
                self.emit("undelivered", {"to": body.to, "reason": body.reason})

    def _restarted(self, body: Restarted) -> None:
        """The model shall know why calls of that time broke off; it costs no request of its own."""
        text = (
            f"The daemon was restarted at {body.when}. All that was said and decided is kept; tool "
            "calls under way then were run again or interrupted, as their results say."
        )
        self.s.aside.append(self.append(Entry(role="note", text=text)))
        del self.s.aside[:-MAX_ASIDE]  # older ones stay in the log

    # --- moves ---------------------------------------------------------------------------------

    def _move(self, phase: Phase) -> None:
        if phase not in MOVES[self.s.phase]:
            raise IllegalMove(f"{self.agent.spec.name}: {self.s.phase} -> {phase}: {self.s}")
        self.s.phase = phase

    def _begin(self, task: Task) -> None:
        self.s.task = task
        self.s.arrived.append(task.entry)
        self.s.usage = Usage()
        self._rise()

    def _rise(self) -> None:
        """From rest to work: everything that limits an agent counts from here."""
        self.s.counters = type(self.s.counters)()
        self.s.kind = ""
        rec.descend(self, None, "a new task")
        self._arm()
        self.think()

    def think(self) -> None:
        """On to the next request, unless paused or at a limit."""
        if self.s.paused:
            self._move("held")
            return
        self._request()

    def _request(self) -> None:
        s = self.s
        for one in sorted([*s.arrived, *s.aside], key=lambda arrived: arrived.n):
            vw.add(s.view, [one.n], one.tokens)
        s.arrived.clear()
        s.aside.clear()
        exceeded = lim.exceeded(self.agent.limits, s.counters)
        if exceeded is not None:
            self._exceeded(exceeded)
            return
        self._offload(self._view_tokens())
        s.turn += 1
        s.counters.iterations += 1
        s.request = f"{self.agent.spec.name}:{s.turn}"
        self._move("thinking")
        request = self._model_request()
        self.out.append(act.Send("models", request))
        self.emit("model_request", {"request": s.request, "model": request.model})

    def _model_request(self) -> ModelRequest:
        s, spec, role = self.s, self.agent.spec, self.agent.role
        with_ = rec.parameters_of(spec, s)
        usual = str(spec.args.get("model") or role.model)
        # A smaller view is smaller at once; what is left out of it is on its way to a keeper.
        limit = self._view_tokens() if with_.view < 1 else 0
        task = (s.task.id, s.task.text) if s.task else None
        return ModelRequest(
            id=s.request,
            session=spec.session,
            agent=spec.name,
            role=spec.role,
            purpose="review" if s.reviews else "turn",
            model=rec.model(usual, self.agent.fallback, with_),
            view=View(
                pinned=pinned(role, spec.name, spec.args, task, vw.lines(s.view)),
                spans=vw.spans(s.view, spec.name, limit, needed=self._needed()),
                shared=len(shared_blocks(role, spec.args)),
            ),
            tools=role.tools,
            temperature=rec.temperature(role.temperature, with_),
            task=s.task.id if s.task else "",
            budget_usd=spec.args.get("budget_usd"),
            interactive=spec.args.get("answers") == "person" or s.person,
        )

    def _view_tokens(self) -> int:
        with_ = rec.parameters_of(self.agent.spec, self.s)
        return rec.view_tokens(self.agent.limits.view_tokens, with_)

    def _needed(self) -> int:
        """The oldest entry that must stay in view: what awaits a verdict or an answer."""
        return min([*self.s.reviews.values(), *self.s.inquiries.values()], default=0)

    def _offload_asked(self, call: Call, one: OpenCall) -> None:
        """The tool `offload(title, keep)`: answered when a keeper has the stretch."""
        title, keep = call.args.get("title", ""), call.args.get("keep", KEPT)
        wrong = bool(set(call.args) - {"title", "keep"})
        error, text = "", ""
        if wrong or not isinstance(title, str) or type(keep) is not int or keep < 1:
            error, text = "bad_args", "offload(title, keep): title is text, keep a number from 1"
        elif self.s.view.leaving is not None:
            error, text = "conflict", "a stretch is on its way to a keeper already; go on"
        elif (stretch := vw.stretch(self.s.view, keep, self._needed())) is None:
            text = f"your view has no more than what stays: {len(self.s.view.blocks)} messages"
            error = "not_found"
        else:
            one.about = f"{stretch.first}-{stretch.last}"
            self._offer(stretch, " ".join(title.split())[:80])
            return
        self._close(one, ToolResult(id=call.id, ok=False, error=error, text=text))

    def _offer(self, stretch: vw.Range, title: str) -> None:
        self.s.view.leaving = stretch
        self.out.append(
            act.Send(self.agent.team, Offload(first=stretch.first, last=stretch.last, title=title))
        )

    def _offload(self, threshold: int) -> None:
        """Offers the oldest stretch to a keeper; it stays in the view until one has it."""
        s = self.s
        # What awaits a verdict must stay before the reviewer's eyes.
        stretch = vw.oldest(s.view, threshold, needed=self._needed())
        if stretch is None:
            return
        title = " ".join(s.task.text.split())[:80] if s.task else self.agent.spec.role
        self._offer(stretch, title)

    def _act(self, outcome: ToolCalls, body: ModelOutcome) -> None:
        """The model called tools: each call goes to who answers it, in order."""
        s = self.s
        turn = f"{self.agent.spec.name}:{s.turn}"
        calls = tuple(
            msgspec.structs.replace(call, id=f"{turn}.{i}")
            for i, call in enumerate(_bounded(outcome.calls), 1)
        )
        s.spoken = self.append(
            Entry(
                role="assistant",
                text=cut(outcome.text, ANSWER_TEXT),
                calls=calls,
                reasoning=cut(outcome.reasoning, ANSWER_TEXT),
                model=body.model,
            )
        )
        wrong = [call for call in calls if call.error]
        s.counters.astray = wrong[0].error[:EVENT_TEXT] if wrong else ""
        s.calls = [_open(call) for call in calls]
        for call in calls:
            args = _short(call.args)
            self.emit("tool_call", {"call": call.id, "name": call.name, "args": args})
        self._move("acting")
        if wrong and s.counters.retries >= MAX_RETRIES:
            self._call_failed(wrong)
            return
        repeated = lim.record(self.agent.limits, s.counters, calls)
        if repeated is not None:
            for one in s.calls:  # not executed, so there is nothing to cancel
                self._close(one, ToolResult(id=one.id, ok=False, text="not executed: repeated"))
            self._turn_ends()
            if not rec.climb(self, repeated.kind, repeated.text):
                self._exceeded(repeated)
            return
        after = order.after(calls, str(self.agent.spec.args.get("repo") or ""))
        for one in s.calls:
            one.awaited = any(one.id in before for before in after.values())
        for call, one in zip(calls, s.calls, strict=True):
            self._call(call, one, after.get(call.id, ()))
        self._all_returned()

    def _call_failed(self, wrong: list[Call]) -> None:
        """The model was told often enough; nothing of this turn is executed."""
        errors = {call.id: call.error for call in wrong}
        for one in self.s.calls:
            text = errors.get(one.id) or "not executed: another call of this turn cannot be used"
            self._close(one, ToolResult(id=one.id, ok=False, error="bad_args", text=text))
        self._turn_ends()
        self._astray()

    def _astray(self) -> None:
        times, why = MAX_RETRIES + 1, self.s.counters.astray
        detail = f"{times} times in a row a call could not be used: {why}"
        self._model_failed(Failed(kind="malformed", detail=detail))

    def _call(self, call: Call, one: OpenCall, after: tuple[str, ...] = ()) -> None:
        task = self.s.task.id if self.s.task else ""
        if call.error:
            error = call.fault or "bad_args"
            self._close(one, ToolResult(id=call.id, ok=False, error=error, text=call.error))
        elif one.to == "keeper":
            self._offload_asked(call, one)
        elif one.to == "team":
            self.out.append(
                act.Send(
                    self.agent.team,
                    TeamCall(id=call.id, name=call.name, args=call.args, task=task),
                )
            )
        else:
            self.out.append(
                act.Send(
                    self.agent.tools,
                    ToolCall(
                        id=call.id,
                        agent=self.agent.spec.name,
                        name=call.name,
                        args=call.args,
                        task=task,
                        reply_to=self.agent.spec.name,
                        after=after,
                    ),
                )
            )

    def _close(self, call: OpenCall, result: ToolResult) -> None:
        """The result becomes an entry of the log as soon as it is there."""
        text = result.text or (result.error if not result.ok and not result.blob else "")
        call.result = self.append(
            Entry(
                role="tool",
                text=cut(text, SAID_TEXT),
                call=call.id,
                name=call.name,
                ok=result.ok,
                error=result.error[:100],
                blob=result.blob,
                sender=f"{self.agent.spec.session}/{call.to}" if call.to in ACTORS else "",
            )
        )
        if result.error == "no_such_tool":
            self.s.counters.astray = self.s.counters.astray or cut(text, EVENT_TEXT)
        if call.about in self.s.reviews and (result.ok or result.error not in UNSAID):
            del self.s.reviews[call.about]
            self.s.counters.iterations = 0  # a verdict is a task done
            self.s.counters.reminded = False
        if call.about in self.s.inquiries and (result.ok or result.error not in UNSAID):
            del self.s.inquiries[call.about]
        self.emit(
            "tool_result",
            {
                "call": call.id,
                "name": call.name,
                "ok": result.ok,
                "error": result.error,
                "text": cut(text, EVENT_TEXT),
            },
        )

    def _all_returned(self) -> None:
        counters = self.s.counters
        if self.s.calls and all(call.result is not None for call in self.s.calls):
            self._turn_ends()
            if counters.astray and counters.retries >= MAX_RETRIES:
                self._astray()
                return
            counters.retries = counters.retries + 1 if counters.astray else 0
            self.think()

    def _turn_ends(self) -> None:
        """The turn enters the view as one block: the assistant's entry, results in call order."""
        s = self.s
        assert s.spoken is not None
        block = [s.spoken, *(call.result for call in s.calls if call.result is not None)]
        vw.add(s.view, [one.n for one in block], sum(one.tokens for one in block))
        s.spoken = None
        s.calls = []

    def _conclude(self, outcome: FinalAnswer, body: ModelOutcome) -> None:
        """The model ended with words. It goes on if something was said meanwhile, or if edits
        still await its verdict, or questions its answer (said once)."""
        s = self.s
        entry = self.append(
            Entry(
                role="assistant",
                text=cut(outcome.text, SAID_TEXT),
                reasoning=cut(outcome.reasoning, ANSWER_TEXT),
                model=body.model,
            )
        )
        vw.add(s.view, [entry.n], entry.tokens)
        s.counters.retries = 0
        if (s.reviews or s.inquiries) and not s.arrived and not s.counters.reminded:
            s.counters.reminded = True
            if s.reviews:
                edits = ", ".join(s.reviews)
                self.tell(
                    f"These review requests have no verdict yet: {edits}. "
                    "Answer each with review(edit, verdict, reason)."
                )
            if s.inquiries:
                self.tell(
                    f"These questions have no answer of yours yet: {', '.join(s.inquiries)}. "
                    "Answer each with answer(text, question)."
                )
        if s.arrived:
            self.think()
        elif s.reviews:
            self._fail("no_verdict", f"no verdict on {', '.join(s.reviews)}: {outcome.text}")
        else:
            self._answer_with(outcome.text)
            self._rest("done", outcome.text)

    def _answer_with(self, text: str) -> None:
        """Who ends without a word to what it was asked has answered with its last one."""
        for i, question in enumerate(self.s.inquiries, 1):
            args = {"question": question, "text": text}
            id = f"{self.agent.spec.name}:{self.s.turn}.said.{i}"  # no call of ours waits for it
            self.out.append(act.Send(self.agent.team, TeamCall(id=id, name="answer", args=args)))
        self.s.inquiries.clear()

    def _model_failed(self, failed: Failed) -> None:
        s = self.s
        if failed.kind in UNUSABLE and s.counters.retries < MAX_RETRIES:
            s.counters.retries += 1
            self.tell(
                f"Your last answer could not be used ({failed.kind}: {failed.detail}). "
                "Answer again: call tools, or end with a text."
            )
            self.think()
            return
        if failed.kind == "context_overflow" and s.counters.shrinks < MAX_SHRINKS:
            s.counters.shrinks += 1
            self._offload(s.view.tokens // 2)
            if s.view.leaving is not None:
                self._move("shrinking")
                return
        if not rec.climb(self, failed.kind, failed.detail or failed.kind):
            self._fail(failed.kind, failed.detail or failed.kind, failed.hint)

    def _exceeded(self, exceeded: Exceeded) -> None:
        self._fail(exceeded.kind, exceeded.text, exceeded.hint)

    def _fail(self, kind: str, text: str, hint: str = "") -> None:
        """Ends what is out and reports the failure with its kind."""
        self.abandon(kind)
        self.s.kind = kind
        if self.s.task is None and (self.s.reviews or self.s.inquiries or kind == "stopped"):
            # Reviews have no task: the team must hear that no verdict (or answer) will come.
            self._report("", "failed", text, kind=kind, hint=hint)
        self.s.reviews.clear()
        self.s.inquiries.clear()
        self._rest("failed", text, kind, hint)

    def abandon(self, why: str) -> None:
        """Cancels the request or the calls that are out; the view stays complete.

        In the lane of work: a cancellation must not overtake what it cancels.
        """
        s = self.s
        if s.request:
            self.out.append(act.Send("models", CancelModel(request=s.request)))
            s.request = ""
        if s.calls:
            for call in s.calls:
                if call.result is None:
                    if call.to == "tools":
                        cancel = CancelCall(id=call.id, reason=why)
                        self.out.append(act.Send(self.agent.tools, cancel))
                    gone = ToolResult(id=call.id, ok=False, error="cancelled", text=why)
                    self._close(call, gone)
            self._turn_ends()

    def _rest(self, phase: Phase, text: str, kind: str = "", hint: str = "") -> None:
        """The end of a piece of work; the next task, if one was assigned meanwhile, begins."""
        s = self.s
        if s.wall:
            s.wall = 0.0
            self.out.append(act.CancelTimer(WALL))
        s.person = False
        had_task = s.task is not None
        if s.task is not None:
            self._report(s.task.id, "done" if phase == "done" else "failed", text, kind, hint)
            s.task = None
        self._move(phase if had_task or phase == "failed" else "idle")
        if s.tasks:
            self._begin(s.tasks.pop(0))

    # --- helpers -------------------------------------------------------------------------------

    def append(self, entry: Entry) -> Arrived:
        s = self.s
        s.entries += 1
        entry = msgspec.structs.replace(entry, ts=self.now, text=cut(entry.text, SAID_TEXT))
        self.out.append(act.Append(s.entries, entry))
        return Arrived(s.entries, vw.entry_tokens(entry))

    def tell(self, text: str) -> None:
        """A word of ours to the model, before its next request."""
        self.s.arrived.append(self.append(Entry(role="note", text=text)))

    def _report(self, task: str, state: str, text: str, kind: str = "", hint: str = "") -> None:
        self.s.report = cut(text, OWN_REPORT)
        report = Report(
            task=task,
            state="done" if state == "done" else "failed",
            text=cut(text, REPORT_TEXT),
            kind=kind,
            hint=hint,
            usage=self.s.usage,
            entries=self.s.entries,
        )
        self.out.append(act.Send(self.agent.team, report))

    def emit(self, type: str, data: dict[str, Any]) -> None:
        self.out.append(act.Emit(type, {"agent": self.agent.spec.name, **data}))

    def show(self) -> None:
        """The status line and one event, if they changed in this step."""
        shown = self._status()
        before, self.s.shown = self.s.shown, shown
        if shown == before:
            return
        self.out.append(act.Show(*shown))
        if shown[0] != before[0]:
            self.emit("agent_state", {"state": shown[0], "waiting_for": shown[1]})

    def _status(self) -> tuple[str, str]:
        s = self.s
        match s.phase:
            case "thinking":
                return "thinking", "models"
            case "acting":
                names = [call.name for call in s.calls if call.result is None]
                state = "waiting" if all(name in LONG_CALLS for name in names) else "acting"
                return state, ", ".join(dict.fromkeys(names))
            case "shrinking":
                return "waiting", "keeper"
            case "held":
                return "paused", ""
            case "failed":
                return "failed", s.kind
            case "idle" | "done":
                return "paused" if s.paused else s.phase, ""
            case _:
                assert_never(s.phase)


def _open(call: Call) -> OpenCall:
    to = "" if call.error else "team" if call.name in TEAM_TOOLS else "tools"
    if to and call.name == "offload":
        to = "keeper"
    about = str(call.args.get(ABOUT.get(call.name, "")) or "")[:200]
    return OpenCall(call.id, call.name, to, about)


def _bounded(calls: tuple[Call, ...]) -> list[Call]:
    """Calls whose arguments fit; one that does not becomes an error the model is told."""
    left = ARGS_BYTES
    kept = []
    for call in calls[:MAX_CALLS]:  # beyond that the model is raving, and the state would burst
        size = len(codec.encode(call.args))
        if size > left:
            error = (
                f"the arguments ({size} bytes) are over the limit of {ARGS_BYTES} bytes a turn; "
                "write in smaller pieces"
            )
            call = msgspec.structs.replace(call, args={}, error=error)
        else:
            left -= size
        kept.append(call)
    return kept


def _short(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments for an event: long texts cut."""
    short = {
        key: cut(value, EVENT_TEXT)
        if isinstance(value, str)
        else value
        if len(codec.encode(value)) <= EVENT_TEXT
        else cut(repr(value), EVENT_TEXT)
        for key, value in args.items()
    }
    size = len(codec.encode(short))
    return short if size <= 8 * EVENT_TEXT else {"cut": f"{size} bytes"}


def _about_outcome(body: ModelOutcome) -> dict[str, Any]:
    data: dict[str, Any] = {
        "request": body.request,
        "kind": "",
        "model": body.model,
        "usage": msgspec.to_builtins(body.usage),
        "text": "",
    }
    match body.outcome:
        case ToolCalls(calls=calls, text=text):
            data |= {
                "kind": "tool_calls",
                "text": cut(text, EVENT_TEXT),
                "calls": [call.name for call in calls],
            }
        case FinalAnswer(text=text):
            data |= {"kind": "final", "text": cut(text, EVENT_TEXT)}
        case Failed(kind=kind, detail=detail, hint=hint, phase=phase):
            data |= {"kind": kind, "text": cut(detail, EVENT_TEXT), "hint": hint}
            data |= {"phase": phase} if phase else {}
    if body.outcome.note:
        data["note"] = cut(body.outcome.note, EVENT_TEXT)
    if not isinstance(body.outcome, Failed) and body.outcome.repairs:
        # What was mended before anybody acted on it, so that people can see how a model writes.
        repairs = body.outcome.repairs[:MAX_CALLS]
        data["repairs"] = [
            {"kind": one.kind, "call": one.call, "detail": one.detail} for one in repairs
        ]
    return data


def _sum(a: Usage, b: Usage) -> Usage:
    cost = None if a.cost_usd is None or b.cost_usd is None else a.cost_usd + b.cost_usd
    return Usage(
        input_tokens=a.input_tokens + b.input_tokens,
        output_tokens=a.output_tokens + b.output_tokens,
        cached_tokens=a.cached_tokens + b.cached_tokens,
        cache_write_tokens=a.cache_write_tokens + b.cache_write_tokens,
        reasoning_tokens=a.reasoning_tokens + b.reasoning_tokens,
        cost_usd=cost,
        calls=a.calls + b.calls,
    )
