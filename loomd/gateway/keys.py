"""Keys of providers: where they come from, and how they stay out of what others read.

The root keeps the variables that loomd was started with in a memfd that only gateways get. A key is
named by one of `api_key_env`, `api_key_file`, `api_key_command`, `api_key_credential` (of systemd's
LoadCredential=); with none of them it is the provider's usual variable. What is configured and not
there is an error: no other key is sent in its place. A key that was found once is struck out of
every text that leaves by `Keys.hide`: servers repeat in their errors what they were sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from loomd import plainfile

SOURCES: Final = ("api_key_env", "api_key_file", "api_key_command", "api_key_credential")

COMMAND_S: Final = 15.0
"""For a command that prints a key: it may ask a person for a finger."""

FRESH_S: Final = 600.0
"""How long what a command has printed is used before it is asked again: keys of some providers
last for an hour."""

MAX_KEY: Final = 16 << 10
SECRET: Final = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(_|\Z)", re.IGNORECASE)
SHORTEST: Final = 8
"""Characters of what is struck out: a shorter one would take words with it."""

FOR_COMMANDS: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "SSH_AUTH_SOCK"),
    *("DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    *("GNUPGHOME", "GPG_TTY", "PASSWORD_STORE_DIR", "DISPLAY", "WAYLAND_DISPLAY"),
)
"""Variables that a command gets which prints a key: what password stores need, and no key."""


class NoKeyError(Exception):
    """The configured key is not there. Its text says why, and holds nothing of a key."""


def read_keys(fd: int) -> dict[str, str]:
    """The variables that the root keeps out of every environment: a memfd with one JSON object."""
    if fd < 0:
        return {}
    raw = os.pread(fd, os.fstat(fd).st_size, 0)
    keys = json.loads(raw or b"{}")
    return {str(name): str(value) for name, value in keys.items()}


class Keys:
    """`variables`: what `read_keys` found."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = dict(variables)
        self._printed: dict[tuple[str, ...], tuple[float, str]] = {}
        self._asking: dict[tuple[str, ...], asyncio.Task[str]] = {}
        self._tasks: set[asyncio.Task[str]] = set()
        self._seen = {
            value
            for name, value in self.variables.items()
            if SECRET.search(name) and len(value) >= SHORTEST
        }

    async def of(self, provider: str, configured: Mapping[str, Any]) -> str:
        """The provider's key; "": none is configured, and none is in its usual variable. Raises
        NoKeyError."""
        password = urlsplit(configured.get("api_base") or "").password
        if password and len(password) >= SHORTEST:
            self._seen.add(password)
        key = await self._configured(configured)
        key = key or self.variables.get(f"{provider.upper()}_API_KEY", "")
        if len(key) >= SHORTEST:
            self._seen.add(key)
        return key

    async def _configured(self, configured: Mapping[str, Any]) -> str:
        if name := configured.get("api_key_env"):
            key = self.variables.get(name) or os.environ.get(name) or ""
            if not key:
                raise NoKeyError(f"the variable {name} (api_key_env) was not set for the daemon")
            return key
        if path := configured.get("api_key_file"):
            return _read(path, f"api_key_file {path}")
        if name := configured.get("api_key_credential"):
            folder = self.variables.get("CREDENTIALS_DIRECTORY")
            if not folder:
                said = "the daemon was not started by systemd with LoadCredential="
                raise NoKeyError(f"api_key_credential {name}: {said}")
            return _read(f"{folder}/{name}", f"api_key_credential {name}")
        if command := configured.get("api_key_command"):
            return await self._ask(tuple(command))
        return ""

    async def _ask(self, command: tuple[str, ...]) -> str:
        loop = asyncio.get_running_loop()
        until, key = self._printed.get(command, (0.0, ""))
        if loop.time() < until:
            return key
        # Once for all calls that wait for it: it may ask a person each time.
        asking = self._asking.get(command)
        if asking is None:
            asking = loop.create_task(_printed(command, self._for_commands()))
            self._asking[command] = asking
            self._tasks.add(asking)
            asking.add_done_callback(lambda ended: self._asked(command, ended))
        return await asyncio.shield(asking)

    def _asked(self, command: tuple[str, ...], ended: asyncio.Task[str]) -> None:
        self._tasks.discard(ended)
        if self._asking.get(command) is ended:
            del self._asking[command]
            if not ended.cancelled() and ended.exception() is None:
                until = asyncio.get_running_loop().time() + FRESH_S
                self._printed[command] = until, ended.result()

    def _for_commands(self) -> dict[str, str]:
        both = {**self.variables, **os.environ}
        return {name: both[name] for name in FOR_COMMANDS if name in both}

    def hide(self, text: str) -> str:
        """The text without the keys that are known, nor the beginning of one where it was cut."""
        for key in sorted(self._seen, key=len, reverse=True):
            text = text.replace(key, "[key]")
            half = next((n for n in range(len(key), SHORTEST - 1, -1) if text.endswith(key[:n])), 0)
            text = f"{text[:-half]}[key]" if half else text
        return text

    async def close(self) -> None:
        """Ends the commands that are still asked."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def forget(self) -> None:
        """What commands have printed, or are about to: the next call asks again."""
        self._printed.clear()
        self._asking.clear()

    def refused(self, configured: Mapping[str, Any]) -> None:
        """The provider takes this one no more: what a command has printed may be too old."""
        self._printed.pop(tuple(configured.get("api_key_command") or ()), None)


def source(configured: Mapping[str, Any]) -> str:
    """Where the key comes from, for people: nothing of the key itself."""
    for name in SOURCES:
        if value := configured.get(name):
            shown = value if isinstance(value, str) else " ".join(value[:1])
            return f"{name.removeprefix('api_key_')} {shown}"
    return ""


def address(api_base: str) -> str:
    """An address for people: without the password in it."""
    parts = urlsplit(api_base)
    if parts.password is None:
        return api_base
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))


def _read(path: str, what: str) -> str:
    try:
        with plainfile.opened(Path(path).expanduser()) as (file, _):
            raw = file.read(MAX_KEY + 1)
        if len(raw) > MAX_KEY:
            raise NoKeyError(f"{what}: it holds more than {MAX_KEY} bytes, which is no key")
    except OSError as error:
        raise NoKeyError(f"{what}: {error.strerror}") from None
    except plainfile.NotPlainError as error:
        raise NoKeyError(f"{what}: {error}") from None
    return _checked(raw, what)


def _checked(raw: bytes, what: str) -> str:
    """One line of printable characters: another cannot stand in a header."""
    key = raw.decode("utf-8", "replace").strip()
    if not key:
        raise NoKeyError(f"{what}: it is empty")
    if not key.isprintable() or "\N{REPLACEMENT CHARACTER}" in key:
        raise NoKeyError(f"{what}: what is in there is not one line of text")
    return key


async def _printed(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What the command prints. What it says on stderr is not repeated: it may be the key.

    It has ended when its process has: an agent that it has started may keep its output open. A pipe
    holds more than a key, so that nothing need be read before.
    """
    what = f"api_key_command {command[0]}"
    out, its = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.set_blocking(its, True)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=its,
                stderr=asyncio.subprocess.DEVNULL,
                env=dict(environment),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise NoKeyError(f"{what}: {said}") from None
        finally:
            os.close(its)
        ended = f"it has not ended within {COMMAND_S:g} s"
        try:
            async with asyncio.timeout(COMMAND_S):
                status = await process.wait()
            ended = f"it has ended with status {status}" if status else ""
        except TimeoutError:
            pass
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        try:
            raw = os.read(out, MAX_KEY + 1)
        except BlockingIOError:
            raw = b""
    finally:
        os.close(out)
    if len(raw) > MAX_KEY:
        raise NoKeyError(f"{what}: it prints more than {MAX_KEY} bytes, which is no key")
    if ended:
        raise NoKeyError(f"{what}: {ended}")
    return _checked(raw, what)
