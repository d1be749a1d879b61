"""The behaviour as a script: inputs in, changes out."""

from pathlib import Path

import pytest

from loomd.actor.behaviour import (
    Birth,
    Cancel,
    CancelTimer,
    EffectEnded,
    Emit,
    Init,
    Mailed,
    Open,
    OpenEffect,
    Put,
    Send,
    SetTimer,
    Show,
    Spec,
)
from loomd.store.schema import TABLES
from loomd.tools import generation
from loomd.tools.host import ToolsBehaviour
from loomd.wire import codec
from loomd.wire.bodies import (
    Applied,
    Apply,
    CancelCall,
    Decision,
    Discard,
    FileChange,
    Note,
    Propose,
    Reload,
    Reloaded,
    ToolCall,
    ToolResult,
    Undelivered,
)
from tests.tools.stand import SESSION, Table

AGENT = f"{SESSION}/coder-1"
TEAM = f"{SESSION}/team"
BUILTIN = [spec.row(source) for source, spec in generation.builtins()]
SHELL = next(row for row in BUILTIN if row["name"] == "shell")


class Script:
    def __init__(self, yes=False, mode="on-request", rules=None, **args):
        self.behaviour = ToolsBehaviour(BUILTIN)
        self.table = Table(Path("/nonexistent"))
        self.settings = {
            "permissions": {"mode": mode, **(rules or {})},
            "tools": {"web_fetch": True},
        }
        args = {"repo": "/r", "yes": yes, **args}
        self.spec = Spec(name=f"{SESSION}/tools", kind="tools", session=SESSION, args=args)
        self.effects = {}
        self.saved = None
        self.born()
        self.do(Init())
        self.end("generation-0", self.formed("h1"))

    def born(self):
        """A (new) incarnation on what is durable."""
        self.state = self.behaviour.init(
            Birth(
                spec=self.spec,
                saved=self.saved,
                effects=[OpenEffect(id, body, 1) for id, body in self.effects.items()],
                reader=self.table,
                settings=self.settings,
            )
        )

    def formed(self, hash, tools=BUILTIN, errors=(), changed=()):
        return Note(
            data={
                "hash": hash,
                "seen": hash,
                "without": [error["module"] for error in errors],
                "tools": tools,
                "errors": list(errors),
                "changed": list(changed),
            }
        )

    def do(self, input):
        self.state, changes = self.behaviour.step(self.state, input, 5.0)
        self.saved = codec.unpack(codec.encode(self.behaviour.save(self.state)))
        if isinstance(input, EffectEnded):
            del self.effects[input.effect]
        for change in changes:
            if isinstance(change, Open):
                assert change.id not in self.effects
                self.effects[change.id] = change.body
            elif hasattr(change, "table"):
                assert "tools" in TABLES[change.table]
                value = getattr(change, "value", None)
                if value is None:
                    self.table.rows_.pop((change.table, change.key))
                else:
                    self.table.rows_[change.table, change.key] = codec.unpack(codec.pack(value))
        self.shown = [c for c in changes if isinstance(c, Show)]
        self.judged = [c.data for c in changes if getattr(c, "type", "") == "permission_judged"]
        self.timers = [c for c in changes if isinstance(c, SetTimer | CancelTimer)]
        hidden = Show | Put | SetTimer | CancelTimer
        return [
            c
            for c in changes
            if not isinstance(c, hidden)
            and not hasattr(c, "table")
            and getattr(c, "type", "") != "permission_judged"
        ]

    def mail(self, body, sender=AGENT):
        return self.do(Mailed(1, "m", sender, body))

    def end(self, effect, result):
        return self.do(EffectEnded(1, effect, self.effects[effect], result))

    def row(self, table, key=None):
        rows = [v for (t, k), v in self.table.rows_.items() if t == table]
        return rows[0] if rows else None


def call(name="read", id="c1", **args):
    return ToolCall(id=id, agent=AGENT, name=name, args=args or {"path": "x"}, reply_to=AGENT)


def shell(id="c1"):
    return call("shell", id, command="make")


