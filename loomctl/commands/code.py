"""Hot code and a new configuration: reload; which tools and roles are in force."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from loomctl import render
from loomctl.context import Context, pass_context
from loomd.wire.errors import EXIT_CODES, LoomError

WHAT = ("tools", "roles", "models", "config", "actors", "all")

RELOAD_S = 600.0
"""Actors finish what they have in hand before they move to new code."""

TOOL_COLUMNS = ("name", "source", "file", "generation", "access", "description")
ROLE_COLUMNS = ("name", "source", "file", "generation", "model", "tools", "description")


@click.command()
@click.argument("what", type=click.Choice(WHAT), default="tools")
@pass_context
def reload(context: Context, what: str) -> int:
    """A new generation of code, roles, or a changed configuration, dropping nothing.

    A saved tool, a saved role and a saved [models], [providers], [budget] or [permissions] table do
    not need it: they are watched. Exit 1 if what is new is refused, 8 if the configuration is: then
    nothing of it is in force.
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
        _faults(context, result["errors"])

    context.show(result, human)
    if any(error["module"] == "config" for error in result["errors"]):
        return EXIT_CODES["config"]
    return 1 if result["errors"] else 0


def _services(result: dict[str, Any]) -> str:
    """started a, b; stopped c"""
    words = ("started", "stopped", "restarted", "updated")
    said = [f"{word} {', '.join(result[word])}" for word in words if result[word]]
    services = {id for word in words for id in result[word]}
    if tables := [name for name in result["changed"] if name not in services]:
        said.append(f"in force: {', '.join(f'[{name}]' for name in tables)}")
    return "; ".join(said)


@click.command()
@click.argument("session", default="")
@pass_context
def tools(context: Context, session: str) -> None:
    """What agents can call: name, source (builtin, team, user, repo), file and generation.

    Of SESSION, or of the newest one; without any, what lies in the folder of your tools.
    """
    with context.client() as client:
        found = client.request("tools", session=session)
    if not found["session"]:
        found = _folder(context)
    context.rows(found["tools"] if context.json else _brief(found["tools"]), TOOL_COLUMNS)
    _faults(context, found["errors"])


def _folder(context: Context) -> dict[str, Any]:
    """The tools of the user's folder, imported by a process of their own."""
    folder = context.instance.config.parent / "tools"
    command = [sys.executable, "-P", "-m", "loomd.tools", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise LoomError(
            "failed", f"importing {folder} ended with status {done.returncode}", "see above"
        )
    said = json.loads(done.stdout)
    for row in said["tools"]:
        shipped = row["source"] in ("builtin", "team")
        row |= {"file": "" if shipped else row["source"], "generation": 0}
        row["source"] = row["source"] if shipped else "user"
    return said  # type: ignore[no-any-return]


@click.command()
@click.argument("session", default="")
@pass_context
def roles(context: Context, session: str) -> None:
    """What agents can be: name, source (builtin, user, repo), file and generation.

    Those of SESSION, with its repo's.
    """
    with context.client() as client:
        found = client.request("roles", session=session)
    context.rows(found["roles"] if context.json else _brief(found["roles"]), ROLE_COLUMNS)
    _faults(context, found["errors"])


def _brief(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line each."""
    found = []
    for row in rows:
        brief = {**row, "description": render.short(str(row["description"]).partition("\n")[0], 60)}
        if "tools" in row:
            brief["tools"] = "all" if row["tools"] is None else ", ".join(row["tools"])
        found.append(brief)
    return found


def _faults(context: Context, errors: Iterable[Mapping[str, str]]) -> None:
    for error in errors:
        said = render.plain(f"{error['module']}: {error['error']}")
        context.err.print(said, style="red", soft_wrap=True)
