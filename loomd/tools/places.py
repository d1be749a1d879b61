"""Where the calls of a session live and what they may take, computed once for each host."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from loomd.actor import newer
from loomd.actor.behaviour import Stage
from loomd.rules import Rule
from loomd.tools import barred, gitrun, ground, sandbox
from loomd.tools.desk import fixed
from loomd.tools.profile import SOCKET_FOLDERS, Ground
from loomd.tools.queue import DAEMON_CALLS
from loomd.tools.shellenv import is_secret
from loomd.trust import trusted
from loomd.wire.endpoints import Instance

LIMITS: Final[dict[str, Any]] = {
    "call_s": 120.0,
    "memory_mb": 4096,
    "address_mb": 16_384,
    "processes": 512,
    "file_mb": 4096,
    "import_s": 10.0,
    "cpu_s": 3600.0,
}
"""Of one call: seconds, resident memory of its tree, address space of each of its processes,
processes, size of a file that it writes, and seconds of processor time of each of its processes. Of
a tool file: seconds that importing it may take."""

MAX_CALL_S: Final = 3600.0

ROOM_S: Final = 30.0
"""A tool with a time-out of its own gets this much more, for the copy and the comparison."""

FRESH_S: Final = 2.0
"""A file of credentials, or a socket, that has come into being is hidden from calls that begin so
much later."""

T = TypeVar("T")


@dataclass
class Places:
    """Where this session's calls live, computed once."""

    repo: Path
    scratch: Path
    tools: Path
    generations: Path
    blobs: Path
    snapshots: Path
    programs: tuple[str, ...]
    named: tuple[str, ...]
    hidden: Callable[[], tuple[list[str], list[str]]]
    env: dict[str, str]
    limits: dict[str, Any]
    review: bool
    daemon_calls: int
    trusted: Callable[[], bool]
    permitted: Callable[[], Mapping[str, Any]]
    barred: Callable[[str], Mapping[str, list[str]]]
    facts: sandbox.Facts = field(default_factory=sandbox.Facts)

    def repo_tools(self) -> Path | None:
        """The folder of the repo's own tools; None: it has none, or nobody trusts it (yet)."""
        folder = self.repo / ".loom" / "tools"
        return folder if folder.is_dir() and self.trusted() else None

    @property
    def permissions(self) -> Mapping[str, Any]:
        """As they are now: a call goes by those that it begins with."""
        return self.permitted()

    @property
    def profile(self) -> str:
        return str(self.permissions.get("sandbox") or "workspace")

    def ground(self, scratch: Path, code: str, *, writes: bool) -> Ground:
        """What the rules of a call go by, as it is now. code: hash of its generation, or "";
        writes: it works in the checkout itself."""
        snapshots = [str(self.generations / code)] if code else []
        return ground.ground(
            self.repo,
            scratch,
            self.programs,
            self.named,
            snapshots,
            self.hidden(),
            self.permissions,
            writes=writes,
        )

    def backend(self) -> sandbox.Backend:
        """LoomError(failed): there is none, and no call is made."""
        return sandbox.choose(self.permissions.get("sandbox_backend") or "auto", self.facts)


def places(stage: Stage) -> Places:
    """From the spec, the settings and the instance."""
    spec, settings, at = stage.spec, stage.settings, stage.directories
    args = spec.args
    providers = (settings.get("providers") or {}).values()
    keys = {provider.get("api_key_env") for provider in providers}
    env = session_env({k: v for k, v in (args.get("env") or {}).items() if k not in keys})
    review = args.get("review")
    if review is None:
        review = (settings.get("review") or {}).get("required", True)
    limits = dict(LIMITS)
    for source in (settings.get("limits") or {}, args.get("limits") or {}):
        limits |= {key: source[key] for key in LIMITS if source.get(key) is not None}
    limits["web_private"] = list((settings.get("tools") or {}).get("web_private") or ())
    repo = Path(args["repo"]).resolve()
    rules = _rules(stage)
    hide = _remembered(lambda: _hidden(at, in_force(stage), str(repo)))
    never = (ground.home_of_user(), os.path.expanduser("~"), str(at.state), str(at.runtime))
    own, named = ground.interpreter_folders(env, str(repo))
    own += ground.package_folders()
    return Places(
        repo=repo,
        scratch=at.scratch / _safe(spec.session),
        tools=at.config.parent / "tools",
        generations=at.generations,
        blobs=at.blobs,
        snapshots=at.snapshots / _safe(spec.session),
        programs=ground.without(own, never),
        named=ground.without(named, never),
        hidden=hide,
        env=env,
        limits=limits,
        review=bool(review),
        daemon_calls=int((settings.get("limits") or {}).get("daemon_calls") or DAEMON_CALLS),
        trusted=lambda: trusted(at, repo),
        permitted=lambda: with_project(
            in_force(stage).get("permissions") or {}, args.get("project") or {}
        ),
        barred=lambda tool: barred.patterns(
            tool,
            rules(),
            itertools.chain(*hide()),
            str(repo),
            os.path.realpath(os.path.expanduser("~")),
        ),
    )


