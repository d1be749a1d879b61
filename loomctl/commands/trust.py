"""`trust`: a project may loosen what holds once the user has seen what it says of itself."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from loomctl import render
from loomctl.commands.jobs import checkout
from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path())
@click.option("--revoke", is_flag=True, help="Trust it no longer.")
@click.option(
    "--any", "whatever", is_flag=True, help="Whatever becomes of it: for a repo of yours."
)
@click.option("--status", is_flag=True, help="Only say whether it is trusted.")
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal.")
@pass_context
def trust(
    context: Context, folder: Path, revoke: bool, whatever: bool, status: bool, yes: bool
) -> None:
    """Trust what DIR says of itself in .loom/: its rules, tools and roles.

    Trust is for exactly these files: when one of them changes, it ends; with --any it does not.
    """
    repo = str(checkout(folder))
    with context.client() as client:
        found = client.request("project", repo=repo)
        if not status and not revoke:
            if not found["hash"] and not whatever:
                why = found["why_not"] or "there is nothing in .loom/"
                raise LoomError("bad_state", f"{repo} cannot be trusted: {why}")
            if not context.json:
                context.out.print(render.table(found["files"], ("path", "size"), ""))
                if sys.stdin.isatty() and not yes and not found["trusted"]:
                    click.confirm(f"trust these files of {repo}?", abort=True, err=True)
        if not status:
            wanted = "" if revoke else "*" if whatever else found["hash"]
            client.request("trust", repo=repo, hash=wanted)
            found |= {"trusted": bool(wanted), "changed": False}
    if found["trusted"]:
        said = f"{repo} is trusted; sessions that are opened now go by it"
    elif found["changed"]:
        said = f"{repo} was trusted, and has changed since: look, then trust it again"
    else:
        said = f"{repo} is not trusted"
    context.show(found, said)
