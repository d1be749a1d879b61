"""The permission part of a tool host's step: judges calls, asks about them, takes answers. Pure.

Every decision is an event of the session, in the commit that it is made in: `permission_judged`
says what the rules said of a call, `permission_asked` and `permission_decided` what a person did
(the latter is the hub's, unless nobody has answered in time), `permission_closed` that a question
needs no answer any more.

Nothing waits for ever: a question has a time, and where nobody can answer, asking is denying.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from loomd import rules
from loomd.actor.behaviour import CancelTimer, Change, Emit, Put, SetTimer
from loomd.rules import Rule
from loomd.store.schema import text_key
from loomd.tools.facts import WRITES, Call
from loomd.tools.needs import Needs, needs
from loomd.tools.permissions import Decided, Policy, decide
from loomd.tools.protected import NOWHERE, Ground, unwritable
from loomd.tools.shellenv import judged, told_folder
from loomd.wire.bodies import Decision, Propose, ToolCall

SHOWN: Final = 2_000
"""Characters of a call's arguments in a question."""

PROTECTED: Final = "[protected]"
"""The built-in rule by which a person is asked about a place."""

BRIEF: Final = 300
"""Characters of a call in an event."""

ANSWER_S: Final = 3600.0
DETACHED_ANSWER_S: Final = 259_200.0

Answers = Literal["person", "later", "nobody"]
"""Who can answer: a client is there; one may come; none will."""


