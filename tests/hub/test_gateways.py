"""Gateways as rows: who sleeps, who is told of a death, and what is given back."""

from __future__ import annotations

from typing import Any

import msgspec

from loomd.actor.behaviour import Spec
from loomd.hub import gateways
from loomd.hub.rules import Result
from loomd.wire import bodies as b
from loomd.wire import codec
from loomd.wire import messages as m
from tests.hub.desk import Desk, exit_note, taking

PERFORM = b.Perform(request=b.ModelRequest(id="r", session="s-1", agent="s-1/lead"), model="o/m")


def use(desk: Desk, *names: str, fresh: bool = False) -> None:
    """A hub starts: the daemon has these gateways."""

    def job(batch: Any) -> Result:
        result: Result = batch.begin()
        specs = [Spec(name="models", kind="models")]
        specs += [Spec(name=name, kind="gateway") for name in names]
        for spec in specs:
            batch.respec(spec)
        gateways.use(batch, specs, fresh=fresh)
        return result

    desk.do(job)


def daemon(*names: str) -> Desk:
    desk = Desk()
    use(desk, *names, fresh=True)
    desk.hello("models", 1)
    desk.hello(names[0], 2)
    return desk


def wanted(desk: Desk) -> dict[str, str]:
    return {name: row.wanted for name, row in desk.rules.actors.items() if name != "models"}


def told(desk: Desk) -> list[b.Body]:
    """What waits for models, in the order in which it will read it."""
    return [codec.body(mail.body) for lane in (0, 1) for mail in desk.box("models", lane)]


def call(desk: Desk, gateway: str) -> None:
    """models has it make a call, and it has begun."""
    desk.send("models", gateway, PERFORM)
    [mail] = [mail for mail in desk.box(gateway) if codec.body(mail.body) == PERFORM]
    opened = m.EffectOpen(id="r#1", body=codec.encode(PERFORM))
    desk.commit(gateway, input=taking(mail), effects=(opened,))


def test_those_beside_the_first_sleep_until_they_are_called() -> None:
    desk = daemon("gateway-1", "gateway-2", "gateway-3")
    assert list(wanted(desk).values()) == ["running", "asleep", "asleep"]
    assert told(desk) == [
        b.UseGateway(gateway="gateway-1", more=("gateway-2", "gateway-3"), fresh=True)
    ]
    [result] = desk.do(
        lambda batch: batch.commit(
            desk.frame("models", outbox=(m.Out(to=("gateway-3",), lane=1, body=_expect()),))
        )
    )
    assert result.wake == ["gateway-3"]
    assert list(wanted(desk).values()) == ["running", "asleep", "running"]


def _expect() -> bytes:
    return codec.encode(b.Expect())


def test_one_alone_is_not_told_of() -> None:
    assert told(daemon("gateway-1")) == []


def test_models_hears_that_there_is_one_only_if_there_were_others() -> None:
    desk = daemon("gateway-1", "gateway-2")
    use(desk, "gateway-1", fresh=True)
    assert wanted(desk) == {"gateway-1": "running", "gateway-2": "ended"}
    use(desk, "gateway-1", fresh=True)
    assert told(desk)[1:] == [b.UseGateway(gateway="gateway-1", fresh=True)] * 2


def test_an_orderly_end_is_no_death() -> None:
    desk = daemon("gateway-1", "gateway-2")
    desk.send("models", "gateway-2", b.Expect())
    desk.hello("gateway-2", 3)
    before = told(desk)
    orderly = exit_note("gateway-2", 3, status=0, reason="normal")
    desk.do(lambda batch: batch.exited(orderly))
    assert told(desk) == before


def test_a_new_hub_lets_run_who_runs_and_a_new_daemon_only_who_has_something_to_do() -> None:
    names = ("gateway-1", "gateway-2", "gateway-3")
    desk = daemon(*names)
    for n, name in enumerate(names[1:], 3):
        desk.send("models", name, b.Expect())
        desk.hello(name, n)
        desk.commit(name, input=taking(desk.box(name)[0]))
    call(desk, "gateway-3")
    use(desk, *names)
    assert list(wanted(desk).values()) == ["running", "running", "running"]
    use(desk, *names, fresh=True)
    assert list(wanted(desk).values()) == ["running", "asleep", "running"]


def test_those_of_other_code_or_of_a_larger_number_leave() -> None:
    desk = daemon("gateway-1", "gateway-2", "gateway-3")
    desk.send("models", "gateway-2", b.Expect())
    use(desk, "gateway-11")
    assert wanted(desk) == {
        "gateway-1": "running",
        "gateway-2": "running",
        "gateway-3": "ended",
        "gateway-11": "running",
    }
    assert told(desk)[-1] == b.UseGateway(gateway="gateway-11", others=("gateway-1", "gateway-2"))


def test_a_death_and_a_birth_are_told_after_what_was_said_before() -> None:
    desk = daemon("gateway-1", "gateway-2")
    desk.send("models", "gateway-2", b.Expect())
    desk.hello("gateway-2", 3)
    done = b.Performed(
        request="r", agent="s-1/lead", model="o/m", attempt=1, outcome=b.FinalAnswer(text="x")
    )
    call(desk, "gateway-2")
    desk.commit(
        "gateway-2",
        input=m.InputRef(kind="effect", key="r#1"),
        outbox=(m.Out(to=("models",), lane=1, body=codec.encode(done)),),
    )
    desk.do(lambda batch: batch.exited(exit_note("gateway-2", 3)))
    desk.do(lambda batch: batch.exited(exit_note("gateway-2", 3)))  # told twice, booked once
    desk.hello("gateway-2", 4)
    assert told(desk)[-3:] == [
        done,
        b.GatewaySeen(gateway="gateway-2", up=False),
        b.GatewaySeen(gateway="gateway-2", up=True),
    ]


def test_one_that_is_given_up_gives_back_what_it_has_begun_and_what_waits() -> None:
    desk = daemon("gateway-1", "gateway-2")
    desk.send("models", "gateway-2", b.Expect())
    desk.hello("gateway-2", 3)
    call(desk, "gateway-2")
    waits = msgspec.structs.replace(PERFORM, attempt=2)
    desk.send("models", "gateway-2", waits)
    asleep = m.ChildChange(name="gateway-2", wanted="asleep", reason="dead")
    result = desk.commit("models", children=(asleep,))
    assert result.ended == ["gateway-2"]  # whatever there is of it goes
    assert wanted(desk)["gateway-2"] == "asleep" and not desk.box("gateway-2")
    back = [one for one in told(desk) if isinstance(one, b.Undelivered)]
    assert {one.reason for one in back} == {"given_back"}
    assert [(codec.body(one.body), one.attempts) for one in back] == [
        (PERFORM, 1),
        (b.Expect(), 0),
        (waits, 0),
    ]
    assert desk.hello("gateway-2", 4).reply == m.Fenced(reason="it is asleep")


def test_nobody_but_models_may_put_a_gateway_to_sleep() -> None:
    desk = daemon("gateway-1", "gateway-2")
    asleep = m.ChildChange(name="gateway-1", wanted="asleep")
    desk.open()
    desk.spawn("s-1/team", kind="team")
    desk.hello("s-1/team", 9)
    assert isinstance(desk.commit("s-1/team", children=(asleep,)).reply, m.Refused)
    running = m.ChildChange(name="gateway-2", wanted="running", spec={"name": "gateway-2"})
    assert isinstance(desk.commit("models", children=(running,)).reply, m.Refused)
