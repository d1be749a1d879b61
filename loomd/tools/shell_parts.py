"""What a shell line runs, part by part, with wrappers looked through. Pure.

Every part must pass. A part knows the folders in which it may run: `cd` before it counts, within
its subshell, and whether the `cd` succeeded is known only behind `&&`.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from typing import Final

from loomd.rules import HOME, MANY, MARKS, SOME
from loomd.tools.shell_line import Command, Redirect, parse
from loomd.tools.wrappers import SHELLS, STDIN, Inside, Run, inside, literal, program

MAX_PARTS: Final = 500
MAX_DEPTH: Final = 12

UNKNOWN: Final = SOME
"""A folder that cannot be known."""

HARMLESS: Final = frozenset(
    {
        "CI", "COLORTERM", "COLUMNS", "DEBUG", "FORCE_COLOR", "LANG", "LANGUAGE", "LINES",
        "NODE_ENV", "NO_COLOR", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONUNBUFFERED",
        "RUST_BACKTRACE", "RUST_LOG", "SOURCE_DATE_EPOCH", "TERM", "TZ", "VERBOSE",
    }
)  # fmt: skip
"""Variables that change what a program says, not what it runs or loads."""


@dataclass(frozen=True)
class Form:
    """A command that a part stands in: `timeout 5 pytest`, with `pytest` at word 2. at -1: the part
    does not stand in its words as it is."""

    words: tuple[str, ...]
    at: int


@dataclass(frozen=True)
class Part:
    """One command that runs. words: without wrappers; forms: with them, from within outwards.

    other  it runs as another user, or elsewhere: a rule for the bare command says nothing of it
    """

    words: tuple[str, ...]
    assigns: tuple[tuple[str, str], ...] = ()
    redirects: tuple[Redirect, ...] = ()
    forms: tuple[Form, ...] = ()
    cwds: tuple[str, ...] = (".",)
    other: str = ""
    writes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The program, without its folder; "" if there is none, or it cannot be known."""
        return program(self.words[0]) if self.words and literal(self.words[0]) else ""

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """Its variables but the harmless ones."""
        return tuple((name, value) for name, value in self.assigns if not _harmless(name))

    @property
    def whole(self) -> tuple[str, ...]:
        """Its words behind those variables, as they would be typed."""
        return (*(f"{name}={value}" for name, value in self.settings), *self.words)


@dataclass(frozen=True)
class Parts:
    parts: tuple[Part, ...]
    unclear: tuple[str, ...] = ()


def _harmless(name: str) -> bool:
    return name in HARMLESS or name.startswith("LC_")


def parts_of(text: str, cwd: str = ".") -> Parts:
    """Of a text for `sh -c`. `cwd`: where it starts, relative to the checkout or absolute."""
    taker = _Taker()
    taker.text(text, (cwd,), 0)
    return Parts(tuple(taker.parts), tuple(dict.fromkeys(taker.unclear)))


def parts_of_words(words: tuple[str, ...], cwd: str = ".") -> Parts:
    """Of one command that is started without a shell."""
    taker = _Taker()
    taker.command(Command(words), (cwd,), (), "", 0)
    return Parts(tuple(taker.parts), tuple(dict.fromkeys(taker.unclear)))


