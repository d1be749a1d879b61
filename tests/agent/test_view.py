"""The view under random conversations: nothing split, nothing out of order, nothing lost."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from loomd.agent import view as vw
from loomd.agent.view import Range, ViewState
from loomd.wire.bodies import Call, Entry, Span

LOG = "s-1/lead"


def numbers(view: ViewState) -> list[int]:
    return [n for span in vw.spans(view, LOG) for n in range(span.first, span.last + 1)]


turns = st.lists(
    st.tuples(
        st.integers(1, 5),  # results of the turn; 1 = a message alone
        st.integers(1, 500),  # tokens
        st.integers(0, 2),  # messages that arrive in the middle of it
        st.randoms(use_true_random=False),
    ),
    min_size=1,
    max_size=40,
)


def grow(view: ViewState, turns, threshold):
    """A conversation as the loop builds it; yields after each block, with what left."""
    n = 0
    blocks: list[list[int]] = []
    for size, tokens, meanwhile, random in turns:
        head, n = n + 1, n + 1
        order = list(range(size - 1))
        random.shuffle(order)  # results come in any order ...
        said = []
        came: dict[int, int] = {}
        for index, call in enumerate(order):
            n += 1
            came[call] = n
            if index < meanwhile:  # ... and people talk between them
                n += 1
                said.append(n)
        blocks.append([head, *(came[call] for call in sorted(came))])
        vw.add(view, blocks[-1], tokens)
        for one in said:
            blocks.append([one])
            vw.add(view, [one], 5)
        yield n, blocks, vw.oldest(view, threshold)


@settings(deadline=None)
@given(turns, st.integers(50, 1_500))
def test_whole_blocks_leave_from_the_front_and_the_rest_stays_in_order(turns, threshold):
    view = ViewState()
    gone: list[int] = []
    for n, blocks, stretch in grow(view, turns, threshold):
        if stretch is not None:
            held = set(stretch.numbers())
            for block in blocks:
                assert held.isdisjoint(block) or held.issuperset(block), "a turn was split"
            assert stretch.first == len(gone) + 1, "keepers hold the log without a hole"
            assert numbers(view)[-1] not in held, "the newest block stays"
            vw.leave(view, LOG, Span(log=LOG, first=stretch.first, last=stretch.last), "k")
            gone += stretch.numbers()
        expected = [n for block in blocks for n in block if n not in set(gone)]
        assert numbers(view) == expected, "order is the conversation's"
        assert sorted(numbers(view) + gone) == list(range(1, n + 1)), "nothing is lost"


@settings(deadline=None)
@given(turns)
def test_a_stretch_is_offered_once_until_it_has_left(turns):
    view = ViewState()
    for _, _, stretch in grow(view, turns, 100):
        if stretch is not None:
            assert view.leaving is None
            view.leaving = stretch


@settings(deadline=None)
@given(turns)
def test_below_its_threshold_nothing_leaves(turns):
    view = ViewState()
    for _, _, stretch in grow(view, turns, 10**6):
        assert stretch is None


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), unique=True))
def test_merging_keeps_entries_and_order(ns):
    ranges = vw.merged(Range(n, n) for n in ns)
    assert [n for one in ranges for n in one.numbers()] == ns
    assert all(a.last + 1 != b.first for a, b in pairwise(ranges))


def test_many_small_blocks_leave_too():
    view = ViewState()
    for n in range(1, vw.MAX_BLOCKS + 2):
        vw.add(view, [n], 1)
    stretch = vw.oldest(view, 10**6)
    assert stretch is not None and stretch.last >= vw.MAX_BLOCKS // 2


def test_a_stretch_of_another_log_only_adds_its_line():
    view = ViewState()
    vw.add(view, [1], 10)
    other = Span(log="s-1/coder-1", first=1, last=9)
    assert not vw.leave(view, LOG, other, "keeper-2: what coder-1 did")
    assert not vw.leave(view, LOG, other, "keeper-2: what coder-1 did")
    assert numbers(view) == [1]
    assert vw.lines(view) == ["keeper-2: what coder-1 did"]


def test_the_index_folds_instead_of_growing():
    view = ViewState()
    for n in range(1, 200):
        vw.leave(view, LOG, Span(log=LOG, first=n, last=n), "ä" * 1_000)
    assert len(view.index) == vw.MAX_LINES
    assert view.index[0].first == 1 and view.index[-1].last == 199
    assert all(len(line.encode()) <= vw.MAX_LINE for line in vw.lines(view))


def test_tokens_are_estimated_from_text_and_arguments():
    assert vw.entry_tokens(Entry(role="user", text="x" * 400)) == 104
    call = Call(id="c", name="edit", args={"old": "x" * 400, "n": 1})
    assert vw.entry_tokens(Entry(role="assistant", calls=(call,))) > 100
    assert vw.entry_tokens(Entry(role="tool", blob="f" * 64)) > vw.BLOB_TOKENS
