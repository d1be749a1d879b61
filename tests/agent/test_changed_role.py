"""A role that changes while its agent works is in force at the agent's next turn."""

from __future__ import annotations

import pytest

from loomd.actor import behaviour as act
from loomd.actor.ladder import Rung
from loomd.actor.roles import USER, merged, row_key
from loomd.wire.bodies import Call, Configured, Failed, ModelRequest, RoleChanged
from tests.agent.talk import Talk

READ = Call(id="x", name="read", args={"path": "a.py"})
NEW = '+++\ntools = ["read"]\nmodel = "m/new"\ntemperature = 0.7\n+++\nBe quick.'


def last(talk):
    return talk.sent(ModelRequest)[-1]


def test_the_next_turn_is_asked_with_the_new_role_and_nothing_is_asked_twice():
    talk = Talk()
    talk.assigned("do it")
    assert talk.hears(RoleChanged(role="coder", file="coder", text=NEW), "hub") == []
    assert len(talk.sent(ModelRequest)) <= 1
    talk.calls(READ)
    talk.result("s-1/coder-1:1.1")
    request = last(talk)
    assert (request.model, request.tools, request.temperature) == ("m/new", ("read",), 0.7)
    assert request.view.pinned[0].endswith("Be quick.")
    talk.hears(RoleChanged(role="coder"), "hub")  # the file is gone: what ships is back
    talk.calls(READ)
    talk.result("s-1/coder-1:2.1")
    assert last(talk).view.pinned[0] == "You are the coder." and last(talk).temperature == 0.2


def test_only_the_hub_changes_a_role():
    talk = Talk()
    talk.hears(RoleChanged(role="coder", file="coder", text=NEW), "s-1/lead")
    talk.assigned("do it")
    assert last(talk).model != "m/new"


def test_whoever_is_born_has_the_role_that_is_written():
    talk = Talk()
    talk.reader.rows_["config", row_key(USER)] = merged(None, {"coder": NEW}, {"poet": "why"})
    talk.crash()
    talk.assigned("do it")
    assert last(talk).model == "m/new"


@pytest.mark.parametrize("role", ["coder", "lead"])
def test_a_role_that_is_not_in_force_as_written_is_said_by_its_agents_and_the_lead(role):
    talk = Talk()
    talk.spec = act.Spec(name="s-1/a", kind="agent", session="s-1", role=role, args={})
    row = merged(None, {}, {"coder": "why"})
    talk.reader.rows_["config", row_key(USER)] = row
    talk.crash()
    talk.put(act.Init())
    assert talk.events("role_broken") == [{"agent": "s-1/a", "role": "coder", "error": "why"}]


def test_a_new_fallback_is_the_one_that_recovery_goes_to():
    ladder = (Rung(do="restart"), Rung(do="parameters"))
    talk = Talk(model="m/a", ladder=ladder)
    talk.hears(Configured(settings={"models": {"fallback": {"m/a": ["m/b"]}}}), "hub")
    talk.assigned("do it")
    for _ in range(12):
        if last(talk).model == "m/b":
            return
        talk.model(Failed(kind="malformed", detail="no"))
    pytest.fail("it never asked the fallback")
