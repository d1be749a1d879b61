"""The main job on a real daemon, as `loomctl` users run it."""

import contextlib
import json
import subprocess
import sys

import pytest

from loomd.store.env import Store
from tests.support import Daemon
from tests.system.mainjob import (
    QUICK,
    RENAMED,
    SOURCES,
    Job,
    contents,
    make_repo,
    opener_env,
)

RUN_S = 110


def loomctl(instance, *args, code=0, **env):
    """Runs `loomctl --json ARGS`; the value, after checking the exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "loomctl", "--json", *args],
        env=instance.environment(**{**opener_env(), **env}),
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


@pytest.fixture
def repo(tmp_path):
    return make_repo(tmp_path / "repo")


def test_run_renames_reviews_reports_and_exits_0(daemon: Daemon, repo):
    result = loomctl(
        daemon.instance, "run", "rename parse_cfg to parse_config", "--repo", str(repo), "--yes"
    )
    assert result["state"] == "done"
    assert sorted(result["files_changed"]) == sorted(RENAMED)
    assert contents(repo, RENAMED) == RENAMED
    diff = subprocess.run(
        ["git", "diff"], cwd=repo, capture_output=True, text=True, check=True
    ).stdout
    changed = [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in (
        "+++", "---")]  # fmt: skip
    assert [line for line in result["diff"].splitlines() if line[:1] in "+-" and line[:3] not in (
        "+++", "---")] == changed  # fmt: skip
    assert result["usage"]["calls"] > 0 and result["usage"]["cost_usd"] == 0.0
    roles = {name.partition("/")[2].partition("-")[0] for name in result["agents"]}
    assert {"lead", "researcher", "coder", "reviewer"} <= roles
    assert result["duration_s"] > 0
    session = result["session"]

    graph = loomctl(daemon.instance, "graph", session)
    assert {"goal", "decision"} <= {node["type"] for node in graph if node.get("kind") == "node"}
    edits = loomctl(daemon.instance, "edits", session)
    assert {edit["state"] for edit in edits} == {"applied"}
    assert all(edit["reviewer"] and edit["reviewer"] != edit["author"] for edit in edits)
    assert {task["state"] for task in loomctl(daemon.instance, "tasks", session)} == {"done"}
    assert all(c["state"] == "released" for c in loomctl(daemon.instance, "claims", session))


def test_the_tests_of_the_repo_run_before_and_after(daemon: Daemon, repo):
    with daemon.client() as client:
        job = Job(daemon, client, repo).open()
        job.follow()
        job.check_done()
        answer = job.row()["answer"]
    shells = [e for e in job.events if e["type"] == "tool_call" and e["data"]["name"] == "shell"]
    assert len([e for e in shells if "pytest" in e["data"]["args"]["command"]]) >= 2
    assert "passed" in answer


def test_uses_and_outline_change_nothing(daemon: Daemon, repo):
    uses = loomctl(
        daemon.instance, "run", "find the uses of parse_cfg", "--repo", str(repo), "--yes"
    )
    assert uses["state"] == "done" and uses["files_changed"] == [] and uses["diff"] == ""
    assert "conf/parser.py:1" in uses["answer"] and "conf/use.py" in uses["answer"]
    outline = loomctl(daemon.instance, "run", "outline conf/use.py", "--repo", str(repo), "--yes")
    assert outline["state"] == "done" and "both" in outline["answer"]
    with daemon.client() as client:
        job = Job(daemon, client, repo, session=uses["session"])
        job.follow()
        loomctl(daemon.instance, "send", job.session, "thanks, that helped")
        job.follow()
        assert "reply" in [event["type"] for event in job.events]
        row = job.row()
    assert (row["state"], row["answer"]) == ("done", uses["answer"])
    assert "It knows: `rename" in row["hint"]
    assert contents(repo, SOURCES) == SOURCES


@pytest.mark.parametrize(
    ("goal", "kind", "told"),
    [
        ("make me a sandwich", "unknown_goal", "rename"),
        ("put [/bold] into :warning: \x1b[2J", "unknown_goal", "[/bold]"),
        ("rename parse_cfg to 2fast", "bad_goal", "identifier"),
        ("rename parse_cfg to class", "bad_goal", "keyword"),
        ("rename nowhere_to_be_found to other", "", "nowhere_to_be_found"),
        ("rename parse_cfg to both", "", "both"),
    ],
)
def test_a_goal_that_cannot_be_done_says_why_and_changes_nothing(
    daemon: Daemon, repo, goal, kind, told
):
    result = loomctl(daemon.instance, "run", goal, "--repo", str(repo), "--yes", code=1)
    assert result["state"] == "failed"
    if kind:
        assert result["kind"] == kind
    assert told in result["answer"]
    assert contents(repo, SOURCES) == SOURCES
    seen = subprocess.run(
        [sys.executable, "-m", "loomctl", "show", result["session"]],
        env=daemon.instance.environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert goal.replace("\x1b", "␛") in seen, "a goal is no markup and no escape sequence"


def test_a_repo_that_is_not_there_is_a_usage_error(daemon: Daemon, tmp_path):
    error = loomctl(daemon.instance, "run", "outline x.py", "--repo", str(tmp_path / "no"), code=2)
    assert error["error"]["code"] == "usage" and "does not exist" in error["error"]["message"]


def test_a_late_client_and_a_killed_one_see_the_same_log(daemon: Daemon, repo):
    args = [sys.executable, "-m", "loomctl", "--json"]
    env = daemon.instance.environment(**opener_env())
    with daemon.client() as client:
        job = Job(daemon, client, repo).open()
        follow = subprocess.Popen(
            [*args, "events", job.session, "--follow"], env=env, stdout=subprocess.PIPE, text=True
        )
        killed = subprocess.Popen(
            [*args, "events", job.session, "--follow"], env=env, stdout=subprocess.PIPE, text=True
        )
        assert killed.stdout is not None and follow.stdout is not None
        first = json.loads(killed.stdout.readline())
        killed.kill()
        killed.wait()
        killed.stdout.close()
        job.follow()
        live = []
        for line in follow.stdout:
            live.append(json.loads(line))
            if live[-1]["type"] == "session_ended":
                break
        follow.kill()
        follow.wait()
        follow.stdout.close()
        late = subprocess.run(
            [*args, "events", job.session], env=env, capture_output=True, text=True, check=True
        )
        told = [json.loads(line) for line in late.stdout.splitlines()]
    assert live == told[: len(live)]
    assert first == told[0]
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))


def test_what_was_said_comes_back_byte_for_byte_from_the_keepers(daemon: Daemon, repo):
    with daemon.client() as client:
        job = Job(daemon, client, repo).open()
        job.follow()
    session = job.session
    keepers = loomctl(daemon.instance, "keepers", session)
    assert keepers, "every ended agent's conversation goes to a keeper"
    found = loomctl(daemon.instance, "recall", session, "parse_cfg")
    assert found["hits"] and all(hit["text"] for hit in found["hits"])
    one = keepers[0]
    assert one["entries"] == one["last"] - one["first"] + 1 and one["bytes"] > 0
    exact = loomctl(
        daemon.instance, "recall", session, "--exact", f"{one['id']}:{one['first']}-{one['last']}"
    )
    assert [hit["entry"] for hit in exact["hits"]] == list(range(one["first"], one["last"] + 1))


def test_a_session_waits_for_permission_and_goes_on_when_it_is_given(daemon: Daemon, repo):
    with daemon.client() as client:
        job = Job(daemon, client, repo).open(yes=False)
        decided = []

        def decide(event):
            if event["type"] == "permission_asked":
                waiting = loomctl(daemon.instance, "waiting")
                assert event["data"]["id"] in {one["id"] for one in waiting}
                decided.append(loomctl(daemon.instance, "approve", event["data"]["id"]))
                again = loomctl(daemon.instance, "approve", event["data"]["id"], code=2)
                assert again["error"]["code"] == "bad_state"

        def on_event(event):
            if event["type"] == "permission_asked":
                assert job.row()["state"] == "waiting"
            decide(event)

        job.follow(on_event)
        assert decided, "running the tests asks for permission"
        job.check_done()


ENDLESS = QUICK["pytest.py"] + (
    "import time\n"
    "while hasattr(test_conf, 'parse_config'):\n"
    "    time.sleep(0.1)\n"
)  # fmt: skip
"""A runner that does not come to its end once the rename is done: nor does the session."""


def test_a_session_that_was_stopped_keeps_its_log_and_goes_on_when_spoken_to(
    daemon: Daemon, tmp_path
):
    repo = make_repo(tmp_path / "repo", QUICK | {"pytest.py": ENDLESS})
    with daemon.client() as client:
        job = Job(daemon, client, repo).open()
        job.follow(until=lambda event: event["type"] == "claim_granted")
        stopped = loomctl(daemon.instance, "stop", job.session)
        assert stopped["session"] == job.session
        job.follow()
        assert job.row()["state"] == "stopped"
        loomctl(daemon.instance, "send", job.session, "find the uses of parse_cfg")
        job.follow()
        assert job.row()["state"] == "done", job.story()


def test_a_users_tool_is_reloaded_hot_and_a_broken_file_changes_nothing(daemon: Daemon, repo):
    tools = daemon.instance.config.parent / "tools"
    tools.mkdir()
    (tools / "mine.py").write_text(
        "from loomd.tools import Context, tool\n\n\n"
        '@tool(access="read")\n'
        "def version(ctx: Context) -> str:\n"
        '    """The version of this tool."""\n'
        '    return "one"\n'
    )
    with daemon.client() as client:
        job = Job(daemon, client, repo).open(goal="")
        loomctl(daemon.instance, "send", job.session, "outline conf/use.py")
        job.follow()
        loaded = loomctl(daemon.instance, "reload", "tools")
        assert loaded["errors"] == []
        first = loaded["generation"]
        (tools / "mine.py").write_text("def broken(:\n")
        broken = loomctl(daemon.instance, "reload", "tools", code=1)
        assert broken["generation"] == first
        assert "mine" in broken["errors"][0]["module"]


def test_the_projects_rules_reach_every_agent(daemon: Daemon, tmp_path):
    repo = make_repo(tmp_path / "repo", {**SOURCES, "AGENTS.md": "Tabs are forbidden here.\n"})
    with daemon.client() as client:
        job = Job(daemon, client, repo).open(goal="outline conf/use.py")
        job.follow()
        assert job.row()["state"] == "done"
    with contextlib.closing(Store.read_only(daemon.instance.places)) as store:
        row = store.actor(f"{job.session}/lead")
    assert row is not None and "Tabs are forbidden here." in row["spec"]["args"]["rules"]
