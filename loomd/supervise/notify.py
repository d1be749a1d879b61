"""Tells systemd how the root is: READY, STATUS, STOPPING and WATCHDOG over `NOTIFY_SOCKET`.

The variables are taken out of the environment, so that no child can speak for the daemon.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping


class Notify:
    """Silent where there is no systemd. `watchdog_s`: how often to feed it; 0 = never."""

    def __init__(self, env: MutableMapping[str, str] = os.environ) -> None:
        path = env.pop("NOTIFY_SOCKET", "")
        usec = env.pop("WATCHDOG_USEC", "")
        pid = env.pop("WATCHDOG_PID", "")
        self._socket: socket.socket | None = None
        self.watchdog_s = 0.0
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
        self.send("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def status(self, status: str) -> None:
        self.send(f"STATUS={status}")

    def stopping(self) -> None:
        self.send("STOPPING=1", "STATUS=stopping")

    def watchdog(self) -> None:
        self.send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
