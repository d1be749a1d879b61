"""`run`: a session from its goal to its outcome, and the following that `demo` shares."""

from __future__ import annotations

import math
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from loomctl import render
from loomctl.client import Client
from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError

ENDED = ("done", "failed", "stopped")

LIMIT_KINDS = ("limit", "iterations", "tokens", "repeats", "wall", "wall_s", "loop")

ASKED_S = 0.5
"""How often it is looked up whether somebody else has answered what a person is asked here."""

SETTLE_S = 1.0
"""How often the session's row is read while no event comes."""


def opener_env() -> dict[str, str]:
    """What a session carries of its opener: where its Python and its words come from."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "VIRTUAL_ENV", "LANG", "LANGUAGE", "TZ") or name.startswith("LC_")
    }


MODEL_HELP = "A litellm model, offline/rules, replay/FILE (see `record`) or scripted/FILE."


def checkout(repo: Path) -> Path:
    """The repo as an absolute path that can be read; LoomError(usage) otherwise."""
    path = repo.expanduser().absolute()
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise LoomError("usage", f"{path} {what}", "name the repo: --repo DIR")
    if not os.access(path, os.R_OK | os.X_OK):
        raise LoomError("usage", f"{path} is not readable", "check its permissions")
    return path.resolve()


def model_name(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """For options: a file of the models that play one lies where the caller is."""
    provider, slash, name = value.partition("/")
    if slash and provider in ("replay", "scripted") and name:
        return f"{provider}/{Path(name).expanduser().absolute()}"
    return value


def finite(ctx: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """For options: neither nan, which no bound refuses, nor inf is an amount."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no amount", ctx, parameter)
    return value


def exit_code(result: Mapping[str, Any]) -> int:
    """CONTRACT's exit code of an outcome."""
    if result["state"] == "done":
        return 0
    kind = str(result.get("kind") or "")
    if kind == "budget":
        return 6
    if kind in LIMIT_KINDS:
        return 7
    if kind in ("permission", "permission_denied"):
        return 5
    if kind == "timeout":
        return 124
    if kind == "auth":
        return 4
    return 1


def report(client: Client, session: str, started: float) -> dict[str, Any]:
    """CONTRACT's JSON of `run` for a session that has ended."""
    row = client.request("session", session=session)
    changes = client.request("diff", session=session)
    usage = client.request("usage", by="session", session=session)
    mine: dict[str, Any] = next((one for one in usage if one.get("key") == session), {})
    agents = [one["name"] if isinstance(one, dict) else one for one in row.get("agents") or ()]
    ended = row.get("ended") or time.time()
    return {
        "session": session,
        "state": row["state"],
        "kind": row.get("kind") or "",
        "answer": row.get("answer") or "",
        "hint": row.get("hint") or (row.get("data") or {}).get("hint") or "",
        "files_changed": changes["files_changed"],
        "diff": changes["diff"],
        "usage": {
            "input_tokens": mine.get("input_tokens", 0),
            "output_tokens": mine.get("output_tokens", 0),
            "cached_tokens": mine.get("cached_tokens", 0),
            "cost_usd": mine.get("cost_usd", 0.0),
            "calls": mine.get("calls", 0),
        },
        "agents": agents,
        "duration_s": round(max(0.0, ended - started), 3),
    }


def follow(
    client: Client,
    session: str,
    on_event: Callable[[dict[str, Any]], None],
    deadline: float | None = None,
    on_wait: Callable[[str], None] = lambda what: None,
    on_delta: Callable[[dict[str, Any]], None] | None = None,
) -> bool:
    """Feeds every event to `on_event` until the session has ended; False at the deadline.

    `on_wait` gets what the session waits for when that changes: a full disk has no event.
    `on_delta` gets what is said while it happens and may be lost (see Client.follow).
    """
    after, waits = 0, ""
    while True:
        step = time.monotonic() + SETTLE_S
        until = step if deadline is None else min(step, deadline)
        for event in client.follow(session, after, until=until, on_delta=on_delta):
            after = event["seq"]
            on_event(event)
            if event["type"] == "session_ended":
                return True
        row = client.request("session", session=session)
        if row["state"] in ENDED:
            for event in client.events(session, after):
                on_event(event)
            return True
        if row.get("waiting_for", "") != waits:
            waits = row.get("waiting_for", "")
            on_wait(waits)
        if deadline is not None and time.monotonic() >= deadline:
            return False


def settle(client: Client, session: str, wait_s: float) -> None:
    """Waits until the session's row says that it has ended."""
    deadline = time.monotonic() + wait_s
    while client.request("session", session=session)["state"] not in ENDED:
        if time.monotonic() >= deadline:
            return
        time.sleep(0.02)


