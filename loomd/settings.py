"""Settings: read once from `config.toml`, frozen, handed down in specs as plain data.

An unknown key, a wrong type or an impossible value is a `ConfigError` that names file, line, key
and what would be right. Keys of later versions are known, and refused as "not yet in force". The
file need not exist.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from loomd import rules, services
from loomd.wire.errors import LoomError
from loomd.wire.models import OFFLINE, ships

MOST_GATEWAYS = 9


class ConfigError(LoomError):
    """The configuration is wrong. Exit status 8."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("config", message, hint)


@dataclass(frozen=True)
class Clocks:
    """Of a call of a model, in seconds: see loomd.gateway.clocks."""

    connect_s: float = 10
    first_byte_s: float = 60
    between_s: float = 45
    total_s: float = 600


@dataclass(frozen=True)
class Models:
    default: str = OFFLINE
    fast: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    fallback: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attempts: int = 4  # of a request on one model
    patience_s: float = 180  # from its first failure on a model to the last attempt there
    clocks: Clocks = field(default_factory=Clocks)
    gateways: int = 0  # processes that perform calls; 0: as many as there are cores, at most 4


@dataclass(frozen=True)
class Provider:
    """Where a provider is and whose key opens it. "" = litellm's own default. stream: whether its
    answers are asked for in pieces; some servers have whole answers only, or better ones. cache:
    whether requests have marks up to which the server shall keep what it has read; None: by what is
    known of the provider.
    concurrency: calls at once; this and the limits per minute hold for all providers of the same
    address and key. The times are instead of those of `models.clocks`."""

    api_base: str = ""
    api_key_env: str = ""
    api_key_file: str = ""
    stream: bool = True
    cache: bool | None = None
    concurrency: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    api_key_command: tuple[str, ...] = ()
    api_key_credential: str = ""
    connect_s: float | None = None
    first_byte_s: float | None = None
    between_s: float | None = None
    total_s: float | None = None


@dataclass(frozen=True)
class Budget:
    """US dollars; None: no limit. The day is UTC's, a task one of a session, an agent a name in a
    session. output_tokens: what one call may write where a limit holds, reserved before it."""

    day_usd: float | None = None
    session_usd: float | None = None
    task_usd: float | None = None
    agent_usd: float | None = None
    output_tokens: int = 16384


@dataclass(frozen=True)
class Limits:
    """Of one agent's task; None: no limit. session_calls, daemon_calls: how many tool calls run at
    once in a session and in all of them; further ones wait."""

    iterations: int = 30
    tokens: int | None = None
    wall_s: float = 1800
    repeats: int = 3
    view_tokens: int = 24000
    call_s: float = 120
    session_calls: int = 16
    daemon_calls: int = 64
    import_s: float = 10  # of one tool file
    memory_mb: int = 4096
    processes: int = 512
    file_mb: int = 4096
    cpu_s: float = 3600
    jobs: int = 8  # commands in the background, of a session at once


@dataclass(frozen=True)
class Permissions:
    """sandbox: the profile of calls; sandbox_backend: what confines them; sandbox_read,
    sandbox_write: paths that commands and the user's tools may have beyond it; network: they may
    use it. allow, ask, deny: rules (loomd.rules). answer_s: how long a question waits for an
    answer, then it is denied; detached_answer_s: the same in a session opened with --detach."""

    mode: str = "on-request"
    sandbox: str = "workspace"
    sandbox_backend: str = "auto"
    sandbox_read: tuple[str, ...] = ()
    sandbox_write: tuple[str, ...] = ()
    network: bool = False
    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    answer_s: float = 3600
    detached_answer_s: float = 259_200


@dataclass(frozen=True)
class Review:
    required: bool = True


@dataclass(frozen=True)
class Tools:
    """web_private: hosts (`host` or `host:port`) that web_fetch may reach at private addresses."""

    web_fetch: bool = False
    web_private: tuple[str, ...] = ()


@dataclass(frozen=True)
class Supervision:
    intensity: int = 10
    period_s: float = 5
    heartbeat_s: float = 5
    poison_crashes: int = 3
    memory_mb: int = 1024
    cgroups: str = "auto"


