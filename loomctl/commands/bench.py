"""`bench`: figures on this machine. The measuring is loomd's; here it is only run and shown."""

from __future__ import annotations

import json
import os
import signal
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
    command = [sys.executable, "-m", "loomd.bench", *names, "--json", "--parent", str(os.getpid())]
    if agents is not None:
        command += ["--agents", str(agents)]
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            out, _ = process.communicate()
        except KeyboardInterrupt:
            process.terminate()  # and wait: it stops its daemon
            raise
    if process.returncode != 0:
        code = "usage" if process.returncode == 2 else "failed"
        raise LoomError(
            code, f"the bench ended with status {process.returncode}", "its errors are above"
        )
    rows = json.loads(out)
    context.rows(rows, ("name", "unit", "n", "p50", "p95", "p99", "max", "note"))
