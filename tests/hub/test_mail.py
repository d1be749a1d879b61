"""Each rule of mail as a script: jobs in, rows and consequences out."""

from __future__ import annotations

import pytest

from loomd.hub.commits import MAX_BODY
from loomd.hub.mail import due_timers, mailbox
from loomd.hub.rules import check_epoch
from loomd.store.schema import name_key, number_key, text_key
from loomd.store.tables import dead_row
from loomd.wire import codec
from loomd.wire import messages as m
from loomd.wire.bodies import Ended, Note, ToolResult, Undelivered
from tests.hub.desk import Desk, exit_note, out, taking


@pytest.fixture
def desk() -> Desk:
    """Two echo actors of one session, welcomed as incarnations 1 and 2."""
    made = Desk()
    for incarnation, name in enumerate(("s-1/a", "s-1/b"), 1):
        made.spawn(name)
        made.hello(name, incarnation)
    return made


def events_of(desk: Desk, type: str) -> list[dict]:
    return [event["data"] for event in desk.events("s-1") if event["type"] == type]


# --- fences --------------------------------------------------------------------------------------


def test_a_hello_moves_the_fence_and_tells_the_last_step(desk: Desk) -> None:
    desk.commit("s-1/a")
    result = desk.hello("s-1/a", 7)
    assert result.reply == m.Welcome(epoch=1, step=1)
    assert (desk.row("s-1/a").fence, desk.row("s-1/a").restarts) == (7, 1)
    assert events_of(desk, "actor_restarted")[0]["incarnation"] == 7


def test_a_hello_of_an_older_incarnation_is_fenced(desk: Desk) -> None:
    desk.hello("s-1/a", 7)
    assert isinstance(desk.hello("s-1/a", 6).reply, m.Fenced)
    assert desk.row("s-1/a").fence == 7


def test_a_hello_of_nobody_or_of_an_ended_one_is_fenced(desk: Desk) -> None:
    assert isinstance(desk.hello("s-1/x", 1).reply, m.Fenced)
    desk.commit("s-1/b", children=(m.ChildChange(name="s-1/a", wanted="ended"),))
    result = desk.hello("s-1/a", 9)
    assert isinstance(result.reply, m.Fenced)
    assert result.ended == ["s-1/a"]


def test_a_second_hello_of_the_same_incarnation_is_no_restart(desk: Desk) -> None:
    desk.hello("s-1/a", 1)
    assert desk.row("s-1/a").restarts == 0


def test_neither_a_wake_up_nor_a_new_start_of_the_daemon_is_a_restart(desk: Desk) -> None:
    boot = 1 << 32
    asleep = (m.ChildChange(name="s-1/a", wanted="asleep"),)
    desk.commit("s-1/a", children=asleep)
    desk.do(lambda b: b.wake("s-1/a"))
    desk.hello("s-1/a", 2)
    assert desk.row("s-1/a").restarts == 0
    desk.hello("s-1/a", boot + 1)
    assert desk.row("s-1/a").restarts == 0
    desk.hello("s-1/a", boot + 2)
    assert desk.row("s-1/a").restarts == 1


def test_a_successor_waits_for_what_its_predecessor_waited_for(desk: Desk) -> None:
    """It need not say so again: its state is the one that was committed with the word."""
    desk.commit("s-1/a", status=m.Status(state="waiting", waiting_for="models", since=7.0))
    desk.do(lambda b: b.exited(exit_note("s-1/a", 1, reason="SEGV")))
    row = desk.row("s-1/a")
    assert (row.status, row.waiting_for) == ("restarting", "SEGV")
    result = desk.hello("s-1/a", 2)
    row = desk.row("s-1/a")
    assert (row.status, row.waiting_for, row.status_since) == ("waiting", "models", 7.0)
    assert result.status == ("s-1/a", "waiting", "models", 7.0)


