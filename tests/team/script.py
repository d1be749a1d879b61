"""A session by hand: every message to the team is written out, every change can be looked at.

After each step the invariants are checked, the team is built anew from its rows and what it saved
(and must be the same), and the commit must fit into a frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from loomd.actor import behaviour as act
from loomd.actor import commit
from loomd.store.schema import TABLES
from loomd.team.process import TeamBehaviour
from loomd.team.state import Team, validate
from loomd.wire import bodies as b
from loomd.wire import codec

S = "s-abc123"
TEAM, TOOLS, LEAD = f"{S}/team", f"{S}/tools", f"{S}/lead"
CODER1, CODER2, RESEARCHER, REVIEWER = (
    f"{S}/{name}" for name in ("coder-1", "coder-2", "researcher-1", "reviewer")
)
REPO = "/home/me/project"


class Rows:
    """The reader of rows that a host lends, over what the steps have put."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {name: {} for name in TABLES}

    def put(self, table: str, key: bytes, value: Any) -> None:
        assert "team" in TABLES[table], f"the team does not own {table}"
        self.tables[table][key] = codec.encode(value)

    def row(self, table: str, key: bytes) -> Any | None:
        raw = self.tables[table].get(key)
        return None if raw is None else codec.unpack(raw)

    def rows(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        for key, raw in sorted(self.tables[table].items()):
            if key.startswith(prefix):
                yield key, codec.unpack(raw)

    def entries(self, log: str, first: int, last: int) -> Iterator[tuple[int, b.Entry]]:
        raise AssertionError("the team reads no logs")

    def entry_bytes(self, log: str, n: int) -> bytes | None:
        raise AssertionError("the team reads no logs")

    def blob(self, name: str) -> bytes:
        raise AssertionError("the team reads no blobs")


def remembered(team: Team) -> Any:
    """All that a team knows, comparable."""
    return (
        msgspec.to_builtins(team.saved),
        team.tasks,
        team.claims.items,
        team.edits,
        team.ended,
        team.journal,
        team.questions,
        team.inquiries,
        team.keepers,
        team.nodes,
    )


class Script:
    def __init__(self, **args: Any) -> None:
        self.rows = Rows()
        self.behaviour = TeamBehaviour()
        args = {"repo": REPO, "model": "", "team": 6, "yes": True, **args}
        self.spec = act.Spec(name=TEAM, kind="team", session=S, args=args)
        self.saved: Any = None
        self.team = self._born()
        self.now = 1000.0
        self.count = 0
        self.changes: list[act.Change] = []
        self.history: list[tuple[act.Input, float, list[act.Change]]] = []
        self._take(act.Init())

    def _born(self) -> Team:
        settings = {"review": {"required": True}}
        return self.behaviour.init(act.Birth(self.spec, self.saved, (), self.rows, settings))

    def _take(self, input: act.Input) -> list[act.Change]:
        self.team, self.changes = self.behaviour.step(self.team, input, self.now)
        self.history.append((input, self.now, self.changes))
        validate(self.team)
        state = commit.encode_state(self.behaviour.save(self.team))
        author = commit.Author(TEAM, 1, 0, self.behaviour.version)
        frame = codec.encode(commit.build(author, input, self.now, self.changes, state).commit)
        assert len(frame) < codec.SOFT_LIMIT
        self.saved = codec.unpack(state)
        for change in self.changes:
            if isinstance(change, act.Put):
                self.rows.put(change.table, change.key, change.value)
        again = self._born()
        assert remembered(again) == remembered(self.team)
        for kept in ("tasks", "edits", "questions", "inquiries", "keepers"):
            assert list(getattr(again, kept)) == list(getattr(self.team, kept)), "in order"
        assert list(again.claims.items) == list(self.team.claims.items)
        return self.changes

    # --- in ------------------------------------------------------------------------------------

    def mail(self, sender: str, body: b.Body) -> list[act.Change]:
        self.now += 1.0
        self.count += 1
        id = f"{sender}/{self.count}.0"
        return self._take(act.Mailed(self.count, id, sender, codec.body(codec.encode(body))))

    def due(self, key: str) -> list[act.Change]:
        self.now += 1.0
        self.count += 1
        return self._take(act.TimerDue(self.count, key, self.now))

    def restart(self) -> None:
        """The next step is made by a successor."""
        self.team = self._born()

    def say(self, text: str, to: str = "") -> list[act.Change]:
        return self.mail("hub", b.Say(text=text, sender="user", to=to))

    def call(self, agent: str, id: str, name: str, **args: Any) -> list[act.Change]:
        return self.mail(agent, b.TeamCall(id=id, name=name, args=args))

    def report(
        self, agent: str, task: str, text: str = "done", entries: int = 0, **more: Any
    ) -> list[act.Change]:
        body = b.Report(task=task, state=more.pop("state", "done"), text=text, entries=entries)
        return self.mail(agent, msgspec.structs.replace(body, **more))

    def propose(self, agent: str, call: str, *files: b.FileChange, **more: Any) -> Any:
        body = b.Propose(call=call, agent=agent, tool="edit", reason="rename", files=files)
        return self.mail(TOOLS, msgspec.structs.replace(body, **more))

    def applied(self, edit: str, state: Any = "applied", detail: str = "") -> list[act.Change]:
        return self.mail(TOOLS, b.Applied(edit=edit, state=state, detail=detail))

    def review(self, edit: str, verdict: str, reason: str = "", by: str = REVIEWER) -> Any:
        return self.call(by, f"r-{self.count}", "review", edit=edit, verdict=verdict, reason=reason)

    def keepers_ready(self) -> None:
        """Every keeper that is starting says its line."""
        for keeper in list(self.team.keepers.values()):
            if keeper.state == "starting":
                span = b.Span(log=keeper.log, first=keeper.first, last=keeper.last)
                name = f"{S}/{keeper.id}"
                self.mail(name, b.KeeperReady(keeper=name, span=span, line=f"about {keeper.id}"))

    # --- out -----------------------------------------------------------------------------------

    def sent(self, kind: type | None = None, to: str = "") -> list[tuple[str, Any]]:
        """(recipient, body) of what the last step has sent."""
        found = []
        for change in self.changes:
            if isinstance(change, act.Send) and (kind is None or isinstance(change.body, kind)):
                names = (change.to,) if isinstance(change.to, str) else change.to
                found += [(name, change.body) for name in names if not to or name == to]
        return found

    def result(self, call: str) -> b.ToolResult:
        """The answer that the last step gave to a call."""
        found = [body for _, body in self.sent(b.ToolResult) if body.id == call]
        assert len(found) == 1, f"{call}: {self.changes}"
        return found[0]

    def events(self, kind: str = "") -> list[str] | list[dict[str, Any]]:
        """Types of the last step's events, or the data of those of one type."""
        emits = [change for change in self.changes if isinstance(change, act.Emit)]
        if kind:
            return [emit.data for emit in emits if emit.type == kind]
        return [emit.type for emit in emits]

    def started(self) -> list[str]:
        return [change.spec.name for change in self.changes if isinstance(change, act.Start)]

    def stopped(self) -> list[str]:
        return [change.name for change in self.changes if isinstance(change, act.Stop)]

    def told(self) -> list[tuple[str | None, str | None]]:
        """(state, kind) of changes to the session's row."""
        return [
            (change.state, change.kind)
            for change in self.changes
            if isinstance(change, act.Session)
        ]

    def board(self, table: str, id: str) -> dict[str, Any]:
        found = [value for _, value in self.rows.rows(table, b"") if value["id"] == id]
        assert len(found) == 1, (table, id)
        row = found[0]
        assert isinstance(row, dict)
        return row


def change(path: str, base: str = "b0", after: str = "a1", *hunks: b.Hunk) -> b.FileChange:
    hunks = hunks or (b.Hunk(start=3, old=("old",), new=("new",)),)
    diff = f"--- a/{path}\n+++ b/{path}\n@@ -3 +3 @@\n-old\n+new\n"
    return b.FileChange(path=path, base=base, after=after, hunks=hunks, diff=diff)


def under_way(**args: Any) -> Script:
    """A session with a lead at work on t-1."""
    script = Script(**args)
    script.say("rename parse_cfg to parse_config")
    return script


def with_coders(**args: Any) -> Script:
    """... that has spawned two coders (t-2, t-3)."""
    script = under_way(**args)
    script.call(LEAD, "s1", "spawn", role="coder", task="change a.py")
    script.call(LEAD, "s2", "spawn", role="coder", task="change b.py")
    return script
