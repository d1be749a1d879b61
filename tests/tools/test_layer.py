"""What builds and caches leave: the session's next command finds it, and nobody else."""

import asyncio

import pytest

from loomd.tools import copy as copies
from loomd.tools import layer
from loomd.wire.bodies import Propose
from tests.tools.stand import git_repo, hosting

FILES = {".gitignore": "build/\n*.log\n/out*\n", "a.py": "x = 1\n", "pkg/b.py": "y = 1\n"}


@pytest.fixture
def repo(instance):
    return git_repo(instance.base / "repo", FILES)


def round_of(repo, scratch, work):
    """One call's copy: laid, worked in, kept; what of it is a change."""
    (scratch / "home").mkdir(parents=True, exist_ok=True)
    copy = copies.make(repo, scratch / "checkout")
    layer.lay(copy, scratch)
    work(copy.root)
    changed, left = copies.changes(copy)
    layer.keep(copy, scratch)
    layer.leave_only(scratch)
    assert all("a link" in remark for remark in left)
    return [file.path for file in changed]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_git_ignores_is_there_again_and_is_no_change(repo, tmp_path):
    made = {
        "build/deep/x.o": "object",
        "pkg/build/y.o": "object",
        "pkg/__pycache__/b.pyc": "code",
        ".pytest_cache/v/last": "test",
        "run.log": "line",
        "out1/z": "one",
        "loom.egg-info/PKG-INFO": "info",
    }

    def build(root):
        for name, text in made.items():
            write(root / name, text)
        write(root / "new.py", "z = 1\n")
        write(root.parent / "home/.cache/pip/wheel", "wheel")
        write(root.parent / "home/other", "x")

    def look(root):
        assert {name: (root / name).read_text() for name in made} == made
        assert not (root / "new.py").exists()
        assert (root.parent / "home/.cache/pip/wheel").read_text() == "wheel"
        assert not (root.parent / "home/other").exists()

    scratch = tmp_path / "w0"
    assert round_of(repo, scratch, build) == ["new.py"]
    assert [path.name for path in scratch.iterdir()] == [layer.FOLDER]
    for _ in range(2):
        assert round_of(repo, scratch, look) == []
    assert not (repo / "build").exists()


def test_a_folder_of_the_checkout_that_is_ignored_gives_way_to_the_sessions_own(repo, tmp_path):
    write(repo / "build/x", "of the checkout")
    write(repo / "build/old", "of the checkout")
    round_of(repo, tmp_path, lambda root: (root / "build/x").write_text("of the session"))

    def look(root):
        assert (root / "build/x").read_text() == "of the session"
        (root / "build/old").unlink()

    assert round_of(repo, tmp_path, look) == []
    assert round_of(repo, tmp_path, lambda root: (root / "build/x").read_text()) == []
    assert (repo / "build/x").read_text() == "of the checkout"
    assert not (tmp_path / "layer" / "0" / "old").exists()


def test_an_ignored_file_goes_into_it_only_when_it_has_changed(repo, tmp_path):
    write(repo / "old.log", "as it was")
    write(repo / "same.log", "as it was")
    round_of(repo, tmp_path, lambda root: (root / "old.log").write_text("more"))
    (repo / "same.log").write_text("newer")

    def look(root):
        assert (root / "old.log").read_text() == "more"
        assert (root / "same.log").read_text() == "newer"

    round_of(repo, tmp_path, look)


def test_what_is_tracked_stays_a_change_though_it_is_ignored(repo, tmp_path):
    write(repo / "build/kept.py", "one\n")
    copies.git(repo, "add", "-f", "build/kept.py")
    changed = round_of(repo, tmp_path, lambda root: (root / "build/kept.py").write_text("two\n"))
    assert changed == ["build/kept.py"]


def test_a_folder_that_has_gone_takes_its_builds_with_it(repo, tmp_path):
    round_of(repo, tmp_path, lambda root: write(root / "pkg/build/y.o", "object"))
    (repo / "pkg/b.py").unlink()
    (repo / "pkg").rmdir()
    round_of(repo, tmp_path, lambda root: None)


def test_a_link_is_left_behind(repo, tmp_path):
    round_of(repo, tmp_path, lambda root: (root / "build").symlink_to("/etc"))
    round_of(repo, tmp_path, lambda root: (root / "build").mkdir())


@pytest.mark.parametrize("backend", ["landlock", "auto"])
def test_commands_of_a_session_share_it_until_one_is_killed(instance, repo, backend):
    settings = {
        "permissions": {"mode": "on-request", "sandbox_backend": backend},
        "review": {"required": True},
    }

    async def main():
        async with hosting(instance.places, repo, settings=settings) as host:
            await host.ready()
            made = "pwd; mkdir build && echo one > build/x; echo 2 > a.py"
            first = await host.call("shell", command=made)
            assert isinstance(first, Propose) and [f.path for f in first.files] == ["a.py"]
            second = await host.result("shell", command="pwd; cat build/x a.py")
            assert second.ok and "one\nx = 1" in second.text
            # At the same path: what a build has written down about its place holds.
            assert second.text.splitlines()[0] == first.note.splitlines()[0]
            failed = await host.result("shell", command="echo two > build/x; exit 3")
            assert not failed.ok
            assert "two" in (await host.result("shell", command="cat build/x")).text
            lost = await host.result("shell", command="echo 3 > build/x; kill -9 $PPID; sleep 9")
            assert lost.error == "crashed"
            assert not (await host.result("shell", command="cat build/x")).ok
        assert not host.performer.places.scratch.exists()

    asyncio.run(main())
