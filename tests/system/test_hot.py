"""What is saved is in force: tools, roles, settings of models; on a real daemon that watches."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import Daemon, eventually
from tests.system.mainjob import Job, make_repo, strike

PATIENCE_S = 100.0
"""Of the first call: on a busy machine litellm takes its time to be imported."""

pytestmark = pytest.mark.timeout(400)

TOOL = '''
from loomd.tools import Context, tool

@tool
def version(ctx: Context{more}) -> str:
    """Tells its version."""
    ctx.state["calls"] = ctx.state.get("calls", 0) + 1
    return "{version} " + str(ctx.state["calls"])
'''


def loomctl(daemon: Daemon, *args: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "loomctl", "--json", *args],
        env=daemon.instance.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, (args, done.stdout, done.stderr)
    return json.loads(done.stdout)


def save(path: Path, text: str) -> None:
    """As most editors do it: a new file, renamed into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    os.rename(new, path)


def tool(version: str, more: str = "") -> str:
    return TOOL.replace("{version}", version).replace("{more}", more)


@pytest.fixture
def home(daemons: Callable[..., Daemon], server: OpenAIServer) -> Daemon:
    return daemons(server.config(), **KEYS)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", {"a.py": "x = 1\n"})


def schema(request: dict[str, Any], name: str) -> dict[str, Any]:
    found = [one["function"] for one in request["tools"] if one["function"]["name"] == name]
    return found[0]["parameters"]["properties"] if found else {"": "is not offered"}


def system(request: dict[str, Any]) -> str:
    return str(next(one["content"] for one in request["messages"] if one["role"] == "system"))


def results(request: dict[str, Any]) -> list[str]:
    return [str(one["content"]) for one in request["messages"] if one["role"] == "tool"]


def waiting_for(type: str) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["type"] == type


def test_what_is_saved_reaches_the_next_request_and_what_is_under_way_ends_as_it_began(
    home: Daemon, server: OpenAIServer, repo: Path
) -> None:
    folder = home.instance.config.parent
    save(folder / "tools" / "mine.py", tool("one"))
    call = [("version", {})]
    loud = [("version", {"loud": True})]  # the same call a third time would not be made
    second, third = Answer(calls=call, stall_after=1), Answer(calls=loud, stall_after=1)
    server.say(Answer(calls=call), second, third)
    with home.client() as client, OpenAIServer() as other:
        other.say(Answer(text="from the other server"))
        job = Job(home, client, repo).open("tell the version")

        assert second.stalled.wait(PATIENCE_S), (
            job.story()
        )  # its request was made with what was in force before
        assert schema(server.requests[0], "version") == {}
        assert results(server.requests[1]) == ["one 1"]
        save(folder / "tools" / "mine.py", tool("two", ", loud: bool = False"))
        told = job.follow(until=waiting_for("tools_reloaded"))
        assert told["data"] == {"generation": 2, "changed": ["mine.py"]}
        save(folder / "roles" / "lead.md", '+++\nmodel = "openai/gpt-5"\n+++\nBe hot.\n')
        assert job.follow(until=waiting_for("roles_reloaded"))["data"]["changed"] == ["lead"]
        second.release.set()

        assert third.stalled.wait(PATIENCE_S), job.story()
        assert results(server.requests[2]) == ["one 1", "two 2"]
        assert set(schema(server.requests[2], "version")) == {"loud"}
        assert "Be hot." in system(server.requests[2])
        assert "Be hot." not in system(server.requests[1])
        assert [one["model"] for one in server.requests] == ["gpt-5-mini", "gpt-5-mini", "gpt-5"]
        save(folder / "config.toml", other.config())
        told = job.follow(until=waiting_for("config_reloaded"))
        assert told["data"]["changed"] == ["providers"]
        third.release.set()  # the call under way ends where it began

        job.follow()
        assert job.row()["answer"] == "from the other server", job.story()
        assert results(other.requests[0]) == ["one 1", "two 2", "two 3"]
        assert len(server.requests) == 3 and len(other.requests) == 1

        listed = {row["name"]: row for row in loomctl(home, "tools", job.session)}
        mine = listed["version"]
        assert (mine["source"], mine["file"]) == ("user", "tools/mine.py")
        assert mine["generation"] == 2 and listed["read"]["source"] == "builtin"
        listed = {row["name"]: row for row in loomctl(home, "roles", job.session)}
        assert (listed["lead"]["source"], listed["lead"]["file"]) == ("user", "roles/lead.md")
        assert listed["coder"]["source"] == "builtin"


