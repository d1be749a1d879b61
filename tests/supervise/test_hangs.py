"""Who has been busy for too long, and that a machine which stood still has nobody found hung."""

import pytest

from loomd.supervise.hangs import INIT_FACTOR, Hangs

LIMIT = 1000
EVERY = LIMIT // 4


def looked(*times: int) -> Hangs:
    hangs = Hangs(LIMIT)
    for now in times:
        hangs.look(now)
    return hangs


IN_TIME = tuple(range(EVERY, 9 * LIMIT, EVERY))


@pytest.mark.parametrize(
    ("since", "init", "hung"),
    [
        (0, False, False),  # idle
        (IN_TIME[-1], False, False),
        (IN_TIME[-1] - LIMIT, False, False),
        (IN_TIME[-1] - LIMIT - 1, False, True),
        (IN_TIME[-1] - LIMIT - 1, True, False),
        (IN_TIME[-1] - INIT_FACTOR * LIMIT, True, False),
        (IN_TIME[-1] - INIT_FACTOR * LIMIT - 1, True, True),
    ],
)
def test_busy_for_longer_than_a_heartbeat_is_hung(since: int, init: bool, hung: bool) -> None:
    assert looked(*IN_TIME).hung(since, init=init) is hung


@pytest.mark.parametrize("gap", [LIMIT, 3 * LIMIT, 1000 * LIMIT])
def test_time_in_which_nobody_could_look_is_held_against_nobody(gap: int) -> None:
    hangs = looked(*IN_TIME)
    since = IN_TIME[-1]  # in a step when the machine stood still
    woken = since + gap
    hangs.look(woken)
    assert not hangs.hung(since) and not hangs.hung(since, init=True)
    for now in range(woken + EVERY, woken + LIMIT + 1, EVERY):
        hangs.look(now)
        assert not hangs.hung(since)
    hangs.look(woken + LIMIT + EVERY)  # it had a whole heartbeat since
    assert hangs.hung(since)


def test_looks_that_are_a_little_late_still_find_it() -> None:
    hangs = Hangs(LIMIT)
    for now in range(1, 4 * LIMIT, LIMIT // 2):
        hangs.look(now)
    assert hangs.hung(1)


@pytest.mark.parametrize("gap", [LIMIT // 2 + 1, LIMIT, 100 * LIMIT])
def test_a_root_that_is_always_late_finds_the_hung_too(gap: int) -> None:
    hangs = Hangs(LIMIT)
    looks = [n * gap for n in range(1, 60)]
    found = []
    for now in looks:
        hangs.look(now)
        found.append((hangs.hung(1), hangs.hung(1, init=True)))
    assert found[0] == (False, False) and found[-1] == (True, True)


def test_a_root_that_is_late_now_and_then_finds_an_init_that_hangs() -> None:
    """A heartbeat of an `init` is six: in less time than that it may be late each time anew."""
    hangs, now = Hangs(LIMIT), 1
    for n in range(1, 20):
        for _ in range(12):  # three heartbeats in time
            now += EVERY
            hangs.look(now)
        now += LIMIT
        hangs.look(now)
        assert hangs.hung(1, init=True) is (n > 2)


def test_somebody_who_hung_before_a_gap_is_found_after_it() -> None:
    """A root that has executed its successor has not looked before."""
    hangs = looked(10 * LIMIT)
    assert not hangs.hung(1)
    for now in range(10 * LIMIT + EVERY, 12 * LIMIT, EVERY):
        hangs.look(now)
    assert hangs.hung(1)
