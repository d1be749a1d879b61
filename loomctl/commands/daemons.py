"""The daemon itself: start, stop, restart, status, logs."""

from __future__ import annotations

import collections
import time

import click

from loomctl import daemon as process
from loomctl.client import Client
from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError

STOP_S = 60.0


@click.group()
def daemon() -> None:
    """The daemon of this instance."""


@daemon.command()
@pass_context
def start(context: Context) -> None:
    """Start it (detached) unless it runs."""
    ran = process.running(context.instance)
    with Client(context.instance, start=True) as client:
        status = client.request("status")
    context.show(status, f"{'runs' if ran else 'started'}, pid {status['pid']}")


def _stop(context: Context) -> int:
    pid = process.pid(context.instance)
    with Client(context.instance, start=False) as client:
        client.request("shutdown")
    deadline = time.monotonic() + STOP_S
    while process.running(context.instance):
        if time.monotonic() > deadline:
            raise LoomError(
                "timeout",
                f"the daemon (pid {pid}) still runs after {STOP_S:.0f} s",
                f"see {context.instance.log_file}",
            )
        time.sleep(0.005)
    return pid


@daemon.command()
@pass_context
def stop(context: Context) -> None:
    """Stop it in order; sessions go on where they were when it is started again."""
    if not process.running(context.instance):
        context.show({"stopped": False, "pid": None}, "no daemon runs")
        return
    pid = _stop(context)
    context.show({"stopped": True, "pid": pid}, f"stopped, pid {pid}")


@daemon.command()
@pass_context
def restart(context: Context) -> None:
    """Stop it in order and start it again."""
    if process.running(context.instance):
        _stop(context)
    with Client(context.instance, start=True) as client:
        status = client.request("status")
    context.show(status, f"restarted, pid {status['pid']}")


@daemon.command()
@pass_context
def status(context: Context) -> None:
    """Whether it runs, and what it holds. Exit 3 if it does not."""
    with Client(context.instance, start=False) as client:
        value = client.request("status")

    def human() -> None:
        for key, item in value.items():
            if not isinstance(item, dict):
                context.out.print(f"{key:<12} ", end="", style="bold")
                context.out.print(str(item))

    context.show(value, human)


@daemon.command()
@click.option("-n", "--lines", type=click.IntRange(1), default=50, show_default=True)
@pass_context
def logs(context: Context, lines: int) -> None:
    """The last lines of its log."""
    try:
        with context.instance.log_file.open(errors="replace") as log:
            last = list(collections.deque(log, maxlen=lines))
    except FileNotFoundError:
        last = []
    context.show([line.rstrip("\n") for line in last], lambda: click.echo("".join(last), nl=False))


def _not_yet(verb: str, hint: str) -> click.Command:
    @click.command(verb, help="Not there yet.")
    def refuse() -> None:
        raise LoomError("not_yet", f"`loomctl daemon {verb}` is not there yet", hint)

    return refuse


daemon.add_command(_not_yet("upgrade", "meanwhile: loomctl daemon restart"))
daemon.add_command(_not_yet("install", "meanwhile: copy systemd/* to ~/.config/systemd/user/"))
daemon.add_command(_not_yet("uninstall", "remove the units from ~/.config/systemd/user/"))