@dataclass
class Book:
    """What a session knows of permissions. granted: rules of this session's answers; saved: those
    of answers for always in this project, by id; fixed: of the configuration and the project."""

    modes: tuple[str, ...] = ("on-request",)
    fixed: tuple[Rule, ...] = ()
    yes: bool = False
    answers: str = "person"
    answer_s: float = ANSWER_S
    ground: Ground = NOWHERE
    granted: list[str] = field(default_factory=list)
    saved: dict[str, str] = field(default_factory=dict)
    _read: tuple[Any, Policy] | None = None

    @property
    def policy(self) -> Policy:
        """What is in force; rules are read once, until there are others."""
        said = (self.modes, self.fixed, self.yes, (*self.granted,), (*self.saved.items(),))
        if self._read is None or self._read[0] != said:
            session = [rules.parse("allow", text, "session") for text in self.granted]
            saved = [rules.parse("allow", text, "saved", id) for id, text in self.saved.items()]
            policy = Policy(self.modes, (*session, *self.fixed, *saved), self.yes)
            self._read = said, policy
        return self._read[1]

    def configure(self, args: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Another configuration; what was answered stands."""
        new = book(args, settings, (), self.ground)
        self.modes, self.fixed, self.answer_s = new.modes, new.fixed, new.answer_s

    def shown(self) -> dict[str, Any]:
        """Plain data for clients."""
        policy = self.policy
        return {
            "modes": list(policy.modes),
            "yes": policy.yes,
            "answers": self.answers,
            "rules": [
                {"verdict": r.verdict, "rule": r.text, "source": r.source, "id": r.id}
                for r in policy.rules
            ],
        }


def fixed(args: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules of the configuration and of the project."""
    own = {**(settings.get("permissions") or {}), **(args.get("permissions") or {})}
    project = (args.get("project") or {}).get("permissions") or {}
    return tuple(
        rules.parse(verdict, text, source)
        for source, table in (("config", own), ("project", project))
        for verdict in rules.VERDICTS
        for text in table.get(verdict) or ()
    )


def book(
    args: Mapping[str, Any], settings: Mapping[str, Any], granted: Iterable[str], ground: Ground
) -> Book:
    """From the spec of a session, its settings, and what was answered in it so far."""
    own = {**(settings.get("permissions") or {}), **(args.get("permissions") or {})}
    said = args.get("project") or {}
    project = said.get("permissions") or {}
    modes = [str(own.get("mode", "on-request"))]
    if project.get("mode"):
        # The stricter holds, unless the user has trusted the project.
        modes = [*([] if said.get("trusted") else modes), str(project["mode"])]
    answers = str(args.get("answers") or "person")
    later = answers == "later"
    wait = own.get("detached_answer_s" if later else "answer_s")
    return Book(
        modes=tuple(modes),
        fixed=fixed(args, settings),
        yes=bool(args.get("yes")),
        answers=answers,
        answer_s=float(wait or (DETACHED_ANSWER_S if later else ANSWER_S)),
        ground=replace(ground, repo=str(args.get("repo") or "/")),
        granted=list(granted),
    )


class Desk:
    """One step's. `tools`: the toolset rows by name; `out`: what is to change."""

    def __init__(
        self,
        book: Book,
        session: str,
        actor: str,
        tools: Mapping[str, Mapping[str, Any]],
        now: float,
        out: list[Change],
    ) -> None:
        self.book = book
        self.session = session
        self.actor = actor
        self.tools = tools
        self.now = now
        self.out = out

    # --- judging -------------------------------------------------------------------------------

    def call(self, call: ToolCall) -> tuple[Call, Ground]:
        """A tool call as it is judged."""
        row = self.tools.get(call.name) or {}
        first = next(iter((row.get("parameters") or {}).get("properties") or {}), "")
        cwd = judged(call.cwd) if call.name == "shell" else "."
        ground = replace(self.book.ground, links=dict(call.links), cwd=cwd)
        need = needs(row, call.args) if row else Needs("execute")
        return Call(call.name, call.args, need.access, first, need.asks), ground

    def judge(self, call: ToolCall) -> Decided:
        """What holds for a call, and for the record. Where nobody can answer, ask is deny."""
        asked, ground = self.call(call)
        found = decide(asked, self.book.policy, ground)
        if found.verdict == "ask" and self.book.answers == "nobody":
            found = replace(
                found, verdict="deny", reason=f"{found.reason}; {self._headless(found)}"
            )
        data: dict[str, Any] = {
            "call": call.id,
            "agent": call.agent,
            "tool": call.name,
            "what": brief(call),
            "verdict": found.verdict,
            "rule": found.rule,
            "source": found.source,
        }
        if call.cwd:
            data["cwd"] = told_folder(call.cwd)
        if found.verdict != "allow":
            data["reason"] = found.reason
        self.out.append(Emit("permission_judged", data))
        return found

    def _headless(self, found: Decided) -> str:
        how = "open the session on a terminal, or with --detach and answer with loomctl approve"
        rule = f"; or allow {found.suggest[0]!r} under [permissions]" if found.suggest else ""
        return f"nobody is there to be asked: {how}; or with --yes{rule}"

    def denied(self, call: str, agent: str, tool: str, what: str, reason: str) -> None:
        """For the record: what was judged before, and turned out to be something else."""
        data = {"call": call, "agent": agent, "tool": tool, "what": what, "verdict": "deny"}
        data |= {"rule": "[after]", "source": "built-in", "reason": reason}
        self.out.append(Emit("permission_judged", data))

    def refused(self, proposal: Propose) -> str:
        """Why what a call wants to become of the checkout is denied whatever was judged before it
        ran; "" if it is not. A command is not understood so well as what it has done."""
        for file in proposal.files:
            for place in self.book.ground.places(file.path):
                if reason := unwritable(self.book.ground, place):
                    return f"it changes {file.path}: {reason}"
            call = Call("edit", {"path": file.path}, "write")
            found = decide(call, self.book.policy, self.book.ground)
            if found.verdict == "deny":
                return f"it changes {file.path}: {found.reason}"
            if found.verdict == "ask" and found.rule == PROTECTED and proposal.tool not in WRITES:
                how = "use `edit` or `write` for it, so that a person can be asked"
                return f"it changes {file.path}: {found.reason}; {how}"
        return ""

    # --- asking --------------------------------------------------------------------------------

    def ask(self, call: ToolCall, found: Decided, question: str) -> None:
        asked = self.call(call)[0]
        text = f"{call.agent} wants to {_said(asked.access)}: {_shown(call)}"
        if call.cwd:
            text += f"\nIt begins in {told_folder(call.cwd)}."
        if asked.asks:
            text += f"\nThis {asked.asks}. All files are kept in a snapshot before."
        row = self._row(call, question, text) | {
            "scopes": list(found.scopes),
            "rules": list(found.suggest),
            "reason": found.reason,
            "until": self.now + self.book.answer_s,
        }
        self.out.append(Put("questions", text_key(self.session, question), row))
        data = {"id": question, "text": text, "agent": call.agent, "tool": call.name}
        data |= {"call": call.id, "scopes": row["scopes"], "rules": row["rules"]}
        self.out.append(Emit("permission_asked", data | {"reason": found.reason}))
        self.out.append(SetTimer(_timer(question), self.now + self.book.answer_s))

    def _row(self, call: ToolCall, question: str, text: str) -> dict[str, Any]:
        return {
            "id": question,
            "session": self.session,
            "actor": self.actor,
            "kind": "permission",
            "text": text,
            "tool": call.name,
            "args": {name: _short(value) for name, value in call.args.items()},
            "agent": call.agent,
            "call": call.id,
            "state": "open",
            "asked": self.now,
            "by": "",
            "allow": None,
        }

    def close(self, call: ToolCall, question: str, why: str) -> None:
        """A question that needs no answer any more."""
        row = self._row(call, question, _shown(call)) | {"state": "closed", "reason": why}
        self.out.append(Put("questions", text_key(self.session, question), row))
        self.out.append(CancelTimer(_timer(question)))
        self.out.append(Emit("permission_closed", {"id": question, "call": call.id, "reason": why}))

    def unanswered(self, call: ToolCall, question: str) -> str:
        """Nobody has answered in time: denied, for the record and for the agent."""
        text = f"nobody has answered within {self.book.answer_s:g} s"
        row = self._row(call, question, _shown(call)) | {"state": "answered", "allow": False}
        row |= {"by": "nobody", "answer": text, "answered": self.now}
        self.out.append(Put("questions", text_key(self.session, question), row))
        data: dict[str, Any] = {
            "id": question,
            "decision": "deny",
            "by": "nobody",
            "scope": "once",
            "text": text,
        }
        data |= {"call": call.id, "agent": call.agent, "tool": call.name, "rules": []}
        self.out.append(Emit("permission_decided", data))
        return text

    # --- answers -------------------------------------------------------------------------------

    def answered(self, call: ToolCall, decision: Decision) -> bool:
        """A person's answer; whether what others wait for may be decided by it too."""
        self.out.append(CancelTimer(_timer(decision.question)))
        if not decision.allow or decision.scope == "once":
            return False
        asked, ground = self.call(call)
        found = decide(asked, self.book.policy, ground)
        if decision.scope not in found.scopes:
            return False
        if decision.scope == "session":
            self.book.granted += [r for r in found.suggest if r not in self.book.granted]
        else:
            # The hub has saved them; its word may come after what others are decided by.
            known = set(self.book.saved.values())
            self.book.saved |= {r: r for r in found.suggest if r not in known}
        return True

    def told(self, saved: Mapping[str, str]) -> None:
        """All rules that are saved for this project now."""
        self.book.saved = dict(saved)

    def now_allowed(self, call: ToolCall) -> bool:
        """Whether a call that is asked about needs no answer any more."""
        return decide(*self._judged(call)).verdict == "allow"

    def now_denied(self, call: ToolCall) -> bool:
        """Whether a call that a person has allowed is denied all the same: the rules have changed
        since it was asked about."""
        return decide(*self._judged(call)).verdict == "deny"

    def _judged(self, call: ToolCall) -> tuple[Call, Policy, Ground]:
        asked, ground = self.call(call)
        return asked, self.book.policy, ground


def question_of(timer: str) -> str:
    """The question whose time is over; "" if the timer is none of ours."""
    return timer.removeprefix("question:") if timer.startswith("question:") else ""


def _timer(question: str) -> str:
    return f"question:{question}"


def _said(access: str) -> str:
    return {"execute": "run", "network": "use the network with", "write": "change"}.get(
        access, access
    )


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > SHOWN:
        return f"{value[:SHOWN]}... ({len(value)} characters)"
    return value if isinstance(value, str | int | float | bool | None) else str(value)[:SHOWN]


def _shown(call: ToolCall) -> str:
    """`name(args)` in short; of a command just that."""
    if call.name == "shell" and isinstance(call.args.get("command"), str):
        return f"shell: {_short(call.args['command'])}"
    args = ", ".join(f"{name}={_short(value)!r}" for name, value in call.args.items())
    return f"{call.name}({args})"[: 2 * SHOWN]


def brief(call: ToolCall) -> str:
    text = _shown(call)
    return text if len(text) <= BRIEF else f"{text[:BRIEF]}..."