class _Taker:
    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.unclear: list[str] = []

    def text(self, text: str, cwds: tuple[str, ...], depth: int, other: str = "") -> None:
        if depth > MAX_DEPTH:
            self.unclear.append("it is nested too deeply")
            return
        line = parse(text, depth)
        self.unclear += line.unclear
        folders = _Folders(cwds)
        for command in line.commands:
            here = folders.of(command)
            self.command(command, here, (), other, depth)
            folders.after(command, here)

    def command(
        self,
        command: Command,
        cwds: tuple[str, ...],
        forms: tuple[Form, ...],
        other: str,
        depth: int,
    ) -> None:
        if len(self.parts) >= MAX_PARTS:
            if not self.unclear or self.unclear[-1] != TOO_MANY:
                self.unclear.append(TOO_MANY)
            return
        words = command.words
        if words and (not literal(words[0]) or not words[0]):
            self.unclear.append("which program runs is not known")
        found = (
            inside(words) if depth <= MAX_DEPTH else Inside(unclear=("it is nested too deeply",))
        )
        if found is None:
            if words and program(words[0]) in SHELLS and command.stdin is not None:
                found = Inside(unclear=("a script and a here-document at once",), itself=True)
            else:
                self._part(command, cwds, forms, other)
                return
        unclear = list(found.unclear)
        scripts = list(found.script)
        if STDIN in unclear and command.stdin is not None:
            unclear.remove(STDIN)
            if literal(command.stdin):
                scripts.append(command.stdin)
            else:
                unclear.append("the here-document of a shell is not known")
        self.unclear += unclear
        other = found.other or other
        alone = found.itself or not (found.runs or scripts)
        if alone or command.redirects or found.writes:
            part = replace(command, words=words if alone else ())
            self._part(part, cwds, forms, other, found.writes)
        for run in found.runs:
            self._run(command, run, cwds, forms, other, depth)
        for script in scripts:
            start = len(self.parts)
            self.text(script, cwds, depth + 1, other)
            outer = Form(words, -1)
            self.parts[start:] = [
                replace(
                    part,
                    forms=(*part.forms, outer, *forms),
                    assigns=(*command.assigns, *part.assigns),
                )
                for part in self.parts[start:]
            ]

    def _run(
        self,
        command: Command,
        run: Run,
        cwds: tuple[str, ...],
        forms: tuple[Form, ...],
        other: str,
        depth: int,
    ) -> None:
        if run.cwd:
            cwds = tuple(dict.fromkeys(joined(cwd, run.cwd) for cwd in cwds))
        inner = Command(
            run.words,
            (*command.assigns, *run.assigns),
            (),
            command.scope,
            command.after,
            command.stdin,
        )
        moved = tuple(replace(f, at=-1 if f.at < 0 or run.at < 0 else f.at + run.at) for f in forms)
        self.command(inner, cwds, (Form(command.words, run.at), *moved), other, depth + 1)

    def _part(
        self,
        command: Command,
        cwds: tuple[str, ...],
        forms: tuple[Form, ...],
        other: str,
        writes: tuple[str, ...] = (),
    ) -> None:
        self.parts.append(
            Part(command.words, command.assigns, command.redirects, forms, cwds, other, writes)
        )


TOO_MANY: Final = f"it has more than {MAX_PARTS} parts"


class _Folders:
    """Where the commands of a line may run: scope -> folders."""

    def __init__(self, start: tuple[str, ...]) -> None:
        self._at: dict[tuple[int, ...], tuple[str, ...]] = {(): start}
        self._before: dict[tuple[int, ...], tuple[str, ...]] = {}

    def of(self, command: Command) -> tuple[str, ...]:
        """Behind anything but `&&` a `cd` before may have failed."""
        scope = command.scope
        if scope not in self._at:
            outer = next(scope[:n] for n in range(len(scope), -1, -1) if scope[:n] in self._at)
            if command.after not in ("&&", ""):
                self._join(outer)
            self._at[scope] = self._at[outer]
        elif command.after not in ("&&", ""):
            self._join(scope)
        return self._at[scope]

    def _join(self, scope: tuple[int, ...]) -> None:
        before = self._before.pop(scope, ())
        self._at[scope] = tuple(dict.fromkeys((*self._at[scope], *before)))[:MAX_FOLDERS]

    def after(self, command: Command, here: tuple[str, ...]) -> None:
        """What a `cd` makes of it."""
        found = inside(command.words) if command.words else None
        words = command.words
        if found is not None and program(words[0]) in ("command", "builtin") and found.runs:
            words = found.runs[0].words
        if words and words[0] in ("eval", "source", "."):  # it may go anywhere
            self._at[command.scope] = tuple(dict.fromkeys((*here, UNKNOWN)))
        if not words or words[0] not in ("cd", "pushd", "popd", "chdir"):
            return
        rest = [word for word in words[1:] if word not in ("-L", "-P", "-e", "-@", "--")]
        if words[0] in ("cd", "chdir") and not rest:
            target = HOME
        elif words[0] == "popd" or len(rest) != 1 or rest == ["-"]:
            target = UNKNOWN
        else:
            target = rest[0]
        self._before[command.scope] = (*here, *self._before.get(command.scope, ()))
        self._at[command.scope] = tuple(dict.fromkeys(joined(cwd, target) for cwd in here))


MAX_FOLDERS: Final = 16


def joined(cwd: str, path: str) -> str:
    """A path as seen from `cwd`; UNKNOWN if its begin cannot be known."""
    if path.startswith((HOME, "/")):
        return posixpath.normpath(path)
    if path.startswith((SOME, MANY)) or any(mark in cwd for mark in MARKS - {HOME}):
        return UNKNOWN
    if any(mark in path for mark in MARKS):
        return UNKNOWN
    return posixpath.normpath(posixpath.join(cwd, path))
