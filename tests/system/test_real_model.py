"""Whole sessions on a real daemon with a real provider: litellm, HTTP, streams, on this machine."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.openai_server import KEY, KEYS, Answer, OpenAIServer
from tests.support import Daemon, eventually
from tests.system.mainjob import JOB_S, Job, make_repo

pytestmark = pytest.mark.timeout(300)  # the import of litellm alone takes 20 s of a busy machine

Made = Callable[..., tuple[Daemon, Job]]


@pytest.fixture
def made(server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path) -> Iterator[Made]:
    clients = []

    def make(more: str = "", models: str = "", **env: str) -> tuple[Daemon, Job]:
        daemon = daemons(server.config(more, models), **KEYS, **env)
        clients.append(daemon.client())
        return daemon, Job(daemon, clients[-1], make_repo(tmp_path / "repo", {"a.py": "x = 1\n"}))

    yield make
    for client in clients:
        client.close()


def said(request: dict[str, Any], role: str) -> list[str]:
    return [str(m.get("content") or "") for m in request["messages"] if m["role"] == role]


def brain(request: dict[str, Any]) -> Answer:
    """A team of two: the lead edits one line, the reviewer approves whatever it is shown."""
    results = said(request, "tool")
    if "reviewer" in said(request, "system")[0].splitlines()[0]:
        shown = [re.search(r"Review request (\S+)", text) for text in said(request, "user")]
        edits = [match[1] for match in shown if match]
        if len(results) >= len(edits):
            return Answer(text="done")
        review = {"edit": edits[-1], "verdict": "approve", "reason": "right"}
        return Answer(calls=[("review", review)])
    if not results:
        return Answer(
            text="I set x.", calls=[("edit", {"path": "a.py", "old": "x = 1", "new": "x = 2"})]
        )
    return Answer(text=f"x is 2 now; the tool said: {results[-1][:40]}")


def test_a_session_with_a_model_edits_is_reviewed_and_is_accounted_for(
    server: OpenAIServer, made: Made
) -> None:
    server.brain = brain
    _, job = made()
    job.open("set x to 2")
    job.follow()
    row = job.row()
    assert row["state"] == "done", job.story()
    assert "x is 2 now" in row["answer"]
    assert (job.repo / "a.py").read_text() == "x = 2\n"
    tools = {tool["function"]["name"] for tool in server.requests[0]["tools"]}
    assert {"read", "edit", "spawn", "decide"} <= tools
    assert all(t["function"]["parameters"]["properties"] for t in server.requests[0]["tools"])
    assert {one["_authorization"] for one in server.requests} == {f"Bearer {KEY}"}
    [usage] = job.client.request("usage", by="session", session=job.session)
    assert usage["calls"] == len(server.requests)
    assert usage["input_tokens"] == 100 * len(server.requests)
    assert usage["cost_usd"] > 0


def test_a_role_of_the_user_is_in_force_and_a_broken_one_is_said(
    server: OpenAIServer, made: Made
) -> None:
    def poetry(request: dict[str, Any]) -> Answer:
        if "the poet" in said(request, "system")[0]:
            return Answer(text="roses are red")
        if results := said(request, "tool"):
            return Answer(text=f"the poet says: {results[-1]}")
        return Answer(calls=[("spawn", {"role": "poet", "task": "a poem"})])

    server.brain = poetry
    daemon, job = made()
    roles = daemon.instance.config.parent / "roles"
    roles.mkdir()
    front = 'tools = ["read"]\nmodel = "openai/gpt-5"\n'
    (roles / "poet.md").write_text(f"+++\n{front}+++\nWrite verse only.\n")
    (roles / "lead.md").write_text("+++\ntols = 1\n+++\nBe brief.\n")
    job.open("a poem, please")
    job.follow()
    assert job.row()["answer"] == "the poet says: roses are red", job.story()
    [asked] = [one for one in server.requests if "the poet" in said(one, "system")[0]]
    assert "Write verse only." in said(asked, "system")[0] and asked["model"] == "gpt-5"
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["read"]
    [broken] = [event["data"] for event in job.events if event["type"] == "role_broken"]
    assert broken["role"] == "lead" and "tols" in broken["error"]
    assert "Be brief" not in said(server.requests[0], "system")[0]


def test_a_provider_key_is_in_no_environment(server: OpenAIServer, made: Made) -> None:
    stalled = Answer(text="hello there", stall_after=1)
    server.say(stalled)
    daemon, job = made()
    job.open("say hello")
    assert stalled.stalled.wait(JOB_S)
    looked = 0
    for process in [psutil.Process(daemon.pid), *daemon.children()]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            raw = Path(f"/proc/{process.pid}/environ").read_bytes()
            looked += bool(raw)
            assert KEY.encode() not in raw, str(process)
    assert looked > 3
    stalled.release.set()
    job.follow()


@pytest.mark.parametrize("victim", ["lead", "models", "hub", "template", "team"])
def test_whoever_dies_during_a_call_it_is_paid_once(
    server: OpenAIServer, made: Made, victim: str
) -> None:
    stalled = Answer(text="the answer", stall_after=2)
    server.say(stalled)
    _, job = made()
    job.open("say something")
    assert stalled.stalled.wait(JOB_S)
    name = f"{job.session}/{victim}" if victim in ("lead", "team") else victim
    before = job.pid(name)
    assert job.kill(name)
    eventually(lambda: job.pid(name) not in (None, before), what=f"{name} again")
    stalled.release.set()
    job.follow()
    assert job.row()["state"] == "done" and job.row()["answer"] == "the answer", job.story()
    assert len(server.requests) == 1
    [usage] = job.client.request("usage", by="session", session=job.session)
    assert usage["calls"] == 1


def test_a_killed_gateway_asks_once_more_and_its_lost_call_is_in_the_ledger(
    server: OpenAIServer, made: Made
) -> None:
    stalled = Answer(text="the answer", stall_after=2)
    server.say(stalled, Answer(text="the second answer"))
    _, job = made()
    job.open("say something")
    assert stalled.stalled.wait(JOB_S)
    assert job.kill("gateway-1")
    job.follow()
    assert job.row()["answer"] == "the second answer", job.story()
    assert len(server.requests) == 2
    assert stalled.gone.wait(JOB_S)
    [usage] = job.client.request("usage", by="session", session=job.session)
    assert usage["calls"] == 2 and usage["cost_usd"] is None  # what was lost is not known


def test_an_error_of_the_provider_is_tried_again_and_said(server: OpenAIServer, made: Made) -> None:
    server.say(
        Answer(status=502, body="<html>Bad gateway</html>"),
        Answer(text="half an", cut_after=2),
        Answer(text="the answer"),
    )
    _, job = made()
    job.open("say something")
    job.follow()
    assert job.row()["answer"] == "the answer", job.story()
    retries = [e["data"]["kind"] for e in job.events if e["type"] == "model_retry"]
    assert retries == ["overloaded", "network"]


def test_a_wrong_key_ends_the_session_with_its_reason(server: OpenAIServer, made: Made) -> None:
    server.say(Answer(status=401, text="Incorrect API key provided"))
    _, job = made()
    job.open("say something")
    ended = job.follow()
    assert ended["data"]["state"] == "failed", ended
    assert "Incorrect API key" in job.row()["answer"], job.row()
    assert len(server.requests) == 1


def test_a_budget_ends_the_session_before_the_money_is_spent(
    server: OpenAIServer, made: Made
) -> None:
    _, job = made("[budget]\nsession_usd = 0.00001")
    job.open("say something")
    ended = job.follow()
    assert (ended["data"]["state"], ended["data"]["kind"]) == ("failed", "budget"), ended
    assert server.requests == []  # its price was known before the first call
    assert job.client.request("usage", by="session", session=job.session) == []


def test_a_model_named_for_one_session_needs_no_configuration_of_models(
    server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    server.say(Answer(text="the answer"))
    daemon = daemons(f'[providers.mine]\napi_base = "{server.base_url}"\n')
    with daemon.client() as client:
        job = Job(daemon, client, make_repo(tmp_path / "repo", {"a.py": "x = 1\n"}))
        job.open("say something", model="mine/llama")
        job.follow()
        assert job.row()["answer"] == "the answer", job.story()


@pytest.mark.parametrize("op", ["stop", "cancel"])
def test_a_stopped_session_closes_its_connection_and_stays_stopped(
    server: OpenAIServer, made: Made, op: str
) -> None:
    stalled = Answer(text="the answer", stall_after=2)
    server.say(stalled)
    _, job = made()
    job.open("say something")
    assert stalled.stalled.wait(JOB_S)
    job.client.request("control", session=job.session, op=op)
    assert stalled.gone.wait(JOB_S), job.story()
    job.follow()
    assert job.row()["state"] in ("stopped", "failed"), job.row()
    eventually(lambda: job.pid(f"{job.session}/lead") is None, what="the lead asleep")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("point", "asked", "calls"),
    [
        # steps of models: 1 Init, 2 the request, 3 the report
        ("host.before_step@models:2", 1, 1),
        ("host.after_step@models:2", 1, 1),
        ("host.after_commit@models:2", 1, 1),
        ("host.after_step@models:3", 1, 1),
        ("host.after_commit@models:3", 1, 1),
        # the gateway as the victim: what it had begun is asked once more
        ("host.after_step@gateway-1:2", 1, 1),  # its effect is not yet opened
        ("gateway.before_call", 1, 2),  # may have been paid for, as far as anybody can know
        ("gateway.after_call", 2, 2),
        ("host.after_commit@gateway-1:3", 1, 1),  # told to models and to the asker already
    ],
)
def test_a_crash_at_any_instant_of_a_call_repeats_it_only_if_the_gateway_was_in_it(
    server: OpenAIServer, made: Made, tmp_path: Path, point: str, asked: int, calls: int
) -> None:
    server.brain = lambda request: Answer(text="the answer")
    crashes = tmp_path / "crashes"
    crashes.mkdir()
    _, job = made(LOOM_CRASH_AT=point, LOOM_CRASH_DIR=str(crashes))
    job.open("say something")
    job.follow()
    assert job.row()["answer"] == "the answer", job.story()
    passages = [file.stat().st_size for file in crashes.iterdir()]
    assert passages and passages[0] >= int(point.partition(":")[2] or 1), "the point was not passed"
    assert len(server.requests) == asked
    eventually(
        lambda: (
            [u["calls"] for u in job.client.request("usage", by="session", session=job.session)]
            == [calls]
        ),
        what=lambda: str(job.client.request("usage", by="session", session=job.session)),
    )
