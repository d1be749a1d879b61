"""What the team remembers. Rows hold what grows; `Saved` is small and committed with each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final, Literal

import msgspec

from loomd.actor.behaviour import Birth, Reader
from loomd.actor.ladder import Rung, of_settings
from loomd.store.schema import name_key
from loomd.team import claims as cl
from loomd.team import edits as ed
from loomd.team import questions as qu
from loomd.team import roster
from loomd.team import tasks as ta
from loomd.team.claims import Claims
from loomd.team.decisions import project_of
from loomd.team.edits import Edit
from loomd.team.questions import Question
from loomd.team.roster import Agent
from loomd.team.tasks import Task
from loomd.team.votes import Vote
from loomd.wire import codec

Phase = Literal["new", "running", "ending", "over"]

ENDED_EDITS: Final = 500


class Outcome(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How the session's task ended. state: done | failed | stopped.

    kept: it was no task that anybody here can do, so the session stays what it was, with the answer
    that it had; `answer` only says why.
    """

    state: str
    kind: str = ""
    answer: str = ""
    hint: str = ""
    kept: bool = False


class Keeper(msgspec.Struct, kw_only=True):
    """A row of `keepers`. `id` is its short name; state: starting | ready | ended."""

    id: str
    log: str
    first: int
    last: int
    title: str = ""
    line: str = ""
    entries: int = 0
    bytes: int = 0
    state: str = "starting"
    owner: str = ""  # who gets the KeeperReady: an agent that offloaded a part of its own log


class Recalling(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A `recall` under way. One is asked at a time; the others wait, so that what has been found
    so far fits into the saved state."""

    call: str
    agent: str
    query: str
    waiting: list[str] = msgspec.field(default_factory=list)  # keepers still to answer
    hits: list[tuple[float, str, str]] = msgspec.field(default_factory=list)
    asked: bool = False
    exact: bool = False
    error: str = ""


class Undoing(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Something to be taken back (`Undo`). `targets`: the edits that these are; `made`: the edit
    that it has become; `tries`: how often somebody wrote one of the files meanwhile."""

    id: str
    edit: str = ""
    task: str = ""
    all: bool = False
    state: Literal["asked", "planning", "applying"] = "asked"
    targets: list[str] = msgspec.field(default_factory=list)
    made: str = ""
    tries: int = 0


class Saved(msgspec.Struct, omit_defaults=True):
    """`task`: the session's own; `goal`: its node in the graph; `later`: tasks that a person gave
    while the last one was ending. `counters`: last number given out, per kind of id and role."""

    phase: Phase = "new"
    counters: dict[str, int] = msgspec.field(default_factory=dict)
    agents: dict[str, Agent] = msgspec.field(default_factory=dict)
    lead: str = ""
    task: str = ""
    goal: str = ""
    later: list[str] = msgspec.field(default_factory=list)
    paused: bool = False
    outcome: Outcome | None = None
    before: Outcome | None = None  # of the last task; its answer lies in the session's row
    forced: bool = False  # the end waits for nobody any more, but for what is being applied
    asks: list[str] = msgspec.field(default_factory=list)  # of a person, without an answer
    inquiries: list[str] = msgspec.field(default_factory=list)  # the same of agents
    votes: list[Vote] = msgspec.field(default_factory=list)  # open ones
    plan: list[str] = msgspec.field(default_factory=list)  # tasks in their order
    plan_version: int = 0
    plan_node: str = ""  # of the decision graph
    resting: bool = False  # the lead has reported; assigned tasks have not ended
    recalls: list[Recalling] = msgspec.field(default_factory=list)
    undos: list[Undoing] = msgspec.field(default_factory=list)
    shown: str = ""  # the session's state as last told
    status: tuple[str, str] = ("", "")


@dataclass
class Team:
    """In memory. `edits`, `questions` (of a person) and `inquiries` (of agents): the open ones;
    `ended`: the fate of late edits; `journal`: the applied ones, without their texts."""

    name: str
    session: str
    args: dict[str, Any]
    review: bool
    ladder: tuple[Rung, ...] = ()  # of its agents
    saved: Saved = field(default_factory=Saved)
    tasks: dict[str, Task] = field(default_factory=dict)
    claims: Claims = field(default_factory=Claims)
    edits: dict[str, Edit] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    journal: dict[str, Edit] = field(default_factory=dict)
    questions: dict[str, Question] = field(default_factory=dict)
    inquiries: dict[str, Question] = field(default_factory=dict)
    keepers: dict[str, Keeper] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)

    @property
    def repo(self) -> str:
        return str(self.args.get("repo") or "")

    @property
    def project(self) -> str:
        return project_of(self.repo, self.session)

    @property
    def tools(self) -> str:
        return f"{self.session}/tools"

    def related(self, agent: str, other: str) -> bool:
        """Does `other` wait for `agent`? Then the one may work inside the other's claims."""
        return roster.descends(self.saved.agents, agent, other)

    def forget(self, edit: Edit) -> None:
        """An edit that has ended: its fate is kept, for who asks too late, and what can be taken
        back of it."""
        self.edits.pop(edit.id, None)
        if edit.state == "applied":
            self.journal[edit.id] = ed.journaled(edit)
        self.ended[edit.id] = edit.state
        while len(self.ended) > ENDED_EDITS:
            del self.ended[min(self.ended, key=_number)]


