"""`undo`: taking back what a session has changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import click

from loomctl import render
from loomctl.client import Client
from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError

PATIENCE_S: Final = 120.0
"""How long its end is waited for. It goes on without us."""


@click.command()
@click.argument("session")
@click.option("--edit", default="", metavar="ID", help="This edit; of an undo: redo.")
@click.option("--task", default="", metavar="ID", help="The edits of a task and of its parts.")
@click.option("--all", "everything", is_flag=True, help="All edits of the session.")
@pass_context
def undo(context: Context, session: str, edit: str, task: str, everything: bool) -> int:
    """Take back what a session has changed: by default its last edit that is in effect, so that
    saying it again goes further back.

    Whatever others have changed since stays, by a three-way merge. Where that cannot be, the lines
    in conflict are shown and nothing is written. An undo is an edit itself: `--edit` with its id
    takes it back. Not covered: files that git ignores, links, and files of more than 8 MB that a
    command has changed.
    """
    if bool(edit) + bool(task) + everything > 1:
        raise LoomError("usage", "--edit, --task and --all exclude each other")
    with context.client() as client:
        asked = client.request("undo", session=session, edit=edit, task=task, all=everything)
        end = outcome(client, session, asked)
        if end["type"] == "undo_refused":
            return _refused(context, end["data"])
        data = end["data"]
        changes = client.request("diff", session=session, edit=data["edit"])
    value = {"session": session, "edit": data["edit"], "undone": data["edits"], **changes}

    def human() -> None:
        render.diff(context.out, str(changes["diff"]))
        what = ", ".join(data["edits"][:10]) + (", ..." if len(data["edits"]) > 10 else "")
        files = render.counted(len(changes["files_changed"]), "file")
        context.err.print(f"{data['edit']}: took back {what} in {files}", style="green")

    context.show(value, human)
    return 0


def outcome(client: Client, session: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The event that ends the undo that was `asked` for."""
    until = time.monotonic() + PATIENCE_S
    for event in client.follow(session, asked["seq"], until=until):
        ends = event["type"] in ("undone", "undo_refused")
        if ends and event["data"].get("undo") == asked["undo"]:
            return event
    raise LoomError(
        "timeout",
        f"the undo is still under way after {PATIENCE_S:g} s, and goes on",
        f"see: loomctl events {session}",
    )


def _refused(context: Context, data: Mapping[str, Any]) -> int:
    """Why nothing was taken back; conflicts as a diff with markers, and by path and lines."""
    conflicts = data.get("conflicts") or []
    error = LoomError(data["code"], data["reason"], data.get("hint", ""))
    if not conflicts:
        raise error
    diff = "".join(one.get("diff", "") for one in conflicts)

    def human() -> None:
        render.diff(context.out, diff)
        for one in conflicts:
            context.err.print(render.plain(_said(one)), style="red")
        context.err.print(f"loomctl: {render.plain(error.message)}\n  {error.hint}")

    value = {**error.as_json(), "conflicts": conflicts, "files_changed": [], "diff": diff}
    context.show(value, human)
    return error.exit_code


def _said(one: Mapping[str, Any]) -> str:
    """`path:3-5 (e-2): why`."""
    places = [
        f"{first}-{last}" if last > first else f"{first}" for first, last in one.get("lines") or ()
    ]
    where = f"{one['path']}:{','.join(places)}" if places else one["path"]
    edits = ", ".join(one.get("edits") or ())
    return f"{where} ({edits}): {one['reason']}" if edits else f"{where} {one['reason']}"
