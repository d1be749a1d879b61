"""Any order of calls, reports, ends and answers keeps the invariants (see script.Script._take)."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from loomd.actor import behaviour as act
from loomd.team import memory, session
from loomd.team.process import TeamBehaviour
from loomd.wire import bodies as b
from tests.team.script import TEAM, TOOLS, Rows, S, Script, change, remembered

PATHS = st.sampled_from(["a.py", "b.py", "pkg", "pkg/c.py"])
REGIONS = st.sampled_from(["", "1-5", "4-9", "20-30", "parse", "dump"])


class Sessions(RuleBasedStateMachine):
    """`made`: call -> who has made it; `answered`: those that have their answer."""

    @initialize(size=st.integers(1, 4), review=st.booleans())
    def begin(self, size: int, review: bool) -> None:
        self.script = Script(team=size, review=review)
        self.made: dict[str, str] = {}
        self.answered: set[str] = set()
        self.calls = 0
        self.applies: list[str] = []
        self.asked: list[tuple[str, str]] = []  # reviewer, edit
        self.recalls: list[tuple[str, str]] = []  # keeper, recall
        self.do(self.script.say("rename it"))

    def do(self, changes: list[act.Change]) -> None:
        """Who has made a call gets its answer, once; one edit is on its way to the disk."""
        for to, body in self.script.sent():
            if isinstance(body, b.ToolResult):
                assert self.made[body.id] == to
                assert body.id not in self.answered
                self.answered.add(body.id)
            elif isinstance(body, b.Apply):
                self.applies.append(body.edit)
            elif isinstance(body, b.ReviewRequest):
                self.asked.append((to, body.edit))
            elif isinstance(body, b.Recall):
                self.recalls.append((to, body.id))
        assert len(self.applies) <= 1
        if self.script.team.saved.phase == "over":
            self.answered.update(self.made)  # called off

    def agents(self) -> dict[str, Any]:
        return self.script.team.saved.agents

    def one(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.agents())))

    def call(self, agent: str, name: str, **args: Any) -> None:
        self.calls += 1
        id = f"call-{self.calls}"
        self.made[id] = agent
        self.do(self.script.call(agent, id, name, **args))

    busy = precondition(lambda self: bool(self.agents()))

    @busy
    @rule(data=st.data(), role=st.sampled_from(["coder", "researcher", "lead"]))
    def spawn(self, data: st.DataObject, role: str) -> None:
        self.call(self.one(data), "spawn", role=role, task="do it")

    @busy
    @rule(data=st.data(), path=PATHS, region=REGIONS)
    def claim(self, data: st.DataObject, path: str, region: str) -> None:
        self.call(self.one(data), "claim", path=path, region=region)

    @busy
    @rule(data=st.data(), path=PATHS, start=st.integers(1, 30), base=st.sampled_from("pq"))
    def propose(self, data: st.DataObject, path: str, start: int, base: str) -> None:
        agent = self.one(data)
        self.calls += 1
        id = f"call-{self.calls}"
        self.made[id] = agent
        hunk = b.Hunk(start=start, old=("x", "y"), new=("z",))
        self.do(self.script.propose(agent, id, change(path, base, "r", hunk)))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), verdict=st.sampled_from(["approve", "approve", "revise", "refuse"]))
    def judge(self, data: st.DataObject, verdict: str) -> None:
        reviewer, edit = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        if reviewer in self.agents():
            self.call(reviewer, "review", edit=edit, verdict=verdict, reason="so")

    @precondition(lambda self: self.applies)
    @rule(state=st.sampled_from(["applied", "applied", "conflict", "failed"]))
    def applied(self, state: str) -> None:
        self.do(self.script.applied(self.applies.pop(), state))

    @rule(which=st.sampled_from([{}, {"all": True}, {"edit": "e-1"}, {"task": "t-1"}]))
    def undo(self, which: dict[str, Any]) -> None:
        self.calls += 1
        self.do(self.script.mail("user", b.Undo(id=f"u-{self.calls}", **which)))

    @rule(path=PATHS, clash=st.integers(0, 3), nothing=st.booleans())
    def planned(self, path: str, clash: int, nothing: bool) -> None:
        undos = self.script.team.saved.undos
        if undos and undos[0].state == "planning":
            clashes = (b.Clash(path=path, edits=(), reason="so"),) if clash == 0 else ()
            files = () if clashes or nothing else (change(path, "r", "q"),)
            self.do(
                self.script.mail(TOOLS, b.UndoPlan(undo=undos[0].id, files=files, clashes=clashes))
            )

    @busy
    @rule(data=st.data(), state=st.sampled_from(["done", "failed"]), entries=st.integers(0, 9))
    def report(self, data: st.DataObject, state: str, entries: int) -> None:
        agent = self.one(data)
        task = self.agents()[agent].task
        if not task or any(self.made[id] == agent for id in self.made.keys() - self.answered):
            return  # an agent reports when its calls are answered, or when it is told to stop
        self.do(self.script.report(agent, task, state=state, entries=entries))

    @busy
    @rule(data=st.data())
    def stop_obeyed(self, data: st.DataObject) -> None:
        stopping = sorted(name for name, agent in self.agents().items() if agent.stopping)
        if stopping:
            agent = data.draw(st.sampled_from(stopping))
            task = self.agents()[agent].task
            stopped = self.script.report(agent, task, state="failed", kind="stopped", entries=3)
            self.do(stopped)

    @busy
    @rule(data=st.data())
    def gives_up(self, data: st.DataObject) -> None:
        agent = self.one(data)
        self.do(self.script.mail("hub", b.Ended(name=agent, reason="gave up")))

    @busy
    @rule(data=st.data())
    def reviewer_fails(self, data: st.DataObject) -> None:
        gate = sorted(name for name, agent in self.agents().items() if agent.gate)
        if gate:
            name = data.draw(st.sampled_from(gate))
            self.do(self.script.report(name, "", state="failed", kind="no_verdict", entries=2))

    @busy
    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        self.call(self.one(data), "ask", question="well?")

    @busy
    @rule(data=st.data(), to=st.sampled_from(["lead", "coder-1", "coder-2", "reviewer"]))
    def ask_another(self, data: st.DataObject, to: str) -> None:
        self.call(self.one(data), "ask", question="well?", to=to)

    @precondition(lambda self: self.script.team.inquiries)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        question = data.draw(st.sampled_from(list(self.script.team.inquiries.values())))
        self.call(question.to, "answer", question=question.id, text="so")

    @busy
    @rule(data=st.data(), to=st.sampled_from(["coder", "researcher", "coder-1", "coder-2", "lead"]))
    def assign(self, data: st.DataObject, to: str) -> None:
        plan = self.script.team.saved.plan
        task = data.draw(st.sampled_from([*plan, "do it"]))
        self.call(self.one(data), "assign", task=task, to=to)

    @busy
    @rule(data=st.data(), new=st.booleans())
    def revise_plan(self, data: st.DataObject, new: bool) -> None:
        plan = self.script.team.saved.plan
        kept = data.draw(st.lists(st.sampled_from(plan), unique=True)) if plan else []
        steps = [*kept, "something new"] if new else kept
        self.call(self.one(data), "revise_plan", steps=steps, reason="so")

    @busy
    @rule(data=st.data(), choice=st.sampled_from(["", "a", "b"]))
    def vote(self, data: st.DataObject, choice: str) -> None:
        votes = self.script.team.saved.votes
        args: dict[str, Any] = {"title": "which?", "options": ["a", "b"]}
        if votes and choice:
            args = {"vote": data.draw(st.sampled_from(votes)).id}
        self.call(self.one(data), "vote", choice=choice, **args)

    @precondition(lambda self: self.script.team.saved.votes)
    @rule()
    def vote_closes(self) -> None:
        self.do(self.script.due(f"vote:{self.script.team.saved.votes[0].id}"))

    @rule(allow=st.booleans())
    def decide(self, allow: bool) -> None:
        for id in list(self.script.team.questions)[:1]:
            self.do(self.script.mail("hub", b.Decision(question=id, allow=allow)))

    @busy
    @rule(data=st.data(), query=st.sampled_from(["what", "keeper-1:1-2"]))
    def recall(self, data: st.DataObject, query: str) -> None:
        self.call(self.one(data), "recall", query=query)

    @precondition(lambda self: self.recalls)
    @rule(data=st.data(), found=st.booleans())
    def recalled(self, data: st.DataObject, found: bool) -> None:
        keeper, id = self.recalls.pop(data.draw(st.integers(0, len(self.recalls) - 1)))
        hits = (b.Hit(keeper=keeper, log="x", entry=1, score=1.0, text="t"),) if found else ()
        self.do(self.script.mail(keeper, b.Recalled(id=id, hits=hits)))

    @busy
    @rule(data=st.data())
    def offload(self, data: st.DataObject) -> None:
        self.do(self.script.mail(self.one(data), b.Offload(first=1, last=2)))

    @rule(data=st.data(), well=st.booleans())
    def keeper(self, data: st.DataObject, well: bool) -> None:
        keepers = sorted(self.script.team.keepers)
        if keepers:
            name = f"{S}/{data.draw(st.sampled_from(keepers))}"
            one = self.script.team.keepers[name.partition("/")[2]]
            span = b.Span(log=one.log, first=one.first, last=one.last)
            ready = b.KeeperReady(keeper=name, span=span, line="line")
            self.do(self.script.mail(name, ready)
                    if well
                    else self.script.mail("hub", b.Ended(name=name, reason="x")))  # fmt: skip

    @rule(
        op=st.sampled_from(["pause", "resume", "step", "cancel", "stop"]), really=st.integers(0, 4)
    )
    def control(self, op: Any, really: int) -> None:
        if op in ("pause", "resume", "step") or really == 0:
            self.do(self.script.mail("hub", b.Control(op=op)))

    @rule(key=st.sampled_from([session.CLOSING, session.AGAIN, memory.TIMER, "what"]))
    def timer(self, key: str) -> None:
        self.do(self.script.due(key))

    @rule(to=st.sampled_from(["", "lead", "coder-1", "nobody"]))
    def say(self, to: str) -> None:
        self.do(self.script.say("and this", to))

    @rule()
    def restart(self) -> None:
        self.script.restart()

    def teardown(self) -> None:
        """Whatever has happened, a stop ends it; and a replay makes the same changes."""
        script = getattr(self, "script", None)
        if script is None:
            return
        script.mail("hub", b.Control(op="stop"))
        while script.team.saved.undos or script.team.edits:
            for undo in script.team.saved.undos[:1]:
                if undo.state == "planning":
                    script.mail(TOOLS, b.UndoPlan(undo=undo.id))
            for edit in list(script.team.edits.values()):
                if edit.state == "applying":
                    script.mail(TOOLS, b.Applied(edit=edit.id, state="applied"))
        script.due(session.CLOSING)
        assert script.team.saved.phase == "over"
        behaviour = TeamBehaviour()
        team = behaviour.init(act.Birth(script.spec, None, (), Rows(), {}))
        assert team.name == TEAM
        for input, now, changes in script.history:
            team, again = behaviour.step(team, input, now)
            assert again == changes
        assert remembered(team) == remembered(script.team)


TestSessions = Sessions.TestCase
TestSessions.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
