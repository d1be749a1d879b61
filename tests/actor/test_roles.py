"""Roles are read strictly; what was good of a file stays in force when it is broken."""

from __future__ import annotations

import pytest

from loomd.actor.roles import USER, first_line, in_force, merged, parse_role, parsed, row_key
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


GOOD, BETTER, BAD = "Be good.", "+++\ntemperature = 0.5\n+++\nBe better.", "+++\ncolour = 1\n+++\n"


def texts(row):
    return {name: file["text"] for name, file in row["files"].items()}


def test_a_folder_is_taken_over_and_the_generation_moves_on_with_what_changes():
    first = merged(None, {"coder": GOOD}, {})
    assert (first["generation"], texts(first), first["errors"]) == (1, {"coder": GOOD}, {})
    assert merged(first, {"coder": GOOD}, {}) == first
    second = merged(first, {"coder": GOOD, "poet": BETTER}, {})
    assert second["generation"] == 2
    assert [second["files"][name]["generation"] for name in ("coder", "poet")] == [1, 2]
    third = merged(second, {"poet": BETTER}, {})
    assert (third["generation"], set(third["files"])) == (3, {"poet"})


def test_a_broken_file_keeps_what_it_was_and_says_why():
    first = merged(None, {"coder": GOOD}, {})
    broken = merged(first, {"coder": BAD}, {})
    assert texts(broken) == {"coder": GOOD} and broken["generation"] == 1
    assert broken["errors"] == {"coder": "unknown key 'colour'"}
    unread = merged(broken, {}, {"coder": "not UTF-8"})
    assert texts(unread) == {"coder": GOOD} and unread["errors"] == {"coder": "not UTF-8"}
    mended = merged(unread, {"coder": GOOD}, {})
    assert mended == first
    assert merged(None, {"coder": BAD}, {})["files"] == {}


def test_a_repos_role_goes_before_the_users_and_is_called_what_it_says():
    user = merged(None, {"coder": GOOD, "poet": GOOD}, {})
    repo = merged(None, {"file": '+++\nname = "coder"\n+++\nBe ours.'}, {})
    written = in_force([(USER, user), ("/r", None), ("/r", repo)])
    assert {name: (one.place, one.file) for name, one in written.items()} == {
        "coder": ("/r", "file"),
        "poet": (USER, "poet"),
    }
    assert parsed(written)["coder"].prompt.endswith("Be ours.")
    assert row_key(USER) != row_key("/r") != row_key("/r2")
