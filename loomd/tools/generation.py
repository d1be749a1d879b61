"""A generation: a process that has imported one snapshot of the tool files, and forks per call.

Bytecode is neither read nor written: two saves within a second and of one size would import the
older one. A module that does not come to its end is interrupted, so that its author sees where.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import pkgutil
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from loomd.supervise import kernel
from loomd.tools import builtin
from loomd.tools.contract import ToolSpec, tools_of
from loomd.tools.guard import guard
from loomd.tools.snapshots import REPO
from loomd.tools.worker import trimmed
from loomd.wire.bodies import TEAM_TOOLS
from loomd.wire.errors import LoomError

MAX_MESSAGE: Final = 1 << 17

KEPT_MS: Final = 20_000
"""How long guards that are free are kept beyond the one that always is."""


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
        for spec in tools_of(vars(module), module.__name__):
            found.append(("team" if spec.name in TEAM_TOOLS else "builtin", spec))
    return found


def load(
    folder: Path | None,
    without: frozenset[str] = frozenset(),
    *,
    import_s: float = 0.0,
    begins: Callable[[str], None] = lambda module: None,
) -> Formed:
    """Imports the built-in tools and the modules of a snapshot, in this process.

    without   modules to leave out: `mine.py`, `.loom/tools/its.py`
    import_s  how long one module may take; 0: as long as it likes
    begins    is told of each module before it is imported
    """
    tools: dict[str, ToolSpec] = {}
    rows: list[dict[str, Any]] = []
    loaded: list[str] = []
    errors: list[dict[str, str]] = []
    for source, spec in builtins():
        if source != "team":
            tools[spec.name] = spec
        rows.append(spec.row(source))
    taken = {row["name"]: "a built-in tool" for row in rows}
    for module, path in _modules(folder):
        if module in without:
            continue
        begins(module)
        late = TooLong(f"importing takes longer than {import_s:g} s")
        try:
            with kernel.limited(import_s, late):
                found = _import(path, module)
            for n, spec in enumerate(found):
                if spec.name in (one.name for one in found[:n]):
                    raise LoomError("bad_request", f"two tools have the name {spec.name!r}")
                if spec.name in taken or spec.name in TEAM_TOOLS:
                    owner = taken.get(spec.name, "a tool of the team")
                    raise LoomError("bad_request", f"the name {spec.name!r} is {owner}'s")
        except LoomError as error:
            errors.append({"module": module, "error": error.message})
            continue
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            said = (
                trimmed(error, str(path)) if not isinstance(error, TooLong) else error.where(path)
            )
            said = said.replace(f"{folder}/{REPO}/", USERS_VIEW[True])
            said = said.replace(f"{folder}/", USERS_VIEW[False])
            errors.append({"module": module, "error": said})
            continue
        if len(os.listdir("/proc/self/task")) > 1:
            errors.append({"module": module, "error": _THREADS})
            break  # every further module would be blamed for it
        if said := _hinders_calls():
            errors.append({"module": module, "error": said})
            break
        loaded.append(module)
        for spec in found:
            taken[spec.name] = module
            tools[spec.name] = spec
            rows.append(spec.row(source_of(module)))
    return Formed(tools, rows, loaded, errors)


def _hinders_calls() -> str:
    """What keeps this process from making calls since the last import; "" if nothing does."""
    held: list[int] = []
    try:
        for _ in range(DESCRIPTORS):
            held.append(os.dup(0))
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        with contextlib.suppress(ChildProcessError):  # it wants to hear of no child
            os.waitpid(pid, 0)
    except Exception as error:  # noqa: BLE001 - a hook of the module raises what it likes
        return f"after its import no process can be made for a call: {error!r}"
    finally:
        for fd in held:
            os.close(fd)
    return ""


DESCRIPTORS: Final = 32
"""A call needs less than so many."""

_THREADS: Final = "it leaves a thread running after its import; calls are forked, so start none"

USERS_VIEW: Final = {False: "tools/", True: ".loom/tools/"}
"""Is it the repo's? -> the folder as its author names it."""


def source_of(module: str) -> str:
    """A module as it stands in a toolset row: `tools/mine.py`, `.loom/tools/its.py`."""
    return module if module.startswith(USERS_VIEW[True]) else USERS_VIEW[False] + module


def _modules(folder: Path | None) -> Iterator[tuple[str, Path]]:
    """(module, file) of a snapshot: the user's, then the repo's. Both may import what lies beside
    them; where both have a module of one name, the user's is found."""
    if folder is None or not folder.is_dir():
        return
    sys.dont_write_bytecode = True
    for place, prefix in ((folder, ""), (folder / REPO, USERS_VIEW[True])):
        if place.is_dir():
            sys.path.append(str(place))
            for path in sorted(place.glob("*.py")):
                if not path.name.startswith("_"):
                    yield prefix + path.name, path


class TooLong(BaseException):
    """Importing a module takes too long. No Exception: a module that catches those hangs on."""

    def where(self, path: Path) -> str:
        """What its author reads: from their first frame on, without our handler's."""
        frames = traceback.extract_tb(self.__traceback__)
        names = [frame.filename for frame in frames]
        first = names.index(str(path)) if str(path) in names else 0
        shown = traceback.format_list(frames[first:-1])
        return f"{self}; it was here:\n{''.join(shown)}".strip()


