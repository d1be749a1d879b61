"""Which calls may start: a table."""

import pytest

from loomd.tools.queue import Queued, Running, obstacle, startable

TOOLS = {"read": {"exclusive": False}, "make": {"exclusive": True}}


def call(id, n, agent="a", tool="read", after=()):
    return Queued(id, n, agent, tool, after)


@pytest.mark.parametrize(
    ("queue", "running", "limit", "crowded", "starts"),
    [
        ([], [], 4, False, []),
        ([call("y", 2), call("x", 1)], [], 4, False, ["x", "y"]),
        ([call("x", 1), call("y", 2)], [], 1, False, ["x"]),
        ([call("x", 1)], [Running("b", "read")], 1, False, []),
        ([call("x", 1)], [], 4, True, []),
        # a call behind another of its turn holds up nobody else
        ([call("x", 1, after=("w",)), call("y", 2)], [], 4, False, ["y"]),
        # one of a kind at a time, in the order in which they came
        ([call("x", 1, tool="make"), call("y", 2, tool="make")], [], 4, False, ["x"]),
        ([call("x", 1, tool="make"), call("y", 2)], [Running("b", "make")], 4, False, ["y"]),
        # who has fewer calls under way comes first
        (
            [call("x", 1), call("y", 2), call("z", 3, agent="b")],
            [Running("a", "read")],
            2,
            False,
            ["z"],
        ),
        ([call("x", 1), call("y", 2), call("z", 3, agent="b")], [], 3, False, ["x", "z", "y"]),
    ],
)
def test_what_starts(queue, running, limit, crowded, starts):
    assert startable(queue, running, TOOLS, limit, crowded) == starts


def test_an_exclusive_call_does_not_overtake_one_of_its_kind_that_waits_for_a_file():
    queue = [call("x", 1, tool="make", after=("w",)), call("y", 2, tool="make")]
    assert startable(queue, [], TOOLS, 4, False) == []
    assert obstacle(queue[0], [], [], TOOLS, 4, False) == "w: the same file"
    assert obstacle(queue[1], queue[:1], [], TOOLS, 4, False) == "make runs one at a time"


def test_people_are_told_which_limit_it_is():
    one = call("x", 1)
    assert obstacle(one, [], [Running("b", "read")], TOOLS, 1, False) == "limits.session_calls = 1"
    assert obstacle(one, [], [], TOOLS, 1, True) == "limits.daemon_calls"
    assert obstacle(one, [], [], TOOLS, 1, False) == ""
