"""Tells systemd how the root is: READY, RELOADING, STATUS, STOPPING, WATCHDOG by `NOTIFY_SOCKET`.

The variables are taken out of the environment, so that no child can speak for the daemon.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping

MAX_WAITING = 64
"""Messages that wait for a systemd that does not read at all; the oldest give way."""
MORE_TIME_S = 30.0
"""What a stop that makes progress asks for, each time."""


class Notify:
    """Silent where there is no systemd. `watchdog_s`: how often to feed it; 0 = never.

    kept   the variables it was made from: for a root that executes itself, and only for that
    """

    def __init__(self, env: MutableMapping[str, str] = os.environ) -> None:
        names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        self.kept = {name: env.pop(name) for name in names if name in env}
        path, usec, pid = (self.kept.get(name, "") for name in names)
        self._socket: socket.socket | None = None
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self.watchdog_s = 0.0
        self._left = 0
        self._said = ""
        self._note = ""
        if path.startswith(("/", "@")):
            self._address = "\0" + path[1:] if path.startswith("@") else path
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            if usec.isdecimal() and pid in ("", str(os.getpid())):
                self.watchdog_s = int(usec) / 2_000_000  # half of what systemd waits

    def send(self, *lines: str) -> None:
        """Never blocks, never fails. What its queue does not take now goes later, in order: a READY
        or STOPPING that is lost is not asked for again, systemd ends us."""
        if self._socket is None:
            return
        self._waiting.append("\n".join(lines).encode())
        self.flush()

    def flush(self) -> None:
        """Sends what waits, as far as systemd takes it."""
        while self._socket is not None and self._waiting:
            try:
                self._socket.sendto(self._waiting[0], self._address)
            except BlockingIOError:
                return
            except OSError:  # nobody is there
                self._waiting.clear()
                return
            self._waiting.popleft()

    def ready(self, status: str) -> None:
        """Serves; also the end of `reloading`."""
        self._said = self._said or status
        self.send("READY=1", f"STATUS={self._line()}", f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        """New code is being taken; `ready` comes when it is done or has been refused."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, status: str) -> None:
        """One line for people, said when it changes."""
        if status != self._said:
            self._said = status
            if self._waiting and self._waiting[-1].startswith(b"STATUS="):
                self._waiting.pop()  # nobody has read it, and it is no longer so
            self.send(f"STATUS={self._line()}")

    def note(self, text: str) -> None:
        """What stands behind every status from now on, one line; "": nothing does."""
        self._note = text

    def _line(self) -> str:
        return f"{self._said}; {self._note}" if self._note else self._said

    def stopping(self, left: int) -> None:
        """An orderly stop of `left` processes begins."""
        self._left = left
        self.send("STOPPING=1", f"STATUS=stopping, {left} processes left")

    def leaving(self, left: int) -> None:
        """The stop goes on. One that makes progress is given time; one that does not is not."""
        if left < self._left:
            self._left = left
            self.send(
                f"EXTEND_TIMEOUT_USEC={int(MORE_TIME_S * 1e6)}",
                f"STATUS=stopping, {left} processes left",
            )

    def watchdog(self) -> None:
        """Alive. Of a queue that is full this is no news: it is only said where nothing waits."""
        self.flush()
        if not self._waiting and self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(b"WATCHDOG=1", self._address)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