def test_the_toolset_stands_from_the_first_step_and_has_the_teams_tools_too():
    script = Script()
    row = script.row("toolsets")
    assert row["generation"] == 1 and row["hash"] == "h1"
    names = {tool["name"] for tool in row["tools"]}
    assert {"read", "write", "edit", "list", "glob", "grep", "shell"} <= names
    assert {"spawn", "send", "ask", "share", "claim", "decide", "recall", "review"} <= names
    assert set(script.effects) == {"generation-1"}


def test_a_call_is_an_effect_and_its_end_a_result_to_the_agent():
    script = Script()
    assert script.mail(call()) == [Open("call-c1", call())]
    assert script.shown == [Show("acting")]
    result = ToolResult(id="c1", text="content")
    out = script.end("call-c1", Note(data={"body": codec.encode(result)}))
    assert out == [Send(AGENT, result)]
    assert script.shown == [Show("idle")]


def test_the_answer_goes_to_reply_to_else_to_the_sender():
    script = Script()
    asked = ToolCall(id="c1", agent=AGENT, name="read", args={"path": "x"})
    script.mail(asked, TEAM)
    out = script.end("call-c1", ToolResult(id="c1"))
    assert out == [Send(TEAM, ToolResult(id="c1"))]


def test_a_proposal_goes_to_the_team():
    script = Script()
    script.mail(call("edit", path="x", old="a", new="b"))
    proposal = Propose(call="c1", agent=AGENT, tool="edit", reason="", files=())
    out = script.end("call-c1", Note(data={"body": codec.encode(proposal)}))
    assert out == [Send(TEAM, proposal)]


def test_state_is_committed_with_the_result():
    script = Script()
    script.mail(call())
    state = {"tool": "read", "value": {"n": 1}}
    script.end("call-c1", Note(data={"body": codec.encode(ToolResult(id="c1")), "state": state}))
    assert script.row("tool_state") == {"n": 1}


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        (call("spawn", role="x", task="y"), "no_such_tool", "answered by the team"),
        (call("raed"), "no_such_tool", "did you mean read"),
        (call("read", pth="x"), "bad_args", "`path` is missing; `pth` is unknown"),
    ],
)
def test_a_call_that_cannot_be_made_is_answered_at_once(asked, error, said):
    [sent] = Script().mail(asked)
    assert sent.to == AGENT and not sent.body.ok and sent.body.error == error
    assert said in sent.body.text


def test_a_person_is_asked_and_may_allow():
    script = Script()
    [event] = script.mail(shell())
    assert event.type == "permission_asked" and "shell: make" in event.data["text"]
    id = event.data["id"]
    assert script.shown == [Show("waiting", f"permission {id}")]
    row = script.row("questions")
    assert row["state"] == "open" and row["actor"] == f"{SESSION}/tools" and row["id"] == id
    script.born()  # a crash meanwhile forgets nothing
    assert script.mail(Decision(question=id)) == [Open("call-c1", shell())]
    assert script.row("calls") is None
    assert script.mail(Decision(question=id)) == []  # the second answer


def test_a_person_may_deny():
    script = Script()
    [event] = script.mail(shell())
    [sent] = script.mail(Decision(question=event.data["id"], allow=False, by="ann", text="no"))
    assert sent.body.error == "denied" and "by ann: no" in sent.body.text


def test_allowed_for_the_session_opens_what_waits_and_is_remembered():
    script = Script()
    [first] = script.mail(shell("c1"))
    script.mail(shell("c2"))
    out = script.mail(Decision(question=first.data["id"], scope="session"))
    closed, opened, second = out
    assert (opened, second) == (Open("call-c1", shell("c1")), Open("call-c2", shell("c2")))
    assert closed.type == "permission_closed" and closed.data["call"] == "c2"
    script.born()
    assert script.mail(shell("c3")) == [Open("call-c3", shell("c3"))]


def test_yes_and_never():
    assert Script(yes=True).mail(shell()) == [Open("call-c1", shell())]
    [sent] = Script(mode="never").mail(shell())
    assert sent.body.error == "denied"


