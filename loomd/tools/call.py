"""One call: a guard, its worker, the frames between them and the tool host.

    tool host <--frames--> guard <--frames--> worker
                            `--- output pipe ---'

The guard is the worker's parent and a subreaper: whatever the worker starts stays below it, even in
a session of its own. It ends the tree when the worker exits, when time, memory or number of
processes are used up, when it is told to, and when the tool host is gone; then it says `end`.
The worker confines itself, runs the function and sends `result`. A frame is four bytes of length
(big-endian) and a MessagePack map.

    host -> guard    call {tool, args, ...}; state {value}; cancel {}
    guard -> host    born {} (before anything runs); lock {} (from the worker: first touch of the
                     state); result {...}; end {exit, signal, reason, output, size}
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from loomd.supervise import kernel
from loomd.supervise.brood import Hunt
from loomd.supervise.sweep import VARIABLE as MARK
from loomd.tools import copy as copies
from loomd.tools import sandbox
from loomd.tools.contract import (
    Context,
    Proposal,
    Result,
    State,
    ToolError,
    ToolSpec,
    check_arguments,
)
from loomd.tools.propose import MAX_HUNKS, capped, change, weight
from loomd.wire import codec
from loomd.wire.errors import LoomError

MAX_FRAME: Final = 64 << 20
OUTPUT_HEAD: Final = 16 << 10
OUTPUT_TAIL: Final = 16 << 10
"""Of what a tool prints (not: of what it returns) the first and the last bytes are kept."""

WATCH_S: Final = 0.1
"""How often the guard counts the memory and the processes of its tree."""

STATE_LIMIT: Final = 48 << 10

_LENGTH = struct.Struct(">I")


class Gone(Exception):
    """The other side of a frame socket has closed it."""


def send_frame(sock: socket.socket, value: Mapping[str, Any]) -> None:
    raw = codec.pack(value)
    if len(raw) > MAX_FRAME:
        raise ToolError(f"a result of {len(raw)} bytes is over {MAX_FRAME}", "too_large")
    try:
        sock.sendall(_LENGTH.pack(len(raw)) + raw)
    except (BrokenPipeError, ConnectionResetError):
        raise Gone from None


class Frames:
    """Takes a byte stream apart."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The frames that `data` completes. ValueError: no frame of ours."""
        self._buffer += data
        found = []
        while len(self._buffer) >= 4:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            if len(self._buffer) < 4 + length:
                break
            value = codec.unpack(bytes(self._buffer[4 : 4 + length]))
            del self._buffer[: 4 + length]
            if not isinstance(value, dict):
                raise ValueError("a frame that is no map")
            found.append(value)
        return found


def receive_frame(sock: socket.socket) -> dict[str, Any]:
    """Blocks for one frame. Gone."""
    frames = Frames()
    while True:
        data = sock.recv(1 << 20)
        if not data:
            raise Gone
        if found := frames.feed(data):
            return found[0]


# --- the guard -----------------------------------------------------------------------------------


def guard(waiting: socket.socket, tools: Mapping[str, ToolSpec]) -> NoReturn:
    """The life of a guard, in a process freshly forked from the generation: with its worker it
    waits for the socket of one call."""
    status = 0
    try:
        os.setsid()
        kernel.become_subreaper()
        kernel.close_all_but([waiting.fileno()])
        one = _Guard(tools)
        _, fds, _, _ = socket.recv_fds(waiting, 1, 1)
        waiting.close()
        if fds:
            if one.ended():
                one = _Guard(tools)  # somebody has killed the worker while it waited
            one.run(socket.socket(fileno=fds[0]))
    except Gone:
        pass
    except BaseException:  # noqa: BLE001 - the last line of defence: say it, then end
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(BaseException):
            kill_tree()
        os._exit(status)


