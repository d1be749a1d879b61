"""`python -m loomd.doctor`: what this machine lacks for loomd, and how to repair each. No daemon.

    found (tried on this machine) -> report -> rows {name, state, text, repair}

States: `ok`; `failed`: something will not work at all; `warning`: it works, and would be better
with it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Final, Literal

from loomd import settings
from loomd.supervise.cgroup import Cgroups, Unavailable
from loomd.tools import sandbox
from loomd.wire.endpoints import instance
from loomd.wire.errors import LoomError

Health = Literal["ok", "warning", "failed"]

OLDEST_GIT: Final = (2, 31)
"""The first that takes its configuration from the environment, as all our calls of it do."""


@dataclass(frozen=True)
class Row:
    name: str
    state: Health
    text: str
    repair: str = ""


@dataclass(frozen=True)
class Found:
    """git, rg, bwrap: what the program says of its version, "" if there is none; cgroups: why
    there can be none, "" if there can; config: what is wrong with it, "" if nothing is."""

    loomd: str
    python: str
    kernel: str
    settings: settings.Permissions
    facts: sandbox.Facts
    git: str = ""
    rg: str = ""
    bwrap: str = ""
    cgroups: str = ""
    controllers: tuple[str, ...] = ()
    apparmor: bool = False
    config: str = ""


def report(found: Found) -> list[Row]:
    """Pure."""
    rows = [Row("loomd", "ok", f"{found.loomd}, Python {found.python}, Linux {found.kernel}")]
    if found.config:
        rows.append(Row("config", "failed", found.config, "mend the file; a daemon needs it"))
    rows += [_sandbox(found), *_parts(found), _git(found)]
    if found.rg:
        rows.append(Row("rg", "ok", found.rg))
    else:
        text = "not installed: grep walks the files itself, with the same results"
        rows.append(Row("rg", "warning", text, "apt install ripgrep"))
    rows.append(_cgroups(found))
    return rows


def _sandbox(found: Found) -> Row:
    wanted = found.settings
    if wanted.sandbox == "full":
        text = "profile full: tool calls are not confined, as the configuration says"
        return Row("sandbox", "warning", text, 'sandbox = "workspace" under [permissions]')
    try:
        backend = sandbox.choose(wanted.sandbox_backend, found.facts)
    except LoomError as error:
        return Row("sandbox", "failed", error.message, error.hint)
    text = f"profile {wanted.sandbox}, by {backend}"
    lacks = sandbox.lacking(backend, found.facts)
    if not lacks:
        return Row("sandbox", "ok", text)
    repair = _BUBBLEWRAP if backend == "landlock" else _LANDLOCK
    return Row("sandbox", "warning", f"{text}; not covered: {'; '.join(lacks)}", repair)


_BUBBLEWRAP: Final = "apt install bubblewrap, and see its line below"
_LANDLOCK: Final = "boot with `landlock` in the parameter lsm=... (Linux 5.13 or newer)"


def _parts(found: Found) -> list[Row]:
    facts = found.facts
    if not facts.bwrap:
        bubble = Row("bubblewrap", "warning", "not installed", "apt install bubblewrap")
    elif facts.bwrap_error:
        repair = (
            "AppArmor forbids it: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give "
            f"{facts.bwrap} a profile with `userns,`"
            if found.apparmor
            else "user namespaces must be allowed: sysctl user.max_user_namespaces, and in a "
            "container its seccomp profile"
        )
        bubble = Row("bubblewrap", "warning", f"{found.bwrap}: {facts.bwrap_error}", repair)
    else:
        bubble = Row("bubblewrap", "ok", f"{found.bwrap} works")
    rows = [bubble]
    if facts.landlock >= 6:
        rows.append(Row("landlock", "ok", f"version {facts.landlock}"))
    elif facts.landlock:
        text = f"version {facts.landlock}: it scopes neither signals nor abstract sockets"
        rows.append(Row("landlock", "warning", text, "Linux 6.12 or newer"))
    else:
        rows.append(Row("landlock", "warning", "this kernel has none", _LANDLOCK))
    rows.append(
        Row("namespaces", "ok", "a process may make its own")
        if facts.namespaces
        else Row(
            "namespaces",
            "warning",
            "this user may make none",
            "sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0",
        )
    )
    rows.append(
        Row("seccomp", "ok", "calls of the kernel are filtered")
        if facts.seccomp
        else Row("seccomp", "warning", "no filters here", "a kernel with CONFIG_SECCOMP_FILTER")
    )
    return rows


def _git(found: Found) -> Row:
    if not found.git:
        return Row(
            "git", "failed", "not installed: no checkout can be worked on", "apt install git"
        )
    version = tuple(int(part) for part in found.git.split()[-1].split(".")[:2] if part.isdigit())
    if version and version < OLDEST_GIT:
        least = ".".join(map(str, OLDEST_GIT))
        return Row("git", "failed", f"{found.git} is too old", f"git {least} or newer")
    return Row("git", "ok", found.git)


def _cgroups(found: Found) -> Row:
    if found.cgroups:
        text = f"none ({found.cgroups}): what escapes is found by a walk through the processes"
        return Row("cgroups", "warning", text, "loomctl daemon install (systemd delegates one)")
    if missing := [name for name in ("memory", "pids") if name not in found.controllers]:
        text = f"processes are kept in cgroups; no limit by {', '.join(missing)}"
        return Row("cgroups", "warning", text, "delegate these controllers (Delegate=yes)")
    return Row("cgroups", "ok", "processes are kept and limited in cgroups")


# --- this machine --------------------------------------------------------------------------------


def examine() -> Found:
    """Tries what there is. Nothing of it stays."""
    config, read = "", settings.Settings()
    try:
        read = settings.load(instance().config)
    except LoomError as error:
        config = f"{error.message} {error.hint}".strip()
    facts = sandbox.probe()
    cgroups, controllers = _try_cgroups(read.supervision.cgroups)
    return Found(
        loomd=importlib.metadata.version("loomd"),
        python=platform.python_version(),
        kernel=platform.release(),
        settings=read.permissions,
        facts=facts,
        git=_version("git"),
        rg=_version("rg"),
        bwrap=_version("bwrap"),
        cgroups=cgroups,
        controllers=controllers,
        apparmor=_read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
        config=config,
    )


def _try_cgroups(wanted: str) -> tuple[str, tuple[str, ...]]:
    """(why there are none, what they can limit)."""
    if wanted == "off":
        return "switched off in the configuration", ()
    try:
        made = Cgroups.create()
    except Unavailable as error:
        return str(error), ()
    controllers = tuple(made.controllers)
    made.close()
    return "", controllers


def _version(program: str) -> str:
    """The first line of its `--version`; "" if it is not there."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout or done.stderr).strip().partition("\n")[0] or path


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    os.chdir("/")
    print(json.dumps([asdict(row) for row in report(examine())]))
    sys.exit(0)
