"""The profiles as a table: what may be read, written and seen, for every kind of call."""

from dataclasses import replace

import pytest

from loomd.tools.profile import (
    Ground,
    Mount,
    Need,
    hidden,
    may_read,
    may_write,
    mounts,
    rules,
)

GROUND = Ground(
    repo="/w/repo",
    scratch="/h/.state/scratch/s-1/c",
    programs=("/opt/py", "/tmp/venv"),
    code=("/h/.state/generations/abc",),
    git=("/w/repo/.git",),
    hidden_folders=("/h/.state", "/run/loom", "/h/.ssh"),
    hidden_files=("/h/.netrc",),
    protected=("/w/repo/.git", "/w/repo/.envrc", "/w/repo/.git/hooks", "/w/repo/.git/config"),
    read=("/data",),
    write=("/cache",),
)

COMMAND = Need("execute", foreign=True)
COPIED = Need("execute", foreign=True, copied=True)
GIT = Need("execute", foreign=True, git=True)
TOOL = Need("read", foreign=True)
ONLINE = Need("network", foreign=True)
BUILTIN = Need("read", foreign=False)

SCRATCH = "/h/.state/scratch/s-1/c/home/x"


@pytest.mark.parametrize(
    ("profile", "need", "path", "writable"),
    [
        ("workspace", COMMAND, "/w/repo/a.txt", True),
        ("workspace", COMMAND, "/w/repo", True),
        ("workspace", COMMAND, "/w/repository", False),
        ("workspace", COMMAND, "/w/repo/.git/index", False),
        ("workspace", COMMAND, "/w/repo/.git/hooks/pre-commit", False),
        ("workspace", COMMAND, "/w/repo/.envrc", False),
        ("workspace", COMMAND, "/w/repo/.envrc.local", True),
        ("workspace", COMMAND, SCRATCH, True),
        ("workspace", COMMAND, "/h/.state/scratch/s-1", False),
        ("workspace", COMMAND, "/cache/x", True),
        ("workspace", COMMAND, "/data/x", False),
        ("workspace", COMMAND, "/tmp/x", True),
        ("workspace", COMMAND, "/tmp/venv/bin/x", False),
        ("workspace", COMMAND, "/h/x", False),
        ("workspace", COMMAND, "/h/.netrc", False),
        ("workspace", COMMAND, "/etc/passwd", False),
        ("workspace", COPIED, "/w/repo/a.txt", False),
        ("workspace", COPIED, SCRATCH, True),
        ("workspace", GIT, "/w/repo/.git/index", True),
        ("workspace", GIT, "/w/repo/.git/hooks/pre-commit", False),
        ("workspace", GIT, "/w/repo/.git/config", False),
        ("workspace", TOOL, "/w/repo/a.txt", False),
        ("workspace", ONLINE, "/w/repo/a.txt", False),
        ("workspace", BUILTIN, "/tmp/x", False),
        ("read-only", COMMAND, "/w/repo/a.txt", False),
        ("read-only", COMMAND, "/cache/x", False),
        ("read-only", COMMAND, SCRATCH, True),
        ("read-only", GIT, "/w/repo/.git/index", False),
        ("unheard-of", COMMAND, "/w/repo/a.txt", False),
        ("full", COMMAND, "/h/.netrc", True),
        ("full", COPIED, "/etc/passwd", True),
    ],
)
def test_writing(profile, need, path, writable):
    assert may_write(rules(profile, need, GROUND), path) is writable


@pytest.mark.parametrize(
    ("profile", "need", "path", "unseen"),
    [
        ("workspace", COMMAND, "/h/.state/lmdb", True),
        ("workspace", COMMAND, "/h/.state/scratch/s-2/x", True),
        ("workspace", COMMAND, SCRATCH, False),
        ("workspace", COMMAND, "/h/.state/generations/abc/tool.py", False),
        ("workspace", COMMAND, "/h/.state/generations/other", True),
        ("workspace", COMMAND, "/h/.ssh/id", True),
        ("workspace", COMMAND, "/h/.sshd", False),
        ("workspace", COMMAND, "/h/.netrc", True),
        ("workspace", COMMAND, "/run/docker.sock", True),
        ("workspace", COMMAND, "/run/systemd/resolve/stub-resolv.conf", False),
        ("workspace", COMMAND, "/tmp/x", True),
        ("workspace", COMMAND, "/tmp/venv/bin/python", False),
        ("read-only", COMMAND, "/h/.ssh/id", True),
        ("workspace", BUILTIN, "/h/notes", False),
        ("full", COMMAND, "/h/.ssh/id", False),
    ],
)
def test_seeing(profile, need, path, unseen):
    assert hidden(rules(profile, need, GROUND), path) is unseen


