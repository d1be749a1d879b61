"""A team and its tools in memory, small enough to read, for `offline/rules` to play on.

The real ones are processes; here a dict of files, one conversation per agent, and the same rules:
an edit needs `old` once, and a reviewer's approval before it is written.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Any

from loomd.gateway import offline
from loomd.gateway.types import Resolved, ToolSchema
from loomd.tools.paths import translate
from loomd.wire.bodies import Call, Entry, Failed, FinalAnswer, ToolCalls

TOOLS = {
    "lead": "read list glob grep shell spawn decide send share ask claim recall edit write",
    "researcher": "read list glob grep recall send decide",
    "coder": "read write edit list glob grep shell claim decide",
    "reviewer": "read list glob grep review",
    "tester": "read shell",
}


@dataclass
class Agent:
    name: str
    role: str
    entries: list[Entry] = field(default_factory=list)
    task: str = ""
    turns: int = 0


@dataclass
class Team:
    """`page`: lines of one read. `view`: entries that an
    agent still sees. `shell`: answers of the tests, one per run. `spoil`: edits that are answered
    `conflict` first. `shut`: places that a grep cannot look into."""

    files: dict[str, str]
    size: int = 5
    page: int = 100_000
    view: int = 1000
    forget: bool = False  # reasoning is not kept
    shell: list[str] = field(default_factory=list)
    spoil: int = 0
    shut: dict[str, str] = field(default_factory=dict)
    kill: int = 0  # spawned coders that fail
    interrupt: str = ""  # said to the lead after its first turn
    interrupter: str = "user"
    late: dict[str, str] = field(default_factory=dict)  # said to a role as its answer is on its way
    task_sender: str = "s-1/team"
    calls: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    verdicts: list[tuple[str, str]] = field(default_factory=list)
    lead: Agent | None = None
    reviewer: Agent | None = None
    edits: int = 0

    def run(self, goal: str) -> FinalAnswer | Failed:
        if self.lead is None:
            self.lead = Agent("s-1/lead", "lead")
        return self.assign(self.lead, goal)

    def assign(self, agent: Agent, task: str) -> FinalAnswer | Failed:
        agent.entries.append(Entry(role="user", text=task, sender=self.task_sender))
        agent.task = task
        return self.work(agent)

    def work(self, agent: Agent) -> FinalAnswer | Failed:
        for _ in range(30 if agent.role == "coder" else 120):
            outcome = offline.complete(self.resolved(agent))
            if isinstance(outcome, Failed):
                return outcome
            if isinstance(outcome, FinalAnswer):
                agent.entries.append(Entry(role="assistant", text=outcome.text))
                if said := self.late.pop(agent.role, ""):
                    agent.entries.append(Entry(role="user", text=said, sender="user"))
                    continue
                return outcome
            self.turn(agent, outcome)
        raise AssertionError(f"{agent.name} does not come to an end")

    def resolved(self, agent: Agent) -> Resolved:
        agent.turns += 1
        entries = agent.entries
        first = max(0, len(entries) - self.view)
        while first and entries[first].role == "tool":  # a call and its results stay together
            first -= 1
        return Resolved(
            role=agent.role,
            pinned=(
                f"You are the {agent.role} of a team of coding agents.",
                f"Team size: {self.size}\nRepo: /repo",
                f"Task t-1: {agent.task[:6000]}",
            ),
            entries=tuple(entries[first:]),
            tools=tuple(ToolSchema(name) for name in TOOLS[agent.role].split()),
            model="offline/rules",
            agent=agent.name,
            request=f"{agent.name}:{agent.turns}",
        )

    def turn(self, agent: Agent, outcome: ToolCalls) -> None:
        assert outcome.calls
        assert len(outcome.reasoning) < 48_000
        reasoning = "" if self.forget else outcome.reasoning
        agent.entries.append(
            Entry(role="assistant", text=outcome.text, calls=outcome.calls, reasoning=reasoning)
        )
        for call in outcome.calls:
            assert call.name in TOOLS[agent.role].split()
            self.calls.append((agent.name, call.name, call.args))
            ok, text = self.answer(agent, call)
            agent.entries.append(Entry(role="tool", call=call.id, name=call.name, ok=ok, text=text))

        if self.interrupt and agent is self.lead:
            agent.entries.append(Entry(role="user", text=self.interrupt, sender=self.interrupter))
            self.interrupt = ""

    def answer(self, agent: Agent, call: Call) -> tuple[bool, str]:
        return getattr(self, f"tool_{call.name}")(agent, **call.args)

    # -- tools

    def tool_read(self, agent, path, offset=1, limit=2000):
        if path not in self.files:
            return False, f"{path}: no such file"
        lines = self.lines(self.files[path])
        count = min(limit, self.page)
        shown = lines[offset - 1 : offset - 1 + count]
        text = "".join(shown)
        if offset - 1 + count < len(lines):
            text += f"[there is more: continue with offset={offset + count}]"
        return True, text

    @staticmethod
    def lines(text):
        return re.findall(r"[^\n]*\n|[^\n]+\Z", text)

    def tool_grep(self, agent, pattern, path):
        hits = [
            f"{name}:{n}:{line}"
            for name, text in sorted(self.files.items())
            for n, line in enumerate(re.split(r"\r\n|\r|\n", text), 1)
            if re.search(pattern, line)
        ]
        said = hits or [f"nothing found in {len(self.files)} files"]
        return True, "\n".join(
            [*said, *(f"[not searched: {p}: {w}]" for p, w in self.shut.items())]
        )

    def tool_glob(self, agent, pattern):
        fits = re.compile(translate(pattern))
        found = [path for path in sorted(self.files) if fits.fullmatch(path)]
        return True, "\n".join(found)

    def tool_decide(self, agent, title, **more):
        return True, "d-1"

    def tool_claim(self, agent, path, region):
        return True, f"{path} {region} is yours"

    def tool_shell(self, agent, command):
        return True, self.shell.pop(0) if self.shell else "3 passed in 0.01s"

    def tool_spawn(self, agent, role, task):
        n = self.names[role] = self.names.get(role, 0) + 1
        assert self.size > 1
        if role == "coder" and self.kill:
            self.kill -= 1
            return False, "the agent gave up: crashed"
        outcome = self.assign(Agent(f"s-1/{role}-{n}", role), task)
        if isinstance(outcome, Failed):
            return False, f"{outcome.kind}: {outcome.detail}"
        report = outcome.text.encode()[:48_000].decode("utf-8", "ignore")  # as agents cut them
        return True, report

    def tool_edit(self, agent, path, old, new, reason=""):
        before = self.files[path]
        assert before.count(old) == 1, (path, old)
        if self.spoil:
            self.spoil -= 1
            self.files[path] = "# moved\n" + before
            return False, "conflict: the file has changed, read it again"
        after = before.replace(old, new)
        self.edits += 1
        verdict, said = self.review(f"e-{self.edits}", agent, path, before, after, reason)
        if verdict != "approve":
            return False, f"revise: {said}"
        self.files[path] = after
        return True, "applied"

    def review(self, edit, author, path, before, after, reason):
        made = difflib.unified_diff(self.lines(before), self.lines(after), path, path)
        diff = "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in made
        )
        if self.reviewer is None:
            self.reviewer = Agent("s-1/reviewer", "reviewer")
        self.reviewer.entries.append(
            Entry(
                role="user",
                text=f"Review request {edit} by {author.name}\nReason: {reason}\nFiles: {path}\n"
                f"```diff\n{diff}\n```",
                sender="s-1/team",
            )
        )
        before_count = len(self.verdicts)
        self.work(self.reviewer)
        assert len(self.verdicts) == before_count + 1
        return self.verdicts[-1]

    def tool_review(self, agent, edit, verdict, reason):
        self.verdicts.append((verdict, reason))
        return True, "noted"
