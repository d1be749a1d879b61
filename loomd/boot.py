"""`loomd`: makes an instance's places, takes its lock, hides the keys, and runs the tree.

Foreground; logs to stderr. Exit status 0 after SIGTERM, SIGINT or a client's shutdown, with no
process, socket file or lock left behind; 1 when the tree has given up; 8 for a bad configuration.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import fcntl
import importlib
import json
import os
import resource
import secrets
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import Any

from loomd import settings as settings_of
from loomd.supervise import handover, sweep
from loomd.supervise.activation import NotOurs, passed_listener
from loomd.supervise.cgroup import Cgroups, Unavailable
from loomd.supervise.freeze import FreezeError
from loomd.supervise.log import Log
from loomd.supervise.root import Config, Root
from loomd.supervise.spec import SupervisorSpec, parse_supervisor
from loomd.wire.endpoints import Instance, instance
from loomd.wire.errors import LoomError

VERSION = "0.1.0"
LOCK_WAIT_S = 5.0
"""How long a predecessor on the same state directory may take to go."""

CGROUP, WALK = "cgroup", "walk"
"""What keeps processes from escaping: a cgroup of their own, or a walk by parent and session."""

ALLOWED = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TERM",
        "TZ",
        "TMPDIR",
        "PWD",
        "VIRTUAL_ENV",
        "COLUMNS",
        "LINES",
        "NO_COLOR",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
    }
)
ALLOWED_PREFIXES = ("LOOM_", "LC_", "XDG_", "PYTHON")
"""What children may see of the environment. Everything else may be a key, and is hidden."""

ACTOR_CODE = [
    "loomd.actor.host",
    "loomd.actor.ahead",
    "loomd.hub.process",
    "loomd.models.process",
    "loomd.gateway.process",
    "loomd.team.process",
    "loomd.agent.process",
    "loomd.keeper.process",
    "loomd.tools.process",
    "loomd.watch.process",
    "loomd.actor.echo",
]
ENTRIES = {
    "agent": "loomd.agent.process:main",
    "keeper": "loomd.keeper.process:main",
    "team": "loomd.team.process:main",
    "tools": "loomd.tools.process:main",
    "models": "loomd.models.process:main",
    "gateway": "loomd.gateway.process:main",
    "echo": "loomd.actor.echo:main",
    "echo-performer": "loomd.actor.echo:main_performer",
}
"""The entry point of each kind of actor, for what the hub starts."""

BEHAVIOURS = {
    "agent": "loomd.agent.process:behaviour",
    "keeper": "loomd.keeper.process:KeeperBehaviour",
    "team": "loomd.team.process:TeamBehaviour",
    "tools": "loomd.tools.process:behaviour",
    "models": "loomd.models.process:ModelsBehaviour",
    "gateway": "loomd.gateway.process:GatewayBehaviour",
    "echo": "loomd.actor.echo:EchoBehaviour",
    "echo-performer": "loomd.actor.echo:EchoBehaviour",
}
"""What makes a behaviour of each kind, for the preflight of new code."""


GATEWAYS = 4
"""As many as the cores, but not more: each holds some 30 MB of its own and can have hundreds of
answers under way."""


def gateways(generation: int, count: int) -> list[str]:
    """The names of the gateways that belong to a generation of code, from gateway-1, gateway-11,
    gateway-21 on. Newer ones are other actors: they take the calls to come, while the older ones
    finish those that they have."""
    first = (generation - 1) * (settings_of.MOST_GATEWAYS + 1) + 1
    return [f"gateway-{number}" for number in range(first, first + count)]


def gateway_count(settings: settings_of.Settings) -> int:
    """How many there are: one where no model needs a provider."""
    if not settings.needs_provider:
        return 1
    return settings.models.gateways or min(GATEWAYS, len(os.sched_getaffinity(0)))


def daemon_specs(generation: int, count: int) -> list[dict[str, Any]]:
    """The daemon's own actors, for their rows in the state; `count`: of gateways."""
    return [
        {"name": "models", "kind": "models", "restart": "permanent"},
        *(
            {"name": name, "kind": "gateway", "restart": "permanent"}
            for name in gateways(generation, count)
        ),
    ]


_CODE = (
    "import sys; sys.path.append(sys.argv.pop(1)); from loomd.boot import main; sys.exit(main())"
)
PROGRAM = (sys.executable, "-P", "-c", _CODE, str(Path(__file__).parents[1]))
"""What a root executes to become its successor: this package as it is on disk by then, and nothing
of the working directory."""


