"""What a rule denies to read does not come out through whatever looks through a folder."""

import asyncio
import os
import pwd
import re
import tempfile
from pathlib import Path

import pytest

from loomd import rules
from loomd.rules import path_matches, path_regex
from loomd.tools import landlock, namespaces, sandbox
from loomd.tools.barred import Barred, patterns
from loomd.wire.bodies import ToolResult
from loomd.wire.endpoints import Instance
from tests.support import TestInstance, remove_instance
from tests.tools.stand import git_repo, hosting

FACTS = sandbox.probe()
FILES = {
    "a.py": "x = 'SECRET'[0:0]\n",
    ".env": "SECRET=1\n",
    "deep/er/.env": "SECRET=2\n",
    "keys/x.py": "SECRET = 3\n",
    "asked/x.py": "SECRET = 4\n",
    ".gitignore": ".env\n",
}
RULES = {"deny": ["read(**/.env)", "read(keys/**)"], "ask": ["read(asked/**)"]}

PATTERNS = (
    "**/.env", ".env", "keys/**", "src/*", "src/*.py", "*", "**", "/etc/**", "~/x", "~/**", "a**b",
    "**/x/**/y", "src/?.py", r"a\*b", "/", "~", "./a", "a//b", "x[1]", "a.b",
)  # fmt: skip
PATHS = (
    "/r/w", "/r/w/.env", "/r/w/a/.env", "/r/w/a/b.env", "/r/w/keys", "/r/w/keys/x/y", "/r/w/src",
    "/r/w/src/a.py", "/r/w/src/ab.py", "/r/w/src/b/a.py", "/etc/x", "/etc", "/h/x", "/h",
    "/r/w/aab",
    "/r/w/a/b", "/r/w/x/y", "/r/w/q/x/z/y", "/r/w/a*b", "/r/w/a", "/", "/r", "/r/w/x[1]", "/r/w/x1",
    "/r/w/a\nb", "/r/w/azb",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_as_a_regular_expression_a_pattern_takes_the_same_paths(pattern):
    found = re.compile(path_regex(pattern, "/r/w", "/h"), re.DOTALL)
    taken = {path for path in PATHS if found.fullmatch(path)}
    assert taken == {path for path in PATHS if path_matches(pattern, path, "/r/w", "/h")}


def test_what_is_hidden_and_what_a_rule_for_the_tool_says_is_barred_too():
    known = [rules.parse("deny", "grep(gen/**)"), rules.parse("allow", "read(**)")]
    said = patterns("grep", known, ["/h/.ssh", "/h/w", "/etc/shadow"], "/h", "/h")
    barred = Barred("/h", said)
    assert barred.denied("gen/x") and barred.denied(".ssh") and barred.denied(".ssh/id")
    assert not barred.denied(".sshx") and not barred.denied("a") and not barred.denied(".")
    assert not Barred("/h", patterns("glob", known, [], "/h", "/h"))


@pytest.fixture
def base(monkeypatch):
    """Not below /tmp, which is another folder inside of the sandbox."""
    place = next(p for p in ("/srv", pwd.getpwuid(os.getuid()).pw_dir) if os.access(p, os.W_OK))
    made = Path(tempfile.mkdtemp(prefix="loom-", dir=place))
    monkeypatch.setenv("HOME", str(made / "home"))
    (made / "home/.ssh").mkdir(parents=True)
    (made / "home/.ssh/id").write_text("SECRET")
    at = Instance(made / "config.toml", made / "state", made / "run")
    yield made
    remove_instance(TestInstance(made, at))


def told(base, repo, calls, permissions, state="state", **args):
    """What each call answers, one after the other."""
    at = Instance(base / "config.toml", base / state, base / "run")
    at.config.write_text("")
    at.state.mkdir(parents=True, exist_ok=True)
    settings = {"permissions": {"mode": "on-request", **permissions}}

    async def main():
        async with hosting(at, repo, settings=settings, **args) as host:
            await host.ready()
            answers = [await host.call(name, **given) for name, given in calls]
            return [one.text if isinstance(one, ToolResult) else one.note for one in answers]

    return asyncio.run(main())


LOOKS = (
    ("grep", {"pattern": "SECRET"}),
    ("glob", {"pattern": "**/*"}),
    ("list", {}),
    ("list", {"path": "deep/er"}),
    ("tree", {"depth": 9}),
    ("outline", {"path": "."}),
    ("diagnostics", {}),
    ("read", {"path": "nothing/x.py"}),  # which names files of a like name
    ("edit", {"path": ".env", "old": "SECRT=1", "new": ""}),  # a miss shows the nearest lines
)


def test_the_tools_that_look_through_a_folder_leave_it_out(base):
    repo = git_repo(base / "repo", FILES)
    for git in (True, False):
        answers = told(base, repo, LOOKS, RULES)
        for text, (name, _) in zip(answers, LOOKS, strict=True):
            for word in ("SECRET=", "SECRET =", "keys/x", "asked/x", "er/.env"):
                assert word not in text, (git, name, text)
        assert answers[0] == "a.py:1:x = 'SECRET'[0:0]"
        assert answers[2].split() == [".gitignore", "a.py", "deep/"]
        assert "permission denied" in answers[-1]
        if git:
            os.rename(repo / ".git", base / "git")
    plain = told(base, repo, LOOKS[:1], {})
    assert "SECRET=2" in plain[0], "without a rule it is there"


WAYS = ("bubblewrap", "landlock", "landlock without namespaces")
COMMANDS = (
    "cat .e''nv",
    "grep -rh SECRET . {repo}",
    'python3 -c \'print(open("k" "eys/x.py").read())\'',
    'python3 -c \'print(open("{repo}/deep/er/.e" "nv").read())\'',
)


@pytest.mark.parametrize("review", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_commands_do_not_see_it_either(base, monkeypatch, way, review):
    backend = way.partition(" ")[0]
    if backend == "bubblewrap" and (not FACTS.bwrap or FACTS.bwrap_error):
        pytest.skip("bubblewrap cannot work here")
    if backend == "landlock" and FACTS.landlock < 6:
        pytest.skip("this kernel's Landlock knows no scopes")
    if backend != way:
        monkeypatch.setattr(namespaces, "enter", lambda mounts, network: False)
    assert landlock.abi() or backend == "bubblewrap"
    repo = git_repo(base / "repo", FILES)
    calls = [("shell", {"command": line.format(repo=repo)}) for line in COMMANDS]
    calls.append(("shell", {"command": "echo x > new; cat asked/x.py"}))
    answers = told(base, repo, calls, {**RULES, "sandbox_backend": backend}, review=review)
    for text in answers[:-1]:
        assert not re.search(r"SECRET ?= ?[123]", text), text
    assert "SECRET = 4" in answers[-1], "what is asked about is no matter of the sandbox"
    assert (repo / ".env").read_text() == "SECRET=1\n"
    assert (repo / "keys/x.py").read_text() == "SECRET = 3\n"


@pytest.mark.parametrize("way", WAYS[:1])
def test_a_checkout_that_is_a_home_keeps_its_secrets_and_the_daemons_state(base, way):
    home = git_repo(base / "home", {"a.txt": "one\n"})
    state = "home/.local/state/loom"
    (base / state).mkdir(parents=True)
    (base / state / "secret").write_text("SECRET")
    calls = [
        ("grep", {"pattern": "SECRET"}),
        ("glob", {"pattern": "**/*"}),
        ("shell", {"command": f"cat a.txt; grep -rl SECRET . {home}"}),
    ]
    answers = told(base, home, calls, {}, state)
    assert answers[0].startswith("nothing found in ") and answers[1] == "a.txt"
    assert (
        answers[2].startswith("one\n") and "SECRET" not in answers[2] and ".ssh" not in answers[2]
    )
