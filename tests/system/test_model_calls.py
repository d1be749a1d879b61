"""Calls of models on a real daemon, as people see them: phases, streams, cost, keys, recordings."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.openai_server import KEY, Answer, OpenAIServer
from tests.support import Daemon, eventually
from tests.system.mainjob import GOAL, JOB_S, SOURCES, Job, make_repo
from tests.system.test_real_model import Made, made

__all__ = ["made"]

pytestmark = pytest.mark.timeout(300)  # as in test_real_model

TEXT = "hello there my friend"


def loomctl(daemon: Daemon, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "loomctl", *args],
        env=daemon.instance.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )


def said(daemon: Daemon, *args: str) -> Any:
    """What a verb says with --json."""
    with loomctl(daemon, *args, "--json") as process:
        out, _ = process.communicate(timeout=JOB_S)
    return json.loads(out)


def followed(daemon: Daemon, session: str) -> Iterator[dict[str, Any]]:
    """The deltas that a client sees that attaches now."""
    process = loomctl(daemon, "events", session, "--follow", "--deltas", "--json")
    assert process.stdout is not None
    try:
        for line in process.stdout:
            shown = json.loads(line)
            if shown.get("type") == "delta":
                yield shown
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_a_client_that_comes_in_the_middle_has_all_of_it_and_a_cancelled_call_is_paid(
    server: OpenAIServer, made: Made
) -> None:
    first, second = Answer(text=TEXT, stall_after=4), Answer(text=TEXT, stall_after=4)
    server.say(first, second)
    daemon, job = made()
    job.open("say hello")
    assert first.stalled.wait(JOB_S)

    def shown() -> list[str]:
        return [
            row["waiting_for"]
            for row in said(daemon, "ps", job.session)
            if row["name"] == f"{job.session}/lead"
        ]

    eventually(lambda: shown()[0].startswith("rest of the answer, "), what=lambda: str(shown()))
    [row] = [one for one in said(daemon, "sessions") if one["session"] == job.session]
    assert row["calling"].startswith("rest of the answer, ") and row["state"] == "running"
    text = ""
    for delta in followed(daemon, job.session):
        assert (delta["offset"], delta["kind"]) == (len(text), "text")
        text += delta["text"]
        first.release.set()
        if len(text) >= len(TEXT):
            break
    assert text == TEXT
    job.follow()
    assert job.row()["answer"] == TEXT

    other = Job(daemon, job.client, job.repo)
    other.open("say hello again")
    assert second.stalled.wait(JOB_S)
    other.client.request("control", session=other.session, op="cancel")
    assert second.gone.wait(JOB_S)
    other.follow()
    [paid] = eventually(lambda: other.client.request("usage", by="session", session=other.session))
    assert paid["input_tokens"] > 0 and paid["cost_usd"] > 0

    [model] = said(daemon, "models")
    assert (model["model"], model["key"]) == ("openai/gpt-5-mini", "env TEST_PROVIDER_KEY")
    assert KEY not in json.dumps(model)
    server.say(Answer(text="ready"))
    [checked] = said(daemon, "models", "--check")
    assert checked["check"]["ok"] and checked["check"]["cost_usd"] > 0
    asked, slow = len(server.requests), Answer(text="ready", stall_after=1)
    server.say(slow)
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(said, daemon, "models", "--check")
        assert slow.stalled.wait(JOB_S)
        assert job.kill("hub")
        slow.release.set()
        [checked] = again.result()
    assert checked["check"]["ok"] and len(server.requests) == asked + 1, "asked and paid once"
    [paid] = [row for row in said(daemon, "usage", "--by", "purpose") if row["key"] == "check"]
    assert paid["calls"] == 2 and paid["cost_usd"] == 2 * checked["check"]["cost_usd"]
    daemon.instance.config.write_text(server.config("[budget]\nday_usd = 0.0"))
    said(daemon, "reload", "all")
    [checked] = said(daemon, "models", "--check")
    assert checked["check"]["kind"] == "budget" and len(server.requests) == asked + 1


def cancelled(daemon: Daemon, agent: str) -> dict[str, Any]:
    """The row of the ledger of this agent's cancelled call."""

    def found() -> list[dict[str, Any]]:
        rows = said(daemon, "usage", agent.partition("/")[0], "--attempts")
        return [one for one in rows if one["agent"] == agent and one["outcome"] == "cancelled"]

    [row] = eventually(found, JOB_S)
    assert row["cost_usd"] > 0 and row["input_tokens"] > 0 and row["output_tokens"] > 0
    return row


