"""Permissions on a real daemon: rules, questions, answers, trust and the record, by `loomctl`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import Client, Daemon, eventually
from tests.system.mainjob import JOB_S, make_repo

pytestmark = pytest.mark.timeout(300)  # the import of litellm alone takes 20 s of a busy machine

CONFIG = """
[permissions]
allow = ["shell(echo *)"]
deny = ["read(**/.env)", "shell(curl *)"]
[review]
required = false
"""


def brain(request: dict[str, Any]) -> Answer:
    """Makes the calls that the goal lists, one after the other; then says what came of them."""
    results = [str(m.get("content")) for m in request["messages"] if m["role"] == "tool"]
    [goal] = [str(m["content"]) for m in request["messages"] if m["role"] == "user"][:1]
    calls = json.loads(goal[goal.index("[[") : goal.rindex("]]") + 2])
    if len(results) < len(calls):
        return Answer(calls=[tuple(calls[len(results)])])
    return Answer(text=" | ".join(results))


def goal(*calls: tuple[str, dict[str, Any]]) -> str:
    return json.dumps([list(call) for call in calls])


def shell(command: str) -> tuple[str, dict[str, Any]]:
    return "shell", {"command": command}


class Stand:
    def __init__(self, daemon: Daemon, client: Client, repo: Path) -> None:
        self.daemon = daemon
        self.client = client
        self.repo = repo

    def loomctl(self, *args: str, code: int = 0) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "loomctl", "--json", *args],
            env=self.daemon.instance.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=JOB_S,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return lines[0] if len(lines) == 1 else lines

    def open(self, *calls: tuple[str, dict[str, Any]], **more: Any) -> str:
        args = {"repo": str(self.repo), "goal": goal(*calls), "team": 1, "yes": False,
                "env": {"PATH": os.environ["PATH"]}, **more}  # fmt: skip
        return str(self.client.request("open_session", **args)["session"])

    def question(self, session: str) -> dict[str, Any]:
        [row] = eventually(
            lambda: self.client.request("waiting", session=session),
            JOB_S,  # the first call of a model starts a gateway
            what=lambda: self.story(session),
        )
        assert isinstance(row, dict)
        return row

    def story(self, session: str) -> str:
        events = self.client.request("events", session=session)["events"]
        return "\n".join(f"{e['type']} {json.dumps(e['data'])[:300]}" for e in events)

    def answer(self, session: str) -> str:
        row = eventually(
            lambda: (
                row
                if (row := self.client.request("session", session=session))["state"]
                in ("done", "failed")
                else None
            ),
            JOB_S,
            what=lambda: self.story(session),
        )
        return str(row["answer"])


@pytest.fixture
def stand(daemons: Callable[..., Daemon], tmp_path: Path) -> Iterator[Stand]:
    with OpenAIServer(brain) as server:
        daemon = daemons(server.config(CONFIG), **KEYS)
        client = daemon.client()
        try:
            yield Stand(
                daemon, client, make_repo(tmp_path / "repo", {"a.py": "x = 1\n", ".env": "S"})
            )
        finally:
            client.close()


def test_rules_questions_answers_and_the_record(stand: Stand) -> None:
    (stand.repo / "notes").symlink_to(".env")
    first = stand.open(
        shell("echo one"), shell("curl x"), ("read", {"path": "notes"}), shell("rm -rf ~"),
        shell("true && date -u +two"), shell("git reset --hard"),
    )  # fmt: skip
    asked = stand.question(first)
    assert asked["rules"] == ["shell(date -u +two)"]
    stand.loomctl("approve", asked["id"], "--for", "always")
    late = stand.loomctl("deny", asked["id"], code=2)
    assert "answered already, by loomctl" in late["error"]["message"]
    again = eventually(lambda: (q := stand.question(first))["id"] != asked["id"] and q)
    wrong = stand.loomctl("approve", again["id"], "--for", "session", code=2)
    assert "once" in wrong["error"]["hint"]
    stand.loomctl("deny", again["id"], "--reason", "not today")
    said = stand.answer(first).split(" | ")
    assert said[0].startswith("one") and said[4].startswith("two"), said
    assert "shell(curl *)" in said[1] and "read(**/.env)" in said[2]
    assert "permission denied" in said[3] and "not today" in said[5]

    record = stand.loomctl("permissions", "log", first)
    shown = [(r["verdict"], r["rule"], r["answer"], r["by"][:7]) for r in record]
    assert shown == [
        ("allow", "shell(echo *)", "", ""),
        ("deny", "shell(curl *)", "", ""),
        ("allow", "", "", ""),
        ("deny", "read(**/.env)", "", ""),
        ("deny", "[rm-root]", "", ""),
        ("ask", "", "allow", "loomctl"),
        ("ask", "[git-destructive]", "deny", "loomctl"),
    ]
    assert record[5]["saved"] == ["shell(date -u +two)"] and record[5]["scope"] == "always"

    # Another session knows what was saved, until it is taken back; so does one that runs.
    second = stand.open(*(shell(f"date -u +{word}") for word in ("two", "three", "two", "four")))
    asked = stand.question(second)
    assert asked["rules"] == ["shell(date -u +three)"]
    listed = stand.loomctl("permissions", "list", "--repo", str(stand.repo))
    [saved] = [rule for rule in listed["rules"] if rule["source"] == "saved"]
    assert saved["rule"] == "shell(date -u +two)"
    tried = stand.loomctl("permissions", "test", "date -u +two", "--repo", str(stand.repo))
    assert (tried["verdict"], tried["source"]) == ("allow", "saved")
    stand.loomctl("permissions", "remove", saved["id"])
    stand.loomctl("approve", asked["id"])
    asked = eventually(lambda: (q := stand.question(second))["id"] != asked["id"] and q)
    assert asked["rules"] == ["shell(date -u +two)"]
    stand.loomctl("approve", asked["id"], "--for", "session")
    last = eventually(lambda: (q := stand.question(second))["id"] != asked["id"] and q)
    live = stand.loomctl("permissions", "test", "date -u +two", "--session", second)
    assert (live["verdict"], live["source"]) == ("allow", "session")
    stand.loomctl("approve", last["id"])
    assert "three" in stand.answer(second)


def test_a_run_where_nobody_can_answer_is_denied_and_ends(stand: Stand) -> None:
    ran = stand.loomctl(
        "run", goal(shell("date"), ("ask", {"question": "which?"})), "--repo", str(stand.repo),
        "--team", "1",
    )  # fmt: skip
    assert "nobody is there" in ran["answer"] and "under [permissions]" in ran["answer"]
    assert ran["answer"].count("nobody is there") == 2
    ran = stand.loomctl("run", goal(shell("date +ok")), "--repo", str(stand.repo), "--yes")
    assert ran["answer"].startswith("ok")


def test_a_changed_configuration_is_in_force_for_the_next_call(stand: Stand) -> None:
    session = stand.open(
        shell("date +one"), ("read", {"path": "a.py"}), ("write", {"path": "new", "content": "x"})
    )
    stand.question(session)
    config = stand.daemon.instance.config
    text = config.read_text()
    text = text.replace('"shell(echo *)"', '"shell(date *)"').replace("**/.env", "a.py")
    config.write_text(text.replace("[review]", 'sandbox = "read-only"\n[review]'))
    said = stand.loomctl("reload", "config")
    assert said["restart_needed"] == [] and said["errors"] == []
    first, second, third = stand.answer(session).split(" | ")
    assert first.startswith("one") and "deny rule of your configuration" in second
    assert "`read-only`" in third
    listed = stand.loomctl("permissions", "list", "--repo", str(stand.repo))
    assert "read(a.py)" in [rule["rule"] for rule in listed["rules"]]


def test_a_project_tightens_at_once_and_loosens_only_while_it_is_trusted(stand: Stand) -> None:
    folder = stand.repo / ".loom"
    folder.mkdir()
    config = folder / "config.toml"
    config.write_text('[permissions]\nallow = ["shell(date *)"]\ndeny = ["shell(echo no*)"]\n')
    at = ("--repo", str(stand.repo))

    def verdict(command: str) -> tuple[str, str]:
        found = stand.loomctl("permissions", "test", command, *at)
        return found["verdict"], found["source"]

    assert verdict("echo no") == ("deny", "project") and verdict("date") == ("ask", "mode")
    listed = stand.loomctl("permissions", "list", *at)
    assert (listed["ignored"], listed["trusted"]) == (["permissions.allow"], False)
    session = stand.open(shell("echo no"), answers="nobody")
    assert "shell(echo no*) " not in stand.answer(session)
    types = [event["type"] for event in stand.loomctl("events", session)]
    assert "project_untrusted" in types

    trusted = stand.loomctl("trust", str(stand.repo))
    assert trusted["trusted"] and [f["path"] for f in trusted["files"]] == [".loom/config.toml"]
    assert verdict("date") == ("allow", "project") and verdict("echo no") == ("deny", "project")
    session = stand.open(shell("date +fine"), answers="nobody")
    assert stand.answer(session).startswith("fine")

    (folder / "tools").mkdir()
    (folder / "tools" / "x.py").write_text("")  # any file: what was trusted is not this
    assert verdict("date") == ("ask", "mode")
    assert stand.loomctl("trust", str(stand.repo), "--status")["changed"]
    assert stand.loomctl("trust", str(stand.repo))["trusted"]
    assert verdict("date") == ("allow", "project")
    stand.loomctl("trust", str(stand.repo), "--revoke")
    assert verdict("date") == ("ask", "mode")

    config.write_text('[permissions]\nallow = "x"\n')
    wrong = stand.loomctl("permissions", "list", *at, code=8)
    assert "config.toml:2: permissions.allow" in wrong["error"]["message"]
    wrong = stand.loomctl("run", "x", *at, code=8)
    assert "config.toml:2" in wrong["error"]["message"]
