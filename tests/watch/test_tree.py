"""Real inotify over folders that come, go, move and are links."""

import os
import shutil

import pytest

from loomd.watch.plan import MODELS, ROLES, TOOLS, targets
from loomd.watch.tree import Tree
from tests.support import eventually


@pytest.fixture
def home(tmp_path):
    (tmp_path / "c").mkdir()
    return tmp_path / "c"


@pytest.fixture
def tree(home, tmp_path):
    made = Tree()
    made.watch(targets(str(home / "config.toml"), [str(tmp_path / "repo")]))
    yield made
    made.close()


def told(tree, *parts):
    """Waits for exactly these; what comes with them is swallowed."""
    seen = set()
    eventually(lambda: seen.update(tree.read()) or seen >= set(parts), what=lambda: f"only {seen}")
    assert seen == set(parts)


def silent(tree):
    assert tree.read() == set()  # events of this process are there when its call returns


def test_a_file_counts_when_its_writer_has_closed_it(tree, home):
    (home / "tools").mkdir()
    told(tree, TOOLS)
    with open(home / "tools" / "mine.py", "w") as file:
        file.write("half")
        file.flush()
        silent(tree)
        file.write(" and half")
        file.flush()
        silent(tree)
    told(tree, TOOLS)
    silent(tree)


def test_a_rename_into_place_counts_and_the_editors_own_files_do_not(tree, home):
    (home / "tools").mkdir()
    told(tree, TOOLS)
    (home / "tools" / ".mine.py.swp").write_text("x")
    (home / "tools" / "mine.py~").write_text("x")
    silent(tree)
    os.rename(home / "tools" / ".mine.py.swp", home / "tools" / "mine.py")
    told(tree, TOOLS)
    (home / "tools" / "mine.py").unlink()
    told(tree, TOOLS)


def test_roles_and_the_configuration_are_told_apart(tree, home):
    (home / "roles").mkdir()
    told(tree, ROLES)
    (home / "roles" / "coder.md").write_text("x")
    told(tree, ROLES)
    (home / "config.toml").write_text("x")
    told(tree, MODELS)
    (home / "other.toml").write_text("x")
    silent(tree)


def test_folders_below_tools_are_watched_from_their_first_moment(tree, home):
    (home / "tools" / "pack" / "deep").mkdir(parents=True)
    told(tree, TOOLS)
    (home / "tools" / "pack" / "deep" / "data.json").write_text("{}")
    told(tree, TOOLS)
    (home / "tools" / "__pycache__").mkdir()
    tree.read()
    (home / "tools" / "__pycache__" / "mine.pyc").write_text("x")
    silent(tree)


def test_a_folder_that_goes_and_comes_again_is_watched_again(tree, home):
    for _ in range(3):
        (home / "tools").mkdir()
        told(tree, TOOLS)
        (home / "tools" / "mine.py").write_text("x")
        told(tree, TOOLS)
        shutil.rmtree(home / "tools")
        told(tree, TOOLS)


def test_a_folder_that_takes_the_place_of_another_is_watched(tree, home):
    (home / "tools").mkdir()
    (home / "new").mkdir()
    told(tree, TOOLS)
    os.rename(home / "tools", home / "old")
    os.rename(home / "new", home / "tools")
    told(tree, TOOLS)
    (home / "old" / "mine.py").write_text("x")
    silent(tree)
    (home / "tools" / "mine.py").write_text("x")
    told(tree, TOOLS)


def test_a_repo_is_waited_for_step_by_step(tree, tmp_path):
    its = tmp_path / "repo" / ".loom"
    (tmp_path / "repo").mkdir()
    told(tree, TOOLS, ROLES)
    its.mkdir()
    told(tree, TOOLS, ROLES)
    (its / "tools").mkdir()
    told(tree, TOOLS)
    (its / "tools" / "its.py").write_text("x")
    told(tree, TOOLS)
    (tmp_path / "repo" / "README").write_text("x")
    silent(tree)


def test_what_a_link_leads_to_is_watched_too(tree, home, tmp_path):
    real = tmp_path / "dotfiles"
    (real / "tools").mkdir(parents=True)
    (real / "config.toml").write_text("x")
    (real / "coder.md").write_text("x")
    (home / "roles").mkdir()
    told(tree, ROLES)
    os.symlink(real / "coder.md", home / "roles" / "coder.md")
    told(tree, ROLES)
    (real / "coder.md").write_text("y")
    told(tree, ROLES)
    os.symlink(real / "config.toml", home / "config.toml")
    told(tree, MODELS)
    (real / "new").write_text("y")
    os.rename(real / "new", real / "config.toml")
    told(tree, MODELS)
    os.symlink(real / "tools", home / "tools")
    told(tree, TOOLS)
    (real / "tools" / "mine.py").write_text("y")
    told(tree, TOOLS)


def test_more_than_the_kernel_keeps_counts_as_everything(tree, home):
    (home / "tools").mkdir()
    told(tree, TOOLS)
    with open("/proc/sys/fs/inotify/max_queued_events") as file:
        many = int(file.read()) + 10
    names = [str(home / "tools" / "a"), str(home / "tools" / "b")]
    open(names[0], "w").close()
    for n in range(many // 2 + 1):
        os.rename(names[n % 2], names[1 - n % 2])
    told(tree, TOOLS, ROLES, MODELS)
