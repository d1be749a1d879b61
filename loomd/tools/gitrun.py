"""The one way in which git is started here.

`run` returns when git exits, not when its pipes close: what a hook has left behind may hold those
for hours. No program that a repository's configuration names is started to watch files.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NO_HOOKS: Final = ("-c", "core.hooksPath=/dev/null")

NEUTRAL: Final[Mapping[str, str]] = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}
"""Variables: a person's own settings do not count, and a checkout may belong to somebody else."""

_ALWAYS: Final = (
    "git", "--no-pager", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false",
)  # fmt: skip

_PIECE: Final = 1 << 20


@dataclass(frozen=True)
class Ran:
    """code: the exit code, negative: a signal; errors: empty where they are in the output; cut:
    there was more output than was wanted, so git was killed."""

    code: int
    output: bytes
    errors: bytes = b""
    cut: bool = False

    @property
    def text(self) -> str:
        """The output as one value: a path, a hash."""
        return os.fsdecode(self.output).strip()


def run(
    repo: Path,
    *args: str,
    env: Mapping[str, str],
    options: tuple[str, ...] = (),
    input: bytes = b"",
    most: int | None = None,
    merged: bool = False,
) -> Ran:
    """Runs a command of git in a checkout. OSError if git cannot be started.

    options  of git itself, before the command
    input    what it reads from its standard input
    most     bytes of output; at that many it is killed
    merged   standard error comes with the output
    """
    process = subprocess.Popen(
        [*_ALWAYS, *options, *args],
        cwd=repo,
        env=dict(env),
        stdin=subprocess.PIPE if input else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
    )
    with contextlib.ExitStack() as held:
        for file in (process.stdin, process.stdout, process.stderr):
            if file is not None:
                os.set_blocking(file.fileno(), False)
                held.callback(_close, file)
        return _Conversation(process, input, most).to_its_end()


def _close(file: object) -> None:
    with contextlib.suppress(OSError):  # what was not taken of the input is nobody's
        file.close()  # type: ignore[attr-defined]


class _Conversation:
    """With one git: what it reads, and what it says, until it has exited."""

    def __init__(self, process: subprocess.Popen[bytes], input: bytes, most: int | None) -> None:
        self.process = process
        self.left = memoryview(input)
        self.most = most
        assert process.stdout is not None
        self.output = bytearray()
        self.errors = bytearray()
        self.reading = {process.stdout.fileno(): self.output}
        if process.stderr is not None:
            self.reading[process.stderr.fileno()] = self.errors
        self.poll = select.poll()
        for fd in self.reading:
            self.poll.register(fd, select.POLLIN)
        self.writing = process.stdin.fileno() if process.stdin is not None else -1
        if self.writing >= 0:
            self.poll.register(self.writing, select.POLLOUT)

    def to_its_end(self) -> Ran:
        pidfd = os.pidfd_open(self.process.pid)
        cut = False
        try:
            self.poll.register(pidfd, select.POLLIN)
            while not cut:
                ready = {fd for fd, _ in self.poll.poll()}
                if self.writing in ready:
                    self._write()
                for fd in [fd for fd in self.reading if fd in ready]:
                    if not self._read(fd):
                        self.poll.unregister(fd)
                        del self.reading[fd]
                cut = self._full()
                if pidfd in ready:
                    break
        finally:
            os.close(pidfd)
            self.process.kill()  # it has exited, but for a cut or an error of ours
            code = self.process.wait()
        for fd in list(self.reading):
            while not self._full() and self._read(fd, more=True):
                pass
        cut = cut or self._full()
        if cut and self.most is not None:
            del self.output[self.most :]
        return Ran(code, bytes(self.output), bytes(self.errors), cut)

    def _full(self) -> bool:
        return self.most is not None and len(self.output) >= self.most

    def _read(self, fd: int, *, more: bool = False) -> bool:
        """Takes what is there; False at the end. more: also when there is nothing just now."""
        try:
            data = os.read(fd, _PIECE)
        except BlockingIOError:
            return not more
        self.reading[fd] += data
        return bool(data)

    def _write(self) -> None:
        try:
            self.left = self.left[os.write(self.writing, self.left[:_PIECE]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.left = self.left[:0]
        if not self.left:
            self.poll.unregister(self.writing)
            self.writing = -1
            assert self.process.stdin is not None
            self.process.stdin.close()