def validate(team: Team) -> None:
    """The invariants; called by tests after every step. AssertionError names what is broken."""
    s, agents = team.saved, team.saved.agents
    open_tasks = {task.id: task for task in team.tasks.values() if task.open}

    held = [claim for claim in team.claims.items.values() if claim.state == "held"]
    for a, b in combinations(held, 2):
        kin = team.related(a.agent, b.agent) or team.related(b.agent, a.agent)
        assert a.agent == b.agent or kin or not cl.overlap(a, b), f"both held: {a} {b}"
    for claim in team.claims.items.values():
        assert claim.agent in agents, f"held by nobody: {claim}"
        if claim.state == "queued":
            assert claim.call, f"nobody waits: {claim}"
            assert team.claims.blockers(claim, team.related), f"could be granted: {claim}"
    edges = team.claims.waits(team.related)
    for name, others in roster.waits(agents).items():
        edges.setdefault(name, set()).update(others)
    for inquiry in team.inquiries.values():
        edges.setdefault(inquiry.agent, set()).add(inquiry.to)
    for name in edges:
        assert not cl.waits_for_itself(edges, name), f"a deadlock: {edges}"

    applying = [edit for edit in team.edits.values() if edit.state == "applying"]
    assert len(applying) <= 1, f"more than one is being applied: {applying}"
    for edit in team.edits.values():
        assert edit.state in ed.OPEN, f"has ended: {edit}"
        of_undo = any(one.made == edit.id for one in s.undos)
        assert edit.author in agents or edit.state == "applying" or of_undo, f"of nobody: {edit}"
        if edit.state == "reviewing":
            reviewer = agents.get(edit.reviewer)
            assert reviewer is not None and reviewer.gate, f"nobody reviews {edit}"
            assert edit.reviewer != edit.author, f"reviewed by its author: {edit}"
        elif edit.state == "approved":
            assert applying, f"waits for nothing: {edit}"
        elif edit.state == "proposed":
            assert ed.in_the_way(edit, team.edits.values()), f"parked for nothing: {edit}"

    for agent in agents.values():
        assert not agent.task or agent.task in open_tasks, f"works on nothing: {agent}"
        assert not agent.parent or agent.parent in agents or agent.stopping, f"orphan: {agent}"
    for task in open_tasks.values():
        waits = task.state == "queued" and (task.asker in agents or task.by or task.id in s.later)
        assert task.owner in agents or waits, f"nobody does {task}"
        assert bool(task.call) == bool(task.asker), task

    for task in team.tasks.values():
        assert task.state != "planned" or (task.id in s.plan and not task.owner), task
    assert not s.resting or any(task.by for task in open_tasks.values()), "rests for nothing"
    assert list(team.inquiries) == s.inquiries, (team.inquiries, s.inquiries)
    for inquiry in team.inquiries.values():
        assert inquiry.agent in agents and inquiry.to in agents, f"nobody waits for {inquiry}"
    for vote in s.votes:
        assert set(vote.voters) <= set(agents), f"waits for nobody: {vote}"
        assert not set(vote.voters) <= set(vote.ballots), f"is complete: {vote}"

    assert list(team.questions) == s.asks, (team.questions, s.asks)
    for question in team.questions.values():
        assert question.agent in agents, f"nobody waits for {question}"
    for place, one in enumerate(s.recalls):
        assert one.agent in agents, f"nobody waits for {one}"
        assert one.asked == (place == 0), "one recall at a time"
        assert bool(one.waiting) == one.asked, one

    for place, undoing in enumerate(s.undos):
        assert (undoing.state == "asked") == (place > 0), "one undo at a time, and that at once"
        assert (undoing.made in team.edits) == (undoing.state == "applying"), undoing

    assert (s.phase == "ending") == (s.outcome is not None), s
    if s.phase == "running":
        assert s.lead in agents and s.task in open_tasks, s
    if s.phase in ("new", "over"):
        of_undos = {one.made for one in s.undos}
        assert not team.claims.items and not team.questions, s.phase
        assert set(team.edits) <= of_undos, s.phase
        assert not s.recalls and set(open_tasks) == set(s.later), s
        assert not team.inquiries and not s.votes and not s.plan and not s.resting, s
    assert len(codec.encode(s)) < codec.BLOB_LIMIT


