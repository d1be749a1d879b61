"""A session whose supervisor gives up, and a daemon that is killed: real SIGKILLs, real clients."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from loomd.store.env import Store
from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import BOUND_S, Client, Daemon, eventually
from tests.system.mainjob import JOB_S, Job, make_repo, opener_env

STRICT = "[supervision]\nintensity = 2\nperiod_s = 60\n"

pytestmark = pytest.mark.timeout(300)  # the import of litellm alone takes 20 s of a busy machine


def note(**data: Any) -> dict[str, Any]:
    return {"t": "note", "data": data}


def spawn(client: Client, name: str) -> None:
    spec = {"name": name, "kind": "echo", "session": name.partition("/")[0]}
    client.request("spawn", spec=spec)
    eventually(lambda: incarnations(client).get(name), what=f"{name} runs")


def incarnations(client: Client) -> dict[str, int]:
    """What runs, and as which incarnation."""
    return {row["name"]: row["incarnation"] for row in client.request("ps") if row["pid"]}


def strike_until_failed(client: Client, session: str, name: str) -> int:
    """SIGKILL to each incarnation of `name`, until supervision gives the session up; how many."""
    killed: set[int] = set()

    def failed() -> bool:
        row = client.request("session", session=session)
        if row["state"] == "failed":
            return True
        for one in client.request("ps", session=session):
            if one["name"] == name and one["pid"] and one["incarnation"] not in killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one["pid"], signal.SIGKILL)
                    killed.add(one["incarnation"])
        return False

    eventually(failed, what=f"{session} given up")
    return len(killed)


def exits(daemon: Daemon) -> list[str]:
    """Whose deaths the root has logged."""
    return [line["name"] for line in log_lines(daemon, "exited")]


def loomctl(daemon: Daemon, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "loomctl", *args],
        env=daemon.instance.environment(**opener_env()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    said, errors = process.communicate(timeout=BOUND_S)
    return process.returncode, said, errors


def test_a_session_beyond_its_intensity_fails_alone_and_is_resumed(
    daemons: Callable[..., Daemon],
) -> None:
    """Two sessions on one daemon; nothing of the other, and no daemon process, is touched."""
    daemon = daemons(STRICT)
    with daemon.client() as client:
        a, b, other = "s-aaaaaa/a", "s-aaaaaa/b", "s-bbbbbb/a"
        for name in (a, b, other):
            spawn(client, name)
        client.request("post", to=a, body=note(op="add", n=1))
        eventually(lambda: (client.request("fetch_state", name=a)["state"] or {}).get("count"))
        before = incarnations(client)
        watcher = loomctl(daemon, "events", "s-aaaaaa", "--follow")
        assert strike_until_failed(client, "s-aaaaaa", a) == 3
        code, said, errors = finished(watcher)
        assert code == 1 and "session failed" in said
        assert "too many restarts" in errors and "loomctl resume s-aaaaaa" in errors
        eventually(lambda: not {a, b} & set(incarnations(client)), what="nobody of it left")
        after = incarnations(client)
        others = {name: n for name, n in before.items() if name not in (a, b)}
        # (One more may have come meanwhile: what is started late, as `watch` is.)
        assert {name: after.get(name) for name in others} == others
        assert set(exits(daemon)) == {a, b}
        row = client.request("session", session="s-aaaaaa")
        assert (row["state"], row["kind"]) == ("failed", "supervision")
        client.request("post", to=b, body=note(op="add", n=1))  # waits

        resumed = loomctl(daemon, "--json", "resume", "s-aaaaaa")
        assert finished(resumed)[:2] == (0, '{"session": "s-aaaaaa", "state": "running"}\n')
        for name in (a, b):
            count = 1 if name == b else 2
            if name == a:
                client.request("post", to=a, body=note(op="add", n=2))
            eventually(
                lambda n=name, c=count: (
                    (client.request("fetch_state", name=n)["state"] or {}).get("count") == c
                ),
                what=f"{name} goes on",
            )
            assert client.request("fetch_state", name=name)["state"]["wrong"] == []
        assert incarnations(client)[other] == before[other]


def log_lines(daemon: Daemon, event: str, name: str = "") -> list[dict[str, Any]]:
    """What the root has logged, of one process or supervisor or of all, oldest first."""
    text = daemon.log.read_text().rpartition("\n")[0]  # it may be writing the last one
    lines = [json.loads(line) for line in text.splitlines() if line[:1] == "{"]
    return [
        line
        for line in lines
        if line.get("event") == event and name in ("", line.get("name"), line.get("supervisor"))
    ]


def started(daemon: Daemon, name: str) -> int:
    """The pid of its incarnation that lives, once that has started."""

    def lives() -> bool:
        born, dead = (len(log_lines(daemon, event, name)) for event in ("started", "exited"))
        return born == dead + 1

    eventually(lives, what=lambda: f"{name} lives\n{daemon.tail(20)}")
    return int(log_lines(daemon, "started", name)[-1]["pid"])


def strike(daemon: Daemon, name: str, deaths: int, number: int = signal.SIGKILL) -> None:
    """Signals so many incarnations of `name`, one after another; the hub is not needed for it."""
    for _ in range(deaths):
        os.kill(started(daemon, name), number)
        n = len(log_lines(daemon, "started", name))
        eventually(lambda n=n: len(log_lines(daemon, "exited", name)) == n, what=f"death {n}")


def burns(daemon: Daemon, name: str) -> None:
    """Waits until the last incarnation of `name` is busy in the step of a mail."""
    process = psutil.Process(started(daemon, name))
    before = process.cpu_times().user
    eventually(lambda: process.cpu_times().user > before + 0.1, what=f"{name} is busy")


def test_a_session_that_gives_up_while_the_hub_is_stopped_or_dead_has_failed(
    daemons: Callable[..., Daemon],
) -> None:
    """The hub is stopped, a session gives up, and its note dies with the hub; then a hub dies in
    the same instant as another session gives up. Each next hub ends that session for its reason,
    starts nobody of it again, and blames what a bystander had in hand once."""
    daemon = daemons(STRICT + "poison_crashes = 2\nheartbeat_s = 60\n")
    with daemon.client() as client:
        one, two, bystander = "s-aaaaaa/a", "s-bbbbbb/a", "s-cccccc/a"
        for name in (one, "s-aaaaaa/b", two, bystander):
            spawn(client, name)
        client.request("post", to=bystander, body=note(op="hang"))
        burns(daemon, bystander)
        hub = started(daemon, "hub")
        os.kill(hub, signal.SIGSTOP)
        strike(daemon, bystander, 1, signal.SIGSEGV)
        strike(daemon, one, 3)
        eventually(lambda: log_lines(daemon, "gave_up", "s-aaaaaa/agents"))
        os.kill(hub, signal.SIGKILL)
        check_failed(daemon, client, one, 3)
        assert client.request("dead", action="list") == [], "blamed twice"

        strike(daemon, two, 2)
        both = [started(daemon, name) for name in ("hub", two)]
        os.kill(daemon.pid, signal.SIGSTOP)
        for pid in both:
            os.kill(pid, signal.SIGKILL)
        os.kill(daemon.pid, signal.SIGCONT)
        check_failed(daemon, client, two, 3)

        burns(daemon, bystander)  # the same mail, which was blamed once: now it is set aside
        strike(daemon, bystander, 1, signal.SIGSEGV)
        (letter,) = eventually(lambda: client.request("dead", action="list"), what="set aside")
        assert (letter["actor"], letter["crashes"]) == (bystander, 2)
        assert client.request("session", session="s-cccccc")["state"] == "running"
        client.request("control", session="s-aaaaaa", op="resume")
        eventually(lambda: {one, "s-aaaaaa/b"} <= set(incarnations(client)), what="resumed")


def check_failed(daemon: Daemon, client: Client, name: str, births: int) -> None:
    """The next hub says so, and has nobody of the session started again."""
    session = name.partition("/")[0]
    eventually(lambda: client.request("session", session=session)["state"] == "failed")
    row = client.request("session", session=session)
    assert row["kind"] == "supervision" and "too many restarts" in row["answer"]
    eventually(lambda: not [n for n in incarnations(client) if n.startswith(session)])
    assert len(log_lines(daemon, "started", name)) == births
    assert len(log_lines(daemon, "gave_up", f"{session}/agents")) == 1


def test_a_killed_daemon_leaves_a_failed_session_failed_and_a_stopped_one_stopped(
    daemons: Callable[..., Daemon],
) -> None:
    """Mail that came meanwhile waits; only `resume` brings the failed one back."""
    daemon = daemons(STRICT)
    with daemon.client() as client:
        a, ended, other = "s-aaaaaa/a", "s-bbbbbb/gone", "s-bbbbbb/a"
        for name in (a, ended, other):
            spawn(client, name)
        strike_until_failed(client, "s-aaaaaa", a)
        client.request("unspawn", name=ended)
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        eventually(lambda: other in incarnations(client), what="the running session goes on")
        assert not {a, ended} & set(incarnations(client))
        assert client.request("session", session="s-aaaaaa")["kind"] == "supervision"
        client.request("post", to=a, body=note(op="add", n=1))
        assert client.request("fetch_state", name=a)["wanted"] == "asleep"
        client.request("control", session="s-aaaaaa", op="resume")
        eventually(lambda: (client.request("fetch_state", name=a)["state"] or {}).get("count"))


def test_run_ends_with_the_reason_and_the_resumed_session_ends_its_work(
    server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    """The lead dies beyond intensity while its model call is out. The answer that comes meanwhile
    is neither lost nor paid for again."""
    stalled = Answer(text="the answer", stall_after=2)
    server.say(stalled)
    daemon = daemons(server.config(STRICT), **KEYS)
    repo = make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})
    with daemon.client() as client:
        runner = loomctl(daemon, "--json", "run", "say something", "--repo", str(repo))
        assert stalled.stalled.wait(JOB_S)
        session = client.request("sessions")[0]["session"]
        strike_until_failed(client, session, f"{session}/lead")
        code, said, _ = finished(runner)
        result = json.loads(said)
        assert (code, result["state"], result["kind"]) == (1, "failed", "supervision")
        assert f"loomctl resume {session}" in result["hint"]
        eventually(lambda: not [n for n in incarnations(client) if n.startswith(session)])
        stalled.release.set()
        lead = f"{session}/lead"
        eventually(
            lambda: next(r for r in client.request("ps", session=session) if r["name"] == lead)[
                "mailbox"
            ],
            what="the answer in the mailbox",
        )
        assert not [name for name in incarnations(client) if name.startswith(session)]
        client.request("control", session=session, op="resume")
        job = Job(daemon, client, repo, session)
        eventually(lambda: job.row()["state"] == "done", what=job.story)
        assert job.row()["answer"] == "the answer"
        assert len(server.requests) == 1
        ends = [e["data"] for e in job.new_events() if e["type"] == "session_ended"]
        assert [(end["state"], end["kind"]) for end in ends] == [
            ("failed", "supervision"),
            ("done", ""),
        ]


def notes(daemon: Daemon, log: str) -> list[str]:
    """Our own words in the log of an agent."""
    with contextlib.closing(Store.read_only(daemon.instance.places)) as store:
        return [entry.text for _, entry in store.entries(log, 1, 10_000) if entry.role == "note"]


def test_after_a_kill_of_the_root_each_agent_is_told_once_and_its_model_reads_it(
    server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    look = Answer(calls=[("list", {"path": "."})])
    stalled = Answer(text="lost", stall_after=2)
    server.say(look, stalled, look, Answer(text="the answer"))
    daemon = daemons(server.config(), **KEYS)
    repo = make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})
    client = daemon.client()
    try:
        job = Job(daemon, client, repo).open("say something")
        assert stalled.stalled.wait(JOB_S)
        lead = f"{job.session}/lead"
        daemon.kill()
        daemon.start()
        job.follow(until=lambda event: event["type"] == "session_ended")
        assert job.row()["answer"] == "the answer", job.story()
        restarts = [e for e in job.events if e["type"] == "daemon_restarted"]
        assert len(restarts) == 1 and lead in restarts[0]["data"]["actors"]
        (told,) = notes(daemon, lead)
        assert "The daemon was restarted at" in told
        read = [
            [m["content"] for m in request["messages"] if "daemon was restarted" in str(m)]
            for request in server.requests
        ]
        assert [len(found) for found in read] == [0, 0, 0, 1]
        eventually(lambda: job.pid(lead) is None, what="the lead asleep")
        daemon.kill()
        daemon.start()
        assert client.request("session", session=job.session)["state"] == "done"
        assert len(notes(daemon, lead)) == 1 and job.pid(lead) is None
    finally:
        client.close()


def test_a_crash_of_one_agent_is_told_to_people_and_not_to_the_agent(
    server: OpenAIServer, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    stalled = Answer(text="the answer", stall_after=2)
    server.say(stalled)
    daemon = daemons(server.config(), **KEYS)
    repo = make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})
    with daemon.client() as client:
        job = Job(daemon, client, repo).open("say something")
        assert stalled.stalled.wait(JOB_S)
        lead = f"{job.session}/lead"
        pid = job.pid(lead)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        job.follow(until=lambda e: e["type"] == "actor_restarted" and e["data"]["name"] == lead)
        stalled.release.set()
        job.follow()
        assert job.row()["state"] == "done"
        assert notes(daemon, lead) == []
