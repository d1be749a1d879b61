"""One step of the team: its state, its changes, and what every handler needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from loomd.actor import behaviour as act
from loomd.store.schema import text_key
from loomd.team import claims as cl
from loomd.team import edits as ed
from loomd.team import questions as qu
from loomd.team import roster
from loomd.team import tasks as ta
from loomd.team.claims import Claim
from loomd.team.decisions import Graph, Row
from loomd.team.edits import Edit
from loomd.team.questions import Question
from loomd.team.roster import Agent
from loomd.team.state import Keeper, Saved, Team
from loomd.team.tasks import Task, TaskState
from loomd.wire.bodies import Assign, Control, Report, Span, ToolResult
from loomd.wire.messages import CONTROL

EVENT_TEXT = 2_000
"""Characters of a text in an event."""


@dataclass
class Turn:
    """Handlers change `team` and add to `out`; the host commits both together."""

    team: Team
    now: float
    out: list[act.Change] = field(default_factory=list)
    fates: dict[str, Edit] = field(default_factory=dict)  # edits that have ended in this step

    @property
    def s(self) -> Saved:
        return self.team.saved

    # --- small change --------------------------------------------------------------------------

    def emit(self, type: str, /, **data: Any) -> None:
        self.out.append(act.Emit(type, data))

    def ignored(self, what: str, sender: str, why: str) -> None:
        """Something that fits nowhere: said in the log, never an error."""
        self.emit("team_ignored", what=what, sender=sender, reason=why)

    def answer(self, agent: str, call: str, text: str, error: str = "", /, **data: Any) -> None:
        """Answers a call, if who made it is still there to hear it."""
        if call and agent in self.s.agents:
            result = ToolResult(id=call, ok=not error, text=text, error=error, data=data)
            self.out.append(act.Send(agent, result))

    def number(self, kind: str) -> int:
        """The next number of a kind of id."""
        self.s.counters[kind] = n = self.s.counters.get(kind, 0) + 1
        return n

    # --- rows ----------------------------------------------------------------------------------

    def _put(self, table: str, id: str, value: dict[str, Any]) -> None:
        self.out.append(act.Put(table, text_key(self.team.session, id), value))

    def put_task(self, task: Task) -> None:
        self._put("tasks", task.id, ta.row(task))

    def put_claim(self, claim: Claim) -> None:
        self._put("claims", claim.id, cl.row(claim))

    def put_edit(self, edit: Edit) -> None:
        self._put("edits", edit.id, ed.row(edit))

    def put_question(self, question: Question) -> None:
        self._put("questions", question.id, qu.row(question))

    def put_keeper(self, keeper: Keeper) -> None:
        self._put("keepers", keeper.id, msgspec.to_builtins(keeper))

    def graph(self) -> Graph:
        return Graph(self.team.session, self.s.counters.get("node", 0))

    def record(self, graph: Graph, rows: list[Row], say: bool = False) -> None:
        """Puts rows of the decision graph; `say`: the nodes are events too."""
        self.s.counters["node"] = graph.count
        for row in rows:
            key = text_key(self.team.project, row["id"])
            self.out.append(act.Put("decisions", key, row))
            if row["kind"] == "node":
                self.team.nodes.add(row["id"])
                if say and row["type"] != "option":
                    self.emit("decision", id=row["id"], type=row["type"], title=row["title"])

    # --- who is there --------------------------------------------------------------------------

    def resolve(self, agent: Agent, to: str) -> str | None:
        """The full name of another agent at work, or None."""
        to = to.strip()
        name = self.s.lead if to == "lead" else to if "/" in to else f"{self.team.session}/{to}"
        return name if name in self.s.agents and name != agent.name else None

    def others(self, agent: Agent) -> tuple[str, ...]:
        return tuple(one.name for one in self.s.agents.values() if one.name != agent.name)

    def others_listed(self, agent: Agent) -> str:
        return ", ".join(roster.short(name) for name in self.others(agent)) or "nobody else"

    def waits(self) -> dict[str, set[str]]:
        """Who waits for whom, because of reports and questions."""
        edges = roster.waits(self.s.agents)
        for question in self.team.inquiries.values():
            edges.setdefault(question.agent, set()).add(question.to)
        return edges

    def all_waits(self) -> dict[str, set[str]]:
        """The same, and because of claims."""
        edges = self.waits()
        for name, others in self.team.claims.waits(self.team.related).items():
            edges.setdefault(name, set()).update(others)
        return edges

    def queued(self) -> list[Task]:
        """Tasks that wait for a new agent to be started."""
        return [
            task
            for task in self.team.tasks.values()
            if task.state == "queued" and not task.owner and (task.call or task.by)
        ]

    def full(self, agent: Agent) -> str:
        """Why `agent` cannot have another one started or queued; "" if it can."""
        size, queued = roster.team_size(self.team.args), len(self.queued())
        deep = roster.depth(self.s.agents, agent.name) >= roster.DEPTH
        if not deep and len(self.s.agents) + queued < size + roster.SPARE:
            return ""
        there = roster.listed(self.s.agents)
        return (
            f"the team is full: {size} agents may work beside each other, a chain of those that "
            f"wait for each other is at most {roster.DEPTH} long, and {queued} spawns wait for a "
            f"place. There are: {there}. Wait for a report, or do it yourself"
        )

    # --- agents --------------------------------------------------------------------------------

    def agent(self, role: str, *, parent: str = "", task: str = "", gate: bool = False) -> Agent:
        """Starts an agent with the next name of its role."""
        name = roster.name_for(self.team.session, role, self.number(f"role:{role}"))
        agent = Agent(name=name, role=role, parent=parent, task=task, gate=gate)
        self.s.agents[name] = agent
        self.start(agent)
        return agent

    def start(self, agent: Agent) -> None:
        """Wants it running, be it new or asleep."""
        task = self.team.tasks.get(self.s.task)
        goal = task.text if task is not None else ""
        team = self.team
        spec = roster.agent_spec(team.session, agent, team.args, goal, team.ladder)
        self.out.append(act.Start(spec))
        self.emit("agent_started", name=agent.name, role=agent.role, task=agent.task)
        if self.s.paused:
            self.out.append(act.Send(agent.name, Control(op="pause"), lane=CONTROL))

    def new_task(self, text: str, **more: Any) -> Task:
        task = ta.new_task(self.number("task"), text, self.now, **more)
        self.team.tasks[task.id] = task
        return task

    def assign(self, task: Task, agent: Agent, text: str, sender: str) -> None:
        """Gives a task to an agent that has none. The row is put with its owner."""
        task.owner, task.state = agent.name, "running"
        agent.task = task.id
        self.put_task(task)
        self.emit(
            "task_created", task=task.id, title=task.title, owner=agent.name, parent=task.parent
        )
        self.out.append(act.Send(agent.name, Assign(task=task.id, text=text, sender=sender)))

    def end_task(self, task: Task, state: TaskState, kind: str = "") -> None:
        if task.unfinished:
            ta.close(task, state, self.now, kind)
            self.put_task(task)
            self.emit("task_ended", task=task.id, state=state, kind=kind, owner=task.owner)

    # --- keepers -------------------------------------------------------------------------------

    def keep(self, log: str, first: int, last: int, title: str, owner: str = "") -> None:
        """Starts a keeper over entries first..last of an agent's log."""
        id = f"keeper-{self.number('keeper')}"
        name = f"{self.team.session}/{id}"
        keeper = Keeper(
            id=id,
            log=log,
            first=first,
            last=last,
            title=title,
            entries=last - first + 1,
            owner=owner,
        )
        self.team.keepers[id] = keeper
        self.put_keeper(keeper)
        args = {"log": log, "first": first, "last": last, "title": title}
        self.out.append(
            act.Start(
                act.Spec(
                    name=name,
                    kind="keeper",
                    session=self.team.session,
                    args=args,
                    nice=roster.NICE,
                )
            )
        )
        self.emit("keeper_started", keeper=name, log=log, first=first, last=last)

    def keep_log(self, agent: Agent, report: Report) -> None:
        """What an agent has said up to its report goes to a keeper, as far as none has it yet."""
        first, last = agent.kept + 1, report.entries
        if last - first + 1 >= 2:
            task = self.team.tasks.get(report.task)
            self.keep(agent.name, first, last, task.title if task is not None else "")
            agent.kept = last

    def span_kept(self, agent: Agent, span: Span) -> None:
        if span.first <= agent.kept + 1:
            agent.kept = max(agent.kept, span.last)
