"""Hot code: reload."""

from __future__ import annotations

import click

from loomctl import render
from loomctl.context import Context, pass_context


@click.command()
@click.argument("what", type=click.Choice(["tools", "roles", "actors", "all"]), default="tools")
@pass_context
def reload(context: Context, what: str) -> int:
    """A new generation of code, without dropping anything. Exit 1 if the new code is refused."""
    with context.client() as client:
        result = client.request("reload", what=what)

    def human() -> None:
        changed = ", ".join(result["changed"]) or "nothing changed"
        context.out.print(f"generation {result['generation']}: {changed}")
        for error in result["errors"]:
            said = render.plain(f"{error['module']}: {error['error']}")
            context.err.print(said, style="red")

    context.show(result, human)
    return 1 if result["errors"] else 0
