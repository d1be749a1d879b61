"""`logs`: what a process has written to stdout and stderr. Needs no daemon."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import click

from loomctl import render
from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError

LOOK_S = 0.1
"""Between two looks at a file that is followed."""
PIECE = 64 * 1024
OLDER = "~"
"""Ends the name of the older file; no service's name has it in it."""
ACTOR = re.compile(r"^(s-[a-z0-9]{6})\.")
"""Begins the file of an actor of a session; no service is named so."""
MAX_NAMED = 20
"""Names in an error, those that have written last."""


@click.command()
@click.argument("name")
@click.option("-n", "--lines", type=click.IntRange(0), default=50, show_default=True)
@click.option("-f", "--follow", is_flag=True, help="Go on until interrupted.")
@pass_context
def logs(context: Context, name: str, lines: int, follow: bool) -> None:
    """The last output of a service or an actor. (The daemon's own: loomctl daemon logs.)"""
    path = context.instance.output / name.replace("/", ".")
    older = path.with_name(path.name + OLDER)
    if path.name not in (written := _written(context.instance.output)):
        raise LoomError("not_found", f"{name} has written nothing here", _who(written))
    last, place = _tail(older, path, lines)
    if not follow and context.json:
        context.line(last)
        return
    for line in last:
        _show(context, line)
    if not follow:
        return
    for line in _grow(context, path, place):
        _show(context, line)


def _written(folder: Path) -> list[str]:
    """The files of output, newest first, each with its older one counted as one. What is not among
    them is not read: no folder, nothing outside of this one."""
    found: dict[str, float] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                name = entry.name.removesuffix(OLDER)
                with contextlib.suppress(FileNotFoundError):  # turned over just now
                    found[name] = max(found.get(name, 0.0), entry.stat().st_mtime)
    return sorted(found, key=lambda name: -found[name])


def _who(written: list[str]) -> str:
    """The names that have written something, as a person gives them."""
    if not written:
        return "nobody has: loomctl ps shows who runs"
    names = [ACTOR.sub(r"\1/", name) for name in written[:MAX_NAMED]]
    more = len(written) - len(names)
    return f"who has: {', '.join(names)}" + (f", and {more} more" if more else "")


def _show(context: Context, line: str) -> None:
    context.line(line) if context.json else click.echo(render.plain(line))


def _tail(older: Path, path: Path, lines: int) -> tuple[list[str], tuple[int, int]]:
    """The last lines of both files, and where the newer one was read to: (inode, bytes)."""
    text, place = b"", (0, 0)
    for each in (older, path):
        with contextlib.suppress(FileNotFoundError), each.open("rb") as file:
            data = file.read()
            text += data
            place = (os.fstat(file.fileno()).st_ino, len(data))
    whole = text.decode("utf-8", "replace").split("\n")
    if whole[-1] == "":
        whole.pop()
    return whole[len(whole) - lines :] if lines < len(whole) else whole, place


def _grow(context: Context, path: Path, place: tuple[int, int]) -> Iterator[str]:
    """Every line that is written from `place` on; the rest of a file that was turned over first."""
    inode, offset = place
    rest = b""
    file = None
    try:
        while True:
            context.check_reader()
            if file is None:
                with contextlib.suppress(FileNotFoundError):
                    file = path.open("rb")
                    if os.fstat(file.fileno()).st_ino == inode:
                        file.seek(offset)
            data = file.read(PIECE) if file is not None else b""
            if data:
                *whole, rest = (rest + data).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in whole)
                continue
            with contextlib.suppress(FileNotFoundError):
                if file is not None and os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                    file.close()
                    file, inode = None, 0
                    continue
            time.sleep(LOOK_S)
    finally:
        if file is not None:
            file.close()
