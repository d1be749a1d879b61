"""The roles that ship; pinned blocks say what an agent must know."""

from __future__ import annotations

from loomd.actor.roles import first_line, parse_role, role_of
from loomd.agent.process import PACKAGE_ROLES, package_roles
from loomd.agent.prompt import cut, pinned


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
        "Project rules (AGENTS.md)",
        "Agent",
        "Goal of the session",
        "Task t-1",
        "Held by keepers, not lost",
    ]
    assert "Team size: 2" in blocks[2] and "Repo: /r" in blocks[2]
    assert len(pinned(role, "s-1/coder-1", {}, None, [])) == 2
    assert len(pinned(role, "s-1/lead", {"goal": "G"}, ("t-1", "G"), [])) == 3


def test_what_is_cut_says_so_and_stays_readable():
    assert cut("äöü", 100) == "äöü"
    assert cut("ä" * 100, 101) == "ä" * 50 + "\n[cut: 99 more bytes]"
