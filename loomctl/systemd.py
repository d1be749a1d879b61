"""The daemon as a user service of systemd: its two units, where they lie, who runs it.

`loomd.socket` listens where the clients connect, `loomd.service` is started by the first of them
and takes the socket over. An instance is known by its state directory, which stands in the unit.
What systemd does is asked of `systemctl --user`; where no user manager answers, that is said.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loomd.wire import endpoints
from loomd.wire.endpoints import Instance
from loomd.wire.errors import LoomError

MARK = "X-LoomStateDir="
UNIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}")
ANSWER_S = 30.0
START_S = 120.0
"""More than the unit's own time-outs: systemd gives up first, and says why."""
STOP_S = 300.0

SERVICE = """\
# Written by `loomctl daemon install`. Changes of yours belong into `systemctl --user edit {name}`.
[Unit]
Description=loomd: teams of AI coding agents, every agent a supervised process
Requires={name}.socket
StartLimitIntervalSec=60
StartLimitBurst=5
{mark}{state}

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
# New code everywhere and no session interrupted; the main process stays the same.
ExecReload=kill -HUP $MAINPID
{environment}# Keys of providers, 0600; loomd hides them from everything but its gateways.
EnvironmentFile=-{keys}
Restart=on-failure
RestartSec=1
# Wrong usage, no permission, a bad configuration: another try would not help.
RestartPreventExitStatus=2 5 8
TimeoutStartSec=90
# Fed from the root's loop while hub and templates turn; its end is an abort with a stack.
WatchdogSec=30
# The root stops its tree in order, longer than this only while processes go; then all are killed.
KillMode=mixed
TimeoutStopSec=120
# A control group for each actor and tool call.
Delegate=yes
{runtime}# A thousand actors: two descriptors each in the root, two threads each for ZeroMQ.
LimitNOFILE=65536
TasksMax=infinity
# One actor's memory is its own affair: systemd must not end the rest for it.
OOMPolicy=continue
# Nothing readable for others, no key in a core dump, a keyring of its own. The daemon confines each
# tool call itself (Landlock, namespaces); what would need no-new-privileges or a mount namespace
# here would take these means away, and set-uid helpers from your own services.
UMask=0077
LimitCORE=0
KeyringMode=private

[Install]
WantedBy=default.target
Also={name}.socket
"""

RUNTIME = """\
# The sockets outlive a restart: clients connect to the same ones again.
RuntimeDirectory=loom
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
"""

SOCKET = """\
# Written by `loomctl daemon install`.
[Unit]
Description=loomd: where its clients connect; the first of them starts it

[Socket]
ListenStream={clients}
SocketMode=0600
DirectoryMode=0700
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""


# --- the units -----------------------------------------------------------------------------------


def units(instance: Instance, name: str, command: str, home: Path, uid: int) -> dict[str, str]:
    """File name -> text. What a bare user manager would choose anyway is left to it."""
    usual = endpoints.instance({"HOME": str(home), "XDG_RUNTIME_DIR": f"/run/user/{uid}"})
    pairs = {
        "LOOM_CONFIG": (instance.config, usual.config),
        "LOOM_STATE_DIR": (instance.state, usual.state),
        "LOOM_RUNTIME_DIR": (instance.runtime, usual.runtime),
    }
    environment = "".join(
        f"Environment={_word(f'{key}={ours}')}\n"
        for key, (ours, theirs) in pairs.items()
        if ours != theirs
    )
    ours = instance.runtime != usual.runtime
    return {
        f"{name}.service": SERVICE.format(
            name=name,
            mark=MARK,
            state=_path(instance.state, home),
            command=command,
            environment=environment,
            keys=_path(instance.config.parent / "environment", home),
            runtime="" if ours else RUNTIME,
        ),
        f"{name}.socket": SOCKET.format(
            clients=_percent(instance.clients.removeprefix("ipc://")) if ours else "%t/loom/clients"
        ),
    }


def command() -> str:
    """ExecStart of the `loomd` that belongs to this `loomctl`."""
    beside = Path(sys.executable).with_name("loomd")
    argv = [str(beside)] if os.access(beside, os.X_OK) else [sys.executable, "-m", "loomd"]
    return " ".join(_word(arg).replace("$", "$$") for arg in argv)


def _path(path: Path, home: Path) -> str:
    """Below the home by the specifier, so that the unit moves with it."""
    if home != Path("/") and path.is_relative_to(home):
        return "%h/" + _percent(str(path.relative_to(home)))
    return _percent(str(path))


def _percent(text: str) -> str:
    if not text.isprintable():
        raise LoomError("config", f"{text!r} cannot stand in a unit", "use another path")
    return text.replace("%", "%%")


def _word(text: str) -> str:
    """One word of a list: quoted where systemd needs that."""
    text = _percent(text)
    if set(text) & set(" \"'\\;"):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return text


# --- where they lie ------------------------------------------------------------------------------


def folder(env: Mapping[str, str] = os.environ) -> Path:
    """Where a user's own units lie."""
    home = Path(env.get("HOME") or "/")
    return Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "systemd" / "user"


