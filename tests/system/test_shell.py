"""Commands of a session on a real daemon, as a model calls them and `loomctl` shows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import Client, Daemon, eventually, processes_naming
from tests.system.mainjob import make_repo, opener_env

pytestmark = pytest.mark.timeout(300)  # the import of litellm alone takes 20 s of a busy machine

CONFIG = """
[review]
required = false
"""


def results(request: dict[str, Any]) -> list[str]:
    return [str(m.get("content") or "") for m in request["messages"] if m["role"] == "tool"]


def shell(command: str, **args: Any) -> Answer:
    return Answer(calls=[("shell", {"command": command, **args})])


def job(**args: Any) -> Answer:
    return Answer(calls=[("job", {"id": "j-1", **args})])


def command(daemon: Daemon, *args: str) -> list[str]:
    return [sys.executable, "-m", "loomctl", *args]


def loomctl(daemon: Daemon, *args: str) -> Any:
    done = subprocess.run(
        command(daemon, "--json", *args),
        env=daemon.instance.environment(**opener_env()),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_session_streams_keeps_its_folder_and_has_a_job_that_outlives_its_agent(
    daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    mark = f"mark-{os.getpid()}-session"
    held = job(action="input", text="from the successor\n", wait_s=10)
    held.stall_after = 0
    script = [
        shell("echo streamed; while ! test -e go; do sleep 0.01; done; cd pkg; export A=kept"),
        shell('pwd; echo "$A"'),
        shell(f"while read line; do echo got $line; done; : {mark}", background=True),
        held,
        Answer(text="done"),
    ]
    with OpenAIServer() as server:
        server.say(*script)
        daemon = daemons(server.config(CONFIG), **KEYS)
        repo = make_repo(tmp_path / "repo", {"pkg/a.py": "x = 1\n"})
        log = tmp_path / "run.log"
        with open(log, "wb") as out:
            run = subprocess.Popen(
                command(daemon, "run", "look around", "--repo", str(repo), "--yes"),
                env=daemon.instance.environment(**opener_env()),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            eventually(lambda: "│ streamed" in log.read_text(), timeout=60, what=log.read_text)
            assert "← " not in log.read_text()
            (repo / "go").touch()
            assert held.stalled.wait(60), log.read_text()
            [session] = [row["session"] for row in loomctl(daemon, "sessions")]
            [shown] = loomctl(daemon, "jobs", session)
            assert (shown["id"], shown["state"]) == ("j-1", "running")
            assert loomctl(daemon, "show", session)["jobs"] == [shown]
            [process] = [p for p in processes_naming(mark) if name_of(p) == "sh"]

            killed = loomctl(daemon, "kill", f"{session}/lead")
            with daemon.client() as client:
                lead = f"{session}/lead"
                eventually(
                    lambda: pid_of(client, lead) not in (None, killed["pid"]),
                    what="a successor of the lead",
                )
            (daemon.instance.config.parent / "tools").mkdir()
            (daemon.instance.config.parent / "tools" / "mine.py").write_text(
                'from loomd.tools import tool\n@tool\ndef mine() -> str:\n    "M."\n    return ""\n'
            )
            assert "mine.py" in loomctl(daemon, "reload", "tools")["loaded"]
            assert process.is_running()
            held.release.set()
            assert run.wait(60) == 0, log.read_text()
        finally:
            run.kill()
            run.wait()
        second, third, fourth = results(server.requests[-1])[1:]
        assert second.startswith(f"{repo}/pkg\nkept\n"), second
        assert third.startswith("[j-1 has begun")
        assert fourth.startswith("got from the successor\n[j-1 runs"), fourth
        text = log.read_text()
        assert "│ got from the successor" in text and "job j-1: while read" in text
        # Jobs end with the session.
        eventually(lambda: not psutil.pid_exists(process.pid), what="the job has ended")
        [over] = loomctl(daemon, "jobs", session)
        assert over["state"] == "stopped"
        assert "got from the successor" not in json.dumps(loomctl_events(daemon, session, "job"))


def test_a_job_ends_with_the_daemon_and_the_next_one_says_so(
    daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    mark = f"mark-{os.getpid()}-daemon"
    held = Answer(text="never said")
    held.stall_after = 0
    with OpenAIServer() as server:
        loop = f"echo printed; setsid sleep 1000 & : {mark}; while :; do sleep 1; done"
        server.say(shell(loop, background=True), held, *[Answer(text="done")] * 3)
        daemon = daemons(server.config(CONFIG), **KEYS)
        repo = make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})
        run = ("run", "wait", "--repo", str(repo), "--yes", "--detach")
        session = loomctl(daemon, *run)["session"]
        assert held.stalled.wait(60)
        eventually(lambda: processes_naming(mark), what="the job")
        shown = eventually(
            lambda: row if (row := loomctl(daemon, "jobs", session, "j-1"))["text"] else None,
            what="its first word",
        )
        assert shown == {"id": "j-1", "state": "running", "text": "printed"}
        daemon.stop()  # nothing is left of it
        assert processes_naming(mark) == []
        daemon.start()
        with daemon.client() as client:
            eventually(
                lambda: client.request("board", session=session, table="jobs")[0]["state"] == "lost"
            )
        assert "died with the tool host" in loomctl(daemon, "jobs", session, "j-1")["text"]

        loomctl(daemon, "stop", session)  # or it would take the answers that are for the next
        held = Answer(text="never said")
        held.stall_after = 0
        server.script.clear()
        server.say(shell("echo to the end; sleep 1000", background=True), held)
        session = loomctl(daemon, *run)["session"]
        assert held.stalled.wait(60)
        eventually(lambda: "to the end" in loomctl(daemon, "jobs", session, "j-1")["text"])
        ended = loomctl(daemon, "jobs", session, "j-1", "--kill")
        assert ended["state"] == "killed" and ended["text"].startswith("to the end\n[ended")
        assert loomctl(daemon, "jobs", session, "j-1")["text"] == ended["text"]
        assert loomctl(daemon, "show", session)["jobs"][0]["state"] == "killed"


def name_of(process: psutil.Process) -> str:
    """ "" of one that is gone."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def pid_of(client: Client, name: str) -> int | None:
    return next((row["pid"] for row in client.request("ps") if row["name"] == name), None)


def loomctl_events(daemon: Daemon, session: str, type: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        command(daemon, "--json", "events", session),
        env=daemon.instance.environment(**opener_env()),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return [event for event in events if event["type"].startswith(type)]
