"""Hot code and a new configuration: reload."""

from __future__ import annotations

from typing import Any

import click

from loomctl import render
from loomctl.context import Context, pass_context
from loomd.wire.errors import EXIT_CODES

WHAT = ("tools", "config", "roles", "actors", "all")

RELOAD_S = 600.0
"""Actors finish what they have in hand before they move to new code."""


@click.command()
@click.argument("what", type=click.Choice(WHAT), default="tools")
@pass_context
def reload(context: Context, what: str) -> int:
    """A new generation of code, or the services of a changed configuration, dropping nothing.

    Exit 1 if the new code is refused, 8 if the configuration is: then nothing of it is in force.
    """
    with context.client() as client:
        result = client.request("reload", what=what, wait_s=RELOAD_S)

    def human() -> None:
        if what != "config":
            changed = ", ".join(result["changed"]) or "nothing changed"
            context.out.print(f"generation {result['generation']}: {changed}")
        elif not result["errors"]:
            context.out.print(_services(result) or "nothing changed")
        if needed := result.get("restart_needed"):
            said = f"not in force before loomctl daemon restart: {', '.join(needed)}"
            context.err.print(said, style="yellow")
        for error in result["errors"]:
            said = render.plain(f"{error['module']}: {error['error']}")
            context.err.print(said, style="red", soft_wrap=True)

    context.show(result, human)
    if any(error["module"] == "config" for error in result["errors"]):
        return EXIT_CODES["config"]
    return 1 if result["errors"] else 0


def _services(result: dict[str, Any]) -> str:
    """started a, b; stopped c; kept down ... d"""
    words = {
        "started": "started",
        "stopped": "stopped",
        "restarted": "restarted",
        "updated": "updated",
        "held": "kept down (terminated, or below what is; to start: loomctl child restart ID)",
    }
    return "; ".join(
        f"{said} {', '.join(result[key])}" for key, said in words.items() if result[key]
    )
