"""Upgrades under a running job, and deaths in the middle of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support import eventually
from tests.system.mainjob import Job, make_repo
from tests.system.upgrading import upgrading


def test_the_main_job_goes_on_through_two_upgrades(tmp_path: Path):
    with upgrading(config="") as up:
        job = Job(up.daemon, up.client, make_repo(tmp_path / "repo")).open()
        for until in ("task_created", "edit_proposed"):
            job.follow(until=lambda event, type=until: event["type"] == type)
            result = up.upgrade()
            assert result["errors"] == []
        job.follow()
        job.check_done()
        assert not any(event["type"] == "actor_restarted" for event in job.events)


@pytest.mark.parametrize(
    "point",
    [
        "root.before_exec",
        "root.after_exec",
        "root.before_move@/a",
        "hub.after_commit@:9",
        "template.before_fork@models:2",
        "child.before_ready@hub:2",
    ],
)
def test_a_death_in_the_middle_of_an_upgrade_loses_nothing(point: str, tmp_path: Path):
    env = {"LOOM_CRASH_AT": point, "LOOM_CRASH_DIR": str(tmp_path)}
    with upgrading("[supervision]\nheartbeat_s = 2\n", **env) as up:
        a = up.spawn("a")
        for n in range(1, 6):
            up.tell(a, op="add", n=n)
        up.until(a, lambda row: row["state"]["count"] == 5)
        os.kill(up.daemon.pid, signal.SIGHUP)
        if point.startswith("root."):
            process = up.daemon.process
            assert process is not None
            process.wait(60)
            up.daemon.kill()
            up.client.close()
            up.start()
        else:
            eventually(lambda: up.lines("upgraded"), 60)
        for n in range(6, 11):
            up.tell(a, op="add", n=n)
        row = up.until(a, lambda row: row["state"]["count"] == 10)
        assert row["state"]["wrong"] == []
        if not point.startswith("root."):
            return
        result = up.upgrade()  # the next one succeeds
        assert result["errors"] == [] and a in result["moved"]
