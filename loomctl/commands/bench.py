"""`bench`: figures on this machine. The measuring is loomd's; here it is only run and shown."""

from __future__ import annotations

import json
import subprocess
import sys

import click

from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError


@click.command()
@click.argument("names", nargs=-1)
@click.option("--agents", type=click.IntRange(1, 2000), help="How many where it matters.")
@pass_context
def bench(context: Context, names: tuple[str, ...], agents: int | None) -> None:
    """Figures on an instance of its own: n, p50, p95, p99, max, beside a bare floor."""
    command = [sys.executable, "-m", "loomd.bench", *names, "--json"]
    if agents is not None:
        command += ["--agents", str(agents)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        code = "usage" if done.returncode == 2 else "failed"
        raise LoomError(
            code, f"the bench ended with status {done.returncode}", "its errors are above"
        )
    rows = json.loads(done.stdout)
    context.rows(rows, ("name", "unit", "n", "p50", "p95", "p99", "max", "note"))
