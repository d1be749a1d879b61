import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from loomd.tools import copy as copies
from loomd.tools.contract import NewFile, ToolError
from tests.tools.stand import git_repo, nobody, open_repo


@pytest.fixture
def repo(tmp_path):
    root = git_repo(
        tmp_path / "repo",
        {"a.py": "a\n", "b/c.py": "c\n", "run.sh": "x\n", ".gitignore": "*.log\nbuild/\n"},
    )
    (root / "run.sh").chmod(0o755)
    (root / "x.log").write_text("ignored")
    (root / "link").symlink_to("a.py")
    return root


@pytest.fixture
def copy(repo, tmp_path):
    return copies.make(repo, tmp_path / "copy")


def changed(copy):
    files, left = copies.changes(copy)
    return {file.path: file for file in files}, left


def test_a_copy_has_everything_and_is_no_change(repo, copy):
    assert (copy.root / "b/c.py").read_text() == "c\n"
    assert (copy.root / "x.log").exists() and (copy.root / ".git").is_dir()
    assert os.access(copy.root / "run.sh", os.X_OK) and (copy.root / "link").is_symlink()
    assert changed(copy) == ({}, [])


def test_what_may_not_be_read_is_left_out_and_the_copy_can_be_removed():
    with open_repo({"a.py": "a\n", "in/c.py": "c\n", "fixed/d.py": "d\n"}) as repo:
        (repo / "in").chmod(0)
        (repo / "fixed").chmod(0o555)
        with nobody(), tempfile.TemporaryDirectory(dir="/tmp") as scratch:
            copy = copies.make(repo, Path(scratch) / "copy")
            assert (copy.root / "a.py").exists() and (copy.root / "fixed/d.py").exists()
            assert not (copy.root / "in/c.py").exists()
            assert changed(copy) == ({}, [])
            shutil.rmtree(copy.root)


def test_what_becomes_a_link_while_it_is_copied_is_left_out(repo, tmp_path, monkeypatch):
    """Else a command would find in its copy what it may not read."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "c.py").write_text("secret")
    clone = copies.clone

    def late(source, target):
        if not (repo / "b").is_symlink():
            shutil.rmtree(repo / "b")
            (repo / "b").symlink_to(outside)
        if target.name == "run.sh":
            (repo / "run.sh").unlink()
            (repo / "run.sh").symlink_to(outside / "c.py")
        clone(source, target)

    monkeypatch.setattr(copies, "clone", late)
    copy = copies.make(repo, tmp_path / "copy")
    assert (copy.root / "a.py").read_text() == "a\n"
    assert not (copy.root / "b/c.py").exists() and not (copy.root / "run.sh").exists()


def test_what_was_changed_added_and_removed_is_found(repo, copy):
    (copy.root / "a.py").write_text("A\n")
    (copy.root / "b/c.py").unlink()
    (copy.root / "new").mkdir()
    (copy.root / "new/d.py").write_text("d\n")
    found, left = changed(copy)
    assert found == {
        "a.py": NewFile("a.py", b"a\n", b"A\n", 0o644),
        "b/c.py": NewFile("b/c.py", b"c\n", None, 0o644),
        "new/d.py": NewFile("new/d.py", None, b"d\n", 0o644),
    }
    assert left == []


def test_a_change_of_equal_size_and_time_is_found(repo, copy):
    path = copy.root / "a.py"
    times = path.stat()
    path.write_text("A\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert set(changed(copy)[0]) == {"a.py"}


def test_ignored_files_caches_and_touched_files_are_no_change(repo, copy):
    (copy.root / "y.log").write_text("new")
    (copy.root / "x.log").write_text("changed")
    (copy.root / "build").mkdir()
    (copy.root / "build/out").write_text("x")
    (copy.root / "__pycache__").mkdir()
    (copy.root / "__pycache__/a.pyc").write_text("x")
    (copy.root / ".pytest_cache").mkdir()
    (copy.root / ".pytest_cache/x").write_text("x")
    (copy.root / ".git/config").write_text("[core]\n\tfsmonitor = touch /tmp/never\n")
    os.utime(copy.root / "a.py")
    assert changed(copy) == ({}, [])


def test_a_mode_is_a_change(repo, copy):
    (copy.root / "a.py").chmod(0o755)
    assert changed(copy)[0]["a.py"].mode == 0o755


def test_links_are_told_and_not_carried_over(repo, copy):
    (copy.root / "evil").symlink_to("/etc/passwd")
    found, left = changed(copy)
    assert found == {} and left == ["evil: a link, which is not carried over"]


def test_a_file_that_was_edited_meanwhile_is_not_undone(repo, copy):
    (copy.root / "a.py").write_text("mine\n")
    (repo / "a.py").write_text("theirs\n")
    (repo / "b/c.py").write_text("theirs too\n")
    found, left = changed(copy)
    assert found == {} and left == [
        "a.py: an edit was applied to it meanwhile; run the command again"
    ]


def test_too_many_changes_are_refused(repo, copy):
    for n in range(copies.MAX_CHANGED + 1):
        (copy.root / f"{n}.py").write_text("x")
    with pytest.raises(ToolError, match="changed 201 files"):
        copies.changes(copy)


def test_big_ignored_folders_are_linked(repo, tmp_path):
    (repo / "build").mkdir()
    for n in range(copies.LINKED + 1):
        (repo / "build" / str(n)).touch()
    copy = copies.make(repo, tmp_path / "copy")
    assert (copy.root / "build").is_symlink()
    assert changed(copy) == ({}, [])


def test_git_works_in_the_copy_and_leaves_the_original_alone(repo, copy):
    def git(*args):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *args]
        return subprocess.run(command, cwd=copy.root, check=True, capture_output=True, text=True)

    before = sorted(p for p in (repo / ".git").rglob("*"))
    assert git("log", "--format=%s").stdout == "base\n"
    (copy.root / "a.py").write_text("A\n")
    git("commit", "-qam", "in the copy")
    assert git("show", "HEAD:a.py").stdout == "A\n"
    assert sorted(p for p in (repo / ".git").rglob("*")) == before
    assert set(changed(copy)[0]) == {"a.py"}


def test_without_git_everything_but_caches_counts(tmp_path):
    repo = tmp_path / "plain"
    repo.mkdir()
    (repo / "a").write_text("a")
    copy = copies.make(repo, tmp_path / "copy")
    (copy.root / "a.log").write_text("x")
    assert set(changed(copy)[0]) == {"a.log"}
