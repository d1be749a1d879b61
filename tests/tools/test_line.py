"""Calls that wait for room, for each other and for a slot: the behaviour as a script, then real."""

from __future__ import annotations

import asyncio
import os

from loomd.actor.behaviour import Cancel, Emit, Open, Send, Show
from loomd.tools.slots import Slots
from loomd.wire import codec
from loomd.wire.bodies import CallEnded, CancelCall, Note, Propose, ToolCall, ToolResult
from tests.tools.stand import AGENT, SESSION, Table, git_repo, hosting
from tests.tools.test_host import Script

OTHER = f"{SESSION}/coder-2"


class Line(Script):
    """A host whose session runs two calls at once."""

    def __init__(self, **more):
        super().__init__(yes=True, **more)
        self.settings["limits"] = {"session_calls": 2}
        self.born()

    def call(self, id, agent=AGENT, name="read", after=()):
        args = {"path": "x"} if name == "read" else {"command": "make"}
        return self.mail(
            ToolCall(id=id, agent=agent, name=name, args=args, reply_to=agent, after=after)
        )

    def done(self, id):
        body = ToolResult(id=id, text="done")
        return self.end(f"call-{id}", Note(data={"body": codec.encode(body)}))

    def under_way(self):
        return sorted(id for id in self.effects if id.startswith("call-"))

    def events(self, out):
        return [(one.type, one.data) for one in out if isinstance(one, Emit)]

    def stored(self):
        return {row["stage"] for (table, _), row in self.table.rows_.items() if table == "calls"}


def test_over_the_limit_of_the_session_a_call_waits_seen_and_survives_a_crash():
    line = Line()
    line.call("1")
    line.call("2")
    out = line.call("3")
    assert line.under_way() == ["call-1", "call-2"] and line.stored() == {"lined"}
    behind = "limits.session_calls = 2"
    queued = {"call": "3", "agent": AGENT, "tool": "read", "behind": behind}
    assert line.events(out) == [("call_queued", queued)]
    assert line.shown == [Show("acting", f"1 queued: {behind}")]
    line.born()  # killed
    out = line.done("1")
    assert line.under_way() == ["call-2", "call-3"] and line.stored() == set()
    assert ("call_started", {"call": "3", "agent": AGENT}) in line.events(out)


def test_a_call_that_waits_is_cancelled_at_once():
    line = Line()
    for id in "123":
        line.call(id)
    out = line.mail(CancelCall(id="3", reason="enough"))
    assert out == [Send(AGENT, ToolResult(id="3", ok=False, error="cancelled", text="enough"))]
    assert line.stored() == set()


def test_of_two_agents_the_one_with_less_under_way_comes_first():
    line = Line()
    for id in "1234":
        line.call(id)
    line.call("5", OTHER)
    line.done("1")
    assert line.under_way() == ["call-2", "call-5"]


def test_calls_that_write_one_file_go_one_after_the_other_also_over_a_crash():
    line = Line()
    line.call("1")
    line.call("2", after=("1",))
    line.call("3", after=("2",))
    assert line.under_way() == ["call-1"]
    propose = Propose(call="1", agent=AGENT, tool="edit", reason="", files=())
    line.end("call-1", Note(data={"body": codec.encode(propose)}))
    assert line.under_way() == [], "it is with the team, and not on the disk yet"
    line.born()
    line.mail(CallEnded(id="1"))
    assert line.under_way() == ["call-2"]
    line.mail(CallEnded(id="1"))
    line.done("2")
    line.born()
    assert line.mail(CallEnded(id="2"))[-1] == Open(
        "call-3", ToolCall(id="3", agent=AGENT, name="read", args={"path": "x"}, reply_to=AGENT)
    )


def test_calls_of_an_agent_that_has_ended_end_with_it():
    line = Line()
    line.call("1")
    line.call("2", OTHER)
    line.call("3")
    out = line.mail(CancelCall(agent=AGENT, reason="it has ended"), f"{SESSION}/team")
    assert Cancel("call-1") in out and Cancel("call-2") not in out
    assert line.stored() == set()


# --- slots of the daemon -------------------------------------------------------------------------


def crowded(line, id):
    return line.end(f"call-{id}", Note(data={"crowded": True}))


