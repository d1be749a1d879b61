"""Roles are read strictly; pinned blocks say what an agent must know."""

from __future__ import annotations

import pytest

from loomd.agent.process import PACKAGE_ROLES, package_roles, read_roles
from loomd.agent.prompt import cut, first_line, parse_role, pinned, role_of
from loomd.wire.errors import LoomError


def test_a_role_is_front_matter_and_text():
    role = parse_role(
        '+++\nname = "scout"\ntools = ["read"]\ntemperature = 0.5\n+++\nLook around.\n', "file"
    )
    assert (role.name, role.tools, role.temperature, role.model) == ("scout", ("read",), 0.5, "")
    assert role.prompt == f"{first_line('scout')}\nLook around."


def test_a_role_without_front_matter_is_named_after_its_file():
    role = parse_role("Look around.", "scout")
    assert (role.name, role.tools) == ("scout", None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('+++\nname = "x"\n', "no end"),
        ("+++\nname = \n+++\n", "scout.md"),
        ("+++\ncolour = 1\n+++\n", "colour"),
        ('+++\ntemperature = "hot"\n+++\n', "temperature"),
        ("+++\ntools = 3\n+++\n", "tools"),
    ],
)
def test_a_bad_role_is_refused_with_the_place(text, says):
    with pytest.raises(LoomError, match=says) as caught:
        parse_role(text, "scout", "roles/scout.md")
    assert caught.value.code == "config"


def test_the_roles_that_ship_are_complete():
    roles = package_roles()
    assert set(roles) == {"lead", "researcher", "coder", "reviewer", "tester"}
    assert len(list(PACKAGE_ROLES.glob("*.md"))) == len(roles)
    for name, role in roles.items():
        assert role.prompt.startswith(first_line(name))
        assert role.description
    assert roles["lead"].tools is None
    tools = {name: set(role.tools or ()) for name, role in roles.items()}
    assert "review" in tools["reviewer"]
    assert not tools["reviewer"] & {"edit", "write", "apply_patch", "shell"}
    assert not tools["researcher"] & {"edit", "write", "apply_patch", "shell", "review"}
    assert "review" not in tools["coder"], "nobody approves what he wrote"


def test_a_bad_file_leaves_out_only_its_own_role(tmp_path, capsys):
    (tmp_path / "good.md").write_text("Fine.")
    (tmp_path / "bad.md").write_text("+++\nx")
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge.md").write_text("x" * 50_000)
    roles, broken = read_roles(tmp_path)
    assert set(roles) == {"good"} and set(broken) == {"bad", "binary", "huge"}
    assert "no end" in broken["bad"] and "50000 bytes" in broken["huge"]
    assert read_roles(tmp_path / "none") == ({}, {})


def test_an_unknown_role_gets_a_plain_prompt():
    role = role_of({}, "poet")
    assert role.prompt.startswith("You are the poet of a team of coding agents.")
    assert role.tools is None


def test_pinned_blocks_come_in_a_fixed_order_and_only_where_there_is_something():
    role = parse_role("Code.", "coder")
    args = {"repo": "/r", "team_size": 2, "rules": "Tabs.", "goal": "G"}
    blocks = pinned(role, "s-1/coder-1", args, ("t-1", "Do."), ["keeper-1: old"])
    assert blocks[0].startswith("You are the coder of a team of coding agents.")
    assert [block.split(":")[0] for block in blocks[1:]] == [
        "Agent",
        "Project rules (AGENTS.md)",
        "Goal of the session",
        "Task t-1",
        "Held by keepers, not lost",
    ]
    assert "Team size: 2" in blocks[1] and "Repo: /r" in blocks[1]
    assert len(pinned(role, "s-1/coder-1", {}, None, [])) == 2
    assert len(pinned(role, "s-1/lead", {"goal": "G"}, ("t-1", "G"), [])) == 3


def test_what_is_cut_says_so_and_stays_readable():
    assert cut("äöü", 100) == "äöü"
    assert cut("ä" * 100, 101) == "ä" * 50 + "\n[cut: 99 more bytes]"
