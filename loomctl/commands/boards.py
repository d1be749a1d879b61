"""The team's boards, the keepers, and what a session changed."""

from __future__ import annotations

from typing import Any

import click

from loomctl import render
from loomctl.client import Client
from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError


def _board(verb: str, table: str, columns: tuple[str, ...], text: str) -> click.Command:
    @click.command(verb, help=text)
    @click.argument("session")
    @pass_context
    def board(context: Context, session: str) -> None:
        with context.client() as client:
            rows = client.request("board", session=session, table=table)
        context.rows(rows, columns, f"no {verb}", session)

    return board


BOARDS = [
    _board("tasks", "tasks", ("id", "state", "owner", "title", "created", "ended"), "The tasks."),
    _board(
        "claims", "claims", ("id", "state", "path", "region", "agent", "task"), "Claims on regions."
    ),
    _board(
        "edits",
        "edits",
        ("id", "state", "author", "reviewer", "tool", "reason", "created"),
        "Proposed edits and their fate.",
    ),
    _board(
        "graph",
        "decisions",
        ("id", "type", "title", "actor", "from", "to"),
        "The decision graph of the session's project.",
    ),
    _board(
        "keepers",
        "keepers",
        ("id", "log", "first", "last", "entries", "bytes", "title"),
        "Keepers and what they hold.",
    ),
]


def _exact(client: Client, session: str, span: str, keepers: list[dict[str, Any]]) -> Any:
    """`KEEPER:FROM-TO` or `KEEPER:N`."""
    keeper, colon, numbers = span.rpartition(":")
    first, _, last = numbers.partition("-")
    if not colon or not first.isdigit() or not (last or first).isdigit():
        raise LoomError("usage", f"{span!r} is not KEEPER:FROM-TO", "for example keeper-1:3-7")
    name = keeper if "/" in keeper else f"{session}/{keeper}"
    known = {str(one["id"]) for one in keepers}
    if name not in known and name.partition("/")[2] not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise LoomError("not_found", f"{session} has no keeper {keeper}", f"it has: {listed}")
    body = {"t": "recall", "mode": "exact", "first": int(first), "last": int(last or first)}
    return client.request("ask", actor=name, body=body)


@click.command()
@click.argument("session")
@click.argument("query", required=False, default="")
@click.option("--exact", default="", metavar="KEEPER:FROM-TO", help="Entries, byte for byte.")
@click.option("--ask", "as_ask", is_flag=True, help="A sentence rather than a list.")
@pass_context
def recall(context: Context, session: str, query: str, exact: str, as_ask: bool) -> None:
    """Ask the keepers of a session what was said."""
    if not exact and not query.strip():
        raise LoomError("usage", "recall needs a QUERY or --exact KEEPER:FROM-TO")
    mode = "exact" if exact else "ask" if as_ask else "search"
    hits: list[dict[str, Any]] = []
    answers: list[str] = []
    with context.client() as client:
        keepers = client.request("board", session=session, table="keepers")
        if exact:
            replies = [_exact(client, session, exact, keepers)]
        else:
            replies = []
            for one in keepers:
                name = str(one["id"])
                replies.append(
                    client.request(
                        "ask",
                        actor=name if "/" in name else f"{session}/{name}",
                        body={"t": "recall", "mode": mode, "query": query, "limit": 10},
                    )
                )
    for reply in replies:
        if reply.get("error"):
            raise LoomError("not_found", str(reply["error"]), "see: loomctl keepers " + session)
        hits += reply.get("hits") or []
        if reply.get("answer"):
            answers.append(str(reply["answer"]))
    for hit in hits:
        hit.pop("t", None)
        raw = hit.pop("raw", b"")
        if isinstance(raw, bytes) and raw:
            hit["raw_hex"] = raw.hex()  # the stored bytes themselves
        hit.setdefault("score", 0.0)
        hit.setdefault("text", "")
    if mode != "exact":
        hits.sort(key=lambda hit: -float(hit["score"]))
        hits = hits[:10]
    value = {"mode": mode, "hits": hits, "answer": "\n".join(answers)}

    def human() -> None:
        if value["answer"]:
            context.out.print(render.plain(value["answer"]))
        for hit in hits:
            context.out.print(f"{hit['keeper']}:{hit['entry']}", style="bold", end="  ")
            said = render.plain(hit["text"]) if exact else render.short(hit["text"], 200)
            context.out.print(said)
        if not hits and not answers:
            context.out.print("nothing found", style="dim")

    context.show(value, human)


@click.command()
@click.argument("session")
@click.option("--edit", default="", metavar="ID", help="Only what this edit changed, or would.")
@pass_context
def diff(context: Context, session: str, edit: str) -> None:
    """What a session has changed, as one unified diff."""
    with context.client() as client:
        changes = client.request("diff", session=session, edit=edit)
    context.show(changes, lambda: render.diff(context.out, str(changes["diff"])))
