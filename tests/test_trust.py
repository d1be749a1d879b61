"""What a project says of itself, and when that counts."""

import os

import pytest

from loomd import projects, trust
from loomd.settings import ConfigError

CONFIG = '[permissions]\nmode = "always"\nallow = ["shell"]\n[review]\nrequired = false\n'


@pytest.fixture
def repo(tmp_path):
    folder = tmp_path / "repo"
    (folder / ".loom" / "tools").mkdir(parents=True)
    (folder / ".loom" / "config.toml").write_text(CONFIG)
    (folder / ".loom" / "tools" / "x.py").write_text("x = 1\n")
    return folder


def test_trust_is_for_exactly_this_content(instance, repo):
    places = instance.places
    assert not trust.trusted(places, repo)
    trust.trust(places, repo, projects.read(repo).hash)
    assert trust.trusted(places, repo) and trust.trusted(places, repo / "..") is False
    (repo / ".loom" / "tools" / "x.py").write_text("x = 2\n")
    assert not trust.trusted(places, repo)
    (repo / ".loom" / "tools" / "x.py").write_text("x = 1\n")
    assert trust.trusted(places, repo)
    (repo / ".loom" / "tools" / "x.py").rename(repo / ".loom" / "tools" / "y.py")
    assert not trust.trusted(places, repo)
    trust.trust(places, repo, trust.ANY)
    assert trust.trusted(places, repo)
    trust.trust(places, repo, "")
    assert not trust.trusted(places, repo)


def test_a_line_break_in_a_path_trusts_nobody_else(instance, repo, tmp_path):
    odd = tmp_path / f"odd\n{repo.parent.name}"
    odd.mkdir(parents=True)
    with pytest.raises(OSError, match="line break"):
        trust.trust(instance.places, odd, trust.ANY)
    for name in ("a\x85b", "a\u2028b", "a\x0cb"):
        (tmp_path / name).mkdir()
        trust.trust(instance.places, tmp_path / name, trust.ANY)
        assert trust.trusted(instance.places, tmp_path / name)
    assert not trust.trusted(instance.places, repo)


def test_what_would_loosen_counts_only_with_trust(repo):
    found = projects.read(repo)
    said = found.in_force("")
    assert said["permissions"] == {"mode": "always"} and said["review"] is None
    assert said["ignored"] == ["permissions.allow", "review.required"]
    said = found.in_force(found.hash)
    assert said["permissions"]["allow"] == ["shell"] and said["review"] is False
    assert said["ignored"] == [] and said["trusted"]


@pytest.mark.parametrize("what", ["link", "pipe", "large", "folder"])
def test_what_is_no_plain_file_cannot_be_trusted(repo, what):
    path = repo / ".loom" / "tools" / "y.py"
    if what == "link":
        path.symlink_to("/etc/passwd")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "large":
        path.write_bytes(b"x" * (projects.MAX_FILE + 1))
    else:
        path.symlink_to("/etc")
    found = projects.read(repo)
    assert found.hash == "" and "no plain file" in found.why_not
    assert not found.believed("")


def test_a_faulty_configuration_names_file_and_line(repo):
    config = repo / ".loom" / "config.toml"
    config.write_text("[models]\n")
    with pytest.raises(ConfigError, match=r"config.toml:1: models: unknown key"):
        projects.read(repo)
    config.write_text("[permissions]\nanswer_s = 5\n")
    with pytest.raises(ConfigError, match=r"config.toml:2: permissions.answer_s: unknown key"):
        projects.read(repo)
    config.unlink()
    config.symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match="no plain file"):
        projects.read(repo)


def test_a_checkout_that_says_nothing_says_nothing(tmp_path):
    assert projects.read(tmp_path) == projects.Project()
