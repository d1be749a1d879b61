"""User services: the `[[supervisor]]` tables of the configuration, checked, as child specs.

A supervisor holds `[[supervisor.child]]` tables, in start order. A child with a `command` is a
process; one without is a supervisor itself and holds `[[supervisor.child.child]]` tables. Ids are
unique in the whole tree, for people name a child by its id alone.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

from loomd.supervise import spec as s

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,59}")
RESERVED = re.compile(
    r"root|template.*|hub|models|gateway-.*|web|services|sessions|user|daemon|preflight"
    r"|s-[a-z0-9]{6}([.].*)?"
)
"""Names of the daemon's own processes and of sessions, and of the files of an actor's output."""
MAX_DEPTH = 8
MAX_S = 1e7


class Reader(Protocol):
    """What names the file and the line of a key in an error."""

    def wrong(self, key: str, right: str) -> NoReturn: ...

    def no_others(self, key: str, value: dict[str, Any], known: Mapping[str, Any]) -> None: ...


def read(reader: Reader, value: Any) -> tuple[dict[str, Any], ...]:
    """The supervisors of the key `supervisor`, as specs for `supervise.spec.parse`."""
    if not isinstance(value, list):
        reader.wrong("supervisor", "an array of tables: [[supervisor]]")
    ids: set[str] = set()
    made = []
    for i, table in enumerate(value):
        key = f"supervisor[{i}]"
        # A tree that gives up stays down and moves nothing else, unless it is to come back.
        made.append(_supervisor(reader, key, table, ids, "transient", "never", 1))
    return tuple(made)


def _supervisor(
    reader: Reader,
    key: str,
    table: Any,
    ids: set[str],
    restart: str,
    auto_shutdown: str,
    depth: int,
) -> dict[str, Any]:
    spec = _fields(reader, key, table, _SUPERVISOR)
    spec = {"type": "supervisor", "restart": restart, **spec}
    _check_id(reader, key, spec, ids)
    _check_significant(reader, key, spec, auto_shutdown)
    if depth > MAX_DEPTH:
        reader.wrong(key, f"at most {MAX_DEPTH} supervisors deep")
    below = spec.pop("child", [])
    rule = spec.get("auto_shutdown", "never")
    spec["children"] = []
    for i, child in enumerate(below):
        inside = f"{key}.child[{i}]"
        if isinstance(child, dict) and "command" not in child and set(child) & _ONLY_SUPERVISOR:
            made = _supervisor(reader, inside, child, ids, "permanent", rule, depth + 1)
        else:
            made = _worker(reader, inside, child, ids, rule)
        spec["children"].append(made)
    return spec


def _worker(
    reader: Reader, key: str, table: Any, ids: set[str], auto_shutdown: str
) -> dict[str, Any]:
    given = _fields(reader, key, table, _WORKER)
    _check_id(reader, key, given, ids)
    if "command" not in given:
        reader.wrong(
            f"{key}.command",
            'there: a list of words such as ["llama-server", "--port", "8001"] '
            "(or, for a supervisor, its strategy and its own child tables)",
        )
    _check_significant(reader, key, given, auto_shutdown)
    if given.get("backoff_max_s", MAX_S) < given.get("backoff_s", 0.0):
        reader.wrong(f"{key}.backoff_max_s", "no less than backoff_s")
    start: dict[str, Any] = {"service": True}
    for name in ("command", "cwd", "env", "ready", "ready_s", "nice", "memory_mb"):
        if name in given:
            start[name] = given.pop(name)
    if "log_mb" in given:
        start["log_bytes"] = int(given.pop("log_mb") * (1 << 20))
    return {"type": "worker", **given, "start": start}


def _fields(
    reader: Reader, key: str, table: Any, known: Mapping[str, Callable[[Reader, str, Any], Any]]
) -> dict[str, Any]:
    if not isinstance(table, dict):
        reader.wrong(key, f"a table: [[{re.sub(r'.[0-9]+.', '', key)}]]")
    reader.no_others(key, table, known)
    return {name: known[name](reader, f"{key}.{name}", value) for name, value in table.items()}


def _check_id(reader: Reader, key: str, spec: dict[str, Any], ids: set[str]) -> None:
    id = spec.get("id")
    if id is None:
        reader.wrong(f"{key}.id", "there: a name for loomctl")
    if id in ids:
        reader.wrong(f"{key}.id", f"unique among all supervisors and children: {id!r} is taken")
    ids.add(id)


def _check_significant(reader: Reader, key: str, spec: dict[str, Any], auto_shutdown: str) -> None:
    if not spec.get("significant"):
        return
    if spec.get("restart", "permanent") == "permanent":
        reader.wrong(
            f"{key}.significant",
            'false where restart is "permanent": a child that always comes back ends nothing',
        )
    if auto_shutdown == "never":
        reader.wrong(
            f"{key}.significant",
            'false where its supervisor has no auto_shutdown ("any_significant" or '
            '"all_significant")',
        )


# --- one check per type of value -----------------------------------------------------------------


def _id(reader: Reader, key: str, value: Any) -> str:
    if not isinstance(value, str) or not ID.fullmatch(value):
        reader.wrong(key, f"a name of letters, digits and . _ @ + -, 60 at most, not {value!r}")
    if RESERVED.fullmatch(value):
        reader.wrong(key, f"another name: {value!r} is one of the daemon's own")
    return value


def _choice(*choices: str) -> Callable[[Reader, str, Any], str]:
    def check(reader: Reader, key: str, value: Any) -> str:
        if value not in choices:
            reader.wrong(key, f"one of {', '.join(map(repr, choices))}, not {value!r}")
        return str(value)

    return check


def _seconds(low: float, *, zero: bool = False) -> Callable[[Reader, str, Any], float]:
    def check(reader: Reader, key: str, value: Any) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if (
            not good
            or not math.isfinite(value)
            or not (low <= value <= MAX_S or (zero and value == 0))
        ):
            reader.wrong(key, f"a time in seconds, from {low:g} to {MAX_S:g}, not {value!r}")
        return float(value)

    return check


def _shutdown(reader: Reader, key: str, value: Any) -> float | str:
    if value in ("kill", "infinity"):
        return str(value)
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or not 0 <= value <= MAX_S:
        reader.wrong(key, f'a time in seconds, "kill" or "infinity", not {value!r}')
    return float(value)


def _whole(low: int, high: int) -> Callable[[Reader, str, Any], int]:
    def check(reader: Reader, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            reader.wrong(key, f"a whole number from {low} to {high}, not {value!r}")
        return value

    return check


def _flag(reader: Reader, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        reader.wrong(key, f"true or false, not {value!r}")
    return value


def _command(reader: Reader, key: str, value: Any) -> list[str]:
    good = isinstance(value, list) and value and all(isinstance(word, str) for word in value)
    if not good or not value[0] or any("\0" in word for word in value):
        reader.wrong(
            key, f'a list of words such as ["llama-server", "--port", "8001"], not {value!r}'
        )
    return list(value)


def _cwd(reader: Reader, key: str, value: Any) -> str:
    path = os.path.expanduser(value) if isinstance(value, str) else ""
    if not Path(path).is_absolute() or "\0" in path:
        reader.wrong(key, f"an absolute path (~ is your home), not {value!r}")
    return path


def _env(reader: Reader, key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        reader.wrong(key, 'a table of variables, such as { CUDA_VISIBLE_DEVICES = "0" }')
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            reader.wrong(key, f"of names of letters, digits and _, not {name!r}")
        if not isinstance(text, str) or "\0" in text:  # it may be a key: it is not repeated
            reader.wrong(f"{key}.{name}", f"a string, not {type(text).__name__}")
    return dict(value)


def _ready(reader: Reader, key: str, value: Any) -> str:
    try:
        s.parse_ready(value)
    except s.SpecError as error:
        why = f" ({str(error.value).partition(': ')[2]})" if ": " in str(error.value) else ""
        reader.wrong(
            key,
            '"notify", "tcp:127.0.0.1:8001" (an IP address or localhost), "line:REGEX" or '
            f'"none", not {value!r}{why}',
        )
    return str(value)


def _log_mb(reader: Reader, key: str, value: Any) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0.001 <= value <= 1024:
        reader.wrong(key, f"a size in MiB, from 0.001 to 1024, not {value!r}")
    return float(value)


def _tables(reader: Reader, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        reader.wrong(key, "an array of tables: [[supervisor.child]]")
    return value


_COMMON: Mapping[str, Callable[[Reader, str, Any], Any]] = {
    "id": _id,
    "restart": _choice(*s.RESTARTS),
    "shutdown_s": _shutdown,
    "significant": _flag,
}
_SUPERVISOR: Mapping[str, Callable[[Reader, str, Any], Any]] = {
    **_COMMON,
    "strategy": _choice(*s.STRATEGIES),
    "intensity": _whole(0, 10_000),
    "period_s": _seconds(0.001),
    "auto_shutdown": _choice(*s.AUTO_SHUTDOWNS),
    "child": _tables,
}
_WORKER: Mapping[str, Callable[[Reader, str, Any], Any]] = {
    **_COMMON,
    "command": _command,
    "cwd": _cwd,
    "env": _env,
    "ready": _ready,
    "ready_s": _seconds(0.01),
    "nice": _whole(-20, 19),
    "memory_mb": _whole(0, 1 << 20),
    "backoff_s": _seconds(0.001, zero=True),
    "backoff_max_s": _seconds(0.001),
    "log_mb": _log_mb,
}
_ONLY_SUPERVISOR = set(_SUPERVISOR) - set(_WORKER)
