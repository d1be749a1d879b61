"""Roles in force: read from disk, kept in table `config`, told to the agents that have them.

Whoever is born takes its role from the table; who runs is told by mail in the same transaction,
and has it at its next turn. A file that is no role changes nothing and is an event of every session
that it concerns: its author sees it wherever they look.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loomd import plainfile
from loomd.actor import roles as rl
from loomd.hub.rules import HUB, OVER
from loomd.hub.toolsets import sessions_at_work, watched
from loomd.trust import trusted
from loomd.wire import codec
from loomd.wire.bodies import RoleChanged
from loomd.wire.endpoints import Instance
from loomd.wire.errors import LoomError
from loomd.wire.messages import CONTROL

if TYPE_CHECKING:
    from loomd.hub.mail import Batch
    from loomd.hub.process import Hub
    from loomd.hub.rules import Result

Done = Callable[[Any], None]

MAX_ROLES: Final = 200
"""Files of one folder."""

SHIPPED: Final = Path(__file__).parents[1] / "agent" / "roles"
"""Agents read these by themselves; here they are only listed."""

FOLDERS: Final = {True: ("user", "roles"), False: ("repo", ".loom/roles")}
"""Are they the user's? -> (source, folder as its author names it)."""


def reload_roles(hub: Hub, done: Done, repos: Iterable[str] | None = None) -> None:
    """Reads the user's roles and those of `repos` (None: of all sessions that are not over) anew.

    Answers {generation, loaded, changed, errors}: names of roles; a file that is none leaves the
    role as it was.
    """
    if repos is None:
        repos = {row.repo for row in sessions_at_work(hub)}.union(watched(hub))
    found = look(hub.places, repos)
    with hub.store.reading() as txn:
        before, after = _rows(txn, found)
    if before == after:
        done(_answer(after, set()))
        return
    said: dict[str, Any] = {}

    def then(result: Result) -> None:
        hub.follow(result)
        done(said)

    def apply(batch: Batch) -> Result:
        result = batch.begin()
        said.clear()
        said.update(take(batch, found))
        return result

    hub.submit(apply, then, "roles", lambda code, detail: done(LoomError(code, detail)))


Found = dict[str, tuple[dict[str, str], dict[str, str]]]
"""Place -> what `read_roles` has found there."""


def look(places: Instance, repos: Iterable[str]) -> Found:
    """What lies in the user's folder and in those of repos that are trusted."""
    found = {rl.USER: read_roles(places.config.parent / "roles")}
    for repo in repos:
        mine = trusted(places, Path(repo))
        found[repo] = read_roles(Path(repo, ".loom", "roles")) if mine else ({}, {})
    return found