def test_a_call_under_way_is_cancelled_through_its_effect():
    script = Script()
    script.mail(call())
    assert script.mail(CancelCall(id="c1")) == [Cancel("call-c1")]
    assert script.mail(CancelCall(id="other")) == []


def test_a_call_that_waits_is_cancelled_with_its_question():
    script = Script()
    script.mail(shell())
    closed, sent = script.mail(CancelCall(id="c1", reason="stop"))
    assert closed.type == "permission_closed"
    assert sent.body.error == "cancelled"
    assert script.row("questions")["state"] == "closed" and script.row("calls") is None


def order(edit):
    return Apply(edit=edit, files=(FileChange(path="x", base="", after="", diff="long"),))


def bare(edit):
    return Apply(edit=edit, files=(FileChange(path="x", base="", after=""),))


def test_edits_are_applied_one_at_a_time_in_order_also_after_a_crash():
    script = Script()
    assert script.mail(order("e1"), TEAM) == [Open("apply-e1", bare("e1"))]
    assert script.mail(order("e2"), TEAM) == script.mail(order("e3"), TEAM) == []
    script.born()
    done = Applied(edit="e1", state="applied")
    assert script.end("apply-e1", done) == [Send(TEAM, done), Open("apply-e2", bare("e2"))]
    done = Applied(edit="e2", state="conflict", detail="moved")
    assert script.end("apply-e2", done) == [Send(TEAM, done), Open("apply-e3", bare("e3"))]


def test_a_queued_edit_can_be_discarded():
    script = Script()
    script.mail(order("e1"), TEAM)
    script.mail(order("e2"), TEAM)
    script.mail(Discard(edit="e2"), TEAM)
    done = Applied(edit="e1", state="applied")
    assert script.end("apply-e1", done) == [Send(TEAM, done)]


def test_a_new_generation_is_recorded_and_the_next_one_awaited():
    script = Script()
    tool = {**BUILTIN[0], "name": "mine", "source": "tools/mine.py"}
    formed = script.formed("h2", [*BUILTIN, tool], changed=["mine.py"])
    out = script.end("generation-1", formed)
    assert out == [
        Open(
            "generation-2",
            Note(data={"generation": 2, "hash": "h2", "without": []}),
            standing=True,
        ),
        Emit("tools_reloaded", {"generation": 2, "changed": ["mine.py"]}),
    ]
    assert script.row("toolsets")["generation"] == 2
    script.born()
    assert "mine" in script.state.tools and script.state.generation == 2


def test_calls_of_tools_not_yet_known_wait_for_the_first_generation():
    script = Script()
    fresh = Script.__new__(Script)
    fresh.__dict__.update(script.__dict__)
    fresh.table, fresh.effects, fresh.saved = Table(Path("/nonexistent")), {}, None
    fresh.born()
    fresh.do(Init())
    assert fresh.mail(call("mine")) == []
    assert fresh.mail(call("read", "c2")) == [Open("call-c2", call("read", "c2"))]
    tool = {**next(t for t in BUILTIN if t["name"] == "read"), "name": "mine"}
    out = fresh.end("generation-0", fresh.formed("h", [*BUILTIN, tool]))
    assert out[-1] == Open("call-c1", call("mine"))


def test_broken_tool_files_are_told_and_do_not_stop_the_rest():
    script = Script()
    errors = [{"module": "bad.py", "error": "SyntaxError"}]
    out = script.end("generation-1", script.formed("h2", errors=errors))
    assert out[0].body.data["without"] == ["bad.py"]
    assert out[1] == Emit("tools_broken", {"errors": errors})


BROKEN = [{"module": "mine.py", "error": "SyntaxError"}]