def tree(
    settings: settings_of.Settings, hub_args: dict[str, Any], generation: int = 1
) -> dict[str, Any]:
    """The whole supervision tree, as one literal."""
    supervision = settings.supervision
    limits = {"intensity": supervision.intensity, "period_s": supervision.period_s}
    real = settings.needs_provider
    return {
        "id": "root",
        "type": "supervisor",
        "strategy": "one_for_one",
        **limits,
        "children": [
            {
                "id": "template",
                "start": {
                    "serves": "actors",
                    "preload": ACTOR_CODE,
                    "without": ["rich", "pygments"],  # structlog would take them: 5 MB an image
                    "spares": 4,
                    "ahead": "loomd.actor.ahead:prepare",
                    "ready_s": 60,
                },
            },
            {
                "id": "hub",
                "start": {
                    "template": "actors",
                    "entry": "loomd.hub.process:main",
                    "args": hub_args,
                    "lock": True,
                    "cold": True,  # it opens the state for writing
                    "listener": True,
                    "memory_mb": 0,  # its map of the state is not its own
                    "ready_s": 60,
                },
            },
            {
                "id": "models",
                "start": {"template": "actors", "entry": ENTRIES["models"]},
            },
            *(
                [
                    {
                        "id": "template-litellm",
                        "start": {
                            "serves": "litellm",
                            "preload": ["loomd.gateway.process", "loomd.gateway.litellm_backend"],
                            "ready": "none",
                            "ready_s": 60,
                        },
                    }
                ]
                if real
                else []
            ),
            {
                "id": gateways(generation, 1)[0],
                "start": {
                    "template": "litellm" if real else "actors",
                    "entry": ENTRIES["gateway"],
                    "keys": True,
                    # Behind a template that imports for seconds, nothing waits for it.
                    "ready": "none" if real else "link",
                    "ready_s": 60,
                },
            },
            # Those beside the first come when a real model is called, and go with their code.
            {"id": "gateways", "type": "supervisor", "dynamic": True, **limits},
            {
                # It is a comfort: what becomes of it is no reason to stop anybody's work.
                "id": "watchers",
                "type": "supervisor",
                "restart": "transient",
                "independent": True,
                **limits,
                "children": [
                    {
                        "id": "watch",
                        "start": {
                            "template": "actors",
                            "entry": "loomd.watch.process:main",
                            "cold": True,  # it reads no state
                        },
                    },
                ],
            },
            {
                "id": "services",
                "type": "supervisor",
                # The user's trees are not the daemon's: it starts and lives without any of them.
                "restart": "transient",
                "independent": True,
                **limits,
                "children": list(settings.supervisors),
            },
            {"id": "sessions", "type": "supervisor", "dynamic": True, **limits},
        ],
    }


# --- keys ----------------------------------------------------------------------------------------


def is_allowed(variable: str) -> bool:
    return variable in ALLOWED or variable.startswith(ALLOWED_PREFIXES)


NOT_FOR_SERVICES = frozenset(
    {
        "LOOM_KEYS_FD",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "PWD",
    }
)
"""They tell of the daemon itself."""


def service_environment() -> dict[str, str]:
    """What a user's service finds, beside its own `env`: nothing that may be a key."""
    return {k: v for k, v in os.environ.items() if is_allowed(k) and k not in NOT_FOR_SERVICES}


def hide_keys() -> int:
    """Moves every variable that is not allowed into a memfd; the memfd.

    They would stay readable in /proc/PID/environ if they were only taken out of `os.environ`, so
    the program executes itself without them. Comes back in the second run.
    """
    fd = _hidden_keys()
    if fd >= 0:
        del os.environ["LOOM_KEYS_FD"]
        os.set_inheritable(fd, False)
        return fd
    hidden = {k: v for k, v in os.environ.items() if not is_allowed(k)}
    kept = {k: v for k, v in os.environ.items() if is_allowed(k)}
    fd = os.memfd_create("loomd-keys", 0)
    with open(os.dup(fd), "wb") as file:
        file.write(json.dumps(hidden).encode())
    kept["LOOM_KEYS_FD"] = str(fd)
    os.execve(sys.executable, sys.orig_argv, kept)


def _hidden_keys() -> int:
    """The memfd of an earlier `hide_keys`, -1 if there is none."""
    text = os.environ.get("LOOM_KEYS_FD", "")
    if not text.isdecimal():
        return -1
    with contextlib.suppress(OSError):
        if os.readlink(f"/proc/self/fd/{text}").startswith("/memfd:loomd-keys"):
            return int(text)
    return -1


# --- places --------------------------------------------------------------------------------------


