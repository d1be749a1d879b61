"""Upgrades under a running job, and deaths in the middle of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import eventually
from tests.system.mainjob import Job, make_repo
from tests.system.upgrading import DEATHS, upgrading


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


def test_a_call_under_way_is_finished_by_the_gateway_that_made_it(tmp_path: Path):
    """New calls go to the newer gateway meanwhile, and nothing is paid twice."""
    stalled = Answer(text="slowly", stall_after=0)
    with OpenAIServer() as server:
        server.say(stalled, Answer(text="quickly"))
        with upgrading(server.config(), **KEYS) as up:
            repo = make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})
            job = Job(up.daemon, up.client, repo).open("say something slowly")
            assert stalled.stalled.wait(60)
            caller = up.incarnations()["gateway-1"]
            assert up.upgrade()["errors"] == []
            eventually(lambda: "gateway-11" in up.incarnations(), 60, what=up.daemon.tail)
            assert up.incarnations()["gateway-1"] == caller  # nobody has touched it
            # It ends by itself: that is nothing to tell people of.
            assert eventually(lambda: up.lines("upgraded"), 60)[-1].get("kept") is None
            other = Job(up.daemon, up.client, repo).open("say something else")
            other.follow()  # by the newer one, while the first call still goes on
            stalled.release.set()
            job.follow()
            assert job.row()["answer"] == "slowly", job.story()
            eventually(lambda: "gateway-1" not in up.ps(), what=lambda: str(up.ps().keys()))
            for one in (job, other):
                [usage] = up.client.request("usage", by="session", session=one.session)
                assert usage["calls"] == 1
            assert len(server.requests) == 2


def test_a_daemon_started_anew_runs_the_gateway_that_still_has_a_call(tmp_path: Path):
    stalled, again = Answer(text="lost", stall_after=0), Answer(text="the second attempt")
    with OpenAIServer() as server:
        server.say(stalled, again)
        with upgrading(server.config(), **KEYS) as up:
            repo = make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})
            job = Job(up.daemon, up.client, repo).open("say something slowly")
            assert stalled.stalled.wait(60)
            assert up.upgrade()["errors"] == []
            up.client.close()
            up.daemon.kill()
            stalled.release.set()
            up.start()
            job.follow()
            assert job.row()["answer"] == "the second attempt", job.story()
            eventually(lambda: "gateway-1" not in up.ps(), what=lambda: str(up.ps().keys()))
            eventually(lambda: "gateway-11" in up.incarnations(), 60, what=up.daemon.tail)


@pytest.mark.parametrize("point", DEATHS)
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
            eventually(lambda: up.lines("upgraded") or up.lines("upgrade_failed"), 60)
        for n in range(6, 11):
            up.tell(a, op="add", n=n)
        row = up.until(a, lambda row: row["state"]["count"] == 10)
        assert row["state"]["wrong"] == []
        if point != "root.after_exec":
            return
        result = up.upgrade()  # the next one succeeds
        assert result["errors"] == [] and a in result["moved"]
