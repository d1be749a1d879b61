"""What programs complain about, and what is said about it."""

import pytest

from loomd.tools.denied import explain
from loomd.tools.profile import Ground, Need, rules

GROUND = Ground(
    repo="/w/repo",
    scratch="/h/.state/c",
    hidden_folders=("/h/.state", "/h/.ssh"),
    hidden_files=("/h/.netrc",),
    protected=("/w/repo/.git", "/w/repo/.envrc"),
)
COMMAND = Need("execute", foreign=True)
EROFS = "Read-only file system"


def said(text, profile="workspace", may=True, listed=None, network=False):
    ground = Ground(
        **{**{f: getattr(GROUND, f) for f in GROUND.__dataclass_fields__}, "network": network}
    )
    allowed = rules(profile, COMMAND, ground)
    return explain(text, allowed, "/w/repo", lambda path, mode: may, listed)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (f"touch: cannot touch '/opt/x': {EROFS}", '`sandbox_write = ["/opt/x"]` lets it'),
        (f"sh: 1: cannot create /opt/x: {EROFS}", "/opt/x can only be read"),
        ("mkdir: cannot create \u2018/opt/a b\u2019: Permission denied", "/opt/a b can only"),
        ("PermissionError: [Errno 13] Permission denied: '/opt/x'", "/opt/x can only"),
        ("Error: EROFS: read-only file system, open '/opt/x'", "/opt/x can only"),
        ("open /opt/x: permission denied", "/opt/x can only"),
        (f"fatal: Unable to create '/w/repo/.git/index.lock': {EROFS}", "the `git` tool"),
        (f"error: could not lock config file .git/config: {EROFS}", "/w/repo/.git/config decides"),
        (f"sh: 1: cannot create .envrc: {EROFS}", "/w/repo/.envrc decides"),
        ("cat: /h/.ssh/id: No such file or directory", '`sandbox_read = ["/h/.ssh/id"]` shows'),
        ("cat: ../../h/.ssh/id: No such file or directory", "/h/.ssh/id is hidden"),
        ("cat: /h/.netrc: Permission denied", "/h/.netrc is hidden"),
        ("cat: /tmp/x: No such file or directory", "/tmp is the call's own"),
        ("curl: (6) Could not resolve host: example.org", "`network = true`"),
        ("OSError: [Errno 101] Network is unreachable", "`network = true`"),
        ("socket.gaierror: [Errno -3] Temporary failure in name resolution", "`network = true`"),
    ],
)  # fmt: skip
def test_the_rule_that_is_in_the_way_is_named(text, names):
    told = said(f"building\n{text}\n[exit code 1, 0.1 s]")
    assert names in told and "profile workspace" in told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cat: /w/repo/nothing: No such file or directory",  # seen, and not there
        "sh: 1: ./script: Permission denied",  # writable for the call: it lacks the x bit
        "connect: Connection refused",
        "the test of permission denied passed",
    ],
)
def test_what_the_sandbox_did_not_do_is_not_blamed_on_it(text):
    assert said(text) == ""


def test_what_would_fail_without_it_is_not_blamed_on_it_either():
    assert said("cat: /etc/shadow: Permission denied", may=False) == ""
    assert said("touch: cannot touch '/opt/x': Permission denied", may=False) == ""
    assert said("cat: /h/.ssh/none: No such file or directory", may=False) == ""


def test_with_landlock_what_is_not_listed_is_hidden():
    text = "cat: /var/lib/x: Permission denied"
    assert "/var/lib/x is hidden" in said(text, listed=("/usr",))
    assert "/usr/x can only be read" in said("rm: /usr/x: Permission denied", listed=("/usr",))


def test_in_read_only_the_other_profile_is_named():
    text = "touch: cannot touch 'a.txt': Read-only file system"
    assert '/w/repo/a.txt can only be read: `sandbox = "workspace"`' in said(text, "read-only")


def test_full_is_in_nobodys_way_and_a_network_that_is_there_is_not_missed():
    assert said("touch: cannot touch '/opt/x': Permission denied", "full") == ""
    assert said("curl: (6) Could not resolve host: example.org", network=True) == ""


def test_not_more_is_told_than_can_be_read():
    text = "\n".join(f"rm: cannot remove '/opt/{n}': Permission denied" for n in range(50))
    told = said(text)
    assert "/opt/0 " in told and "and 47 more" in told and len(told) < 1000
