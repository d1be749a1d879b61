"""Notes that no hub may miss: the store as a script, the root's line without a loop, and a real
root whose hub is dead, stopped, or killed with what was on its way to it."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from loomd.supervise import handover
from loomd.supervise import spec as s
from loomd.supervise import tree as t
from loomd.supervise.freeze import FreezeError
from loomd.supervise.log import Log
from loomd.supervise.notes import LIMIT, Notes, weight
from loomd.supervise.process import HUB_QUEUE
from loomd.supervise.root import Config, Root
from tests.supervise.test_root import TEMPLATE, Rooted, group, rooted

__all__ = ["rooted"]

BLAME = {"kind": "mail", "lane": 1, "seq": 7}


def gave_up(supervisor: str) -> dict[str, Any]:
    return {"op": "gave_up", "supervisor": supervisor, "reason": "too many restarts"}


def exited(name: str, **more: Any) -> dict[str, Any]:
    note = {"op": "exited", "name": name, "status": 0, "signal": 0, "asked": False, "reason": ""}
    return {**note, "blame": None, **more}


def names(notes: list[dict[str, Any]]) -> list[str]:
    return [note.get("name") or note["supervisor"] for note in notes]


# --- the store -----------------------------------------------------------------------------------


def test_what_is_kept_has_numbers_that_grow_and_stays_until_it_is_taken():
    notes = Notes(boot=3)
    first, _ = notes.keep(gave_up("s-1"))
    second, _ = notes.keep(exited("s-1/a"))
    assert (first["number"], second["number"]) == ((3 << 32) + 1, (3 << 32) + 2)
    notes.keep(gave_up("s-2"))
    assert names(notes.after(0)) == ["s-1", "s-1/a", "s-2"]
    assert names(notes.after(first["number"])) == ["s-1/a", "s-2"]
    for _ in range(2):  # an acknowledgement that comes twice, or of nothing, is nothing
        notes.taken(second["number"])
        notes.taken(5)
    assert names(notes.after(0)) == ["s-1", "s-2"]
    assert Notes(boot=4).keep(gave_up("x"))[0]["number"] > notes.keep(gave_up("y"))[0]["number"]


@pytest.mark.parametrize(
    ("note", "heavy"),
    [
        (gave_up("s-1"), 2),
        (exited("a", blame=BLAME, status=0), 1),
        (exited("a", status=1), 1),
        (exited("a", signal=11, status=-1), 1),
        (exited("a", signal=9, status=-1, asked=True), 0),
        (exited("a", status=72), 0),
        (exited("a", status=73), 0),
    ],
)
def test_what_the_loss_of_a_note_would_cost(note: dict[str, Any], heavy: int):
    assert weight(note) == heavy


def test_at_the_limit_the_oldest_of_the_lightest_goes():
    notes = Notes(boot=1, limit=3)
    kept = [gave_up("s-1"), exited("a", status=1), exited("b")]
    assert [notes.keep(note)[1] for note in kept] == [None] * 3
    lost = [
        notes.keep(note)[1]
        for note in (gave_up("s-2"), gave_up("s-3"), exited("c", status=1), gave_up("s-4"))
    ]
    assert names([note for note in lost if note]) == ["b", "a", "c", "s-1"]
    assert names(notes.after(0)) == ["s-2", "s-3", "s-4"] and len(notes) == 3
    assert HUB_QUEUE > LIMIT, "a new hub's link would not take them all"


def test_the_store_goes_through_json_and_counts_on():
    notes = Notes(boot=2)
    for note in (exited("a", blame=BLAME), gave_up("s-1"), exited("b")):
        notes.keep(note)
    notes.taken((2 << 32) + 3)
    again = Notes.thaw(json.loads(json.dumps(notes.freeze())))
    assert again.after(0) == notes.after(0) and len(again) == 2
    assert again.keep(exited("c"))[0]["number"] == (2 << 32) + 4
    with pytest.raises(LookupError):
        Notes.thaw({"last": 1, "kept": [{"op": "gave_up"}]})


# --- the root's end of the line ------------------------------------------------------------------


class Line:
    """A root that does not run, and the hub's end of its link."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.hubline = root.hubline
        self.hub = root.processes["hub"]
        assert self.hub.theirs is not None
        self.theirs: socket.socket = self.hub.theirs
        self.theirs.setblocking(False)

    def die(self) -> None:
        self.hub.pid = 0
        self.hubline.hub_gone()

    def live(self) -> None:
        self.hub.pid = os.getpid()
        self.hubline.hub_ready()

    def got(self) -> list[dict[str, Any]]:
        found = []
        while True:
            self.hub.link.flush()
            try:
                found.append(json.loads(self.theirs.recv(1 << 17)))
            except BlockingIOError:
                return found

    def note(self, *notes: dict[str, Any]) -> None:
        for note in notes:
            self.hubline.must_note(note)


