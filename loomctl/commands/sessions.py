"""Sessions: new, send, events, sessions, show, and their control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from loomctl import render
from loomctl.client import Client
from loomctl.commands.jobs import MODEL_HELP, checkout, model_name, opener_env
from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError


@click.command()
@click.option("--repo", type=click.Path(path_type=Path), default=Path(), help="The checkout.")
@click.option("--model", default="", callback=model_name, help=MODEL_HELP)
@click.option("--team", type=click.IntRange(1, 64), default=6, show_default=True)
@click.option("--yes", is_flag=True, help="Answer permission questions with allow.")
@click.option("--budget", type=click.FloatRange(min=0), help="US dollars for this session.")
@pass_context
def new(
    context: Context, repo: Path, model: str, team: int, yes: bool, budget: float | None
) -> None:
    """Open a session that waits for its first message."""
    with context.client() as client:
        opened = client.request(
            "open_session",
            repo=str(checkout(repo)),
            goal="",
            model=model,
            team=team,
            yes=yes,
            budget_usd=budget,
            timeout_s=None,
            env=opener_env(),
            answers="later",
        )
    context.show(opened, opened["session"])


@click.command()
@click.argument("session")
@click.argument("text")
@click.option("--to", default="", help="An agent; else the lead.")
@pass_context
def send(context: Context, session: str, text: str, to: str) -> None:
    """Say something to a session."""
    with context.client() as client:
        said = client.request("say", session=session, text=text, to=to)
    context.show(said, f"sent as {said['message']}")


@click.command()
@click.argument("session")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Start after this sequence.")
@click.option("--follow", is_flag=True, help="Go on with what comes.")
@click.option(
    "--deltas/--no-deltas",
    default=None,
    help="With --follow: what is in no log too, output while it comes, and with --deltas the text "
    "of answers. Default: output, but not with --json.",
)
@pass_context
def events(context: Context, session: str, after: int, follow: bool, deltas: bool | None) -> None:
    """The event log of a session, one line an event.

    With --follow it goes on until you stop it, or until supervision gives the session up.
    """
    seen, doubt = after, True
    outputs = render.Outputs(answers=bool(deltas))

    def on_delta(data: dict[str, Any]) -> None:
        if context.json:
            context.line(data)
        for who, text in [] if context.json else outputs.add(data):
            context.stream(render.output_line(who, text), err=False)

    with context.client() as client:
        client.request("session", session=session)  # an unknown one is an error, not silence

        def idle() -> None:
            nonlocal doubt
            context.check_reader()
            doubt = doubt and _has_failed(client, session, seen)

        if follow:
            wanted = not context.json if deltas is None else deltas
            said = on_delta if wanted else None
            stream = client.follow(session, after, idle=idle, on_delta=said)
        else:
            stream = client.events(session, after)
        for event in stream:
            seen = event["seq"]
            if context.json:
                context.line(event)
            else:
                for who, text in outputs.of(event):
                    context.stream(render.output_line(who, text), err=False)
                line = render.event_line(event)
                context.stream(render.numbered(event, line), err=False)
            if follow and event["type"] == "session_ended":
                doubt = _has_failed(client, session, seen)


def _has_failed(client: Client, session: str, seen: int) -> bool:
    """Whether supervision has given the session up; LoomError(failed) if its log was seen whole
    too: nothing more will come until somebody resumes it."""
    row = client.request("session", session=session)
    failed = bool(row.get("resumable"))
    if failed and seen >= row["last_event"]:
        raise LoomError("failed", f"{session}: {row['answer']}", row["hint"])
    return failed


@click.command()
@pass_context
def sessions(context: Context) -> None:
    """All sessions, newest last."""
    with context.client() as client:
        rows = client.request("sessions")
    waits = tuple(key for key in ("waiting_for", "calling") if any(row.get(key) for row in rows))
    columns = ("session", "state", *waits, "goal", "agents", "cost_usd", "created", "repo")
    context.rows(rows, columns, "no sessions")


@click.command()
@click.argument("session")
@pass_context
def show(context: Context, session: str) -> None:
    """One session, whole."""
    with context.client() as client:
        row = client.request("session", session=session)

    def human() -> None:
        for key in (
            "session",
            "state",
            "waiting_for",
            "kind",
            "goal",
            "repo",
            "model",
            "answer",
            "hint",
        ):
            if row.get(key):
                context.out.print(f"{render.HEADS.get(key, key):<9} ", end="", style="bold")
                value = render.plain(row[key])
                context.out.print(render.coloured(value) if key == "state" else value)
        for name, columns in (
            ("agents", ("name", "role", "state", "pid", "restarts", "recovery", "waiting_for")),
            ("recoveries", ("ts", "name", "from", "rung", "cause", "reason")),
            ("tasks", ("id", "state", "owner", "title")),
            ("jobs", ("id", "state", "exit", "agent", "command")),
            ("questions", ("id", "kind", "state", "text")),
        ):
            rows = [one for one in row.get(name) or () if isinstance(one, dict)]
            if rows:
                context.out.print(f"\n{name}", style="bold")
                context.out.print(render.table(rows, columns, "", session))

    context.show(row, human)


def _control(op: str, text: str) -> click.Command:
    @click.command(op, help=text)
    @click.argument("session")
    @pass_context
    def control(context: Context, session: str) -> None:
        with context.client() as client:
            result: dict[str, Any] = client.request("control", session=session, op=op)
        waits = ", for an answer of yours: loomctl waiting" if result["state"] == "waiting" else ""
        context.show(result, f"{session}: {result['state']}{waits}")

    return control


CONTROLS = [
    _control("stop", "End a session: its agents stop, its log stays."),
    _control("pause", "No new model call until `resume`."),
    _control("resume", "Go on after `pause`, or after supervision gave the session up."),
    _control("step", "One step of a paused session."),
]


@click.command()
@click.argument("name", metavar="SESSION|AGENT")
@pass_context
def cancel(context: Context, name: str) -> None:
    """Give up the current task of a session, or of one of its agents.

    Its calls are ended at once. An agent's end is told to whoever waits for it; the lead's is the
    session's.
    """
    with context.client() as client:
        result = client.request("control", session=name, op="cancel")
    context.show(result, f"{result['session']}: {result['state']}")


@click.command()
@click.argument("session")
@pass_context
def rm(context: Context, session: str) -> None:
    """Take an ended session off the list."""
    with context.client() as client:
        result = client.request("remove", session=session)
    context.show(result, f"removed {session}")
