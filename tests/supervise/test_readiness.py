"""A notification, a port, a line: when each says that a service is ready."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from loomd.supervise import readiness as r
from tests.support import BOUND_S, eventually

SEND = (
    "import os, socket, sys\n"
    "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "s.connect(os.environ['NOTIFY_SOCKET'].replace('@', '\\0', 1))\n"
)


@contextlib.contextmanager
def sender(address: str, what: str, **more: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that sends, and lives until its stdin is closed."""
    program = f"{SEND}{what}\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "NOTIFY_SOCKET": address},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **more,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.communicate(timeout=BOUND_S)


@pytest.fixture
def notify() -> Iterator[tuple[socket.socket, str]]:
    sock, address = r.notify_socket()
    with sock:
        yield sock, address


def test_ready_is_taken_from_the_service_and_from_below_it(notify):
    sock, address = notify
    with sender(address, "s.send(b'STATUS=hi\\nREADY=1')", start_new_session=True) as process:
        assert not r.Notified(sock, os.getpid() + 1_000_000).look()
    with sender(address, "s.send(b'READY=1')", start_new_session=True) as process:
        assert r.Notified(sock, process.pid).look()
    with sender(address, "s.send(b'READY=1')", start_new_session=True):
        assert r.Notified(sock, os.getpid()).look()  # a descendant, in a session of its own


def test_words_that_are_not_ready_are_read_and_forgotten(notify):
    sock, address = notify
    with sender(address, "for _ in range(5): s.send(b'NOTREADY=1\\nWATCHDOG=1')") as process:
        probe = r.Notified(sock, process.pid)
        assert not probe.look()
        assert not select.select([sock], [], [], 0)[0]


def test_descriptors_that_come_along_are_closed(notify):
    sock, address = notify
    before = len(os.listdir("/proc/self/fd"))
    with sender(address, "socket.send_fds(s, [b'BARRIER=1'], [0, 1, 2])") as process:
        assert not r.Notified(sock, process.pid).look()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_belongs_to_its_session_and_its_forebears():
    assert r.belongs(os.getpid(), os.getpid()) and r.belongs(os.getpid(), os.getppid())
    assert not r.belongs(os.getppid(), os.getpid())
    assert not r.belongs(0, os.getpid())
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert not r.belongs(process.pid, os.getpid())  # gone: nobody can tell


def test_a_port_is_ready_when_it_takes_a_connection():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    probe = r.PortOpen("127.0.0.1", port)
    tries = 0

    def look() -> bool:
        nonlocal tries
        tries += 1
        wait = probe.wait_s()
        assert wait is not None
        select.select([], list(probe.masks()), [], wait)
        return probe.look()

    for _ in range(3):
        assert not look()
    with socket.create_server(("127.0.0.1", port)):
        eventually(look, what="the port is seen")
    probe.close()
    assert probe.masks() == {}


@pytest.mark.parametrize(
    ("pieces", "ready"),
    [
        ([b"listening on 8001\n"], True),
        ([b"liste", b"ning on 80", b"01\r"], True),
        ([b"listening on 8001"], False),  # the line is not over
        ([b"\xff\xfe\0 listening on 80\xff01\n"], True),
        ([b"x" * 5000 + b"listening on 8001\n"], False),  # beyond what is looked at
    ],
)
def test_a_line_that_matches_is_ready(pieces, ready):
    probe = r.LineSeen(r"listening on \d+")
    assert any([probe.output(piece) for piece in pieces]) is ready


def test_a_machine_that_stalls_is_not_the_patterns_fault(monkeypatch):
    class Stalled:
        """A pattern in which the process has to wait, for longer than a match may compute."""

        def search(self, text: str) -> re.Match[str] | None:
            select.select([], [], [], 3 * r.MATCH_S)
            return re.search("up", text)

    monkeypatch.setattr(r, "MATCH_S", 0.05)
    probe = r.LineSeen("up")
    monkeypatch.setattr(probe, "_pattern", Stalled())
    assert probe.output(b"up\n")


def test_a_pattern_that_takes_for_ever_is_given_up():
    probe = r.LineSeen(r"(a+)+$")
    assert not probe.output(b"a" * 60 + b"b\n")
    assert probe.output(b"aaa\n")
    assert not probe.output((b"a" * 60 + b"b\n") * 100)
    assert not probe.output(b"aaa\n")  # it is no pattern to go on with
