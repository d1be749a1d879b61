"""The tool `git` on real repositories, and snapshots."""

import asyncio
import os
import signal
import subprocess

import pytest

from loomd.tools import Context, ToolError
from loomd.tools.builtin.git import SHOWN_HEAD, SHOWN_TAIL, git
from loomd.tools.stash import KEPT, PREFIX, StashError, take
from loomd.wire.bodies import Changed, Decision, ToolResult
from tests.tools.stand import SESSION, git_repo, hosting


@pytest.fixture
def ctx(tmp_path):
    repo = git_repo(tmp_path / "repo", {"a.py": "one\n", "b.py": "b\n", ".gitignore": "*.log\n"})
    env = {"PATH": os.environ["PATH"]}
    return Context(repo=repo, session="s-1", agent="s-1/coder-1", call="c-1", env=env)


def run(repo, *args):
    done = subprocess.run(["git", *args], cwd=repo, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_looking_and_committing(ctx):
    (ctx.repo / "a.py").write_text("two\n")
    assert git("status --short", ctx).text == " M a.py"
    assert "+two" in git("git diff -- a.py", ctx).text
    assert git("add -A", ctx).ok
    assert git("commit -m 'the second one'", ctx).ok
    assert git("log --format='%s by %an' -1", ctx).text == "the second one by coder-1"
    assert git("branch topic", ctx).text == "[no output]"
    assert "topic" in git("branch --list", ctx).text


def test_a_failure_says_what_git_says(ctx):
    done = git("show nothing-like-it", ctx)
    assert (done.ok, done.error, done.data["exit"]) == (False, "failed", 128)
    assert "unknown revision" in done.text and done.text.endswith("[exit code 128]")
    assert git("diff --exit-code", ctx).ok
    (ctx.repo / "a.py").write_text("two\n")
    assert git("diff --exit-code", ctx).ok and not git("commit -m x", ctx).ok
    for line, said in (("push", "network"), ("log 'x", "split"), ("", "no command")):
        with pytest.raises(ToolError) as caught:
            git(line, ctx)
        assert caught.value.code == "bad_args" and said in caught.value.text
    with pytest.raises(ToolError, match="no git repository"):
        git("status", Context(repo=ctx.repo.parent))


def test_a_hook_may_leave_something_behind_that_holds_the_output(ctx):
    hook = ctx.repo / ".git/hooks/post-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho from the hook\nsleep 1000 &\necho $! >left\n")
    hook.chmod(0o755)
    try:
        done = git("commit --allow-empty -m x", ctx)
        assert done.ok and "from the hook" in done.text
        os.kill(int((ctx.repo / "left").read_text()), 0)  # it goes on, and was not waited for
    finally:
        os.kill(int((ctx.repo / "left").read_text()), signal.SIGKILL)


def test_a_repository_above_the_checkout_is_not_taken(ctx):
    inner = ctx.repo / "inner"
    inner.mkdir()
    with pytest.raises(ToolError, match="no git repository"):
        git("status", Context(repo=inner, env=ctx.env))


def test_a_long_output_is_shown_by_its_ends_and_kept_whole(ctx):
    (ctx.repo / "long.txt").write_text("".join(f"line {n}\n" for n in range(20_000)))
    git("add -A", ctx)
    git("commit -m long", ctx)
    shown = git("show --format=", ctx)
    assert len(shown.text) < SHOWN_HEAD + SHOWN_TAIL + 200 and "bytes left out" in shown.text
    assert shown.output.count(b"\n+line ") == 20_000


