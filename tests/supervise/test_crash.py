"""Crash points: exactly the named instant, exactly once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from loomd.supervise import crash

CODE = """
from loomd.supervise.crash import crash_point
for name in ("s-1/lead", "s-1/coder-1", "s-1/coder-2"):
    crash_point("host.after_step", name)
    print(name, flush=True)
"""


def run(plan: str, folder: str = "") -> tuple[int, list[str]]:
    env = {**os.environ, "LOOM_CRASH_AT": plan, "LOOM_CRASH_DIR": folder}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.split()


def test_the_process_is_killed_at_its_point():
    assert run("host.after_step@coder") == (-signal.SIGKILL, ["s-1/lead"])
    assert run("host.after_step@coder:2") == (-signal.SIGKILL, ["s-1/lead", "s-1/coder-1"])
    assert run("host.before_step, host.after_step@nobody")[0] == 0
    assert run("")[0] == 0


def test_with_a_folder_it_happens_once_for_all_processes(tmp_path):
    plan = "host.after_step@lead:2"
    assert run(plan, str(tmp_path))[0] == 0
    assert run(plan, str(tmp_path)) == (-signal.SIGKILL, [])
    assert run(plan, str(tmp_path))[0] == 0


@pytest.mark.parametrize("text", ["host.nowhere", "hub.after_commit:x", "hub.after_commit:0"])
def test_a_wrong_plan_is_refused(text):
    with pytest.raises(ValueError, match="LOOM_CRASH_AT"):
        crash.parse(text)
