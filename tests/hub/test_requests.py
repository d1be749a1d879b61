"""Clients' requests that change the state: done once, refused without a trace."""

from __future__ import annotations

from typing import Any

import pytest

from loomd.hub.mail import Batch
from loomd.hub.requests import perform
from loomd.hub.rules import Result
from loomd.store.schema import text_key
from loomd.wire import codec
from loomd.wire import messages as m
from loomd.wire.bodies import Control, Decision, Note, PlanUndo, Say, Undo
from tests.hub.desk import Desk, exit_note


def ask(
    desk: Desk,
    op: str,
    args: dict[str, Any] | None = None,
    id: str = "1",
    client: str = "c",
    **kw: Any,
) -> Any:
    """The value of a request, or its Failure. `id`: of the request."""
    request = m.Request(id=id, op=op, args=kw if args is None else args)
    result = desk.do(lambda batch: perform(batch, client, request))[0]
    reply = codec.to_client(result.reply)
    return reply.value if isinstance(reply, m.Reply) else reply


def test_opening_a_session_makes_its_team_and_tools_and_says_the_goal() -> None:
    desk = Desk()
    session = ask(desk, "open_session", repo="/r", goal="rename a to b", yes=True)["session"]
    assert session.startswith("s-") and len(session) == 8
    assert desk.rules.members[session] == {f"{session}/team", f"{session}/tools"}
    assert desk.rules.spec(f"{session}/team").args["yes"] is True
    said = codec.body(desk.box(f"{session}/team")[0].body)
    assert said == Say(text="rename a to b", sender="user")
    assert [e["type"] for e in desk.events(session)] == ["session_opened", "said"]


def test_a_resent_request_gets_the_same_reply_and_changes_nothing() -> None:
    desk = Desk()
    first = ask(desk, "open_session", repo="/r", goal="g")
    again = ask(desk.restarted(), "open_session", repo="/r", goal="g")
    assert first == again
    assert len(desk.restarted().rules.sessions) == 1
    assert ask(desk, "open_session", id="2", repo="/r")["session"] != first["session"]
    assert ask(desk, "open_session", client="d", repo="/r")["session"] != first["session"]


def test_saying_something_wakes_a_session_that_is_over() -> None:
    desk = Desk()
    session = ask(desk, "open_session", repo="/r")["session"]
    desk.hello(f"{session}/team", 1)
    desk.commit(f"{session}/team", session=m.SessionChange(state="done"))
    request = m.Request(id="9", op="say", args={"session": session, "text": "go on"})
    result = desk.do(lambda b: perform(b, "c", request))[0]
    assert result.wake == [f"{session}/team"]
    assert desk.rules.sessions[session].state == "running"
    assert result.value["message"] == "c/9"


@pytest.mark.parametrize(
    ("op", "args", "code"),
    [
        ("say", {"session": "s-nobody", "text": "x"}, "no_such_session"),
        ("say", {"session": "SESSION", "text": " "}, "usage"),
        ("say", {"session": "SESSION", "text": "x", "to": "nobody"}, "no_such_actor"),
        ("say", {"session": "SESSION", "text": "x" * 70_000}, "too_large"),
        ("control", {"session": "SESSION", "op": "jump"}, "usage"),
        ("remove", {"session": "SESSION"}, "bad_state"),
        ("decide", {"id": "q-9"}, "not_found"),
        ("dead", {"action": "retry", "id": "x"}, "not_found"),
        ("spawn", {"spec": {"name": "s-1/a", "kind": "agent", "session": "s-1"}}, "bad_request"),
        ("spawn", {"spec": {"name": "s-1/a", "kind": "echo", "session": "s-2"}}, "bad_request"),
        ("post", {"to": "SESSION/team", "body": {"t": "note"}}, "bad_request"),
        ("unspawn", {"name": "x"}, "no_such_actor"),
    ],
)
def test_a_refused_request_leaves_no_trace(op: str, args: dict[str, Any], code: str) -> None:
    desk = Desk()
    session = ask(desk, "open_session", id="0", repo="/r")["session"]
    before = {table: dict(rows) for table, rows in desk.memory.tables.items()}
    args = {
        key: value.replace("SESSION", session) if isinstance(value, str) else value
        for key, value in args.items()
    }
    failure = ask(desk, op, args)
    assert isinstance(failure, m.Failure)
    assert failure.code == code
    assert desk.memory.tables == before


