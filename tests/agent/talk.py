"""A dialogue with an agent, without processes: each call is one step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loomd.actor import behaviour as act
from loomd.actor.ladder import Rung
from loomd.actor.roles import Role
from loomd.agent.loop import AgentBehaviour
from loomd.agent.state import AgentState
from loomd.wire import codec
from loomd.wire.bodies import (
    Assign,
    Body,
    Call,
    Entry,
    FinalAnswer,
    ModelOutcome,
    ModelRequest,
    ToolCalls,
    ToolResult,
    Usage,
)

ROLES = {
    "coder": Role(name="coder", prompt="You are the coder.", temperature=0.2),
    "reviewer": Role(name="reviewer", prompt="You are the reviewer.", tools=("read", "review")),
}


class Rows:
    """A Reader of rows only. rows_: (table, key) -> value."""

    def __init__(self) -> None:
        self.rows_: dict[tuple[str, bytes], Any] = {}

    def row(self, table: str, key: bytes) -> Any | None:
        return self.rows_.get((table, key))

    def rows(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        raise AssertionError("an agent reads rows by their key")

    def entries(self, log: str, first: int, last: int) -> Iterator[tuple[int, Entry]]:
        raise AssertionError("an agent does not read its log")

    def entry_bytes(self, log: str, n: int) -> bytes | None:
        raise AssertionError("an agent does not read its log")

    def blob(self, name: str) -> bytes:
        raise AssertionError("an agent reads no blobs")


class Talk:
    """An agent and everything it has done; each call is one step at a later second."""

    def __init__(
        self,
        role: str = "coder",
        name: str = "s-1/coder-1",
        *,
        ladder: tuple[Rung, ...] = (),
        settings: dict[str, Any] | None = None,
        **args: Any,
    ) -> None:
        self.behaviour = AgentBehaviour(ROLES)
        self.spec = act.Spec(
            name=name, kind="agent", session="s-1", role=role, args=args, ladder=ladder
        )
        self.settings = settings or {}
        self.reader = Rows()
        self.state = self._birth(None)
        self.inputs: list[tuple[act.Input, float]] = []
        self.log: dict[int, Entry] = {}
        self.changes: list[act.Change] = []
        self.last: list[act.Change] = []
        self.steps = 0
        self.requests: list[ModelRequest] = []

    def _birth(self, saved: Any) -> Any:
        return self.behaviour.init(
            act.Birth(
                spec=self.spec,
                saved=saved,
                effects=(),
                reader=self.reader,
                settings=self.settings,
            )
        )

    def crash(self) -> None:
        """A new incarnation from what was committed."""
        self.state = self._birth(codec.unpack(codec.encode(self.behaviour.save(self.state))))

    def put(self, input: act.Input) -> list[act.Change]:
        now = 1000.0 + self.steps
        self.inputs.append((input, now))
        self.state, self.last = self.behaviour.step(self.state, input, now)
        saved = self.behaviour.save(self.state)
        assert isinstance(saved, AgentState)
        saved.validate()
        assert len(codec.encode(saved)) <= codec.BLOB_LIMIT
        for change in self.last:
            if isinstance(change, act.Append):
                assert change.n == len(self.log) + 1, "the log has a gap"
                self.log[change.n] = change.entry
            if isinstance(change, act.Send) and isinstance(change.body, ModelRequest):
                self.requests.append(change.body)
        self.changes += self.last
        return self.last

    def hears(self, body: Body, sender: str = "s-1/team") -> list[act.Change]:
        self.steps += 1
        return self.put(act.Mailed(self.steps, f"{sender}/{self.steps}.1", sender, body))

    # --- what models, tools and team say ---

    def assigned(self, text: str = "do it", task: str = "t-1") -> None:
        self.hears(Assign(task=task, text=text))

    def model(self, outcome: Any, tokens: int = 0) -> list[act.Change]:
        request = self.requests[-1].id
        usage = Usage(input_tokens=tokens, calls=1)
        return self.hears(
            ModelOutcome(request=request, outcome=outcome, usage=usage, model="m"), "models"
        )

    def calls(self, *calls: Call, text: str = "") -> list[act.Change]:
        return self.model(ToolCalls(calls=calls, text=text))

    def final(self, text: str = "done") -> list[act.Change]:
        return self.model(FinalAnswer(text=text))

    def result(self, id: str, text: str = "ok", **more: Any) -> list[act.Change]:
        return self.hears(ToolResult(id=id, text=text, **more), "s-1/tools")

    # --- what the agent said ---

    def sent(self, kind: type) -> list[Any]:
        """Bodies of that type sent in the last step."""
        return [c.body for c in self.last if isinstance(c, act.Send) and isinstance(c.body, kind)]

    def told(self, kind: type) -> list[Any]:
        """The same in its whole life."""
        return [
            c.body for c in self.changes if isinstance(c, act.Send) and isinstance(c.body, kind)
        ]

    def events(self, type: str) -> list[dict[str, Any]]:
        return [c.data for c in self.last if isinstance(c, act.Emit) and c.type == type]

    def shown(self) -> tuple[str, str] | None:
        shows = [c for c in self.last if isinstance(c, act.Show)]
        return (shows[-1].state, shows[-1].waiting_for) if shows else None

    def seen(self) -> list[Entry]:
        """What the model sees in the last request."""
        return [
            self.log[n]
            for span in self.requests[-1].view.spans
            for n in range(span.first, span.last + 1)
        ]

    def read(self) -> list[str]:
        return [entry.text for entry in self.seen()]