def make_directories(places: Instance) -> None:
    """Creates what an instance needs, 0700. Raises LoomError where that cannot be."""
    for path in (places.state, places.runtime, places.blobs, places.output):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = path.lstat() if path == places.runtime else path.stat()
        except OSError as error:
            raise LoomError(
                "permission_denied",
                f"cannot make {path}: {error.strerror}",
                "set LOOM_STATE_DIR and LOOM_RUNTIME_DIR to directories you can write",
            ) from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise LoomError(
                "permission_denied",
                f"{path} is not a directory of yours",
                "set LOOM_STATE_DIR and LOOM_RUNTIME_DIR to directories you own",
            )
        if status.st_mode & 0o077:
            os.chmod(path, 0o700)
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise LoomError("permission_denied", f"{path} is not writable", "mend its permissions")


def lock(places: Instance, log: Log) -> tuple[int, int]:
    """Holds the locks on the state and the runtime directory until the descriptors are closed.

    Shared with the hub by inheritance, so they are free only when both are gone. Raises LoomError
    if another daemon holds one for `LOCK_WAIT_S`.
    """
    end = time.monotonic() + LOCK_WAIT_S
    with contextlib.ExitStack() as undo:
        held = []
        for path in (places.state, places.runtime):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, fd)
            _lock_one(fd, path, places, end, log)
            held.append(fd)
        undo.pop_all()
    return held[0], held[1]


def _lock_one(fd: int, path: Path, places: Instance, end: float, log: Log) -> None:
    said = False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise LoomError("failed", f"cannot lock {path}: {error}") from error
        if time.monotonic() > end:
            raise LoomError(
                "daemon_failed",
                f"another loomd{_holder(places)} holds {path}",
                "stop it (`loomctl daemon stop`), or give this one its own LOOM_STATE_DIR "
                "and LOOM_RUNTIME_DIR",
            )
        if not said:
            said = True
            log.line("info", "waiting_for_lock", path=str(path))
        time.sleep(0.02)


def _holder(places: Instance) -> str:
    try:
        return f" (pid {int(places.pid_file.read_text())})"
    except (OSError, ValueError):
        return ""


def listener(places: Instance) -> int:
    """The clients' socket, if systemd has bound it (`loomd.socket`), else -1."""
    try:
        return passed_listener(places.clients.removeprefix("ipc://"))
    except NotOurs as error:
        raise LoomError(
            "config", str(error), "write the units anew: loomctl daemon install"
        ) from error


def next_boot(places: Instance) -> int:
    """Adds one to the boot number and makes it durable: an incarnation never repeats."""
    path = places.state / "boot"
    try:
        last = int(path.read_text())
    except FileNotFoundError:
        last = 0
    except ValueError:
        last = int(time.time())  # damaged: anything larger than before will do
    write_durably(path, f"{last + 1}\n")
    return last + 1


