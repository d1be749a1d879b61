"""What a child has in hand, seen from outside."""

from __future__ import annotations

import os

from loomd.supervise.slots import MAIL, SLOTS, Slot, SlotMap


def test_another_process_sees_what_is_in_hand():
    slots = SlotMap.create()
    try:
        index = slots.take()
        slot = slots.slot(index)
        assert slot.read().since_ns == 0
        pid = os.fork()
        if pid == 0:
            mine = SlotMap(slots.fd).slot(index)
            mine.begin(MAIL, 1, 42)
            os._exit(0)
        os.waitpid(pid, 0)
        hand = slot.read()
        assert (hand.kind, hand.lane, hand.seq, hand.steps) == (MAIL, 1, 42, 1)
        assert slots.since_ns(index) == hand.since_ns > 0
        slot.end()
        assert slots.since_ns(index) == 0
    finally:
        os.close(slots.fd)


def test_a_beat_moves_the_time_only_while_something_is_in_hand():
    slot = Slot.private()
    slot.beat()
    assert slot.read().since_ns == 0
    slot.begin(MAIL)
    before = slot.read().since_ns
    slot.beat()
    assert slot.read().since_ns >= before


def test_slots_are_cleared_before_they_are_used_again_and_may_run_out():
    slots = SlotMap.create()
    try:
        index = slots.take()
        slots.slot(index).begin(MAIL, 1, 1)
        slots.give_back(index)
        assert slots.take() == index and slots.since_ns(index) == 0
        taken = {slots.take() for _ in range(SLOTS - 1)}
        assert len(taken) == SLOTS - 1 and slots.take() == -1
        slots.slot(-1).begin(MAIL)
        assert slots.since_ns(-1) == 0
        slots.give_back(-1)
    finally:
        os.close(slots.fd)