class _Guard:
    def __init__(self, tools: Mapping[str, ToolSpec]) -> None:
        self.head = bytearray()
        self.tail = bytearray()
        self.size = 0
        self.reason = ""
        self.result: dict[str, Any] | None = None
        mine, theirs = socket.socketpair()
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            mine.close()
            os.close(reading)
            worker(theirs, writing, tools)
        theirs.close()
        os.close(writing)
        self.inner = mine
        self.output = reading
        os.set_blocking(reading, False)
        self.pidfd = os.pidfd_open(self.pid)
        self.poll = select.poll()
        for fd in (self.pidfd, self.inner.fileno(), self.output):
            self.poll.register(fd, select.POLLIN)

    def ended(self) -> bool:
        """Has the worker ended already?"""
        return any(fd == self.pidfd for fd, _ in self.poll.poll(0))

    def run(self, sock: socket.socket) -> None:
        self.sock = sock
        outer, inner = Frames(), Frames()
        frames: list[dict[str, Any]] = []
        while not frames:
            frames = self._receive(outer)
        order = frames.pop(0)
        self.limits: dict[str, Any] = order["limits"]
        send_frame(sock, {"born": os.getpid()})
        with contextlib.suppress(Gone):
            send_frame(self.inner, order)
        self._from_host(frames)
        self.poll.register(sock.fileno(), select.POLLIN)
        now = time.monotonic()
        deadline = now + float(self.limits["call_s"])
        watch = now + WATCH_S if self.limits.get("watch", True) else deadline
        while not self.reason:
            now = time.monotonic()
            if now >= deadline:
                self.reason = "timeout"
                break
            if now >= watch:
                self._watch()
                watch = time.monotonic() + WATCH_S
                continue
            ready = dict(self.poll.poll((min(deadline, watch) - now) * 1000))
            if self.output in ready and not self._read_output():
                self.poll.unregister(self.output)
            if self.inner.fileno() in ready:
                try:
                    data = self.inner.recv(1 << 20)
                except ConnectionResetError:
                    data = b""
                if not data:
                    self.poll.unregister(self.inner.fileno())
                self._from_worker(inner, data)
            if sock.fileno() in ready:
                self._from_host(self._receive(outer))
            if self.pidfd in ready:
                break
        self._finish(inner)

    def _receive(self, frames: Frames) -> list[dict[str, Any]]:
        """Frames of the tool host. Gone: it is dead, and so is this call."""
        try:
            data = self.sock.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Gone
        return frames.feed(data)

    def _from_host(self, frames: list[dict[str, Any]]) -> None:
        for frame in frames:
            if "cancel" in frame:
                self.reason = "cancelled"
            elif "state" in frame:
                with contextlib.suppress(Gone):
                    send_frame(self.inner, frame)

    def _finish(self, inner: Frames) -> None:
        status = self._end()
        self.inner.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while data := self.inner.recv(1 << 20):
                self._from_worker(inner, data)
        while self._read_output():
            pass
        if self.result is not None and not self.reason:
            send_frame(self.sock, {"result": self.result})
        code = os.waitstatus_to_exitcode(status)
        send_frame(
            self.sock,
            {
                "end": {
                    "exit": max(code, 0),
                    "signal": max(-code, 0),
                    "reason": self.reason,
                    "output": self._shown(),
                    "size": self.size,
                }
            },
        )

    def _end(self) -> int:
        """Ends the worker and all below it; the worker's wait status."""
        if self.reason:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):  # it leads no group yet
                os.killpg(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        kill_tree()
        return status

    def _from_worker(self, frames: Frames, data: bytes) -> None:
        try:
            found = frames.feed(data)
        except ValueError:
            return  # a worker that writes nonsense hurts only itself: it has no result
        for frame in found:
            if "lock" in frame:
                send_frame(self.sock, {"lock": True})
            elif isinstance(frame.get("result"), dict):
                self.result = frame["result"]

    def _read_output(self) -> bool:
        """Takes what the pipe has; False when it is empty or has ended."""
        try:
            data = os.read(self.output, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            return False
        self.size += len(data)
        room = OUTPUT_HEAD - len(self.head)
        self.head += data[:room]
        self.tail += data[max(room, 0) :]
        del self.tail[: max(0, len(self.tail) - OUTPUT_TAIL)]
        return True

    def _shown(self) -> bytes:
        cut = self.size - len(self.head) - len(self.tail)
        middle = f"\n[... {cut} bytes left out ...]\n".encode() if cut else b""
        return bytes(self.head) + middle + bytes(self.tail)

    def _watch(self) -> None:
        most = int(self.limits["processes"])
        pids = descendants(most + 1)
        if len(pids) > most:
            self.reason = "processes"
            return
        allowed = int(self.limits["memory_mb"]) << 20
        # What a fork shares with its parent counts in both: quick, and never too little. Only
        # what looks like too much is counted in proportion, which takes milliseconds each.
        if sum(map(kernel.memory_of, pids)) > allowed and sum(map(proportional, pids)) > allowed:
            self.reason = "memory"


def proportional(pid: int) -> int:
    """Bytes of anonymous memory, each page divided by how many share it; 0 if it is gone."""
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        open(f"/proc/{pid}/smaps_rollup", "rb") as file,
    ):
        for line in file:
            if line.startswith(b"Pss_Anon:"):
                return int(line.split()[1]) << 10
    return 0


def descendants(most: int) -> list[int]:
    """Pids of the processes below this one (single-threaded), parents first; `most` of them."""
    found: list[int] = []
    queue = kernel.own_children()
    while queue and len(found) < most:
        pid = queue.pop()
        found.append(pid)
        queue += kernel.children_of(pid)
    return found


def kill_tree() -> None:
    """Kills everything below this subreaper and reaps it, until nothing is left.

    Waits only for those it has killed: one that was adopted meanwhile may never end by itself.
    """
    while reap_after(Hunt(groups=True), kernel.own_children):
        pass


def reap_after(hunt: Hunt, quarry: Callable[[], list[int]]) -> bool:
    """One hunt for these children of this process; False if nobody could be killed."""
    while not hunt.round(quarry()):
        pass
    for pid in set(hunt.held).intersection(kernel.own_children()):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    return bool(hunt.held)


# --- the worker ----------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)


def worker(sock: socket.socket, output: int, tools: Mapping[str, ToolSpec]) -> NoReturn:
    """Waits for the order, runs the function and sends what came of it; never returns."""
    status = 1
    try:
        if not kernel.die_with(os.getppid()):
            os._exit(1)
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        kernel.close_all_but([sock.fileno()])
        sock.set_inheritable(False)
        kernel.default_signals()
        # Whatever the process that forked us had made of them: now they are the pipe.
        sys.stdin, sys.stdout, sys.stderr = _text(0, "r"), _text(1, "w"), _text(2, "w")
        send_frame(sock, {"result": _run(sock, receive_frame(sock), tools)})
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        status = 0
    except Gone:
        pass
    except BaseException:  # noqa: BLE001 - its output is the only place left to say it
        traceback.print_exc()
    finally:
        os._exit(status)


def _text(fd: int, mode: str) -> Any:
    """A standard stream, by lines: what is printed first comes first, on whichever of the two."""
    return os.fdopen(fd, mode, closefd=False, encoding="utf-8", errors="replace", buffering=1)


def _run(
    sock: socket.socket, order: dict[str, Any], tools: Mapping[str, ToolSpec]
) -> dict[str, Any]:
    spec = tools.get(order["tool"])
    if spec is None:
        return _failure("no_such_tool", f"there is no tool {order['tool']!r}")
    try:
        return _execute(sock, order, spec)
    except ToolError as error:
        return _failure(error.code, error.text)
    except LoomError as error:
        return _failure("failed", f"{error.message}. {error.hint}".rstrip(". "))
    except MemoryError:
        return _failure("crashed", _memory(order["limits"]))
    except BaseException as error:  # noqa: BLE001 - a tool's error is the model's to read
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return _failure("crashed", _memory(order["limits"]))
        return _failure("failed", trimmed(error, spec.function.__code__.co_filename))


def _memory(limits: Mapping[str, Any]) -> str:
    return f"out of memory: a call may use {limits['memory_mb']} MB"


def _execute(sock: socket.socket, order: dict[str, Any], spec: ToolSpec) -> dict[str, Any]:
    """Arguments, limits, confinement, the function, and what it changed."""
    given = check_arguments(spec, order["args"])
    env: dict[str, str] = order["env"]
    if MARK in os.environ:  # by which a successor of the daemon finds what is left of it
        env = {**env, MARK: os.environ[MARK]}
    os.environ.clear()
    os.environ.update(env)
    _limit(order["limits"])
    repo, scratch = Path(order["repo"]), Path(order["scratch"])
    copy = None
    if order["scratched"]:
        for folder in ("tmp", "home"):
            (scratch / folder).mkdir(parents=True, exist_ok=True)
    if order["copy"]:
        copy = copies.make(repo, scratch / "checkout")
        repo = copy.root
    profile = sandbox.Profile(**{key: value for key, value in order["profile"].items()})
    if profile.hide:
        sandbox.hide(profile.hide)
    os.chdir(repo)
    sandbox.confine(profile)
    state = State(lambda: _fetch(sock))
    if spec.context:
        given[spec.context] = Context(
            repo=repo,
            session=order["session"],
            agent=order["agent"],
            call=order["id"],
            state=state,
            env=env,
            scratch=scratch,
            limits=order["limits"],
            review=order["review"],
        )
    returned = spec.function(**given)
    if copy is not None:
        returned = _changed(copy, returned)
    result = _result(returned)
    if state.touched:
        result["state"] = checked_state(state.value())
    return readable(result)  # type: ignore[no-any-return]


def readable(value: Any) -> Any:
    """The same value with what is no UTF-8 (names of files may be any bytes) as `\\xNN`."""
    if isinstance(value, str):
        return value if value.isascii() else _escaped(value)
    if isinstance(value, dict):
        return {readable(key): readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [readable(item) for item in value]
    return value


def _escaped(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text


def _changed(copy: copies.Copy, returned: Any) -> Any:
    """What came of a call on a private copy: its result, or a proposal if files have changed."""
    files, left = copies.changes(copy)
    if isinstance(returned, Proposal):
        return returned
    result = _result(returned)
    if left:
        shown = "\n".join(left[:20])
        result["text"] += f"\n[not carried over from the private copy:\n{shown}]"
    if not files:
        return Result(**result)
    reason = str(result["data"].get("reason") or "what a command changed")
    return Proposal(tuple(files), reason, result["text"], result["output"])


def _fetch(sock: socket.socket) -> dict[str, Any]:
    send_frame(sock, {"lock": True})
    value = receive_frame(sock).get("state")
    return value if isinstance(value, dict) else {}


def _limit(limits: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), 10))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")
    space = int(limits.get("address_mb", 0)) << 20
    if space:
        _lower(resource.RLIMIT_AS, space)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, int(limits.get("file_mb", 4096)) << 20)
    _lower(resource.RLIMIT_NOFILE, 4096)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _result(returned: Any) -> dict[str, Any]:
    """What a tool returned, as a frame."""
    if returned is None:
        returned = ""
    if isinstance(returned, Result):
        return {
            "ok": returned.ok,
            "text": returned.text,
            "error": returned.error,
            "data": dict(returned.data),
            "output": returned.output,
        }
    if isinstance(returned, Proposal):
        return _proposal(returned)
    if isinstance(returned, str):
        return {"ok": True, "text": returned, "error": "", "data": {}, "output": b""}
    try:
        text = msgspec.json.encode(returned).decode()
    except (TypeError, ValueError) as error:
        raise ToolError(f"the tool returned what cannot be shown: {error}") from None
    return {"ok": True, "text": text, "error": "", "data": {}, "output": b""}