def test_a_commit_of_another_incarnation_is_fenced(desk: Desk) -> None:
    desk.hello("s-1/a", 7)
    result = desk.commit("s-1/a", incarnation=1, outbox=(out("s-1/b"),))
    assert isinstance(result.reply, m.Fenced)
    assert desk.box("s-1/b") == []


def test_a_commit_in_line_before_the_hello_is_applied_and_one_after_it_is_not() -> None:
    desk = Desk()
    desk.spawn("s-1/a")
    desk.hello("s-1/a", 1)
    last = desk.frame("s-1/a")
    hello = m.Hello(actor="s-1/a", incarnation=2, token="")
    applied, welcome, late = desk.do(
        lambda b: b.commit(last),
        lambda b: b.hello(hello),
        lambda b: b.commit(m.Commit(**{**_fields(last), "step": 2})),
    )
    assert applied.reply == m.Committed(step=1)
    assert welcome.reply == m.Welcome(epoch=1, step=1)
    assert isinstance(late.reply, m.Fenced)


def test_a_resend_is_acknowledged_and_not_applied(desk: Desk) -> None:
    frame = desk.frame("s-1/a", outbox=(out("s-1/b"),))
    first, second = desk.do(lambda b: b.commit(frame), lambda b: b.commit(frame))
    assert first.reply == second.reply == m.Committed(step=1)
    assert len(first.mails) == 1 and second.mails == []
    assert len(desk.box("s-1/b")) == 1


def test_a_step_that_skips_one_is_fenced(desk: Desk) -> None:
    assert isinstance(desk.commit("s-1/a", step=3).reply, m.Fenced)


# --- inputs --------------------------------------------------------------------------------------


def test_a_consumed_mail_moves_to_the_inputs_with_time_and_generation(desk: Desk) -> None:
    desk.send("s-1/a", "s-1/b", Note(data="x"))
    (mail,) = desk.box("s-1/b")
    result = desk.commit("s-1/b", input=taking(mail), now=5.0, generation=3)
    assert result.consumed == ("s-1/b", 1, 1)
    assert desk.box("s-1/b") == []
    row = codec.unpack(desk.memory.get("inputs", number_key("s-1/b", 1)))
    assert (row["kind"], row["now"], row["generation"]) == ("mail", 5.0, 3)
    assert codec.body(row["mail"]["body"]) == Note(data="x")


def test_a_mail_that_is_not_there_cannot_be_consumed(desk: Desk) -> None:
    result = desk.commit("s-1/b", input=m.InputRef(kind="mail", lane=1, seq=9))
    assert isinstance(result.reply, m.Refused)
    assert desk.row("s-1/b").step == 0


def test_effects_are_opened_by_one_commit_and_closed_by_another(desk: Desk) -> None:
    key = text_key("s-1/a", "e-1")
    desk.commit("s-1/a", effects=(m.EffectOpen(id="e-1", body=b"q"),))
    stored = codec.unpack(desk.memory.get("effects", key))
    assert stored == {"body": b"q", "attempt": 1, "standing": False, "crashes": 0}
    again = m.EffectOpen(id="e-1", body=b"q", attempt=2)
    desk.commit("s-1/a", input=m.InputRef(kind="init", key="reopen"), effects=(again,))
    assert codec.unpack(desk.memory.get("effects", key))["attempt"] == 2
    ended = m.InputRef(kind="effect", key="e-1", body=b"answer")
    desk.commit("s-1/a", input=ended)
    assert desk.memory.get("effects", key) is None
    assert codec.unpack(desk.memory.get("inputs", number_key("s-1/a", 3)))["body"] == b"answer"
    assert isinstance(desk.commit("s-1/a", input=ended).reply, m.Refused)


def test_a_timer_is_armed_consumed_and_disarmed(desk: Desk) -> None:
    key = text_key("s-1/a", "t")
    armed = desk.commit("s-1/a", timers=(m.TimerSet(key="t", due=10.0, body=b"b"),))
    assert armed.timers == [("s-1/a", "t", 10.0, b"b")]
    fired = desk.commit("s-1/a", input=m.InputRef(kind="timer", key="t"), now=11.0)
    assert fired.timers == [("s-1/a", "t", None, b"")]
    assert desk.memory.get("timers", key) is None
    desk.commit("s-1/a", timers=(m.TimerSet(key="t", due=10.0),))
    desk.commit("s-1/a", timers=(m.TimerSet(key="t"),))
    assert desk.memory.get("timers", key) is None


