"""Finding the daemon of an instance, and starting one where none runs.

Whether a daemon runs is asked of the kernel, not of a file: the root holds an exclusive flock on
the state directory for as long as it lives. That its socket can be connected to proves nothing:
systemd may listen there, and start it when somebody comes.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loomctl import systemd
from loomd.wire.endpoints import Instance
from loomd.wire.errors import LoomError

START_S = 20.0
"""How long a daemon may take until it answers; it takes 0.4 s on an idle machine."""

LOG_CAP = 16 << 20
"""Bytes of the detached daemon's log before it is turned over to `log.1`."""


def running(instance: Instance) -> bool:
    """Whether a root holds the lock of this state directory."""
    try:
        directory = os.open(instance.state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(directory)
    return False


def pid(instance: Instance) -> int:
    """The pid of the root, 0 if it is not known."""
    try:
        return int(instance.pid_file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def service(instance: Instance) -> systemd.Unit | None:
    """The unit by which systemd runs the daemon that runs now."""
    unit = systemd.installed(instance)
    if unit is None or not (main := unit.main_pid()) or main != pid(instance):
        return None
    return unit


def comes_back(instance: Instance) -> bool:
    """Whether systemd is about to start the daemon again: it has crashed, or is being restarted."""
    unit = systemd.installed(instance)
    return unit is not None and unit.is_starting()


@contextmanager
def _starter(instance: Instance) -> Iterator[None]:
    """Of two `loomctl` at once, one starts the daemon and the other finds it."""
    try:
        instance.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        instance.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(
            instance.runtime / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise _unusable(error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def start(instance: Instance) -> subprocess.Popen[bytes] | None:
    """Starts a daemon; None if one runs. Its readiness is the client's to await.

    Through systemd where its units are installed, or where it listens in the daemon's place; else
    a detached one, which is returned.
    """
    with _starter(instance):
        if running(instance):
            return None
        unit = systemd.installed(instance)
        if unit is not None and systemd.manager():
            unit.start()
            return None
        if _knock(instance):
            return None
        log = _open_log(instance)
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "loomd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
                cwd="/",
                env={
                    **os.environ,
                    "LOOM_CONFIG": str(instance.config),
                    "LOOM_STATE_DIR": str(instance.state),
                    "LOOM_RUNTIME_DIR": str(instance.runtime),
                },
            )
        finally:
            os.close(log)
        deadline = time.monotonic() + START_S
        # The lock is taken early in the daemon's life: wait for it, so that a second `loomctl`
        # that comes next sees a running daemon.
        while time.monotonic() < deadline and child.poll() is None and not running(instance):
            time.sleep(0.005)
        return child


def _knock(instance: Instance) -> bool:
    """Connects where clients do. If somebody listens there while no daemon runs, the connection
    makes him start it: True when it runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(instance.clients.removeprefix("ipc://"))
        except OSError:
            return False
        deadline = time.monotonic() + START_S
        while not running(instance):
            if time.monotonic() > deadline:
                raise LoomError(
                    "daemon_failed",
                    f"systemd listens on {instance.clients}, but has started no daemon",
                    "see: systemctl --user status loomd; journalctl --user -u loomd",
                )
            time.sleep(0.005)
    return True


def _open_log(instance: Instance) -> int:
    try:
        _turn_over(instance.log_file)
        return os.open(
            instance.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise _unusable(error) from None


def _unusable(error: OSError) -> LoomError:
    return LoomError(
        "daemon_failed",
        f"cannot use {error.filename}: {error.strerror}",
        "set LOOM_STATE_DIR and LOOM_RUNTIME_DIR to directories that you may write",
    )


def _turn_over(log: Path) -> None:
    try:
        if log.stat().st_size > LOG_CAP:
            log.replace(log.with_name("log.1"))
    except FileNotFoundError:
        return


def log_size(instance: Instance) -> int:
    """Bytes in the daemon's log, 0 if there is none."""
    try:
        return instance.log_file.stat().st_size
    except OSError:
        return 0


def failure(instance: Instance, status: int, since: int = 0) -> LoomError:
    """Why a daemon that was just started is gone: the last reason in its log after `since`."""
    code = "config" if status == 8 else "daemon_failed"
    reason, hint = f"it exited with status {status}", f"see {instance.log_file}"
    for line in reversed(_tail(instance.log_file, since)):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and said.get("level") == "error" and said.get("reason"):
            reason, hint = str(said["reason"]), str(said.get("hint") or hint)
            break
    return LoomError(code, f"the daemon did not start: {reason}", hint)


def _tail(log: Path, since: int, size: int = 16 << 10) -> list[str]:
    try:
        with log.open("rb") as file:
            end = log.stat().st_size
            file.seek(max(0, end - size, since if since <= end else 0))  # else it was turned over
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