def test_what_is_broken_stays_out_and_its_author_reads_why(
    home: Daemon, server: OpenAIServer, repo: Path
) -> None:
    folder = home.instance.config.parent
    save(folder / "tools" / "mine.py", tool("one"))
    save(folder / "roles" / "lead.md", "Be good.\n")
    with home.client() as client:
        first = Answer(calls=[("version", {})], stall_after=1)
        server.say(first)
        job = Job(home, client, repo).open("tell the version")
        assert first.stalled.wait(PATIENCE_S), job.story()
        assert "Be good." in system(server.requests[0])
        save(folder / "tools" / "mine.py", "import math\n\nmath.no_such_name\n")
        told = job.follow(until=waiting_for("tools_broken"))["data"]
        error = told["errors"][0]["error"]
        assert told["generation"] == 1 and told["errors"][0]["module"] == "mine.py"
        assert 'File "tools/mine.py", line 3' in error and "AttributeError" in error
        assert "importlib" not in error and str(home.instance.base) not in error
        save(folder / "roles" / "lead.md", "+++\ncolour = 1\n+++\nBe bad.\n")
        told = job.follow(until=waiting_for("role_broken"))["data"]
        assert told["role"] == "lead" and "colour" in told["error"]
        save(folder / "config.toml", "[models]\ndefault = 5\n")
        told = job.follow(until=waiting_for("config_broken"))["data"]
        assert "config.toml:2" in told["error"]
        again = Answer(text="done", stall_after=1)
        server.say(again)
        first.release.set()
        assert again.stalled.wait(PATIENCE_S), job.story()
        assert results(server.requests[1]) == ["one 1"] and "Be good." in system(server.requests[1])

        # A reboot with the broken files: the recorded generation, the role and the state stay.
        save(folder / "config.toml", server.config())
        job.follow(until=lambda event: event["type"] == "config_reloaded" or True)
    home.kill()
    home.process = None
    again.release.set()
    server.say(Answer(calls=[("version", {})]), Answer(text="done"))
    home.start()
    with home.client() as client:
        job.client = client
        job.follow()
        assert job.row()["state"] == "done", job.story()
        assert results(server.requests[-1])[-1] == "one 2", job.story()
        assert "Be good." in system(server.requests[-1])
        listed = {row["name"]: row for row in loomctl(home, "tools", job.session)}
        assert listed["version"]["generation"] == 1


def test_a_watch_that_dies_misses_nothing(daemons: Callable[..., Daemon], repo: Path) -> None:
    """Nor does a session that sleeps."""
    daemon = daemons('[models]\ndefault = "offline/rules"\n')
    tools = daemon.instance.config.parent / "tools"
    save(tools / "mine.py", tool("one"))
    with daemon.client() as client:
        job = Job(daemon, client, repo).open("")
        eventually(
            lambda: client.request("tools", session=job.session)["generation"] == 1,
            what="a generation",
        )
        before = job.pid("watch")
        assert before and job.kill("watch")
        save(tools / "mine.py", tool("two"))
        job.follow(until=waiting_for("tools_reloaded"))
        eventually(lambda: job.pid("watch") not in (None, before), what="watch again")
        save(tools / "mine.py", tool("three"))
        told = job.follow(until=waiting_for("tools_reloaded"))
        assert told["data"]["generation"] == 3
        assert job.kill("hub")
        eventually(lambda: job.pid("hub"), what="hub again")
        save(tools / "mine.py", tool("four"))
        assert job.follow(until=waiting_for("tools_reloaded"))["data"]["generation"] == 4
        loomctl(daemon, "stop", job.session)
        eventually(lambda: not job.pid(f"{job.session}/tools"), 60.0, what="it sleeps")
        save(tools / "mine.py", tool("five"))
        job.client.request("say", session=job.session, text="outline a.py")
        assert job.follow(until=waiting_for("tools_reloaded"))["data"]["generation"] == 5


