"""The team's own tools in a session with a real model's protocol, while their actors are killed."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import Client, Daemon
from tests.system.mainjob import Job, make_repo

pytestmark = pytest.mark.timeout(300)

CONFIG = """
[limits]
session_calls = 2
"""


def said(request: dict[str, Any], role: str) -> list[str]:
    return [str(m.get("content") or "") for m in request["messages"] if m["role"] == role]


def edit(old: str, new: str) -> tuple[str, dict[str, Any]]:
    return "edit", {"path": "a.py", "old": old, "new": new}


LEAD = [
    [
        ("revise_plan", {"steps": ["look around", "write it up"], "reason": "to begin with"}),
        ("vote", {"title": "tabs?", "options": ["yes", "no"], "choice": "no"}),
        # Three edits of one file in one turn: each is made from what the one before has left.
        edit("x = 1", "x = 2"),
        edit("x = 2", "x = 3"),
        edit("x = 3", "x = 4"),
    ],
    [("assign", {"task": "t-2", "to": "researcher"})],
    [("ask", {"question": "what is x?", "to": "researcher-1"})],
    [
        (
            "propose",
            {
                "changes": [
                    {"path": "a.py", "old": "x = 4", "new": "x = 5"},
                    {"path": "b.py", "content": "y = 1\n"},
                ],
                "reason": "both or none",
            },
        ),
        ("offload", {"title": "the beginning", "keep": 1}),
    ],
]
"""What the lead calls, turn by turn."""


class Team:
    """The model. It kills an actor of the session with each request that it gets."""

    def __init__(self) -> None:
        self.session = ""
        self.client: Client | None = None
        self.victims = ["team", "tools", "lead", "team", "reviewer", "team", "researcher-1"]
        self.lock = threading.Lock()

    def kill(self) -> None:
        """The next victim, wherever it is in what it does."""
        if not self.victims or self.client is None:
            return
        name = f"{self.session}/{self.victims.pop(0)}"
        for row in self.client.request("ps", session=self.session):
            if row["name"] == name and row["pid"]:
                with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                    psutil.Process(row["pid"]).send_signal(signal.SIGKILL)

    def __call__(self, request: dict[str, Any]) -> Answer:
        with self.lock:  # agents ask at the same time, and the client is for one at a time
            self.kill()
        role = said(request, "system")[0].splitlines()[0]
        heard = "\n".join(said(request, "user"))
        if "reviewer" in role:
            return self.reviewer(request, heard)
        if "researcher" in role:
            return self.researcher(request, heard)
        made = sum(1 for m in request["messages"] for _ in m.get("tool_calls") or ())
        turns = sum(1 for m in request["messages"] if m.get("tool_calls"))
        if "offload" in {call["function"]["name"] for m in request["messages"]
                         for call in m.get("tool_calls") or ()}:  # fmt: skip
            return Answer(text=f"x is 5, after {made} calls")
        return Answer(calls=LEAD[turns])

    def reviewer(self, request: dict[str, Any], heard: str) -> Answer:
        edits = re.findall(r"Review request (\S+)", heard)
        judged = [
            re.search(r'"edit": ?"(\S+?)"', call["function"]["arguments"])
            for message in request["messages"]
            for call in message.get("tool_calls") or ()
        ]
        done = {match[1] for match in judged if match}
        left = [one for one in edits if one not in done]
        if not left:
            return Answer(text="done")
        verdict = {"verdict": "approve", "reason": "right"}
        return Answer(calls=[("review", {"edit": one, **verdict}) for one in left])

    def researcher(self, request: dict[str, Any], heard: str) -> Answer:
        asked = re.search(r"Question (\S+) by lead", heard)
        if asked is None:
            # It is asked meanwhile, whenever that is; the same call again would be refused.
            waited = len(said(request, "tool"))
            return Answer(calls=[("shell", {"command": f"sleep 0.2; : {waited}"})])
        if not any("has your answer" in text for text in said(request, "tool")):
            return Answer(calls=[("answer", {"question": asked[1], "text": "x is 4"})])
        return Answer(text="looked around")


def test_the_teams_tools_do_what_they_say_once_whoever_is_killed(
    daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    team = Team()
    with OpenAIServer(team) as server:
        daemon = daemons(server.config(CONFIG), **KEYS)
        client = daemon.client()
        try:
            job = Job(daemon, client, make_repo(tmp_path / "repo", {"a.py": "x = 1\n"}))
            job.open("make x five")
            team.session, team.client = job.session, daemon.client()
            job.follow()
            row = job.row()
            assert row["state"] == "done" and row["answer"].startswith("x is 5"), job.story()
            assert (job.repo / "a.py").read_text() == "x = 5\n", job.story()
            assert (job.repo / "b.py").read_text() == "y = 1\n"
            assert team.victims == [], "each of them has been killed"
            check(job)
        finally:
            client.close()
            if team.client is not None:
                team.client.close()


def check(job: Job) -> None:
    """Each effect once: on the boards, in the graph, in the log."""
    counts = Counter(event["type"] for event in job.events)
    assert counts["plan_revised"] == counts["vote_opened"] == counts["vote_closed"] == 1
    assert counts["task_assigned"] == counts["question_asked"] == counts["question_answered"] == 1
    tasks = {t["id"]: t for t in job.client.request("board", session=job.session, table="tasks")}
    assert [(tasks[id]["state"], tasks[id]["by"]) for id in ("t-2", "t-3")] == [
        ("done", f"{job.session}/lead"),
        ("cancelled", ""),
    ]
    graph = job.client.request("board", session=job.session, table="decisions")
    titles = Counter(node["title"].partition(":")[0] for node in graph if node["kind"] == "node")
    assert titles["plan, version 1"] == titles["v-1"] == 1
    edits = job.client.request("board", session=job.session, table="edits")
    assert [(one["tool"], one["state"]) for one in edits] == [
        *[("edit", "applied")] * 3,
        ("propose", "applied"),
    ], job.story()
    keepers = job.client.request("board", session=job.session, table="keepers")
    assert [one for one in keepers if one["title"] == "the beginning"], keepers
    results = [event["data"] for event in job.events if event["type"] == "tool_result"]
    answer = next(one for one in results if one["name"] == "ask")
    assert (answer["ok"], answer["text"]) == (True, "x is 4"), answer
    assert all(one["ok"] for one in results), results
