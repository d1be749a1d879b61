"""How a process of the root's comes to be: executed, or ordered from a template.

An order waits in a queue of its line (which template, which generation of code) until a template of
it takes it. It is placed again when the template died before the child had told its pid: that is
nobody's failed start.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loomd.supervise import handover, kernel
from loomd.supervise import orphans as o
from loomd.supervise import spec as s
from loomd.supervise import tree as t
from loomd.supervise.cgroup import MAX_PIDS, settle
from loomd.supervise.crash import crash_point
from loomd.supervise.link import Link, TooLarge, encode
from loomd.supervise.process import CHILD_QUEUE, HUB_QUEUE, Process
from loomd.supervise.sweep import VARIABLE
from loomd.supervise.upgrade import PREFLIGHT

if TYPE_CHECKING:
    from loomd.supervise.root import Root

MAX_ORDER = 192 * 1024
MAX_LOST_ORDERS = 3
# Without the working directory on its path (-P): that may be anybody's checkout.
_TEMPLATE = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from loomd.supervise.template import main; main(sys.argv)"
)
_PACKAGE_HOME = str(Path(__file__).parents[2])


class Births:
    """One per root. orders: what waits for a template, by line."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self.orders: dict[tuple[str, int], deque[Process]] = {}

    def start(self, name: str, incarnation: int) -> None:
        node = self._root.policy.nodes[name]
        assert isinstance(node, t.Worker)
        try:
            ours, theirs = Link.pair(HUB_QUEUE if name == self._root.config.hub else CHILD_QUEUE)
        except OSError as error:  # no descriptor is left
            why = f"no link: {error.strerror}"
            self._root.log.line("warning", "no_link", name=name, reason=why)
            self._root.tell(t.Exited(name, incarnation, s.COULD_NOT_START, reason=why))
            return
        process = Process(name, incarnation, node.spec, ours, theirs, begun=time.monotonic())
        process.slot = -1 if node.spec.start.command else self._root.slots.take()
        if node.spec.start.template:
            process.generation = self._root.upgrade.generations.of(name)
            process.trial = self._root.upgrade.on_trial(process)
        elif node.spec.start.serves:
            process.generation = self._root.upgrade.generations.number
        self._root.processes[name] = process
        self._confine(process)
        self._root.watch_link(process)
        if node.spec.start.service:
            self._root.services.start(process)
        elif node.spec.start.template:
            self.orders.setdefault(process.line, deque()).append(process)
            self.place(process.line)
        else:
            self._execute(process)
        if node.spec.start.ready == "none" and not (node.spec.start.service or process.dead):
            self._root.tell(t.Ready(name, incarnation))

    def _confine(self, process: Process) -> None:
        """Its limit and, of a command, its cgroup; an actor tells its own."""
        start = process.spec.start
        if start.serves:
            return  # the cgroup of all births
        limit = self._root.config.memory_mb if start.template else 0
        process.memory_mb = limit if start.memory_mb is None else start.memory_mb
        if self._root.config.cgroups is not None and start.command:
            process.leaf = self._root.config.cgroups.of_command(process.name, process.incarnation)

    def settling(self, process: Process) -> Callable[[], None] | None:
        """What a command does to enter its cgroup."""
        if process.leaf is None:
            return None
        return partial(settle, process.leaf, process.memory_mb << 20, MAX_PIDS)

    def marks(self, process: Process) -> dict[str, str]:
        """What a program is to have in its environment, by which what it leaves is known."""
        owner = {o.OWNER: f"{process.name}#{process.incarnation}"}
        return owner | ({VARIABLE: self._root.config.mark} if self._root.config.mark else {})

    def _execute(self, process: Process) -> None:
        """Starts a command or a template."""
        start = process.spec.start
        assert process.theirs is not None
        fds = [process.theirs.fileno()]
        env = {k: v for k, v in os.environ.items() if k != "LOOM_KEYS_FD"}
        settling = self.settling(process)
        if start.serves:
            argv = [sys.executable, "-P", "-c", _TEMPLATE, _PACKAGE_HOME, "3", "4"]
            fds.append(self._root.slots.fd)
            if self._root.config.cgroups is not None:
                settling = partial(kernel.enter_cgroup, self._root.config.cgroups.births)
            process.link.send(
                {
                    "op": "setup",
                    "name": process.name,
                    "root": self._root.pid,
                    "slot": process.slot,
                    "cgroups": cgroups.base if (cgroups := self._root.config.cgroups) else "",
                    "preload": list(start.preload),
                    "without": list(start.without),
                    "spares": start.spares,
                    "ahead": start.ahead,
                    "args": self._root.config.base_args,
                }
            )
        else:
            argv = list(start.command)
            env["LOOM_LINK_FD"] = "3"
            env |= self.marks(process)
            if process.name == PREFLIGHT and self._root.upgrade.frozen_fd >= 0:
                fds.append(self._root.upgrade.frozen_fd)
                env[handover.VARIABLE] = "4"
        crash_point("root.before_fork", process.name)
        try:
            pid = kernel.start_program(
                argv, env, fds, self._root.pid, self.output(process.name), start.nice, settling
            )
        except OSError as error:
            self.never_born(process, f"fork: {error}")
            return
        crash_point("root.after_fork", process.name)
        process.theirs.close()
        process.theirs = None
        self.born(process, pid)

    def place(self, line: tuple[str, int]) -> None:
        """Hands waiting orders to the template, as many as it takes."""
        template = self.template(line)
        queue = self.orders.get(line)
        while template is not None and queue:
            process = queue[0]
            if process.dead or process.theirs is None:
                queue.popleft()
                continue
            start = process.spec.start
            fds = [process.theirs.fileno()]
            with_keys = start.keys and self._root.config.keys_fd >= 0
            if with_keys:
                fds.append(self._root.config.keys_fd)
            if start.lock:
                fds.extend(self._root.config.lock_fds)
            with_listener = start.listener and self._root.config.listen_fd >= 0
            if with_listener:
                fds.append(self._root.config.listen_fd)  # the last one
            try:
                order = encode(self._order(process, with_keys, with_listener), MAX_ORDER)
            except TooLarge as error:
                queue.popleft()
                self.never_born(process, f"spec too large: {error}", s.CANNOT_START)
                continue
            crash_point("root.before_fork", process.name)
            try:
                socket.send_fds(template.link.sock, [order], fds)
            except BlockingIOError:
                self._root.watch_link(template)
                return
            except OSError:
                return  # it is dead: its successor gets the orders
            queue.popleft()
            process.theirs.close()
            process.theirs = None
            crash_point("root.after_fork", process.name)

    def _order(self, process: Process, with_keys: bool, with_listener: bool) -> dict[str, Any]:
        start = process.spec.start
        return {
            "op": "fork",
            "name": process.name,
            "incarnation": process.incarnation,
            "token": self.token(process.name, process.incarnation),
            "slot": process.slot,
            "entry": start.entry,
            "args": {
                **self._root.config.base_args,
                **start.args,
                "package_generation": process.generation,
            },
            "trial": process.trial,
            "nice": start.nice,
            # What a tool host's calls use is limited call by call: not by what the host may use.
            "memory": 0 if start.nursery else process.memory_mb << 20,
            "pids": MAX_PIDS,
            "keys": with_keys,
            "cold": start.cold,
            "listener": with_listener,
            "boot": self._root.config.boot,
            "output": self.output(process.name),
        }

    def token(self, name: str, incarnation: int) -> str:
        """What this incarnation says in its Hello; the hub computes the same."""
        text = f"{name}#{incarnation}".encode()
        return hmac.new(self._root.config.secret.encode(), text, hashlib.sha256).hexdigest()[:32]

    def template(self, line: tuple[str, int]) -> Process | None:
        """The living template of this line that has said ready."""
        for process in self._root.processes.values():
            if process.serves == line and line[0] and not process.dead:
                node = self._root.policy.nodes.get(process.name)
                if node is not None and node.state == "up":
                    return process
        return None

    def born(self, process: Process, pid: int) -> None:
        """Its pid is known: from here on it can be watched."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            # It died right after its word and was reaped as one that nobody knew, or there is no
            # descriptor left: either way only this one is lost.
            self.never_born(process, f"could not be watched: {error.strerror}")
            return
        process.pid = pid
        process.pidfd = pidfd
        self._root.watch(process)
        self._root.tell(t.Born(process.name, process.incarnation, pid))
        self._root.hubline.note(
            {
                "op": "born",
                "name": process.name,
                "incarnation": process.incarnation,
                "pid": pid,
            }
        )

    def never_born(self, process: Process, why: str, status: int = s.COULD_NOT_START) -> None:
        self._root.ends.bury(process)
        self._root.ends.add(
            process, t.Exited(process.name, process.incarnation, status, reason=why)
        )

    def lost(self, process: Process) -> None:
        """Its link ended before it told its pid: the template died, or could not fork."""
        if process.dead:
            return
        process.lost += 1
        if process.killed or process.lost > MAX_LOST_ORDERS:
            why = process.killed or "was never born"
            self.never_born(process, why)
            return
        self.replace(process)

    def again(self, process: Process) -> None:
        """Its order has not been sent yet: it goes to the template of the day."""
        process.generation = self._root.upgrade.generations.of(process.name)
        self.orders.setdefault(process.line, deque()).append(process)
        self._root.tell(t.Postponed(process.name, process.incarnation))
        self.place(process.line)

    def place_anew(self) -> None:
        """Orders that wait for a template that will not come go to that of the day."""
        processes, generations = self._root.processes.values(), self._root.upgrade.generations
        served = {process.serves for process in processes if not process.dead}
        for line, queue in list(self.orders.items()):
            for process in list(queue) if line not in served else ():
                if generations.of(process.name) != line[1] and not process.dead:
                    queue.remove(process)
                    self.again(process)

    def replace(self, process: Process) -> None:
        """A new link and a new order. A half-born child finds the old link closed, and exits."""
        self._root.renew_link(process)
        self.orders.setdefault(process.line, deque()).append(process)
        self._root.tell(t.Postponed(process.name, process.incarnation))
        self.place(process.line)

    def output(self, name: str) -> str:
        """The file that stdout and stderr of this child go to."""
        return os.path.join(self._root.config.output, name.replace("/", "."))
