"""What systemd hears."""

from __future__ import annotations

import os
import socket

from loomd.supervise.notify import Notify


def test_silent_where_there_is_no_systemd():
    notify = Notify({})
    notify.ready("x")
    assert notify.watchdog_s == 0


def test_it_speaks_and_takes_the_variables_out(tmp_path):
    path = str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        env = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}
        notify = Notify(env)
        assert env == {} and notify.watchdog_s == 2.0
        notify.ready("running")
        notify.watchdog()
        notify.stopping()
        assert systemd.recv(999).startswith(b"READY=1\nSTATUS=running\nMAINPID=")
        assert systemd.recv(999) == b"WATCHDOG=1"
        assert systemd.recv(999).startswith(b"STOPPING=1")
    notify.status("nobody listens")
    notify.close()


def test_a_watchdog_for_another_process_is_not_ours(tmp_path):
    env = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    notify = Notify(env)
    assert notify.watchdog_s == 0
    notify.close()
