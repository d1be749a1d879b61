"""Tells systemd how the root is: READY, RELOADING, STATUS, STOPPING, WATCHDOG by `NOTIFY_SOCKET`.

The variables are taken out of the environment, so that no child can speak for the daemon.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

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
        """Never blocks, never fails: systemd asks again by killing us."""
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return

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
        self.send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