def load(birth: Birth) -> Team:
    """The team from its rows and what was saved."""
    spec, reader = birth.spec, birth.reader
    review = spec.args.get("review")
    if review is None:
        review = (birth.settings.get("review") or {}).get("required", True)
    team = Team(
        name=spec.name,
        session=spec.session,
        args=dict(spec.args),
        review=bool(review),
        ladder=of_settings(birth.settings),
    )
    if birth.saved is not None:
        team.saved = msgspec.convert(birth.saved, Saved)
    tasks = [ta.from_row(value) for value in _rows(reader, "tasks", team.session)]
    team.tasks = {task.id: task for task in sorted(tasks, key=lambda task: _number(task.id))}
    claims = [cl.from_row(value) for value in _rows(reader, "claims", team.session)]
    team.claims = Claims(
        sorted(
            (claim for claim in claims if claim.state != "released"),
            key=lambda claim: _number(claim.id),
        )
    )
    edits = [ed.from_row(value) for value in _rows(reader, "edits", team.session)]
    for edit in sorted(edits, key=lambda edit: _number(edit.id)):
        if edit.state in ed.OPEN:
            team.edits[edit.id] = edit
        else:
            team.forget(edit)
    for value in _rows(reader, "questions", team.session):
        if value.get("actor") == team.name and value.get("agent"):
            question = qu.from_row(value)
            # By what we saved, not by the row: the Decision of an answered one may still be mail.
            if question.id in team.saved.asks:
                team.questions[question.id] = question
            elif question.id in team.saved.inquiries:
                team.inquiries[question.id] = question
    team.questions = {id: team.questions[id] for id in team.saved.asks if id in team.questions}
    team.inquiries = {id: team.inquiries[id] for id in team.saved.inquiries}
    keepers = [msgspec.convert(value, Keeper) for value in _rows(reader, "keepers", team.session)]
    team.keepers = {one.id: one for one in sorted(keepers, key=lambda one: _number(one.id))}
    team.nodes = {
        str(value.get("id"))
        for value in _rows(reader, "decisions", team.project)
        if value.get("kind") == "node"
    }
    return team


def _rows(reader: Reader, table: str, name: str) -> Iterator[dict[str, Any]]:
    for _, value in reader.rows(table, name_key(name)):
        if isinstance(value, dict):
            yield value


def _number(id: str) -> int:
    tail = id.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0
