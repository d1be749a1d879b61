"""The command line itself: flags, exit codes, errors as JSON. No daemon is started here."""

import json
from pathlib import Path

import pytest

from loomctl import cli
from loomctl.commands import NOT_YET, VERBS, jobs
from loomd.wire.endpoints import Instance


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
