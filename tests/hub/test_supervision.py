"""Sessions that supervision gave up, their resumption, and restarts of the daemon, as scripts."""

from __future__ import annotations

from typing import Any

import pytest

from loomd.hub import supervision
from loomd.hub.requests import control, say
from loomd.hub.rules import Result
from loomd.wire import codec
from loomd.wire import messages as m
from loomd.wire.bodies import Control, Note, Restarted, Say
from loomd.wire.errors import LoomError
from tests.hub.desk import Desk, exit_note, out, taking


@pytest.fixture
def desk() -> Desk:
    """A session with its team, tools and two agents, one of them asleep."""
    made = Desk()
    session = made.open()
    for n, name in enumerate(("team", "tools"), 1):
        made.hello(f"{session}/{name}", n)
    for n, name in enumerate(("lead", "idle"), 3):
        made.spawn(f"{session}/{name}", kind="agent")
        made.hello(f"{session}/{name}", n)
    made.commit(f"{session}/team", session=m.SessionChange(state="running"))
    asleep = m.ChildChange(name=f"{session}/idle", wanted="asleep")
    made.commit(f"{session}/team", children=(asleep,))
    return made


def name_of(desk: Desk) -> str:
    return next(name for name in desk.rules.sessions if name.startswith("s-"))


def give_up(desk: Desk, group: str = "") -> Result:
    session = name_of(desk)
    return desk.do(lambda b: supervision.gave_up(b, session + group, "too many restarts"))[0]


def asked(desk: Desk, operation: Any, **args: Any) -> Any:
    def job(batch: Any) -> Result:
        result: Result = batch.begin()
        result.value = operation(batch, "c/9", session=name_of(desk), **args)
        return result

    return desk.do(job)[0]


def boot(desk: Desk, number: int) -> None:
    def job(batch: Any) -> Result:
        result: Result = batch.begin()
        if supervision.begin_boot(batch.txn, number):
            supervision.daemon_restarted(batch, number, "noon")
        return result

    desk.do(job)


# --- given up ------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["", "/agents", "/keepers"])
def test_a_session_whose_supervisor_gave_up_has_failed_once(desk: Desk, group: str) -> None:
    session = name_of(desk)
    assert desk.do(lambda b: supervision.gave_up(b, "root"))[0].over == []
    assert give_up(desk, group).over == [session]
    assert give_up(desk).over == []
    row = desk.rules.sessions[session]
    assert (row.state, row.kind) == ("failed", "supervision")
    assert "too many restarts" in row.answer and f"loomctl resume {session}" in row.data["hint"]
    assert [e["type"] for e in desk.events(session)].count("session_ended") == 1
    wanted = {name: desk.row(name).wanted for name in desk.rules.actors}
    assert set(wanted.values()) == {"asleep"}


def test_nothing_wakes_the_halted_but_a_person(desk: Desk) -> None:
    """Neither mail that is forced, nor a timer, nor a late exit, nor a restart of the daemon."""
    session = name_of(desk)
    lead, team = f"{session}/lead", f"{session}/team"
    give_up(desk)

    def forced(batch: Any) -> Result:
        result: Result = batch.begin()
        batch.deliver(team, 0, "x", "user", codec.encode(Note(data=1)), force=True)
        return result

    assert desk.do(forced)[0].wake == []
    assert desk.do(lambda b: b.due(team))[0].wake == []
    assert desk.do(lambda b: b.exited(exit_note(lead, 3, final=True)))[0].wake == []
    boot(desk, 7)
    assert {desk.row(name).wanted for name in desk.rules.actors} == {"asleep"}
    assert desk.box(lead, 0) == []
    late = desk.hello(lead, 9)
    assert isinstance(late.reply, m.Fenced) and late.ended == [lead]


def test_one_that_an_ask_wakes_is_still_halted(desk: Desk) -> None:
    session = name_of(desk)
    give_up(desk)
    tools = f"{session}/tools"
    assert desk.do(lambda b: b.wake(tools))[0].wake == [tools]
    assert desk.do(lambda b: b.settle([tools]))[0].ended == [tools]
    assert tools in asked(desk, control, op="resume").wake


@pytest.mark.parametrize("by", ["resume", "say"])
def test_who_ran_goes_on_when_the_session_is_resumed_or_spoken_to(desk: Desk, by: str) -> None:
    session = name_of(desk)
    give_up(desk)
    if by == "resume":
        woken = asked(desk, control, op="resume").wake
    else:
        woken = asked(desk, say, text="go on").wake
    assert set(woken) == {f"{session}/{name}" for name in ("team", "tools", "lead")}
    row = desk.rules.sessions[session]
    assert (row.state, row.kind, row.answer, row.ended) == ("running", "", "", None)
    assert "hint" not in row.data
    assert not any(desk.row(name).halted for name in desk.rules.actors)
    assert desk.row(f"{session}/idle").wanted == "asleep"
    bodies = [codec.body(one.body) for lane in (0, 1) for one in desk.box(f"{session}/team", lane)]
    assert (Control(op="resume") if by == "resume" else Say(text="go on", sender="user")) in bodies


def test_mail_that_came_meanwhile_is_there_and_wakes_its_reader(desk: Desk) -> None:
    session = name_of(desk)
    idle = f"{session}/idle"
    desk.spawn("models", kind="models")
    desk.hello("models", 9)
    give_up(desk)
    assert desk.send("models", idle, Note(data="late")).wake == []
    assert idle in asked(desk, control, op="resume").wake
    assert [codec.body(one.body) for one in desk.box(idle)] == [Note(data="late")]


