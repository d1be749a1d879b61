"""The models that are configured; recordings of what they have answered."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError

CHECK_S = 700.0
"""A call may take `models.clocks.total_s`."""

RECORD_S = 120.0

COLUMNS = ("model", "for", "key", "window", "in_usd", "out_usd", "api_base")


@click.command()
@click.option(
    "--check",
    is_flag=True,
    help="Ask each of them for one word. Costs what that costs: in `usage` as `check`.",
)
@pass_context
def models(context: Context, check: bool) -> int:
    """What is configured: what for, key, window, US dollars per million tokens.

    With --check exit 1 if one does not answer.
    """
    with context.client() as client:
        rows = client.request("models", check=check, wait_s=CHECK_S)
    shown = [
        {
            **row,
            "for": ", ".join(row["uses"]),
            "in_usd": row["input_usd"],
            "out_usd": row["output_usd"],
            "answers": _said(row["check"]) if check else "",
        }
        for row in rows
    ]
    if context.json:
        context.line(rows)
    else:
        context.rows(shown, (*COLUMNS, "answers") if check else COLUMNS)
    return 1 if any(not row["check"]["ok"] for row in rows if check) else 0


def _said(check: Mapping[str, Any]) -> str:
    cost = check["cost_usd"]
    paid = "at an unknown cost" if cost is None else f"for ${cost:.6f}"
    if check["ok"]:
        return f"yes, in {check['ms']} ms {paid}"
    hint = f" ({check['hint']})" if check["hint"] else ""
    return f"no: {check['kind']}: {check['detail']}{hint}"


@click.command()
@click.argument("session")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@pass_context
def record(context: Context, session: str, file: Path) -> None:
    """Write what models have answered in a session to FILE, for `--model replay/FILE`.

    The answers are found again by what is asked: run the same goal on the same state of the repo.
    """
    path = file.expanduser().absolute()
    lines: list[str] = []
    with context.client() as client:
        after: int | None = 0
        while after is not None:
            page = client.request("record", session=session, after=after, wait_s=RECORD_S)
            lines += page["lines"]
            after = page["next"] or None
    if len(lines) < 2:
        raise LoomError("not_found", f"no model has answered in {session}")
    # What a model was told and said is its user's own affair.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8", errors="replace") as out:
            out.writelines(f"{line}\n" for line in lines)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    failed = sum(json.loads(line)["outcome"]["t"] == "failed" for line in lines[1:])
    result = {"session": session, "file": str(path), "answers": len(lines) - 1, "failed": failed}
    again = f"play it: loomctl run GOAL --model replay/{file}"
    context.show(result, f"{len(lines) - 1} answers in {path}\n{again}")
