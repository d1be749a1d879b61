"""What an agent saves: numbers and names, never text that already lies in the log.

The log is the truth. An `Arrived` is an entry that was appended but is not in the view yet: what
is said while a request or a call is out enters the view only before the next request, so that a
call is never separated from its results.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from loomd.agent.view import Range, ViewState
from loomd.store.tables import History
from loomd.wire.bodies import Usage

Phase = Literal["idle", "thinking", "acting", "shrinking", "held", "done", "failed"]

MOVES: dict[str, frozenset[str]] = {
    "idle": frozenset({"thinking", "held", "failed"}),
    "thinking": frozenset({"thinking", "acting", "shrinking", "held", "idle", "done", "failed"}),
    "acting": frozenset({"thinking", "held", "failed"}),
    "shrinking": frozenset({"thinking", "held", "failed"}),
    "held": frozenset({"thinking", "failed"}),
    "done": frozenset({"thinking", "held", "failed"}),
    "failed": frozenset({"thinking", "held", "failed"}),
}
"""Every legal change of phase; any other is our bug and raises.

idle      nothing to do, no task open
thinking  one model request is out (`request`)
acting    at least one tool call is out (`calls`)
shrinking the model's window was too small: waits for a keeper to take the oldest stretch
held      the next request is ready but paused
done      the last task ended well; like idle otherwise
failed    the last task ended with a kind that says why; like idle otherwise
"""

AT_REST = frozenset({"idle", "done", "failed"})


class Arrived(msgspec.Struct, array_like=True):
    """An entry of the log that waits to enter the view."""

    n: int
    tokens: int


class Task(msgspec.Struct, omit_defaults=True):
    """A task, and where its text stands in the log. `text` is cut, for the pinned block."""

    id: str
    text: str
    entry: Arrived


class OpenCall(msgspec.Struct, omit_defaults=True):
    """A call of the open turn, in call order. `result`: its entry, once it is there."""

    id: str
    name: str
    to: str  # team | tools | keeper | "": answered at once
    about: str = ""  # review: the edit; answer: the question
    awaited: bool = False  # others of the turn write the same file, and begin when it has ended
    result: Arrived | None = None


class Counters(msgspec.Struct, omit_defaults=True):
    """Since the agent last came to rest."""

    iterations: int = 0
    tokens: int = 0
    retries: int = 0  # of answers in a row that could not be used
    astray: str = ""  # why a call of this turn cannot be used
    shrinks: int = 0  # of the view, because the model's window was too small
    reminded: bool = False  # of reviews without a verdict
    history: list[str] = msgspec.field(default_factory=list)  # signatures of the last turns


class AgentState(msgspec.Struct, omit_defaults=True):
    """Invariants (`validate`): a request is open exactly while thinking, a call is open exactly
    while acting, entry numbers are all below or at `entries`, and no entry is referred to twice."""

    phase: Phase = "idle"
    paused: bool = False  # no new request until resume; what is out goes on
    turn: int = 0  # of requests, for ever: request ids are never used again
    entries: int = 0  # length of the log
    view: ViewState = msgspec.field(default_factory=ViewState)
    arrived: list[Arrived] = msgspec.field(default_factory=list)
    aside: list[Arrived] = msgspec.field(default_factory=list)  # like arrived; asks for no answer
    request: str = ""
    person: bool = False  # one has said something, and waits for what comes of it
    spoken: Arrived | None = None  # the assistant entry of the open turn
    calls: list[OpenCall] = msgspec.field(default_factory=list)
    task: Task | None = None
    tasks: list[Task] = msgspec.field(default_factory=list)  # assigned meanwhile
    reviews: dict[str, int] = msgspec.field(default_factory=dict)  # edit without a verdict: entry
    inquiries: dict[str, int] = msgspec.field(default_factory=dict)  # question: entry
    counters: Counters = msgspec.field(default_factory=Counters)
    usage: Usage = Usage()
    wall: float = 0.0  # due time of the wall timer; 0: not armed
    kind: str = ""  # of the last failure
    report: str = ""  # the last one, cut
    rung: int = 0  # of its recovery ladder, as the hub has told
    failures: History | None = None  # of the model in this task
    shown: tuple[str, str] = ("", "")

    def validate(self) -> None:
        """Raises AssertionError if an invariant is broken. For tests."""
        assert (self.phase == "thinking") == bool(self.request), self
        assert (self.phase == "acting") == any(call.result is None for call in self.calls), self
        assert (self.spoken is not None) == bool(self.calls), self
        numbers = [n for range_ in self.view.ranges() for n in Range.numbers(range_)]
        numbers += [one.n for one in (*self.arrived, *self.aside)]
        numbers += [task.entry.n for task in self.tasks]
        numbers += [call.result.n for call in self.calls if call.result is not None]
        if self.spoken is not None:
            numbers.append(self.spoken.n)
        assert len(numbers) == len(set(numbers)), f"an entry is referred to twice: {numbers}"
        assert all(1 <= n <= self.entries for n in numbers), numbers
