"""`doctor`: what this machine lacks, and how to repair it. The looking is loomd's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import click
from rich.text import Text

from loomctl.context import Context, pass_context
from loomctl.render import plain
from loomd.wire.errors import LoomError

STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


@click.command()
@pass_context
def doctor(context: Context) -> int:
    """Check sandbox back ends, versions, cgroups, git and rg; say how to repair each. Exit code 1
    if something will not work at all."""
    done = subprocess.run(
        [sys.executable, "-m", "loomd.doctor"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        text = f"the examination ended with status {done.returncode}"
        raise LoomError("failed", text, "its errors are above")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    context.show(rows, lambda: _print(context, rows))
    return 1 if any(row["state"] == "failed" for row in rows) else 0


def _print(context: Context, rows: list[dict[str, Any]]) -> None:
    """Whole sentences: a table would cut them."""
    for row in rows:
        line = Text()
        line.append(f"{row['state']:8}", STYLES[row["state"]])
        line.append(f"{row['name']}: {plain(row['text'])}")
        context.out.print(line)
        if row["repair"]:
            context.out.print(Text(f"        -> {plain(row['repair'])}", "dim"))
