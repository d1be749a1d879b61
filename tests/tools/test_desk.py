"""Permissions in a tool host: who is asked, what is answered, what stands in the record."""

import pytest
from msgspec.structs import replace

from loomd import rules
from loomd.actor.behaviour import CancelTimer, Open, SetTimer, TimerDue
from loomd.store.schema import project_of, text_key
from loomd.tools.places import with_project
from loomd.wire import codec
from loomd.wire.bodies import (
    CancelCall,
    Configured,
    Decision,
    FileChange,
    Note,
    Permits,
    Propose,
    ToolResult,
)
from tests.tools.stand import SESSION
from tests.tools.test_host import AGENT, TEAM, Script, call, shell


def ask(script, id="c1", command="make"):
    [asked] = script.mail(call("shell", id, command=command))
    assert asked.type == "permission_asked"
    return asked.data


def test_every_decision_is_in_the_record():
    script = Script(rules={"deny": ["shell(curl *)"], "allow": ["shell(make *)"]})
    for command, verdict, rule, source in [
        ("make x", "allow", "shell(make *)", "config"),
        ("curl x", "deny", "shell(curl *)", "config"),
        ("rm -rf /", "deny", "[rm-root]", "built-in"),
        ("other", "ask", "", "mode"),
    ]:
        script.mail(call("shell", command, command=command))
        [judged] = script.judged
        assert (judged["verdict"], judged["rule"], judged["source"]) == (verdict, rule, source)
        assert judged["agent"].endswith("coder-1") and judged["what"] == f"shell: {command}"
    script.mail(call("read", "r"))
    assert [one["verdict"] for one in script.judged] == ["allow"]


def test_a_question_says_for_how_long_it_may_be_allowed_and_what_that_would_allow():
    script = Script()
    data = ask(script, command="make 'a b'; echo hi")
    assert data["scopes"] == ["once", "session", "always"]
    assert data["rules"] == ["shell(make 'a b')"]
    row = script.row("questions")
    assert row["scopes"] == data["scopes"] and row["until"] == 5.0 + 3600
    script = Script()
    assert ask(script, command="git reset --hard")["scopes"] == ["once"]


def test_a_question_that_nobody_answers_is_denied_when_its_time_is_over():
    script = Script(rules={"answer_s": 60})
    data = ask(script)
    [timer] = script.timers
    assert isinstance(timer, SetTimer) and timer.due == 65.0
    script.born()  # it is a row: a crash meanwhile changes nothing
    event, sent = script.do(TimerDue(1, timer.key, timer.due))
    assert (event.type, event.data["decision"], event.data["by"]) == (
        "permission_decided", "deny", "nobody",
    )  # fmt: skip
    assert sent.body.error == "denied" and "within 60 s" in sent.body.text
    assert script.row("questions")["state"] == "answered" and script.row("calls") is None
    assert script.mail(Decision(question=data["id"])) == [], "too late"
    assert script.do(TimerDue(1, timer.key, timer.due)) == []


@pytest.mark.parametrize(("answers", "due"), [("person", 3605.0), ("later", 259_205.0)])
def test_a_detached_session_waits_longer(answers, due):
    script = Script(answers=answers)
    ask(script)
    assert [timer.due for timer in script.timers] == [due]


def test_an_answer_or_a_cancel_ends_the_time_of_a_question():
    script = Script()
    data = ask(script)
    script.mail(Decision(question=data["id"]))
    assert [type(timer) for timer in script.timers] == [CancelTimer]
    ask(script, "c2", "other")
    script.mail(CancelCall(id="c2"))
    assert [type(timer) for timer in script.timers] == [CancelTimer]


def test_where_nobody_can_answer_ask_is_deny_and_says_how_to_allow_it():
    script = Script(answers="nobody")
    [sent] = script.mail(shell())
    assert sent.body.error == "denied"
    for word in ("nobody is there", "--detach", "--yes", "'shell(make)' under [permissions]"):
        assert word in sent.body.text
    assert script.judged[0]["verdict"] == "deny" and script.row("questions") is None
    [sent] = script.mail(call("shell", "c2", command="git reset --hard"))
    assert sent.body.error == "denied" and "under [permissions]" not in sent.body.text
    assert Script(answers="nobody", yes=True).mail(shell()) == [Open("call-c1", shell())]


def test_an_answer_for_the_session_is_for_the_same_command_only():
    script = Script()
    script.mail(Decision(question=ask(script)["id"], scope="session"))
    assert script.mail(shell("c2")) == [Open("call-c2", shell("c2"))]
    assert script.judged[0]["source"] == "session"
    ask(script, "c3", "make; other")


