"""Ends every process below some others, whatever these do against it.

What forks while it is killed could outrun the killing, so first all stand still: a stop that
reaches a process inside a fork makes that fork start over, so once a look round finds nobody new
there will be nobody new. Then all are killed. A process is known by (pid, start time), and what is
found is signalled only while it is still the one that was found.

One at a time is too slow against many: on two processors a bomb of a few hundred forks faster than
a hunter, who has one share of time among hundreds, can stop them. A signal to a process group
reaches all of it in one call, between two forks; so whoever owns every session below it stops
whole groups.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable

from loomd.supervise import kernel


class Hunt:
    """One chase. `held`: pid -> start time of what stands still or, once it is over, is killed.

    `groups`: whoever is in another session than the hunter's is to die, and so is his process
    group: for a subreaper that spares nobody.
    """

    def __init__(self, groups: bool = False) -> None:
        self.held: dict[int, int] = {}
        self._groups = groups
        self._stopped: set[int] = set()
        self._refused: set[tuple[int, int]] = set()

    def round(self, quarry: Iterable[int]) -> bool:
        """Looks once at these processes and everything below them, and stops whoever is new.

        True if nobody was: all that is held is killed then. Bounded work; never waits.
        """
        new = False
        queue = list(quarry)
        while queue:
            pid = queue.pop()
            queue += kernel.children_of(pid)
            now = kernel.stat_of(pid)
            if now is None or now.over or self.held.get(pid) == now.start:
                continue
            if (pid, now.start) in self._refused:
                continue
            if self._groups:
                self._stop_group(now)
            if kernel.signal_exactly(pid, now.start, signal.SIGSTOP):
                self.held[pid] = now.start
                new = True
            else:
                self._refused.add((pid, now.start))  # gone, or a setuid program
        if new:
            return False
        for pid, start in self.held.items():
            kernel.signal_exactly(pid, start, signal.SIGKILL)
        return True

    def _stop_group(self, of: kernel.Stat) -> None:
        if of.group not in self._stopped and of.session != os.getsid(0):
            self._stopped.add(of.group)
            with contextlib.suppress(OSError):
                os.killpg(of.group, signal.SIGSTOP)
