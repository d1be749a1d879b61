"""The jobs of `offline/rules`, played by a whole team in memory to the final answer."""

from __future__ import annotations

import pytest

from loomd.gateway.offline.lead import partition
from loomd.wire.bodies import Failed, FinalAnswer
from tests.gateway.offline.team import Team

REPO = {
    "pkg/__init__.py": 'from .core import parse_cfg\n\n__all__ = ["parse_cfg"]\n',
    "pkg/core.py": (
        '"""Has parse_cfg."""\n\n\ndef parse_cfg(text):\n    """parse_cfg of text."""\n'
        "    return dict(line.split('=') for line in text.split())\n\n\n"
        "def twice(parse_cfg):\n    return parse_cfg, parse_cfg\n"
    ),
    "pkg/cli.py": (
        "import pkg.core as core\nfrom pkg import parse_cfg as p\n\n\n"
        "def main(text):\n    # parse_cfg does it\n"
        "    return core.parse_cfg(text), p(text), other.parse_cfg, f'{core.parse_cfg} parse_cfg'\n"
    ),
    "tests/test_core.py": (
        "from pkg.core import parse_cfg\n\n\ndef test_it():\n"
        '    assert parse_cfg("a=1") == {"a": "1"}\n'
    ),
    "other.py": "def unrelated():\n    parse_cfg = 1\n    return parse_cfg\n",
    "README.md": "Call parse_cfg.\n",
}

DONE = {
    "pkg/__init__.py": 'from .core import parse_config\n\n__all__ = ["parse_config"]\n',
    "pkg/core.py": REPO["pkg/core.py"].replace("def parse_cfg", "def parse_config"),
    "pkg/cli.py": (
        "import pkg.core as core\nfrom pkg import parse_config as p\n\n\n"
        "def main(text):\n    # parse_cfg does it\n"
        "    return core.parse_config(text), p(text), other.parse_cfg, "
        "f'{core.parse_config} parse_cfg'\n"
    ),
    "tests/test_core.py": REPO["tests/test_core.py"].replace("parse_cfg", "parse_config"),
    "other.py": REPO["other.py"],
    "README.md": REPO["README.md"],
}


@pytest.mark.parametrize("forget", [False, True])
def test_a_rename_changes_what_means_the_name_and_nothing_else(forget):
    team = Team(dict(REPO), forget=forget)
    outcome = team.run("rename parse_cfg to parse_config")
    assert isinstance(outcome, FinalAnswer), outcome
    assert team.files == DONE
    assert all(verdict == "approve" for verdict, _ in team.verdicts)
    assert "8 places in 4 files" in outcome.text
    assert "README.md" in outcome.text
    assert "other.py:2 (another variable of that name)" in outcome.text
    assert "pkg/cli.py:6 (in a comment)" in outcome.text
    assert "Tests before: 3 passed" in outcome.text


@pytest.mark.parametrize("place", ["pkg/shut.py", "shut/"])
def test_what_cannot_be_looked_into_may_use_the_name_so_nothing_is_changed(place):
    team = Team(dict(REPO), shut={place: "Permission denied"})
    outcome = team.run("rename parse_cfg to parse_config")
    assert isinstance(outcome, Failed) and outcome.kind == "conflict"
    assert f"{place} could not be searched for `parse_cfg` (Permission denied)" in outcome.detail
    assert team.files == REPO
    uses = team.run("find the uses of parse_cfg")
    assert isinstance(uses, FinalAnswer)
    assert f"Note: {place} was not searched: Permission denied" in uses.text


def test_a_shut_file_that_is_no_python_is_not_in_the_way():
    team = Team(dict(REPO), shut={"data.bin": "Permission denied"})
    assert isinstance(team.run("rename parse_cfg to parse_config"), FinalAnswer)
    assert team.files == DONE


@pytest.mark.parametrize("role", ["lead", "researcher", "coder"])
def test_what_is_said_while_an_answer_is_on_its_way_does_not_unmake_it(role):
    team = Team(dict(REPO), late={role: "please be careful"})
    outcome = team.run("rename parse_cfg to parse_config")
    assert isinstance(outcome, FinalAnswer), outcome
    assert outcome.text.startswith("Renamed `parse_cfg`") and team.files == DONE
    assert not team.late


def test_a_goal_said_while_the_answer_is_on_its_way_is_answered_too():
    team = Team(dict(REPO), late={"lead": "outline other.py"})
    outcome = team.run("rename parse_cfg to parse_config")
    assert isinstance(outcome, FinalAnswer)
    assert outcome.text.startswith("Renamed `parse_cfg`") and "unrelated" in outcome.text
    again = team.run("thanks")  # a task of its own, with no answer
    assert isinstance(again, Failed) and again.kind == "unknown_goal"


