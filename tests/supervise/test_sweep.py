"""A root is killed; what was stopped or has escaped is ended by the next start, and nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from loomd.supervise import cgroup, kernel, sweep
from tests.supervise.test_containment import BOTH
from tests.support import (
    Daemon,
    TestInstance,
    eventually,
    make_instance,
    processes_naming,
    remove_instance,
)
from tests.test_boot import booted, lines, wait_line

NAP = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def place() -> Iterator[TestInstance]:
    made = make_instance()
    try:
        yield made
    finally:
        remove_instance(made)


def living(pids: list[int]) -> list[int]:
    found = [(pid, kernel.stat_of(pid)) for pid in pids]
    return [pid for pid, now in found if now is not None and not now.over]


@BOTH
def test_the_next_start_ends_what_was_stopped_or_has_escaped(place: TestInstance, cgroups) -> None:
    place.config.write_text(f'[supervision]\ncgroups = "{"auto" if cgroups else "off"}"\n')
    with subprocess.Popen(NAP, env={sweep.VARIABLE: "another"}) as stranger:
        with booted(place, LC_BROOD="1") as daemon:
            wait_line(place, "ready")
            brood = [
                int(pid)
                for pid in eventually(lambda: _text(place.base / "brood").split(), what="the brood")
            ]
            for pid in brood:
                os.kill(pid, signal.SIGSTOP)
            daemon.kill()
            daemon.wait()
            # Who dies with the root is gone; stopped as they are, nothing has told the brood.
            eventually(
                lambda: {p.pid for p in place.processes()} <= set(brood), what="only the brood"
            )
            assert living(brood) == brood
            noted = _text(place.state / sweep.NOTE)
            assert bool(noted) == cgroups
            with booted(place) as second:
                wait_line(place, "ready", 2)
                assert living(brood) == []
                swept = wait_line(place, "swept")
                assert swept["level"] == "warning" and swept.get("cgroup", "") == noted
                assert not noted or not Path(noted).exists()
                # In a cgroup those are seen too who are just dying with their root.
                assert swept["killed"] >= len(brood) if cgroups else swept["killed"] == len(brood)
                second.send_signal(signal.SIGTERM)
                assert second.wait() == 0
        assert stranger.poll() is None
        stranger.kill()
    assert len(lines(place, "swept")) == 1


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@BOTH
def test_a_stopped_nursery_does_not_outlive_its_daemon(place: TestInstance, cgroups) -> None:
    """A tool host's: neither the end of the socket nor a signal of a parent's death reaches it."""
    place.config.write_text(f'[supervision]\ncgroups = "{"auto" if cgroups else "off"}"\n')
    repo = place.base / "repo"
    repo.mkdir()
    daemon = Daemon(place).start()
    try:
        with daemon.client() as client:
            client.request(
                "open_session", repo=str(repo), goal="", yes=True, env={"PATH": os.environ["PATH"]}
            )
            names = ("nursery", "generation")
            nursery = eventually(lambda: _titled(daemon, names), what="nursery and generation")
        below = [child.pid for one in nursery for child in one.children(recursive=True)]
        pids = sorted({*below, *(one.pid for one in nursery)})
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
        daemon.process = None
        assert {one.pid for one in nursery} <= set(living(pids))
        daemon.start()
        assert living(pids) == []
        with daemon.client() as client:
            contained = client.request("status")["containment"]
        assert contained == ("cgroup" if cgroups else "walk")
    finally:
        daemon.stop()


@BOTH
def test_a_command_of_a_tool_call_whose_guards_are_dead_is_ended(
    place: TestInstance, cgroups
) -> None:
    # Confined it would have a table of processes of its own, and die with the first of these.
    place.config.write_text(
        f'[supervision]\ncgroups = "{"auto" if cgroups else "off"}"\n'
        '[permissions]\nsandbox = "full"\n'
    )
    repo = place.base / "repo"
    repo.mkdir()
    daemon = Daemon(place).start()
    try:
        with daemon.client() as client:
            opened = client.request(
                "open_session", repo=str(repo), goal="", yes=True, env={"PATH": os.environ["PATH"]}
            )
            session = opened["session"]
            caller = f"{session}/caller"
            client.request("spawn", spec={"name": caller, "kind": "echo", "session": session})
            args = {"command": "exec sleep 1000"}
            call = {"op": "call", "to": f"{session}/tools", "name": "shell", "args": args, "n": 1}
            client.request("post", to=caller, body={"t": "note", "data": call})
            nap = eventually(lambda: _sleeping(daemon), what="the command")
        tools = [
            p for p in daemon.children() if _title(p.pid).startswith(f"loomd: {session}/tools")
        ]
        # Stopped, killed, all at once: nobody is left to see that the daemon is gone.
        os.kill(nap, signal.SIGSTOP)
        above = {parent.pid for parent in psutil.Process(nap).parents()} & {
            child.pid for child in daemon.children()
        }
        everyone = {*above, *(one.pid for one in tools)}
        for pid in [*everyone, daemon.pid]:
            os.kill(pid, signal.SIGSTOP)
        for pid in [*everyone, daemon.pid]:
            os.kill(pid, signal.SIGKILL)
        assert daemon.process is not None
        daemon.process.wait()
        daemon.process = None
        eventually(lambda: not living(list(everyone)), what="the guards are dead")
        assert living([nap]) == [nap]
        daemon.start()
        assert living([nap]) == []
    finally:
        daemon.stop()


def _sleeping(daemon: Daemon) -> int:
    found = [p.pid for p in daemon.children() if _title(p.pid).startswith("sleep\0")]
    return found[0] if found else 0


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _titled(daemon: Daemon, words: tuple[str, ...]) -> list[psutil.Process]:
    found = [p for p in daemon.children() if any(w in _title(p.pid) for w in words)]
    return found if len(found) >= len(words) else []


def test_neither_who_started_the_daemon_nor_another_instance_is_swept(place: TestInstance) -> None:
    place.state.mkdir()
    other = make_instance()
    try:
        other.state.mkdir()
        mark = sweep.mark_of(place.state)
        assert mark == sweep.mark_of(place.state) != sweep.mark_of(other.state)
        with (
            subprocess.Popen(NAP, env={sweep.VARIABLE: sweep.mark_of(other.state)}) as stranger,
            subprocess.Popen(["sh", "-c", SWEEPER], env=_marked(mark)) as starter,
        ):
            # The shell has the mark, and so has what it sweeps from: neither ends the other.
            assert starter.wait() == 0
            assert stranger.poll() is None
            stranger.kill()
    finally:
        remove_instance(other)


SWEEPER = f'"{sys.executable}" -c "{{}}"; exit $?'.format(
    "import os, pathlib; from loomd.supervise import sweep; "
    "found = sweep.marked(os.environ[sweep.VARIABLE]); assert found == [], found"
)


def _marked(mark: str) -> dict[str, str]:
    return {**os.environ, sweep.VARIABLE: mark}


def test_a_note_that_names_no_cgroup_of_ours_is_left_alone(place: TestInstance) -> None:
    place.state.mkdir()
    for text in ("", "/tmp", str(place.base), "/sys/fs/cgroup", "\0"):
        (place.state / sweep.NOTE).write_text(text)
        assert sweep.sweep(place.state).cgroup == ""
    assert place.base.is_dir() and cgroup.below("/no/such") == []
    assert processes_naming("/no/such/loomd-thing") == []
