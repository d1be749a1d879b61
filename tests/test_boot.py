"""`loomd` itself: places, lock, boot number, keys. The tree is one of toys."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loomd import boot
from loomd.settings import Settings, parse
from loomd.supervise import spec
from loomd.wire.errors import LoomError
from tests.support import (
    BOUND_S,
    TestInstance,
    eventually,
    links,
    make_instance,
    remove_instance,
    whole_lines,
)

REPO = Path(__file__).parents[1]


@pytest.fixture
def place() -> Iterator[TestInstance]:
    made = make_instance()
    try:
        yield made
    finally:
        remove_instance(made)


@contextlib.contextmanager
def booted(place: TestInstance, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon with toys on the instance; killed at the end if it still runs."""
    with open(place.base / "log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(REPO / "tests/children/booted.py"), str(place.base)],
            env=place.environment(PYTHONPATH=str(REPO), **env),
            cwd=REPO,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        eventually(lambda: not place.processes(), what=lambda: f"left: {place.processes()}")


def lines(place: TestInstance, event: str) -> list[dict[str, Any]]:
    found = []
    for text in whole_lines(place.base / "log"):
        if text.startswith("{"):
            line = json.loads(text)
            if line["event"] == event:
                found.append(line)
    return found


def wait_line(place: TestInstance, event: str, n: int = 1) -> dict[str, Any]:
    return eventually(
        lambda: lines(place, event)[n - 1 : n],
        what=lambda: f"{event} in\n{(place.base / 'log').read_text()}",
    )[0]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_makes_its_places_runs_and_leaves_nothing(place):
    with booted(place) as daemon:
        wait_line(place, "ready")
        assert mode(place.state) == mode(place.runtime) == 0o700
        assert mode(place.places.token_file) == 0o600
        assert len(place.places.token_file.read_text()) == 64
        assert place.places.pid_file.read_text() == f"{daemon.pid}\n"
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(BOUND_S) == 0
    assert not place.places.token_file.exists() and not place.places.pid_file.exists()
    assert list(place.runtime.iterdir()) == []


def test_the_boot_number_grows_also_after_a_kill(place):
    with booted(place) as daemon:
        assert wait_line(place, "ready")["boot"] == 1
        daemon.kill()
    with booted(place) as daemon:
        assert wait_line(place, "ready", 2)["boot"] == 2
        first, second = (x["incarnation"] for x in lines(place, "started") if x["name"] == "a")
        assert (first >> 32, second >> 32) == (1, 2)
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(BOUND_S) == 0


def test_a_second_daemon_waits_and_then_names_the_first(place, monkeypatch):
    with booted(place) as first:
        wait_line(place, "ready")
        monkeypatch.setattr(boot, "LOCK_WAIT_S", 0.05)
        with pytest.raises(LoomError) as refused:
            boot.lock(place.places, boot.Log())
        assert f"pid {first.pid}" in refused.value.message and refused.value.exit_code == 3
        with booted(place) as second:
            wait_line(place, "waiting_for_lock")
            first.send_signal(signal.SIGTERM)
            assert first.wait(BOUND_S) == 0
            assert wait_line(place, "ready", 2)["pid"] == second.pid
            second.send_signal(signal.SIGTERM)
            assert second.wait(BOUND_S) == 0


def test_the_lock_is_held_as_long_as_a_child_that_shares_it_lives(place):
    with booted(place) as daemon:
        wait_line(place, "ready")
        (held,) = [links(line["pid"]) for line in lines(place, "started") if line["name"] == "a"]
        assert str(place.state) in held and str(place.runtime) in held
        daemon.kill()
        daemon.wait()
    fd = os.open(place.state, os.O_RDONLY)
    eventually(lambda: _locks(fd), what="the lock is free when all are gone")
    os.close(fd)


def _locks(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_keys_are_in_nobody_s_environment_and_only_the_gateway_has_them(place):
    with booted(place, OPENAI_API_KEY="sk-secret", LC_ALL="C.UTF-8", ODD="\udcff") as daemon:
        wait_line(place, "ready")
        eventually(lambda: (place.base / "environ").exists(), what="the gateway's environment")
        keys = json.loads((place.base / "keys").read_text())
        assert keys["OPENAI_API_KEY"] == "sk-secret" and keys["ODD"] == "\udcff"
        pids = [daemon.pid, *(line["pid"] for line in lines(place, "started"))]
        for pid in pids:
            assert b"sk-secret" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert b"LC_ALL=C.UTF-8" in Path(f"/proc/{daemon.pid}/environ").read_bytes()
        holders = [pid for pid in pids if any("loomd-keys" in link for link in links(pid))]
        gateway = next(x["pid"] for x in lines(place, "started") if x["name"] == "gateway-1")
        assert holders == [daemon.pid, gateway]
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(BOUND_S) == 0


def run_loomd(place: TestInstance, *args: str, **env: str) -> tuple[int, dict[str, Any]]:
    """`python -m loomd`, which is to refuse: its status and its last line."""
    done = subprocess.run(
        [sys.executable, "-m", "loomd", *args],
        env=place.environment(**env),
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
        timeout=BOUND_S,
    )
    return done.returncode, json.loads(done.stderr.splitlines()[-1])


def test_a_wrong_configuration_is_refused_with_status_8(place):
    place.config.write_text("[limits]\niterations = -1\n")
    status, line = run_loomd(place)
    assert (status, line["code"]) == (8, "config")
    assert f"{place.config}:2: limits.iterations" in line["reason"]


def test_places_that_cannot_be_made_are_refused(place):
    (place.base / "file").write_text("")
    status, line = run_loomd(place, LOOM_STATE_DIR=str(place.base / "file" / "state"))
    assert (status, line["code"]) == (5, "permission_denied")
    assert "LOOM_STATE_DIR" in line["hint"]


def test_a_runtime_directory_that_is_a_link_is_refused(place):
    (place.base / "elsewhere").mkdir()
    place.runtime.symlink_to(place.base / "elsewhere")
    assert run_loomd(place)[0] == 5


def test_arguments_are_refused(place):
    assert run_loomd(place, "--fast")[0] == 2


def test_two_instances_may_not_share_a_runtime_directory(place, monkeypatch):
    monkeypatch.setattr(boot, "LOCK_WAIT_S", 0.05)
    boot.make_directories(place.places)
    held = boot.lock(place.places, boot.Log())
    (place.base / "state2").mkdir()
    other = boot.Instance(place.config, place.base / "state2", place.runtime)
    with pytest.raises(LoomError) as refused:
        boot.lock(other, boot.Log())
    assert str(place.runtime) in refused.value.message
    for fd in held:
        os.close(fd)


def test_a_damaged_boot_number_still_grows(place):
    boot.make_directories(place.places)
    assert [boot.next_boot(place.places) for _ in range(3)] == [1, 2, 3]
    (place.state / "boot").write_text("\0\0")
    assert boot.next_boot(place.places) > 3


@pytest.mark.parametrize(
    "config", ["", '[models]\ndefault = "openai/gpt"\n', "[supervision]\nintensity = 0\n"]
)
def test_the_tree_is_a_valid_spec(config):
    made = spec.parse_supervisor(boot.tree(parse(config), {}))
    ids = [child.id for child in made.children]
    assert ids[:3] == ["template", "hub", "models"] and ids[-2:] == ["services", "sessions"]
    real = "openai" in config
    assert ("template-litellm" in ids) == real
    gateway = next(child for child in made.children if child.id == "gateway-1")
    assert isinstance(gateway, spec.WorkerSpec) and gateway.start.keys
    assert gateway.start.template == ("litellm" if real else "actors")
    with_keys = [c.id for c in made.children if isinstance(c, spec.WorkerSpec) and c.start.keys]
    assert with_keys == ["gateway-1"]


def test_every_kind_has_an_entry_that_the_template_has_imported():
    assert {entry.partition(":")[0] for entry in boot.ENTRIES.values()} <= set(boot.ACTOR_CODE)
    assert Settings().as_dict()["models"]["default"] == "offline/rules"
