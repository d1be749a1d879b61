import os
import stat

import pytest

from loomd.tools import apply as applying
from loomd.tools.apply import OnDisk, apply, plan
from loomd.tools.propose import change, name_of
from loomd.wire.errors import LoomError

OLD, NEW = b"old\n", b"new\n"
EDIT = change("a.txt", OLD, NEW)


@pytest.mark.parametrize(
    ("file", "disk", "state"),
    [
        (EDIT, OnDisk(name_of(OLD), 0o644), "write"),
        (EDIT, OnDisk(name_of(NEW), 0o644), "done"),
        (EDIT, OnDisk(name_of(b"other"), 0o644), "conflict"),
        (EDIT, OnDisk(""), "conflict"),
        (change("a", None, NEW), OnDisk(""), "write"),
        (change("a", None, NEW), OnDisk(name_of(NEW), 0o644), "done"),
        (change("a", None, NEW), OnDisk(name_of(OLD), 0o644), "conflict"),
        (change("a", OLD, None), OnDisk(name_of(OLD), 0o644), "remove"),
        (change("a", OLD, None), OnDisk(""), "done"),
        (change("a", OLD, None), OnDisk(name_of(NEW), 0o644), "conflict"),
        (change("a", OLD, OLD, 0o755), OnDisk(name_of(OLD), 0o644), "mode"),
    ],
)
def test_the_plan_looks_at_what_is_on_the_disk(file, disk, state):
    assert [step.state for step in plan([file], lambda _: disk)] == [state]


@pytest.fixture
def repo(tmp_path):
    root = tmp_path / "repo"
    root.mkdir()
    return root


def run(repo, *files):
    blobs = {name_of(content): content for content in (OLD, NEW)}
    return apply(repo, "e-1", files, blobs.__getitem__, "s/tools")


def test_an_edit_is_written_and_a_second_time_it_is_done(repo):
    (repo / "a.txt").write_bytes(OLD)
    (repo / "a.txt").chmod(0o640)
    assert run(repo, EDIT).state == "applied"
    assert (repo / "a.txt").read_bytes() == NEW
    assert stat.S_IMODE((repo / "a.txt").stat().st_mode) == 0o640
    inode = (repo / "a.txt").stat().st_ino
    assert run(repo, EDIT).state == "applied"
    assert (repo / "a.txt").stat().st_ino == inode
    assert os.listdir(repo) == ["a.txt"]


def test_files_come_and_go_with_their_folders(repo):
    (repo / "gone").write_bytes(OLD)
    made = run(repo, change("x/y/new.sh", None, NEW, 0o755), change("gone", OLD, None))
    assert made.state == "applied"
    assert (repo / "x/y/new.sh").read_bytes() == NEW and os.access(repo / "x/y/new.sh", os.X_OK)
    assert not (repo / "gone").exists()


def test_one_conflict_and_nothing_is_written(repo):
    (repo / "a.txt").write_bytes(OLD)
    (repo / "b.txt").write_bytes(b"someone else's")
    made = run(repo, EDIT, change("b.txt", OLD, NEW))
    assert made.state == "conflict" and "b.txt has changed" in made.detail
    assert (repo / "a.txt").read_bytes() == OLD


def test_an_application_that_died_between_two_files_is_finished(repo):
    (repo / "a.txt").write_bytes(NEW)  # the first one had been renamed
    (repo / "b.txt").write_bytes(OLD)
    left = repo / (applying._prefix("s/tools") + "dead")
    left.write_bytes(b"half")
    assert run(repo, EDIT, change("b.txt", OLD, NEW)).state == "applied"
    assert (repo / "b.txt").read_bytes() == NEW and not left.exists()


@pytest.mark.parametrize("path", ["../out", "/etc/x", "a/../../out", "link/x", ".git/config"])
def test_nothing_is_written_outside_of_the_checkout(repo, tmp_path, path):
    (repo / "link").symlink_to(tmp_path)
    (repo / ".git").mkdir()
    made = run(repo, change(path, None, NEW))
    assert made.state == "failed" and not (tmp_path / "x").exists()
    assert not (tmp_path / "out").exists()


def test_a_link_is_not_written_through(repo, tmp_path):
    (tmp_path / "target").write_bytes(OLD)
    (repo / "a.txt").symlink_to(tmp_path / "target")
    assert run(repo, EDIT).state == "failed"
    assert (tmp_path / "target").read_bytes() == OLD


def swapped(repo, outside):
    """What a command does to a folder while an edit is being applied there."""
    (repo / "d").rename(repo / "moved")
    (repo / "d").symlink_to(outside)


@pytest.mark.parametrize("when", ["before it is opened", "while it is written"])
@pytest.mark.parametrize(
    "file",
    [
        change("d/a", OLD, NEW),
        change("d/a", OLD, OLD, 0o755),
        change("d/a", OLD, None),
        change("d/new/b", None, NEW),
    ],
)
def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(
    repo, tmp_path, monkeypatch, file, when
):
    outside = tmp_path / "outside"
    for folder in (repo / "d", outside):
        folder.mkdir()
        (folder / "a").write_bytes(OLD)
        (folder / "a").chmod(0o644)
    if when == "before it is opened":
        monkeypatch.setattr(
            applying, "crash_point", lambda point, name: swapped(repo, outside)
            if point == "apply.before_rename" and not (repo / "moved").exists() else None,
        )  # fmt: skip
        assert run(repo, file).state == "failed"
    else:
        done = applying._done

        def late(*args, **more):
            swapped(repo, outside)
            done(*args, **more)

        monkeypatch.setattr(applying, "_done", late)
        assert run(repo, file).state == "applied"
        assert not (repo / "moved/a").exists() or (repo / "moved/a").read_bytes() in (OLD, NEW)
    assert os.listdir(outside) == ["a"] and (outside / "a").read_bytes() == OLD
    assert stat.S_IMODE((outside / "a").stat().st_mode) == 0o644


