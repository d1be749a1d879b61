"""What stays of a command: pure rules, and the script on a real shell."""

import os
import subprocess

import pytest

from loomd.tools import shellenv
from loomd.tools.surroundings import Surroundings
from tests.tools.stand import Table

ENV = {"PATH": "/bin", "LANG": "C", "HOME": "/s/home", "LOOM_INSTANCE": "x"}


def left(exported, cwd="/repo", root="/repo", scratch="/s"):
    return shellenv.after(ENV, cwd, exported, root, scratch)[0]


def run(tmp_path, command, **env):
    told = tmp_path / "it's told"
    line = shellenv.script(command, str(told))
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=tmp_path, env={**os.environ, **env}, capture_output=True
    )
    return done, shellenv.told(told.read_bytes()) if told.exists() else None


@pytest.mark.parametrize(("end", "code"), [("", 0), ("; exit 7", 7), ("; false", 1)])
def test_the_shell_tells_its_folder_and_variables_whatever_its_end(tmp_path, end, code):
    done, (cwd, exported) = run(tmp_path, f"cd /; export A='x\ny'{end}", B="given")
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")
    assert cwd == "/" and exported["A"] == "x\ny" and exported["B"] == "given"


@pytest.mark.parametrize("command", ["exec true", "kill -9 $$", "trap - EXIT"])
def test_a_shell_that_has_no_end_of_its_own_tells_nothing(tmp_path, command):
    assert run(tmp_path, command)[1] is None


def test_only_what_differs_is_kept_and_what_every_shell_sets_is_not():
    exported = {**ENV, "LANG": "de", "NEW": "1", "PWD": "/repo", "SHLVL": "2", "_": "/bin/env"}
    assert left(exported) == {"cwd": "", "env": {"LANG": "de", "NEW": "1"}, "unset": []}
    del exported["LANG"], exported["LOOM_INSTANCE"]
    assert left(exported)["unset"] == ["LANG"]


@pytest.mark.parametrize(
    ("cwd", "kept", "then"),
    [
        ("/repo", "", "/other"),
        ("/repo/pkg/deep", "pkg/deep", "/other/pkg/deep"),
        ("/repository", "/repository", "/repository"),
        ("/s/tmp", "\0s/tmp", "/t/tmp"),
        ("(unreachable)/x", "", "/other"),
    ],
)
def test_folders_inside_move_with_the_checkout(cwd, kept, then):
    made = left(ENV, cwd)
    assert made["cwd"] == kept
    assert shellenv.folder(made, "/other", "/t") == then


def test_values_that_name_the_private_copy_name_the_next_one():
    exported = {**ENV, "VENV": "/s/checkout/.venv", "PATH": "/s/checkout/.venv/bin:/bin:/s/tmp"}
    made = left(exported, root="/s/checkout")
    env = shellenv.environment(made, ENV, "/t/checkout", "/t")
    assert env["VENV"] == "/t/checkout/.venv"
    assert env["PATH"] == "/t/checkout/.venv/bin:/bin:/t/tmp"
    assert env["LANG"] == "C"


def test_what_is_too_long_is_left_out_the_longest_first():
    exported = {**ENV, "LONG": "x" * 40_000, "SHORT": "y"}
    made, dropped = shellenv.after(ENV, "/repo", exported, "/repo", "/s")
    assert made["env"] == {"SHORT": "y"} and dropped == ["LONG"]


def test_a_slow_command_changes_only_what_it_has_changed_itself():
    given = {"cwd": "", "env": {"A": "1", "B": "1"}, "unset": ["C"]}
    now = {"cwd": "pkg", "env": {"A": "2", "B": "1", "D": "4"}, "unset": ["C"]}
    done = {"cwd": "", "env": {"A": "1", "E": "5"}, "unset": []}
    assert shellenv.merged(now, given, done) == {
        "cwd": "pkg",
        "env": {"A": "2", "D": "4", "E": "5"},
        "unset": [],
    }


def test_secrets_are_kept_in_memory_alone(tmp_path):
    kept = Surroundings("s-1", Table(tmp_path))
    given = kept.of("s-1/a")
    said = {"cwd": "x", "env": {"DB_PASSWORD": "p", "A": "1"}, "unset": []}
    stored = kept.left("s-1/a", given, said)
    assert stored == {"tool": "shell@s-1/a", "value": {"cwd": "x", "env": {"A": "1"}, "unset": []}}
    assert kept.of("s-1/a")["env"] == {"A": "1", "DB_PASSWORD": "p"}
    assert kept.left("s-1/a", kept.of("s-1/a"), said) is None


@pytest.mark.parametrize(
    "said",
    [
        {},
        "text",
        {"cwd": 1, "env": {}, "unset": []},
        {"cwd": "", "env": {"A": 1}, "unset": []},
        {"cwd": "", "env": {"A": "x" * 100_000}, "unset": []},
    ],
)
def test_a_process_that_tells_nonsense_changes_nothing(tmp_path, said):
    kept = Surroundings("s-1", Table(tmp_path))
    given = dict(kept.of("s-1/a"))
    with pytest.raises((ValueError, KeyError, TypeError)):
        kept.left("s-1/a", given, said)
    assert kept.of("s-1/a") == given
