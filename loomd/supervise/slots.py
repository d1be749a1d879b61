"""What each child has in hand and since when, in memory that the root can read when it is dead.

One memfd, mapped by root and template before any fork; 64 bytes per child, eight native words:

    0 busy since (CLOCK_MONOTONIC, ns; 0 = idle)   1 kind   2 lane   3 seq   4 begun   5-7 free

The child writes around each step, the root only reads (and clears a slot before it hands it out).
`busy since` is written last at `begin`, so a reader that sees it non-zero sees the rest too. An
idle actor writes nothing and costs nothing.
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass

MAIL, TIMER, EFFECT, INIT, LOOP, EFFECTS = 1, 2, 3, 4, 5, 6
"""Kinds of what is in hand. LOOP: a loop that shows that it turns. EFFECTS: the loop of a performer
while effects are open; it beats. `seq` of a timer or an effect is a mark of its key."""

STEPS = frozenset({MAIL, TIMER, EFFECT})
"""In these it is inside one step, or at the start of one effect."""
BLAMABLE = STEPS | {EFFECTS}
KIND_NAMES = {MAIL: "mail", TIMER: "timer", EFFECT: "effect", INIT: "init", LOOP: "loop",
              EFFECTS: "effects"}  # fmt: skip
MEMFD = "loomd-slots-"
SLOT_BYTES = 64
WORDS = SLOT_BYTES // 8
SLOTS = 16384


@dataclass(frozen=True)
class InHand:
    """A reading of one slot. `since_ns` 0: nothing in hand."""

    since_ns: int
    kind: int
    lane: int
    seq: int
    steps: int


class Slot:
    """One child's 64 bytes."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview) -> None:
        self._words = words

    @classmethod
    def private(cls) -> Slot:
        """A slot that nobody else sees: for tests, and for processes outside a tree."""
        return cls(memoryview(bytearray(SLOT_BYTES)).cast("Q"))

    def begin(self, kind: int, lane: int = 0, seq: int = 0) -> None:
        """From now on this process is busy with that, until `end`."""
        words = self._words
        words[0] = 0
        words[1] = kind
        words[2] = lane
        words[3] = seq
        words[4] += 1
        words[0] = time.monotonic_ns()

    def end(self) -> None:
        """Nothing in hand any more."""
        self._words[0] = 0

    def beat(self) -> None:
        """Still alive in what was begun: the time counts from now again."""
        if self._words[0]:
            self._words[0] = time.monotonic_ns()

    def read(self) -> InHand:
        words = self._words
        return InHand(words[0], words[1], words[2], words[3], words[4])

    def clear(self) -> None:
        for i in range(WORDS):
            self._words[i] = 0


class SlotMap:
    """All slots. `fd` is the memfd, to be inherited by templates."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, SLOTS * SLOT_BYTES)
        self._words = memoryview(self._map).cast("Q")
        self._free = list(range(SLOTS - 1, -1, -1))

    @classmethod
    def create(cls, mark: str = "") -> SlotMap:
        """A fresh one. `mark` is in its name, which /proc shows of everyone who has it mapped."""
        fd = os.memfd_create(f"{MEMFD}{mark}", os.MFD_CLOEXEC)
        os.ftruncate(fd, SLOTS * SLOT_BYTES)
        return cls(fd)

    def reserve(self, used: set[int]) -> None:
        """Takes over these slots from a predecessor of this process, as they are."""
        self._free = [index for index in range(SLOTS - 1, -1, -1) if index not in used]

    def slot(self, index: int) -> Slot:
        """Slot `index`; -1 gives a private one."""
        if index < 0:
            return Slot.private()
        return Slot(self._words[index * WORDS : (index + 1) * WORDS])

    def take(self) -> int:
        """A cleared slot's index, or -1 if all are in use (then its child cannot be found hung)."""
        if not self._free:
            return -1
        index = self._free.pop()
        self.slot(index).clear()
        return index

    def give_back(self, index: int) -> None:
        if index >= 0:
            self._free.append(index)

    def since_ns(self, index: int) -> int:
        """Only `busy since`: what the root scans."""
        return int(self._words[index * WORDS]) if index >= 0 else 0

    def steps(self, index: int) -> int:
        """Only how much was ever begun."""
        return int(self._words[index * WORDS + 4]) if index >= 0 else 0