def test_coders_work_side_by_side_and_claim_first():
    team = Team(dict(REPO))
    team.run("rename parse_cfg to parse_config")
    assert team.names == {"researcher": 1, "coder": 2}
    for coder in ("s-1/coder-1", "s-1/coder-2"):
        names = [name for agent, name, _ in team.calls if agent == coder]
        assert names == ["claim"] * 2 + ["read"] * 2 + ["edit"] * 2


def test_what_left_the_view_is_not_missed():
    team = Team(dict(REPO), view=4)
    outcome = team.run("rename parse_cfg to parse_config")
    assert isinstance(outcome, FinalAnswer), outcome
    assert team.files == DONE


def test_an_edit_that_met_a_change_is_made_anew():
    team = Team(dict(REPO), spoil=2)
    outcome = team.run("rename parse_cfg to parse_config")
    assert isinstance(outcome, FinalAnswer), outcome
    assert {p: t.replace("# moved\n", "") for p, t in team.files.items()} == DONE


def test_a_coder_that_is_lost_is_followed_by_another():
    team = Team(dict(REPO), kill=1)
    assert isinstance(team.run("rename parse_cfg to parse_config"), FinalAnswer)
    assert team.files == DONE


def test_files_that_could_not_be_changed_are_no_success():
    team = Team(dict(REPO), spoil=100)
    outcome = team.run("rename parse_cfg to parse_config")
    assert isinstance(outcome, Failed) and outcome.kind == "incomplete"


def test_tests_that_fail_afterwards_are_no_success():
    team = Team(dict(REPO), shell=["2 passed in 1s", "1 failed, 1 passed in 1s"])
    outcome = team.run("rename parse_cfg to parse_config")
    assert isinstance(outcome, Failed) and outcome.kind == "tests_failed"
    assert "1 failed, 1 passed" in outcome.detail


def test_tests_that_failed_before_are_said_and_not_blamed():
    team = Team(dict(REPO), shell=["1 failed, 1 passed in 1s", "1 failed, 1 passed in 1s"])
    outcome = team.run("rename parse_cfg to parse_config")
    assert isinstance(outcome, FinalAnswer) and "1 failed" in outcome.text


