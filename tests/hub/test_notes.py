"""Notes of ends that come again, or only to the next hub: each is booked exactly once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from loomd.actor.ladder import Rung
from loomd.hub import supervision
from loomd.hub.mail import Batch
from loomd.hub.rules import Result
from loomd.store.tables import History
from loomd.wire import messages as m
from tests.hub.desk import Desk, exit_note
from tests.hub.stand import FakeRoot, Host, hub, token
from tests.support import BOUND_S, Client, TestInstance, whole_lines

A = "s-t/a"
MAIL = {"kind": "mail", "lane": 1, "seq": 1}


def gave_up(number: int, supervisor: str = "s-t/agents") -> Callable[[Batch], Result]:
    return lambda batch: supervision.gave_up(batch, supervisor, "too many", number)


def resume(batch: Batch) -> Result:
    result = batch.begin()
    supervision.resume(batch, "s-t")
    return result


# --- the rules -----------------------------------------------------------------------------------


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.spawn(A)
    made.hello(A, 1)
    return made


def test_a_give_up_that_comes_again_changes_nothing_even_after_a_resume(desk: Desk) -> None:
    row = lambda: desk.rules.sessions["s-t"]  # noqa: E731
    assert desk.do(gave_up(5))[0].over == ["s-t"]
    before = row()
    assert desk.do(gave_up(6, "s-t"))[0].over == []  # its own supervisor, by the same end
    assert desk.do(gave_up(5))[0].over == ["s-t"], "the root may not have been told yet"
    assert row().last_event == before.last_event and row().answer == before.answer
    desk.do(resume)
    desk = desk.restarted()
    for number in (5, 6):
        assert desk.do(gave_up(number))[0].over == []
    assert (row().state, desk.row(A).wanted) == ("running", "running")
    assert desk.do(gave_up(7))[0].over == ["s-t"]
    assert row().state == "failed"


def test_a_root_that_does_not_number_its_notes_is_believed_each_time(desk: Desk) -> None:
    for _ in range(2):
        assert desk.do(gave_up(0))[0].over == ["s-t"]
        desk.do(resume)


def test_an_end_that_comes_again_is_neither_blamed_nor_counted_again(desk: Desk) -> None:
    """Of an incarnation in force, and of one that died before it could say Hello."""
    desk.spawn("s-t/b", ladder=(Rung(do="conversation", count=9, period_s=60.0),))
    desk.hello("s-t/b", 2)
    desk.send(A, "s-t/b")
    for incarnation, falls in ((2, 1), (3, 2)):
        note = exit_note("s-t/b", incarnation, blame=MAIL, final=True)
        assert desk.do(lambda b, n=note: b.exited(n))[0].wake == ["s-t/b"]
        now, desk = desk.now, desk.restarted()
        desk.now = now
        assert desk.do(lambda b, n=note: b.exited(n))[0].wake == []
        row = desk.row("s-t/b")
        assert (row.fails, row.booked) == (falls, incarnation)
        assert isinstance(row.recovery, History) and len(row.recovery.falls) == falls
    assert desk.box("s-t/b")[0].attempt == 2


# --- real hubs -----------------------------------------------------------------------------------


def spawn(client: Client, *names: str) -> None:
    for name in names:
        client.request("spawn", spec={"name": name, "kind": "echo", "session": "s-t"})


def noted(root: FakeRoot) -> int:
    number: int = root.wait(lambda note: note["op"] == "noted")["number"]
    return number


def reconciliations(root: FakeRoot) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in whole_lines(root.instance.base / "hub.log")]
    return [line for line in lines if line["event"] == "reconciled"]


def test_what_gave_up_while_there_was_no_hub_is_not_started_by_the_next(
    instance: TestInstance,
) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, A, "s-t/b")
        root.kill()
        root.kept = [
            {"op": "gave_up", "supervisor": "s-t/agents", "reason": "too many", "number": 7},
            exit_note(A, 1, signal=9, status=-1, final=True, number=8),
        ]
        for _ in range(2):  # as if the root had not read what was acknowledged
            root.start()
            assert root.wait(lambda note: note["op"] == "end_session")["session"] == "s-t"
            assert [noted(root), noted(root)] == [7, 8]
            row = client.request("session", session="s-t")
            assert (row["state"], row["kind"]) == ("failed", "supervision")
            assert row["answer"] == "supervision gave up: too many"
            last = reconciliations(root)[-1]
            assert (last["wanted"], last["orders"]) == (0, 0)
            root.kill()
        root.start()
        noted(root)
        client.request("control", session="s-t", op="resume")
        root.kill()
        root.start()
        assert [noted(root), noted(root)] == [7, 8]
        assert client.request("session", session="s-t")["state"] == "running"
        assert {root.ensured(name)["session"] for name in (A, "s-t/b")} == {"s-t"}


@pytest.mark.parametrize("point", ["hub.before_commit", "hub.after_commit"])
def test_blame_is_counted_once_wherever_the_hub_is_killed(
    instance: TestInstance, point: str
) -> None:
    """The note comes to two hubs; the first is killed at its commit, before or after. The Hello of
    the successor is at the second hub's door before the note is, and does not overtake it."""
    folder = instance.base / "crashes"
    folder.mkdir()
    with hub(instance, settings={"supervision": {"poison_crashes": 2}}) as root:
        with root.client() as client:
            spawn(client, A)
            client.request("post", to=A, body={"t": "note", "data": 1})
        with Host(root, A, 1) as first:
            first.hello()
            assert first.take().seq == 1
        root.kill()
        root.env = {"LOOM_CRASH_AT": f"{point}:1", "LOOM_CRASH_DIR": str(folder)}
        root.start(ready=False)
        blame = exit_note(A, 1, blame=MAIL, reason="SEGV", number=200)
        root.tell(**blame)
        assert root.process is not None and root.link is not None
        assert root.process.wait(BOUND_S) == -9
        root.link.close()
        root.seen.clear()
        root.start(ready=False)
        root.wait(lambda note: note["op"] == "epoch")  # its `which` is not answered yet
        with Host(root, A, 2) as second, root.client() as client:
            second.send(m.Hello(actor=A, incarnation=2, token=token(A, 2)))
            for _ in range(50):  # it serves clients, and leaves the Hello where it is
                client.request("sessions")
            root.tell(**blame)
            assert noted(root) == 200
            second.wait(m.Welcome)
            assert second.take().attempt == 2
            assert client.request("dead", action="list") == []
            root.tell(**exit_note(A, 2, blame=MAIL, reason="SEGV", number=201))
            assert noted(root) == 201
            (letter,) = client.request("dead", action="list")
            assert letter["crashes"] == 2


def test_an_older_root_is_acknowledged_nothing(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, A)
        root.tell(op="gave_up", supervisor="s-t", reason="too many")
        root.wait(lambda note: note["op"] == "end_session")
        client.request("status")
        assert not [note for note in root.seen if note["op"] == "noted"]
