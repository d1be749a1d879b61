"""Any order of inputs: no crash, no turn split, nothing lost, nothing asked twice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from loomd.actor import behaviour as act
from loomd.wire import codec
from loomd.wire.bodies import (
    Applied,
    Body,
    Call,
    Control,
    Ended,
    Failed,
    FinalAnswer,
    KeeperReady,
    ModelOutcome,
    ModelRequest,
    Note,
    Offload,
    Recalled,
    Report,
    ReviewRequest,
    Say,
    Span,
    TeamCall,
    ToolCall,
    ToolCalls,
    Undelivered,
)
from tests.agent.talk import Talk

NAMES = st.sampled_from(["read", "grep", "edit", "spawn", "ask", "review", "claim"])
CALLS = st.lists(
    st.builds(
        lambda name, n, bad: Call(
            id="x", name=name, args={"n": n, "edit": f"e-{n}"}, error="bad" if bad else ""
        ),
        NAMES,
        st.integers(0, 3),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=4,
)
STRAY: list[Body] = [
    Note(data={"x": 1}),
    Ended(name="s-1/coder-2", reason="done"),
    Applied(edit="e-1", state="applied"),
    Recalled(id="r"),
    ModelOutcome(request="s-1/coder-1:999", outcome=FinalAnswer(text="stray")),
    Undelivered(id="m", to="models", reason="full", body=b"\xc1"),
]
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("assign"), st.integers(1, 5)),
        st.tuples(st.just("say"), st.sampled_from(["user", "s-1/lead"])),
        st.tuples(st.just("review"), st.integers(0, 3)),
        st.tuples(st.just("calls"), CALLS),
        st.tuples(st.just("final"), st.text(max_size=5)),
        st.tuples(st.just("failed"), st.sampled_from(["empty", "context_overflow", "budget"])),
        st.tuples(st.just("result"), st.integers(0, 9), st.booleans(), st.integers(0, 4_000)),
        st.tuples(st.just("control"), st.sampled_from(["pause", "resume", "step", "cancel"])),
        st.tuples(st.just("keeper")),
        st.tuples(st.just("lost"), st.integers(0, 3)),
        st.tuples(st.just("timer")),
        st.tuples(st.just("stray"), st.sampled_from(STRAY)),
        st.tuples(st.just("crash")),
    ),
    max_size=60,
)


class Random:
    """Plays actions against an agent and checks what must hold after each step."""

    def __init__(self) -> None:
        self.talk = Talk(limits={"view_tokens": 600, "iterations": 12})
        self.assigned: list[str] = []

    def open_calls(self) -> list[str]:
        return [c.id for c in self.talk.state.saved.calls if c.result is None]

    def play(self, action) -> None:
        talk = self.talk
        match action:
            case ("assign", _):
                self.assigned.append(f"t-{len(self.assigned)}")
                talk.assigned("do " + self.assigned[-1], self.assigned[-1])
            case ("say", sender):
                talk.hears(Say(text="hello", sender=sender))
            case ("review", n):
                talk.hears(ReviewRequest(edit=f"e-{n}", author="a", reason="r", diff="d"))
            case ("calls", calls) if talk.requests:
                talk.model(ToolCalls(calls=tuple(calls)), tokens=10)
            case ("final", text) if talk.requests:
                talk.model(FinalAnswer(text=text))
            case ("failed", kind) if talk.requests:
                talk.model(Failed(kind=kind))
            case ("result", which, ok, size) if self.open_calls():
                ids = self.open_calls()
                talk.result(ids[which % len(ids)], "x" * size, ok=ok, error="" if ok else "failed")
            case ("control", op):
                talk.hears(Control(op=op))
            case ("keeper",) if talk.told(Offload):
                offload = talk.told(Offload)[-1]
                span = Span(log=talk.spec.name, first=offload.first, last=offload.last)
                talk.hears(KeeperReady(keeper="s-1/keeper-1", span=span, line="line"))
            case ("lost", back):
                kinds = ModelRequest | ToolCall | TeamCall | Offload | Report
                bodies = [
                    c.body
                    for c in talk.changes
                    if isinstance(c, act.Send) and isinstance(c.body, kinds)
                ]
                if len(bodies) > back:
                    raw = codec.encode(bodies[-1 - back])
                    talk.hears(Undelivered(id="m", to="x", reason="full", body=raw), "hub")
            case ("timer",):
                due = talk.state.saved.wall or 1.0
                talk.put(act.TimerDue(talk.steps, "wall", due))
            case ("stray", body):
                talk.hears(body)
            case ("crash",):
                talk.crash()

    def check(self) -> None:
        talk = self.talk
        ids = [request.id for request in talk.requests]
        assert len(ids) == len(set(ids)), "a request was made twice"
        sent = [call.id for call in talk.told(ToolCall) + talk.told(TeamCall)]
        assert len(sent) == len(set(sent)), "a call was made twice"
        reports = [r.task for r in talk.told(Report) if r.task]
        assert len(reports) == len(set(reports)), "a task was reported twice"
        if not talk.sent(ModelRequest):
            return
        seen = talk.seen()
        at = 0
        while at < len(seen):
            calls = seen[at].calls
            results = seen[at + 1 : at + 1 + len(calls)]
            assert [r.call for r in results] == [c.id for c in calls], "a turn was split"
            at += 1 + len(calls)
        assert all(entry.role != "tool" or entry.call for entry in seen)
        # Everything in the log is in the view, with a keeper, or a task that has not begun.
        numbers = {n for s in talk.requests[-1].view.spans for n in range(s.first, s.last + 1)}
        kept = {n for line in talk.state.saved.view.index for n in range(line.first, line.last + 1)}
        waiting = {task.entry.n for task in talk.state.saved.tasks}
        assert numbers | kept | waiting == set(talk.log), "an entry is lost"


@settings(deadline=None, max_examples=200)
@given(ACTIONS)
def test_whatever_happens_the_conversation_stays_whole(actions):
    random = Random()
    for action in actions:
        random.play(action)
        random.check()
    # Brought to an end, every task has exactly one report.
    talk = random.talk
    talk.hears(Control(op="resume"))
    talk.hears(Control(op="cancel"))
    for _ in range(50):
        if talk.state.saved.phase == "thinking":
            talk.final("the end")
    ended = {report.task for report in talk.told(Report)} - {""}
    open_task = talk.state.saved.task
    assert open_task is None
    assert ended == set(random.assigned)
