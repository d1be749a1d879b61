"""Single steps of a root that does not run."""

from __future__ import annotations

import os

import pytest

from loomd.supervise import spec as s
from loomd.supervise import tree as t
from loomd.supervise.root import Config, Root

WORKER = {"id": "w", "start": {"template": "actors", "entry": "x:main"}}


@pytest.fixture
def root(tmp_path):
    tree = {"id": "root", "type": "supervisor", "children": [WORKER]}
    made = Root(Config(tree=s.parse_supervisor(tree), output=str(tmp_path)))
    made.tell(t.Boot())
    yield made
    for process in list(made.processes.values()):
        made.ends.bury(process)
    made.orphans.close()
    made.selector.close()
    made.slots._words.release()
    made.slots._map.close()
    os.close(made.slots.fd)


def test_a_child_that_is_gone_when_its_word_is_read_is_one_lost_child(root: Root) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    process = root.processes["w"]
    root._on_message(process, {"op": "pid"}, pid)
    assert process.dead and process.pid == 0 and "w" not in root.processes
    assert [end.event.status for end in root.ends.pending] == [s.COULD_NOT_START]
    assert not root.read_link(process)
    root._on_link(process, 1)
    root.births.lost(process)
    assert process.lost == 0 and len(root.ends.pending) == 1


def test_the_hub_may_say_nonsense(root: Root) -> None:
    for message in (
        {"op": "epoch", "epoch": float("inf")},
        {"op": "signal", "name": "w", "signal": float("inf")},
        {"op": "signal", "name": "w"},
        {"op": "ensure", "name": "w", "spec": []},
        {"op": "ensure", "name": "w", "spec": {"id": "w"}, "after": float("nan")},
        {"op": ["which"]},
        {},
    ):
        root.hubline.request({**message, "id": 1})
    assert "w" in root.processes