def test_what_one_agent_does_is_cancelled_through_the_team() -> None:
    desk = Desk()
    session = ask(desk, "open_session", repo="/r", goal="g")["session"]
    coder, tools = f"{session}/coder-1", f"{session}/tools"
    desk.spawn(coder, "agent")

    def cancel(agent: str, id: str, op: str = "cancel") -> Any:
        return ask(desk, "control", {"session": agent, "op": op}, id=id)

    assert cancel(tools, "2").code == cancel(f"{session}/lead", "3").code == "not_found"
    assert cancel(f"{session}/", "6").code == "not_found"
    assert cancel("s-none00/coder-1", "7").code == cancel("/coder-1", "8").code == "no_such_session"
    assert cancel(coder, "4", "pause").code == "usage"
    assert cancel(coder, "5")["session"] == session
    told = codec.body(desk.box(f"{session}/team", 0)[0].body)
    assert told == Control(op="cancel", agent=coder)


def test_a_control_goes_to_the_team_before_its_work() -> None:
    desk = Desk()
    session = ask(desk, "open_session", repo="/r")["session"]
    assert ask(desk, "control", {"session": session, "op": "pause"}, id="2")["state"] == "paused"
    (mail,) = desk.box(f"{session}/team", 0)
    assert codec.body(mail.body) == Control(op="pause")


def test_stopping_what_is_over_is_no_error_and_it_can_be_removed() -> None:
    desk = Desk()
    session = ask(desk, "open_session", repo="/r")["session"]
    desk.hello(f"{session}/team", 1)
    desk.commit(f"{session}/team", session=m.SessionChange(state="stopped"))
    assert ask(desk, "control", {"session": session, "op": "stop"}, id="2")["state"] == "stopped"
    assert ask(desk, "control", {"session": session, "op": "pause"}, id="3").code == "bad_state"
    assert ask(desk, "remove", id="4", session=session)["state"] == "removed"
    assert ask(desk, "say", id="5", session=session, text="x").code == "no_such_session"
    assert desk.row(f"{session}/team").wanted == "ended"


def test_what_cannot_be_resumed_is_told_its_state_and_what_to_do() -> None:
    desk = Desk()
    session = ask(desk, "open_session", repo="/r")["session"]
    team = f"{session}/team"
    desk.hello(team, 1)
    resume = {"session": session, "op": "resume"}
    desk.commit(team, session=m.SessionChange(state="waiting"))
    assert ask(desk, "control", resume, id="2")["state"] == "waiting"  # it is not paused
    desk.commit(team, session=m.SessionChange(state="paused"))
    assert ask(desk, "control", resume, id="3")["state"] == "running"
    desk.commit(team, session=m.SessionChange(state="failed", kind="timeout"))
    failure = ask(desk, "control", resume, id="4")
    assert failure.code == "bad_state"
    assert f"{session} is failed (timeout)" in failure.message
    assert f"loomctl send {session} TEXT" in failure.hint

    def leave(batch: Batch) -> Result:
        result = batch.begin()
        batch.end(team, "it was told to", by="client")
        return result

    desk.do(leave)
    failure = ask(desk, "control", resume, id="5")
    assert "it was told to" in failure.message and "loomctl run" in failure.hint


def test_the_first_answer_to_a_question_wins() -> None:
    desk = Desk()
    session = ask(desk, "open_session", repo="/r")["session"]
    tools = f"{session}/tools"
    row = {
        "id": "q-1",
        "session": session,
        "actor": tools,
        "kind": "permission",
        "text": "may I?",
        "state": "open",
    }
    desk.hello(tools, 1)
    put = m.Row(table="questions", key=text_key(session, "q-1"), value=codec.pack(row))
    desk.commit(tools, rows=(put,))
    first = ask(desk, "decide", {"id": "q-1", "by": "me", "scope": "session"}, id="2")
    assert first == {"id": "q-1", "decision": "allow", "by": "me"}
    second = ask(desk, "decide", {"id": "q-1", "by": "you", "allow": False}, id="3")
    assert (second.code, "me" in second.message) == ("bad_state", True)
    (mail,) = desk.box(tools, 0)
    said = codec.body(mail.body)
    assert said == Decision(question="q-1", allow=True, scope="session", by="me")
    assert desk.events(session)[-1]["type"] == "permission_decided"