def test_a_broken_generation_changes_nothing_and_is_told_once():
    script = Script()
    out = script.end("generation-1", Note(data={"hash": "h2", "broken": BROKEN}))
    assert out == [
        Open(
            "generation-1.1",
            Note(data={"generation": 1, "hash": "h1", "without": []}),
            standing=True,
        ),
        Emit("tools_broken", {"errors": BROKEN, "generation": 1}),
    ]
    row = script.row("toolsets")
    assert (row["generation"], row["hash"], row["seen"]) == (1, "h1", "h2")
    assert row["errors"] == BROKEN and row["tools"] == BUILTIN
    script.born()
    out = script.end("generation-1.1", Note(data={"hash": "h2", "broken": BROKEN}))
    assert [type(one) for one in out] == [Open] and out[0].id == "generation-1.2"
    out = script.end("generation-1.2", Note(data={"hash": "h1", "broken": []}))
    assert out[1] == Emit("tools_mended", {"generation": 1})
    assert script.row("toolsets")["errors"] == []
    assert script.end("generation-1.3", script.formed("h3"))[0].id == "generation-2.3"


def changed_shell(**more):
    """The built-in tools with another `shell`."""
    return [{**row, **more} if row["name"] == "shell" else row for row in BUILTIN]


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([row for row in BUILTIN if row["name"] != "shell"], "it is gone"),
        (changed_shell(access="network"), "from execute to network"),
        (changed_shell(parameters={"properties": {"line": {"type": "string"}}}), "unknown"),
    ],
)
def test_new_code_waits_while_a_call_is_asked_about_that_it_would_not_take(tools, said):
    script = Script()
    script.mail(shell())
    out = script.end("generation-1", script.formed("h2", tools))
    assert [type(one) for one in out] == [Open, Emit]
    (refused,) = out[0].body.data["refused"]
    assert said in refused["error"] and f"{SESSION}-p1" in refused["error"]
    assert out[1] == Emit("tools_broken", {"errors": [refused], "generation": 1})
    assert script.state.generation == 1 and script.row("toolsets")["hash"] == "h1"
    script.born()
    out = script.mail(Decision(question=f"{SESSION}-p1", allow=False, by="me"), "hub")
    assert out[-1] == Open("reload-2", Reload())
    assert script.end("generation-1.1", script.formed("h2", tools))[0].id == "generation-2.2"
    assert script.end("reload-2", Reloaded(generation=2)) == []


def test_new_code_that_takes_the_call_that_is_asked_about_waits_for_nobody():
    script = Script()
    script.mail(shell())
    shape = {**SHELL["parameters"], "properties": dict(SHELL["parameters"]["properties"])}
    shape["properties"]["more"] = {"type": "string"}
    out = script.end("generation-1", script.formed("h2", changed_shell(parameters=shape)))
    assert out[-1] == Emit("tools_reloaded", {"generation": 2, "changed": []})
    out = script.mail(Decision(question=f"{SESSION}-p1", allow=True, by="me"), "hub")
    assert Open("call-c1", shell()) in out


# --- what was set aside --------------------------------------------------------------------------


def aside(script, effect):
    """The hub sets an effect aside; the next incarnation does not find it, but is told."""
    body = script.effects.pop(effect)
    script.born()
    name = f"{SESSION}/tools"
    lost = Undelivered(
        id=f"{name}/effect.{effect}", to=name, reason="poison", body=codec.encode(body)
    )
    return script.mail(lost, "hub")


def test_a_call_that_was_set_aside_is_answered():
    script = Script(yes=True)
    script.mail(call())
    (told,) = aside(script, "call-c1")
    assert (told.to, told.body.id, told.body.error) == (AGENT, "c1", "crashed")
    assert script.shown == [Show("idle")]


def test_an_edit_that_was_set_aside_has_failed_and_the_next_one_is_applied():
    script = Script(yes=True)
    for edit in ("e-1", "e-2"):
        script.mail(Apply(edit=edit, files=()), TEAM)
    told, opened = aside(script, "apply-e-1")
    assert isinstance(told.body, Applied) and (told.to, told.body.state) == (TEAM, "failed")
    assert isinstance(opened, Open) and opened.id == "apply-e-2"


def test_a_mail_of_ours_that_somebody_could_not_take_is_no_end_of_a_call():
    script = Script(yes=True)
    script.mail(call())
    lost = Undelivered(id="x/1.0", to=AGENT, reason="poison", body=codec.encode(call()))
    assert script.mail(lost, "hub") == []
