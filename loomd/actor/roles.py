"""Roles: how they are written, and which one an agent has. Pure.

A role is Markdown with TOML front matter:

    +++
    name = "coder"
    description = "changes code"
    tools = ["read", "edit"]     # or "all"
    model = ""                   # "": the session's, else the configuration's
    temperature = 0.2            # left out: the provider's default
    +++
    You are the coder of a team of coding agents. ...

Those in force are rows of table `config`, one per place that roles come from: the user's folder,
and each repo's. A row is {generation, files: {name: {role, text, generation}}, errors: {name:
why}}: what was last good of each file, and what is wrong with the files that are not.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from loomd.store.schema import text_key
from loomd.wire.errors import LoomError

ROLE_LIMIT: Final = 48_000
"""Bytes. A longer role is refused."""

USER: Final = "user"
"""Where the roles beside config.toml come from; a repo's come from its path."""

_KEYS: Final = {"name", "description", "tools", "model", "temperature"}


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """`tools` None: all of the session's. `model` "": the session's or the configured one."""

    name: str
    prompt: str
    description: str = ""
    tools: tuple[str, ...] | None = None
    model: str = ""
    temperature: float | None = None


def first_line(role: str) -> str:
    """What every role's prompt begins with."""
    return f"You are the {role} of a team of coding agents."


def parse_role(text: str, name: str, source: str = "") -> Role:
    """The role written in `text`; `name` (of its file) is used where the text gives none.

    Raises LoomError `config` naming `source` and the key that is wrong.
    """
    where = source or f"role {name}"
    if len(text.encode()) > ROLE_LIMIT:
        size = len(text.encode())
        raise LoomError(
            "config",
            f"{where}: {size} bytes are too many for a role",
            f"at most {ROLE_LIMIT}: every model request carries it",
        )
    head: dict[str, Any] = {}
    body = text
    lines = text.split("\n")
    if lines[0].strip() == "+++":
        end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "+++"), None)
        if end is None:
            raise LoomError("config", f"{where}: the front matter has no end", "close it with +++")
        try:
            head = tomllib.loads("\n".join(lines[1:end]))
        except tomllib.TOMLDecodeError as error:
            raise LoomError("config", f"{where}: {error}", "the front matter is TOML") from None
        body = "\n".join(lines[end + 1 :])
    unknown = sorted(set(head) - _KEYS)
    if unknown:
        known = ", ".join(sorted(_KEYS))
        raise LoomError("config", f"{where}: unknown key {unknown[0]!r}", f"known: {known}")
    tools = head.pop("tools", "all")
    try:
        role = msgspec.convert(
            {"name": name, **head, "tools": None if tools == "all" else tools, "prompt": body},
            Role,
        )
    except msgspec.ValidationError as error:
        raise LoomError(
            "config", f"{where}: {error}", 'tools is "all" or a list of names; temperature a number'
        ) from None
    prompt = role.prompt.strip()
    if not prompt.startswith(first_line(role.name)):
        prompt = f"{first_line(role.name)}\n{prompt}".strip()
    return msgspec.structs.replace(role, prompt=prompt)


def role_of(roles: Mapping[str, Role], name: str) -> Role:
    """The role `name`; for one that nobody wrote down a plain one with all tools."""
    known = roles.get(name)
    if known is not None:
        return known
    return Role(
        name=name or "agent",
        prompt=f"{first_line(name or 'agent')}\nDo the task you are given with the tools you have, "
        "then answer with what you did.",
    )


# --- those in force ------------------------------------------------------------------------------


def row_key(place: str) -> bytes:
    """Of a row in table `config`; `place`: USER or the path of a repo."""
    if place != USER:
        place = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
    return text_key("roles", place)


def merged(
    row: Mapping[str, Any] | None, found: Mapping[str, str], broken: Mapping[str, str]
) -> dict[str, Any]:
    """The next row of a place whose folder now holds `found`: name -> text. `broken`: files that
    cannot be read -> why. One that is no role keeps what it was before; the generation moves on if
    the text of any changes."""
    before = dict((row or {}).get("files") or {})
    number = int((row or {}).get("generation") or 0)
    errors = dict(broken)
    files: dict[str, Any] = {name: before[name] for name in broken if name in before}
    for name, text in found.items():
        try:
            role = parse_role(text, name).name
        except LoomError as error:
            errors[name] = error.message.removeprefix(f"role {name}: ")
            if name in before:
                files[name] = before[name]
            continue
        old = before.get(name)
        new = old is None or old["text"] != text
        files[name] = {"role": role, "text": text, "generation": number + 1} if new else old
    changed = files != before
    return {"generation": number + changed, "files": files, "errors": errors}


class Written(NamedTuple):
    """A role as somebody wrote it. file: its name without `.md`; place: as in `row_key`."""

    file: str
    text: str
    place: str
    generation: int


def in_force(rows: Iterable[tuple[str, Mapping[str, Any] | None]]) -> dict[str, Written]:
    """Role -> what is written of it, in (place, row) pairs of which a later one wins."""
    found: dict[str, Written] = {}
    for place, row in rows:
        for name, file in ((row or {}).get("files") or {}).items():
            found[file["role"]] = Written(name, file["text"], place, int(file["generation"]))
    return found


def parsed(written: Mapping[str, Written]) -> dict[str, Role]:
    """The same as roles."""
    return {name: parse_role(one.text, one.file) for name, one in written.items()}
