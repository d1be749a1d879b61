"""What has come to the root from below its children, as their subreaper.

An orphan whose owner lives is left alone (a service may put a helper in the background) and is
reaped when it ends. One whose owner is dead, or that nobody can be found to own, is killed with
everything below it, before that death is acted upon. The owner is told by the orphan's cgroup, by
its session (every child of the root leads one), or by the mark in the environment of a command.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loomd.supervise import kernel
from loomd.supervise.brood import Hunt
from loomd.supervise.cgroup import Empties, Leaf

if TYPE_CHECKING:
    from loomd.supervise.process import Process
    from loomd.supervise.root import Root

OWNER = "LOOM_OWNER"
"""Variable that a command is started with: name#incarnation."""
WAIT_S = 1.0
"""What is killed and yet not gone after that (it sleeps inside the kernel) never runs again, so
that a successor may start beside it."""
MAX_WATCHED = 256
"""So many are watched by a descriptor of their own. There may be thousands more: their ends come
with SIGCHLD, and each look asks for them."""
MAX_TAKEN_IN = 256
"""So many are looked at before the loop turns again."""


@dataclass(eq=False)
class Orphan:
    """fd      its pidfd, -1 where there is none for it
    unborn  it waited for its order, and its template is gone: that it ends too is in order
    """

    pid: int
    fd: int
    owner: Process | None
    unborn: bool
    killed: bool = False
    undead: bool = False  # killed, waited for in vain

    @property
    def owned(self) -> bool:
        return self.owner is not None and not self.owner.dead


