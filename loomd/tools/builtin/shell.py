"""shell(command, timeout_s, background)"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import Final

from loomd.tools.contract import Context, Result, ToolError, tool

SHOWN_HEAD: Final = 12_000
SHOWN_TAIL: Final = 24_000
"""Bytes of the output that the model sees; the whole stands in a blob."""

KEPT_HEAD: Final = 4 << 20
KEPT_TAIL: Final = 4 << 20


@tool(access="execute")
def shell(command: str, ctx: Context, timeout_s: float = 120.0, background: bool = False) -> Result:
    """Runs a command with `sh -c` in the checkout (while review is required: in a private copy of
    it; what it changes there becomes one proposal). It has no network and no access to anything
    but the checkout, system folders and a temporary folder. Answers with the output, standard
    error included, and the exit code.

    Args:
        command: for `sh -c`
        timeout_s: it is killed after so many seconds
        background: not yet supported
    """
    if background:
        raise ToolError("background commands are not supported yet; run it in the foreground")
    if not command.strip():
        raise ToolError("`command` is empty", "bad_args")
    if timeout_s <= 0:
        raise ToolError("`timeout_s` must be more than 0", "bad_args")
    output = Output()
    started = time.monotonic()
    code = run(command, ctx, timeout_s, output)
    if code is None:
        return Result(
            f"{output.shown()}\n[killed after {timeout_s:g} s; it had not ended]".lstrip(),
            ok=False,
            error="timeout",
            data={"reason": command[:200]},
            output=output.kept(),
        )
    took = time.monotonic() - started
    status = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
    return Result(
        f"{output.shown()}\n[{status}, {took:.1f} s]".lstrip(),
        ok=code == 0,
        error="" if code == 0 else "failed",
        data={"exit": code, "reason": f"shell: {command[:200]}"},
        output=output.kept(),
    )


def run(command: str, ctx: Context, timeout_s: float, output: Output) -> int | None:
    """The exit code (negative: a signal), None after the time-out. It is over when the process is:
    what that left behind may hold the pipe, and is killed."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=ctx.repo,
            env={**ctx.env, "PWD": str(ctx.repo)},
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolError(f"/bin/sh cannot be started: {error}") from None
    finally:
        os.close(writing)
    os.set_blocking(reading, False)
    pidfd = os.pidfd_open(process.pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(reading, select.POLLIN)
    end = time.monotonic() + timeout_s
    late = False
    try:
        while True:
            left = end - time.monotonic()
            if left <= 0:
                late = True
                break
            ready = {fd for fd, _ in poll.poll(left * 1000)}
            if reading in ready and not output.take(reading):
                poll.unregister(reading)
            if pidfd in ready:
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        while output.take(reading):
            pass
    finally:
        os.close(pidfd)
        os.close(reading)
    return None if late else code


class Output:
    """What a command printed: the first and the last of it, and how much there was."""

    def __init__(self) -> None:
        self.head = bytearray()
        self.tail = bytearray()
        self.size = 0

    def take(self, fd: int) -> bool:
        """Reads once; False when there is nothing now, or no more."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            return False
        self.size += len(data)
        room = KEPT_HEAD - len(self.head)
        self.head += data[:room]
        if len(data) > room:
            self.tail += data[max(room, 0) :]
            if len(self.tail) > 2 * KEPT_TAIL:
                del self.tail[:-KEPT_TAIL]
        return True

    def kept(self) -> bytes:
        """All of it, or head and tail; b"" if `shown` shows it all."""
        if self.size <= SHOWN_HEAD + SHOWN_TAIL:
            return b""
        tail = bytes(self.tail[-KEPT_TAIL:])
        left = self.size - len(self.head) - len(tail)
        middle = f"\n[... {left} bytes were not kept ...]\n".encode() if left else b""
        return bytes(self.head) + middle + tail

    def shown(self) -> str:
        whole = bytes(self.head) + bytes(self.tail[-KEPT_TAIL:])
        if self.size <= SHOWN_HEAD + SHOWN_TAIL:
            return whole.decode("utf-8", "replace").rstrip("\n")
        head = whole[:SHOWN_HEAD].decode("utf-8", "replace")
        tail = whole[-SHOWN_TAIL:].decode("utf-8", "replace")
        left = self.size - SHOWN_HEAD - SHOWN_TAIL
        return f"{head}\n[... {left} bytes left out ...]\n{tail}".rstrip("\n")