def test_an_answer_for_always_holds_and_what_was_saved_is_known_to_the_next_session():
    script = Script()
    script.mail(Decision(question=ask(script)["id"], scope="always"))
    assert script.mail(shell("c2")) == [Open("call-c2", shell("c2"))]
    script = Script()
    script.table.rows_["permits", text_key(project_of("/r"), "r-1")] = {"rule": "shell(make)"}
    script.born()
    assert script.mail(shell("c3")) == [Open("call-c3", shell("c3"))]
    assert script.judged[0]["source"] == "saved"


def test_rules_that_another_session_has_saved_or_removed_are_heard_of():
    script = Script()
    ask(script)
    closed, opened = script.mail(Permits(rules={"r-1": "shell(make)"}), "user")
    assert closed.type == "permission_closed" and opened == Open("call-c1", shell())
    script.mail(Permits(rules={}), "user")
    ask(script, "c2")


def test_an_answer_for_longer_than_was_offered_is_one_for_once():
    script = Script()
    data = ask(script, command="git reset --hard")
    [opened] = script.mail(Decision(question=data["id"], scope="always"))
    assert opened.id == "call-c1"
    ask(script, "c2", "git reset --hard")


def test_a_call_whose_links_lead_elsewhere_is_judged_again():
    script = Script(rules={"deny": ["read(secret/**)"]})
    links = {"/r/x": "/r/y"}
    script.mail(call())
    linked = script.end("call-c1", Note(data={"links": links}))
    [opened] = linked
    assert opened.id == "call-c1" and opened.body.links == links
    script.born()
    [cancel] = script.mail(CancelCall(id="c1"))
    assert cancel.id == "call-c1"
    result = ToolResult(id="c1", text="content")
    [sent] = script.end("call-c1", Note(data={"body": codec.encode(result)}))
    assert sent.body == result

    script.mail(call(id="c2"))
    [sent] = script.end("call-c2", Note(data={"links": {"/r/x": "/r/secret/x"}}))
    assert sent.body.error == "denied" and script.judged[0]["rule"] == "read(secret/**)"

    script.mail(call(id="c3"))
    script.end("call-c3", Note(data={"links": links}))
    [sent] = script.end("call-c3", Note(data={"links": {"/r/x": "/r/z"}}))
    assert sent.body.error == "denied" and "links change" in sent.body.text


@pytest.mark.parametrize("path", [".git/hooks/x", ".loom/tools/x.py", ".envrc", "gen/x.py"])
def test_what_a_command_has_changed_is_judged_however_it_did_it(path):
    script = Script(yes=True, rules={"deny": ["edit(gen/**)"]})
    script.mail(shell())
    change = FileChange(path=path, base="", after="h")
    proposal = Propose(call="c1", agent="a", tool="shell", reason="", files=(change,))
    [sent] = script.end("call-c1", proposal)
    assert sent.to != TEAM and sent.body.error == "denied" and path in sent.body.text


def test_what_turned_out_otherwise_is_in_the_record_too():
    script = Script(yes=True)
    script.mail(shell())
    change = FileChange(path=".git/hooks/x", base="", after="h")
    proposal = Propose(call="c1", agent="a", tool="shell", reason="", files=(change,))
    script.end("call-c1", proposal)
    [judged] = script.judged
    assert (judged["call"], judged["verdict"], judged["tool"]) == ("c1", "deny", "shell")
    assert judged["what"] == "shell: make" and ".git" in judged["reason"]


@pytest.mark.parametrize(("tool", "yes", "to"), [
    ("shell", False, AGENT), ("shell", True, TEAM), ("edit", False, TEAM),
])  # fmt: skip
def test_what_a_person_would_be_asked_about_no_command_changes_unasked(tool, yes, to):
    script = Script(yes=yes, rules={"allow": ["shell"]})
    script.mail(shell() if tool == "shell" else call("edit", path="x", old="a", new="b"))
    change = FileChange(path=".vscode/tasks.json", base="", after="h")
    proposal = Propose(call="c1", agent=AGENT, tool=tool, reason="", files=(change,))
    [sent] = script.end("call-c1", proposal)
    assert sent.to == to
    assert to == TEAM or "use `edit` or `write`" in sent.body.text


def leaves(script, cwd, id="c1"):
    """The end of a command that has left its agent in a folder."""
    body = codec.encode(ToolResult(id=id))
    value = {"cwd": cwd, "env": {}, "unset": []}
    state = {"tool": f"shell@{AGENT}", "value": value}
    script.end(f"call-{id}", Note(data={"body": body, "state": state}))