def _import(path: Path, module: str) -> list[ToolSpec]:
    name = f"loom_{'repo' if module != path.name else 'tools'}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoomError("bad_request", f"{path.name} cannot be imported")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    try:
        spec.loader.exec_module(made)
    finally:  # for its own calls, and not for the sockets that every call here waits on
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(None)
    return [replace(one, socket_timeout_s=timeout) for one in tools_of(vars(made), name)]


# --- the process ---------------------------------------------------------------------------------


def serve(
    sock: socket.socket, registry: socket.socket, folder: str, without: list[str], import_s: float
) -> NoReturn:
    """The life of a generation: import, say so on `sock`, then fork a guard per order.

    sock      SOCK_SEQPACKET to the tool host: JSON objects {"begins": module}, then `ready` or
              `broken`; orders come with one end of the call's socket
    registry  to the nursery: {"guard": pid} when one is born, {"gone": pid} when it has ended
    """
    status = 0
    try:
        kernel.close_all_but([sock.fileno(), registry.fileno()])
        with contextlib.suppress(OSError):
            os.setsid()
        # A call's folder is the checkout: nothing may be imported from there.
        sys.path[:] = [entry for entry in sys.path if os.path.isabs(entry)]
        formed = load(
            Path(folder) if folder else None,
            frozenset(without),
            import_s=import_s,
            begins=lambda module: _say(sock, {"begins": module}),
        )
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
    """Guards of calls, one of them always ahead of its order: forking it is not the call's time.

    guards   all that live: pid -> our end of its socket
    free     pids of those that wait for a call, the one that has waited longest first
    lasting  pids of those that guard a job
    """

    def __init__(
        self, sock: socket.socket, registry: socket.socket, tools: dict[str, ToolSpec]
    ) -> None:
        self.sock = sock
        self.registry = registry
        self.tools = tools
        self.guards: dict[int, socket.socket] = {}
        self.free: list[int] = []
        self.lasting: set[int] = set()
        self.wake, self.waker = socket.socketpair()
        for end in (self.wake, self.waker):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        self.poll = select.poll()
        self.poll.register(self.sock, select.POLLIN)
        self.poll.register(self.wake, select.POLLIN)

    def run(self) -> None:
        """Until our socket has ended and the last call too. Jobs last longer: their guards become
        children of the nursery."""
        self._fork()
        listening = True
        while listening or self.guards.keys() - self.lasting:
            surplus = self.free[1:]
            ready = {fd for fd, _ in self.poll.poll(KEPT_MS if surplus else None)}
            if not ready:
                self._part_with(surplus)
            if self.wake.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    self.wake.recv(4096)
                self._reap()
            self._hear(ready)
            if listening and self.sock.fileno() in ready:
                data, fds, _, _ = socket.recv_fds(self.sock, 4096, 1)
                if data:
                    for fd in fds:
                        self._hand_over(fd, bool(json.loads(data).get("lasting")))
                else:  # retired: it takes no more orders
                    listening = False
                    self.poll.unregister(self.sock)
            if not listening:
                self._part_with(list(self.free))

    def _hand_over(self, fd: int, lasting: bool) -> None:
        """A call's socket to a guard that is free. If no process can be made the call sees its
        end."""
        for _ in range(len(self.free) + 2):
            if not self.free and not self._fork():
                break
            pid = self.free.pop(0)
            try:
                socket.send_fds(self.guards[pid], [b"x"], [fd])
            except OSError:
                continue  # somebody has killed it
            if lasting:
                self.lasting.add(pid)
            break
        os.close(fd)
        if not self.free:
            self._fork()

    def _hear(self, ready: set[int]) -> None:
        """Guards that say they are FREE again, and the end of those that are gone."""
        for pid, ours in list(self.guards.items()):
            if ours.fileno() not in ready:
                continue
            try:
                said = ours.recv(16)
            except ConnectionResetError:
                said = b""
            if said:
                self.lasting.discard(pid)
                self.free.append(pid)
            else:
                self._part_with([pid])

    def _part_with(self, pids: list[int]) -> None:
        """Guards that get no more calls: they end when they are through with theirs."""
        for pid in pids:
            ours = self.guards[pid]
            if ours.fileno() >= 0:
                self.poll.unregister(ours)
                ours.close()
            if pid in self.free:
                self.free.remove(pid)

    def _fork(self) -> bool:
        """One more that is free; False if there can be no process."""
        ours, theirs = socket.socketpair()
        pid = kernel.plain_fork()  # a guard runs no code of tools, it only forks the worker
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            guard(theirs, self.tools)
        theirs.close()
        if pid < 0:
            ours.close()
            return False
        self.guards[pid] = ours
        self.free.append(pid)
        self.poll.register(ours, select.POLLIN)
        _register(self.registry, {"guard": pid})
        return True

    def _reap(self) -> None:
        while self.guards:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid not in self.guards:
                continue  # a child that a module has left at its import
            self._part_with([pid])
            del self.guards[pid]
            self.lasting.discard(pid)
            _register(self.registry, {"gone": pid})


def _register(registry: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the nursery is gone, and this process soon with it
        registry.send(json.dumps(message).encode())