def test_a_repos_tools_and_roles_count_once_it_is_trusted(
    home: Daemon, server: OpenAIServer, repo: Path
) -> None:
    save(repo / ".loom" / "tools" / "its.py", tool("its").replace("version", "its"))
    save(repo / ".loom" / "roles" / "lead.md", "Be ours.\n")
    first = Answer(calls=[("its", {})], stall_after=1)
    server.say(first, Answer(text="done"))
    with home.client() as client:
        job = Job(home, client, repo).open("go")
        assert first.stalled.wait(PATIENCE_S), job.story()
        assert schema(server.requests[0], "its") == {"": "is not offered"}
        assert "Be ours." not in system(server.requests[0])
        save(home.instance.config.parent / "trusted", f"{repo.resolve()}\n")
        seen: set[str] = set()

        def both(event: dict[str, Any]) -> bool:
            seen.add(event["type"])
            return {"tools_reloaded", "roles_reloaded"} <= seen

        job.follow(until=both)
        first.release.set()
        job.follow()
        assert results(server.requests[1]) == ["its 1"] and "Be ours." in system(server.requests[1])
        [row] = [row for row in loomctl(home, "tools", job.session) if row["name"] == "its"]
        assert (row["source"], row["file"]) == ("repo", ".loom/tools/its.py")


COUNT = '''
from loomd.tools import Context, tool

VERSION = {n}

@tool
def count(call: int, ctx: Context) -> dict[str, int]:
    """Counts its calls."""
    before = VERSION
    ctx.state["calls"] = ctx.state.get("calls", 0) + 1
    return {"first": before, "last": VERSION, "other": other(), "calls": ctx.state["calls"]}

def other() -> int:
    return {n}
'''

UNBOUNDED = """
[limits]
iterations = 100000
[permissions]
sandbox = "full"
"""
"""A process that nothing confines starts sooner: more calls meet an edit."""

EDITS = 200
IN_FORCE = 5
"""Each edit of so many is waited for until an agent has been answered by it; those between may be
overtaken while they are imported."""