@dataclass(frozen=True)
class Recovery:
    """The ladder of an agent that fails again and again: failures, within seconds, that a rung
    holds for; then what the second rung runs with. `model` "": the first fallback."""

    restart: tuple[int, float] = (3, 60.0)
    parameters: tuple[int, float] = (2, 300.0)
    conversation: tuple[int, float] = (1, 600.0)
    model: str = ""
    temperature: float = 0.0
    view: float = 0.5


@dataclass(frozen=True)
class Settings:
    models: Models = field(default_factory=Models)
    providers: Mapping[str, Provider] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    limits: Limits = field(default_factory=Limits)
    permissions: Permissions = field(default_factory=Permissions)
    review: Review = field(default_factory=Review)
    tools: Tools = field(default_factory=Tools)
    supervision: Supervision = field(default_factory=Supervision)
    supervisors: tuple[Mapping[str, Any], ...] = ()  # child specs; they may hold secrets
    recovery: Recovery = field(default_factory=Recovery)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able data, for `args["settings"]`: without what is the root's alone."""
        plain = asdict(self)
        del plain["supervisors"]
        plain["tools"]["web_private"] = list(self.tools.web_private)
        plain["models"]["fallback"] = {k: list(v) for k, v in self.models.fallback.items()}
        for provider in plain["providers"].values():
            provider["api_key_command"] = list(provider["api_key_command"])
        for name in ("sandbox_read", "sandbox_write", *rules.VERDICTS):
            plain["permissions"][name] = list(plain["permissions"][name])
        for rung in ("restart", "parameters", "conversation"):
            plain["recovery"][rung] = list(plain["recovery"][rung])
        return plain

    @property
    def needs_provider(self) -> bool:
        """Whether any model that may be used is not an offline one."""
        models = [self.models.default, self.models.fast, *self.models.roles.values()]
        models.extend(m for chain in self.models.fallback.values() for m in chain)
        models.append(self.recovery.model)
        return bool(self.providers) or any(m and not ships(m) for m in models)


NOT_YET = {
    "services",
    "mcp",
    "web",
}
"""Known keys of CONTRACT and later that are not in force."""


def load(path: Path) -> Settings:
    """The settings in `path`; the defaults if there is no such file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return parse(text, str(path))


def parse(text: str, file: str = "config.toml") -> Settings:
    """The settings in `text`. Raises ConfigError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = found.group(1) if found else str(text.count("\n") + 1)
        raise ConfigError(f"{file}:{line}: not TOML: {error}") from error
    reader = _Reader(text, file)
    reader.no_others("", data, _KEYS)
    tables = {name: reader.table(name, data.get(name, {})) for name in _TABLES}
    providers = {}
    for name in tables.pop("providers"):
        key = f"providers.{name}"
        value = reader.table(key, data["providers"][name])
        providers[name] = Provider(**reader.fields(key, value, _PROVIDER))
        said = [source for source in _KEY_SOURCES if value.get(source)]
        if len(said) > 1:
            reader.wrong(f"{key}.{said[1]}", f"one of {' and '.join(said[:2])}, not both")
    made = {name: reader.fields(name, tables[name], _FIELDS[name]) for name in tables}
    return Settings(
        models=Models(**made["models"]),
        providers=providers,
        budget=Budget(**made["budget"]),
        limits=Limits(**made["limits"]),
        permissions=Permissions(**made["permissions"]),
        review=Review(**made["review"]),
        tools=Tools(**made["tools"]),
        supervision=Supervision(**made["supervision"]),
        supervisors=services.read(reader, data.get("supervisor", [])),
        recovery=Recovery(**made["recovery"]),
    )


PROJECT: Mapping[str, frozenset[str]] = {
    "permissions": frozenset({"mode", "sandbox", "allow", "ask", "deny"}),
    "review": frozenset({"required"}),
    "budget": frozenset({"session_usd"}),
}
"""What a project's own configuration may say."""