def test_a_timer_armed_anew_while_it_fired_stays(desk: Desk) -> None:
    desk.commit("s-1/a", timers=(m.TimerSet(key="t", due=50.0),))
    desk.commit("s-1/a", input=m.InputRef(kind="timer", key="t"), now=11.0)
    assert desk.memory.get("timers", text_key("s-1/a", "t")) is not None


def test_a_timer_may_arm_itself_again_in_the_step_that_it_caused(desk: Desk) -> None:
    desk.commit("s-1/a", timers=(m.TimerSet(key="t", due=10.0),))
    again = (m.TimerSet(key="t", due=20.0),)
    result = desk.commit("s-1/a", input=m.InputRef(kind="timer", key="t"), now=11.0, timers=again)
    assert result.timers == [("s-1/a", "t", None, b""), ("s-1/a", "t", 20.0, b"")]
    assert desk.memory.get("timers", text_key("s-1/a", "t")) is not None


# --- delivery ------------------------------------------------------------------------------------


def test_lanes_count_for_themselves_without_a_gap(desk: Desk) -> None:
    for lane in (0, 1, 1, 0):
        desk.send("s-1/a", "s-1/b", lane=lane)
    assert [mail.seq for mail in desk.box("s-1/b", 0)] == [1, 2]
    assert [mail.seq for mail in desk.box("s-1/b", 1)] == [1, 2]
    assert [mail.id for mail in desk.box("s-1/b", 1)] == ["s-1/a/2.0", "s-1/a/3.0"]


def test_a_sequence_is_never_given_twice_even_if_the_mailbox_was_emptied(desk: Desk) -> None:
    for _ in range(2):
        desk.send("s-1/a", "s-1/b")
        (mail,) = desk.box("s-1/b")
        desk.commit("s-1/b", input=taking(mail))
    assert mail.seq == 2


def test_a_body_for_many_is_stored_once_and_read_whole(desk: Desk) -> None:
    desk.spawn("s-1/c")
    body = Note(data="x" * 500)
    result = desk.send("s-1/a", ("s-1/b", "s-1/c", "s-1/a"), body)
    assert len({to for to, *_ in result.mails}) == 3
    assert len(desk.memory.tables["bodies"]) == 1
    for to, lane, seq, frame in result.mails:
        assert codec.body(codec.to_actor(frame).body) == body
        stored = desk.memory.get("mail", name_key(to) + bytes((lane,)) + seq.to_bytes(8, "big"))
        assert len(stored) < 400
        assert codec.body(desk.box(to)[0].body) == body


def test_the_sender_is_told_of_an_unknown_recipient_in_the_same_transaction(desk: Desk) -> None:
    desk.send("s-1/a", ("s-1/b", "s-1/nobody"))
    assert len(desk.box("s-1/b")) == 1
    (mail,) = desk.box("s-1/a", 0)
    told = codec.body(mail.body)
    assert told == Undelivered(
        id="s-1/a/1.0", to="s-1/nobody", reason="no_such_actor", body=codec.encode(Note(data=1))
    )


def test_a_full_mailbox_refuses_work_but_neither_answers_nor_control() -> None:
    desk = Desk(bound=2)
    for incarnation, name in enumerate(("s-1/a", "s-1/b"), 1):
        desk.spawn(name)
        desk.hello(name, incarnation)
    for _ in range(3):
        desk.send("s-1/a", "s-1/b")
    assert len(desk.box("s-1/b")) == 2
    (mail,) = desk.box("s-1/a", 0)
    assert codec.body(mail.body).reason == "full"
    desk.send("s-1/a", "s-1/b", ToolResult(id="c-1"))
    desk.send("s-1/a", "s-1/b", lane=0)
    assert (len(desk.box("s-1/b", 1)), len(desk.box("s-1/b", 0))) == (3, 1)
    desk.commit("s-1/b", input=taking(desk.box("s-1/b")[0]))
    desk.commit("s-1/b", input=taking(desk.box("s-1/b")[0]))
    desk.send("s-1/a", "s-1/b")
    assert len(desk.box("s-1/b", 1)) == 2


