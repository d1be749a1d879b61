"""The socket that systemd passes: `passed_listener` in a program started as systemd starts it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from loomd.supervise.activation import passed_listener

PROGRAM = """
import json, os, sys
from loomd.supervise.activation import NotOurs, passed_listener
try:
    fd = passed_listener(sys.argv[1])
except NotOurs as error:
    print(json.dumps(str(error)))
else:
    left = [name for name in os.environ if name.startswith("LISTEN_")]
    flags = fd >= 0 and [os.get_inheritable(fd), os.get_blocking(fd)]
    print(json.dumps([fd, flags, left]))
"""


def ask(path: str, *socks: socket.socket, pid: str = "$$", count: int | None = None):
    """What the program says, with `socks` as descriptors 3, 4, ... and systemd's variables."""
    moves = " ".join(f"{3 + i}<&{sock.fileno()}" for i, sock in enumerate(socks))
    given = len(socks) if count is None else count
    shell = f'LISTEN_PID={pid} LISTEN_FDS={given} LISTEN_FDNAMES=x exec "$@" {moves}'
    done = subprocess.run(
        ["bash", "-c", shell, "sh", sys.executable, "-c", PROGRAM, path],
        pass_fds=[sock.fileno() for sock in socks],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture
def listening(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(tmp_path / "clients"))
        sock.listen()
        os.dup2(sock.fileno(), 60)  # clear of the numbers that systemd uses
        with socket.socket(fileno=60) as high:
            yield high


def test_the_listener_at_the_clients_path_is_taken(tmp_path, listening):
    assert ask(str(tmp_path / "clients"), listening) == [3, [False, False], []]


def test_a_socket_for_another_path_is_refused(tmp_path, listening):
    assert "clients come to /elsewhere" in ask("/elsewhere", listening)


def test_two_sockets_are_refused(tmp_path, listening):
    assert "passes 2 sockets" in ask(str(tmp_path / "clients"), listening, listening)


def test_one_that_does_not_listen_is_refused(tmp_path):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.dup2(ours.fileno(), 61)
        with socket.socket(fileno=61) as high:
            assert "no Unix socket" in ask(str(tmp_path / "clients"), high)


def test_sockets_for_another_process_are_left_alone(tmp_path, listening):
    assert ask(str(tmp_path / "clients"), listening, pid="1") == [-1, False, []]


def test_no_socket_is_none(monkeypatch):
    monkeypatch.setenv("LISTEN_FDS", "0")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert passed_listener("/x") == -1
    assert "LISTEN_FDS" not in os.environ and "LISTEN_PID" not in os.environ
