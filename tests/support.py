"""What tests share: bounded polling, instances, a real daemon, a client that speaks the wire.

There are no sleeps in tests: wait for a condition with `eventually`, the only place that pauses,
bounded by one constant. Nothing here asserts how long something took.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from loomd.supervise import sweep
from loomd.wire import codec, endpoints
from loomd.wire import messages as m

BOUND_S = 30.0
"""How long any wait of a test may take. Generous: the machine may be busy."""

T = TypeVar("T")


def eventually(
    predicate: Callable[[], T],
    timeout: float = BOUND_S,
    *,
    what: str | Callable[[], str] = "",
    pause: float = 0.005,
) -> T:
    """The first true value of `predicate`; AssertionError naming `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= end:
            said = what() if callable(what) else what
            raise AssertionError(f"not within {timeout} s: {said or predicate!r}")
        time.sleep(pause)


def patiently(attempt: Callable[[float], T], told: Callable[[T], bool]) -> T:
    """What came of `attempt(seconds)`, a thing that is to run out of its time, with ever more of it
    until `told` says that it had got as far as it should: on a busy machine it may not have begun.
    """
    found = attempt(0.5)
    for seconds in (3.0, BOUND_S):
        if told(found):
            break
        found = attempt(seconds)
    return found


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that somebody writes: the last may be half there."""
    return path.read_text().rpartition("\n")[0].split("\n") if path.exists() else []


def links(pid: int) -> list[str]:
    """What the descriptors of a living process are. Any of them may be closed meanwhile."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


# --- instances ---------------------------------------------------------------------------------


@dataclass
class TestInstance:
    """An instance of its own: three paths below one short temporary folder.

    killed: a daemon on it was killed, so that its socket files may still be there.
    """

    __test__ = False

    base: Path
    places: endpoints.Instance
    killed: bool = False

    @property
    def state(self) -> Path:
        return self.places.state

    @property
    def runtime(self) -> Path:
        return self.places.runtime

    @property
    def config(self) -> Path:
        return self.places.config

    def environment(self, **more: str) -> dict[str, str]:
        """The environment that a daemon or `loomctl` of this instance runs in."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LOOM_")}
        return {
            **kept,
            "LOOM_STATE_DIR": str(self.state),
            "LOOM_RUNTIME_DIR": str(self.runtime),
            "LOOM_CONFIG": str(self.config),
            **more,
        }

    def processes(self) -> list[psutil.Process]:
        """Every living process (not this one) that has to do with the instance.

        Found by command line, environment, open files or mapped files: a process that has set its
        title has overwritten the first two.
        """
        return processes_naming(str(self.base))

    def sockets(self) -> list[Path]:
        if not self.runtime.exists():
            return []
        return [path for path in self.runtime.rglob("*") if path.is_socket()]


def make_instance(config: str = "") -> TestInstance:
    """A fresh instance. The path is short: a Unix socket's may have 107 bytes."""
    base = Path(tempfile.mkdtemp(prefix="loom-", dir="/tmp"))
    places = endpoints.instance(
        {
            "LOOM_STATE_DIR": str(base / "state"),
            "LOOM_RUNTIME_DIR": str(base / "run"),
            "LOOM_CONFIG": str(base / "config.toml"),
        }
    )
    places.config.write_text(config)
    return TestInstance(base, places)


def remove_instance(instance: TestInstance) -> None:
    """Removes it; AssertionError if anything of it lives on (which is then killed)."""
    with contextlib.suppress(AssertionError):  # who has been told, or killed, may still be dying
        eventually(lambda: not instance.processes())
    left = instance.processes()
    if not left and instance.state.is_dir():
        sweep.sweep(instance.state)  # of a killed daemon, empty cgroups remain
    described = describe(left)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if left:
        eventually(lambda: not instance.processes(), what="killed processes gone")
    shutil.rmtree(instance.base, ignore_errors=True)
    assert not left, f"left running: {described}"


def processes_naming(text: str) -> list[psutil.Process]:
    """Living processes other than this one whose /proc entries name `text`."""
    raw = os.fsencode(text)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid() and _names(f"/proc/{entry}", raw):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(int(entry))
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


def _names(proc: str, raw: bytes) -> bool:
    for name in ("cmdline", "environ", "maps"):
        try:
            with open(f"{proc}/{name}", "rb") as file:
                if raw in file.read():
                    return True
        except OSError:
            continue
    try:
        for fd in os.listdir(f"{proc}/fd"):
            with contextlib.suppress(OSError):
                if raw in os.fsencode(os.readlink(f"{proc}/fd/{fd}")):
                    return True
    except OSError:
        return False
    return False


def describe(processes: list[psutil.Process]) -> list[str]:
    said = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            said.append(f"{process.pid} {' '.join(process.cmdline())} [{process.status()}]")
    return said


# --- a client ----------------------------------------------------------------------------------


class RequestFailed(AssertionError):
    """The hub answered `Failure`."""

    def __init__(self, failure: m.Failure) -> None:
        super().__init__(f"{failure.code}: {failure.message} {failure.hint}".strip())
        self.code = failure.code
        self.failure = failure


class Client:
    """A small synchronous client: one request at a time, resent over restarts of the hub."""

    def __init__(self, places: endpoints.Instance, name: str = "") -> None:
        self._places = places
        self.name = name or f"test-{os.getpid()}-{time.monotonic_ns()}"
        self._count = 0
        self._socket: Any = None
        self.welcome: m.ClientWelcome | None = None

    def connect(self, timeout: float = BOUND_S) -> Client:
        """Says Hello until it is welcomed."""
        self._hello(time.monotonic() + timeout)
        return self

    def _hello(self, end: float) -> None:
        from loomd.wire import sockets

        patience = 0.2  # a hub that is slow each time must not be asked anew each time
        while True:
            self.close()
            try:
                token = self._places.token_file.read_text().strip()
            except FileNotFoundError:
                token = ""
            if token:
                self._socket = sockets.make_dealer(
                    self._places.clients, f"{self.name}:{time.monotonic_ns()}".encode()
                )
                self._send(m.ClientHello(token=token, client=self.name))
                answer = self._receive(patience)
                patience = min(2 * patience, 2.0)
                if isinstance(answer, m.ClientWelcome):
                    self.welcome = answer
                    return
            if time.monotonic() > end:
                raise AssertionError("the daemon did not welcome the client")
            time.sleep(0.005)

    def _send(self, message: m.FromClient) -> None:
        self._socket.send(codec.encode(message))

    def _receive(self, timeout: float) -> m.ToClient | None:
        raw = self._socket.receive(timeout)
        return None if raw is None else codec.to_client(raw)

    def request(self, op: str, /, timeout: float = BOUND_S, **args: Any) -> Any:
        """The value of one call. RequestFailed if the hub says so."""
        self._count += 1
        id = f"r{self._count}"
        end = time.monotonic() + timeout
        if self._socket is None:
            self._hello(end)
        self._send(m.Request(id=id, op=op, args=args))
        quiet = 0
        while True:
            answer = self._receive(0.25)
            if isinstance(answer, m.Reply) and answer.id == id:
                return answer.value
            if isinstance(answer, m.Failure) and answer.id in (id, ""):
                if answer.code != "auth":
                    raise RequestFailed(answer)
                self._hello(end)  # a hub that started since our Hello
                self._send(m.Request(id=id, op=op, args=args))
            if time.monotonic() > end:
                raise AssertionError(f"no answer to {op} within {timeout} s")
            if answer is None:
                quiet += 1
                if quiet % 2 == 0:  # the hub may have been restarted: same id, so done once
                    self._hello(end)
                    self._send(m.Request(id=id, op=op, args=args))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Client:
        return self.connect() if self._socket is None else self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Subscriber:
    """Subscribed to prefixes of the XPUB."""

    def __init__(self, places: endpoints.Instance, *topics: str) -> None:
        from loomd.wire import sockets

        self._socket = sockets.make_sub(places.events, topics)

    def receive(self, timeout: float = BOUND_S) -> m.Published | None:
        """The next publication, or None after `timeout` seconds."""
        got = self._socket.receive(timeout)
        return None if got is None else codec.published(got[1])

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# --- a real daemon -----------------------------------------------------------------------------


@dataclass
class Daemon:
    """`python -m loomd` on an instance of its own: started, ready, stopped, nothing left."""

    instance: TestInstance
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    seen: set[psutil.Process] = field(default_factory=set)

    @property
    def log(self) -> Path:
        return self.instance.base / "daemon.log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, *, ready: bool = True) -> Daemon:
        """Starts it and waits until a client is welcomed and answered."""
        assert self.process is None
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "loomd"],
                env=self.instance.environment(**self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        client = Client(self.instance.places)
        try:

            def welcomed() -> bool:
                assert self.process is not None
                assert self.process.poll() is None, f"loomd ended:\n{self.tail()}"
                with contextlib.suppress(AssertionError):
                    client.connect(timeout=0.5)
                    client.request("status", timeout=2.0)
                    return True
                return False

            eventually(welcomed, timeout=30.0, what=lambda: f"daemon ready\n{self.tail()}")
        finally:
            client.close()

    def client(self) -> Client:
        return Client(self.instance.places).connect()

    def tail(self, lines: int = 60) -> str:
        """The end of the daemon's log and of its children's output, for failure messages."""
        parts = []
        for path in [self.log, *sorted(self.instance.places.output.rglob("*"))]:
            if path.is_file() and path.stat().st_size:
                text = path.read_text(errors="replace").splitlines()[-lines:]
                parts.append(f"--- {path.name}\n" + "\n".join(text))
        return "\n".join(parts)

    def children(self) -> list[psutil.Process]:
        """Every living descendant of the root; remembered, to be looked for after the end."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen.update(found)
        return found

    def stop(self, timeout: float = 30.0) -> None:
        """Orderly stop by SIGTERM: exit 0 and nothing left behind."""
        if self.process is None:
            return
        self.children()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            tail = self.tail()
            self.kill()
            raise AssertionError(f"loomd did not stop within {timeout} s\n{tail}") from None
        self.process = None
        self.assert_nothing_left()
        assert self.instance.sockets() == [], "socket files left"
        self.instance.killed = False
        assert status == 0, f"loomd exited {status}\n{self.tail()}"

    def kill(self) -> None:
        """kill -9 of the root: waits until nothing of the instance lives."""
        if self.process is None:
            return
        self.children()
        self.instance.killed = True
        self.process.kill()
        self.process.wait()
        self.process = None
        self.assert_nothing_left()

    def assert_nothing_left(self) -> None:
        def left() -> list[psutil.Process]:
            known = [p for p in self.seen if p.is_running() and _alive(p)]
            return [*known, *self.instance.processes()]

        eventually(
            lambda: not left(), what=lambda: f"nothing left running, but: {describe(left())}"
        )
        self.seen.clear()

    def __enter__(self) -> Daemon:
        return self if self.process is not None else self.start()

    def __exit__(self, kind: object, *exc: object) -> None:
        if kind is None:
            self.stop()
        else:
            with contextlib.suppress(AssertionError):
                self.kill()


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def running(config: str = "", **env: str) -> Iterator[Daemon]:
    """A daemon on a fresh instance, gone afterwards."""
    instance = make_instance(config)
    try:
        with Daemon(instance, env=env) as daemon:
            yield daemon
    finally:
        remove_instance(instance)
