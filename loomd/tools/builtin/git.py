"""git(args)"""

from __future__ import annotations

import os
from typing import Final

from loomd.tools import git_policy, gitrun, stash
from loomd.tools.contract import Context, Result, ToolError, tool
from loomd.tools.needs import words_of

SHOWN_HEAD: Final = 24_000
SHOWN_TAIL: Final = 8_000
"""Bytes of the output that the model sees; the whole stands in a blob."""

KEPT: Final = 16 << 20


@tool(access="execute")
def git(args: str, ctx: Context) -> Result:
    """Runs a command of git in the checkout. What only looks (status, diff, log, show, blame,
    branch --list ...) needs no permission; add, commit, branch, tag and worktree act on the real
    repository; what changes files past the review or throws something away (checkout, restore,
    reset --hard, clean, rebase, branch -D, stash ...) is asked about each time, and a snapshot of
    all files is taken before. There is no network and no terminal: give messages with -m.

    Args:
        args: the words after `git`, quoted as for a shell; for example: log --oneline -20 -- src
    """
    try:
        words = words_of(args)
    except ValueError as error:
        raise ToolError(f"`args` cannot be split into words: {error}", "bad_args") from None
    judged = git_policy.judge(words)
    if judged.kind == "refused":
        raise ToolError(judged.reason, "bad_args")
    if not (ctx.repo / ".git").exists():
        raise ToolError(f"{ctx.repo} is no git repository", "failed")
    env = environment(ctx, quiet=judged.kind == "read")
    kept = ""
    if judged.kind == "ask":
        try:
            kept = stash.take(ctx.repo, _name(ctx), f"git {args}"[:200], env)
        except stash.StashError as error:
            raise ToolError(
                f"not run: the snapshot that must come before it could not be made: {error}"
            ) from None
    _, command, rest = git_policy.split(words)
    own = ["--no-ext-diff"] if command in _DIFFS else []
    try:
        done = gitrun.run(
            ctx.repo, command, *own, *rest, env=env, options=(*_PLAIN, *_quiet(judged.kind)),
            most=KEPT, merged=True,
        )  # fmt: skip
    except OSError as error:
        raise ToolError(f"git cannot be started: {error}") from None
    output, code = done.output, 0 if done.cut else done.code
    if done.cut:
        output += b"\n[cut: there is more than 16 MB]"
    if b"\0" in output:
        output = output.replace(b"\0", b"\n")  # -z
    text = _shown(output)
    if kept:
        text += f"\n[before it, all files were kept: git stash apply {kept}]"
    if code == 0:
        text = text.lstrip("\n") or "[no output]"
        return Result(text, data=_data(code, kept), output=_whole(output))
    # Answers rather than failures: `diff --exit-code`, `grep` without a hit, `merge-base`.
    answered = code == 1 and judged.kind == "read" and not _complains(output)
    return Result(
        f"{text}\n[exit code {code}]".lstrip("\n"),
        ok=answered,
        error="" if answered else "failed",
        data=_data(code, kept),
        output=_whole(output),
    )


_PLAIN: Final = ("-c", "color.ui=false", "-c", "commit.gpgSign=false", "-c", "tag.gpgSign=false",
                 "-c", "branch.autoSetupMerge=false", "-c", "gc.auto=0")  # fmt: skip


def _quiet(kind: str) -> tuple[str, ...]:
    """What only looks starts no program of the repository's configuration."""
    if kind != "read":
        return ()
    return (*gitrun.NO_HOOKS, "-c", "log.showSignature=false")


_DIFFS: Final = frozenset({"diff", "log", "show", "whatchanged"})


def environment(ctx: Context, *, quiet: bool) -> dict[str, str]:
    """For git in a call: the person's own settings lie in the home, which no call sees. quiet: it
    does not even refresh the index."""
    env = {name: value for name, value in ctx.env.items() if not name.startswith("GIT_CONFIG")}
    env |= gitrun.NEUTRAL
    env |= {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_EDITOR": "false",
        "GIT_SEQUENCE_EDITOR": "false",
        "GIT_CEILING_DIRECTORIES": str(ctx.repo.parent),
        "LC_ALL": "C.UTF-8",
    }
    if quiet:
        env["GIT_OPTIONAL_LOCKS"] = "0"
    else:
        who = ctx.agent.partition("/")[2] or "agent"
        for role in ("AUTHOR", "COMMITTER"):
            env.setdefault(f"GIT_{role}_NAME", who)
            env.setdefault(f"GIT_{role}_EMAIL", f"{who}@loomd.invalid")
    return env


def _complains(output: bytes) -> bool:
    return any(line.startswith((b"fatal:", b"error:")) for line in output.splitlines()[-20:])


def _shown(output: bytes) -> str:
    if len(output) <= SHOWN_HEAD + SHOWN_TAIL:
        return output.decode("utf-8", "replace").rstrip("\n")
    head = output[:SHOWN_HEAD].decode("utf-8", "replace")
    tail = output[-SHOWN_TAIL:].decode("utf-8", "replace")
    left = len(output) - SHOWN_HEAD - SHOWN_TAIL
    return f"{head}\n[... {left} bytes left out ...]\n{tail}".rstrip("\n")


def _whole(output: bytes) -> bytes:
    return output if len(output) > SHOWN_HEAD + SHOWN_TAIL else b""


def _data(code: int, kept: str) -> dict[str, object]:
    return {"exit": code, **({"snapshot": kept} if kept else {})}


def _name(ctx: Context) -> str:
    """Of the snapshot: the call's id, which is unique in the session."""
    raw = f"{ctx.session}/{ctx.call}" if ctx.call else f"{ctx.session or 'call'}/{os.getpid()}"
    return "".join(c if c.isalnum() or c in "-_/" else "-" for c in raw).strip("/-") or "call"
