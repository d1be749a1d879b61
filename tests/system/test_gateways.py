"""Several gateways on a real daemon: calls spread over them; a dead one's are made by another."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

import pytest

from tests.openai_server import Answer, OpenAIServer
from tests.support import Daemon, RequestFailed
from tests.system.mainjob import JOB_S, Job
from tests.system.test_real_model import Made, made

__all__ = ["made"]

pytestmark = pytest.mark.timeout(300)  # as in test_real_model

THREE = 'gateways = 3\nfast = "offline/rules"\n'


def states(daemon: Daemon, job: Job) -> dict[str, str]:
    """gateway -> what `ps` shows of it."""
    rows: list[dict[str, Any]] = job.client.request("ps")
    return {row["name"]: row["state"] for row in rows if row["name"].startswith("gateway")}


def test_calls_spread_and_those_of_a_dead_gateway_are_made_by_another(
    server: OpenAIServer, made: Made
) -> None:
    stalled = [Answer(text=f"answer {n}", stall_after=2) for n in range(3)]
    server.say(*stalled)
    daemon, first = made(models=THREE)
    begun = states(daemon, first)
    assert (begun["gateway-2"], begun["gateway-3"]) == ("asleep", "asleep")
    jobs = [first, Job(daemon, first.client, first.repo), Job(daemon, first.client, first.repo)]
    for job, answer in zip(jobs, stalled, strict=True):
        job.open("say hello", tree="shared")
        assert answer.stalled.wait(JOB_S), job.story()
    assert states(daemon, first) == dict.fromkeys(
        ("gateway-1", "gateway-2", "gateway-3"), "working"
    )

    # One is killed: its successor makes the call again, and nobody else's is touched.
    server.say(Answer(text="again"))
    assert first.kill("gateway-2")
    assert stalled[1].gone.wait(JOB_S)
    jobs[1].follow()
    assert jobs[1].row()["answer"] == "again", jobs[1].story()
    assert len(server.requests) == 4
    [usage] = first.client.request("usage", by="session", session=jobs[1].session)
    assert usage["calls"] == 2 and usage["cost_usd"] is None

    # One does not come back, since nobody can fork it: another makes its call.
    server.say(Answer(text="by another"))
    first.client.request("kill", name="template-litellm", signal=signal.SIGSTOP)
    assert first.kill("gateway-3")
    jobs[2].follow()
    with contextlib.suppress(RequestFailed):  # it was hung, and is being replaced
        first.client.request("kill", name="template-litellm", signal=signal.SIGCONT)
    assert jobs[2].row()["answer"] == "by another", jobs[2].story()
    taken = [event["data"] for event in jobs[2].events if event["type"] == "model_taken_back"]
    assert [(one["gateway"], one["lost"]) for one in taken] == [("gateway-3", 1)]
    assert len(server.requests) == 5
    assert states(daemon, first)["gateway-3"] == "asleep"

    stalled[0].release.set()
    first.follow()
    assert first.row()["answer"] == "answer 0", first.story()
    assert len(server.requests) == 5


def test_the_last_gateway_is_waited_for(server: OpenAIServer, made: Made) -> None:
    """Nobody else could make its calls."""
    stalled = Answer(text="lost", stall_after=2)
    server.say(stalled, Answer(text="here"))
    daemon, job = made(models="gateways = 1\n")
    assert list(states(daemon, job)) == ["gateway-1"]
    job.open("say hello")
    assert stalled.stalled.wait(JOB_S)
    assert job.client.request("child", call="terminate", id="gateway-1")["result"] == "ok"
    assert stalled.gone.wait(JOB_S)
    job.follow()
    assert job.row()["answer"] == "here", job.story()