# --- what is checked -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        {"rows": (m.Row(table="actors", key=b"s-1/b\0", value=b"x"),)},
        {"rows": (m.Row(table="tasks", key=b"s-1\0t", value=b"x"),)},
        {"rows": (m.Row(table="nothing", key=b"s-1\0t", value=b"x"),)},
        {"log": (m.LogEntry(n=2, value=b""),)},
        {"state": b"x" * (codec.BLOB_LIMIT + 1)},
        {"outbox": (m.Out(to=("s-1/b",), body=b"x" * (MAX_BODY + 1)),)},
        {"outbox": (m.Out(to=("x" * 600,), body=b""),)},
        {"timers": (m.TimerSet(key="x" * 600, due=1.0),)},
        {"events": (m.EventOut(type="t", session="s-2"),)},
        {"children": (m.ChildChange(name="s-2/x", wanted="ended"),)},
        {"children": (m.ChildChange(name="s-1/x", wanted="running", spec={"name": 1}),)},
        {"children": (m.ChildChange(name="s-1/x", wanted="running", spec=None),)},
    ],
    ids=lambda parts: next(iter(parts)),
)
def test_a_commit_that_is_wrong_is_refused_whole(desk: Desk, parts: dict) -> None:
    before = {table: dict(rows) for table, rows in desk.memory.tables.items()}
    good = {"outbox": (out("s-1/b"),), "events": (m.EventOut(type="said"),)}
    result = desk.commit("s-1/a", **{**good, **parts})
    assert isinstance(result.reply, m.Refused)
    assert result.reply.step == 1
    assert result.mails == [] and result.events == []
    assert desk.memory.tables == before


def test_an_owner_writes_its_tables_but_only_in_its_session() -> None:
    desk = Desk()
    desk.spawn("s-1/team", kind="team")
    desk.hello("s-1/team", 1)
    key = text_key("s-1", "t-1")
    desk.commit("s-1/team", rows=(m.Row(table="tasks", key=key, value=b"\x01"),))
    assert desk.memory.get("tasks", key) == b"\x01"
    desk.commit("s-1/team", rows=(m.Row(table="tasks", key=key),))
    assert desk.memory.get("tasks", key) is None
    other = m.Row(table="tasks", key=text_key("s-2", "t-1"), value=b"\x01")
    assert isinstance(desk.commit("s-1/team", rows=(other,)).reply, m.Refused)


def test_an_aborted_transaction_changes_neither_cache_nor_state(desk: Desk) -> None:
    frame = desk.frame("s-1/a", outbox=(out("s-1/b"),), events=(m.EventOut(type="x"),))
    desk.abort(lambda b: b.commit(frame))
    assert desk.row("s-1/a").step == 0
    assert desk.commit("s-1/a").reply == m.Committed(step=1)


# --- children and sessions -----------------------------------------------------------------------


def spec(name: str, **more: object) -> dict:
    return {"name": name, "kind": "echo", "session": "s-1", **more}


def test_a_started_child_is_wanted_and_gets_the_mail_of_the_same_commit(desk: Desk) -> None:
    child = m.ChildChange(name="s-1/c", wanted="running", spec=spec("s-1/c"))
    result = desk.commit("s-1/a", children=(child,), outbox=(out("s-1/c"),))
    assert result.wake == ["s-1/c"]
    assert len(desk.box("s-1/c")) == 1
    assert desk.rules.spec("s-1/c").kind == "echo"