def parse_project(text: str, file: str) -> dict[str, dict[str, Any]]:
    """What `.loom/config.toml` says, table by table. Raises ConfigError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        raise ConfigError(f"{file}:{found[1] if found else 1}: not TOML: {error}") from error
    reader = _Reader(text, file)
    reader.no_others("", data, PROJECT)
    made = {}
    for name, value in data.items():
        known = {key: check for key, check in _FIELDS[name].items() if key in PROJECT[name]}
        made[name] = reader.fields(name, reader.table(name, value), known)
    return made


Check = Callable[["_Reader", str, Any], Any]


class _Reader:
    """Reads parsed TOML and says where in the text a key stands."""

    def __init__(self, text: str, file: str) -> None:
        self._lines = text.splitlines()
        self._file = file

    def line(self, key: str) -> int:
        """The line of dotted `key`, or of the nearest table above it; tomllib does not tell."""
        parts = key.split(".")
        for depth in range(len(parts), 0, -1):
            found = self._find(parts[:depth])
            if found:
                return found
        return 1

    def _find(self, parts: list[str]) -> int:
        table: list[str] = []
        arrays: dict[str, int] = {}  # of tables: the index of the last one, by its whole key
        for number, line in enumerate(self._lines, 1):
            head = re.match(r"\s*(\[{1,2})\s*(.*?)\s*\]{1,2}\s*(#.*)?$", line)
            if head:
                words = _words(head.group(2))
                if head.group(1) == "[[":
                    whole = ".".join(_indexed(words[:-1], arrays) + words[-1:])
                    arrays[whole] = arrays.get(whole, -1) + 1
                table = _indexed(words, arrays)
                if table == parts:
                    return number
                continue
            assign = re.match(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*'|\s*\.\s*)+)\s*=(.*)""", line)
            if assign is None:
                continue
            words = table + _words(assign.group(1))
            if words == parts:
                return number
            inside = parts[len(words) :]
            if words == parts[: len(words)] and inside and inside[0] in assign.group(2):
                return number  # an inline table
        return 0

    def wrong(self, key: str, right: str) -> NoReturn:
        raise ConfigError(f"{self._file}:{self.line(key)}: {_plain(key)}: must be {right}")

    def table(self, key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.wrong(key, f"a table: [{key}]")
        return value

    def no_others(self, key: str, value: dict[str, Any], known: Mapping[str, Any]) -> None:
        for name in value:
            if name in known:
                continue
            full = f"{key}.{name}" if key else name
            where = f"{self._file}:{self.line(full)}: {_plain(full)}"
            if full in NOT_YET:
                raise ConfigError(
                    f"{where}: not yet in force in this version",
                    "remove the key: it would not protect or start anything",
                )
            close = difflib.get_close_matches(name, list(known), 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(
                f"{where}: unknown key", f"{hint}known here: {', '.join(sorted(known))}"
            )

    def fields(self, key: str, value: dict[str, Any], known: Mapping[str, Check]) -> dict[str, Any]:
        self.no_others(key, value, known)
        return {name: known[name](self, f"{key}.{name}", v) for name, v in value.items()}


def _indexed(words: list[str], arrays: Mapping[str, int]) -> list[str]:
    """The words of a key, those of arrays of tables with the index of their last table."""
    made: list[str] = []
    for word in words:
        index = arrays.get(".".join([*made, word]))
        made.append(word if index is None else f"{word}[{index}]")
    return made


def _plain(key: str) -> str:
    """A key as it is written in the file, without indices."""
    return re.sub(r"\[\d+\]", "", key)


def _words(dotted: str) -> list[str]:
    found = re.findall(r"""[\w-]+|"[^"]*"|'[^']*'""", dotted)
    return [word.strip("\"'") for word in found]


# --- one check per type of value -----------------------------------------------------------------


def _number(low: float, high: float, what: str) -> Check:
    def check(reader: _Reader, key: str, value: Any) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or not low <= value <= high:
            reader.wrong(key, f"{what}, from {low:g} to {high:g}, not {value!r}")
        return float(value)

    return check


def _count(low: int, high: int) -> Check:
    def check(reader: _Reader, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            reader.wrong(key, f"a whole number from {low} to {high}, not {value!r}")
        return value

    return check


def _choice(*choices: str) -> Check:
    def check(reader: _Reader, key: str, value: Any) -> str:
        if value not in choices:
            said = ", ".join(repr(c) for c in choices)
            reader.wrong(key, f"one of {said}, not {value!r}")
        return str(value)

    return check


def _flag(reader: _Reader, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        reader.wrong(key, f"true or false, not {value!r}")
    return value


def _text(reader: _Reader, key: str, value: Any) -> str:
    if not isinstance(value, str):
        reader.wrong(key, f"a string, not {value!r}")
    return value


def _url(reader: _Reader, key: str, value: Any) -> str:
    if not isinstance(value, str) or not _is_url(value):
        shown = repr(value) if "@" not in str(value) else "this one"
        reader.wrong(key, f'an address such as "http://127.0.0.1:8000/v1", not {shown}')
    if value.rstrip("/").endswith("/completions"):
        reader.wrong(key, "the address of the API, often .../v1, without what is asked there")
    return value


def _is_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        named = bool(parts.hostname) and parts.port != 0  # raises for what is no port
    except ValueError:
        return False
    return named and re.fullmatch(r"https?://[^\s/]+\S*", value) is not None


def _variable(reader: _Reader, key: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w*", value):
        reader.wrong(
            key,
            f'the name of an environment variable, such as "OPENAI_API_KEY", not {_hidden(value)}',
        )
    return value


def _hidden(value: Any) -> str:
    """A value that may be a key by mistake is not repeated in an error."""
    return f"{len(value)} characters that are none" if isinstance(value, str) else repr(value)


def _path(reader: _Reader, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        reader.wrong(key, f"a path, not {value!r}")
    return str(Path(value).expanduser())


def _paths(reader: _Reader, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        reader.wrong(key, f'a list of absolute paths, such as ["~/.cache/pip"], not {value!r}')
    made = tuple(_path(reader, key, one) for one in value)
    for path in made:
        if not path.startswith("/") or path.rstrip("/") == "":
            reader.wrong(key, f"absolute paths below the root folder, not {path!r}")
    return made


def _model(reader: _Reader, key: str, value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"(replay|scripted)/\S.*", value):
        return value
    if not isinstance(value, str) or not re.fullmatch(r"[^\s/]+(/[^\s/]+)*", value):
        reader.wrong(key, f'a model such as "openai/gpt-5-mini" or "{OFFLINE}", not {value!r}')
    if value.startswith("offline/") and value != OFFLINE:
        reader.wrong(key, f'"{OFFLINE}" (the only offline model), not {value!r}')
    return value


def _roles(reader: _Reader, key: str, value: Any) -> dict[str, str]:
    table = reader.table(key, value)
    return {role: _model(reader, f"{key}.{role}", model) for role, model in table.items()}


def _fallback(reader: _Reader, key: str, value: Any) -> dict[str, tuple[str, ...]]:
    made = {}
    for model, chain in reader.table(key, value).items():
        if not isinstance(chain, list):
            reader.wrong(f"{key}.{model}", f"a list of models, not {chain!r}")
        made[model] = tuple(_model(reader, f"{key}.{model}", one) for one in chain)
    return made


def _clocks(reader: _Reader, key: str, value: Any) -> Clocks:
    return Clocks(**reader.fields(key, reader.table(key, value), _CLOCKS))


def _command(reader: _Reader, key: str, value: Any) -> tuple[str, ...]:
    good = isinstance(value, list) and value and all(isinstance(one, str) for one in value)
    if not good or not value[0]:
        reader.wrong(key, 'a command and its arguments, such as ["pass", "show", "openai"]')
    return tuple(value)


def _credential(reader: _Reader, key: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[^\s/]{1,200}", value) or value in "..":
        reader.wrong(key, 'the name of a credential of systemd (LoadCredential=), such as "openai"')
    return value


def _hosts(reader: _Reader, key: str, value: Any) -> tuple[str, ...]:
    good = isinstance(value, list) and all(
        isinstance(one, str) and re.fullmatch(r"[^\s/@]+", one) for one in value
    )
    if not good:
        reader.wrong(key, f'hosts such as ["127.0.0.1:8000", "wiki.internal"], not {value!r}')
    return tuple(one.lower() for one in value)


def _rules(verdict: rules.Verdict) -> Check:
    def check(reader: _Reader, key: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            reader.wrong(key, f'a list of rules, such as ["shell(pytest *)"], not {value!r}')
        for one in value:
            try:
                rules.parse(verdict, one)
            except rules.RuleError as error:
                reader.wrong(key, str(error))
        return tuple(value)

    return check


def _rung(reader: _Reader, key: str, value: Any) -> tuple[int, float]:
    right = "[failures, seconds], such as [3, 60]"
    if not isinstance(value, list) or len(value) != 2:
        reader.wrong(key, f"{right}, not {value!r}")
    count, period = value
    good = isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= 1000
    if not good or isinstance(period, bool) or not isinstance(period, int | float):
        reader.wrong(key, f"{right}, not {value!r}")
    return count, _number(0.001, 1e6, "a time in seconds")(reader, key, period)


_CLOCKS: Mapping[str, Check] = {
    "connect_s": _number(0.01, 1e5, "a time in seconds"),
    "first_byte_s": _number(0.01, 1e5, "a time in seconds"),
    "between_s": _number(0.01, 1e5, "a time in seconds"),
    "total_s": _number(0.01, 1e5, "a time in seconds"),
}
_KEY_SOURCES = ("api_key_env", "api_key_file", "api_key_command", "api_key_credential")
_PROVIDER: Mapping[str, Check] = {
    "api_base": _url,
    "api_key_env": _variable,
    "api_key_file": _path,
    "stream": _flag,
    "cache": _flag,
    "concurrency": _count(1, 10_000),
    "requests_per_minute": _count(1, 10**9),
    "tokens_per_minute": _count(1, 10**12),
    "api_key_command": _command,
    "api_key_credential": _credential,
    **_CLOCKS,
}
_FIELDS: Mapping[str, Mapping[str, Check]] = {
    "models": {
        "default": _model,
        "fast": _model,
        "roles": _roles,
        "fallback": _fallback,
        "attempts": _count(1, 100),
        "patience_s": _number(0, 1e5, "a time in seconds"),
        "clocks": _clocks,
        "gateways": _count(0, MOST_GATEWAYS),
    },
    "budget": {
        "day_usd": _number(0, 1e6, "an amount in US dollars"),
        "session_usd": _number(0, 1e6, "an amount in US dollars"),
        "task_usd": _number(0, 1e6, "an amount in US dollars"),
        "agent_usd": _number(0, 1e6, "an amount in US dollars"),
        "output_tokens": _count(256, 10**7),
    },
    "limits": {
        "iterations": _count(1, 100_000),
        "tokens": _count(1, 10**12),
        "wall_s": _number(0.1, 1e7, "a time in seconds"),
        "repeats": _count(1, 1000),
        "view_tokens": _count(500, 10**8),
        "call_s": _number(0.1, 1e6, "a time in seconds"),
        "session_calls": _count(1, 1000),
        "daemon_calls": _count(1, 1000),
        "jobs": _count(1, 1000),
        "import_s": _number(0.1, 600, "a time in seconds"),
        "memory_mb": _count(16, 1 << 24),
        "processes": _count(2, 1 << 20),
        "file_mb": _count(1, 1 << 24),
        "cpu_s": _number(1, 1e7, "a time in seconds"),
    },
    "permissions": {
        "mode": _choice("never", "on-request", "always"),
        "sandbox": _choice("read-only", "workspace", "full"),
        "sandbox_backend": _choice("auto", "bubblewrap", "landlock"),
        "sandbox_read": _paths,
        "sandbox_write": _paths,
        "network": _flag,
        "allow": _rules("allow"),
        "ask": _rules("ask"),
        "deny": _rules("deny"),
        "answer_s": _number(1, 1e7, "a time in seconds"),
        "detached_answer_s": _number(1, 1e8, "a time in seconds"),
    },
    "review": {"required": _flag},
    "tools": {"web_fetch": _flag, "web_private": _hosts},
    "supervision": {
        "intensity": _count(0, 10_000),
        "period_s": _number(0.001, 1e6, "a time in seconds"),
        "heartbeat_s": _number(0.05, 3600, "a time in seconds"),
        "poison_crashes": _count(1, 100),
        "memory_mb": _count(0, 1 << 20),
        "cgroups": _choice("auto", "off"),
    },
    "recovery": {
        "restart": _rung,
        "parameters": _rung,
        "conversation": _rung,
        "model": _model,
        "temperature": _number(0, 2, "a temperature"),
        "view": _number(0.05, 1, "a share of the view"),
    },
}
_TABLES: Mapping[str, Any] = {**_FIELDS, "providers": None}
_KEYS: Mapping[str, Any] = {**_TABLES, "supervisor": None}
