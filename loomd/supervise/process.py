"""One incarnation of one worker, as the root sees it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from loomd.supervise import spec as s
from loomd.supervise import tree as t
from loomd.supervise.cgroup import Leaf
from loomd.supervise.link import Link

CHILD_QUEUE = 256
HUB_QUEUE = 10_000
"""Messages that a link keeps for a child that does not take them now."""


@dataclass(eq=False)
class Process:
    """One incarnation of one worker."""

    name: str
    incarnation: int
    spec: s.WorkerSpec
    link: Link
    theirs: socket.socket | None  # the other end, until it has been handed over
    slot: int = -1
    leaf: Leaf | None = None
    memory_mb: int = 0
    pid: int = 0
    pidfd: int = -1
    lost: int = 0  # orders that came to nothing
    watched: int = 0  # the events the selector waits for on the link
    begun: float = 0.0
    killed: str = ""  # why we have killed it
    stopping: bool = False  # it was told to stop
    crash: str = ""  # its own report
    dead: bool = False
    generation: int = 0  # of the code it is born from; of a template: that it has imported
    trial: bool = False  # it was born from new code while older code was there to fall back to
    settled: bool = False  # it has made a commit
    told: bool = False  # to leave for newer code

    @property
    def line(self) -> tuple[str, int]:
        """The templates that may fork it: their service and generation."""
        return self.spec.start.template, self.generation

    @property
    def serves(self) -> tuple[str, int]:
        """Of a template: the line that it forks for. Else ("", ...)."""
        return self.spec.start.serves, self.generation


@dataclass(frozen=True)
class End:
    """A death, until it may be told."""

    process: Process
    event: t.Exited
    note: dict[str, Any]
