"""What ends an agent that would go on."""

from __future__ import annotations

import pytest

from loomd.agent.limits import Limits, exceeded, limits, record, signature
from loomd.agent.state import Counters
from loomd.wire.bodies import Call


def call(name: str, id: str = "x", **args: object) -> Call:
    return Call(id=id, name=name, args=args)


def test_later_sources_win_and_none_means_no_limit():
    found = limits({"iterations": 5, "wall_s": 10, "call_s": 1}, None, {"iterations": None})
    assert (found.iterations, found.wall_s, found.view_tokens) == (None, 10, 24_000)
    assert exceeded(found, Counters(iterations=10**6)) is None


def test_a_signature_is_of_names_and_arguments_not_of_ids():
    a = signature([call("read", "1", path="a", limit=3)])
    assert a == signature([call("read", "2", limit=3, path="a")])
    assert a != signature([call("read", "1", path="b", limit=3)])
    assert a != signature([call("list", "1", path="a", limit=3)])
    assert signature([call("a"), call("b")]) != signature([call("b"), call("a")])


@pytest.mark.parametrize("sequence", ["AAA", "XAAA", "ABABAB", "XYABABAB", "ABCABCABC"])
def test_cycles_are_seen_when_they_close_the_third_time(sequence):
    counters, limit = Counters(), Limits(repeats=3)
    seen = [record(limit, counters, [call("read", path=letter)]) for letter in sequence]
    assert [one is not None for one in seen] == [False] * (len(sequence) - 1) + [True]
    assert seen[-1] is not None and seen[-1].kind == "repeats"


@pytest.mark.parametrize("sequence", ["AABAAB", "ABCDABCDABCD", "AABB", "ABAAB"])
def test_other_sequences_are_not_cycles(sequence):
    counters, limit = Counters(), Limits(repeats=3)
    assert all(record(limit, counters, [call("read", path=x)]) is None for x in sequence)


def test_without_a_limit_on_repeats_nothing_is_remembered():
    counters = Counters()
    for _ in range(9):
        assert record(Limits(repeats=None), counters, [call("read")]) is None
    assert counters.history == []