def test_an_ended_actor_is_told_to_the_team_once_and_its_mail_is_answered(desk: Desk) -> None:
    desk.spawn("s-1/team", kind="team")
    desk.send("s-1/a", "s-1/b")
    desk.commit("s-1/b", timers=(m.TimerSet(key="t", due=9e9),))
    ended = m.ChildChange(name="s-1/b", wanted="ended", reason="done")
    result = desk.commit("s-1/a", children=(ended,))
    assert result.ended == ["s-1/b"]
    assert ("s-1/b", "t", None, b"") in result.timers
    assert codec.body(desk.box("s-1/a", 0)[0].body).reason == "no_such_actor"
    assert codec.body(desk.box("s-1/team", 0)[0].body) == Ended(name="s-1/b", reason="done")
    desk.commit("s-1/a", children=(ended,))
    assert len(desk.box("s-1/team", 0)) == 1
    assert isinstance(desk.commit("s-1/b").reply, m.Fenced)


def test_sleep_needs_an_empty_mailbox_and_no_open_effect(desk: Desk) -> None:
    asleep = m.ChildChange(name="s-1/b", wanted="asleep")
    desk.send("s-1/a", "s-1/b")
    desk.commit("s-1/b", children=(asleep,))
    assert desk.row("s-1/b").wanted == "running"
    desk.commit("s-1/b", input=taking(desk.box("s-1/b")[0]))
    desk.commit("s-1/b", effects=(m.EffectOpen(id="e", body=b""),))
    desk.commit("s-1/b", children=(asleep,))
    assert desk.row("s-1/b").wanted == "running"
    desk.commit("s-1/b", input=m.InputRef(kind="effect", key="e"), children=(asleep,))
    assert desk.row("s-1/b").wanted == "asleep"


def test_mail_wakes_a_sleeper_and_that_is_no_restart(desk: Desk) -> None:
    desk.commit("s-1/b", children=(m.ChildChange(name="s-1/b", wanted="asleep"),))
    result = desk.send("s-1/a", "s-1/b")
    assert result.wake == ["s-1/b"]
    assert desk.row("s-1/b").wanted == "running"
    desk.hello("s-1/b", 9)
    assert events_of(desk, "actor_restarted") == []
    assert events_of(desk, "actor_woken")[0]["name"] == "s-1/b"


@pytest.fixture
def session() -> tuple[Desk, str]:
    """A session with its team, welcomed, and an agent."""
    desk = Desk()
    session = desk.open()
    desk.hello(f"{session}/team", 1)
    lead = {"name": f"{session}/lead", "kind": "agent", "session": session, "role": "lead"}
    desk.commit(
        f"{session}/team",
        children=(m.ChildChange(name=f"{session}/lead", wanted="running", spec=lead),),
    )
    desk.hello(f"{session}/lead", 2)
    return desk, session


def test_the_end_of_a_session_puts_everyone_to_sleep(session: tuple[Desk, str]) -> None:
    desk, name = session
    result = desk.commit(
        f"{name}/team", session=m.SessionChange(state="done", kind="", answer="42")
    )
    assert result.over == [name]
    assert {desk.row(actor).wanted for actor in desk.rules.members[name]} == {"asleep"}
    row = desk.rules.sessions[name]
    assert (row.state, row.answer, row.ended) == ("done", "42", desk.now)


def test_late_mail_does_not_wake_a_session_that_is_over_but_going_on_does(
    session: tuple[Desk, str],
) -> None:
    desk, name = session
    team, lead = f"{name}/team", f"{name}/lead"
    desk.commit(team, session=m.SessionChange(state="done"))
    result = desk.send(lead, team)  # its last commit was still in the socket
    assert result.wake == [] and desk.row(team).wanted == "asleep"
    waking = desk.do(lambda b: b.wake(team))[0]
    assert waking.wake == [team]
    desk.hello(team, 5)
    desk.commit(team, outbox=(out(lead),))
    assert desk.row(lead).wanted == "asleep"
    result = desk.commit(team, session=m.SessionChange(state="running"))
    assert result.wake == [lead]
    assert desk.rules.sessions[name].ended is None