def test_a_command_is_judged_where_the_last_one_has_left_its_agent():
    script = Script(yes=True, rules={"deny": ["read(secret/**)"]})
    script.mail(call("shell", "c1", command="cd secre?"))
    leaves(script, "secret")
    [sent] = script.mail(call("shell", "c2", command="cat x"))
    assert sent.body.error == "denied" and script.judged[0]["rule"] == "read(secret/**)"
    assert script.judged[0]["cwd"] == "secret"
    script.born()  # it is durable
    [sent] = script.mail(call("shell", "c3", command="cat x"))
    assert sent.body.error == "denied"
    [opened] = script.mail(call("shell", "c4", command="cd .."))
    assert opened.body.cwd == "secret"  # it begins where it was judged
    leaves(script, "", "c4")
    [opened] = script.mail(call("shell", "c5", command="cat x"))
    assert opened.id == "call-c5" and opened.body.cwd == ""
    other = replace(call("shell", "c6", command="cat x"), agent=f"{SESSION}/other", cwd="lie")
    [opened] = script.mail(other)
    assert opened.body.cwd == ""


def test_a_folder_outside_and_one_that_nobody_knows():
    script = Script(rules={"allow": ["shell(cat *)"], "deny": ["read(/srv/**)"]})
    script.mail(call("shell", "c1", command="cat x"))
    leaves(script, "/srv")
    [sent] = script.mail(call("shell", "c2", command="cat x"))
    assert sent.body.error == "denied"
    script = Script(rules={"allow": ["shell(cat *)"], "deny": ["read(/srv/**)"]})
    script.mail(call("shell", "c1", command="cat x"))
    leaves(script, "\0s/tmp")
    [asked] = script.mail(call("shell", "c2", command="cat x"))
    assert "It begins in the temporary folder/tmp" in asked.data["text"]


def test_another_configuration_is_in_force_for_the_next_call():
    script = Script(rules={"allow": ["shell(make)"]}, mode="on-request")
    data = ask(script, "c1", "make x")
    waits = ask(script, "c2", "make y")
    permissions = {"mode": "on-request", "allow": ["shell(make x)"], "deny": ["shell(make y)"]}
    told = Configured(settings={"permissions": permissions})
    assert script.mail(told, AGENT) == [], "only the hub may say so"
    closed, opened = script.mail(told, "hub")
    assert (closed.type, closed.data["id"]) == ("permission_closed", data["id"])
    assert opened.id == "call-c1"
    [sent] = script.mail(Decision(question=waits["id"]))
    assert sent.body.error == "denied", "deny always holds, whoever has said yes meanwhile"
    assert script.judged[0]["rule"] == "shell(make y)"
    ask(script, "c3", "make")
    assert script.behaviour.answer(script.state, Note(), script.table).data["permissions"][
        "rules"
    ] == [
        {"verdict": "deny", "rule": "shell(make y)", "source": "config", "id": ""},
        {"verdict": "allow", "rule": "shell(make x)", "source": "config", "id": ""},
    ]


def test_rules_are_read_once(monkeypatch):
    script = Script(rules={"allow": ["shell(make *)"]})
    script.mail(Permits(rules={"r-1": "shell(make)"}), "user")
    script.mail(shell("c1"))
    monkeypatch.setattr(rules, "parse", None)  # nobody calls it
    [opened] = script.mail(shell("c2"))
    assert opened.id == "call-c2"


def test_what_holds_is_told_to_clients():
    script = Script(rules={"deny": ["read(.env)"]}, project={"permissions": {"mode": "always"}})
    said = script.behaviour.answer(script.state, Note(), script.table).data["permissions"]
    assert said["modes"] == ["on-request", "always"] and said["answers"] == "person"
    [rule] = said["rules"]
    assert rule == {"verdict": "deny", "rule": "read(.env)", "source": "config", "id": ""}


@pytest.mark.parametrize(
    ("own", "project", "trusted", "profile"),
    [
        ("workspace", "read-only", False, "read-only"),
        ("workspace", "full", False, "workspace"),
        ("workspace", "full", True, "full"),
        ("full", None, False, "full"),
    ],
)
def test_a_project_tightens_the_sandbox_and_loosens_it_only_if_trusted(
    own, project, trusted, profile
):
    said = {"trusted": trusted, "permissions": {"sandbox": project} if project else {}}
    assert with_project({"sandbox": own}, said)["sandbox"] == profile
