"""Plain files that people name. That no descriptor is left is asked after each test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loomd import plainfile, projects
from loomd.hub import configured, roles
from loomd.wire.errors import LoomError


@pytest.fixture(params=["folder", "pipe", "device"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What is there, and is no plain file."""
    match request.param:
        case "folder":
            return tmp_path
        case "pipe":
            os.mkfifo(tmp_path / "pipe")
            return tmp_path / "pipe"
        case _:
            return Path("/dev/zero")


def test_a_file_is_read_and_a_link_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        with plainfile.opened(tmp_path / name) as (file, status):
            assert (file.read(), status.st_size) == (b"one", 3)
    with pytest.raises(OSError, match="link"), plainfile.opened(tmp_path / "link", follow=False):
        pass


def test_anything_else_is_refused_and_not_waited_for(other: Path) -> None:
    with pytest.raises(plainfile.NotPlainError, match="it is no file"), plainfile.opened(other):
        pass


def test_what_raises_inside_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    with pytest.raises(RuntimeError), plainfile.opened(tmp_path / "a"):
        raise RuntimeError


def test_a_configuration_or_a_role_that_is_no_file_is_said_so(other: Path) -> None:
    with pytest.raises(LoomError, match="is no file of at most"):
        configured.read(other)
    with pytest.raises(ValueError, match="it is no file"):
        roles._text(other)


def test_what_is_no_file_by_now_is_no_part_of_a_project(other: Path) -> None:
    """A folder, in the place of a file that was listed."""
    assert projects._plain(other) is None
