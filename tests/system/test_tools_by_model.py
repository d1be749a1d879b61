"""Every built-in tool called by a model, over litellm and HTTP, in one session on a real daemon."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import Daemon
from tests.system.mainjob import Job, make_repo

pytestmark = pytest.mark.timeout(300)  # the import of litellm alone takes 20 s of a busy machine

CONFIG = """
[review]
required = false
[limits]
iterations = 60
[tools]
web_fetch = true
web_private = ["127.0.0.1"]
"""

FILES = {
    "a.py": "def f():\n    return 1\n\n\nclass A:\n    def g(self):\n        return f()\n",
    "w.txt": "one\r\ntwo\r\n",
    "bad.json": '{"a": 1,}\n',
    ".gitignore": "*.log\n",
    "x.log": "def f\n",
}

PATCH = """*** Begin Patch
*** Add File: new/c.py
+C = 1
*** Update File: a.py
@@ class A:
     def g(self):
-        return f()
+        return f() + 1
*** Delete File: bad.json
*** End Patch"""


def calls(base: str) -> list[tuple[str, dict[str, Any], str]]:
    """(tool, arguments, what its result must hold)."""
    return [
        ("todo", {"items": ["[>] look", "change"]}, "[>] look\n[ ] change\n(0 of 2 done)"),
        (
            "read",
            {"path": "a.py", "limit": 2},
            "     1\tdef f():\n     2\t    return 1\n[lines 1-2",
        ),
        ("list", {}, "a.py"),
        ("tree", {}, "(4 files)"),
        ("glob", {"pattern": "*.py"}, "a.py"),
        ("grep", {"pattern": r"def \w\("}, "a.py:1:def f():"),
        ("outline", {"path": "a.py"}, "5-7: class A\n  6-7: def g(self)"),
        ("diagnostics", {"path": "bad.json"}, "bad.json:1:9: error:"),
        ("edit", {"path": "w.txt", "old": "two\n", "new": "2\n"}, "applied"),
        ("write", {"path": "b.py", "content": "B = 1\n"}, "applied"),
        ("apply_patch", {"patch": PATCH}, "applied"),
        ("apply_patch", {"patch": PATCH}, "exists already"),
        ("git", {"args": "status --short"}, "?? b.py"),
        ("git", {"args": "add -A"}, "[no output]"),
        ("git", {"args": "commit -m 'by a model'"}, "by a model"),
        ("write", {"path": "b.py", "content": "lost\n"}, "applied"),
        ("git", {"args": "reset --hard"}, "git stash apply refs/loom/snapshots/"),
        ("git", {"args": "push --force"}, "network"),
        ("web_fetch", {"url": f"{base.removesuffix('/v1')}/requests"}, "gpt-5-mini"),
        ("ask_user", {"question": "go on?", "options": ["yes", "no"]}, "yes"),
        ("todo", {}, "[>] look"),
    ]


def test_every_tool_is_called_by_a_model(
    server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    wanted = calls(server.base_url)

    def brain(request: dict[str, Any]) -> Answer:
        done = sum(1 for message in request["messages"] if message["role"] == "tool")
        if done >= len(wanted):
            return Answer(text="all called")
        name, args, _ = wanted[done]
        return Answer(calls=[(name, args)])

    server.brain = brain
    daemon = daemons(server.config(CONFIG), **KEYS)
    with daemon.client() as client:
        job = Job(daemon, client, make_repo(tmp_path / "repo", FILES))
        subprocess.run(["git", "config", "user.email", "me@localhost"], cwd=job.repo, check=True)
        job.open("call them all", yes=True)

        def answer(event: dict[str, Any]) -> None:
            if event["type"] == "question_asked":
                client.request("decide", id=event["data"]["id"], allow=True, scope="once", text="1")

        job.follow(answer)
        row = job.row()
    assert row["state"] == "done", job.story()
    results = [m["content"] for m in server.requests[-1]["messages"] if m["role"] == "tool"]
    wrong = [
        (name, args, said)
        for (name, args, text), said in zip(wanted, results, strict=True)
        if text not in said
    ]
    assert wrong == []
    assert (job.repo / "w.txt").read_bytes() == b"one\r\n2\r\n"
    assert (job.repo / "b.py").read_text() == "B = 1\n"
    log = ["git", "log", "-1", "--format=%s %ae"]
    said = subprocess.run(log, cwd=job.repo, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "by a model me@localhost"