def test_without_a_slot_of_the_daemon_calls_wait_in_their_old_order():
    line = Line()
    line.call("1")
    line.call("2")
    out = crowded(line, "1")
    (slot,) = [one.id for one in out if isinstance(one, Open)]
    assert slot.startswith("slot-") and line.events(out)[0][1]["behind"] == "limits.daemon_calls"
    out = crowded(line, "2")
    assert not [one for one in out if isinstance(one, Open)], "one wait for a slot at a time"
    assert line.shown == [Show("waiting", "2 queued: limits.daemon_calls")]
    line.call("3")
    assert line.under_way() == []
    line.born()  # killed: the wait is begun anew
    out = line.end(slot, Note(data={"slot": True}))
    (made, again) = [one.id for one in out if isinstance(one, Open)]
    assert made == "call-1" and again.startswith("slot-") and again != slot
    line.end(again, Note(data={"slot": True}))
    assert line.under_way() == ["call-1", "call-2"]
    assert not [id for id in line.effects if id.startswith("slot-")], "3 waits for the session"
    line.done("1")
    assert line.under_way() == ["call-2", "call-3"], "and asks for its slot when it may"


def test_a_wait_for_a_slot_that_nobody_needs_any_more_is_called_off():
    line = Line()
    line.call("1")
    crowded(line, "1")
    (slot,) = [id for id in line.effects if id.startswith("slot-")]
    out = line.mail(CancelCall(id="1"))
    assert Cancel(slot) in out
    # It had come meanwhile: what nobody uses is given back.
    out = line.end(slot, Note(data={"slot": True}))
    assert [one.body for one in out if isinstance(one, Open)] == [Note(data={"give_back": True})]
    line.call("2")
    assert line.under_way() == ["call-2"]


SLEEPY = """
import os, time
from pathlib import Path
from loomd.tools import Context, tool

@tool
def nap(folder: str, until: int) -> str:
    "Sleeps until so many naps are taken at once."
    Path(folder, str(os.getpid())).touch()
    while len(os.listdir(folder)) < until:
        time.sleep(0.005)
    return "rested"

@tool(exclusive=True)
def alone(folder: str) -> str:
    "Says who else is there."
    mine = Path(folder, str(os.getpid()))
    mine.touch()
    there = len(os.listdir(folder))
    mine.unlink()
    return str(there)
"""


def test_real_calls_run_at_once_and_exclusive_ones_alone(instance):
    folder = instance.config.parent / "tools"
    folder.mkdir()
    (folder / "sleepy.py").write_text(SLEEPY)
    together_in, alone_in = (instance.base / name for name in ("together", "alone"))
    together_in.mkdir()
    alone_in.mkdir()
    repo = git_repo(instance.base / "repo", {"a.txt": "one\n"})
    # Without a sandbox, so that they see each other's files.
    settings = {"permissions": {"mode": "on-request", "sandbox": "full"}}

    async def main():
        async with hosting(instance.places, repo, settings=settings) as host:
            await host.ready()
            together = [host.begin("nap", folder=str(together_in), until=6) for _ in range(6)]
            one_by_one = [host.begin("alone", folder=str(alone_in)) for _ in range(4)]
            for id in together + one_by_one:
                await host.until(lambda id=id: host.answer(id))
            return [[host.answer(id) for id in ids] for ids in (together, one_by_one)]

    together, one_by_one = asyncio.run(main())
    assert [one.text for one in together] == ["rested"] * 6, together
    assert [one.text for one in one_by_one] == ["1"] * 4, one_by_one


def test_a_session_waits_for_the_slot_of_another_one(instance):
    repo = git_repo(instance.base / "repo", {"a.txt": "one\n"})
    settings = {"permissions": {"mode": "on-request"}, "limits": {"daemon_calls": 1}}

    async def main():
        other = Slots(instance.places.runtime / "slots", 1)
        table = Table(instance.places.blobs)
        async with hosting(instance.places, repo, table, settings) as host:
            await host.ready()
            held = other.take_nowait()
            ids = [host.begin("read", path="a.txt") for _ in range(3)]
            await host.until(lambda: host.shown == "waiting 3 queued: limits.daemon_calls")
            cancelled = ids.pop(1)
            host.mail(CancelCall(id=cancelled))
            assert host.answer(cancelled).error == "cancelled"
        # Killed, or stopped, while it waits: its successor goes on waiting.
        async with hosting(instance.places, repo, table, settings) as host:
            await host.ready()
            assert host.shown == "" and not host.sent
            os.close(held)
            for id in ids:
                await host.until(lambda id=id: host.answer(id))
                assert host.answer(id).ok, host.answer(id)
            await host.until(lambda: host.shown == "idle")
        slot = other.take_nowait()
        assert slot is not None, "all are given back"
        os.close(slot)

    asyncio.run(main())
