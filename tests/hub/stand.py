"""A real hub process under a fake root, and hosts written by hand: what the hub's tests share."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from loomd.wire import codec, sockets
from loomd.wire import messages as m
from loomd.wire.bodies import Body, Note
from tests.support import BOUND_S, Client, TestInstance

SECRET = "5ec7e7"

PROGRAM = """
import json, os, sys
from loomd.hub.process import main
from loomd.supervise.link import ChildLink, ProcessBirth
from loomd.supervise.slots import Slot
main(ProcessBirth("hub", int(sys.argv[1]), "", ChildLink.from_env(), Slot.private(),
                  json.loads(sys.argv[2])))
"""


def token(name: str, incarnation: int) -> str:
    said = f"{name}#{incarnation}".encode()
    return hmac.new(SECRET.encode(), said, hashlib.sha256).hexdigest()[:32]


class FakeRoot:
    """Holds the other end of the hub's link. `children` is what `which` answers; `kept` is told to
    each hub before."""

    def __init__(self, instance: TestInstance, **args: Any) -> None:
        self.instance = instance
        self.args: dict[str, Any] = {
            "state_dir": str(instance.state),
            "runtime_dir": str(instance.runtime),
            "config": str(instance.config),
            "settings": {"supervision": {"poison_crashes": 3}},
            "package_generation": 1,
            "secret": SECRET,
            "entries": {
                "team": "x:main",
                "tools": "x:main",
                "agent": "x:main",
                "echo": "x:main",
            },
            "daemon_specs": [],
            "version": "0.test",
            "root_pid": os.getpid(),
            **args,
        }
        self.env: dict[str, str] = {}
        self.children: list[list[Any]] = []
        self.kept: list[dict[str, Any]] = []
        self.seen: list[dict[str, Any]] = []
        self.incarnation = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.link: socket.socket | None = None

    def start(self, *, ready: bool = True) -> FakeRoot:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.incarnation += 1
        self.link = ours
        with theirs, open(self.instance.base / "hub.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self.incarnation), json.dumps(self.args)],
                env=self.instance.environment(LOOM_LINK_FD=str(theirs.fileno()), **self.env),
                pass_fds=[theirs.fileno()],
                stderr=log,
            )
        if ready:
            self.wait(lambda note: note["op"] == "ready")
            for note in self.kept:
                self.tell(**note)
            self.wait(lambda note: note["op"] == "which")  # answered: now it hears actors
        return self

    def log(self) -> str:
        return (self.instance.base / "hub.log").read_text()

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """One message of the hub; `which` is answered on the way."""
        assert self.link is not None
        self.link.settimeout(max(0.001, timeout))
        try:
            data = self.link.recv(200_000)
        except TimeoutError:
            return None
        if not data:
            raise EOFError(f"the hub is gone:\n{self.log()}")
        note: dict[str, Any] = json.loads(data)
        self.seen.append(note)
        if note["op"] == "which":
            self.tell(op="which", id=note["id"], children=self.children, last=True)
        return note

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first message (an earlier one too) that is wanted; it is taken out."""
        for note in self.seen:
            if wanted(note):
                self.seen.remove(note)
                return note
        end = time.monotonic() + BOUND_S
        while time.monotonic() < end:
            note = self.receive(end - time.monotonic())  # type: ignore[assignment]
            if note is not None and wanted(note):
                self.seen.remove(note)
                return note
        raise AssertionError(f"the hub did not say that; it said {self.seen}\n{self.log()}")

    def tell(self, **note: Any) -> None:
        assert self.link is not None
        self.link.send(json.dumps(note).encode())

    def ensured(self, name: str) -> dict[str, Any]:
        return self.wait(lambda note: note["op"] == "ensure" and note["name"] == name)

    def kill(self) -> None:
        assert self.process is not None and self.link is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.link.close()
        self.seen.clear()

    def stop(self) -> int:
        assert self.process is not None and self.link is not None
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.tell(op="stop")
        status = self.process.wait(BOUND_S)
        self.link.close()
        return status

    def __enter__(self) -> FakeRoot:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        if self.link is not None:
            self.link.close()
        self.instance.killed = True

    def client(self, name: str = "") -> Client:
        return Client(self.instance.places, name).connect()


class Host:
    """One incarnation of an actor, by hand."""

    def __init__(self, root: FakeRoot, name: str, incarnation: int) -> None:
        self.root = root
        self.name = name
        self.incarnation = incarnation
        self.step = 0
        self.got: list[Any] = []
        self.socket = sockets.make_dealer(root.instance.places.actors, f"{name}#{incarnation}")

    def hello(self) -> m.Welcome:
        self.send(
            m.Hello(
                actor=self.name,
                incarnation=self.incarnation,
                token=token(self.name, self.incarnation),
            )
        )
        welcome = self.wait(m.Welcome)
        self.step = welcome.step
        return welcome

    def send(self, message: Any) -> None:
        self.socket.send(codec.encode(message))

    def wait(self, kind: type, timeout: float = BOUND_S) -> Any:
        """The next message of this type; others are kept in order for later."""
        for message in self.got:
            if isinstance(message, kind):
                self.got.remove(message)
                return message
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            raw = self.socket.receive(end - time.monotonic())
            if raw is None:
                break
            message = codec.to_actor(raw)
            if isinstance(message, kind):
                return message
            self.got.append(message)
        raise AssertionError(f"no {kind.__name__}, but {self.got}\n{self.root.log()}")

    def frame(self, input: m.InputRef | None = None, **parts: Any) -> m.Commit:
        return m.Commit(
            actor=self.name,
            incarnation=self.incarnation,
            step=self.step + 1,
            input=input or m.InputRef(kind="init"),
            now=time.time(),
            **parts,
        )

    def commit(self, input: m.InputRef | None = None, **parts: Any) -> Any:
        """One step, acknowledged."""
        self.send(self.frame(input, **parts))
        answer = self.wait(m.Committed | m.Refused | m.Fenced | m.Retry)  # type: ignore[arg-type]
        if isinstance(answer, m.Committed):
            assert answer.step == self.step + 1
            self.step += 1
        return answer

    def take(self) -> m.Mail:
        mail: m.Mail = self.wait(m.Mail)
        return mail

    def consume(self, mail: m.Mail, **parts: Any) -> Any:
        return self.commit(m.InputRef(kind="mail", lane=mail.lane, seq=mail.seq), **parts)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def out(to: str | tuple[str, ...], body: Body | None = None, lane: int = m.WORK) -> m.Out:
    return m.Out(
        to=(to,) if isinstance(to, str) else to,
        lane=lane,  # type: ignore[arg-type]
        body=codec.encode(Note(data=1) if body is None else body),
    )


@contextlib.contextmanager
def hub(instance: TestInstance, **args: Any) -> Iterator[FakeRoot]:
    """A hub that is ready."""
    with FakeRoot(instance, **args) as root:
        yield root.start()