def test_what_is_protected_is_not_reached_through_a_link_either(repo):
    (repo / ".loom").mkdir()
    (repo / "x").symlink_to(".loom")
    made = run(repo, change("x/tools.py", None, NEW))
    assert made.state == "failed" and ".loom through a link" in made.detail
    assert os.listdir(repo / ".loom") == []


def test_a_missing_blob_is_a_failure_that_leaves_nothing(repo):
    (repo / "a.txt").write_bytes(OLD)

    def missing(name):
        raise LoomError("not_found", "no such blob")

    assert apply(repo, "e-1", [EDIT], missing, "s/tools").state == "failed"
    assert os.listdir(repo) == ["a.txt"] and (repo / "a.txt").read_bytes() == OLD


def test_an_edit_that_fails_half_way_is_taken_back(repo):
    (repo / "a.txt").write_bytes(OLD)
    (repo / "a.txt").chmod(0o600)
    (repo / "gone").write_bytes(OLD)
    (repo / "script").write_bytes(OLD)
    blobs = {name_of(content): content for content in (OLD, NEW)}

    def blob(name):
        if name not in blobs:
            raise LoomError("not_found", f"no such blob: {name}")
        return blobs[name]

    files = (
        change("a.txt", OLD, NEW, 0o755),
        change("new/b.txt", None, NEW),
        change("gone", OLD, None),
        change("script", OLD, OLD, 0o755),
        change("c.txt", None, b"a content that is nowhere\n"),
    )
    applied = apply(repo, "e-1", files, blob, "s/tools")
    assert applied.state == "failed" and "no such blob" in applied.detail
    assert "taken back" not in applied.detail
    assert {p.name: p.read_bytes() for p in repo.iterdir() if p.is_file()} == {
        "a.txt": OLD,
        "gone": OLD,
        "script": OLD,
    }
    assert not list((repo / "new").iterdir())
    assert stat.S_IMODE((repo / "a.txt").stat().st_mode) == 0o600
    assert stat.S_IMODE((repo / "script").stat().st_mode) == 0o644


# --- undos, and applications that died -----------------------------------------------------------


def test_what_a_dead_application_wrote_is_taken_back_if_the_rest_cannot_be_written(repo):
    (repo / "a.txt").write_bytes(NEW)  # it had come so far
    (repo / "b.txt").write_bytes(b"somebody's, since")
    (repo / "new").write_bytes(NEW)
    files = (
        change("a.txt", OLD, NEW, 0o644, 0o640),
        change("new", None, NEW),
        change("gone", OLD, None, 0o644, 0o600),
        change("b.txt", OLD, NEW),
    )
    blobs = {name_of(content): content for content in (OLD, NEW)}
    made = apply(repo, "e-1", files, blobs.__getitem__, "s/tools", again=True)
    assert made.state == "conflict" and "b.txt has changed" in made.detail
    assert (repo / "a.txt").read_bytes() == OLD
    assert stat.S_IMODE((repo / "a.txt").stat().st_mode) == 0o640
    assert not (repo / "new").exists()
    assert (repo / "gone").read_bytes() == OLD
    assert (repo / "b.txt").read_bytes() == b"somebody's, since"


def test_what_stood_as_wanted_before_the_first_application_is_not_taken_back(repo):
    (repo / "a.txt").write_bytes(NEW)
    (repo / "b.txt").write_bytes(b"somebody's")
    assert run(repo, EDIT, change("b.txt", OLD, NEW)).state == "conflict"
    assert (repo / "a.txt").read_bytes() == NEW


def test_an_undo_sets_the_very_modes_and_takes_empty_folders_along(repo):
    (repo / "a/b").mkdir(parents=True)
    (repo / "kept").mkdir()
    for name in ("a/b/x", "kept/x", "kept/y", "mode"):
        (repo / name).write_bytes(NEW)
    (repo / "mode").chmod(0o644)
    files = (
        change("a/b/x", NEW, None),
        change("kept/x", NEW, None),
        change("mode", NEW, NEW, 0o600, 0o644),
        change("back", None, OLD, 0o750),
    )
    blobs = {name_of(content): content for content in (OLD, NEW)}
    for _ in range(2):  # again, as after a crash
        made = apply(repo, "e-1", files, blobs.__getitem__, "s/tools", exact=True)
        assert made.state == "applied", made
        assert sorted(os.listdir(repo)) == ["back", "kept", "mode"]
        assert os.listdir(repo / "kept") == ["y"]
        assert stat.S_IMODE((repo / "mode").stat().st_mode) == 0o600
        assert stat.S_IMODE((repo / "back").stat().st_mode) == 0o750