def test_a_paused_session_that_is_resumed_runs(desk: Desk) -> None:
    desk.commit(f"{name_of(desk)}/team", session=m.SessionChange(state="paused"))
    give_up(desk)
    assert asked(desk, control, op="resume").value["state"] == "running"


@pytest.mark.parametrize(
    ("state", "kind"), [("stopped", ""), ("done", ""), ("failed", "supervision")]
)
def test_a_session_that_ended_otherwise_is_not_resumed(desk: Desk, state: str, kind: str) -> None:
    """Also one whose team has ended it, because its lead was given up."""
    desk.commit(f"{name_of(desk)}/team", session=m.SessionChange(state=state, kind=kind))
    with pytest.raises(LoomError, match=f"is {state}"):
        asked(desk, control, op="resume")


# --- commits that were under way when the supervisor gave up -------------------------------------


def test_a_late_change_of_state_does_not_unmake_the_failure(desk: Desk) -> None:
    session = name_of(desk)
    give_up(desk)
    desk.commit(f"{session}/team", session=m.SessionChange(state="waiting", kind=""))
    row = desk.rules.sessions[session]
    assert (row.state, row.kind) == ("failed", "supervision")
    asked(desk, control, op="resume")
    assert desk.rules.sessions[session].state == "waiting"


def test_a_session_that_has_just_ended_is_over_and_can_be_spoken_to(desk: Desk) -> None:
    session = name_of(desk)
    give_up(desk)
    desk.commit(f"{session}/team", session=m.SessionChange(state="done", kind="", answer="x"))
    row = desk.rules.sessions[session]
    assert (row.state, row.kind, row.answer) == ("done", "", "x")
    assert f"{session}/team" in asked(desk, say, text="more").wake
    assert row.session == session and desk.rules.sessions[session].state == "running"


def test_an_actor_that_is_started_meanwhile_waits_for_the_resumption(desk: Desk) -> None:
    session = name_of(desk)
    give_up(desk)
    new = f"{session}/new"
    spec = {"name": new, "kind": "agent", "session": session}
    desk.commit(f"{session}/team", children=(m.ChildChange(name=new, wanted="running", spec=spec),))
    assert desk.row(new).wanted == "asleep"
    assert new in asked(desk, control, op="resume").wake


# --- stop is sticky ------------------------------------------------------------------------------


def test_a_stopped_session_stays_stopped(desk: Desk) -> None:
    """Late mail, exits and Hellos of its actors, and a new daemon, bring nobody back."""
    session = name_of(desk)
    lead = f"{session}/lead"
    desk.spawn("models", kind="models")
    desk.hello("models", 9)
    desk.commit(f"{session}/team", session=m.SessionChange(state="stopped"))
    assert desk.send("models", lead, Note(data="late")).wake == []
    assert desk.do(lambda b: b.exited(exit_note(lead, 3, final=True)))[0].wake == []
    assert isinstance(desk.hello(lead, 10).reply, m.Fenced)
    again = desk.restarted()
    boot(again, 8)
    assert not any(again.rules.awake(f"{session}/{name}") for name in ("team", "tools", "lead"))


def test_an_end_beats_the_respawn_that_is_under_way(desk: Desk) -> None:
    session = name_of(desk)
    lead = f"{session}/lead"
    desk.do(lambda b: b.exited(exit_note(lead, 3)))
    ended = m.ChildChange(name=lead, wanted="ended", reason="stopped")
    assert desk.commit(f"{session}/team", children=(ended,)).ended == [lead]
    late = desk.hello(lead, 8)
    assert isinstance(late.reply, m.Fenced) and late.ended == [lead]
    note = exit_note(lead, 8, final=True)
    assert desk.do(lambda b: b.exited(note))[0].wake == []
    assert desk.row(lead).wanted == "ended"


# --- the daemon was restarted --------------------------------------------------------------------


def test_each_agent_that_ran_is_told_once_per_start_of_the_daemon(desk: Desk) -> None:
    session = name_of(desk)
    lead = f"{session}/lead"
    boot(desk, 5)
    boot(desk, 5)  # the hub alone was restarted
    (told,) = desk.box(lead, 0)
    assert codec.body(told.body) == Restarted(at=desk.now - 1, when="noon")
    assert desk.box(f"{session}/idle", 0) == [] == desk.box(f"{session}/tools", 0)
    (event,) = [e for e in desk.events(session) if e["type"] == "daemon_restarted"]
    assert event["data"]["actors"] == [f"{session}/{name}" for name in ("lead", "team", "tools")]
    desk.hello(lead, 20)
    restarted = [e for e in desk.events(session) if e["type"] == "actor_restarted"]
    assert restarted[-1]["data"]["reason"] == "the daemon was restarted"
    desk.commit(lead, input=taking(told), outbox=(out(f"{session}/team"),))
    desk.do(lambda b: b.exited(exit_note(lead, 20)))
    desk.hello(lead, 21)
    assert desk.box(lead, 0) == []
    boot(desk, 6)
    assert len(desk.box(lead, 0)) == 1


def test_one_that_never_said_hello_is_not_told(desk: Desk) -> None:
    session = name_of(desk)
    desk.spawn(f"{session}/new", kind="agent")
    boot(desk, 5)
    assert desk.box(f"{session}/new", 0) == []
