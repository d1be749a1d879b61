"""The listening socket that systemd has bound for the daemon and passes at its start.

A client that connects while no daemon runs waits in that socket, systemd starts the daemon, and the
hub takes over the listening: nothing that was said meanwhile is lost. The root keeps the descriptor
for as long as it lives, so that it outlives every hub; its file belongs to systemd.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

FIRST = 3
"""Number of the first passed descriptor: systemd's convention."""


class NotOurs(ValueError):
    """What was passed is not a socket that the daemon can serve."""


def passed_listener(path: str, env: MutableMapping[str, str] = os.environ) -> int:
    """The descriptor that listens at `path`, -1 if none was passed to this process.

    Non-blocking and not inheritable; the variables are gone afterwards. Raises NotOurs if anything
    else was passed: connections to it would wait for ever.
    """
    count, pid = env.pop("LISTEN_FDS", ""), env.pop("LISTEN_PID", "")
    env.pop("LISTEN_FDNAMES", None)
    if not count.isdecimal() or pid != str(os.getpid()):
        return -1
    fds = range(FIRST, FIRST + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    if not fds:
        return -1
    if len(fds) > 1:
        raise NotOurs(f"systemd passes {len(fds)} sockets, and there is one to serve")
    bound = _listens_at(fds[0])
    if os.path.realpath(bound) != os.path.realpath(path):
        raise NotOurs(f"systemd listens at {bound or 'no Unix socket'}, clients come to {path}")
    os.set_blocking(fds[0], False)
    return fds[0]


def _listens_at(fd: int) -> str:
    """The path of a listening Unix stream socket, "" if it is none."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
        if (
            sock.family == socket.AF_UNIX
            and sock.type == socket.SOCK_STREAM
            and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        ):
            return os.fsdecode(sock.getsockname())
    return ""