def test_where_there_are_no_covers_only_what_is_listed_is_read():
    allowed = rules("workspace", COMMAND, GROUND)
    system = ("/usr", "/etc")
    assert not may_read(allowed, "/var/x", system)
    assert may_read(allowed, "/var/x")
    for path in ("/usr/bin/x", "/data/x", "/w/repo/a", SCRATCH, "/opt/py/x"):
        assert may_read(allowed, path, system), path
    assert not may_read(allowed, "/h/.ssh/id", (*system, "/h"))
    assert may_read(rules("full", COMMAND, GROUND), "/var/x", system)


@pytest.mark.parametrize(
    ("profile", "need", "settings", "network"),
    [
        ("workspace", COMMAND, False, False),
        ("workspace", COMMAND, True, True),
        ("workspace", ONLINE, False, True),
        ("read-only", ONLINE, False, True),
        ("workspace", BUILTIN, True, False),
        ("full", COMMAND, False, True),
    ],
)
def test_the_network(profile, need, settings, network):
    ground = Ground(repo="/w", scratch="/s", network=settings)
    assert rules(profile, need, ground).network is network


def test_a_deeper_mount_lies_on_top():
    plan = mounts(rules("workspace", COMMAND, GROUND))
    order = [mount.target for mount in plan]
    for above, below in (
        ("/h/.state", "/h/.state/scratch/s-1/c"),
        ("/h/.state", "/h/.state/generations/abc"),
        ("/tmp", "/tmp/venv"),
        ("/w/repo", "/w/repo/.git"),
        ("/w/repo/.git", "/w/repo/.git/hooks"),
    ):
        assert order.index(above) < order.index(below)
    assert len(set(order)) == len(order)
    own = f"{GROUND.scratch}/tmp"
    assert {
        m for m in plan if m.target in ("/tmp", "/run", "/h/.netrc", "/w/repo", "/w/repo/.git")
    } == {
        Mount("write", "/tmp", own),
        Mount("cover", "/run"),
        Mount("blank", "/h/.netrc"),
        Mount("write", "/w/repo", "/w/repo"),
        Mount("read", "/w/repo/.git", "/w/repo/.git"),
    }
    assert "/opt/py" not in order, "what is not covered need not be shown again"


def test_a_hidden_file_that_the_settings_show_is_not_covered():
    ground = replace(GROUND, read=("/h/.netrc",))
    allowed = rules("workspace", COMMAND, ground)
    assert "/h/.netrc" not in [mount.target for mount in mounts(allowed) if mount.kind == "blank"]
    assert not hidden(allowed, "/h/.netrc") and not may_write(allowed, "/h/.netrc")


def test_a_checkout_that_lies_in_a_covered_folder_is_seen():
    ground = Ground(repo="/tmp/w/repo", scratch="/s", git=("/tmp/w/repo/.git",))
    allowed = rules("workspace", COPIED, ground)
    assert not hidden(allowed, "/tmp/w/repo/a") and hidden(allowed, "/tmp/w/other")
    assert [m.target for m in mounts(allowed) if m.kind == "read" and m.target[:4] == "/tmp"] == [
        "/tmp/w/repo"
    ]


def test_a_call_of_ours_writes_nowhere_and_sees_no_secrets_either():
    """What it starts may be the project's: a linter of its virtual environment."""
    plan = mounts(rules("workspace", BUILTIN, GROUND))
    assert {mount.kind for mount in plan} == {"read", "cover", "blank"}
    assert {m.target for m in plan if m.kind == "blank"} == set(GROUND.hidden_files)
    assert {m.target for m in plan if m.kind == "cover"} == set(GROUND.hidden_folders)
