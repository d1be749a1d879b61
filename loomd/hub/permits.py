"""Permission rules that answers have saved. Pure, over a `Batch`.

They are kept in the state, outside of every repo, and belong to a checkout; every tool host that is
at work on it hears of a change, and one that is born later reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loomd.hub.mail import Batch
from loomd.store.schema import name_key, project_of, text_key
from loomd.store.tables import Transaction
from loomd.wire import codec
from loomd.wire.bodies import Permits
from loomd.wire.errors import LoomError
from loomd.wire.messages import CONTROL


def saved(txn: Transaction, repo: str = "") -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Key and row {id, rule, repo, session, by, ts} of each saved rule; of all projects without
    `repo`."""
    for key, raw in txn.scan("permits", name_key(project_of(repo)) if repo else b""):
        yield key, codec.unpack(raw)


def save(batch: Batch, cause: str, session: str, rules: Sequence[str], by: str) -> None:
    """The rules of an answer for always; the same one is saved once."""
    row = batch.peek_session(session)
    repo = row.repo if row is not None else ""
    for rule in rules:
        digest = hashlib.sha256("\0".join((repo, rule)).encode("utf-8", "surrogateescape"))
        id = f"r-{digest.hexdigest()[:8]}"
        key = text_key(project_of(repo), id)
        if batch.txn.get("permits", key) is None:
            made = {"id": id, "rule": rule, "repo": repo, "session": session, "by": by}
            batch.txn.put("permits", key, codec.pack(made | {"ts": batch.now}))
    _tell(batch, cause, repo)


def forget(batch: Batch, cause: str, *, id: str) -> dict[str, Any]:
    """Takes a saved rule back: {id, rule, repo}."""
    found = [(key, row) for key, row in saved(batch.txn) if row["id"] == id]
    if not found:
        raise LoomError("not_found", f"no rule is saved under {id!r}", "loomctl permissions list")
    [(key, row)] = found
    batch.txn.delete("permits", key)
    _tell(batch, cause, row["repo"])
    return {"id": id, "rule": row["rule"], "repo": row["repo"]}


def _tell(batch: Batch, cause: str, repo: str) -> None:
    """All that is saved for a project, to the tool hosts that are at work on it."""
    rules = {row["id"]: row["rule"] for _, row in saved(batch.txn, repo)}
    body, id = codec.encode(Permits(rules=rules)), f"{cause}.permits"
    for name in {**batch.rules.sessions, **batch.sessions}:
        session = batch.peek_session(name)
        host = batch.peek(f"{name}/tools")
        if session is not None and session.repo == repo and host and host.wanted == "running":
            batch.deliver(f"{name}/tools", CONTROL, id, "user", body, cause, force=True)


def modes(own: Mapping[str, Any], project: Mapping[str, Any]) -> list[str]:
    """The user's mode and the project's: the stricter holds for each access. That of a trusted
    project stands alone."""
    mode = str(own.get("mode", "on-request"))
    other = (project.get("permissions") or {}).get("mode")
    if not other:
        return [mode]
    return [str(other)] if project.get("trusted") else [mode, str(other)]