def test_what_is_thrown_away_is_in_a_snapshot(ctx):
    (ctx.repo / "a.py").write_text("staged\n")
    run(ctx.repo, "add", "a.py")
    (ctx.repo / "a.py").write_text("unsaved\n")
    (ctx.repo / "new").mkdir()
    (ctx.repo / "new/file.py").write_text("untracked\n")
    (ctx.repo / "x.log").write_text("ignored\n")
    done = git("reset --hard", ctx)
    kept = done.data["snapshot"]
    assert done.ok and kept == f"{PREFIX}s-1/c-1" and kept in done.text
    assert (ctx.repo / "a.py").read_text() == "one\n"
    assert run(ctx.repo, "show", f"{kept}:a.py") == "unsaved"
    assert run(ctx.repo, "show", f"{kept}^2:a.py") == "staged"
    assert run(ctx.repo, "show", f"{kept}:new/file.py") == "untracked"
    assert "x.log" not in run(ctx.repo, "ls-tree", "-r", "--name-only", kept)
    run(ctx.repo, "clean", "-fdq")
    run(ctx.repo, "stash", "apply", kept)
    assert (ctx.repo / "a.py").read_text() == "unsaved\n"
    assert (ctx.repo / "new/file.py").read_text() == "untracked\n"


def test_a_snapshot_touches_neither_index_nor_files_nor_needs_a_commit(tmp_path):
    repo = git_repo(tmp_path / "repo", {"a.py": "one\n"})
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    (repo / "a.py").write_text("two\n")
    (repo / "b.py").write_text("b\n")
    status = ("--no-optional-locks", "status", "--porcelain")
    before = (repo / ".git/index").read_bytes(), run(repo, *status)
    take(repo, "s-1/c-2", "why", env)
    assert ((repo / ".git/index").read_bytes(), run(repo, *status)) == before
    assert not list((repo / ".git").glob("loom-snapshot-*"))
    empty = tmp_path / "empty"
    empty.mkdir()
    run(empty, "init", "-q")
    (empty / "x").write_text("x\n")
    assert run(empty, "show", f"{take(empty, 's-1/c-3', 'why', env)}:x") == "x"


