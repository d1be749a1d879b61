"""A daemon on a socket that was bound for it, as systemd does it; without systemd."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support import Daemon, TestInstance, eventually, make_instance, remove_instance


@contextlib.contextmanager
def bound(instance: TestInstance) -> Iterator[socket.socket]:
    """Listens at the clients' path, as `loomd.socket` does."""
    instance.runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(instance.runtime / "clients"))
        sock.listen()
        os.dup2(sock.fileno(), 60)
        with socket.socket(fileno=60) as high:
            yield high


def start(daemon: Daemon, listener: socket.socket) -> None:
    shell = f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&{listener.fileno()}'
    with open(daemon.log, "ab") as log:
        daemon.process = subprocess.Popen(
            ["bash", "-c", shell, "sh", sys.executable, "-m", "loomd"],
            env=daemon.instance.environment(),
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def loomctl(instance: TestInstance, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "loomctl", *args],
        env=instance.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return out


def connections(path: Path) -> int:
    """Connections to a listening socket, the waiting ones too (the listener's row is not one)."""
    rows = Path("/proc/net/unix").read_text().splitlines()
    return sum(row.endswith(f" {path}") for row in rows) - 1


def test_who_came_before_the_daemon_is_served_and_hubs_come_and_go():
    instance = make_instance("[supervision]\nheartbeat_s = 2\n")
    daemon = Daemon(instance)
    try:
        with bound(instance) as listener:
            clients = instance.runtime / "clients"
            # Nobody holds the lock, somebody listens: no daemon, and one that is on its way.
            refused = loomctl(instance, "daemon", "status", "--json")
            assert "no daemon runs" in refused.communicate(timeout=30)[0]
            assert refused.returncode == 3
            early = loomctl(instance, "ps", "--json")
            eventually(lambda: connections(clients) > 0, what="a connection that waits")
            assert early.poll() is None
            start(daemon, listener)
            assert '"hub"' in answer(early)
            assert not instance.places.log_file.exists(), "loomctl has started one of its own"
            with daemon.client() as client:
                hub = client.request("status")["hub_pid"]
            os.kill(hub, signal.SIGSTOP)  # a hub that does not turn is replaced, too

            def succeeded() -> bool:
                with daemon.client() as client:
                    return client.request("status")["hub_pid"] != hub

            eventually(succeeded, what="another hub on the same listener")
            daemon.children()
            daemon.process.terminate()
            assert daemon.process.wait(30) == 0, daemon.tail()
            daemon.process = None
            daemon.assert_nothing_left()
            assert clients.is_socket(), "the file of systemd's socket was removed"
            start(daemon, listener)  # and every daemon
            daemon.wait_ready()
            daemon.children()
            daemon.process.terminate()
            assert daemon.process.wait(30) == 0
            daemon.process = None
            daemon.assert_nothing_left()
            clients.unlink()
    finally:
        daemon.kill()
        remove_instance(instance)


def test_a_socket_at_another_path_is_refused_with_what_to_do():
    instance = make_instance()
    daemon = Daemon(instance)
    try:
        with bound(instance) as listener:
            (instance.runtime / "clients").rename(instance.runtime / "moved")
            (instance.base / "run2").mkdir(mode=0o700)
            daemon.instance = TestInstance(
                instance.base,
                type(instance.places)(instance.config, instance.state, instance.base / "run2"),
            )
            start(daemon, listener)
            assert daemon.process.wait(30) == 8
            assert "daemon install" in daemon.tail()
            daemon.process = None
            (instance.runtime / "moved").unlink()
    finally:
        daemon.kill()
        remove_instance(instance)