@pytest.fixture
def line(tmp_path: Any) -> Iterator[Line]:
    hub = {"id": "hub", "start": {"template": "actors", "entry": "x:main"}}
    tree = {"id": "root", "type": "supervisor", "children": [hub]}
    root = Root(Config(tree=s.parse_supervisor(tree), output=str(tmp_path)))
    root.tell(t.Boot())
    yield Line(root)
    for process in list(root.processes.values()):
        root.ends.bury(process)
    root.orphans.close()
    root.selector.close()
    root.slots._words.release()
    root.slots._map.close()
    os.close(root.slots.fd)


def test_each_hub_gets_what_no_hub_before_it_has_booked(line: Line):
    line.note(gave_up("s-1"), exited("s-1/a", blame=BLAME), exited("hub", status=1))
    assert line.got() == []
    line.live()
    line.hubline.request({"op": "epoch", "epoch": 1, "notes": True})
    line.note(exited("s-1/b"))
    got = line.got()
    assert names(got) == ["s-1", "s-1/a", "s-1/b"]
    line.hubline.request({"op": "noted", "number": got[1]["number"]})
    line.die()
    line.note(gave_up("s-2"))
    line.live()
    line.hubline.request({"op": "which", "id": 1})
    *notes, which = line.got()
    assert which["op"] == "which" and names(notes) == ["s-1", "s-1/b", "s-2"]
    for note in notes:
        line.hubline.request({"op": "noted", "number": note["number"]})
    line.hubline.request({"op": "noted", "number": "all"})  # nonsense
    line.die()
    line.live()
    assert line.got() == []


def test_a_note_that_had_to_go_is_logged(line: Line):
    reader, writer = os.pipe()
    line.root.log = Log(writer)
    line.hubline._notes = Notes(boot=1, limit=1)
    try:
        line.note(exited("s-1/a", signal=11, reason="SEGV"), gave_up("s-1"))
        logged = json.loads(os.read(reader, 65536))
        assert (logged["event"], logged["level"]) == ("note_lost", "error")
        assert (logged["op"], logged["name"], logged["reason"]) == ("exited", "s-1/a", "SEGV")
    finally:
        os.close(reader)
        os.close(writer)
    line.live()
    assert names(line.got()) == ["s-1"]