def test_a_snapshot_in_the_midst_of_a_merge(ctx):
    run(ctx.repo, "branch", "-m", "master")
    run(ctx.repo, "branch", "topic")
    for text, branch in (("ours\n", "topic"), ("theirs\n", "master")):
        run(ctx.repo, "checkout", "-q", branch)
        (ctx.repo / "a.py").write_text(text)
        run(ctx.repo, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", branch)
    me = ("-c", "user.name=t", "-c", "user.email=t@t")
    merged = subprocess.run(["git", *me, "merge", "topic"], cwd=ctx.repo, capture_output=True)
    assert merged.returncode == 1
    done = git("merge --abort", ctx)
    assert done.ok and "<<<<<<<" in run(ctx.repo, "show", f"{done.data['snapshot']}:a.py")


def test_old_snapshots_go(ctx, monkeypatch):
    monkeypatch.setattr("loomd.tools.stash.KEPT", 2)
    for n in range(4):
        (ctx.repo / "a.py").write_text(f"{n}\n")
        env = {**ctx.env, "GIT_COMMITTER_DATE": f"{1_700_000_000 + n} +0000"}
        take(ctx.repo, f"s-1/c-{n}", "why", env)
    left = run(ctx.repo, "for-each-ref", "--format=%(refname)", PREFIX.rstrip("/"))
    assert left.split() == [f"{PREFIX}s-1/c-2", f"{PREFIX}s-1/c-3"]
    assert KEPT > 10


def test_without_its_snapshot_nothing_is_thrown_away(ctx):
    (ctx.repo / "a.py").write_text("unsaved\n")
    (ctx.repo / ".git/refs/loom").write_text("in the way\n")
    with pytest.raises(ToolError, match="snapshot that must come before it could not be made"):
        git("reset --hard", ctx)
    assert (ctx.repo / "a.py").read_text() == "unsaved\n"
    with pytest.raises(StashError):
        take(ctx.repo.parent, "x", "why", ctx.env)


# --- through the tool host -----------------------------------------------------------------------


def test_permission_goes_by_what_a_command_does(instance):
    repo = git_repo(instance.base / "repo", {"a.py": "one\n"})
    (repo / "a.py").write_text("two\n")

    async def main():
        async with hosting(instance.places, repo, yes=False) as host:
            await host.ready()
            assert (await host.result("git", args="status --short")).text == " M a.py"
            refused = await host.result("git", args="push --force")
            assert (refused.error, host.state.waiting) == ("bad_args", {})

            committing = host.begin("git", args="commit -am mine")
            host.mail(Decision(question=asked(host, committing), scope="session", by="me"))
            done = await host.until(lambda: told(host, committing))
            assert done.ok, done

            (repo / "a.py").write_text("three\n")
            more = host.begin("git", args="tag v1")  # another command: asked about as well
            host.mail(Decision(question=asked(host, more), by="me"))
            assert (await host.until(lambda: told(host, more))).ok

            resetting = host.begin("git", args="reset --hard")
            [row] = [r for (t, _), r in host.table.rows_.items() if r.get("call") == resetting]
            assert "not committed" in row["text"] and "snapshot" in row["text"]
            host.mail(Decision(question=asked(host, resetting), by="me"))
            done = await host.until(lambda: told(host, resetting))
            assert done.ok and done.data["snapshot"] in done.text, done
            [changed] = [body for _, body in host.sent if isinstance(body, Changed)]
            assert [file.path for file in changed.files] == ["a.py"]  # for undo
            again = host.begin("git", args="reset --hard")
            assert asked(host, again)
            host.mail(Decision(question=asked(host, again), allow=False, by="me"))
            assert told(host, again).error == "denied"

    asyncio.run(main())
    assert (repo / "a.py").read_text() == "two\n"
    assert run(repo, "log", "--format=%s", "-1") == "mine"
    assert run(repo, "show", f"{PREFIX}{SESSION}/c-7:a.py") == "three"


def told(host, call):
    return next((b for _, b in host.sent if isinstance(b, ToolResult) and b.id == call), None)


def asked(host, call):
    return host.state.waiting[f"call-{call}"].question


def test_a_commit_bears_the_name_of_the_person(instance):
    repo = git_repo(instance.base / "repo", {"a.py": "one\n"})
    run(repo, "config", "user.name", "A Person")
    run(repo, "config", "user.email", "person@example.org")

    async def main():
        async with hosting(instance.places, repo) as host:
            await host.ready()
            return await host.result("git", args="commit --allow-empty -m mine")

    done = asyncio.run(main())
    assert done.ok, done
    assert run(repo, "log", "--format=%an %ae", "-1") == "A Person person@example.org"


def test_branches_and_worktrees_are_made_and_deleted_inside_a_call(instance):
    repo = git_repo(instance.base / "repo", {"a.py": "one\n"})
    lines = ("branch topic", "branch -d topic", "tag v1", "reset HEAD",
             "worktree add -b side wt", "worktree remove --force wt", "branch -D side",
             "stash list", "rm a.py", "reset --hard", "checkout -b new")  # fmt: skip

    async def main():
        async with hosting(instance.places, repo) as host:
            await host.ready()
            return {line: await made(host, line) for line in lines}

    async def made(host, line):
        call = host.begin("git", args=line)
        return await host.until(lambda: told(host, call))

    said = asyncio.run(main())
    assert {line: result.text for line, result in said.items() if not result.ok} == {}
    assert (repo / "a.py").exists() and run(repo, "branch", "--show-current") == "new"


def test_writing_in_the_repository_reaches_no_file_of_the_checkout(instance):
    """A hook of the repository runs with what the call has: `.git`, and nothing else to write."""
    repo = git_repo(instance.base / "repo", {"a.py": "one\n"})
    hook = repo / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho two > a.py && echo changed it\nexit 1\n")
    hook.chmod(0o755)

    async def main():
        async with hosting(instance.places, repo) as host:
            await host.ready()
            return await host.result("git", args="commit --allow-empty -m mine")

    done = asyncio.run(main())
    assert not done.ok and "cannot create a.py" in done.text, done
    assert (repo / "a.py").read_text() == "one\n"
