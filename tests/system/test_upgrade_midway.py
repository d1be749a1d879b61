"""What comes in the middle of an upgrade: deaths, signals, and a process that is stuck."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import eventually
from tests.system.upgrading import CONFIG, Upgrading, upgrading

MOVE_S = 12.0
"""Much for one that moves, on a busy machine too; one test waits for its end."""


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """What lives below the shared daemon changes with every case: its end is where it is seen that
    nothing is left."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Upgrading]:
    """Its root gives a move little time; its heartbeat is slow, so that nobody is found hung."""
    config = CONFIG.replace("heartbeat_s = 2", "heartbeat_s = 60")
    with upgrading(config, begin=False) as up:
        up.code.change(
            "loomd/supervise/upgrade.py", "MOVE_S: Final = 180.0", f"MOVE_S: Final = {MOVE_S}"
        )
        up.code.keep()
        up.start()
        yield up


@pytest.fixture(autouse=True)
def as_before(shared: Upgrading) -> Iterator[None]:
    yield
    shared.code.undo()


def test_who_dies_while_templates_are_formed_is_born_from_those_of_before(
    shared: Upgrading, tmp_path: Path
):
    up, gate = shared, tmp_path / "gate"
    a = up.spawn("a")
    for n in range(1, 4):
        up.tell(a, op="add", n=n)
    up.until(a, lambda row: row["state"]["count"] == 3)
    was, done = up.client.request("status")["generation"], len(up.lines("upgraded"))
    up.code.change(
        "loomd/actor/echo.py",
        "",
        "\nimport os, sys, time\n"
        f"while '--preflight' not in sys.argv and not os.path.exists({str(gate)!r}):\n"
        "    time.sleep(0.01)\n",
    )
    os.kill(up.daemon.pid, signal.SIGHUP)
    eventually(lambda: f"template@{was}" in up.ps(), 60)
    died = up.ps()[a]
    for name in (a, "hub"):  # the hub, without which nobody is served, above all
        os.kill(up.ps()[name]["pid"], signal.SIGKILL)
    row = eventually(
        lambda: (lambda row: row if row["pid"] not in (None, 0, died["pid"]) else None)(up.ps()[a]),
        what=lambda: up.daemon.tail(20),
    )
    assert row["generation"] == was and len(up.lines("upgraded")) == done
    up.tell(a, op="add", n=4)
    up.until(a, lambda row: row["state"]["count"] == 4)
    gate.touch()
    eventually(lambda: len(up.lines("upgraded")) == done + 1, 60)
    assert up.lines("upgraded")[-1].get("errors") is None
    eventually(lambda: up.ps()[a]["generation"] == was + 1)
    up.tell(a, op="add", n=5)
    assert up.until(a, lambda row: row["state"]["count"] == 5)["state"]["wrong"] == []
    up.client.request("unspawn", name=a)


def test_a_hangup_in_the_middle_means_another_one(shared: Upgrading):
    up = shared
    was, resumed = up.client.request("status")["generation"], len(up.lines("resumed"))
    os.kill(up.daemon.pid, signal.SIGHUP)
    eventually(lambda: len(up.lines("resumed")) == resumed + 1, 60)
    os.kill(up.daemon.pid, signal.SIGHUP)
    eventually(lambda: up.lines("upgraded")[-1]["generation"] == was + 2, 60)
    assert len(up.lines("resumed")) == resumed + 2


def test_a_successor_that_is_stuck_does_not_keep_the_upgrade_from_its_end(shared: Upgrading):
    up = shared
    b = up.spawn("b")
    up.code.change(
        "loomd/actor/pump.py",
        "        if row is None:\n            raise Leave(CANNOT_START",
        "        if self.name.endswith('/b') and self.birth.trial:\n"
        "            import os\n"
        "            os.kill(os.getpid(), 19)\n"
        "        if row is None:\n            raise Leave(CANNOT_START",
    )
    result = up.upgrade()
    assert b in result["kept"] and b not in result["moved"] and "hub" in result["moved"]
    up.code.undo()
    result = up.upgrade()  # it is still stopped, but the next one is possible
    assert result["errors"] == []
    os.kill(up.ps()[b]["pid"], signal.SIGKILL)
    eventually(lambda: up.ps()[b]["generation"] == result["generation"])
    up.tell(b, op="add", n=1)
    up.until(b, lambda row: row["state"]["count"] == 1)
    up.client.request("unspawn", name=b)


def test_a_signal_that_comes_with_the_execve_is_not_lost():
    with upgrading(begin=False) as up:
        up.code.change(
            "loomd/supervise/handover.py",
            "    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)\n",
            "    os.kill(os.getpid(), signal.SIGTERM)\n"
            "    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)\n",
        )
        up.start()
        process = up.daemon.process
        assert process is not None
        os.kill(process.pid, signal.SIGHUP)
        assert process.wait(60) == 0
        assert up.lines("resumed") and up.lines("stopping")[-1]["reason"] == "SIGTERM"
