"""Many agents on a real daemon, and one narrow way to their provider: calls at once, a 429."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from loomd.store.env import Store
from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import Daemon
from tests.system.mainjob import Job, make_repo

pytestmark = pytest.mark.timeout(300)  # as in test_real_model

SESSIONS = 3
ROLES = ("researcher", "coder", "coder", "tester")
AT_ONCE = 4
REFUSED = 8
"""Which request gets the 429."""
PAUSE_S = 2.0
TAKES_S = 0.1
"""Of the server, for an answer."""


class Provider:
    """Each lead is told to spawn a team, the others to look at a folder; then all have done.
    `most`: answers under way at once. `arrived`: when each request did (monotonic seconds)."""

    def __init__(self, server: OpenAIServer) -> None:
        self.most = 0
        self.arrived: list[float] = []
        self._under_way: list[Answer] = []
        server.brain = self.answer

    def answer(self, request: dict[str, Any]) -> Answer:
        self.arrived.append(time.monotonic())
        if len(self.arrived) == REFUSED:
            return Answer(status=429, text="slow down", headers={"retry-after": f"{PAUSE_S:g}"})
        if any(message["role"] == "tool" for message in request["messages"]):
            answer = Answer(text="done")
        elif "You own the outcome" in request["messages"][0]["content"]:
            answer = Answer(calls=[("spawn", {"role": role, "task": "look"}) for role in ROLES])
        else:
            answer = Answer(calls=[("list", {"path": "."})])
        self._under_way = [one for one in self._under_way if not one.release.is_set()] + [answer]
        self.most = max(self.most, len(self._under_way))
        answer.stall_after = 1
        threading.Timer(TAKES_S, answer.release.set).start()
        return answer


def test_many_agents_share_one_way_to_the_provider_and_one_429_is_enough(
    server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    provider = Provider(server)
    daemon = daemons(server.config(f"concurrency = {AT_ONCE}\n"), **KEYS)
    with daemon.client() as client:
        repo = make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})
        jobs = [Job(daemon, client, repo) for _ in range(SESSIONS)]
        for number, job in enumerate(jobs):
            job.open(f"look {number}", tree="shared", answers="nobody")
        for job in jobs:
            assert job.follow()["data"]["state"] == "done", job.story()
            job.check_nothing_is_doubled()
            started = [event for event in job.events if event["type"] == "agent_started"]
            assert len(started) == 1 + len(ROLES)
        told = [event["type"] for job in jobs for event in job.events]
        assert (told.count("model_retry"), told.count("model_cooldown")) == (1, 1)

    assert len(provider.arrived) == 1 + 2 * SESSIONS * (1 + len(ROLES)), "a request too many"
    assert provider.most <= AT_ONCE
    # Only those that were on their way already have arrived before the time that was asked for.
    refused = provider.arrived[REFUSED - 1]
    early = [one for one in provider.arrived[REFUSED:] if one < refused + PAUSE_S]
    assert len(early) < AT_ONCE
    with closing(Store.read_only(daemon.instance.places)) as store:
        rows = [row for _, row in store.rows("ledger", b"")]
    assert len(rows) == len(server.requests)
    assert Counter(row["outcome"] for row in rows)["rate_limited"] == 1
    answered = Counter(row["request"] for row in rows if row["outcome"] != "rate_limited")
    assert set(answered.values()) == {1} and not any(row["lost"] for row in rows)