def installed(instance: Instance) -> Unit | None:
    """The installed unit of this instance."""
    wanted = str(instance.state)
    for path in sorted(folder().glob("*.service")):
        if _state_of(path) == wanted:
            return Unit(path.stem)
    return None


def _state_of(path: Path) -> str:
    """The state directory that stands in a unit, "" if it is none of ours."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        if line.startswith(MARK):
            said = line.removeprefix(MARK)
            return said.replace("%h", os.environ.get("HOME") or "/").replace("%%", "%")
    return ""


def install(instance: Instance, name: str) -> list[Path]:
    """Writes the units; their paths. Raises LoomError if the name is another's."""
    place = folder()
    home = Path(os.environ.get("HOME") or "/")
    existing = place / f"{name}.service"
    if existing.exists() and (other := _state_of(existing)) != str(instance.state):
        raise LoomError(
            "bad_state",
            f"{existing} serves {other or 'something else'}",
            "choose another name: loomctl daemon install --unit NAME",
        )
    texts = units(instance, name, command(), home, os.getuid())
    try:
        place.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            new = place / f".{file}.new"
            new.write_text(text)
            new.replace(place / file)
    except OSError as error:
        raise LoomError(
            "permission_denied", f"cannot write {error.filename}: {error.strerror}"
        ) from None
    return [place / file for file in texts]


def remove(unit: Unit) -> list[Path]:
    """Removes the files of a unit; those that were there."""
    gone = []
    for file in (f"{unit.name}.service", f"{unit.name}.socket"):
        path = folder() / file
        if path.exists():
            path.unlink()
            gone.append(path)
    return gone


# --- the user manager ----------------------------------------------------------------------------


def systemctl(*args: str, wait_s: float = ANSWER_S) -> subprocess.CompletedProcess[str]:
    """`systemctl --user ...`, whatever it says. Raises LoomError where there is none to ask."""
    return _ask(["systemctl", "--user", *args], wait_s)


def _ask(argv: list[str], wait_s: float) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ)
    place = f"/run/user/{os.getuid()}"
    if not env.get("XDG_RUNTIME_DIR") and os.path.isdir(place):
        env["XDG_RUNTIME_DIR"] = place  # a shell from `su` or `sudo` has lost it
    try:
        return subprocess.run(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=wait_s,
            check=False,
        )
    except FileNotFoundError:
        raise LoomError("failed", f"there is no {argv[0]} here") from None
    except subprocess.TimeoutExpired:
        raise LoomError("timeout", f"`{shlex.join(argv)}` took over {wait_s:.0f} s") from None


def manager() -> bool:
    """Whether a user manager answers."""
    try:
        said = systemctl("is-system-running").stdout.strip()
    except LoomError:
        return False
    return said in ("initializing", "starting", "running", "degraded", "maintenance")


