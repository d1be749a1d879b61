"""What is said of a machine, and of this one."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from loomd import doctor
from loomd.settings import Permissions
from loomd.tools.sandbox import Facts

FACTS = Facts(bwrap="/usr/bin/bwrap", landlock=7, namespaces=True, seccomp=True)
FOUND = doctor.Found(
    loomd="1.0",
    python="3.11",
    kernel="6.18",
    settings=Permissions(),
    facts=FACTS,
    git="git version 2.39.5",
    rg="ripgrep 13.0.0",
    bwrap="bubblewrap 0.8.0",
    controllers=("memory", "pids"),
)


def test_a_machine_that_has_everything_needs_no_repair():
    rows = doctor.report(FOUND)
    assert {row.state for row in rows} == {"ok"}
    assert all(row.repair == "" for row in rows)


@pytest.mark.parametrize(
    ("lacks", "name", "state", "says", "repair"),
    [
        ({"git": ""}, "git", "failed", "not installed", "apt install git"),
        ({"git": "git version 2.20.1"}, "git", "failed", "too old", "2.31"),
        ({"rg": ""}, "rg", "warning", "the same results", "ripgrep"),
        ({"cgroups": "no permission"}, "cgroups", "warning", "a walk", "daemon install"),
        ({"controllers": ("pids",)}, "cgroups", "warning", "no limit by memory", "Delegate"),
        ({"config": "config.toml:3: x"}, "config", "failed", ":3:", "mend"),
        (
            {"settings": Permissions(sandbox="full")},
            "sandbox",
            "warning",
            "not confined",
            "workspace",
        ),
        ({"facts": replace(FACTS, bwrap="")}, "bubblewrap", "warning", "not inst", "apt install"),
        ({"facts": replace(FACTS, bwrap="")}, "sandbox", "warning", "by landlock", "bubblewrap"),
        ({"facts": replace(FACTS, landlock=0)}, "sandbox", "warning", "one wall", "lsm="),
        ({"facts": replace(FACTS, landlock=0)}, "landlock", "warning", "none", "lsm="),
        ({"facts": replace(FACTS, landlock=4)}, "landlock", "warning", "signals", "6.12"),
        ({"facts": replace(FACTS, namespaces=False)}, "namespaces", "warning", "none", "sysctl"),
        ({"facts": replace(FACTS, seccomp=False)}, "seccomp", "warning", "no filters", "CONFIG"),
        ({"facts": Facts()}, "sandbox", "failed", "no sandbox", "install bubblewrap"),
    ],
)
def test_what_is_missing_is_named_with_its_repair(lacks, name, state, says, repair):
    rows = {row.name: row for row in doctor.report(replace(FOUND, **lacks))}
    assert rows[name].state == state
    assert says in rows[name].text and repair in rows[name].repair


def test_a_bubblewrap_that_cannot_work_is_told_from_one_that_is_not_there():
    facts = replace(FACTS, bwrap_error="setting up uid map: Permission denied")
    for apparmor, repair in ((True, "apparmor_restrict"), (False, "max_user_namespaces")):
        found = replace(FOUND, facts=facts, apparmor=apparmor)
        row = next(row for row in doctor.report(found) if row.name == "bubblewrap")
        assert row.state == "warning" and "uid map" in row.text and repair in row.repair


def test_loomctl_shows_it_without_a_daemon(instance):
    def run(*args):
        return subprocess.run(
            [sys.executable, "-m", "loomctl", "doctor", *args],
            env=instance.environment(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    done = run("--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert {"loomd", "sandbox", "bubblewrap", "landlock", "git", "rg", "cgroups"} <= set(rows)
    assert done.returncode == any(row["state"] == "failed" for row in rows.values())
    assert not instance.places.pid_file.exists()
    instance.config.write_text("[permissions]\nsandbox = 3\n")
    done = run()
    assert done.returncode == 1 and "config.toml:2" in done.stdout
