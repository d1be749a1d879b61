"""The recovery ladder on a real daemon: real SIGSEGVs, a real provider, what people are shown."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import BOUND_S, Client, Daemon, eventually
from tests.system.mainjob import JOB_S, Job, make_repo, opener_env

LADDER = """
[models.fallback]
"openai/gpt-5-mini" = ["openai/gpt-4o-mini"]
[supervision]
intensity = 1000
period_s = 1
[recovery]
restart = [1, 600]
parameters = [1, {parameters_s}]
conversation = [1, 600]
"""

pytestmark = pytest.mark.timeout(300)  # the import of litellm alone takes 20 s of a busy machine


def fault(client: Client, name: str, seen: set[int]) -> None:
    """SIGSEGV to the next incarnation of an actor, as a fault of its own would be: not by us."""

    def struck() -> bool:
        for row in client.request("ps"):
            idle = row["state"] not in ("starting", "restarting")
            if row["name"] == name and row["pid"] and idle and row["incarnation"] not in seen:
                seen.add(row["incarnation"])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(row["pid"], signal.SIGSEGV)
                return True
        return False

    eventually(struck, what=f"{name} to be struck")
    eventually(
        lambda: all(r["incarnation"] not in seen for r in client.request("ps") if r["name"] == name
                    and r["pid"]), what=f"{name} to be gone",
    )  # fmt: skip


def loomctl(daemon: Daemon, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "loomctl", *args],
        env=daemon.instance.environment(**opener_env()),
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=True,
    )
    return done.stdout


def moves(job: Job) -> list[tuple[str, str]]:
    job.new_events()
    return [(e["data"]["from"], e["data"]["rung"]) for e in job.events if e["type"] == "recovery"]


def asked(server: OpenAIServer, n: int) -> tuple[str, list[str]]:
    """The model and the words of people and ours in request `n`."""
    request = server.requests[n]
    words = [str(m["content"]) for m in request["messages"] if m["role"] == "user"]
    return request["model"], words


def test_an_agent_that_crashes_again_and_again_climbs_and_its_session_fails_at_the_end(
    server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    stalls = [Answer(calls=[("list", {"path": "."})], stall_after=1) for _ in range(3)]
    server.say(stalls[0])
    config = server.config(LADDER.format(parameters_s=600))
    daemon = daemons(config, **KEYS)
    repo = make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})
    with daemon.client() as client:
        job = Job(daemon, client, repo).open("say something")
        lead, seen = f"{job.session}/lead", set[int]()
        assert stalls[0].stalled.wait(JOB_S)
        fault(client, lead, seen)
        fault(client, lead, seen)
        eventually(lambda: moves(job) == [("restart", "parameters")], what=job.story)
        assert len(server.requests) == 1, "what is out is not asked for again"

        server.say(stalls[1])
        stalls[0].release.set()
        assert stalls[1].stalled.wait(JOB_S), job.story()
        model, words = asked(server, 1)
        assert server.requests[0]["model"] == "gpt-5-mini" and model == "gpt-4o-mini"
        assert words[0] == "say something"

        server.say(stalls[2])
        fault(client, lead, seen)
        assert stalls[2].stalled.wait(JOB_S), job.story()
        assert stalls[1].gone.wait(JOB_S), "the request of the old conversation is cancelled"
        model, words = asked(server, 2)
        assert model == "gpt-4o-mini"
        assert words[0] == "say something" and "restarted from its task" in words[1]
        assert [m["role"] for m in server.requests[2]["messages"]] == ["system", "user", "user"]

        shown = json.loads(loomctl(daemon, "--json", "show", job.session))
        assert [one["rung"] for one in shown["recoveries"]] == ["parameters", "conversation"]
        assert all("SIGSEGV" in one["reason"] for one in shown["recoveries"])
        row = next(one for one in shown["agents"] if one["name"] == lead)
        assert row["recovery"] == "conversation"
        text = loomctl(daemon, "show", job.session)
        assert "recoveries" in text and "parameters" in text and "SIGSEGV" in text
        assert "conversation" in loomctl(daemon, "ps", job.session)

        fault(client, lead, seen)
        ended = job.follow()
        assert (ended["data"]["state"], ended["data"]["kind"]) == ("failed", "supervision")
        assert "gave up" in job.row()["answer"]
        assert moves(job)[-1] == ("conversation", "give_up")
        ends = [e for e in job.events if e["type"] == "actor_ended" and e["data"]["name"] == lead]
        assert len(ends) == 1
        claims = client.request("board", session=job.session, table="claims")
        assert all(claim["state"] == "released" for claim in claims)
        eventually(lambda: job.pid(lead) is None, what="nobody comes back")
        server.say(Answer(text="the answer"))
        client.request("say", session=job.session, text="once more")  # with a new lead
        job.follow(until=lambda event: event["type"] == "session_ended")
        assert job.row()["state"] == "done", job.story()


def test_a_rung_that_has_held_is_left_again(
    server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    stalls = [Answer(calls=[("list", {"path": "."})], stall_after=1) for _ in range(2)]
    server.say(*stalls)
    config = server.config(LADDER.format(parameters_s=0.05))
    daemon = daemons(config, **KEYS)
    repo = make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})
    with daemon.client() as client:
        job = Job(daemon, client, repo).open("say something")
        lead, seen = f"{job.session}/lead", set[int]()
        assert stalls[0].stalled.wait(JOB_S)
        fault(client, lead, seen)
        fault(client, lead, seen)
        eventually(lambda: ("restart", "parameters") in moves(job), what=job.story)
        server.brain = lambda request: answer_until(request, "gpt-5-mini")
        stalls[0].release.set()
        stalls[1].release.set()
        job.follow()
        assert job.row()["state"] == "done", job.story()
        assert moves(job) == [("restart", "parameters"), ("parameters", "restart")]
        assert server.requests[-1]["model"] == "gpt-5-mini"


def answer_until(request: dict[str, Any], model: str) -> Answer:
    """Goes on with one call after another until it is asked as `model` again."""
    results = sum(m["role"] == "tool" for m in request["messages"])
    if request["model"] == model:
        return Answer(text="the answer")
    return Answer(calls=[("glob", {"pattern": f"*{results}"})])


def test_another_agent_gets_the_task_of_one_that_was_given_up(
    server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    """The lead's `spawn` is answered when its coder is given up, with the claim free again; it
    decides, and assigns the task to another."""
    stalled = Answer(text="never said", stall_after=1)
    coders: list[Answer] = [
        Answer(calls=[("claim", {"path": "a.py"})]),
        stalled,
        Answer(calls=[("claim", {"path": "a.py"})]),
        Answer(text="did it"),
    ]

    def brain(request: dict[str, Any]) -> Answer:
        if "coder" in str(request["messages"][0]["content"]).splitlines()[0]:
            return coders.pop(0)
        results = [str(m["content"]) for m in request["messages"] if m["role"] == "tool"]
        if results and "did it" in results[-1]:
            return Answer(text="done by another")
        spawn = ("spawn", {"role": "coder", "task": f"attempt {len(results) + 1}"})
        return Answer(calls=[spawn])

    server.brain = brain
    rungs = "restart = [0, 60]\nparameters = [0, 60]\nconversation = [0, 60]\n"
    more = f"[supervision]\nintensity = 1000\nperiod_s = 1\n[recovery]\n{rungs}"
    daemon = daemons(server.config(more), **KEYS)
    repo = make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})
    with daemon.client() as client:
        job = Job(daemon, client, repo).open("say something")
        assert stalled.stalled.wait(JOB_S), job.story()
        fault(client, f"{job.session}/coder-1", set())
        job.follow()
        row = job.row()
        assert (row["state"], row["answer"]) == ("done", "done by another"), job.story()
        told = [e["data"] for e in job.events if e["type"] == "tool_result"]
        assert any("gave up" in one["text"] and one["name"] == "spawn" for one in told)
        owners = {t["owner"].rpartition("/")[2]: t["state"] for t in row["tasks"]}
        assert owners["coder-1"] == "failed" and owners["coder-2"] == "done"
