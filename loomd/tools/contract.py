"""What a tool file is written with: `tool`, `Context`, `Result`, `Proposal`, `ToolError`. Pure.

A tool is a function with annotated parameters and a docstring. Its schema is derived from them: the
docstring's first paragraph is the description, lines `name: text` under `Args:` describe the
parameters, and a parameter annotated `Context` is not shown to the model. A tool may use these
types: str, int, float, bool, list[T], dict[str, T], Literal[...], Any, and `T | None`.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, overload

from loomd.tools.barred import Barred
from loomd.wire.errors import LoomError

Access = Literal["read", "write", "execute", "network"]
ACCESSES: Final[tuple[str, ...]] = ("read", "write", "execute", "network")
"""What a call needs, from harmless to far-reaching; permissions and the sandbox go by it."""

MARK: Final = "__loom_tool__"
NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")


class ContractError(LoomError):
    """A tool function that cannot be one; the message names the function and what is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_request", message)


class ToolError(Exception):
    """Ends a call with a typed error that the model reads. `code`: one of ToolResult's errors."""

    def __init__(self, text: str, code: str = "failed") -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class State(MutableMapping[str, Any]):
    """`ctx.state`: a dict that belongs to (session, tool), is fetched and locked at first touch
    until the call ends, and is committed with the result if the call succeeds. Plain data."""

    def __init__(self, fetch: Callable[[], dict[str, Any]] | None = None) -> None:
        self._fetch = fetch
        self._value: dict[str, Any] | None = None

    @property
    def touched(self) -> bool:
        return self._value is not None

    def value(self) -> dict[str, Any]:
        if self._value is None:
            self._value = self._fetch() if self._fetch else {}
        return self._value

    def __getitem__(self, key: str) -> Any:
        return self.value()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.value()[key] = value

    def __delitem__(self, key: str) -> None:
        del self.value()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.value())

    def __len__(self) -> int:
        return len(self.value())

    def __repr__(self) -> str:
        return f"State({self._value if self.touched else '...'})"


def _unseen(path: str) -> Sequence[str] | None:
    return None


@dataclass(frozen=True)
class Context:
    """What a call knows. repo: the checkout; session, agent: who calls; call: the id of the call;
    env: the environment of the session's opener, for programs that are started; scratch: a folder
    of the call's own, gone when it ends; seen: SHA-256 of the contents of a file that the agent
    knows, None if it has never read it; progress(text): says it to whoever looks on, may be lost.

    For built-in tools alone: channel, where a job is spoken to; kept, what stays of a command for
    the agent's next one (loomd.tools.shellenv); barred, what they may not tell of the checkout.
    """

    repo: Path
    session: str = ""
    agent: str = ""
    call: str = ""
    state: MutableMapping[str, Any] = field(default_factory=State)
    env: Mapping[str, str] = field(default_factory=dict)
    scratch: Path = Path("/nonexistent")
    limits: Mapping[str, Any] = field(default_factory=dict)
    review: bool = False
    seen: Callable[[str], Sequence[str] | None] = _unseen
    progress: Callable[..., None] = lambda text, offset=0: None
    channel: Any = None
    kept: MutableMapping[str, Any] = field(default_factory=dict)
    barred: Barred = field(default_factory=Barred)


@dataclass(frozen=True)
class Result:
    """A tool may return this instead of a str. output: bytes of a whole output that `text` only
    shows in part; they are kept as a blob named in the result's data."""

    text: str
    ok: bool = True
    error: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    output: bytes = b""


@dataclass(frozen=True)
class NewFile:
    """One file of a proposal: whole contents, None = no file. `path` is relative to the repo."""

    path: str
    base: bytes | None
    after: bytes | None
    mode: int = 0o644


@dataclass(frozen=True)
class Proposal:
    """What a tool wants the checkout to become. It writes nothing: the team's gate decides.
    review: another agent is to judge it, also where the policy needs none."""

    files: tuple[NewFile, ...]
    reason: str = ""
    note: str = ""
    output: bytes = b""
    review: bool = False


@dataclass(frozen=True)
class Parameter:
    name: str
    type: Any
    required: bool
    default: Any = None


@dataclass(frozen=True)
class ToolSpec:
    """A checked tool. `context`: the name of its Context parameter, "" if it has none;
    `socket_timeout_s`: what its module has set for new sockets, in force for its own calls."""

    name: str
    description: str
    access: Access
    exclusive: bool
    parameters: tuple[Parameter, ...]
    schema: dict[str, Any]
    context: str
    function: Callable[..., Any]
    socket_timeout_s: float | None = None

    def row(self, source: str) -> dict[str, Any]:
        """The tool as it stands in a toolset row."""
        return {
            "name": self.name,
            "description": self.description,
            "parameters": self.schema,
            "access": self.access,
            "exclusive": self.exclusive,
            "source": source,
        }


F = TypeVar("F", bound=Callable[..., Any])


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *, access: Access = "read", exclusive: bool = False, name: str = ""
) -> Callable[[F], F]: ...
def tool(
    function: F | None = None,
    /,
    *,
    access: Access = "read",
    exclusive: bool = False,
    name: str = "",
) -> F | Callable[[F], F]:
    """Makes a function a tool. exclusive: calls of it run one at a time in a session.

    ContractError at once if the function cannot be a tool.
    """

    def mark(function: F) -> F:
        setattr(function, MARK, (access, exclusive, name))
        if access not in ACCESSES:
            raise ContractError(
                f"{function.__name__}: access is {access!r}; it must be one of "
                f"{', '.join(ACCESSES)}"
            )
        return function

    return mark if function is None else mark(function)


