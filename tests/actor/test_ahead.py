"""What a spare has opened ahead is what its actor uses."""

from __future__ import annotations

import os

from loomd.actor import ahead
from loomd.store.env import Store
from loomd.wire import sockets
from tests.support import TestInstance, eventually


def args(instance: TestInstance) -> dict[str, str]:
    return {
        "config": str(instance.config),
        "state_dir": str(instance.state),
        "runtime_dir": str(instance.runtime),
    }


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_was_opened_ahead_is_used_and_nothing_is_opened_twice(instance):
    Store.writer(instance.places).close()
    ahead.prepare(args(instance))
    before = descriptors()
    store = Store.read_only(instance.places)
    dealer = sockets.make_dealer(instance.places.actors, "a#1")
    try:
        # One more comes and goes: the socket looks for a hub that is not there.
        eventually(lambda: descriptors() == before, what=lambda: f"{descriptors()}, not {before}")
    finally:
        dealer.close()
        store.close()


def test_without_a_state_there_is_nothing_to_open_but_the_socket(instance):
    ahead.prepare(args(instance))
    dealer = sockets.make_dealer(instance.places.actors, "a#1")
    dealer.close()
    assert not instance.state.exists()