def write_durably(path: Path, text: str) -> None:
    """Replaces a file, 0600: either the old one or the whole new one is there, always."""
    new = path.with_name(path.name + ".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(new, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def clean_runtime(places: Instance, listen_fd: int) -> None:
    """Removes sockets, token and the slots of tool calls: nobody serves or holds them any more.
    Only the holder of the lock may.

    The clients' socket stays where systemd listens on it.
    """
    names = ["token", "actors", "events", *(["clients"] if listen_fd < 0 else [])]
    for path in (places.runtime / name for name in names):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    shutil.rmtree(places.runtime / "slots", ignore_errors=True)


# --- what holds processes together ---------------------------------------------------------------


def clear_up(places: Instance, log: Log) -> None:
    """Ends what a killed predecessor has left running."""
    swept = sweep.sweep(places.state)
    if swept.killed or swept.cgroup or swept.left:
        log.line(
            "error" if swept.left else "warning",
            "swept",
            killed=len(swept.killed),
            left=list(swept.left) or None,
            cgroup=swept.cgroup,
        )


def contain(places: Instance, settings: settings_of.Settings, log: Log) -> Cgroups | None:
    """Our cgroups, where we may have some; the log says what is in force."""
    if settings.supervision.cgroups == "off":
        log.line("info", "containment", by=WALK, reason="switched off")
        return None
    try:
        made = Cgroups.create()
    except Unavailable as why:
        log.line("info", "containment", by=WALK, reason=str(why))
        return None
    sweep.note_cgroup(places.state, made.base)
    log.line(
        "info", "containment", by=CGROUP, cgroup=made.base, controllers=",".join(made.controllers)
    )
    return made


# --- main ----------------------------------------------------------------------------------------


def main() -> int:
    """The program `loomd`."""
    args = sys.argv[1:]
    if args in (["--help"], ["-h"]):
        print("usage: loomd [--version]\n\n" + (__doc__ or ""))
        return 0
    if args == ["--version"]:
        print(f"loomd {VERSION}")
        return 0
    if args == ["--preflight"]:
        # By name: it needs all that the root must not load.
        preflight: Any = importlib.import_module("loomd.preflight")
        return int(preflight.main())
    log = Log()
    faulthandler.enable()  # systemd's watchdog ends us with SIGABRT: say where we were
    if args:
        log.line("error", "refused", reason=f"loomd takes no arguments: {' '.join(args)}")
        return 2
    os.umask(0o077)
    try:
        places = instance()
        places.check()
        settings = settings_of.load(places.config)
        keys_fd = hide_keys()
        handed = handover.received()
        if handed is not None:
            return resume(places, settings, keys_fd, log, handed)
        return run(places, settings, keys_fd, log)
    except FreezeError as error:
        log.line("error", "refused", code="internal", reason=f"cannot go on: {error}")
        return 1
    except LoomError as error:
        log.line("error", "refused", code=error.code, reason=error.message, hint=error.hint)
        return error.exit_code


def run(places: Instance, settings: settings_of.Settings, keys_fd: int, log: Log) -> int:
    """Runs the daemon on `places`; its exit status."""
    make_directories(places)
    listen_fd = listener(places)
    locks = lock(places, log)
    try:
        clean_runtime(places, listen_fd)
        boot = next_boot(places)
        write_durably(places.token_file, secrets.token_hex(32))
        write_durably(places.pid_file, f"{os.getpid()}\n")
    except OSError as error:
        raise LoomError("failed", f"cannot write to the state directory: {error}") from error
    os.chdir("/")  # whatever directory we were started in may go away
    _raise_descriptor_limit()
    clear_up(places, log)
    os.environ[sweep.VARIABLE] = sweep.mark_of(places.state)
    made = config(
        places,
        settings,
        generation=last_generation(places),
        boot=boot,
        secret=secrets.token_hex(32),
        keys_fd=keys_fd,
        lock_fds=locks,
        listen_fd=listen_fd,
        cgroups=contain(places, settings, log),
    )
    return _until_the_end(Root(made, log), places)


def resume(
    places: Instance,
    settings: settings_of.Settings,
    keys_fd: int,
    log: Log,
    handed: dict[str, Any],
) -> int:
    """Goes on as the root that has executed this code: same pid, boot number, secret and locks."""
    made = config(
        places,
        settings,
        generation=last_generation(places),
        boot=handed["boot"],
        secret=handed["secret"],
        keys_fd=keys_fd,
        lock_fds=tuple(handed["lock_fds"]),
        listen_fd=handed["listen_fd"],
        cgroups=None if handed["cgroups"] is None else Cgroups.thaw(handed["cgroups"]),
    )
    return _until_the_end(Root(made, log, handed), places)


def config(
    places: Instance,
    settings: settings_of.Settings,
    *,
    generation: int,
    boot: int,
    secret: str,
    keys_fd: int,
    lock_fds: tuple[int, ...],
    listen_fd: int,
    cgroups: Cgroups | None,
) -> Config:
    """What the root of this instance is given."""
    hub_args = {
        "secret": secret,
        "entries": ENTRIES,
        "gateway_template": "litellm" if settings.needs_provider else "actors",
        "version": VERSION,
        "root_pid": os.getpid(),
        "containment": WALK if cgroups is None else CGROUP,
    }

    def retree(generation: int) -> SupervisorSpec:
        args = {**hub_args, "daemon_specs": daemon_specs(generation, gateway_count(settings))}
        return parse_supervisor(tree(settings, args, generation))

    return Config(
        tree=retree(generation),
        boot=boot,
        secret=secret,
        base_args={
            "state_dir": str(places.state),
            "runtime_dir": str(places.runtime),
            "config": str(places.config),
            "settings": settings.as_dict(),
        },
        output=str(places.output),
        environment=service_environment(),
        keys_fd=keys_fd,
        lock_fds=lock_fds,
        listen_fd=listen_fd,
        generation=generation,
        retree=retree,
        preflight=(*PROGRAM, "--preflight"),
        program=PROGRAM,
        heartbeat_s=settings.supervision.heartbeat_s,
        intensity=settings.supervision.intensity,
        period_s=settings.supervision.period_s,
        poison_crashes=settings.supervision.poison_crashes,
        memory_mb=settings.supervision.memory_mb,
        mark=sweep.mark_of(places.state),
        cgroups=cgroups,
    )


def last_generation(places: Instance) -> int:
    """The number of the code that was last in force, from 1."""
    try:
        return max(1, int(places.generation_file.read_text()))
    except (FileNotFoundError, ValueError):
        return 1


def _until_the_end(root: Root, places: Instance) -> int:
    status = root.run()
    clean_runtime(places, root.config.listen_fd)
    with contextlib.suppress(OSError):
        places.pid_file.unlink()
    return status


def _raise_descriptor_limit() -> None:
    """Two descriptors per child: a thousand actors pass the usual soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
