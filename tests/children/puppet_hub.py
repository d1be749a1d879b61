"""Stands where the hub stands: passes on between its link and a socket that the test holds.

`python puppet_hub.py SOCKET`: connects to SOCKET (SOCK_SEQPACKET) and copies each datagram.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import sys

from loomd.supervise.link import ChildLink, LinkClosed


def main(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # told by the link, too
    link = ChildLink.from_env()
    test = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    test.connect(path)
    link.ready()
    while True:
        readable, _, _ = select.select([link, test], [link] if link.waiting else [], [])[:3]
        if link.waiting:
            link.flush()
        if link in readable:
            try:
                while (message := link.receive()) is not None:
                    if message["op"] == "stop":
                        return
                    test.send(json.dumps(message).encode())
            except LinkClosed:
                return
        if test in readable:
            data = test.recv(1 << 20)
            if not data:
                return
            link.send(json.loads(data))


if __name__ == "__main__":
    main(sys.argv[1])
