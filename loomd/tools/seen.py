"""What an agent has read: per file the content that it saw last. Pure.

An edit of a file that has changed since is made only where its text still stands exactly once; a
whole new content is refused. What an agent has proposed itself it knows too. The rows lie beside
the states of tools, one for an agent and a file, so that no call waits for another's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from loomd.wire.bodies import Body, Propose, ToolCall, ToolResult

READS: Final = frozenset({"read"})
PROPOSES: Final = frozenset({"write", "edit", "apply_patch"})

PREFIX: Final = "seen:"
"""Of the rows' keys in table `tool_state`; no tool has such a name."""

OWN: Final = 8
"""Proposals of its own that an agent is known to know, of one file."""


def row_of(agent: str, path: str) -> str:
    """The part of the key, of fixed length whatever the path."""
    raw = f"{agent}\0{path}".encode("utf-8", "surrogateescape")
    return PREFIX + hashlib.sha256(raw).hexdigest()


def after_read(row: Mapping[str, Any] | None, hash: str) -> dict[str, Any]:
    """row: {hash: of what was read last, own: of what was proposed, oldest first}."""
    own = list((row or {}).get("own") or ())
    return {"hash": hash, "own": own[own.index(hash) + 1 :] if hash in own else own}


def after_proposal(row: Mapping[str, Any] | None, after: str) -> dict[str, Any]:
    own = [one for one in (row or {}).get("own") or () if one != after]
    return {"hash": (row or {}).get("hash", ""), "own": [*own, after][-OWN:]}


def known(row: Mapping[str, Any] | None) -> list[str] | None:
    """Hashes of the contents that the agent knows, None: it has never seen the file."""
    if not row:
        return None
    return [one for one in (row.get("hash"), *(row.get("own") or ())) if one]


def learned(
    rows: Mapping[str, Mapping[str, Any]], call: ToolCall, result: Body
) -> Iterable[tuple[str, dict[str, Any]]]:
    """(key, row) of what the agent of a call knows from its end on."""
    match result:
        case ToolResult(ok=True) if call.name in READS:
            path, hash = result.data.get("path"), result.data.get("hash")
            if isinstance(path, str) and isinstance(hash, str):
                key = row_of(call.agent, path)
                yield key, after_read(rows.get(key), hash)
        case Propose() if call.name in PROPOSES:
            for file in result.files:
                key = row_of(call.agent, file.path)
                yield key, after_proposal(rows.get(key), file.after)
