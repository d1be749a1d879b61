"""A generation: a process that has imported one snapshot of the tool files, and forks per call.

Snapshots lie in the state directory under the hash of their content, so that the generation that
was recorded can be formed again whatever stands in the user's folder now. Bytecode is neither read
nor written: two saves within a second and of one size would import the older one.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import pkgutil
import select
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from loomd.supervise import kernel
from loomd.tools import builtin
from loomd.tools.contract import ToolSpec, tools_of
from loomd.tools.guard import guard
from loomd.tools.worker import trimmed
from loomd.wire.bodies import TEAM_TOOLS
from loomd.wire.errors import LoomError

MAX_FILES: Final = 1000
MAX_BYTES: Final = 20 << 20
MAX_MESSAGE: Final = 1 << 17


# --- snapshots -----------------------------------------------------------------------------------


def snapshot(source: Path, generations: Path) -> str:
    """Copies the tool files below `source` to `generations/HASH`; the hash. LoomError if there is
    too much of it, OSError if it cannot be read or written."""
    contents = _contents(source)
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        for part in (name.encode(), content):
            digest.update(len(part).to_bytes(8, "big") + part)
    hash = digest.hexdigest()
    target = generations / hash
    if target.is_dir():
        return hash
    generations.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=generations))
    try:
        for name, content in contents.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError, OSError):  # another session was faster
            os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not target.is_dir():
        raise LoomError("failed", f"the snapshot {target} could not be made")
    return hash


def _contents(source: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    size = 0
    if not source.is_dir():
        return found
    for folder, names, files in os.walk(source):
        names[:] = sorted(n for n in names if n != "__pycache__" and not n.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if name.startswith(".") or name.endswith((".pyc", ".pyo")) or not path.is_file():
                continue
            content = path.read_bytes()
            size += len(content)
            found[str(path.relative_to(source))] = content
            if len(found) > MAX_FILES or size > MAX_BYTES:
                raise LoomError(
                    "too_large",
                    f"{source} holds more than {MAX_FILES} files or {MAX_BYTES >> 20} MB",
                )
    return found


def manifest(folder: Path) -> dict[str, str]:
    """File -> hash of its content, of a snapshot."""
    return {
        name: hashlib.sha256(content).hexdigest() for name, content in _contents(folder).items()
    }


# --- importing -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Formed:
    """tools: name -> spec; rows: as in a toolset; errors: [{module, error}], then it is no good."""

    tools: dict[str, ToolSpec]
    rows: list[dict[str, Any]]
    loaded: list[str]
    errors: list[dict[str, str]]


def builtins() -> list[tuple[str, ToolSpec]]:
    """(source, tool) of the tools that ship with loomd, those of the team among them."""
    found = []
    for info in sorted(pkgutil.iter_modules(builtin.__path__), key=lambda one: one.name):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{builtin.__name__}.{info.name}")
        source = "team" if info.name == "team" else "builtin"
        found += [(source, spec) for spec in tools_of(vars(module), module.__name__)]
    return found


def load(folder: Path | None, without: frozenset[str] = frozenset()) -> Formed:
    """Imports the built-in tools and the modules of a snapshot, in this process."""
    tools: dict[str, ToolSpec] = {}
    rows: list[dict[str, Any]] = []
    loaded: list[str] = []
    errors: list[dict[str, str]] = []
    for source, spec in builtins():
        if source != "team":
            tools[spec.name] = spec
        rows.append(spec.row(source))
    taken = {row["name"]: "a built-in tool" for row in rows}
    if folder is not None and folder.is_dir():
        sys.dont_write_bytecode = True
        sys.path.append(str(folder))
        for path in sorted(folder.glob("*.py")):
            if path.name.startswith("_") or path.name in without:
                continue
            try:
                found = _import(path)
                for spec in found:
                    if spec.name in taken or spec.name in TEAM_TOOLS:
                        owner = taken.get(spec.name, "a tool of the team")
                        raise LoomError("bad_request", f"the name {spec.name!r} is {owner}'s")
            except LoomError as error:
                errors.append({"module": path.name, "error": error.message})
                continue
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                said = trimmed(error, str(path)).replace(f"{folder}/", "tools/")
                errors.append({"module": path.name, "error": said})
                continue
            if len(os.listdir("/proc/self/task")) > 1:
                errors.append({"module": path.name, "error": _THREADS})
                break  # every further module would be blamed for it
            loaded.append(path.name)
            for spec in found:
                taken[spec.name] = path.name
                tools[spec.name] = spec
                rows.append(spec.row(f"tools/{path.name}"))
    return Formed(tools, rows, loaded, errors)


_THREADS: Final = "it leaves a thread running after its import; calls are forked, so start none"


def _import(path: Path) -> list[ToolSpec]:
    name = f"loom_tools_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoomError("bad_request", f"{path.name} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return tools_of(vars(module), name)


# --- the process ---------------------------------------------------------------------------------


def serve(
    sock: socket.socket, registry: socket.socket, folder: str, without: list[str]
) -> NoReturn:
    """The life of a generation: import, say so on `sock`, then fork a guard per order.

    sock      SOCK_SEQPACKET to the tool host: one JSON object (`ready` or `broken`), then orders
              {"call": number} that come with one end of the call's socket
    registry  to the nursery: {"guard": pid} when one is born, {"gone": pid} when it has ended
    """
    status = 0
    try:
        kernel.close_all_but([sock.fileno(), registry.fileno()])
        with contextlib.suppress(OSError):
            os.setsid()
        # A call's folder is the checkout: nothing may be imported from there.
        sys.path[:] = [entry for entry in sys.path if os.path.isabs(entry)]
        formed = load(Path(folder) if folder else None, frozenset(without))
        if formed.errors:
            _say(sock, {"broken": formed.errors})
            os._exit(0)
        gc.collect()
        gc.freeze()
        _say(sock, {"ready": formed.rows, "loaded": formed.loaded})
        _Serving(sock, registry, formed.tools).run()
    except BaseException:  # noqa: BLE001 - the last line of defence: say it, then end
        traceback.print_exc()
        status = 1
    finally:
        os._exit(status)


def _say(sock: socket.socket, message: dict[str, Any]) -> None:
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE:
        error = f"names, descriptions and errors of the tools have {len(data)} bytes"
        data = json.dumps({"broken": [{"module": "", "error": error}]}).encode()
    try:
        sock.send(data)
    except OSError:
        os._exit(0)  # nobody waits for it any more


class _Serving:
    """Guards of calls, one of them always ahead of its order: forking it is not the call's time."""

    def __init__(
        self, sock: socket.socket, registry: socket.socket, tools: dict[str, ToolSpec]
    ) -> None:
        self.sock = sock
        self.registry = registry
        self.tools = tools
        self.guards: set[int] = set()
        self.spare: tuple[int, socket.socket] | None = None
        self.wake, self.waker = socket.socketpair()
        for end in (self.wake, self.waker):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)

    def run(self) -> None:
        """Until our socket has ended and the last call too."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.register(self.wake, select.POLLIN)
        self._fork()
        listening = True
        while listening or self.guards:
            ready = {fd for fd, _ in poll.poll()}
            if self.wake.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    self.wake.recv(4096)
                self._reap()
            if listening and self.sock.fileno() in ready:
                data, fds, _, _ = socket.recv_fds(self.sock, 4096, 1)
                if data:
                    for fd in fds:
                        self._hand_over(fd)
                else:  # retired: it takes no more orders
                    listening = False
                    poll.unregister(self.sock)
                    if self.spare is not None:
                        self.spare[1].close()

    def _hand_over(self, fd: int) -> None:
        """A call's socket to the spare guard. If no process can be made the call sees its end."""
        for _ in range(2):
            if self.spare is None:
                self._fork()
            if self.spare is None:
                break
            _, ours = self.spare
            self.spare = None
            try:
                socket.send_fds(ours, [b"x"], [fd])
                break
            except OSError:
                continue  # somebody has killed it
            finally:
                ours.close()
        os.close(fd)
        self._fork()

    def _fork(self) -> None:
        ours, theirs = socket.socketpair()
        pid = kernel.plain_fork()  # a guard runs no code of tools, it only forks the worker
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            guard(theirs, self.tools)
        theirs.close()
        if pid < 0:
            ours.close()
            return
        self.guards.add(pid)
        self.spare = pid, ours
        _register(self.registry, {"guard": pid})

    def _reap(self) -> None:
        while self.guards:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            self.guards.discard(pid)
            if self.spare is not None and self.spare[0] == pid:
                self.spare[1].close()
                self.spare = None
            _register(self.registry, {"gone": pid})


def _register(registry: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the nursery is gone, and this process soon with it
        registry.send(json.dumps(message).encode())