def ask_person(context: Context, client: Client, event: Mapping[str, Any]) -> None:
    """On a terminal, puts what a session waits for to the person; else says how to answer. Another
    client may be first: then the person is told, and asked no more."""
    data = event.get("data") or {}
    if event["type"] not in ("permission_asked", "question_asked") or not can_ask(context):
        return
    permission = event["type"] == "permission_asked"
    scopes = data.get("scopes") or ("once", "session")
    words = ["y", "n", *(scope for scope in ("session", "always") if scope in scopes)]
    if permission and "always" in scopes:
        context.err.print(f"  always: {', '.join(data.get('rules') or ())}", style="dim")
    try:
        said = ""
        while not said:
            prompt = f"allow? ({', '.join(words)}) [y]: " if permission else "answer: "
            line = _line(context, client, prompt, data["id"])
            if line is None:
                return
            said = line.strip() or ("y" if permission else "")
            if permission and said not in words:
                said = ""
        client.request(
            "decide",
            id=data["id"],
            allow=not permission or said != "n",
            scope=said if said in ("session", "always") and permission else "once",
            text="" if permission else said,
            by="run",
        )
    except LoomError as error:
        if error.code not in ("bad_state", "not_found"):  # another client was first
            raise
        context.err.print(f"already answered: {error.message}", style="dim")


def can_ask(context: Context) -> bool:
    """Whether there is a person at this client who can be asked."""
    return not context.json and sys.stdin.isatty() and sys.stderr.isatty()


def _line(context: Context, client: Client, prompt: str, question: str) -> str | None:
    """A line of the terminal; None if the question is over before there is one."""
    click.echo(prompt, nl=False, err=True)
    while not select.select([sys.stdin], [], [], ASKED_S)[0]:
        if any(row["id"] == question for row in client.request("waiting")):
            continue
        click.echo("", err=True)
        context.err.print(f"{question} was answered elsewhere, or needs no answer", style="dim")
        return None
    line = sys.stdin.readline()
    if not line:
        raise click.Abort
    return line


@click.command()
@click.argument("goal")
@click.option("--repo", type=click.Path(path_type=Path), default=Path(), help="The checkout.")
@click.option("--model", default="", callback=model_name, help=MODEL_HELP)
@click.option("--team", type=click.IntRange(1, 64), default=6, show_default=True, help="At most N.")
@click.option("--yes", is_flag=True, help="Answer permission questions with allow.")
@click.option("--detach", is_flag=True, help="Print the session and leave it running.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.001), callback=finite, help="Seconds; then 124."
)
@click.option(
    "--budget", type=click.FloatRange(min=0), callback=finite, help="US dollars for this session."
)
@pass_context
def run(
    context: Context,
    goal: str,
    repo: Path,
    model: str,
    team: int,
    yes: bool,
    detach: bool,
    timeout: float | None,
    budget: float | None,
) -> int:
    """New session: stream it, wait for its end, report."""
    if not goal.strip():
        raise LoomError("usage", "the goal is empty", 'say what to do: loomctl run "rename a to b"')
    started = time.time()
    with context.client() as client:
        opened = client.request(
            "open_session",
            repo=str(checkout(repo)),
            goal=goal,
            model=model,
            team=team,
            yes=yes,
            budget_usd=budget,
            timeout_s=timeout,
            env=opener_env(),
            answers="later" if detach else "person" if can_ask(context) else "nobody",
        )
        session = opened["session"]
        if detach:
            context.show(opened, session)
            return 0

        outputs = render.Outputs()

        def on_delta(data: dict[str, Any]) -> None:
            for who, text in outputs.add(data):
                context.stream(render.output_line(who, text))

        def on_event(event: dict[str, Any]) -> None:
            if context.json:
                return
            for who, text in outputs.of(event):
                context.stream(render.output_line(who, text))
            line = render.event_line(event)
            if line is not None:
                context.stream(line)
            if not yes:
                ask_person(context, client, event)

        def on_wait(what: str) -> None:
            if what == "disk_full":
                context.err.print(f"waiting for room on the disk of {context.instance.state}")

        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            said = None if context.json else on_delta
            ended = follow(client, session, on_event, deadline, on_wait, said)
        except KeyboardInterrupt:
            client.request("control", session=session, op="stop")
            settle(client, session, 5.0)
            raise LoomError(
                "interrupted", f"session {session} was stopped", f"see: loomctl show {session}"
            ) from None
        if not ended:
            try:
                client.request("control", session=session, op="stop")
                settle(client, session, 5.0)
            except LoomError as error:
                if error.code != "disk_full":
                    raise
                context.err.print(f"{session} could not be stopped: {error.message}", style="red")
        result = report(client, session, started)
        if not ended:
            result["kind"] = "timeout"
        context.show(result, lambda: render.outcome(context.out, result))
        return 124 if not ended else exit_code(result)
