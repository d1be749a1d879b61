"""Which tools are in force in a session, and whose repos somebody works in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loomd.hub.rules import OVER
from loomd.store.schema import name_key, session_of
from loomd.store.tables import SessionRow
from loomd.wire import codec

if TYPE_CHECKING:
    from loomd.hub.process import Hub


def sessions_at_work(hub: Hub) -> list[SessionRow]:
    """Those that are not over and have a repo."""
    return [
        row
        for row in hub.rules.sessions.values()
        if not row.removed and row.state not in OVER and row.repo
    ]


def watched(hub: Hub) -> list[str]:
    """The repos whose tools and roles concern somebody who runs now."""
    found = set()
    for name in hub.peers.by_name:
        if hub.rules.known[name].kind in ("tools", "agent"):
            row = hub.rules.sessions.get(session_of(name))
            if row is not None and row.repo:
                found.add(row.repo)
    return sorted(found)


def toolset(hub: Hub, session: str) -> dict[str, Any]:
    """{session, generation, tools: [{name, source, file, generation, access, description}],
    errors} of a session; "": of the newest one that is not removed."""
    if not session:
        rows = [row for row in hub.rules.sessions.values() if not row.removed and row.repo]
        session = max(rows, key=lambda row: row.created).session if rows else ""
    with hub.store.reading() as txn:
        raw = txn.get("toolsets", name_key(session)) if session else None
    row = {} if raw is None else codec.unpack(raw)
    tools = []
    for tool in row.get("tools") or ():
        source, file = where(tool["source"])
        tools.append(
            {
                "name": tool["name"],
                "source": source,
                "file": file,
                "generation": hub.generation if source in SHIPPED else row["generation"],
                "access": tool["access"],
                "description": tool["description"],
                "parameters": tool["parameters"],
            }
        )
    return {
        "session": session,
        "generation": int(row.get("generation") or 0),
        "tools": tools,
        "errors": row.get("errors") or [],
    }


SHIPPED: Final = ("builtin", "team")


def where(source: str) -> tuple[str, str]:
    """(builtin | team | user | repo, file) of a source as it stands in a toolset row."""
    if source in SHIPPED:
        return source, ""
    return ("repo" if source.startswith(".loom/") else "user"), source