def in_force(stage: Stage) -> Mapping[str, Any]:
    """The settings, with what has been put in force since this host began."""
    return newer.in_force(stage.settings, stage.reader)


def _rules(stage: Stage) -> Callable[[], tuple[Rule, ...]]:
    """Those of the configuration and of the project, parsed once for as long as they are the
    same."""
    kept: list[tuple[list[Any], tuple[Rule, ...]]] = []

    def found() -> tuple[Rule, ...]:
        args, settings = stage.spec.args, in_force(stage)
        said = [settings.get("permissions"), args.get("permissions"), args.get("project")]
        if not kept or kept[0][0] != said:
            kept[:] = [(said, fixed(args, settings))]
        return kept[0][1]

    return found


def _hidden(at: Instance, settings: Mapping[str, Any], repo: str) -> tuple[list[str], list[str]]:
    """(folders, files) that no call sees."""
    folders, files = ground.hidden(at, settings)
    return folders, [*files, *ground.sockets(repo, (*SOCKET_FOLDERS, *folders))]


def _remembered(look: Callable[[], T]) -> Callable[[], T]:
    """What `look` has found, for FRESH_S: it looks at a hundred places."""
    kept: list[tuple[float, T]] = []

    def found() -> T:
        if not kept or time.monotonic() - kept[0][0] > FRESH_S:
            kept[:] = [(time.monotonic(), look())]
        return kept[0][1]

    return found


def with_project(own: Mapping[str, Any], project: Mapping[str, Any]) -> dict[str, Any]:
    """The user's [permissions] with the project's profile: the stricter of the two, unless the user
    has trusted the project."""
    profiles = ("read-only", "workspace", "full")
    mine = str(own.get("sandbox") or "workspace")
    other = str((project.get("permissions") or {}).get("sandbox") or mine)
    if not project.get("trusted") and profiles.index(other) > profiles.index(mine):
        other = mine
    return {**own, "sandbox": other}


def session_env(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of calls: the session opener's, without our own variables and secrets. This
    interpreter's programs come last on the PATH, so that there always is a `python`."""
    env = {
        name: value
        for name, value in given.items()
        if not name.startswith("LOOM_") and not is_secret(name, value)
    }
    own = os.path.join(sys.prefix, "bin")
    path = env.get("PATH") or "/usr/local/bin:/usr/bin:/bin"
    env["PATH"] = path if own in path.split(":") else f"{path}:{own}"
    env.setdefault("LANG", "C.UTF-8")
    env.setdefault("HOME", "/nonexistent")
    for name in (
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
        "XDG_STATE_HOME",
        "DBUS_SESSION_BUS_ADDRESS",
        "SSH_AUTH_SOCK",
        "DOCKER_HOST",
        "KUBECONFIG",
        "XAUTHORITY",
    ):
        env.pop(name, None)
    return env


def facts(at: Instance) -> sandbox.Facts:
    """What the probe found, kept in the state directory until something has changed: it takes a
    fifth of a second, and every session asks."""
    file = at.state / "sandbox.json"
    key = _circumstances()
    try:
        kept = json.loads(file.read_text())
        if kept["key"] == key:
            return sandbox.Facts(**kept["facts"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not probed yet, or by another version
    found = sandbox.probe()
    temporary = file.with_suffix(f".{os.getpid()}")
    try:
        temporary.write_text(json.dumps({"key": key, "facts": asdict(found)}))
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)  # the next session probes again
    return found


def _circumstances() -> str:
    """What the answer of the probe hangs on, as text."""
    program = shutil.which("bwrap") or ""
    said = [platform.release(), sys.executable, program, str(os.geteuid())]
    if program:
        found = os.stat(program)
        said += [str(found.st_mtime_ns), str(found.st_mode)]
    for name in (
        "/proc/sys/kernel/random/boot_id",
        "/proc/sys/user/max_user_namespaces",
        "/proc/sys/kernel/unprivileged_userns_clone",
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "/sys/kernel/security/lsm",
    ):
        try:
            with open(name) as file:
                said.append(file.read().strip())
        except OSError:
            said.append("")
    return "|".join(said)


def author(repo: Path) -> dict[str, str]:
    """Who commits: what the person has set for git, which lies in the home and is not seen from
    inside a call. Blocks on git."""
    found: dict[str, str] = {}
    for key in ("name", "email"):
        with contextlib.suppress(OSError):
            done = gitrun.run(repo, "config", "--get", f"user.{key}", env=os.environ)
            if value := done.output.decode("utf-8", "replace").strip():
                found |= {f"GIT_{role}_{key.upper()}": value for role in ("AUTHOR", "COMMITTER")}
    return found


def _safe(id: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in id)[-100:]
