"""The daemon itself: start, stop, restart, status, logs; as a service: install, uninstall.

Where systemd runs the daemon, or its units are installed, each of them goes through systemd.
"""

from __future__ import annotations

import collections
import contextlib
import time

import click

from loomctl import daemon as process
from loomctl import render, systemd
from loomctl.client import Client
from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError

STOP_S = 60.0

UPGRADE_S = 600.0
"""Tool hosts finish their calls before they move, and that may take minutes."""


@click.group()
def daemon() -> None:
    """The daemon of this instance."""


@daemon.command()
@pass_context
def start(context: Context) -> None:
    """Start it unless it runs: through systemd where its units are installed, else detached."""
    ran = process.running(context.instance)
    with Client(context.instance, start=True) as client:
        status = client.request("status")
    context.show(status, f"{'runs' if ran else 'started'}, pid {status['pid']}")


def _stop(context: Context) -> int:
    pid = process.pid(context.instance)
    unit = process.service(context.instance)
    if unit is not None:
        unit.stop()
    else:
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
    unit = process.service(context.instance)
    if unit is not None:
        unit.restart()
    elif process.running(context.instance):
        _stop(context)
    with Client(context.instance, start=True) as client:
        status = client.request("status")
    context.show(status, f"restarted, pid {status['pid']}")


@daemon.command()
@pass_context
def upgrade(context: Context) -> int:
    """New code everywhere, as it is on disk now, with no session interrupted.

    The new code is tried first: if it is refused, nothing has changed. What fails on it later goes
    on with the code before, is named, and makes the exit status 1.
    """
    with Client(context.instance, start=False) as client:
        result = client.request("upgrade", wait_s=UPGRADE_S)

    def human() -> None:
        kept = result["kept"]
        count = render.counted(len(result["moved"]), "process", "processes")
        context.out.print(f"generation {result['generation']}: {count} moved")
        if kept:
            context.out.print(f"still on the code before: {', '.join(kept)}")
        for error in result["errors"]:
            context.err.print(f"{error['name']}: {error['error']}", style="red")

    context.show(result, human)
    return 1 if result["errors"] else 0


@daemon.command()
@pass_context
def status(context: Context) -> None:
    """Whether it runs, and what it holds. Exit 3 if it does not."""
    with Client(context.instance, start=False) as client:
        value = client.request("status")
    unit = process.service(context.instance)
    value["unit"] = unit.name if unit is not None else None

    def human() -> None:
        last = value.get("last_upgrade") or {"state": "none", "reason": ""}
        shown = {**value, "last_upgrade": ": ".join(word for word in last.values() if word)}
        for key, item in shown.items():
            if not isinstance(item, dict):
                context.out.print(f"{key:<12} ", end="", style="bold")
                context.out.print(str(item))

    context.show(value, human)


@daemon.command()
@click.option("-n", "--lines", type=click.IntRange(1), default=50, show_default=True)
@pass_context
def logs(context: Context, lines: int) -> None:
    """The last lines of its log: the journal's where it is a service, else its own file's."""
    last: list[str] = []
    unit = systemd.installed(context.instance)
    if unit is not None:
        with contextlib.suppress(LoomError):
            last = unit.journal(lines)
    if not last:
        with (
            contextlib.suppress(FileNotFoundError),
            context.instance.log_file.open(errors="replace") as log,
        ):
            last = [line.rstrip("\n") for line in collections.deque(log, maxlen=lines)]
    context.show(last, lambda: click.echo("".join(f"{line}\n" for line in last), nl=False))


@daemon.command()
@click.option("--unit", "name", metavar="NAME", help="Name of the units.  [default: loomd]")
@pass_context
def install(context: Context, name: str | None) -> None:
    """Make it a service of yours: write its systemd units, enable them, listen for clients.

    It then starts with the first `loomctl`, and when you log in; a crash is answered with a
    restart. Again: the units are written anew.
    """
    context.instance.check()
    present = systemd.installed(context.instance)
    unit = systemd.Unit(name or (present.name if present is not None else "loomd"))
    if not systemd.UNIT_NAME.fullmatch(unit.name):
        raise LoomError("usage", f"{unit.name!r} is no name for a unit", "letters, digits, - and _")
    if present is not None and present != unit:
        raise LoomError(
            "bad_state",
            f"this instance is the unit {present.name}",
            "first: loomctl daemon uninstall",
        )
    paths = systemd.install(context.instance, unit.name)
    reached = systemd.manager()
    alone = process.running(context.instance) and process.service(context.instance) is None
    if not reached:
        hint = (
            "no user manager of systemd answers here; in a session of yours: "
            f"systemctl --user daemon-reload && systemctl --user enable --now {unit.name}.socket "
            f"&& systemctl --user enable {unit.name}.service"
        )
    else:
        unit.enable()
        hint = ""
        if alone:
            hint = "a daemon runs outside of systemd; it is moved by: loomctl daemon restart"
        else:
            unit.listen()
    value = {
        "unit": unit.name,
        "files": [str(path) for path in paths],
        "enabled": reached,
        "listening": reached and not alone,
        "hint": hint,
    }

    def human() -> None:
        for path in paths:
            click.echo(f"wrote {path}")
        if reached:
            click.echo(f"enabled {unit.name}.socket and {unit.name}.service")
        if hint:
            click.echo(hint)

    context.show(value, human)


@daemon.command()
@pass_context
def uninstall(context: Context) -> None:
    """Stop the service in order, disable it and remove its units. The state stays."""
    unit = systemd.installed(context.instance)
    if unit is None:
        context.show({"unit": None, "files": [], "hint": ""}, "no units of this instance")
        return
    reached = systemd.manager()
    if reached:
        unit.disable()
    gone = systemd.remove(unit)
    hint = ""
    if reached:
        systemd.systemctl("daemon-reload")
    else:
        hint = (
            "no user manager of systemd answers here; in a session of yours: "
            f"systemctl --user stop {unit.name}.socket {unit.name}.service && "
            "systemctl --user daemon-reload"
        )

    def human() -> None:
        for path in gone:
            click.echo(f"removed {path}")
        if hint:
            click.echo(hint)

    context.show({"unit": unit.name, "files": [str(path) for path in gone], "hint": hint}, human)
