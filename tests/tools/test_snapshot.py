"""What calls change in the checkout itself: a real folder, with and without git."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from loomd.store.blobs import get_blob
from loomd.tools import pinned, snapshot
from loomd.tools.snapshot import Snapshots
from loomd.wire.bodies import Changed, ToolCall
from tests.support import eventually
from tests.tools.stand import open_repo

CALL = ToolCall(id="c-1", agent="s-test00/coder-1", name="shell", task="t-2")
FILES = {"a": "one\n", "b/c": "two\n", "run": "#!/bin/sh\n", ".gitignore": "ignored\n"}


@pytest.fixture(params=[True, False], ids=["git", "plain"])
def repo(request) -> Iterator[Path]:
    with open_repo(FILES, git=request.param) as made:
        yield made


def snapshots(repo: Path) -> Snapshots:
    return Snapshots(repo, repo.parent / "kept", repo.parent / "blobs")


def contents(repo: Path, changed: Changed | None) -> dict[str, tuple[bytes | None, bytes | None]]:
    """path -> (before, after), from the blobs."""
    assert changed is not None

    def blob(name: str) -> bytes | None:
        return get_blob(repo.parent / "blobs", name) if name else None

    return {file.path: (blob(file.base), blob(file.after)) for file in changed.files}


def ticked(path: Path) -> None:
    """The clock that files are stamped with has gone on since this one was written."""
    eventually(lambda: snapshot._clock() > path.stat().st_ctime_ns)


def test_a_folder_that_has_become_a_link_is_not_followed(repo):
    """What lies there would be read with the rights of the daemon, and shown as the change."""
    elsewhere = repo.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "c").write_text("secret\n")
    looked = snapshots(repo)
    looked.before("x")
    (repo / "b/c").unlink()
    (repo / "b").rmdir()
    (repo / "b").symlink_to(elsewhere)
    found = looked.after("x", CALL, "shell: x")
    assert contents(repo, found) == {"b/c": (b"two\n", None)}
    with pytest.raises(NotADirectoryError):
        pinned.read(repo, repo / "b/c")
    looked.before("y")
    (elsewhere / "c").write_text("other\n")
    assert looked.after("y", CALL, "shell: y") is None
    names = {path.name for path in (repo.parent / "blobs").rglob("*") if path.is_file()}
    assert snapshot.name_of(b"secret\n") not in names


def test_what_changed_is_found_with_before_and_after(repo):
    looked = snapshots(repo)
    looked.before("x")
    (repo / "a").write_text("ONE\n")
    (repo / "b/c").unlink()
    (repo / "new").mkdir()
    (repo / "new/d").write_bytes(b"\0")
    (repo / "run").chmod(0o755)
    found = looked.after("x", CALL, "shell: x")
    assert contents(repo, found) == {
        "a": (b"one\n", b"ONE\n"),
        "b/c": (b"two\n", None),
        "new/d": (None, b"\0"),
        "run": (b"#!/bin/sh\n", b"#!/bin/sh\n"),
    }
    modes = {file.path: (file.was & 0o777, file.mode & 0o777) for file in found.files}
    assert modes["run"][0] & 0o111 == 0 and modes["run"][1] == 0o755
    assert (found.call, found.agent, found.task, found.reason) == (
        "c-1",
        CALL.agent,
        "t-2",
        "shell: x",
    )
    looked.before("y")
    assert looked.after("y", CALL, "") is None


def test_a_change_within_one_tick_of_the_clock_that_leaves_size_and_times_is_seen(repo):
    looked = snapshots(repo)
    (repo / "a").write_text("two\n")
    looked.before("x")
    with open(repo / "a", "r+") as file:  # the same inode and size, maybe the same tick
        file.write("six\n")
    assert contents(repo, looked.after("x", CALL, "")) == {"a": (b"two\n", b"six\n")}


def test_what_others_did_between_two_calls_is_no_calls(repo):
    looked = snapshots(repo)
    looked.before("x")
    assert looked.after("x", CALL, "") is None
    (repo / "a").write_text("a person's\n")
    looked.before("y")
    assert looked.after("y", CALL, "") is None


def test_an_edit_that_was_applied_meanwhile_is_no_calls(repo):
    looked = snapshots(repo)
    looked.before("x")
    (repo / "a").write_text("by an edit\n")
    (repo / "b/c").unlink()
    looked.wrote(["a", "b/c"])
    (repo / "run").write_text("by the call\n")
    assert set(contents(repo, looked.after("x", CALL, ""))) == {"run"}


def test_of_calls_that_run_at_once_the_first_to_end_has_it(repo):
    looked = snapshots(repo)
    looked.before("x")
    (repo / "a").write_text("1\n")
    looked.before("y")
    assert set(contents(repo, looked.after("y", CALL, ""))) == {"a"}
    (repo / "run").write_text("2\n")
    assert set(contents(repo, looked.after("x", CALL, ""))) == {"run"}


def test_what_is_not_covered_is_said(repo, monkeypatch):
    monkeypatch.setattr(snapshot, "MAX_FILE", 8)
    (repo / "large").write_text("0123456789")
    looked = snapshots(repo)
    looked.before("x")
    (repo / "large").write_text("9876543210")
    (repo / "grown").write_text("9876543210")
    (repo / "a").unlink()
    (repo / "a").symlink_to("run")
    os.mkfifo(repo / "pipe")
    (repo / os.fsdecode(b"\xff")).write_text("x")
    found = looked.after("x", CALL, "")
    assert contents(repo, found) == {"a": (b"one\n", None)}
    said = "\n".join(found.left)
    assert "large: larger than" in said and "grown: larger than" in said
    assert "a: no plain file any more" in said
    assert "its name is no UTF-8" in said


def test_files_that_git_ignores_are_not_looked_at_and_one_that_it_ignored_is_not_new():
    with open_repo(FILES) as repo:
        (repo / "ignored").write_text("x")
        looked = snapshots(repo)
        ticked(repo / "ignored")
        looked.before("x")
        (repo / "ignored").write_text("y")
        assert looked.after("x", CALL, "") is None
        (repo / "ignored").write_text("z")
        ticked(repo / "ignored")
        looked.before("y")
        (repo / ".gitignore").write_text("")
        assert set(contents(repo, looked.after("y", CALL, ""))) == {".gitignore"}


def test_a_successor_finds_what_a_killed_host_had_not_told(repo):
    looked = snapshots(repo)
    looked.before("x")
    (repo / "a").write_text("half\n")
    after_kill = snapshots(repo)
    found = after_kill.interrupted("x", CALL, "shell: x")
    assert found.interrupted and contents(repo, found) == {"a": (b"one\n", b"half\n")}
    again = snapshots(repo)  # killed once more, before that was committed
    assert again.interrupted("x", CALL, "shell: x") == found
    again.forget("x")
    again.before("y")
    assert again.after("y", CALL, "") is None


def test_an_end_that_was_not_committed_is_told_again(repo):
    looked = snapshots(repo)
    looked.before("x")
    (repo / "a").write_text("whole\n")
    found = looked.after("x", CALL, "")
    looked.close()
    assert snapshots(repo).interrupted("x", CALL, "") == found


def test_an_orderly_end_leaves_nothing(repo, monkeypatch):
    monkeypatch.setattr(snapshot, "COMMITTED_S", -1.0)
    looked = snapshots(repo)
    looked.before("x")
    looked.close()
    assert (repo.parent / "kept").exists(), "a call is under way"
    looked.after("x", CALL, "")
    looked.close()
    assert not (repo.parent / "kept").exists()
    assert snapshots(repo).interrupted("z", CALL, "") is None


def test_what_was_kept_and_is_lost_is_said_and_not_guessed(repo):
    looked = snapshots(repo)
    looked.before("x")
    (repo / "a").write_text("new\n")
    for kept in (repo.parent / "kept" / "kept").iterdir():
        kept.write_bytes(b"torn")
    found = looked.after("x", CALL, "")
    assert found.files == () and found.left == ("a: what was kept of it is lost",)


def test_too_many_files_are_cut_and_said(repo, monkeypatch):
    monkeypatch.setattr(snapshot, "MAX_CHANGED", 3)
    looked = snapshots(repo)
    looked.before("x")
    for n in range(5):
        (repo / f"n{n}").write_text(str(n))
    found = looked.after("x", CALL, "")
    assert len(found.files) == 3 and "more than 3 files" in found.left[-1]
