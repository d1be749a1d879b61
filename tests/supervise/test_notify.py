"""What systemd hears."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from loomd.supervise.notify import Notify


@pytest.fixture
def systemd(tmp_path):
    """Its socket, which never waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "n"))
        bound.setblocking(False)
        yield bound


def test_silent_where_there_is_no_systemd():
    notify = Notify({})
    notify.ready("x")
    assert notify.watchdog_s == 0


def test_it_speaks_and_takes_the_variables_out(systemd):
    env = {
        "NOTIFY_SOCKET": systemd.getsockname(),
        "WATCHDOG_USEC": "4000000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    notify = Notify(env)
    assert env == {} and notify.watchdog_s == 2.0
    notify.ready("running")
    notify.watchdog()
    assert systemd.recv(999).startswith(b"READY=1\nSTATUS=running\nMAINPID=")
    assert systemd.recv(999) == b"WATCHDOG=1"
    notify.status("1 sessions")
    notify.status("1 sessions")  # nothing new: not said
    notify.reloading()
    notify.ready("running")
    assert systemd.recv(999) == b"STATUS=1 sessions"
    assert systemd.recv(999).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert systemd.recv(999).startswith(b"READY=1\nSTATUS=1 sessions\n")
    systemd.close()
    notify.status("nobody listens")
    notify.close()


def test_a_stop_that_makes_progress_is_given_time(systemd):
    notify = Notify({"NOTIFY_SOCKET": systemd.getsockname()})
    notify.stopping(12)
    notify.leaving(12)  # none has gone
    assert systemd.recv(999) == b"STOPPING=1\nSTATUS=stopping, 12 processes left"
    with pytest.raises(BlockingIOError):
        systemd.recv(999)
    notify.leaving(7)
    said = systemd.recv(999)
    assert said == b"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=stopping, 7 processes left"
    notify.close()


def test_what_a_slow_systemd_does_not_take_at_once_is_said_later_and_in_order(systemd):
    notify = Notify({"NOTIFY_SOCKET": systemd.getsockname()})

    def heard() -> list[bytes]:
        said = []
        with contextlib.suppress(BlockingIOError):
            while True:
                said.append(systemd.recv(999))
        return said

    for _ in range(2000):
        notify.watchdog()
    notify.status("1 session")
    notify.watchdog()
    notify.stopping(3)
    assert set(heard()) == {b"WATCHDOG=1"}
    notify.watchdog()
    assert heard() == [
        b"STATUS=1 session",
        b"STOPPING=1\nSTATUS=stopping, 3 processes left",
        b"WATCHDOG=1",
    ]
    for n in range(2000):
        notify.status(f"{n} sessions")
    assert heard()[0] == b"STATUS=0 sessions"
    notify.flush()
    assert heard() == [b"STATUS=1999 sessions"]  # what is outdated is not said
    notify.close()


def test_a_note_stands_behind_every_status_until_it_is_taken_back(systemd):
    notify = Notify({"NOTIFY_SOCKET": systemd.getsockname()})
    notify.status("1 session")
    assert systemd.recv(999) == b"STATUS=1 session"
    notify.note("last reload refused: no such module")
    notify.ready("running")
    said = b"STATUS=1 session; last reload refused: no such module"
    assert systemd.recv(999).split(b"\n")[1] == said
    notify.status("2 sessions")
    assert systemd.recv(999) == b"STATUS=2 sessions; last reload refused: no such module"
    notify.note("")
    notify.ready("running")
    assert systemd.recv(999).split(b"\n")[1] == b"STATUS=2 sessions"
    notify.close()


def test_what_it_was_made_from_is_kept_for_a_root_that_executes_itself():
    env = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "PATH": "/bin"}
    notify = Notify(env)
    assert env == {"PATH": "/bin"}
    assert notify.kept == {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1"}
    notify.close()


def test_a_watchdog_for_another_process_is_not_ours(tmp_path):
    env = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    notify = Notify(env)
    assert notify.watchdog_s == 0
    notify.close()