class Orphans:
    """One per root."""

    def __init__(self, root: Root, selector: selectors.BaseSelector) -> None:
        self._root = root
        self._selector = selector
        self._known: dict[int, Orphan] = {}
        self._unwatched: set[int] = set()  # pids of those without a descriptor
        self._more = False  # some have not been looked at yet
        self._hunt: Hunt | None = None
        self._said = False  # the log has whom this hunt is for
        self._nurseries: set[int] = set()  # sessions of dead templates, until they are empty
        self._undead: set[str] = set()  # leaves waited for in vain
        self._empties = Empties()
        self.pending = False  # look again, at the next turn of the loop
        self.stale = False  # cgroups of the dead are to be removed
        selector.register(self._empties, selectors.EVENT_READ, lambda mask: self._empties.look())

    # --- what the loop asks

    @property
    def hunting(self) -> bool:
        """Something that must die may still be running."""
        return self._hunt is not None or self._more

    @property
    def standing(self) -> bool:
        """Something of a dead owner is still there."""
        return (
            self.hunting
            or any(not o.owned and not o.undead for o in self._known.values())
            or any(leaf.path not in self._undead for leaf in self._empties.waiting)
        )

    @property
    def left(self) -> int:
        """How many of dead owners are there, those waited for in vain too."""
        return sum(not o.owned for o in self._known.values()) + len(self._empties.waiting)

    def give_up_waiting(self) -> None:
        """What is still there is killed, and no longer waited for."""
        pids = []
        for orphan in self._known.values():
            if not orphan.owned and not orphan.undead:
                orphan.undead = True
                pids.append(orphan.pid)
        leaves = [x for x in self._empties.waiting if x.path not in self._undead]
        self._undead.update(leaf.path for leaf in leaves)
        self._root.log.line("error", "undead", pids=pids[:50], cgroups=[x.name for x in leaves])

    def template_gone(self, pid: int) -> None:
        """Its spares end with it: that is no fault, and not logged as one."""
        self._nurseries.add(pid)

    # --- the cgroup of a dead process

    def end_leaf(self, leaf: Leaf) -> None:
        """Kills what its process has left in it. Removed it is later, and by another."""
        self.stale = True
        if not leaf.populated():
            return
        leaf.kill()
        try:
            self._empties.watch(leaf)
        except OSError as error:
            self._root.log.line("warning", "cgroup_left", cgroup=leaf.path, reason=str(error))
            return
        self._empties.look()  # it may have become empty before it was watched

    # --- one look

    def look(self) -> None:
        """Takes in who has come, reaps the dead, and goes on killing those that are to die."""
        self.pending = False
        self._undead.intersection_update(leaf.path for leaf in self._empties.waiting)
        self._reap_unwatched()
        while self._take_in() and not self._more:
            pass
        quarry = [o for o in self._known.values() if not o.owned and not o.killed]
        if not quarry:
            self._hunt = None
            return
        if self._hunt is None:
            self._hunt, self._said = Hunt(), False
        strays = [o.pid for o in quarry if not o.unborn]
        if strays and not self._said:
            self._said = True
            self._root.log.line("warning", "orphans_killed", pids=strays[:50])
        if self._hunt.round(o.pid for o in quarry):
            self._hunt = None
            for orphan in quarry:
                orphan.killed = True
        else:
            self.pending = True

    def _take_in(self) -> bool:
        """True if one is reaped: its own children have come to us meanwhile."""
        root = self._root
        try:
            children = kernel.own_children()
        except OSError:  # no descriptor is left: at the next turn
            self.pending = True
            return False
        unknown = [pid for pid in children if pid not in root.by_pid and pid not in self._known]
        self._more = False
        if not unknown:
            self._nurseries.clear()
            return False
        # A spare, and a child that is being born, are in no table either. Until such a one has
        # told its pid it is in its template's session: look at the session first, at its message
        # second. A monitor is in our own for a moment.
        sessions = {pid: _session_of(pid) for pid in unknown}
        root.read_unborn()
        self._nurseries.intersection_update(sessions.values())
        ours = {p.pid for p in root.processes.values() if p.spec.start.serves}
        ours.add(os.getsid(0))
        reaped, taken = False, 0
        for pid in unknown:
            if pid in root.by_pid:
                continue
            if pid in root.services.monitors:
                root.services.reap(pid)
            elif sessions[pid] in ours:
                self._reap_unborn(pid)
            elif os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None:
                reaped = True
            elif taken == MAX_TAKEN_IN:
                self._more = self.pending = True
                break
            else:
                taken += 1
                unborn = sessions[pid] in self._nurseries
                self._watch(pid, self._owner_of(pid, sessions[pid]), unborn=unborn)
        return reaped

    def _reap_unborn(self, pid: int) -> None:
        """Reaps a dead spare, or a child that died at its birth, unless it has told its pid: such
        a one is watched and reaped by name. What it told, it told before it was seen to be dead."""
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        self._root.read_unborn()
        if pid not in self._root.by_pid:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)

    def _owner_of(self, pid: int, session: int) -> Process | None:
        """The living process below which it came to be."""
        root = self._root
        cgroups = root.config.cgroups
        if cgroups is not None and (leaf := cgroups.leaf_name_of(pid)):
            for process in root.processes.values():
                if process.leaf is not None and process.leaf.name == leaf:
                    return process
        if session in root.by_pid:
            return root.by_pid[session]
        name, _, incarnation = _environment(pid).get(OWNER, "").partition("#")
        marked = root.processes.get(name)
        return marked if marked is not None and str(marked.incarnation) == incarnation else None

    def _watch(self, pid: int, owner: Process | None, *, unborn: bool) -> None:
        fd = -1
        if len(self._known) - len(self._unwatched) < MAX_WATCHED:
            with contextlib.suppress(OSError):  # no descriptor is left
                fd = os.pidfd_open(pid)
        orphan = self._known[pid] = Orphan(pid, fd, owner, unborn)
        if fd < 0:
            self._unwatched.add(pid)
            return
        if not orphan.owned:
            with contextlib.suppress(OSError):  # before it can leave its place to another
                signal.pidfd_send_signal(fd, signal.SIGSTOP)
        self._selector.register(fd, selectors.EVENT_READ, lambda mask: self._on_end(orphan))

    def holds(self, pid: int) -> bool:
        """Whether that one has been taken for an orphan, and dies as one."""
        return pid in self._known

    def _reap_unwatched(self) -> None:
        """Nobody else reaps them: until then their pids are their own."""
        for pid in list(self._unwatched):
            try:
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is None:
                    continue
            except ChildProcessError:
                pass  # cannot be, but must not stop the loop
            self._unwatched.discard(pid)
            del self._known[pid]

    def _on_end(self, orphan: Orphan) -> None:
        try:
            if os.waitid(os.P_PIDFD, orphan.fd, os.WEXITED | os.WNOHANG) is None:
                return
        except ChildProcessError:
            pass  # cannot be, but must not stop the loop
        del self._known[orphan.pid]
        self._selector.unregister(orphan.fd)
        os.close(orphan.fd)
        self.pending = True

    # --- the end

    def clear_away(self, seconds: float) -> None:
        """The tree is down: whatever still has us as its parent goes too, within `seconds`."""
        end = time.monotonic() + seconds
        self.look()
        while (self.hunting or self.left) and time.monotonic() < end:
            for key, mask in self._selector.select(0.0 if self.pending else 0.1):
                key.data(mask)
            self.look()

    def close(self) -> None:
        for orphan in self._known.values():
            if orphan.fd >= 0:
                self._selector.unregister(orphan.fd)
                os.close(orphan.fd)
        self._known.clear()
        self._unwatched.clear()
        self._selector.unregister(self._empties)
        self._empties.close()


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _environment(pid: int) -> dict[str, str]:
    """What a process was started with."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        pairs = (os.fsdecode(entry).partition("=") for entry in file.read().split(b"\0"))
        return {name: value for name, _, value in pairs}
    return {}