@pytest.mark.parametrize(
    ("goal", "kind"),
    [
        ("rename parse_cfg to class", "bad_goal"),
        ("rename parse_cfg to 2fast", "bad_goal"),
        ("rename parse-cfg to x", "bad_goal"),
        ("rename parse_cfg to twice", "conflict"),
        ("rename nowhere to somewhere", "not_found"),
        ("make it faster", "unknown_goal"),
        ("rename parse_cfg to x and write tests", "unknown_goal"),
        ("outline nothing.here", "not_found"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_changes(goal, kind):
    team = Team(dict(REPO))
    outcome = team.run(goal)
    assert isinstance(outcome, Failed), outcome
    assert outcome.kind == kind, outcome
    assert team.files == REPO


def test_an_unknown_goal_says_what_is_known_and_how_to_get_a_model():
    outcome = Team(dict(REPO)).run("make it faster")
    assert isinstance(outcome, Failed)
    assert "rename parse_cfg to parse_config" in outcome.detail
    assert "default" in outcome.hint and "api_key_env" in outcome.hint


def test_the_uses_of_a_name_are_told_from_others_of_that_name():
    outcome = Team(dict(REPO)).run("find the uses of parse_cfg")
    assert isinstance(outcome, FinalAnswer)
    assert "`pkg.core:parse_cfg`: 8 places in 4 files" in outcome.text
    assert "pkg/core.py:4: def parse_cfg(text): (definition)" in outcome.text
    assert "```" not in outcome.text


def test_a_module_is_outlined():
    for goal in ("outline pkg/core.py", "outline pkg.core", "Outline the module core, please"):
        outcome = Team(dict(REPO)).run(goal)
        assert isinstance(outcome, FinalAnswer), outcome
        assert "4  def parse_cfg(text)  # parse_cfg of text." in outcome.text


def test_a_session_goes_on_with_the_next_goal():
    team = Team(dict(REPO))
    team.run("make it faster")
    assert isinstance(team.run("rename parse_cfg to parse_config"), FinalAnswer)
    assert isinstance(team.run("rename parse_config to parse_cfg"), FinalAnswer)
    assert team.files == REPO
    assert isinstance(team.run("rename nowhere to parse_cfg"), Failed)
    assert isinstance(team.run("find the uses of twice"), FinalAnswer)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("forget", [False, True])
def test_a_team_of_any_size_does_it(size, forget):
    team = Team(dict(REPO), size=size, forget=forget)
    assert isinstance(team.run("rename parse_cfg to parse_config"), FinalAnswer)
    assert team.files == DONE
    assert team.names.get("coder", 0) == {1: 0, 2: 1, 3: 2, 4: 2, 6: 3, 12: 4}[size]
    assert isinstance(team.run("find the uses of parse_config"), FinalAnswer)
    assert isinstance(team.run("outline pkg.core"), FinalAnswer)
    failed = team.run("rename nowhere to somewhere")
    assert isinstance(failed, Failed) and failed.kind == "not_found"


def test_a_goal_said_meanwhile_is_done_next():
    team = Team(dict(REPO), interrupt="rename twice to double")
    outcome = team.run("rename parse_cfg to parse_config")
    assert isinstance(outcome, FinalAnswer), outcome
    assert "`parse_cfg`" in outcome.text and "`twice`" in outcome.text
    assert team.files["pkg/core.py"] == DONE["pkg/core.py"].replace("twice", "double")


def test_what_another_agent_says_is_no_goal():
    team = Team(dict(REPO), interrupt="rename twice to double", interrupter="s-1/coder-9")
    assert isinstance(team.run("rename parse_cfg to parse_config"), FinalAnswer)
    assert team.files == DONE


def test_a_large_file_is_changed_in_several_edits():
    line = f"    print(parse_cfg('x'), 'parse_cfg', '{'y' * 400}')\n"
    source = "def parse_cfg(text):\n    return text\n\n\ndef f():\n" + line * 400
    team = Team({"big.py": source, "small.py": "from big import parse_cfg\n"}, spoil=1)
    assert isinstance(team.run("rename parse_cfg to parse_config"), FinalAnswer)
    after = source.replace("parse_cfg(", "parse_config(")
    assert team.files["big.py"].replace("# moved\n", "") == after
    assert team.edits > 3


def test_a_spawned_agent_takes_its_task_from_whoever_gave_it():
    team = Team(dict(REPO), task_sender="s-1/lead")
    assert isinstance(team.run("rename parse_cfg to parse_config"), FinalAnswer)
    assert team.files == DONE


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_stay_as_they_are(end):
    files = {"a.py": "def parse_cfg():\n    pass\n\n\nparse_cfg()\n".replace("\n", end)}
    team = Team(files)
    assert isinstance(team.run("rename parse_cfg to parse_config"), FinalAnswer)
    wanted = "def parse_config():\n    pass\n\n\nparse_config()\n".replace("\n", end)
    assert team.files["a.py"] == wanted


def test_a_file_too_long_to_be_read_is_an_objection():
    team = Team({"a.py": "def parse_cfg(): ...\n", "b.py": "x\n" * 50 + "parse_cfg\n"}, page=9)
    outcome = team.run("rename parse_cfg to parse_config")
    assert isinstance(outcome, Failed) and outcome.kind == "conflict"
    assert "b.py" in outcome.detail
    outcome = team.run("outline b.py")
    assert isinstance(outcome, Failed) and "too long" in outcome.detail


def test_a_file_in_another_encoding_is_an_objection():
    team = Team({"a.py": "# coding: latin-1\ndef parse_cfg(): return '\ufffd'\n"})
    outcome = team.run("rename parse_cfg to parse_config")
    assert isinstance(outcome, Failed) and "UTF-8" in outcome.detail


def test_many_files_go_in_waves_that_one_coder_each_can_do():
    files = [{"path": f"m{n}.py", "count": 1 + n % 7, "chars": 9000} for n in range(700)]
    waves = partition(files, 6)
    parts = [part for wave in waves for part in wave]
    assert all(len(wave) <= 3 for wave in waves) and len(waves) > 1
    assert all(len(part) <= 70 for part in parts)
    assert sorted(f["path"] for part in parts for f in part) == sorted(f["path"] for f in files)


@pytest.mark.parametrize("size", [1, 6])
def test_a_large_repo_is_renamed_whole(size):
    files = {f"m{n}.py": f"from core import parse_cfg\nx{n} = parse_cfg({n})\n" for n in range(600)}
    files["core.py"] = "def parse_cfg(n):\n    return n\n"
    team = Team(dict(files), size=size, view=40)
    assert isinstance(team.run("rename parse_cfg to parse_config"), FinalAnswer)
    assert team.files == {p: t.replace("parse_cfg", "parse_config") for p, t in files.items()}
    by_agent = {name for name, tool, _ in team.calls if tool == "edit"}
    assert size == 1 or len(by_agent) > 3
