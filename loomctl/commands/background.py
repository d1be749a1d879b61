"""`jobs`: what the agents of a session run in the background."""

from __future__ import annotations

import click

from loomctl import render
from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError

KILL_S = 30.0


@click.command()
@click.argument("session")
@click.argument("job", required=False, default="")
@click.option("--kill", is_flag=True, help="End that job: SIGTERM, after 5 s SIGKILL.")
@pass_context
def jobs(context: Context, session: str, job: str, kill: bool) -> None:
    """The jobs of a session; with JOB what that one has printed, and how it ended."""
    if kill and not job:
        raise LoomError("usage", "which job is to end?", f"loomctl jobs {session} JOB --kill")
    with context.client() as client:
        rows = client.request("board", session=session, table="jobs")
        if not job:
            columns = ("id", "state", "exit", "agent", "started", "command")
            context.rows(rows, columns, "no jobs", session)
            return
        running = any(one["id"] == job and one["state"] == "running" for one in rows)
        if running:
            body = {"t": "note", "data": {"job": job, "action": "kill" if kill else "show"}}
            tools = f"{session}/tools"
            shown = client.request("ask", actor=tools, body=body, wait_s=KILL_S)["data"]
        else:
            row = client.request("job", session=session, id=job)
            shown = {name: row[name] for name in ("id", "state", "text")}

    def human() -> None:
        click.echo(render.plain(shown["text"]))
        context.out.print(render.coloured(f"{job}: {shown['state']}"))

    context.show(shown, human)