def _proposal(proposal: Proposal) -> dict[str, Any]:
    files = tuple(change(f.path, f.base, f.after, f.mode) for f in proposal.files)
    if weight(files) > MAX_HUNKS:
        raise ToolError(
            f"the change has {weight(files)} bytes in changed lines; at most {MAX_HUNKS} fit "
            "one proposal: propose it in parts",
            "too_large",
        )
    blobs = [
        content for f in proposal.files for content in (f.base, f.after) if content is not None
    ]
    return {
        "files": [msgspec.to_builtins(file) for file in capped(files)],
        "blobs": blobs,
        "reason": proposal.reason,
        "note": proposal.note,
        "output": proposal.output,
    }


def checked_state(value: dict[str, Any]) -> dict[str, Any]:
    """The state of a tool, if it can be stored. ToolError."""
    if not isinstance(value, dict):
        raise ToolError(f"ctx.state is no map but {type(value).__name__}")
    try:
        size = len(codec.pack(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise ToolError(f"ctx.state holds what cannot be stored: {error}") from None
    if size > STATE_LIMIT:
        raise ToolError(f"ctx.state has {size} bytes; at most {STATE_LIMIT} can be stored")
    return value


def _failure(error: str, text: str) -> dict[str, Any]:
    return {"ok": False, "text": text, "error": error, "data": {}, "output": b""}


def trimmed(error: BaseException, file: str, limit: int = 4000) -> str:
    """The traceback from the author's first frame on."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename == file), None)
    if isinstance(error, SyntaxError) or first is None:
        shown = traceback.format_exception_only(error)
    else:
        shown = [
            "Traceback (most recent call last):\n",
            *traceback.format_list(frames[first:]),
            *traceback.format_exception_only(error),
        ]
    text = "".join(shown).strip()
    return text if len(text) <= limit else f"{text[: limit // 2]}\n...\n{text[-limit // 2 :]}"
