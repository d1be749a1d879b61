"""Money on a real daemon: sessions race for one day's budget, and `models` is killed on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import Daemon
from tests.system.mainjob import JOB_S, Job, make_repo

pytestmark = pytest.mark.timeout(300)  # the import of litellm alone takes 20 s of a busy machine

LIMIT = 0.1
USED = {"prompt_tokens": 30000, "completion_tokens": 5000, "total_tokens": 35000}
SESSIONS = 5


def brain(request: dict[str, Any]) -> Answer:
    """Three turns, each as dear as the others."""
    results = sum(1 for message in request["messages"] if message["role"] == "tool")
    if results < 2:
        return Answer(calls=[("grep", {"pattern": f"x{results}"})], usage=USED)
    return Answer(text="done", usage=USED)


def test_sessions_that_race_for_a_days_budget_do_not_overspend_it(
    server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    server.brain = brain
    daemon = daemons(server.config(f"[budget]\nday_usd = {LIMIT}"), **KEYS)
    with daemon.client() as client:
        repo = make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})
        jobs = [Job(daemon, client, repo).open(f"task {n}") for n in range(SESSIONS)]
        server.wait_requests(1, JOB_S)
        pid = jobs[0].pid("models")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        ends = [job.follow()["data"] for job in jobs]
        assert {end["state"] for end in ends} <= {"done", "failed"}
        refused = [end for end in ends if end["state"] == "failed"]
        assert refused and {end["kind"] for end in refused} == {"budget"}, jobs[0].story()
        days = client.request("usage", by="day", session="")  # two, at midnight
        assert sum(day["calls"] for day in days) == len(server.requests)
        assert all(0 < day["cost_usd"] <= LIMIT and not day["unknown"] for day in days)
        spent = pytest.approx(sum(day["cost_usd"] for day in days))
        [turns] = client.request("usage", by="purpose", session="")
        assert (turns["key"], turns["cost_usd"]) == ("turn", spent)
        by_session = client.request("usage", by="session", session="")
        assert sum(one["cost_usd"] for one in by_session) == spent
        # Another day's limit is in force at once, also for who was refused.
        text = server.config("[budget]\nday_usd = 10.0")
        daemon.instance.config.write_text(text)
        client.request("reload", what="models")
        poor = next(job for job, end in zip(jobs, ends, strict=True) if end in refused)
        client.request("say", session=poor.session, text="go on")
        assert poor.follow()["data"]["state"] == "done", poor.story()
