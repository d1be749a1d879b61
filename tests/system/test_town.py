"""The main job on an in-memory bus: any order of steps, a crash before any of them."""

from __future__ import annotations

import pytest

from loomd.wire.bodies import Control, Recall, Recalled, Say
from tests.system.town import KINDS, S, Town

REPO = {
    "app/config.py": "def parse_cfg(path):\n    return {'path': path}\n",
    "app/main.py": (
        "from app.config import parse_cfg\n\n\ndef main():\n    return parse_cfg('a.toml')\n"
    ),
    "app/other.py": "import app.config\n\nVALUE = app.config.parse_cfg('b.toml')\n",
    "tests/test_config.py": (
        "from app.config import parse_cfg\n\n\ndef test_it():\n    assert parse_cfg('x')\n"
    ),
}
GOAL = "rename parse_cfg to parse_config"


def renamed() -> dict[str, str]:
    return {path: text.replace("parse_cfg", "parse_config") for path, text in REPO.items()}


def check(town: Town) -> None:
    assert town.row["state"] == "done", town.row
    assert town.files == renamed()
    assert len(town.performed) == len(set(town.performed)), "a model call was made twice"
    edits = town.board("edits")
    assert edits and all(edit["state"] == "applied" for edit in edits)
    assert all(edit["reviewer"] and edit["reviewer"] != edit["author"] for edit in edits)
    assert town.board("decisions")
    assert all(claim["state"] == "released" for claim in town.board("claims"))


def test_a_rename_from_the_goal_to_the_files():
    town = Town(REPO)
    town.run(GOAL)
    check(town)
    roles = {name.rpartition("/")[2].rstrip("-0123456789") for name in town.logs}
    assert roles == {"lead", "researcher", "coder", "reviewer"}


@pytest.mark.parametrize("seed", range(12))
def test_any_order_of_steps_gives_the_same_files(seed):
    town = Town(REPO, seed=seed)
    town.run(GOAL)
    check(town)


@pytest.mark.parametrize("seed", range(12))
def test_crashes_between_any_two_steps_lose_nothing_and_pay_nothing_twice(seed):
    town = Town(REPO, seed=seed, crash=0.3)
    town.run(GOAL)
    check(town)
    assert sum(actor.restarts for actor in town.actors.values()) > 10


@pytest.mark.parametrize("team", [1, 2, 3, 9])
@pytest.mark.parametrize("view", [800, 24_000])
def test_teams_of_any_size_with_views_of_any_size(team, view):
    town = Town(REPO, seed=team, crash=0.1, team=team, view=view)
    town.run(GOAL)
    check(town)


@pytest.mark.parametrize("turns", range(0, 140, 7))
def test_stop_at_any_time_ends_the_session_at_once(turns):
    town = Town(REPO, seed=turns)
    town.send(f"{S}/team", "hub", Say(text=GOAL, sender="user"))
    for _ in range(turns):
        town.turn()
    over = town.row.get("state") == "done"
    town.send(f"{S}/team", "hub", Control(op="stop"), lane=0)
    town.settle()
    assert town.row.get("state") in (("done",) if over else ("stopped", None, "done"))
    assert town.now < 1_005.0, "it waited for somebody's last word until the deadline"
    assert town.files.keys() == REPO.keys()


@pytest.mark.parametrize("turns", range(1, 140, 7))
def test_pause_at_any_time_holds_the_work_until_resume(turns):
    town = Town(REPO, seed=turns)
    town.send(f"{S}/team", "hub", Say(text=GOAL, sender="user"))
    for _ in range(turns):
        town.turn()
    town.send(f"{S}/team", "hub", Control(op="pause"), lane=0)
    while town.turn(timers=False):
        pass
    town.send(f"{S}/team", "hub", Control(op="resume"), lane=0)
    town.settle()
    check(town)


def test_a_goal_that_nobody_knows_ends_with_its_reason():
    town = Town(REPO)
    row = town.run("make me a sandwich")
    assert (row["state"], row["kind"]) == ("failed", "unknown_goal")
    assert town.files == REPO


def test_the_conversations_of_those_who_have_ended_can_be_recalled():
    town = Town(REPO)
    town.run(GOAL)
    keepers = [actor for name, actor in town.actors.items() if "/keeper-" in name]
    assert keepers
    for actor in keepers:
        log = town.logs[actor.spec.args["log"]]
        answer = KINDS["keeper"].answer(actor.state, Recall(mode="exact"), actor.state.reader)
        assert isinstance(answer, Recalled)
        assert [hit.raw for hit in answer.hits] == [raw for _, raw in sorted(log.items())]


def test_something_said_afterwards_goes_on_with_the_same_lead():
    town = Town(REPO)
    town.run(GOAL)
    before = len(town.told(f"{S}/lead"))
    row = town.run("where is parse_config used?")
    assert row["state"] == "done", row
    assert len(town.told(f"{S}/lead")) > before
    assert town.files == renamed()
