"""What stays of a command for the agent's next one: its folder and what it exported. Pure.

The shell tells both at its exit, by a trap in front of the command. A variable is kept if it
differs from what the session's environment says. Values that name the folders of this one call (a
private copy, its temporary folder) are kept with a mark in their place. Kept is plain data:

    {"cwd": folder, relative to the checkout if inside; "env": {name: value}, "unset": [names]}
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from loomd.rules import RESERVED, SOME

SECRET: Final = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")

_WITH_PASSWORD: Final = re.compile(r"://[^/\s:@]*:[^/\s@]+@")

KEPT_BYTES: Final = 32 << 10
"""Of all variables together, of one agent."""

OWN: Final = frozenset({"PWD", "OLDPWD", "SHLVL", "_", "LINES", "COLUMNS"})
"""Variables that every shell sets for itself."""

_ENDS: Final = r"(?=[/:;,=\s\"')]|$)"
"""What follows a path that is not the beginning of another one."""

ROOT: Final = "\0r"
SCRATCH: Final = "\0s"

EMPTY: Final[Mapping[str, Any]] = {"cwd": "", "env": {}, "unset": []}

_TELL: Final = (
    '{{ set +x; }} 2>/dev/null; {{ printf "%s\\0" "$PWD"; exec /usr/bin/env -0; }} >{0} 2>/dev/null'
)


def judged(cwd: str) -> str:
    """A kept folder as a command is judged by it: relative to the checkout or absolute; SOME: it
    cannot be known before the call has its place."""
    if not cwd:
        return "."
    return SOME if RESERVED.search(cwd) else cwd  # our own marks are among them


def told_folder(cwd: str) -> str:
    """A kept folder for people."""
    return cwd.replace(SCRATCH, "the temporary folder").replace(ROOT, "the checkout") or "."


def script(command: str, told: str) -> str:
    """For `sh -c`: the command, with a trap that writes to the file `told`. The lines of the
    command keep their numbers; a trap of its own takes the place of ours."""
    action = f"( {_TELL.format(shlex.quote(told))} )"
    return f"trap {shlex.quote(action)} EXIT; {command}"


def told(raw: bytes) -> tuple[str, dict[str, str]] | None:
    """(folder, exported variables); None if the shell said nothing. What is no UTF-8 is left
    out."""
    first, found, rest = raw.partition(b"\0")
    if not found:
        return None
    exported = {}
    for part in rest.split(b"\0"):
        name, equals, value = part.partition(b"=")
        if equals and name:
            try:
                exported[name.decode()] = value.decode()
            except UnicodeDecodeError:
                continue
    try:
        return first.decode(), exported
    except UnicodeDecodeError:
        return "", exported


def is_secret(name: str, value: str) -> bool:
    """Whether a variable may hold what must not be written to disk: by its name, or because it is
    an address with a password."""
    return any(part in name.upper() for part in SECRET) or bool(_WITH_PASSWORD.search(value))


def _ours(name: str) -> bool:
    return name in OWN or name.startswith("LOOM_")


def environment(
    kept: Mapping[str, Any], env: Mapping[str, str], root: str, scratch: str
) -> dict[str, str]:
    """The environment of the next command: the session's, and what was kept."""
    unset = frozenset(kept.get("unset") or ())
    made = {name: value for name, value in env.items() if name not in unset}
    for name, value in (kept.get("env") or {}).items():
        made[name] = _unmarked(value, root, scratch)
    return made


def folder(kept: Mapping[str, Any], root: str, scratch: str) -> str:
    """The absolute folder of the next command; it may not be there any more."""
    return posixpath.join(root, _unmarked(str(kept.get("cwd") or ""), root, scratch)).rstrip("/")


def after(
    env: Mapping[str, str],
    cwd: str,
    exported: Mapping[str, str],
    root: str,
    scratch: str,
) -> tuple[dict[str, Any], list[str]]:
    """What a command leaves that began with `env` as the session's environment; and the names of
    variables that are too long to be kept."""
    changed = {
        name: _marked(value, root, scratch)
        for name, value in exported.items()
        if not _ours(name) and env.get(name) != value
    }
    dropped = []
    size = sum(len(name) + len(value.encode()) for name, value in changed.items())
    for name in sorted(changed, key=lambda name: -len(changed[name])):
        if size <= KEPT_BYTES:
            break
        size -= len(name) + len(changed.pop(name).encode())
        dropped.append(name)
    unset = sorted(name for name in env if name not in exported and not _ours(name))
    return {"cwd": _inside(cwd, root, scratch), "env": changed, "unset": unset}, dropped


def _inside(cwd: str, root: str, scratch: str) -> str:
    if cwd == root or not cwd.startswith("/"):
        return ""
    if cwd.startswith(f"{root}/"):
        return cwd[len(root) + 1 :]
    return _marked(cwd, root, scratch)


def _marked(value: str, root: str, scratch: str) -> str:
    """The checkout's copy lies in the scratch folder, so its mark goes first."""
    for path, mark in ((root, ROOT), (scratch, SCRATCH)):
        if len(path) > 1 and path in value:
            value = re.sub(re.escape(path) + _ENDS, mark, value)  # a mark has no backslash
    return value


def _unmarked(value: str, root: str, scratch: str) -> str:
    return value.replace(ROOT, root).replace(SCRATCH, scratch)


def merged(
    now: Mapping[str, Any], given: Mapping[str, Any], left: Mapping[str, Any]
) -> dict[str, Any]:
    """What is kept now, with what a command changed that was `given` and has `left`: of commands
    side by side none undoes what another one did."""
    made = _settings(now)
    was, is_ = _settings(given), _settings(left)
    for name in was.keys() | is_.keys():
        if was.get(name, "") != is_.get(name, "") or (name in was) != (name in is_):
            if name in is_:
                made[name] = is_[name]
            else:
                made.pop(name, None)
    cwd = left["cwd"] if left["cwd"] != (given.get("cwd") or "") else now.get("cwd") or ""
    return {
        "cwd": cwd,
        "env": {name: value for name, value in sorted(made.items()) if value is not None},
        "unset": sorted(name for name, value in made.items() if value is None),
    }


def _settings(kept: Mapping[str, Any]) -> dict[str, str | None]:
    """name -> value, None: unset."""
    made: dict[str, str | None] = dict.fromkeys(kept.get("unset") or ())
    return made | dict(kept.get("env") or {})


def durable(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What of it may be written to disk: no secrets."""
    env = {name: value for name, value in kept["env"].items() if not is_secret(name, value)}
    return {**kept, "env": env}