def test_a_hub_that_was_too_slow_gets_each_note_once_and_in_order(line: Line):
    line.live()
    line.hub.link.max_queue = 3
    sent = [f"s-{n}" for n in range(LIMIT // 2)]  # far beyond the socket's buffer
    line.note(*(gave_up(name) for name in sent))
    got: list[dict[str, Any]] = []
    while more := line.got():
        got += more
        line.hubline.drained()
    assert names([note for note in got if note["op"] == "gave_up"]) == sent
    assert got[-1]["op"] == "which"


def test_an_older_hub_does_not_acknowledge_and_is_told_once(line: Line):
    """What was on its way when it said so, and what comes later."""
    line.note(gave_up("s-1"))
    line.live()
    line.hubline.request({"op": "epoch", "epoch": 1})
    line.note(gave_up("s-2"))
    assert names(line.got()) == ["s-1", "s-2"]
    line.die()
    line.note(gave_up("s-3"))
    line.live()
    assert names(line.got()) == ["s-3"]


def test_an_image_of_the_root_hands_on_what_is_not_booked(line: Line):
    line.note(gave_up("s-1"))
    line.live()
    line.note(gave_up("s-2"))
    line.got()
    frozen = json.loads(json.dumps(handover.freeze(line.root)))
    handover.check(frozen)
    line.hubline.thaw(frozen["hubline"])
    line.note(gave_up("s-3"))
    assert names(line.got()) == ["s-3"], "the same hub gets nothing twice"
    line.die()
    line.live()
    assert names(line.got()) == ["s-1", "s-2", "s-3"]
    frozen["hubline"]["notes"]["kept"][0].pop("number")
    with pytest.raises(FreezeError):
        handover.check(frozen)


def test_an_image_from_before_notes_were_kept_goes_on_with_its_hub(line: Line):
    line.live()
    frozen = json.loads(json.dumps(handover.freeze(line.root)))
    for key in ("notes", "hears", "sent", "forgets"):
        del frozen["hubline"][key]
    handover.check(frozen)
    line.hubline.thaw(frozen["hubline"])
    line.note(gave_up("s-1"))
    assert names(line.got()) == ["s-1"]
    line.die()
    line.live()  # that hub could not acknowledge: its successor is not told again
    assert line.got() == []
    line.note(gave_up("s-2"))
    assert names(line.got()) == ["s-2"]
    line.die()
    line.live()
    assert names(line.got()) == ["s-2"]


# --- a real root ---------------------------------------------------------------------------------


def new_hub(rooted: Rooted, acknowledge: int) -> list[dict[str, Any]]:
    """The next hub asks `which`: what it was told before the answer, and acknowledges so many."""
    rooted.accept_hub()
    rooted.tell(op="epoch", epoch=1, notes=True)
    rooted.tell(op="which", id=1)
    before = len(rooted.notes)
    rooted.wait_note("which", id=1)
    notes = [note for note in rooted.notes[before:] if note["op"] in ("gave_up", "exited")]
    for note in notes[:acknowledge]:
        rooted.tell(op="noted", number=note["number"])
    rooted.tell(op="which", id=2)
    rooted.wait_note("which", id=2)  # all is said
    return notes


def test_what_ends_while_the_hub_is_dead_or_stopped_is_told_to_the_next(rooted: Rooted):
    """First the hub dies in the same instant as a supervisor gives up. The next one is stopped when
    another gives up, and killed with what was on its way to it."""
    groups = [group(f"g{name}", rooted.toy(name), intensity=0) for name in ("a", "b")]
    rooted.start(TEMPLATE, rooted.hub_spec(), *groups)
    pids = {name: rooted.wait_started(name) for name in ("a", "b")}
    assert rooted.process is not None
    os.kill(rooted.process.pid, signal.SIGSTOP)
    for pid in (rooted.wait_started("hub"), pids["a"]):
        os.kill(pid, signal.SIGKILL)
    os.kill(rooted.process.pid, signal.SIGCONT)
    told = new_hub(rooted, acknowledge=1)
    assert names(told) == ["ga", "a"] and told[0]["op"] == "gave_up"

    hub = rooted.wait_started("hub", 2)
    os.kill(hub, signal.SIGSTOP)
    os.kill(pids["b"], signal.SIGKILL)
    rooted.wait_line("exited", name="b")
    os.kill(hub, signal.SIGKILL)
    again = new_hub(rooted, acknowledge=3)
    assert again[0] == told[1] and names(again) == ["a", "gb", "b"]

    os.kill(rooted.wait_started("hub", 3), signal.SIGKILL)
    assert new_hub(rooted, acknowledge=0) == []
    assert rooted.lines("note_lost") == []