def _rows(txn: Any, found: Found) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of these places, as they are and as they shall be."""
    before, after = {}, {}
    for place, (texts, broken) in found.items():
        raw = txn.get("config", rl.row_key(place))
        before[place] = NO_ROW if raw is None else codec.unpack(raw)
        after[place] = rl.merged(before[place], texts, broken)
    return before, after


NO_ROW: Final[dict[str, Any]] = {"generation": 0, "files": {}, "errors": {}}


def take(batch: Batch, found: Found) -> dict[str, Any]:
    """Puts what was found in force; what `reload_roles` answers."""
    before, after = _rows(batch.txn, found)
    for place, row in after.items():
        if row != before[place]:
            batch.txn.put("config", rl.row_key(place), codec.pack(row))
    changed: set[str] = set()
    for session in sorted(batch.rules.sessions):
        row = batch.peek_session(session)
        if row is not None and row.repo and not row.removed:
            changed |= _tell_roles(batch, session, row.repo, before, after)
    return _answer(after, changed)


def _answer(rows: Mapping[str, Any], changed: set[str]) -> dict[str, Any]:
    return {
        "generation": max(int(row["generation"]) for row in rows.values()),
        "loaded": sorted({file["role"] for row in rows.values() for file in row["files"].values()}),
        "changed": sorted(changed),
        "errors": [error for place, row in rows.items() for error in _errors(place, row)],
    }


def _tell_roles(
    batch: Batch, session: str, repo: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> set[str]:
    """Tells the agents of a session whose role has changed, and its people; the changed roles."""
    places = (rl.USER, repo)
    if all(before.get(place) == after.get(place) for place in places):
        return set()
    session_row = batch.peek_session(session)
    over = session_row is None or session_row.state in OVER  # an agent may still be about to sleep
    old = rl.in_force([(place, before.get(place)) for place in places])
    new = rl.in_force([(place, after.get(place)) for place in places])
    changed = {
        role
        for role in old.keys() | new.keys()
        if (old[role].text if role in old else "") != (new[role].text if role in new else "")
    }
    generation = sum(int((after.get(place) or {}).get("generation") or 0) for place in places)
    for name in batch.members(session) if changed else ():
        row = batch.peek(name)
        if row is None or row.wanted != "running" or batch.known(name).kind != "agent":
            continue  # one that sleeps finds it when it wakes
        role = batch.rules.spec(name).role
        if role in changed:
            text, file = (new[role].text, new[role].file) if role in new else ("", "")
            body = codec.encode(RoleChanged(role=role, file=file, text=text))
            id = f"{HUB}/roles.{batch.rules.epoch}.{row.seq[CONTROL]}"
            batch.deliver(name, CONTROL, id, HUB, body)
    if changed and not over:
        data = {"generation": generation, "changed": sorted(changed)}
        batch.event(session, "roles_reloaded", HUB, data)
    for place in () if over else places:
        known = (before.get(place) or {}).get("errors") or {}
        for name, error in sorted(((after.get(place) or {}).get("errors") or {}).items()):
            if known.get(name) != error:
                batch.event(session, "role_broken", HUB, {"role": name, "error": error[:2000]})
    return changed


def read_roles(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """(name -> text, name -> why it cannot be read) of the files `*.md` in a folder."""
    texts: dict[str, str] = {}
    broken: dict[str, str] = {}
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if _is_role(entry.name))
    except OSError:
        return texts, broken  # there is none
    for name in names[:MAX_ROLES]:
        stem = name.removesuffix(".md")
        try:
            texts[stem] = _text(folder / name)
        except FileNotFoundError:
            continue  # an editor replaces it: there is another event to come
        except (OSError, ValueError) as error:
            broken[stem] = str(error)
    return texts, broken


def _is_role(name: str) -> bool:
    return name.endswith(".md") and not name.startswith(".")


def _text(path: Path) -> str:
    """Of a small plain file. OSError, ValueError."""
    with plainfile.opened(path) as (file, _):
        raw = file.read(rl.ROLE_LIMIT + 1)
    if len(raw) > rl.ROLE_LIMIT:
        size = path.stat().st_size
        raise ValueError(f"{size} bytes are too many for a role: at most {rl.ROLE_LIMIT}")
    return raw.decode()  # UnicodeDecodeError is a ValueError


def in_force(hub: Hub, session: str) -> dict[str, Any]:
    """{session, roles: [{name, source, file, generation, model, tools, description}], errors}: what
    ships, and what the user and, for a session, its repo have written."""
    places = [rl.USER]
    if session:
        places.append(hub.rules.sessions[session].repo)
    with hub.store.reading() as txn:
        raws = [(place, txn.get("config", rl.row_key(place))) for place in places]
    rows = [(place, None if raw is None else codec.unpack(raw)) for place, raw in raws]
    found = {}
    for path in sorted(SHIPPED.glob("*.md")):
        role = rl.parse_role(path.read_text(encoding="utf-8"), path.stem)
        found[role.name] = _shown(role, "builtin", "", hub.generation)
    for name, one in rl.in_force(rows).items():
        source, folder = FOLDERS[one.place == rl.USER]
        role = rl.parse_role(one.text, one.file)
        found[name] = _shown(role, source, f"{folder}/{one.file}.md", one.generation)
    return {
        "session": session,
        "roles": [found[name] for name in sorted(found)],
        "errors": [error for place, row in rows for error in _errors(place, row or {})],
    }


def _shown(role: rl.Role, source: str, file: str, generation: int) -> dict[str, Any]:
    return {
        "name": role.name,
        "source": source,
        "file": file,
        "generation": generation,
        "model": role.model,
        "tools": None if role.tools is None else list(role.tools),
        "description": role.description,
    }


def _errors(place: str, row: Mapping[str, Any]) -> list[dict[str, str]]:
    _, folder = FOLDERS[place == rl.USER]
    return [
        {"module": f"{folder}/{name}.md", "error": why}
        for name, why in sorted((row.get("errors") or {}).items())
    ]
