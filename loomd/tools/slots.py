"""Slots: how many calls of all sessions run at once on this daemon. The kernel keeps the count.

A slot is a named pipe in the runtime directory, locked (flock) and held open by the tool host whose
call has it. Both end with the process, at whatever instant it is killed, so no slot is ever lost
and nobody has to give one back for the dead. When the last holder of a pipe is gone its readers see
the end of it: that is how a host that waits for a slot, or for its turn, wakes without looking.

    slot-0 ... slot-N-1    one per call that may run
    turn-000000042         a host that waits; the one before it goes first. One per session (and one
                           per call that a crash made begin again), so sessions take turns, however
                           many calls each of them has queued
    order                  locked while turns are given out
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_OPEN: Final = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC  # never blocks, and counts as a writer
_WATCH: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class Slots:
    """The slots of one daemon, seen by one tool host. Belongs to the running asyncio loop.

    `count` is the limit of the process that asks: hosts that were started with another one simply
    use more or fewer of the same slots.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count
        self._last = -1  # the one that was taken last: those after it are the likeliest to be free

    def take_nowait(self) -> int | None:
        """A free slot, if there is one and nobody waits in line; os.close() gives it back."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return None if any(self._alive(turn) for turn in self._turns()) else self._take()

    async def take(self) -> int:
        """Waits in line for a slot."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._turn() as mine:
            while before := [turn for turn in self._turns() if turn < mine]:
                await self._end_of(before[-1])
            with contextlib.ExitStack() as watched:
                # Watched before they are tried: one that comes free in between is not missed.
                ends = [watched.enter_context(_watch(self._slot(n))) for n in range(self.count)]
                while (slot := self._take()) is None:
                    await _first_end(ends)
                return slot

    # --- slots ---------------------------------------------------------------------------------

    def _slot(self, n: int) -> Path:
        return self.folder / f"slot-{n}"

    def _take(self) -> int | None:
        for i in range(self.count):
            n = (self._last + 1 + i) % self.count
            slot = _lock(self._slot(n))
            if slot is not None:
                self._last = n
                return slot
        return None

    # --- turns ---------------------------------------------------------------------------------

    def _turns(self) -> list[str]:
        return sorted(name for name in os.listdir(self.folder) if name.startswith("turn-"))

    def _alive(self, turn: str) -> bool:
        try:
            own = _lock(self.folder / turn, make=False)
        except FileNotFoundError:
            return False
        if own is not None:
            os.close(own)
        return own is None

    @contextlib.contextmanager
    def _turn(self) -> Iterator[str]:
        """A place behind all that wait now."""
        order = os.open(self.folder / "order", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(order, fcntl.LOCK_EX)  # held for a few system calls
            last = 0
            for turn in self._turns():
                if self._alive(turn):
                    last = int(turn.removeprefix("turn-"))
                else:
                    os.unlink(self.folder / turn)  # of a host that was killed
            mine = f"turn-{last + 1:09}"
            own = _lock(self.folder / mine)
            assert own is not None, f"{mine} is new"
        finally:
            os.close(order)
        try:
            yield mine
        finally:
            os.unlink(self.folder / mine)
            os.close(own)

    async def _end_of(self, turn: str) -> None:
        """Until whoever has this turn has gone on, or is dead."""
        try:
            with _watch(self.folder / turn, make=False) as end:
                if self._alive(turn):
                    await _first_end([end])
                else:  # its number cannot come again while ours is behind it
                    os.unlink(self.folder / turn)
        except FileNotFoundError:
            return  # it has gone on


def _make(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)


def _lock(path: Path, *, make: bool = True) -> int | None:
    """The pipe, locked; None if another has it."""
    try:
        fd = os.open(path, _OPEN)
    except FileNotFoundError:
        if not make:
            raise
        _make(path)
        fd = os.open(path, _OPEN)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


@contextlib.contextmanager
def _watch(path: Path, *, make: bool = True) -> Iterator[int]:
    """A descriptor that becomes readable when nobody holds the pipe any more."""
    if make:
        _make(path)
    fd = os.open(path, _WATCH)
    try:
        yield fd
    finally:
        os.close(fd)


async def _first_end(ends: list[int]) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for fd in ends:
        loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        for fd in ends:
            loop.remove_reader(fd)
