"""What is watched, what counts, and when a change is old enough."""

import pytest

from loomd.watch.plan import MODELS, ROLES, TOOLS, Settling, Target, counts, targets


def test_what_is_watched_of_an_instance_and_the_repos_at_work():
    assert targets("/c/config.toml", ["/r", "/r"], {"/c/trusted": (TOOLS, ROLES)}) == [
        Target(MODELS, "/c/config.toml", file=True),
        Target(TOOLS, "/c/tools", deep=True),
        Target(ROLES, "/c/roles"),
        Target(TOOLS, "/c/trusted", file=True),
        Target(ROLES, "/c/trusted", file=True),
        Target(TOOLS, "/r/.loom/tools", deep=True),
        Target(ROLES, "/r/.loom/roles"),
    ]


@pytest.mark.parametrize(
    ("name", "matters"),
    [
        ("mine.py", True),
        ("data.json", True),
        ("pack", True),
        (".mine.py.swp", False),
        (".#mine.py", False),
        ("mine.py~", False),
        ("mine.pyc", False),
        ("__pycache__", False),
    ],
)
def test_what_counts(name, matters):
    assert counts(name) is matters


def test_a_change_is_acted_on_when_it_is_quiet():
    settling = Settling()
    assert settling.next() is None and settling.take(9.0) == []
    settling.changed([TOOLS], 10.0)
    assert settling.next() == pytest.approx(10.01)
    assert settling.take(10.005) == []
    settling.changed([TOOLS], 10.006)
    assert settling.take(10.012) == []
    assert settling.take(10.017) == [TOOLS]
    assert settling.next() is None


def test_a_stream_of_saves_is_acted_on_all_the_same():
    settling = Settling()
    acted = []
    for tick in range(200):
        settling.changed([ROLES], tick / 1000)
        acted += [tick for _ in settling.take(tick / 1000)]
    assert acted == [50, 101, 152]


def test_each_part_settles_by_itself():
    settling = Settling()
    settling.changed([ROLES, TOOLS], 1.0)
    settling.changed([ROLES], 1.009)
    assert settling.take(1.0101) == [TOOLS]
    assert settling.take(1.02) == [ROLES]