class Counting:
    """The model of four agents that do nothing but call the tool, three calls a turn."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.made = 0
        self.lock = threading.Lock()

    def __call__(self, request: dict[str, Any]) -> Answer:
        called = {
            call["function"]["name"]
            for message in request["messages"]
            for call in message.get("tool_calls") or ()
        }
        heard = "\n".join(str(m["content"]) for m in request["messages"] if m["role"] == "user")
        if "count to the end" in heard and not called:
            along = [{"to": "researcher", "task": f"count along, {n}"} for n in range(3)]
            return Answer(calls=[("assign", args) for args in along])
        if self.over.is_set():
            return Answer(text="counted")
        with self.lock:
            self.made += 3
            return Answer(calls=[("count", {"call": self.made - n}) for n in range(3)], piece=100)


def test_a_tool_is_edited_200_times_while_four_agents_call_it_without_pause(
    daemons: Callable[..., Daemon], repo: Path
) -> None:
    brain = Counting()
    with OpenAIServer(brain) as server:
        home = daemons(server.config(UNBOUNDED), **KEYS)
        path = home.instance.config.parent / "tools" / "count.py"
        save(path, COUNT.replace("{n}", "0"))
        with home.client() as client:
            job = Job(home, client, repo).open("count to the end")

            def answered(event: dict[str, Any]) -> dict[str, int]:
                if event["type"] != "tool_result" or event["data"]["name"] != "count":
                    return {}
                assert event["data"]["ok"], job.story()
                found = json.loads(event["data"]["text"])
                assert found["first"] == found["last"] == found["other"], "one version, whole"
                return dict(found)

            everybody: set[str] = set()

            def all_four(event: dict[str, Any]) -> bool:
                if answered(event):
                    everybody.add(event["actor"])
                return len(everybody) == 4

            job.follow(until=all_four)
            for n in range(1, EDITS + 1):
                save(path, COUNT.replace("{n}", str(n)))
                if n % IN_FORCE == 0:
                    job.follow(until=lambda event, n=n: answered(event).get("last") == n)
            brain.over.set()
            job.follow()
            assert job.row()["state"] == "done", job.story()
    results = [(event, found) for event in job.events if (found := answered(event))]
    assert sorted(found["calls"] for _, found in results) == list(range(1, len(results) + 1))
    turns: dict[str, list[tuple[int, int]]] = {}
    for event, found in results:
        turn = int(event["data"]["call"].rpartition(":")[2].partition(".")[0])
        turns.setdefault(event["actor"], []).append((turn, found["last"]))
    assert len(turns) == 4
    for seen in turns.values():
        for (turn, version), (later, newer) in itertools.pairwise(sorted(seen)):
            assert turn == later or version <= newer, "an agent went back to older code"
        assert len({version for _, version in seen}) > 10, "they hardly met"


KEEPS = '''
import time
from loomd.tools import Context, tool

@tool
def keeps(call: int, ctx: Context) -> str:
    """Waits, with the state in its hands, until it may go on."""
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    (ctx.repo / f"began-{call}").touch()
    while not (ctx.repo / f"go-{call}").exists():
        time.sleep(0.01)
    return f"call {call}: {ctx.state['n']}"
'''


def test_state_survives_the_death_of_whatever_holds_it_and_a_call_that_died_changes_none(
    daemons: Callable[..., Daemon], server: OpenAIServer, repo: Path
) -> None:
    """Of the call, its generation, the nursery, the host, and the daemon with a broken file."""
    home = daemons(server.config(UNBOUNDED), **KEYS)
    path = home.instance.config.parent / "tools" / "keeps.py"
    save(path, KEEPS)
    server.say(*[Answer(calls=[("keeps", {"call": n})]) for n in range(6)], Answer(text="done"))

    def worker(job: Job) -> psutil.Process:
        """The process that runs the function: it is in the checkout, its guard is not."""
        return one(living(job.processes("tools generation"), lambda p: p.cwd() == str(repo)))

    def generation(job: Job) -> psutil.Process:
        nursery = one(job.processes("tools nursery"))
        return one(below(job, nursery))

    with home.client() as client:
        job = Job(home, client, repo).open("keep it")
        for call, victim in enumerate(("nothing", "call", "generation", "nursery", "host")):
            eventually(lambda n=call: (repo / f"began-{n}").exists(), PATIENCE_S, what=job.story)
            before = generation(job).pid
            match victim:
                case "call":
                    assert strike(worker(job))
                case "generation":
                    assert strike(generation(job))
                    eventually(lambda b=before: generation_is_new(job, b), what=job.story)
                case "nursery":
                    assert strike(one(job.processes("tools nursery")))
                case "host":
                    assert job.kill(f"{job.session}/tools")
            (repo / f"go-{call}").touch()
        eventually(lambda: (repo / "began-5").exists(), PATIENCE_S, what=job.story)
        save(path, "def f(:")
        job.follow(until=waiting_for("tools_broken"))
    home.kill()  # a call is under way, and what lies on the disk is broken
    home.process = None
    (repo / "go-5").touch()
    home.start()
    with home.client() as client:
        job.client = client
        job.follow()
        assert job.row()["state"] == "done", job.story()
    said = results(server.requests[-1])
    assert "SIGKILL" in said.pop(1)
    counted = [f"call {call}: {n}" for n, call in enumerate((0, 2, 3, 4, 5), 1)]
    assert said == counted, job.story()


def one(found: list[psutil.Process]) -> psutil.Process:
    (single,) = found
    return single


def generation_is_new(job: Job, before: int) -> bool:
    (nursery,) = job.processes("tools nursery")
    return bool({p.pid for p in below(job, nursery)} - {before})


def below(job: Job, nursery: psutil.Process) -> list[psutil.Process]:
    return living(job.processes("tools generation"), lambda p: p.ppid() == nursery.pid)


def living(
    found: list[psutil.Process], true: Callable[[psutil.Process], bool]
) -> list[psutil.Process]:
    """Those of which it holds and that are still there to be asked."""
    kept = []
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            if true(process):
                kept.append(process)
    return kept
