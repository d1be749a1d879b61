"""What models write and no schema foresees, in whole sessions: what is mended is acted on, shown;
what is not goes back to the model, and ends as `malformed`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import Daemon
from tests.system.mainjob import Job, make_repo

pytestmark = pytest.mark.timeout(300)  # the import of litellm alone takes 20 s of a busy machine


@pytest.fixture
def jobs(
    server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path
) -> Iterator[Callable[[str], Job]]:
    """Sessions on one daemon, whose provider is asked for whole answers."""
    config = server.config().replace("[providers.openai]", "[providers.openai]\nstream = false")
    daemon = daemons(config, **KEYS)
    client = daemon.client()
    repo = make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})

    def job(goal: str) -> Job:
        made = Job(daemon, client, repo).open(goal, team=1)
        made.follow()
        return made

    yield job
    client.close()


def results(request: dict[str, Any]) -> list[str]:
    return [str(m.get("content")) for m in request["messages"] if m["role"] == "tool"]


def brain(request: dict[str, Any]) -> Answer:
    goal = next(str(m["content"]) for m in request["messages"] if m["role"] == "user")
    done = results(request)
    if "mend" in goal:
        answers = (
            Answer(calls=[("functions.Read", "{'path': 'a.py',}")], finish="stop"),
            Answer(text='<tool_call>\n{"name": "list", "arguments": {"path": "."}}\n</tool_call>'),
            Answer(text=f"It says {done[0] if done else ''}"),
        )
        return answers[len(done)]
    wrong = ('{"path": ', '{"path" "a.py"}', '["a.py"]')
    return Answer(calls=[("read", wrong[len(done) % 3])])


def test_what_models_write(server: OpenAIServer, jobs: Callable[[str], Job]) -> None:
    server.brain = brain
    mended = jobs("mend what you get")
    assert mended.row()["state"] == "done", mended.story()
    assert "x = 1" in mended.row()["answer"]
    assert {request["stream"] for request in server.requests} == {False}
    told = [e["data"].get("repairs") for e in mended.events if e["type"] == "model_outcome"]
    kinds = [[(one["kind"], one["call"]) for one in repairs or []] for repairs in told]
    assert kinds == [
        [("finish", 0), ("quotes", 1), ("commas", 1), ("namespace", 1)],
        [("written", 1)],
        [],
    ]
    calls = [e["data"]["name"] for e in mended.events if e["type"] == "tool_call"]
    assert calls == ["read", "list"]
    plain = subprocess.run(
        [sys.executable, "-m", "loomctl.cli", "events", mended.session],
        env=mended.daemon.instance.environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "mended: finish; quotes (call 1); commas (call 1); namespace (call 1)" in plain

    failed = jobs("fail")
    row = failed.row()
    assert (row["state"], row["kind"]) == ("failed", "malformed"), failed.story()
    errors = [e["data"]["text"] for e in failed.events if e["type"] == "tool_result"]
    for error, said in zip(
        errors[:3],
        ("the text ends where a value should be", "the colon after the key", "are a list"),
        strict=True,
    ):
        assert said in error
    [first] = [e["data"] for e in failed.events if e["type"] == "recovery"][:1]
    assert first["rung"] == "parameters" and "3 times in a row" in first["reason"]
    third = [e["seq"] for e in failed.events if e["type"] == "tool_result"][2]
    assert third < next(e["seq"] for e in failed.events if e["type"] == "recovery")
    asked = [request for request in server.requests if str(request).count("mend what") == 0]
    said_back = [result.removeprefix("error: ") for result in results(asked[2])]
    assert said_back == errors[:2]
