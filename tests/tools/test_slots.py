"""Slots of the daemon: real processes, and what is left when they are killed."""

import asyncio
import functools
import os
import signal
import sys

from loomd.tools.slots import Slots
from tests.support import BOUND_S, eventually

HOLDER = """
import asyncio, sys
from pathlib import Path
from loomd.tools.slots import Slots

async def main():
    slots = Slots(Path(sys.argv[1]), int(sys.argv[2]))
    held = []
    print("up", flush=True)
    for line in sys.stdin:
        print("asks", flush=True)
        held.append(await slots.take())
        print("has", flush=True)

asyncio.run(main())
"""


def driven(test):
    """Runs a coroutine function as a test."""

    @functools.wraps(test)
    def run(tmp_path):
        asyncio.run(test(tmp_path))

    return run


class Holder:
    """Another tool host, as far as slots are concerned."""

    def __init__(self, process):
        self.process = process

    @classmethod
    async def start(cls, folder, count):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLDER, str(folder), str(count),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert await process.stdout.readline() == b"up\n"
        return cls(process)

    async def ask(self):
        self.process.stdin.write(b"\n")
        assert await self.process.stdout.readline() == b"asks\n"

    async def has(self):
        assert await asyncio.wait_for(self.process.stdout.readline(), BOUND_S) == b"has\n"

    async def kill(self):
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


def turns(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith("turn-"))


async def in_line(folder, count):
    await asyncio.to_thread(eventually, lambda: len(turns(folder)) == count)


@driven
async def test_no_more_than_the_limit_and_one_given_back_is_had_by_who_waits(tmp_path):
    slots = Slots(tmp_path / "slots", 2)
    one, two = slots.take_nowait(), slots.take_nowait()
    assert one is not None and two is not None and slots.take_nowait() is None
    waiting = asyncio.ensure_future(slots.take())
    await in_line(slots.folder, 1)
    os.close(one)
    three = await asyncio.wait_for(waiting, BOUND_S)
    assert slots.take_nowait() is None and turns(slots.folder) == []
    for fd in (two, three):
        os.close(fd)


@driven
async def test_the_slot_of_a_host_that_is_killed_is_free_at_once(tmp_path):
    holder = await Holder.start(tmp_path, 1)
    await holder.ask()
    await holder.has()
    slots = Slots(tmp_path, 1)
    waiting = asyncio.ensure_future(slots.take())
    await in_line(tmp_path, 1)
    assert not waiting.done()
    await holder.kill()
    os.close(await asyncio.wait_for(waiting, BOUND_S))


@driven
async def test_hosts_take_turns_however_much_each_of_them_wants(tmp_path):
    """A hog that asks again as soon as it has one stands behind who came meanwhile."""
    hog, modest = await Holder.start(tmp_path, 1), Slots(tmp_path, 1)
    first = modest.take_nowait()
    await hog.ask()
    await in_line(tmp_path, 1)
    mine = asyncio.ensure_future(modest.take())
    await in_line(tmp_path, 2)
    assert modest.take_nowait() is None
    os.close(first)
    await hog.has()
    await hog.ask()  # wants another one, and gets it only after us
    await in_line(tmp_path, 2)
    await hog.kill()
    os.close(await asyncio.wait_for(mine, BOUND_S))


@driven
async def test_one_that_is_killed_in_line_holds_up_nobody(tmp_path):
    slots = Slots(tmp_path, 1)
    held = slots.take_nowait()
    first, second = await Holder.start(tmp_path, 1), await Holder.start(tmp_path, 1)
    await first.ask()
    await in_line(tmp_path, 1)
    await second.ask()
    await in_line(tmp_path, 2)
    mine = asyncio.ensure_future(slots.take())
    await in_line(tmp_path, 3)
    await second.kill()  # in the middle of the line
    await first.kill()  # at its head
    os.close(held)
    os.close(await asyncio.wait_for(mine, BOUND_S))
    again = slots.take_nowait()
    assert again is not None, "the turns of the dead do not count"
    os.close(again)


@driven
async def test_a_wait_that_is_called_off_leaves_nothing(tmp_path):
    slots = Slots(tmp_path, 1)
    held = slots.take_nowait()
    before = sorted(os.listdir("/proc/self/fd"))
    waits = [asyncio.ensure_future(slots.take()) for _ in range(3)]
    await in_line(tmp_path, 3)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    assert turns(tmp_path) == [] and sorted(os.listdir("/proc/self/fd")) == before
    os.close(held)
    os.close(await asyncio.wait_for(slots.take(), BOUND_S))


@driven
async def test_killed_at_any_instant_no_slot_is_lost(tmp_path):
    """Hosts that have a slot, wait for one or are about to are killed; in the end all are free."""
    for _ in range(4):
        holders = await asyncio.gather(*(Holder.start(tmp_path, 2) for _ in range(3)))
        for holder in holders:
            await holder.ask()
        for holder in holders:
            await holder.kill()
    slots = Slots(tmp_path, 2)
    taken = [await asyncio.wait_for(slots.take(), BOUND_S) for _ in range(2)]
    assert slots.take_nowait() is None
    for fd in taken:
        os.close(fd)
