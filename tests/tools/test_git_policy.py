"""What git commands lose: a table; and what the tool makes of them."""

import shlex

from loomd.tools.git_policy import DESTRUCTIVE, destructive, judge
from loomd.tools.needs import needs, words_of

ASKED = """
reset --hard
reset --hard HEAD~3
reset --har
reset --keep
-C /elsewhere reset --hard
-c user.name=x reset --hard
--git-dir=/x/.git reset --hard
clean -fd
clean -xfd
clean --force
checkout -- a.py
checkout .
checkout a.py
checkout HEAD~1 -- a.py
checkout main a.py
checkout -f main
checkout -B main
restore a.py
restore --staged --worktree a.py
restore -SW a.py
switch --discard-changes main
switch -C main
branch -D topic
branch -d -f topic
branch -rD origin/topic
branch --delete --force topic
branch -M main
branch -f main HEAD~3
tag -d v1
tag --force v1
push --force
push -f origin main
push --force-with-lease
push --mirror
push origin +main
push origin :main
push origin --delete main
rebase main
rebase -i HEAD~3
rebase --abort
stash drop
stash clear
stash pop
worktree remove ../x
commit --amend -m x
commit --am -m x
merge --abort
cherry-pick --abort
rm a.py
rm -rf src
mv -f a b
reflog expire --expire=now --all
gc --prune=now
filter-branch --tree-filter true
update-ref -d refs/heads/main
submodule foreach git clean -fd
symbolic-ref HEAD refs/heads/x
read-tree --reset -u HEAD
undo-all
-c alias.x=!rm x
-c core.pager=sh log
"""

HARMLESS = """
status
status --short
diff HEAD~1 -- a.py
log --oneline -20
show HEAD
add -A
add .
commit -m x
commit -am x
branch
branch topic
branch -m old new
branch -d merged
checkout -b topic
switch main
switch -c topic
restore --staged a.py
reset
reset HEAD a.py
reset --soft HEAD~1
clean -n
clean -ndx
stash
stash push -u
stash list
tag v1
worktree add ../x
worktree list
push
push origin main
push --follow-tags
merge topic
rm --cached a.py
reflog
gc
fetch
--version

-c user.name=x commit -m y
"""


def test_what_would_be_lost_is_named():
    lines = ASKED.strip().split("\n")
    assert [line for line in lines if not destructive(shlex.split(line))] == []


def test_what_loses_nothing_is_not_asked_about():
    said = {line: destructive(shlex.split(line)) for line in HARMLESS.strip().split("\n")}
    assert {line: reason for line, reason in said.items() if reason} == {}


def test_every_rule_is_in_the_table():
    tried = {word for line in ASKED.split("\n") for word in line.split()}
    untried = set(DESTRUCTIVE) - tried
    assert untried <= {"am", "revert", "replace", "repack", "prune", "sparse-checkout",
                       "checkout-index", "bisect", "filter-repo"}  # fmt: skip
    for line in ("am --abort", "revert --skip", "replace a b", "repack --prune", "prune",
                 "sparse-checkout set x", "checkout-index -fa", "bisect run x",
                 "filter-repo x"):  # fmt: skip
        assert destructive(line.split()), line


KINDS = [
    ("status", "read"), ("diff", "read"), ("log -p", "read"), ("show HEAD:a.py", "read"),
    ("branch", "read"), ("branch --list x*", "read"), ("branch --show-current", "read"),
    ("tag", "read"), ("stash list", "read"), ("worktree list", "read"), ("reflog", "read"),
    ("remote -v", "read"), ("--no-pager log", "read"), ("grep -n x", "read"),
    ("add -A", "write"), ("commit -m x", "write"), ("branch topic", "write"),
    ("branch -d topic", "write"), ("branch -m a b", "refused"), ("tag v1", "write"),
    ("worktree add wt", "write"), ("reset HEAD~1", "write"), ("restore --staged a", "write"),
    ("reset --hard", "ask"), ("checkout main", "ask"), ("checkout -b x", "ask"),
    ("switch main", "ask"), ("merge topic", "ask"), ("stash", "ask"), ("stash pop", "ask"),
    ("rm a.py", "ask"), ("mv a b", "ask"), ("clean -n", "ask"), ("branch -D x", "ask"),
    ("rebase main", "ask"), ("commit --amend -m x", "ask"), ("gc", "refused"),
    ("push", "refused"), ("fetch", "refused"), ("config user.name x", "refused"),
    ("-C .. status", "refused"), ("-c alias.x=!sh x", "refused"), ("x", "refused"),
    ("--git-dir=/x status", "refused"), ("diff --output=/tmp/x", "refused"),
    ("log --ext-diff", "refused"), ("grep -O sh", "refused"), ("rebase -i x", "refused"),
    ("rebase -x sh x", "refused"), ("add -p", "refused"), ("", "refused"),
    ("bisect run sh", "refused"), ("remote add x y", "refused"), ("difftool", "refused"),
]  # fmt: skip


def test_what_the_tool_does_with_it():
    found = [(line, judge(shlex.split(line)).kind) for line, _ in KINDS]
    assert found == KINDS


def test_what_a_call_needs_depends_on_its_arguments():
    row = {"name": "git", "source": "builtin", "access": "execute"}
    assert needs(row, {"args": "status"}).access == "read"
    assert needs(row, {"args": "git status"}).access == "read"
    made = needs(row, {"args": "commit -m 'two words'"})
    assert (made.access, made.writes, made.asks) == ("execute", "git", "")
    made = needs(row, {"args": "reset --hard"})
    assert (made.access, made.writes) == ("execute", "checkout") and "not committed" in made.asks
    assert "network" in needs(row, {"args": "push"}).refused
    assert "split" in needs(row, {"args": "log 'x"}).refused
    other = {"name": "git", "source": "tools/mine.py", "access": "execute"}
    assert needs(other, {"args": "reset --hard"}).asks == ""
    assert words_of("git log -1") == ["log", "-1"]