def tools_of(namespace: Mapping[str, Any], module: str) -> list[ToolSpec]:
    """The tools that a module defines, in order; imported ones are not its own. ContractError."""
    found = []
    for value in namespace.values():
        if callable(value) and hasattr(value, MARK) and value.__module__ == module:
            found.append(describe(value))
    return found


def describe(function: Callable[..., Any]) -> ToolSpec:
    """The spec of a marked function. ContractError."""
    access, exclusive, name = getattr(function, MARK)
    name = name or function.__name__
    if not NAME.fullmatch(name):
        raise ContractError(f"{name!r} is no name for a tool: letters, digits and _, at most 64")
    if inspect.iscoroutinefunction(function):
        raise ContractError(f"{name}: a tool is a plain function, not `async def`")
    text = inspect.getdoc(function) or ""
    if not text.strip():
        raise ContractError(f"{name}: has no docstring; the model reads it to know the tool")
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError) as error:
        raise ContractError(f"{name}: its annotations cannot be read: {error}") from None
    description, described = _docs(text)
    parameters = []
    properties: dict[str, Any] = {}
    context = ""
    for one in inspect.signature(function).parameters.values():
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY):
            raise ContractError(f"{name}: parameter `{one.name}` must have a plain name")
        if one.name not in hints:
            raise ContractError(f"{name}: parameter `{one.name}` has no annotation")
        kind = hints[one.name]
        if kind is Context:
            context = one.name
            continue
        required = one.default is one.empty
        schema = _schema(kind, f"{name}: parameter `{one.name}`")
        if one.name in described:
            schema = {**schema, "description": described[one.name]}
        default = None if required else one.default
        if not required and default is not None and isinstance(default, str | int | float | bool):
            schema = {**schema, "default": default}
        properties[one.name] = schema
        parameters.append(Parameter(one.name, kind, required, default))
    shape: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": [one.name for one in parameters if one.required],
        "additionalProperties": False,
    }
    return ToolSpec(
        name, description, access, exclusive, tuple(parameters), shape, context, function
    )


def _docs(text: str) -> tuple[str, dict[str, str]]:
    """Description, and what stands under `Args:` per parameter."""
    head, found, tail = text.partition("\nArgs:\n")
    described: dict[str, str] = {}
    if found:
        last = ""
        for line in tail.split("\n"):
            match = re.match(r"\s+(\w+):\s*(.*)", line)
            if match:
                last = match[1]
                described[last] = match[2].strip()
            elif line.strip() and line[:1].isspace() and last:
                described[last] += " " + line.strip()
            elif line.strip():
                break
    return head.strip(), described


_PLAIN: Final[dict[Any, str]] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _schema(kind: Any, where: str) -> dict[str, Any]:
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if kind is Any:
        return {}
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        types_ = {type(value) for value in args}
        if len(types_) == 1 and (plain := _PLAIN.get(types_.pop())):
            return {"type": plain, "enum": list(args)}
    elif kind is list or origin is list:
        return {"type": "array", "items": _schema(args[0], where) if args else {}}
    elif kind is dict or origin is dict:
        return {"type": "object"}
    elif origin in (Union, types.UnionType):
        rest = [one for one in args if one is not type(None)]
        if len(rest) == 1:
            return _schema(rest[0], where)
        return {"anyOf": [_schema(one, where) for one in rest]}
    raise ContractError(
        f"{where} is of type {kind!r}; a model can give str, int, float, bool, list, dict, Literal"
    )


# --- the arguments of a call ---------------------------------------------------------------------


def check_arguments(spec: ToolSpec, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the function takes them. ToolError(bad_args) naming all that is wrong."""
    known = {one.name: one for one in spec.parameters}
    wrong = [f"`{name}` is unknown" for name in args if name not in known]
    given: dict[str, Any] = {}
    for one in spec.parameters:
        if one.name not in args or (args[one.name] is None and not one.required):
            if one.required:
                wrong.append(f"`{one.name}` is missing")
            continue
        try:
            given[one.name] = _fit(one.type, args[one.name])
        except ValueError as error:
            wrong.append(f"`{one.name}` {error}")
    if wrong:
        raise ToolError(f"{'; '.join(wrong)}. Usage: {usage(spec)}", "bad_args")
    return given


def usage(spec: ToolSpec) -> str:
    """`name(first: string, second: integer = 1)`."""
    shown = []
    for one in spec.parameters:
        kind = spec.schema["properties"][one.name].get("type", "any")
        shown.append(f"{one.name}: {kind}" + ("" if one.required else f" = {one.default!r}"))
    return f"{spec.name}({', '.join(shown)})"


def _fit(kind: Any, value: Any) -> Any:
    """`value` as `kind`; harmless slips of models (a number as a string) are mended."""
    if kind is Any:
        return value
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is str:
        if isinstance(value, str):
            return value
    elif kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value.strip()):
            return int(value)
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value.strip()):
            return float(value)
    elif origin is Literal:
        if value in args:
            return value
        raise ValueError(f"must be one of {', '.join(map(repr, args))}, not {_shown(value)}")
    elif kind is list or origin is list:
        if isinstance(value, list | tuple):
            return [_fit(args[0], one) if args else one for one in value]
    elif kind is dict or origin is dict:
        if isinstance(value, Mapping):
            return dict(value)
    elif origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        for one in args:
            if one is type(None):
                continue
            try:
                return _fit(one, value)
            except ValueError:
                continue
    raise ValueError(f"must be {_said(kind)}, not {_shown(value)}")


def _said(kind: Any) -> str:
    schema = _schema(kind, "")
    return str(schema.get("type") or "of another type")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
