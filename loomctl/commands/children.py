"""The supervisor's calls, on any node of the tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from loomctl import render
from loomctl.context import Context, pass_context

WAIT_S = 600.0
"""A start waits until the child is ready, a stop until it is gone: their own time-outs are less."""

DONE = {"start": "started", "terminate": "terminated", "restart": "started", "delete": "deleted"}
SAID = {
    "not_found": "there is none",
    "already_started": "it runs",
    "already_present": "it is there and does not run: loomctl child restart",
    "running": "it runs: loomctl child terminate comes first",
    "restarting": "it is being restarted",
    "noproc": "its supervisor is down, or going down: loomctl tree",
    "not_a_supervisor": "it is a process, and has no children",
}
"""What OTP's words mean."""


@click.group()
def child() -> None:
    """The supervisor's calls: start, terminate, restart, delete; which and count of its children.

    What was terminated stays down, whatever becomes of its siblings, its supervisor and the hub,
    until it is started again here or the daemon is. Exit 1 where the answer is not ok.
    """


def _ask(context: Context, call: str, id: str) -> Any:
    with context.client() as client:
        return client.request("child", wait_s=WAIT_S, call=call, id=id)


def _call(name: str, text: str) -> click.Command:
    @click.command(name, help=text)
    @click.argument("id")
    @pass_context
    def call(context: Context, id: str) -> int:
        answer = _ask(context, name, id)
        result = str(answer["result"])

        def human() -> None:
            if result == "ok":
                context.out.print(f"{render.plain(id)} {DONE[name]}")
            else:
                said = SAID.get(result, "")
                context.err.print(render.plain(f"{id}: {result}{f' ({said})' if said else ''}"))

        context.show(answer, human)
        return 0 if result == "ok" else 1

    return call


for _name, _text in {
    "start": "Start a child that the configuration names and that was deleted, or has gone.",
    "terminate": "Stop a child; it stays down.",
    "restart": "Start a child that does not run. (One that runs: loomctl restart.)",
    "delete": "Forget a child that does not run.",
}.items():
    child.add_command(_call(_name, _text))


def _query(name: str, text: str, human: Callable[[Any], str]) -> click.Command:
    @click.command(name, help=text)
    @click.argument("id")
    @pass_context
    def query(context: Context, id: str) -> int:
        answer = _ask(context, name, id)
        result = answer["result"]
        if isinstance(result, str):  # it has no children, and this says why
            said = render.plain(f"{id}: {result} ({SAID.get(result, '')})")
            context.show(answer, lambda: context.err.print(said))
            return 1
        context.show(answer, lambda: context.out.print(human(result)))
        return 0

    return query


def _table(rows: list[dict[str, Any]]) -> Any:
    return render.table(rows, ("id", "type", "pid", "state"), "no children")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(
        f"{number} active" if what == "active" else render.counted(number, what.removesuffix("s"))
        for what, number in counts.items()
    )


child.add_command(_query("which", "The children of a supervisor, newest first.", _table))
child.add_command(
    _query(
        "count",
        "How many children a supervisor has: specs, active, supervisors, workers.",
        _counts,
    )
)
