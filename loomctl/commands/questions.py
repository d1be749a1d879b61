"""What sessions wait for, and the answers. The first client to answer wins."""

from __future__ import annotations

import click

from loomctl.context import Context, pass_context


@click.command()
@click.argument("session", required=False, default="")
@pass_context
def waiting(context: Context, session: str) -> None:
    """Everything that waits for a person."""
    with context.client() as client:
        rows = client.request("waiting", session=session)
    context.rows(rows, ("id", "kind", "session", "agent", "tool", "text"), "nothing waits")


def _decide(context: Context, id: str, *, allow: bool, scope: str = "once", text: str = "") -> None:
    with context.client() as client:
        result = client.request(
            "decide", id=id, allow=allow, scope=scope, text=text, by=f"loomctl {client.id}"
        )
    context.show(result, f"{id}: {result.get('decision')}")


@click.command()
@click.argument("id")
@click.option("--for", "scope", type=click.Choice(["once", "session", "always"]), default="once")
@pass_context
def approve(context: Context, id: str, scope: str) -> None:
    """Allow what a session asks for."""
    _decide(context, id, allow=True, scope=scope)


@click.command()
@click.argument("id")
@click.option("--reason", default="", help="Told to the agent.")
@pass_context
def deny(context: Context, id: str, reason: str) -> None:
    """Refuse what a session asks for."""
    _decide(context, id, allow=False, text=reason)


@click.command()
@click.argument("id")
@click.argument("text")
@pass_context
def answer(context: Context, id: str, text: str) -> None:
    """Answer an agent's question."""
    _decide(context, id, allow=True, text=text)