def test_what_was_said_while_a_session_ended_is_heard(session: tuple[Desk, str]) -> None:
    desk, name = session
    team = f"{name}/team"
    desk.send(f"{name}/lead", team)
    result = desk.commit(team, session=m.SessionChange(state="done"))
    assert (result.over, result.wake) == ([name], [team])
    desk.hello(team, 5)
    desk.commit(team, input=taking(desk.box(team)[0]))
    assert desk.do(lambda b: b.settle([team, f"{name}/lead"]))[0].ended == [team]
    assert desk.row(team).wanted == "asleep"


def test_a_standing_effect_does_not_keep_an_actor_of_a_session_that_is_over_awake(
    session: tuple[Desk, str],
) -> None:
    desk, name = session
    tools = f"{name}/tools"
    effects = (
        m.EffectOpen(id="call-1", body=b""),
        m.EffectOpen(id="generation-1", body=b"", standing=True),
    )
    desk.commit(tools, effects=effects)
    desk.commit(f"{name}/team", session=m.SessionChange(state="done"))
    desk.do(lambda b: b.wake(tools))
    desk.hello(tools, 5)
    assert desk.do(lambda b: b.settle([tools]))[0].ended == []
    desk.commit(tools, input=m.InputRef(kind="effect", key="call-1"))
    assert desk.do(lambda b: b.settle([tools]))[0].ended == [tools]
    assert desk.row(tools).wanted == "asleep"


def test_a_due_timer_wakes_the_team_of_a_session_that_is_over_and_nobody_else(
    session: tuple[Desk, str],
) -> None:
    desk, name = session
    desk.commit(f"{name}/team", session=m.SessionChange(state="done"))
    assert desk.do(lambda b: b.due(f"{name}/lead"))[0].wake == []
    assert desk.do(lambda b: b.due(f"{name}/team"))[0].wake == [f"{name}/team"]


def test_only_the_team_may_change_its_session(session: tuple[Desk, str]) -> None:
    desk, name = session
    result = desk.commit(f"{name}/lead", session=m.SessionChange(state="done"))
    assert isinstance(result.reply, m.Refused)


# --- deaths --------------------------------------------------------------------------------------


def test_a_mail_that_ends_its_reader_three_times_is_a_dead_letter(desk: Desk) -> None:
    desk.send("s-1/a", "s-1/b", Note(data="bad"))
    blame = {"kind": "mail", "lane": 1, "seq": 1}
    for incarnation, attempt in ((2, 2), (3, 3)):
        desk.hello("s-1/b", incarnation)
        note = exit_note("s-1/b", incarnation, blame=blame, reason="SEGV")
        desk.do(lambda b, n=note: b.exited(n))
        assert desk.box("s-1/b")[0].attempt == attempt
    desk.hello("s-1/b", 4)
    desk.do(lambda b: b.exited(exit_note("s-1/b", 4, blame=blame, reason="SEGV")))
    assert desk.box("s-1/b") == []
    (raw,) = desk.memory.tables["dead"].values()
    row = dead_row.decode(raw)
    assert (row.actor, row.crashes, row.error) == ("s-1/b", 3, "SEGV")
    assert codec.body(desk.box("s-1/a", 0)[0].body).reason == "poison"
    assert events_of(desk, "poison")[0]["crashes"] == 3


def test_a_blame_for_an_incarnation_that_is_not_in_force_counts_nothing(desk: Desk) -> None:
    desk.send("s-1/a", "s-1/b")
    blame = {"kind": "mail", "lane": 1, "seq": 1}
    desk.do(lambda b: b.exited(exit_note("s-1/b", 1, blame=blame)))
    desk.do(lambda b: b.exited(exit_note("s-1/b", 99, blame=blame)))
    assert desk.box("s-1/b")[0].attempt == 1


def test_a_wanted_actor_that_its_supervisor_let_go_is_ensured_again(desk: Desk) -> None:
    result = desk.do(lambda b: b.exited(exit_note("s-1/b", 2, final=True)))[0]
    assert result.wake == ["s-1/b"]


