"""The command: one JSON value, exit statuses, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from loomd.bench import search
from tests.support import TestInstance, describe, eventually

Bench = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bench(instance: TestInstance) -> Bench:
    """Runs it below a folder of its own: others may bench on this machine too."""

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "loomd.bench", *args],
            capture_output=True,
            text=True,
            timeout=100,
            env={**os.environ, "TMPDIR": str(instance.base)},
        )

    return run


def test_figures_come_as_one_json_list_and_the_daemon_is_gone(bench, instance):
    done = bench("rtt", "memory_agent", "broadcast_durable_10", "--agents", "2", "--json")
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout)
    assert [line["name"] for line in lines] == [
        "rtt",
        "memory_agent",
        "memory_agent_collected",
        "broadcast_durable_10",
    ]
    for line in lines:
        assert line["n"] > 0 and line["p50"] <= line["p95"] <= line["p99"] <= line["max"]
    eventually(lambda: not instance.processes(), what="nothing left")
    assert not list(instance.base.glob("loom-bench-*"))


def test_what_takes_minutes_runs_when_it_is_named(bench, instance):
    done = bench("restarts_10000", "crashes", "--agents", "1", "--json")
    assert done.returncode == 0, done.stderr
    lines = {line["name"]: line for line in json.loads(done.stdout)}
    assert (
        lines["restarts_zombies"]["max"] == 0
        and "of 90 restarts" in lines["restarts_descriptors"]["note"]
    )
    assert lines["crashes"]["n"] > 0
    eventually(lambda: not instance.processes(), what="nothing left")
    assert not list(instance.base.glob("loom-bench-*"))


def test_grep_is_measured_beside_ripgrep(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "FILES", 100)
    monkeypatch.setattr(search, "ROUNDS", 2)
    [figure] = search.grep(tmp_path / "tree")
    assert len(figure.samples) == 2 and "100 files" in figure.note
    assert (figure.goal is None) == (shutil.which("rg") is None)
    assert not (tmp_path / "tree").exists()


def test_an_unknown_figure_is_a_usage_error(bench):
    done = bench("nonsense", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "usage"
    assert "rtt_durable" in bench("nonsense").stderr


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("loomd.bench", signal.SIGTERM),
        ("loomd.bench", signal.SIGKILL),
        ("loomctl", signal.SIGHUP),
        ("loomctl", signal.SIGKILL),
    ],
)
def test_what_ends_a_bench_ends_its_daemon(instance, module, number):
    words = ["bench", "restarts_10000"] if module == "loomctl" else ["restarts_10000"]
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        env=instance.environment(TMPDIR=str(instance.base)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: list(instance.base.glob("loom-bench-*/run/clients")), what="a daemon")
        process.send_signal(number)
        status = process.wait(60)
    finally:
        process.kill()
        process.wait()
    killed = number == signal.SIGKILL
    assert status == (-number if killed else 130 if module == "loomctl" else 128 + number)
    eventually(
        lambda: not instance.processes(), 60.0, what=lambda: f"{describe(instance.processes())}"
    )
    if not killed or module == "loomctl":
        assert not list(instance.base.glob("loom-bench-*"))