@dataclass(frozen=True)
class Unit:
    """The pair of units `name`.service and `name`.socket."""

    name: str

    @property
    def both(self) -> tuple[str, str]:
        return f"{self.name}.socket", f"{self.name}.service"

    def main_pid(self) -> int:
        """The daemon that systemd runs by it; 0: none, or nobody to ask."""
        try:
            said = self._shown("MainPID")
        except LoomError:
            return 0
        return int(said) if said.isdecimal() else 0

    def is_starting(self) -> bool:
        """Whether systemd starts it, now or after a pause. A crash is seen as `active` at first."""
        try:
            return self._shown("ActiveState") in ("active", "activating", "reloading")
        except LoomError:
            return False

    def start(self) -> None:
        """Starts it and waits until it is ready. Raises LoomError with its own last reason."""
        systemctl("reset-failed", *self.both)
        self._change("start", *self.both)

    def restart(self) -> None:
        systemctl("reset-failed", *self.both)
        self._change("restart", f"{self.name}.service")

    def stop(self) -> None:
        """Stops it in order, and the socket first: a client still there would start it again."""
        self._change("stop", *self.both)

    def enable(self) -> None:
        """Enables both and begins to listen; the daemon comes with its first client."""
        self._change("daemon-reload")
        self._change("enable", *self.both)

    def listen(self) -> None:
        systemctl("reset-failed", *self.both)
        self._change("start", f"{self.name}.socket")

    def disable(self) -> None:
        """Stops it in order, the socket first, and disables both."""
        self.stop()
        self._change("disable", *self.both)

    def journal(self, lines: int) -> list[str]:
        """The last lines of its log, oldest first; none where the journal cannot be read."""
        for which in (["--user", "-u"], ["--user-unit"]):  # one journal a user, or one for all
            argv = ["journalctl", "-q", "--no-pager", "-o", "short-iso", "-n", str(lines)]
            done = _ask([*argv, *which, f"{self.name}.service"], ANSWER_S)
            said = [line for line in done.stdout.splitlines() if not line.startswith("-- ")]
            if said:
                return said
        return []

    def _shown(self, key: str) -> str:
        done = systemctl("show", "-p", key, "--value", f"{self.name}.service")
        return done.stdout.strip()

    def _change(self, verb: str, *args: str) -> None:
        wait_s = STOP_S if verb in ("stop", "restart", "disable") else START_S
        done = systemctl(verb, *args, wait_s=wait_s)
        if done.returncode == 0:
            return
        if verb in ("start", "restart"):
            code = "config" if self._shown("ExecMainStatus") == "8" else "daemon_failed"
            reason, hint = self._last_reason()
            if reason:
                raise LoomError(code, f"the daemon did not start: {reason}", hint)
        text = done.stderr.strip() or f"exit status {done.returncode}"
        raise LoomError(
            "daemon_failed",
            f"systemctl --user {verb} {' '.join(args)}: {text.splitlines()[0]}",
            f"see: journalctl --user -u {self.name}",
        )

    def _last_reason(self) -> tuple[str, str]:
        """Reason and hint of the last refusal in its journal."""
        try:
            lines = self.journal(50)
        except LoomError:
            return "", ""
        for line in reversed(lines):
            _, found, rest = line.partition(": refused ")
            if found:
                said = _facts(rest)
                return said.get("reason", ""), said.get("hint", "")
        return "", ""


def _facts(text: str) -> dict[str, str]:
    """`key=value` words of a line of the daemon's log; a value may be a JSON string."""
    facts: dict[str, str] = {}
    while "=" in text:
        key, _, text = text.lstrip().partition("=")
        if text.startswith('"'):
            try:
                value, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                return facts
            facts[key], text = str(value), text[end:]
        else:
            facts[key], _, text = text.partition(" ")
    return facts
