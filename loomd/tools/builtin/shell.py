"""shell(command, timeout_s, background)"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any, Final

from loomd.tools import shellenv
from loomd.tools.builtin._command import Command, Ended, Output
from loomd.tools.contract import Context, Result, ToolError, tool
from loomd.tools.progress import Progress
from loomd.tools.spool import Spool

TOLD: Final = "left.env"
"""The file in the scratch folder where the shell tells its folder and variables."""

TOLD_BYTES: Final = 1 << 20

MAX_WINDOW: Final = 1000


@tool(access="execute")
def shell(
    command: str,
    ctx: Context,
    timeout_s: float = 120.0,
    background: bool = False,
    idle_s: float = 0.0,
    pty: bool = False,
    rows: int = 24,
    cols: int = 80,
) -> Result:
    """Runs a command with `sh -c` in the checkout (while review is required: in a private copy of
    it; what it changes there becomes one proposal, if it succeeds). It has no network and no access
    to anything but the checkout, system folders and a temporary folder. Answers with the output,
    standard error included, and the exit code. The working directory and exported variables stay
    for your next command.

    A command that is to go on (a server, a watcher, something you want to talk to) runs with
    `background`: the answer is the id of a job, for the tool `job`.

    Args:
        command: for `sh -c`
        timeout_s: it is killed after so many seconds (in the background: only if you give it)
        background: start it as a job and answer at once
        idle_s: it is killed when it has printed nothing for so many seconds; 0: never
        pty: give it a terminal, for programs that want one
        rows: of that terminal
        cols: of that terminal
    """
    if not command.strip():
        raise ToolError("`command` is empty", "bad_args")
    if "\0" in command:
        raise ToolError("`command` holds a NUL character", "bad_args")
    if background and ctx.channel is None:
        raise ToolError("nothing here keeps a job; run it in the foreground")
    if timeout_s <= 0 and not background:
        raise ToolError("`timeout_s` must be more than 0", "bad_args")
    if not (1 <= rows <= MAX_WINDOW and 1 <= cols <= MAX_WINDOW):
        raise ToolError(f"`rows` and `cols` must be from 1 to {MAX_WINDOW}", "bad_args")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # who closes its input ends nobody but itself
    root, scratch = str(ctx.repo), str(ctx.scratch)
    env = shellenv.environment(ctx.kept, ctx.env, root, scratch)
    cwd, remarks = _folder(ctx)
    env["PWD"] = str(cwd)
    if pty:
        env.setdefault("TERM", "xterm-256color")
        if env["TERM"] == "dumb":
            env["TERM"] = "xterm-256color"
    told = ctx.scratch / TOLD
    line = command if background else shellenv.script(command, str(told))
    spool = Spool(ctx.scratch)
    output = Output(spool, Progress(ctx.progress))
    started = time.monotonic()
    try:
        running = Command(
            line,
            cwd,
            env,
            output,
            window=(rows, cols) if pty else None,
            channel=ctx.channel if background else None,
        )
        if background:
            ctx.channel.say({"started": running.process.pid})
        ended = running.run(timeout_s, max(0.0, idle_s))
    finally:
        spool.close()
    if not background and not ended.reason:
        remarks += _keep(ctx, told)
    took = time.monotonic() - started
    if spool.trouble:
        remarks.append(f"the output was not kept whole: {spool.trouble}")
    return _result(command, ctx, output, ended, took, (timeout_s, idle_s), remarks, background)


def _folder(ctx: Context) -> tuple[Path, list[str]]:
    """Where the command runs, and a remark if that is not where the last one was."""
    wanted = Path(shellenv.folder(ctx.kept, str(ctx.repo), str(ctx.scratch)))
    if wanted.is_dir() and os.access(wanted, os.X_OK):
        return wanted, []
    said = ctx.kept.get("cwd") or ""
    ctx.kept["cwd"] = ""
    gone = str(said).replace(shellenv.SCRATCH, "a temporary folder: ")
    return ctx.repo, [f"{gone} is not there (any more): run in the root of the checkout"]


def _keep(ctx: Context, told: Path) -> list[str]:
    """Puts what the shell told into `ctx.kept`; remarks."""
    try:
        with open(told, "rb", opener=_plainly) as file:
            said = shellenv.told(file.read(TOLD_BYTES))
    except OSError:
        said = None  # it was replaced by another program, or has a trap of its own
    if said is None:
        return []
    cwd, exported = said
    left, dropped = shellenv.after(ctx.env, cwd, exported, str(ctx.repo), str(ctx.scratch))
    ctx.kept.update(left)
    if dropped:
        return [f"too long to be kept for the next command: {', '.join(dropped)}"]
    return []


def _plainly(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _result(
    command: str,
    ctx: Context,
    output: Output,
    ended: Ended,
    took: float,
    limits: tuple[float, float],
    remarks: list[str],
    background: bool,
) -> Result:
    """The result that the model reads; of a job without its output."""
    timeout_s, idle_s = limits
    error = "" if ended.code == 0 else "failed"
    match ended.reason:
        case "timeout":
            error, status = "timeout", f"killed after {timeout_s:g} s; it had not ended"
        case "idle":
            error = "idle"
            status = (
                f"killed: it had printed nothing for {idle_s:g} s, {took:.1f} s after its start"
            )
        case "killed":
            error, status = "cancelled", f"ended as you wished ({_code(ended.code)}), {took:.1f} s"
        case _:
            status = f"{_code(ended.code)}, {took:.1f} s"
    cwd = str(ctx.kept.get("cwd") or "")
    if cwd and not ended.reason:
        status += f", now in {cwd.replace(shellenv.SCRATCH, 'the temporary folder')}"
    data: dict[str, Any] = {"exit": ended.code, "reason": f"shell: {command[:200]}"}
    if not background and (kept := output.kept()):
        data["spooled"] = kept
    notes = "".join(f"\n[{remark}]" for remark in remarks)
    shown = "" if background else output.shown()
    text = f"{shown}\n[{status}]{notes}".lstrip()
    return Result(text, ok=not error, error=error, data=data)


def _code(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"
