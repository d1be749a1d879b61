"""What every verb gets: the instance, how to print, and a client when it asks for one."""

from __future__ import annotations

import errno
import json
import select
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from loomctl import render
from loomctl.client import Client
from loomd.wire.endpoints import Instance

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text


WIDTH_OF_A_PIPE = 4096


@dataclass
class Context:
    instance: Instance
    json: bool = False
    start: bool = True

    @cached_property
    def err(self) -> Console:
        return _console(stderr=True)

    @cached_property
    def out(self) -> Console:
        if sys.stdout.isatty():
            return _console()
        # Where nobody's eyes set the width, a row of a table is one line.
        return _console(soft_wrap=True, width=WIDTH_OF_A_PIPE)

    def stream(self, line: Text, *, err: bool = True) -> None:
        """One line of a stream: cut at the edge of a terminal, whole anywhere else."""
        console = self.err if err else self.out
        if console.is_terminal:
            console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        else:
            click.echo(line.plain, err=err)

    def check_reader(self) -> None:
        """Raises BrokenPipeError if nobody reads stdout any more: without it, a stream that has
        nothing to say would outlive its reader.
        """
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        if any(flags & select.POLLERR for _, flags in poll.poll(0)):
            raise BrokenPipeError(errno.EPIPE, "the reader has gone")

    def client(self) -> Client:
        return Client(self.instance, start=self.start)

    def show(self, value: Any, human: RenderableType | Callable[[], None]) -> None:
        """The one JSON value, or what a person sees."""
        if self.json:
            self.line(value)
        elif callable(human):
            human()
        else:
            self.out.print(human)

    def line(self, value: Any) -> None:
        """One JSON value on one line of stdout, at once."""
        click.echo(json.dumps(value, ensure_ascii=False, default=str))
        sys.stdout.flush()

    def rows(
        self,
        rows: Sequence[Mapping[str, Any]],
        columns: Iterable[str],
        empty: str = "none",
        session: str = "",
    ) -> None:
        self.show(rows, lambda: self.out.print(render.table(rows, columns, empty, session)))


def _console(**more: Any) -> Console:
    """What is printed is text: neither `[/x]` in a goal nor `:x:` in an answer is markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, **more)


pass_context = click.make_pass_decorator(Context)
