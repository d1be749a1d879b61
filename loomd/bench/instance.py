"""A daemon of the bench's own, and a client that speaks to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loomd.store.env import Store
from loomd.wire import codec, endpoints, sockets
from loomd.wire import messages as m
from loomd.wire.errors import LoomError

START_S = 60.0
CONFIG = "[supervision]\nintensity = 10000\nperiod_s = 1\nheartbeat_s = 30\n"
"""Kills are part of the figures and must not make a supervisor give up."""

KEY_FILE = "KEY-FILE"
"""In a configuration: the path of the file with the key."""


class Client:
    """One request at a time. LoomError with the hub's code when it fails."""

    def __init__(self, places: endpoints.Instance) -> None:
        self._places = places
        self._name = f"bench-{os.getpid()}-{time.monotonic_ns()}"
        self._count = 0
        self._socket = sockets.make_dealer(places.clients, self._name)

    def hello(self) -> bool:
        """Whether the hub let us in."""
        try:
            token = self._places.token_file.read_text().strip()
        except FileNotFoundError:
            return False
        self._socket.send(codec.encode(m.ClientHello(token=token, client=self._name)))
        raw = self._socket.receive(1.0)
        return raw is not None and isinstance(codec.to_client(raw), m.ClientWelcome)

    def post(self, op: str, /, **args: Any) -> str:
        """Sends a request; its id, for `wait`."""
        self._count += 1
        id = str(self._count)
        self._socket.send(codec.encode(m.Request(id=id, op=op, args=args)))
        return id

    def wait(self, id: str, timeout: float = 60.0) -> Any:
        while True:
            raw = self._socket.receive(timeout)
            if raw is None:
                raise LoomError("timeout", f"request {id}: no answer within {timeout} s")
            answer = codec.to_client(raw)
            if isinstance(answer, m.Reply) and answer.id == id:
                return answer.value
            if isinstance(answer, m.Failure) and answer.id in (id, ""):
                raise LoomError(answer.code, answer.message, answer.hint)

    def request(self, op: str, /, timeout: float = 60.0, **args: Any) -> Any:
        return self.wait(self.post(op, **args), timeout)

    def ask(self, actor: str, **data: Any) -> Any:
        """The data of an echo actor's answer."""
        return self.request("ask", actor=actor, body={"t": "note", "data": data}).get("data")

    def close(self) -> None:
        self._socket.close()


class Bench:
    """A running daemon, a client of it, and its state to read."""

    def __init__(self, places: endpoints.Instance, client: Client, store: Store) -> None:
        self.places = places
        self.client = client
        self.store = store
        self._names: list[str] = []
        self._sessions = 0

    def session(self) -> str:
        """A fresh one."""
        self._sessions += 1
        return f"s-bench{self._sessions}"

    def spawn(self, session: str, name: str, *, kind: str = "echo", nice: int = 0) -> str:
        """Starts an echo actor; its name. It may not be up yet."""
        full = f"{session}/{name}"
        spec = {"name": full, "kind": kind, "session": session, "nice": nice}
        self.client.request("spawn", spec=spec)
        self._names.append(full)
        return full

    def tell(self, to: str, /, **data: Any) -> None:
        """One mail to an echo actor."""
        self.client.request("post", to=to, body={"t": "note", "data": data})

    def saved(self, name: str) -> dict[str, Any]:
        """What the actor has committed."""
        return self.client.request("fetch_state", name=name)["state"] or {}

    def until(self, name: str, done: str) -> None:
        """Waits until the actor has noted `done`."""
        while done not in self.saved(name).get("done", ()):
            time.sleep(0.01)

    def times(self, name: str) -> list[tuple[str, float]]:
        """(kind of input, its `now`) of every step of an actor."""
        from loomd.store.schema import name_key

        return [(row["kind"], row["now"]) for _, row in self.store.rows("inputs", name_key(name))]

    def pid(self, name: str) -> int:
        for row in self.client.request("ps", session=name.partition("/")[0]):
            if row["name"] == name:
                return int(row["pid"])
        raise LoomError("no_such_actor", f"{name} does not run")

    def clear(self) -> None:
        """Ends every actor that was spawned, and waits until their processes are gone."""
        names, self._names = set(self._names), []
        for id in [self.client.post("unspawn", name=name) for name in names]:
            self.client.wait(id)
        while any(row["name"] in names and row["pid"] for row in self.client.request("ps")):
            time.sleep(0.02)


@contextlib.contextmanager
def running(
    more: str = "", key: str = "", tools: Mapping[str, str] | None = None
) -> Iterator[Bench]:
    """A daemon in temporary folders, gone afterwards; without the folders if we are killed.

    more   of its configuration; KEY_FILE in it becomes the path of a file with the content `key`
    tools  file name -> content of the user's tools
    """
    base = Path(tempfile.mkdtemp(prefix="loom-bench-"))
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("LOOM_")},
        "LOOM_STATE_DIR": str(base / "state"),
        "LOOM_RUNTIME_DIR": str(base / "run"),
        "LOOM_CONFIG": str(base / "config.toml"),
    }
    (base / "config.toml").write_text((CONFIG + more).replace(KEY_FILE, str(base / "key")))
    if key:
        (base / "key").write_text(key)
    for name, content in (tools or {}).items():
        (base / "tools").mkdir(exist_ok=True)
        (base / "tools" / name).write_text(content)
    places = endpoints.instance(env)
    with open(base / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "loomd.bench.bound", str(os.getpid())],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        client = Client(places)
        try:
            _wait(process, client, base / "log")
            store = Store.read_only(places)
            try:
                yield Bench(places, client, store)
            finally:
                store.close()
        finally:
            client.close()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(base, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], client: Client, log: Path) -> None:
    end = time.monotonic() + START_S
    while not client.hello():
        if process.poll() is not None or time.monotonic() > end:
            tail = log.read_text(errors="replace")[-2000:]
            raise LoomError("daemon_failed", f"the bench's daemon did not start\n{tail}")
        time.sleep(0.01)
