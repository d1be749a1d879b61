"""`loomctl logs`: the last lines, and those that come, over files that are turned over."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from loomctl import cli
from loomctl.commands import output
from tests.support import BOUND_S, eventually


@pytest.fixture
def written(instance, monkeypatch):
    for name, place in (
        ("LOOM_CONFIG", instance.config),
        ("LOOM_STATE_DIR", instance.state),
        ("LOOM_RUNTIME_DIR", instance.runtime),
    ):
        monkeypatch.setenv(name, str(place))
    instance.places.output.mkdir(parents=True)
    return instance.places.output


def test_the_last_lines_reach_into_the_older_file(written, capsys):
    (written / "a~").write_text("one\ntwo\nthr")
    (written / "a").write_text("ee\nfour\n")
    assert cli.run(["logs", "a", "-n", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ["three", "four"]
    assert cli.run(["logs", "a"]) == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\nfour\n"
    assert cli.run(["logs", "a", "-n", "0"]) == 0
    assert capsys.readouterr().out == ""


def test_an_actor_has_its_file_too(written, capsys):
    (written / "s-1.lead").write_text("\x1b[31mred\n")
    assert cli.run(["logs", "s-1/lead"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_what_has_written_nothing_is_named(written, capsys):
    assert cli.run(["logs", "nobody"]) == 2
    said = capsys.readouterr().err
    assert "nobody has written nothing here" in said and "loomctl ps" in said
    (written / "llama~").write_text("one\n")
    (written / "s-4f2a1c.coder-1").write_text("one\n")
    assert cli.run(["logs", "nobody", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "not_found"
    assert "llama" in error["hint"] and "s-4f2a1c/coder-1" in error["hint"]
    assert "~" not in error["hint"]
    for number in range(30):
        (written / f"service-{number}").write_text("one\n")
    assert cli.run(["logs", "nobody", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["hint"].endswith(", and 12 more")


def test_nothing_outside_of_the_output_is_read(written, instance, capsys):
    secret = instance.state / "secret"
    secret.write_text("secret\n")
    (written / "a").mkdir()
    (written / "link").symlink_to(secret)
    for name in ("..", ".", "", "a", "a/..", "a/../../secret", "../secret", str(secret), "link"):
        for more in ([], ["-f"]):
            assert cli.run(["logs", name, *more]) == 2, name
            out, err = capsys.readouterr()
            assert out == "" and "has written nothing here" in err, name


def test_lines_that_come_are_followed_over_a_turn(written, instance):
    path = written / "a"
    path.write_text("old\n")
    with subprocess.Popen(
        [sys.executable, "-m", "loomctl", "logs", "a", "-f"],
        env=instance.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "old\n"
        with path.open("a") as file:
            file.write("new\nlast of this ")
        assert follower.stdout.readline() == "new\n"
        with path.open("a") as file:
            file.write("file\n")
        os.replace(path, written / "a~")
        path.write_text("first of the next\n")
        assert follower.stdout.readline() == "last of this file\n"
        assert follower.stdout.readline() == "first of the next\n"
        follower.stdout.close()
        with path.open("a") as file:
            file.write("nobody reads\n")
        follower.wait(BOUND_S)


def test_the_place_where_reading_stopped_is_of_the_newer_file(written):
    (written / "a~").write_text("1\n")
    (written / "a").write_text("2\n")
    lines, (inode, offset) = output._tail(written / "a~", written / "a", 5)
    assert (lines, inode, offset) == (["1", "2"], (written / "a").stat().st_ino, 2)


def test_a_pipe_that_is_closed_ends_it(written, instance):
    (written / "a").write_text("x\n" * 100_000)
    script = "loomctl logs a -n 100000 -f | head -n 1"
    done = subprocess.run(
        ["bash", "-c", script.replace("loomctl", f"{sys.executable} -m loomctl")],
        env=instance.environment(),
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.stdout == "x\n"
    eventually(lambda: not instance.processes(), what="the follower has gone")