def test_a_dead_letter_can_be_tried_again_or_dropped() -> None:
    desk = Desk(poison_crashes=1)
    for n in (1, 2):
        ask(desk, "spawn", id=f"s{n}", spec={"name": "s-1/a", "kind": "echo", "session": "s-1"})
        desk.hello("s-1/a", n)
        ask(desk, "post", id=f"p{n}", to="s-1/a", body={"t": "note", "data": n})
        blame = {"kind": "mail", "lane": 1, "seq": n}
        desk.do(lambda b, i=n, bl=blame: b.exited(exit_note("s-1/a", i, blame=bl)))
    first, second = (key.decode() for key in sorted(desk.memory.tables["dead"]))
    assert ask(desk, "dead", {"action": "retry", "id": first}, id="r")["id"] == first
    assert ask(desk, "dead", {"action": "drop", "id": second}, id="d")["id"] == second
    assert [codec.body(mail.body) for mail in desk.box("s-1/a")] == [Note(data=1)]
    assert desk.box("s-1/a")[0].attempt == 1
    assert desk.memory.tables["dead"] == {}


def test_removing_a_session_leaves_no_mail_no_timer_and_no_effect() -> None:
    desk = Desk()
    session = ask(desk, "open_session", repo="/r")["session"]
    team, tools = f"{session}/team", f"{session}/tools"
    desk.hello(team, 1)
    desk.hello(tools, 2)
    desk.commit(tools, effects=(m.EffectOpen(id="e", body=codec.encode(Note(data=1))),))
    desk.send(team, tools)
    armed = (m.TimerSet(key="t", due=9.0),)
    desk.commit(team, timers=armed, session=m.SessionChange(state="done"))
    request = m.Request(id="9", op="remove", args={"session": session})
    result = desk.do(lambda b: perform(b, "c", request))[0]
    assert set(result.ended) == {team, tools}
    assert (team, "t", None, b"") in result.timers
    for table in ("mail", "timers", "effects"):
        assert not list(desk.memory.scan(table, b"")), table


def test_an_undo_wakes_the_team_of_a_session_that_is_over_and_that_its_tool_host() -> None:
    desk = Desk()
    session = ask(desk, "open_session", repo="/r")["session"]
    team, tools = f"{session}/team", f"{session}/tools"
    desk.hello(team, 1)
    desk.hello(tools, 1)
    desk.commit(team, session=m.SessionChange(state="done"))
    assert {desk.row(name).wanted for name in (team, tools)} == {"asleep"}
    asked = ask(desk, "undo", id="9", session=session, task="t-1")
    (mail,) = desk.box(team)
    assert codec.body(mail.body) == Undo(id=asked["undo"], task="t-1") and mail.sender == "user"
    assert desk.row(team).wanted == "running" and desk.row(tools).wanted == "asleep"
    assert desk.events(session)[-1]["seq"] == asked["seq"]
    assert ask(desk, "undo", id="9", session=session, task="t-1") == asked, "once"
    assert len(desk.box(team)) == 1
    desk.hello(team, 2)
    order = codec.encode(PlanUndo(undo=asked["undo"], edits=()))
    desk.commit(team, outbox=(m.Out(to=(tools,), body=order),))
    assert desk.row(tools).wanted == "running"
    assert desk.rules.sessions[session].state == "done"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ({"edit": "e-1", "task": "t-1"}, "usage"),
        ({"edit": "e-1", "all": True}, "usage"),
        ({"session": "s-nobody"}, "no_such_session"),
    ],
)
def test_an_undo_that_cannot_be_meant_is_refused(args: dict[str, Any], code: str) -> None:
    desk = Desk()
    session = ask(desk, "open_session", repo="/r")["session"]
    refused = ask(desk, "undo", {"session": session, **args}, id="9")
    assert isinstance(refused, m.Failure) and refused.code == code
    assert not desk.box(f"{session}/team")