def test_whoever_cancels_ends_the_call_and_pays_for_it_and_who_only_looks_does_not(
    server: OpenAIServer, made: Made
) -> None:
    stalled = [Answer(text=TEXT, stall_after=4) for _ in range(4)]
    of_coder, of_run, of_lead, watched = stalled

    def brain(request: dict[str, Any]) -> Answer:
        if request["messages"][-1]["role"] == "tool":
            return Answer(text=request["messages"][-1]["content"])
        if "coder" in request["messages"][0]["content"].splitlines()[0]:
            return of_coder
        return Answer(calls=[("spawn", {"role": "coder", "task": "write it"})])

    server.brain = brain
    daemon, job = made()
    job.open("have it written")
    assert of_coder.stalled.wait(JOB_S), job.story()
    coder = f"{job.session}/coder-1"
    assert said(daemon, "cancel", coder)["session"] == job.session
    assert of_coder.gone.wait(JOB_S)
    job.follow()
    assert "cancelled by the user" in job.row()["answer"], job.story()
    assert job.row()["state"] == "done"
    cancelled(daemon, coder)
    assert said(daemon, "cancel", f"{job.session}/tools")["error"]["code"] == "not_found"

    # An agent that is terminated wants no answer any more.
    server.say(of_lead)
    other = Job(daemon, job.client, job.repo).open("say hello")
    assert of_lead.stalled.wait(JOB_S), other.story()
    assert said(daemon, "child", "terminate", f"{other.session}/lead")["result"] == "ok"
    assert of_lead.gone.wait(JOB_S)
    cancelled(daemon, f"{other.session}/lead")

    # Who waits for a session that it has opened, and is interrupted, stops it.
    server.say(of_run)
    with loomctl(daemon, "run", "say hello", "--repo", str(job.repo), "--json") as run:
        assert of_run.stalled.wait(JOB_S)
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=JOB_S)
    assert run.returncode == 130 and json.loads(out)["error"]["code"] == "interrupted"
    assert of_run.gone.is_set() or of_run.gone.wait(JOB_S)
    newest = said(daemon, "sessions")[-1]
    assert newest["state"] == "stopped"
    cancelled(daemon, f"{newest['session']}/lead")

    # Who looks on, or goes away without a word, does not.
    server.say(watched)
    with loomctl(daemon, "run", "say hello", "--repo", str(job.repo), "--json") as run:
        assert watched.stalled.wait(JOB_S)
        session = said(daemon, "sessions")[-1]["session"]
        with loomctl(daemon, "events", session, "--follow", "--json") as looking:
            assert looking.stdout is not None and looking.stdout.readline()
            looking.send_signal(signal.SIGINT)
            looking.communicate(timeout=JOB_S)
        assert looking.returncode == 130
        run.send_signal(signal.SIGHUP)
        run.communicate(timeout=JOB_S)
    watched.release.set()
    eventually(lambda: said(daemon, "show", session)["state"] == "done", JOB_S, pause=0.1)
    assert said(daemon, "show", session)["answer"] == TEXT and not watched.gone.is_set()
    rows = [row for row in said(daemon, "usage", "--attempts") if not row["lost"]]
    assert len(rows) == len(server.requests)


def test_a_key_is_nowhere_after_all_that_may_go_wrong(server: OpenAIServer, made: Made) -> None:
    stalled = Answer(text=TEXT, stall_after=1)
    server.say(
        Answer(status=500, text=f"a proxy that repeats: authorization: Bearer {KEY}"),
        Answer(body=f"<html>{KEY}</html>", content_type="text/html", status=502),
        stalled,
    )
    server.brain = lambda request: Answer(status=401, text=f"Incorrect API key provided: {KEY}")
    daemon, job = made()
    job.open("say hello")
    assert stalled.stalled.wait(JOB_S)
    assert job.kill("gateway-1")
    job.follow()
    assert job.row()["kind"] == "auth", job.story()
    assert len(server.requests) >= 4 and server.requests[0]["_authorization"] == f"Bearer {KEY}"

    canary = KEY.encode()
    assert KEY not in json.dumps([job.events, job.row()])
    for process in [psutil.Process(daemon.pid), *daemon.children()]:
        for name in ("environ", "cmdline"):
            with contextlib.suppress(
                FileNotFoundError, ProcessLookupError
            ):  # it has ended meanwhile
                raw = Path(f"/proc/{process.pid}/{name}").read_bytes()
                assert canary not in raw, f"{name} of {process.pid}"
    searched = 0
    for folder, _, names in os.walk(daemon.instance.base):
        for name in names:
            path = Path(folder) / name
            if path.is_file():
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    assert canary not in path.read_bytes(), path
                    searched += 1
    assert searched > 3


def test_a_recorded_session_runs_again_without_its_model(
    daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = daemons()
    file = tmp_path / "recording.jsonl"
    with daemon.client() as client:
        first = Job(daemon, client, make_repo(tmp_path / "one"))
        first.open(GOAL)
        first.follow()
        recorded = said(daemon, "record", first.session, str(file))
        assert recorded["answers"] > 5 and recorded["failed"] == 0
        more = SOURCES | {"NOTES.txt": "of parse_cfg\n"}  # so that what tools say differs
        again = Job(daemon, client, make_repo(tmp_path / "two", more))
        again.open(GOAL, model=f"replay/{file}")
        again.follow()
        again.check_done()
        answers = [e["data"] for e in again.events if e["type"] == "model_outcome"]
        assert "note" not in answers[0], "the lead was asked the same"
        assert any("to other words" in one.get("note", "") for one in answers), again.story()
        assert again.row()["answer"] == first.row()["answer"]
        other = Job(daemon, client, make_repo(tmp_path / "three"))
        other.open("find the uses of both", model=f"replay/{file}")
        other.follow()
        assert other.row()["state"] == "failed", other.story()
        [usage] = client.request("usage", by="session", session=again.session)
        assert usage["cost_usd"] == 0.0
