"""The decision graph of a project: nodes and edges, as rows. Pure.

It belongs to the project and outlives the session, so ids carry the session: two sessions on one
project never give the same id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

NODES: Final = ("goal", "decision", "option", "action", "outcome", "observation", "revisit")
EDGES: Final = ("leads_to", "chosen", "rejected", "requires", "blocks", "enables", "supersedes")
LINKS: Final = ("requires", "blocks", "enables", "supersedes")
"""Edges that the tool `decide` can draw to nodes that exist."""

TITLE_LIMIT: Final = 200
TEXT_LIMIT: Final = 4_000
MAX_OPTIONS: Final = 20

Row = dict[str, Any]


def project_of(repo: str, session: str) -> str:
    """What names a project in keys: the checkout's path, or its hash where that is too long for a
    key; a session without a checkout is its own project."""
    if not repo:
        return session
    return repo if len(repo.encode()) <= 300 else hashlib.sha256(repo.encode()).hexdigest()[:32]


class Graph:
    """Numbers what is added; `rows` collects what the step must put."""

    def __init__(self, session: str, count: int) -> None:
        self.session = session
        self.count = count

    def _row(self, kind: str, type: str, now: float, actor: str, **more: Any) -> Row:
        self.count += 1
        return {
            "id": f"d-{self.session}-{self.count}",
            "kind": kind,
            "type": type,
            "title": "",
            "text": "",
            "actor": actor,
            "from": "",
            "to": "",
            "session": self.session,
            "ts": now,
            **more,
        }

    def node(self, type: str, title: str, now: float, actor: str, text: str = "") -> Row:
        """A node; ValueError if `type` is none of NODES."""
        if type not in NODES:
            raise ValueError(f"{type!r} is none of {', '.join(NODES)}")
        return self._row(
            "node", type, now, actor, title=title[:TITLE_LIMIT], text=text[:TEXT_LIMIT]
        )

    def edge(self, type: str, source: str, target: str, now: float, actor: str) -> Row:
        """An edge; ValueError if `type` is none of EDGES."""
        if type not in EDGES:
            raise ValueError(f"{type!r} is none of {', '.join(EDGES)}")
        return self._row("edge", type, now, actor, **{"from": source, "to": target})

    def decision(
        self,
        kind: str,
        title: str,
        text: str,
        options: Sequence[str],
        chosen: str,
        now: float,
        actor: str,
        parent: str = "",
    ) -> list[Row]:
        """A node with its options, each joined by `chosen` or `rejected`; below `parent`."""
        node = self.node(kind, title, now, actor, text)
        rows = [node]
        if parent:
            rows.append(self.edge("leads_to", parent, node["id"], now, actor))
        named = [*dict.fromkeys(option for option in options if option)][:MAX_OPTIONS]
        if chosen and chosen not in named:
            named.append(chosen)
        for option in named:
            one = self.node("option", option, now, actor)
            type = "chosen" if option == chosen else "rejected" if chosen else "leads_to"
            rows += [one, self.edge(type, node["id"], one["id"], now, actor)]
        return rows