def test_an_actor_that_is_never_mended_is_given_up() -> None:
    desk = Desk()
    desk.spawn("s-1/team", kind="team")
    desk.spawn("s-1/b")
    for incarnation in range(1, 11):
        desk.do(lambda b, i=incarnation: b.exited(exit_note("s-1/b", i, final=True)))
    assert desk.row("s-1/b").wanted == "ended"
    assert codec.body(desk.box("s-1/team", 0)[0].body).name == "s-1/b"


def test_a_temporary_actor_ends_with_its_process(desk: Desk) -> None:
    desk.spawn("s-1/t", restart="temporary")
    desk.do(lambda b: b.exited(exit_note("s-1/t", 5, final=True)))
    assert desk.row("s-1/t").wanted == "ended"


# --- events --------------------------------------------------------------------------------------


def test_events_are_gapless_per_session_over_transactions_and_hubs(desk: Desk) -> None:
    emit = (m.EventOut(type="x", data={"n": 1}, cause="c"), m.EventOut(type="y"))
    desk.commit("s-1/a", events=emit)
    again = desk.restarted()
    again.commit("s-1/b", events=emit)
    seqs = [event["seq"] for event in again.events("s-1")]
    assert seqs == list(range(1, len(seqs) + 1))
    assert again.events("s-1")[-1] | {"ts": 0} == {
        "t": "event",
        "session": "s-1",
        "seq": len(seqs),
        "ts": 0,
        "type": "y",
        "actor": "s-1/b",
    } | ({"data": {}} if "data" in again.events("s-1")[-1] else {})


def test_the_daemons_own_actors_may_speak_in_any_session(desk: Desk) -> None:
    desk.spawn("models", kind="models")
    desk.hello("models", 1)
    desk.commit("models", events=(m.EventOut(type="x", session="s-1"), m.EventOut(type="own")))
    assert desk.events("s-1")[-1]["actor"] == "models"
    assert [event["type"] for event in desk.events("daemon")][-1] == "own"


def test_a_newer_epoch_dethrones_an_older_hub(desk: Desk) -> None:
    assert check_epoch(desk.memory, desk.rules.epoch)
    desk.restarted()
    assert not check_epoch(desk.memory, desk.rules.epoch)


def _fields(frame: m.Commit) -> dict:
    return {name: getattr(frame, name) for name in m.Commit.__struct_fields__}


def test_a_timer_that_fired_is_gone_though_the_clock_was_set_back(desk: Desk) -> None:
    desk.spawn("s-1/a")
    desk.hello("s-1/a", 5)
    desk.commit("s-1/a", timers=(m.TimerSet(key="t", due=1000.0),))
    fired = m.InputRef(kind="timer", key="t", due=1000.0)
    desk.commit("s-1/a", input=fired, now=10.0)
    assert list(due_timers(desk.memory)) == []
    desk.commit("s-1/a", timers=(m.TimerSet(key="t", due=2000.0),))
    desk.commit("s-1/a", input=fired, now=3000.0)  # an older arming of it: the new one stays
    assert [due for _, _, due, _ in due_timers(desk.memory)] == [2000.0]


def test_what_was_not_delivered_comes_back_whole_and_fits_a_frame(desk: Desk) -> None:
    body = codec.encode(Note(data=b"x" * (MAX_BODY - 20)))
    assert codec.BLOB_LIMIT < len(body) <= MAX_BODY
    nobody = "s-1/" + "n" * 400
    desk.commit("s-1/a", outbox=(m.Out(to=(nobody,), body=body),))
    [(_, raw)] = mailbox(desk.memory, "s-1/a", m.CONTROL, 0, 10)
    told = codec.to_actor(raw)
    assert isinstance(told, m.Mail)
    assert codec.body(told.body) == Undelivered(
        id="s-1/a/1.0", to=nobody, reason="no_such_actor", body=body
    )
