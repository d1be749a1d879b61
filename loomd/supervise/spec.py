"""What a child is. Specs are plain JSON-able values; they are checked here, one field at a time.

A worker is one process, a supervisor is a group of children with a strategy. Unknown keys are
ignored, as OTP does; a wrong value is refused with the value in the error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

# --- exit statuses that mean something to a supervisor -----------------------------------------

NORMAL = 0
FENCED = 70  # a newer incarnation exists: not counted
UPGRADED = 71  # wants a successor on the newest code: started again at once, not counted
ASLEEP = 72  # kept for a wake-up: not counted
COULD_NOT_START = 73  # this time: a failed start
CANNOT_START = 74  # ever: its supervisor fails without retrying

Restart = Literal["permanent", "transient", "temporary"]
Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
AutoShutdown = Literal["never", "any_significant", "all_significant"]
Shutdown = float | Literal["kill", "infinity"]

RESTARTS = ("permanent", "transient", "temporary")
STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")
AUTO_SHUTDOWNS = ("never", "any_significant", "all_significant")

SHUTDOWN_S = 5.0
READY_S = 10.0
INTENSITY = 1
PERIOD_S = 5.0
LOG_BYTES = 4 << 20
BACKOFF_MAX_S = 60.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*(/[A-Za-z0-9][A-Za-z0-9._@+-]*)*")
_ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_TCP = re.compile(r"tcp:(\[[0-9a-fA-F:.]+\]|[0-9.]+|localhost):(\d{1,5})")


class SpecError(ValueError):
    """A spec that cannot be. `reason` is a stable word, `value` the offender."""

    def __init__(self, reason: str, value: object) -> None:
        super().__init__(f"{reason}: {value!r}")
        self.reason = reason
        self.value = value


@dataclass(frozen=True)
class Start:
    """How a worker comes to be: forked from a template, a command, or itself a template.

    service  a program that knows nothing of us: no link, an environment of its own (`env` over what
             the root's config allows), and a monitor that copies its output to a file of at most
             `log_bytes` (one older is kept) and sees when it is ready
    ready    "link": it says `ready` on its link; "none": it counts as started at once; of a service
             also "notify": READY=1 to NOTIFY_SOCKET, "tcp:HOST:PORT": the port takes a connection,
             "line:REGEX": a line of its output matches
    ready_s  how long that may take before it is killed and counts as a failed start
    keys     it gets the memfd with the environment that loomd was started with
    lock     it holds the instance's lock together with the root
    memory_mb  more memory than that and it is killed; 0: no limit; None: the root's default
    nursery  it runs programs of others below it, each with a limit of its own
    """

    template: str = ""
    entry: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    serves: str = ""  # of a template: the name that `template` refers to
    preload: tuple[str, ...] = ()  # of a template: the modules it imports
    without: tuple[str, ...] = ()  # and those that these shall not find
    spares: int = 0  # and the processes that it keeps forked ahead of their orders
    ahead: str = ""  # and what these call with the common args before they wait: "module:function"
    cold: bool = False  # of a worker: needs a process in which nothing has been opened ahead
    nice: int = 0
    service: bool = False
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    log_bytes: int = LOG_BYTES
    ready: str = "link"
    ready_s: float = READY_S
    keys: bool = False
    lock: bool = False
    listener: bool = False  # it serves the socket that systemd has passed
    memory_mb: int | None = None
    nursery: bool = False


@dataclass(frozen=True)
class WorkerSpec:
    """One process. `backoff_s`: the first wait between its restarts, 0 = none; doubles up to
    `backoff_max_s`."""

    id: str
    start: Start
    restart: Restart = "permanent"
    shutdown_s: Shutdown = SHUTDOWN_S
    significant: bool = False
    backoff_s: float = 0.0
    backoff_max_s: float = BACKOFF_MAX_S


@dataclass(frozen=True)
class SupervisorSpec:
    """A group of children.

    dynamic      children come and go by orders; they start and stop side by side
    independent  it is up at once, and its children start beside each other: one whose first start
                 fails stays down and moves nothing else
    """

    id: str
    children: tuple[WorkerSpec | SupervisorSpec, ...] = ()
    strategy: Strategy = "one_for_one"
    intensity: int = INTENSITY
    period_s: float = PERIOD_S
    auto_shutdown: AutoShutdown = "never"
    dynamic: bool = False
    independent: bool = False
    restart: Restart = "permanent"
    shutdown_s: Shutdown = "infinity"
    significant: bool = False


ChildSpec = WorkerSpec | SupervisorSpec


def parse(value: object) -> ChildSpec:
    """A child spec from plain data. Raises SpecError."""
    if not isinstance(value, Mapping):
        raise SpecError("not_a_spec", value)
    if "id" not in value:
        raise SpecError("missing_id", dict(value))
    kind = value.get("type", "worker")
    if kind == "worker":
        return _worker(value)
    if kind == "supervisor":
        return _supervisor(value)
    raise SpecError("invalid_type", kind)


def parse_supervisor(value: object) -> SupervisorSpec:
    """The same, where only a supervisor will do."""
    spec = parse(value)
    if not isinstance(spec, SupervisorSpec):
        raise SpecError("not_a_supervisor", spec.id)
    return spec


def parse_worker(value: object) -> WorkerSpec:
    """The same, where only a worker will do."""
    spec = parse(value)
    if not isinstance(spec, WorkerSpec):
        raise SpecError("not_a_worker", spec.id)
    return spec


def plain(spec: ChildSpec) -> dict[str, Any]:
    """The spec as plain data; `parse` makes the same spec of it."""
    value = {field.name: getattr(spec, field.name) for field in fields(spec)}
    if isinstance(spec, WorkerSpec):
        start = {field.name: getattr(spec.start, field.name) for field in fields(spec.start)}
        return {**value, "type": "worker", "start": start}
    return {**value, "type": "supervisor", "children": [plain(child) for child in spec.children]}


def check_in(parent: SupervisorSpec, child: ChildSpec) -> None:
    """Whether `child` may stand under `parent`. Raises SpecError."""
    if child.significant and child.restart == "permanent":
        raise SpecError("bad_combination", [child.id, "significant", "permanent"])
    if child.significant and parent.auto_shutdown == "never":
        raise SpecError("bad_combination", [child.id, "significant", "auto_shutdown never"])


def all_ids(spec: ChildSpec) -> list[str]:
    """Every id of a spec, itself first."""
    ids = [spec.id]
    if isinstance(spec, SupervisorSpec):
        for child in spec.children:
            ids.extend(all_ids(child))
    return ids


def parse_ready(value: object) -> tuple[str, str, int]:
    """What a service's readiness is: (kind, address or pattern, port). Raises SpecError."""
    if value in ("none", "notify"):
        return str(value), "", 0
    if isinstance(value, str) and (tcp := _TCP.fullmatch(value)) and 0 < int(tcp[2]) < 65536:
        return "tcp", tcp[1].strip("[]"), int(tcp[2])
    if isinstance(value, str) and value.startswith("line:") and len(value) > len("line:"):
        pattern = value.removeprefix("line:")
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise SpecError("invalid_ready", f"{value}: {error}") from None
        return "line", pattern, 0
    raise SpecError("invalid_ready", value)


def _worker(value: Mapping[str, Any]) -> WorkerSpec:
    backoff = value.get("backoff_s", 0.0)
    return WorkerSpec(
        id=_id(value["id"]),
        start=_start(value),
        restart=_one_of("restart", value.get("restart", "permanent"), RESTARTS),
        shutdown_s=_shutdown(value.get("shutdown_s", SHUTDOWN_S)),
        significant=_flag("significant", value.get("significant", False)),
        backoff_s=_positive("backoff_s", backoff) if backoff else 0.0,
        backoff_max_s=_positive("backoff_max_s", value.get("backoff_max_s", BACKOFF_MAX_S)),
    )


def _supervisor(value: Mapping[str, Any]) -> SupervisorSpec:
    children = value.get("children", ())
    if isinstance(children, str) or not isinstance(children, Sequence):
        raise SpecError("invalid_children", children)
    intensity = value.get("intensity", INTENSITY)
    if isinstance(intensity, bool) or not isinstance(intensity, int) or intensity < 0:
        raise SpecError("invalid_intensity", intensity)
    spec = SupervisorSpec(
        id=_id(value["id"]),
        children=tuple(parse(child) for child in children),
        strategy=_one_of("strategy", value.get("strategy", "one_for_one"), STRATEGIES),
        intensity=intensity,
        period_s=_positive("period", value.get("period_s", PERIOD_S)),
        auto_shutdown=_one_of("auto_shutdown", value.get("auto_shutdown", "never"), AUTO_SHUTDOWNS),
        dynamic=_flag("dynamic", value.get("dynamic", False)),
        independent=_flag("independent", value.get("independent", False)),
        restart=_one_of("restart", value.get("restart", "permanent"), RESTARTS),
        shutdown_s=_shutdown(value.get("shutdown_s", "infinity")),
        significant=_flag("significant", value.get("significant", False)),
    )
    if spec.dynamic and spec.strategy != "one_for_one":
        raise SpecError("bad_combination", [spec.id, "dynamic", spec.strategy])
    if spec.independent and (spec.dynamic or spec.strategy != "one_for_one"):
        raise SpecError("bad_combination", [spec.id, "independent", spec.strategy])
    if spec.dynamic and spec.auto_shutdown != "never":
        raise SpecError("bad_combination", [spec.id, "dynamic", spec.auto_shutdown])
    for child in spec.children:
        check_in(spec, child)
    ids = all_ids(spec)
    for id in ids:
        if ids.count(id) > 1:
            raise SpecError("duplicate_child_name", id)
    return spec


def _start(spec: Mapping[str, Any]) -> Start:
    value = spec.get("start")
    if value is None:
        raise SpecError("missing_start", spec["id"])
    if not isinstance(value, Mapping):
        raise SpecError("invalid_start", value)
    command = value.get("command", ())
    preload, without = value.get("preload", ()), value.get("without", ())
    template, entry, serves = (value.get(key, "") for key in ("template", "entry", "serves"))
    for words in (command, preload, without):
        if isinstance(words, str) or not isinstance(words, Sequence):
            raise SpecError("invalid_start", words)
        if not all(isinstance(word, str) and "\0" not in word for word in words):
            raise SpecError("invalid_start", list(words))
    if not all(isinstance(word, str) for word in (template, entry, serves)):
        raise SpecError("invalid_start", [template, entry, serves])
    if sum((bool(command), bool(serves), bool(template))) != 1:
        raise SpecError("invalid_start", "needs one of: template, command, serves")
    if template and not _ENTRY.fullmatch(entry):
        raise SpecError("invalid_entry", entry)
    args = value.get("args", {})
    if not isinstance(args, Mapping):
        raise SpecError("invalid_args", args)
    spares = value.get("spares", 0)
    if isinstance(spares, bool) or not isinstance(spares, int) or not 0 <= spares <= 16:
        raise SpecError("invalid_spares", spares)
    ahead = value.get("ahead", "")
    if not isinstance(ahead, str) or (ahead and not _ENTRY.fullmatch(ahead)):
        raise SpecError("invalid_ahead", ahead)
    nice = value.get("nice", 0)
    if isinstance(nice, bool) or not isinstance(nice, int) or not -20 <= nice <= 19:
        raise SpecError("invalid_nice", nice)
    service = _flag("service", value.get("service", False))
    if service and not command:
        raise SpecError("invalid_start", "a service needs a command")
    ready = value.get("ready", "none" if service else "link")
    if service:
        parse_ready(ready)
    env, cwd = value.get("env", {}), value.get("cwd", "")
    if not isinstance(env, Mapping) or not all(_is_variable(k, v) for k, v in env.items()):
        raise SpecError("invalid_env", env)
    if not isinstance(cwd, str) or "\0" in cwd:
        raise SpecError("invalid_cwd", cwd)
    memory_mb = value.get("memory_mb")
    if memory_mb is not None:
        if isinstance(memory_mb, bool) or not isinstance(memory_mb, int):
            raise SpecError("invalid_memory_mb", memory_mb)
        if not 0 <= memory_mb < 1 << 24:
            raise SpecError("invalid_memory_mb", memory_mb)
    return Start(
        template=template,
        entry=entry,
        args=dict(args),
        command=tuple(command),
        serves=serves,
        preload=tuple(preload),
        without=tuple(without),
        spares=spares,
        ahead=ahead,
        cold=_flag("cold", value.get("cold", False)),
        nice=nice,
        service=service,
        cwd=cwd,
        env=dict(env),
        log_bytes=int(_positive("log_bytes", value.get("log_bytes", LOG_BYTES))),
        ready=ready if service else _one_of("ready", ready, ("link", "none")),
        ready_s=_positive("ready_s", value.get("ready_s", READY_S)),
        keys=_flag("keys", value.get("keys", False)),
        lock=_flag("lock", value.get("lock", False)),
        listener=_flag("listener", value.get("listener", False)),
        memory_mb=memory_mb,
        nursery=_flag("nursery", value.get("nursery", False)),
    )


def _id(value: object) -> str:
    if not isinstance(value, str) or len(value) > 120 or not _NAME.fullmatch(value):
        raise SpecError("invalid_id", value)
    return value


def _is_variable(name: object, value: object) -> bool:
    good = isinstance(name, str) and name and not set(name) & {"=", "\0"}
    return bool(good) and isinstance(value, str) and "\0" not in value


def _one_of(field: str, value: object, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise SpecError(f"invalid_{field}", value)
    return value


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise SpecError(f"invalid_{field}", value)
    return value


def _positive(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise SpecError(f"invalid_{field}", value)
    return float(value)


def _shutdown(value: object) -> Shutdown:
    if value in ("kill", "infinity"):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise SpecError("invalid_shutdown", value)
    return float(value)
