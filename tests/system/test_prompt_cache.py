"""What a provider may keep of an agent's prompt: seen by a server, told in the ledger."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.test_caching import marks, plain
from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import Daemon
from tests.system.mainjob import JOB_S, Job, make_repo

pytestmark = pytest.mark.timeout(300)  # the import of litellm alone takes 20 s of a busy machine

CLAUDE = "anthropic/claude-sonnet-4-5"
TURNS = 3
READ = {  # by the two dialects: one counts what came from the cache within the input, one beside it
    "prompt_tokens": 1000,
    "completion_tokens": 10,
    "total_tokens": 1010,
    "prompt_tokens_details": {"cached_tokens": 750},
}
NAMED = {
    "input_tokens": 100,
    "cache_read_input_tokens": 800,
    "cache_creation_input_tokens": 100,
    "output_tokens": 10,
}


def turn(n: int, request: dict[str, Any], **more: Any) -> Answer:
    usage = NAMED if "system" in request else READ
    if n < TURNS:
        return Answer(
            calls=[("grep", {"pattern": f"x{n}"})], ids=f"c{n}_{{n}}", usage=usage, **more
        )
    return Answer(text="done", usage=usage)


def test_turns_of_an_agent_begin_with_the_same_bytes_and_the_share_is_told(
    server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    root = server.base_url.removesuffix("/v1")
    text = server.config(
        f'[providers.anthropic]\napi_base = "{root}"\napi_key_env = "TEST_PROVIDER_KEY"\n'
    )
    daemon = daemons(text, **KEYS)
    repo = make_repo(tmp_path / "repo", {"a.py": "x1 = 1\n", "AGENTS.md": "Use tabs.\n"})
    counted = {"n": 0}

    def brain(request: dict[str, Any]) -> Answer:
        counted["n"] += 1
        return turn(counted["n"], request)

    server.brain = brain
    with daemon.client() as client:
        for model, share in (("", 0.75), (CLAUDE, 0.8)):
            counted["n"], before = 0, len(server.requests)
            job = Job(daemon, client, repo).open("look for x", model=model, team=1)
            server.wait_requests(before + 1, JOB_S)
            pid = job.pid(f"{job.session}/lead")
            if pid is not None:
                os.kill(pid, signal.SIGKILL)  # its successor's view is the same
            assert job.follow()["data"]["state"] == "done", job.story()
            requests = server.requests[before:]
            assert len(requests) == TURNS
            assert marks(requests[0]) == (3 if model else 0)
            for one, then in itertools.pairwise(requests):
                sent = [plain(one[key]) for key in ("tools", "system") if key in one]
                again = [plain(then[key]) for key in ("tools", "system") if key in then]
                assert json.dumps(sent) == json.dumps(again)
                first, second = plain(one["messages"]), plain(then["messages"])
                assert json.dumps(second[: len(first)]) == json.dumps(first)
                assert len(second) > len(first)
                assert marks(then) == (4 if model else 0)
            for by in ("session", "agent", "model", "purpose", "day"):
                [row] = [
                    row
                    for row in client.request("usage", by=by, session=job.session)
                    if row["cached_tokens"]
                ]
                assert row["cached_share"] == share and row["calls"] == TURNS
                assert row["cost_usd"] is not None and row["unknown"] == 0
            rows = client.request("attempts", session=job.session)
            assert [row["input_tokens"] for row in rows] == [1000] * TURNS
            assert {row["cached_tokens"] for row in rows} == {1000 * share}
            assert {row["cache_write_tokens"] for row in rows} == {100 if model else 0}
    shown = subprocess.run(
        [sys.executable, "-m", "loomctl", "usage", "--by", "model"],
        env=daemon.instance.environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=JOB_S,
    )
    assert " 0.75 " in shown.stdout and " 0.8 " in shown.stdout, shown
