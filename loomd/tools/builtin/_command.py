"""One command of the shell tool: its process, what it prints, and the ways it can end."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from loomd.tools import terminal
from loomd.tools.contract import ToolError
from loomd.tools.frames import Channel, Gone
from loomd.tools.progress import Progress
from loomd.tools.spool import Spool

SHOWN_HEAD: Final = 12_000
SHOWN_TAIL: Final = 24_000
"""Bytes of the output that the model sees; the whole is in the spool."""

DRAINED: Final = 4 << 20
"""Bytes that are read after the end of the process, at most: one that it has left behind may go on
printing for ever."""

GRACE_S: Final = 5.0
"""From SIGTERM to SIGKILL, for one that is to end."""

Reason = Literal["", "timeout", "idle", "killed"]


@dataclass(frozen=True)
class Ended:
    """code: the exit code, negative: a signal; reason: why it was killed, "" if it ended itself."""

    code: int
    reason: Reason = ""


class Output:
    """What a command printed: the first and the last of it as they are shown, all of it in the
    spool, and pieces of it to whoever looks on."""

    def __init__(self, spool: Spool, progress: Progress | None = None) -> None:
        self.spool = spool
        self.progress = progress
        self.head = bytearray()
        self.tail = bytearray()
        self.size = 0
        self.last = time.monotonic()

    def add(self, data: bytes) -> None:
        self.last = time.monotonic()
        self.size += len(data)
        self.spool.write(data)
        if self.progress is not None:
            self.progress.add(data)
        room = SHOWN_HEAD - len(self.head)
        self.head += data[: max(room, 0)]
        self.tail += data[max(room, 0) :]
        if len(self.tail) > 4 * SHOWN_TAIL:
            del self.tail[:-SHOWN_TAIL]

    def shown(self) -> str:
        return terminal.cut(bytes(self.head), bytes(self.tail[-SHOWN_TAIL:]), self.size)

    def kept(self) -> str:
        """How `shown` differs from all of it: "cut" (the model may want to see the rest), "altered"
        (escape sequences), "" (not at all)."""
        if self.size > SHOWN_HEAD + SHOWN_TAIL:
            return "cut"
        raw = bytes(self.head + self.tail)
        text = terminal.text_of(raw)
        if text.encode() == raw:
            return ""
        return "cut" if terminal.is_binary(raw) else "altered"


class Command:
    """A running command. Its group is dead when `run` has returned or raised.

    window  rows and columns of the terminal it gets; None: a pipe
    channel where what is typed, and the order to end, come from; without it there is no input
    """

    def __init__(
        self,
        line: str,
        cwd: Path,
        env: Mapping[str, str],
        output: Output,
        *,
        window: tuple[int, int] | None = None,
        channel: Channel | None = None,
    ) -> None:
        self.output = output
        self.channel = channel
        self.window = window
        self._typed = bytearray()
        self._closing = False
        self._input = -1
        ours, theirs, stdin = self._streams()
        try:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", line],
                cwd=cwd,
                env=dict(env),
                stdin=stdin,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
                preexec_fn=_take_terminal if window else None,  # this process has one thread
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._close(ours)
            raise ToolError(f"/bin/sh cannot be started in {cwd}: {error}") from None
        finally:
            for fd in {theirs, stdin} - {subprocess.DEVNULL, subprocess.PIPE}:
                os.close(fd)
        self.reading = ours
        os.set_blocking(ours, False)

    def _streams(self) -> tuple[int, int, int]:
        """(our end of the output, its end, its input); our end of the input is `_input`."""
        if self.window is None:
            ours, theirs = os.pipe()
            if self.channel is None:
                return ours, theirs, subprocess.DEVNULL
            stdin, self._input = os.pipe()
            os.set_blocking(self._input, False)
            return ours, theirs, stdin
        try:
            ours, theirs = pty.openpty()
        except OSError as error:
            raise ToolError(f"no terminal can be had here: {error.strerror or error}") from None
        termios.tcsetwinsize(theirs, self.window)
        if self.channel is None:
            os.write(ours, b"\x04")  # nobody will type: end of file for who reads
        else:
            self._input = os.dup(ours)
            os.set_blocking(self._input, False)
        return ours, theirs, theirs

    def run(self, timeout_s: float, idle_s: float) -> Ended:
        """Until the process has ended, whatever still holds its output. 0: no such limit."""
        poll = select.poll()
        pidfd = os.pidfd_open(self.process.pid)
        end = time.monotonic() + timeout_s if timeout_s > 0 else float("inf")
        kill_at = float("inf")
        reason: Reason = ""
        try:
            poll.register(pidfd, select.POLLIN)
            poll.register(self.reading, select.POLLIN)
            if self.channel is not None:
                poll.register(self.channel.fileno(), select.POLLIN)
            while True:
                now = time.monotonic()
                silent = self.output.last + idle_s if idle_s > 0 else float("inf")
                due = min(end, silent, kill_at)
                if now >= due:
                    reason = "killed" if due == kill_at else "timeout" if due == end else "idle"
                    break
                progress = self.output.progress
                wake = min(due, progress.due() if progress else float("inf"), now + 60.0)
                ready = {fd for fd, _ in poll.poll(max(0.0, wake - now) * 1000 + 1)}
                if self.reading in ready and not self._read():
                    poll.unregister(self.reading)
                if self._input in ready:
                    self._type(poll)
                if self.channel is not None and self.channel.fileno() in ready:
                    for frame in self.channel.receive():
                        if "input" in frame:
                            self._typed += frame["input"]
                            self._closing = self._closing or bool(frame.get("eof"))
                            self._type(poll)
                        elif "terminate" in frame and kill_at == float("inf"):
                            kill_at = time.monotonic() + float(frame["terminate"])
                            self._signal(signal.SIGTERM)
                if progress is not None:
                    progress.tick()
                if pidfd in ready:
                    break
        except Gone:
            reason = "killed"
        finally:
            self._signal(signal.SIGKILL)
            code = self.process.wait()
            os.close(pidfd)
            self._drain()
            self._close(self.reading)
            if self.output.progress is not None:
                self.output.progress.flush()
        if not reason and kill_at < float("inf"):
            reason = "killed"
        return Ended(code, reason)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _read(self) -> bool:
        """Takes what there is now, once; False at the end."""
        try:
            data = os.read(self.reading, 1 << 16)
        except BlockingIOError:
            return True
        except OSError:  # EIO: nobody has the terminal any more
            return False
        if data:
            self.output.add(data)
        return bool(data)

    def _drain(self) -> None:
        until = self.output.size + DRAINED
        while self.output.size < until:
            before = self.output.size
            if not self._read() or self.output.size == before:
                return

    def _type(self, poll: select.poll) -> None:
        """Hands on what was typed, as far as it is taken."""
        if self._input < 0:
            self._taken(len(self._typed))
            return
        try:
            if self._typed:
                self._taken(os.write(self._input, self._typed))
        except BlockingIOError:
            pass
        except OSError:  # it has closed its input
            self._taken(len(self._typed))
            self._closing = True
        if self._typed:
            poll.register(self._input, select.POLLOUT)
            return
        with contextlib.suppress(KeyError):
            poll.unregister(self._input)
        if self._closing:
            if self.window is None:
                os.close(self._input)
                self._input = -1
            else:
                self._closing = False
                self._typed += b"\x04"
                self._type(poll)

    def _taken(self, done: int) -> None:
        del self._typed[:done]
        if self.channel is not None and done:
            self.channel.say({"taken": done})

    def _close(self, ours: int) -> None:
        os.close(ours)
        if self._input >= 0:
            os.close(self._input)
            self._input = -1


def _take_terminal() -> None:
    """In the child, which leads a session of its own: its input is its terminal."""
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
