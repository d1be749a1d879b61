"""Processes: ps, tree, kill, restart."""

from __future__ import annotations

import signal as signals

import click

from loomctl import render
from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError


@click.command()
@click.argument("session", required=False, default="")
@click.option("--memory", is_flag=True, help="With the proportional set size.")
@pass_context
def ps(context: Context, session: str, memory: bool) -> None:
    """Every process of the daemon, or of one session."""
    with context.client() as client:
        rows = client.request("ps", session=session, memory=memory)
    columns = ["name", "pid", "state", "waiting_for", "mailbox", "restarts", "uptime_s", "rss_kb"]
    if any(row.get("recovery") for row in rows):
        columns.insert(6, "recovery")
    if memory:
        columns.append("pss_kb")
    awake = [row for row in rows if row.get("pid")] if not session else rows

    def human() -> None:
        context.out.print(render.table(awake, columns, "nothing runs", session))
        if len(awake) < len(rows):
            left = len(rows) - len(awake)
            context.out.print(f"and {left} asleep: loomctl ps SESSION", style="dim")

    context.show(rows, human)


@click.command()
@pass_context
def tree(context: Context) -> None:
    """The supervision tree."""
    with context.client() as client:
        root = client.request("tree")
    context.show(root, lambda: context.out.print(render.supervision(root)))


def _number(text: str) -> signals.Signals:
    """A signal by number or name."""
    try:
        return signals.Signals(int(text)) if text.isdigit() else signals.Signals[_name(text)]
    except (ValueError, KeyError):
        raise LoomError(
            "usage", f"{text} is not a signal", "for example: 9, TERM or SIGSEGV"
        ) from None


def _name(text: str) -> str:
    upper = text.upper()
    return upper if upper.startswith("SIG") else f"SIG{upper}"


@click.command()
@click.argument("name")
@click.option("--signal", default="9", show_default=True, help="Number or name.")
@pass_context
def kill(context: Context, name: str, signal: str) -> None:
    """Send a signal to one process; its supervisor sees to the rest."""
    with context.client() as client:
        result = client.request("kill", name=name, signal=int(_number(signal)))
    context.show(result, f"sent {_number(signal).name} to {name}, pid {result.get('pid')}")


@click.command()
@click.argument("name")
@pass_context
def restart(context: Context, name: str) -> None:
    """Restart one process in order: it finishes its step first."""
    with context.client() as client:
        result = client.request("restart", name=name)
    context.show(result, f"{name} restarted, pid {result.get('pid')}")
