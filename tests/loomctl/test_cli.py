"""The command line itself: flags, exit codes, errors as JSON. No daemon is started here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loomctl import cli, daemon
from loomctl.commands import NOT_YET, VERBS, jobs
from loomctl.context import Context
from loomd.wire.endpoints import Instance
from tests.support import BOUND_S


@pytest.fixture(autouse=True)
def no_daemon(monkeypatch, instance):
    """Every command line of this file speaks to an instance where nothing runs."""
    for name, place in (
        ("LOOM_CONFIG", instance.config),
        ("LOOM_STATE_DIR", instance.state),
        ("LOOM_RUNTIME_DIR", instance.runtime),
    ):
        monkeypatch.setenv(name, str(place))


@pytest.mark.parametrize(
    ("given", "lifted"),
    [
        (["ps", "--json"], ["--json", "ps"]),
        (["--json", "ps"], ["--json", "ps"]),
        (["ps", "--no-start", "s-1", "--json"], ["--json", "--no-start", "ps", "s-1"]),
        (["send", "s-1", "--", "--json"], ["send", "s-1", "--", "--json"]),
        ([], []),
    ],
)
def test_global_flags_may_stand_before_or_after_the_verb(given, lifted):
    assert cli._lift_flags(given) == lifted


def test_an_unknown_verb_is_a_usage_error(capsys):
    assert cli.run(["frobnicate"]) == 2
    assert "frobnicate" in capsys.readouterr().err


def test_errors_with_json_are_one_value_on_stdout(capsys):
    assert cli.run(["ps", "--no-start", "--json"]) == 3
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["code"] == "no_daemon"
    assert said.err == ""


def test_errors_without_json_go_to_stderr_with_what_to_do(capsys):
    assert cli.run(["daemon", "status"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert "loomctl daemon start" in said.err


@pytest.mark.parametrize("verb", sorted(NOT_YET))
def test_verbs_to_come_say_not_yet(verb, capsys):
    assert cli.run([verb, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "not_yet"


def test_a_repo_that_does_not_exist_starts_no_daemon_session(capsys, instance):
    assert cli.run(["run", "rename a to b", "--repo", "/does/not/exist", "--no-start"]) in (2, 3)
    assert not instance.state.exists()


def test_every_verb_of_the_first_issue_is_there():
    wanted = (
        "run new send events ps tree sessions show stop kill restart demo bench daemon waiting "
        "approve deny tasks claims edits graph keepers recall usage dead diff reload"
    )
    assert set(wanted.split()) <= {verb.name for verb in VERBS}


@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("done", "", 0),
        ("failed", "tests_failed", 1),
        ("failed", "budget", 6),
        ("failed", "limit", 7),
        ("failed", "permission_denied", 5),
        ("failed", "timeout", 124),
        ("stopped", "", 1),
    ],
)
def test_exit_codes_of_outcomes(state, kind, code):
    assert jobs.exit_code({"state": state, "kind": kind}) == code


def test_a_session_carries_path_and_locale_and_no_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    carried = jobs.opener_env()
    assert carried["LC_ALL"] == "C.UTF-8" and "PATH" in carried
    assert "secret" not in carried.values()


def test_the_checkout_is_absolute_and_resolved(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    assert jobs.checkout(tmp_path / "link") == tmp_path.resolve()


def test_a_file_is_no_checkout(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="not a directory"):
        jobs.checkout(tmp_path / "file")


def test_the_client_sees_nothing_of_loomd_but_its_wire():
    root = Path(cli.__file__).parent
    for path in root.rglob("*.py"):
        for line in path.read_text().splitlines():
            if line.strip().startswith(("import loomd", "from loomd")):
                assert "loomd.wire" in line, f"{path}: {line}"
    assert Instance is not None


def test_a_runtime_directory_that_is_too_long_for_a_socket_is_said(capsys, monkeypatch):
    monkeypatch.setenv("LOOM_RUNTIME_DIR", "/tmp/" + "x" * 100)
    assert cli.run(["ps", "--json"]) == 8
    error = json.loads(capsys.readouterr().out)["error"]
    assert "107" in error["message"] and "LOOM_RUNTIME_DIR" in error["hint"]


def test_a_stream_ends_with_its_reader_even_if_it_has_nothing_to_say(monkeypatch, instance):
    read, write = os.pipe()
    with os.fdopen(write, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        context = Context(instance=instance.places)
        context.check_reader()
        os.close(read)
        with pytest.raises(BrokenPipeError):
            context.check_reader()


def test_an_answer_that_cannot_be_written_is_said():
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m loomctl daemon logs --json >/dev/full"],
        capture_output=True,
        text=True,
        check=False,
        timeout=BOUND_S,
    )
    assert done.returncode == 1
    assert "No space left" in done.stderr and "Traceback" not in done.stderr


def refused(reason):
    return json.dumps({"level": "error", "event": "refused", "reason": reason, "hint": "h"}) + "\n"


def test_a_daemon_that_does_not_start_is_told_in_its_last_words(instance):
    instance.state.mkdir(parents=True)
    instance.places.log_file.write_text(refused("an old one"))
    since = daemon.log_size(instance.places)
    with instance.places.log_file.open("a") as log:
        log.write("noise\n" + refused("config.toml:1: foo: unknown key") + "[1, 2]\n")
    error = daemon.failure(instance.places, 8, since)
    assert (error.exit_code, error.hint) == (8, "h")
    assert error.message == "the daemon did not start: config.toml:1: foo: unknown key"


def test_the_reason_of_an_earlier_start_is_not_the_reason_of_this_one(instance):
    instance.state.mkdir(parents=True)
    instance.places.log_file.write_text(refused("an old one"))
    error = daemon.failure(instance.places, -9, daemon.log_size(instance.places))
    assert "an old one" not in error.message and "-9" in error.message


def test_a_log_that_cannot_be_written_is_said(capsys, instance):
    instance.places.log_file.mkdir(parents=True)
    assert cli.run(["ps", "--json"]) == 3
    assert str(instance.places.log_file) in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_program_that_cannot_be_run_is_no_trouble_with_the_answer(capsys, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert cli.run(["ps", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["message"] == "/nowhere/python: No such file or directory"


@pytest.mark.parametrize(
    "args",
    [["stop", "s-\udcff"], ["run", "x", "--timeout", "nan"], ["run", "x", "--budget", "inf"]],
)
def test_what_is_no_text_and_what_is_no_amount_is_a_usage_error(capsys, args):
    assert cli.run([*args, "--json", "--no-start"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"
