"""diagnostics(path)"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loomd.tools import findings
from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, ToolError, tool
from loomd.tools.findings import Finding

LIMIT: Final = 500
EACH_S: Final = 60.0
"""Seconds that one linter may take."""

COMPILED: Final = 2_000
STARTED: Final = 50
"""Files that are looked at by ourselves, and those for which a program is started each."""


@tool(access="read")
def diagnostics(ctx: Context, path: str = ".") -> str:
    """Errors and warnings of a file or a folder, as `path:line:column: severity: text [rule]`. Of
    Python by ruff and pyright (or mypy, where the project has set it up) if the project or the
    session has them, else whether it compiles; JSON, TOML, JavaScript, shell, Ruby and PHP are
    parsed. No code of the project is run, and nothing is changed.

    Args:
        path: relative to the checkout
    """
    place = _checkout.resolve(ctx, path)
    if not place.exists():
        raise _checkout.missing(ctx, path, place)
    shown = _checkout.shown(ctx, place)
    names = _checkout.listed(ctx, shown) if place.is_dir() else [shown]
    root = ctx.repo.resolve()
    run = _Run(ctx, root, shown)
    python = [name for name in names if name.endswith((".py", ".pyi"))]
    linted = run.linters(python) if python else False
    for name in names[:COMPILED]:
        if name.endswith((".json", ".toml")) or (name in python and not linted):
            run.parsed(name)
    started = [n for n in names if n.rpartition(".")[2] in _PARSERS and not n.startswith("-")]
    for name in started[:STARTED]:
        run.started(name)
    return run.said(len(names))


_PARSERS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("js", "mjs", "cjs"), ("node", "--check")),
    **dict.fromkeys(("sh", "bash"), ("bash", "-n")),
    "rb": ("ruby", "-c"),
    "php": ("php", "-l"),
}
"""Ending -> a command that parses a file and runs nothing of it."""


class _Run:
    """by: programs that have looked, with what each found; notes: what could not be done."""

    def __init__(self, ctx: Context, root: Path, shown: str) -> None:
        self.ctx = ctx
        self.root = root
        self.shown = shown
        self.found: list[Finding] = []
        self.by: list[str] = []
        self.notes: list[str] = []
        venvs = [root / ".venv", root / "venv", Path(ctx.env.get("VIRTUAL_ENV") or "/nonexistent")]
        folders = [str(venv / "bin") for venv in venvs]
        self.path = os.pathsep.join([*folders, ctx.env.get("PATH", "")])

    def linters(self, python: Sequence[str]) -> bool:
        """Was it looked at by one that reports what does not compile?"""
        options = ["check", "--no-cache", "--no-fix", "--force-exclude", "--output-format=json"]
        linted = self._lint("ruff", [*options, "--", self.shown], findings.of_ruff)
        for name in ("pyright", "basedpyright"):
            if self._lint(name, ["--outputjson", self.shown], findings.of_pyright):
                return True
        if _has_mypy(self.root):
            options = ["--no-error-summary", "--show-column-numbers", "--no-color-output",
                       "--no-pretty", "--cache-dir=/dev/null"]  # fmt: skip
            return self._lint("mypy", [*options, "--", self.shown], findings.of_mypy) or linted
        return linted

    def _lint(
        self, name: str, args: Sequence[str], read: Callable[[bytes, str], list[Finding]]
    ) -> bool:
        program = shutil.which(name, path=self.path)
        if program is None:
            return False
        done = self._call([program, *args])
        if done is None:
            self.notes.append(f"{name} did not end within {EACH_S:g} s")
            return False
        try:
            if done.returncode not in (0, 1):
                raise ValueError(f"exit code {done.returncode}")
            self.found += read(done.stdout, str(self.root))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            said = done.stderr.decode("utf-8", "replace").strip()[-300:]
            self.notes.append(f"{name} failed: {said or error}")
            return False
        self.by.append(name)
        return True

    def parsed(self, name: str) -> None:
        try:
            data = _checkout.content(self.ctx, name, self.root / name)
        except ToolError as error:
            self.notes.append(error.text)
            return
        if (found := findings.unparsed(name, data)) is not None:
            self.found.append(found)
        self._note("compile" if name.endswith((".py", ".pyi")) else name.rpartition(".")[2])

    def started(self, name: str) -> None:
        """The parser of a language, if it is installed."""
        program, *args = _PARSERS[name.rpartition(".")[2]]
        where = shutil.which(program, path=self.path)
        if where is None:
            return
        done = self._call([where, *args, name])
        if done is None:
            self.notes.append(f"{program} did not end within {EACH_S:g} s on {name}")
            return
        self._note(program)
        if done.returncode != 0:
            said = (done.stderr + done.stdout).decode("utf-8", "replace")
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            text = next((line for line in lines if "rror" in line), lines[0] if lines else "")
            self.found.append(
                Finding(name, _line_in(said, name), 0, "error", text[:300], "", program)
            )

    def _call(self, command: list[str]) -> subprocess.CompletedProcess[bytes] | None:
        env = {**self.ctx.env, "PATH": self.path, "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}
        try:
            return subprocess.run(
                command, cwd=self.root, env=env, stdin=subprocess.DEVNULL, capture_output=True,
                timeout=EACH_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
        except OSError as error:
            return subprocess.CompletedProcess(command, 127, b"", str(error).encode())

    def _note(self, name: str) -> None:
        if name not in self.by:
            self.by.append(name)

    def said(self, files: int) -> str:
        found = sorted({one for one in self.found if not self.ctx.barred.left_out(one.path)})
        lines = [one.shown() for one in found[:LIMIT]]
        if len(found) > LIMIT:
            lines.append(f"[{len(found) - LIMIT} more]")
        by = ", ".join(self.by) or "nothing that knows these files"
        what = "1 problem" if len(found) == 1 else f"{len(found) or 'no'} problems"
        lines.append(f"[{what} in {files} files; looked at by {by}]")
        return "\n".join([*lines, *(f"[{note}]" for note in self.notes[:20])])


def _line_in(said: str, name: str) -> int:
    """The first number behind the file's name, or behind `line`."""
    for mark in (f"{name}:", f"{name}: line ", "on line ", "line "):
        _, found, rest = said.partition(mark)
        digits = rest.lstrip()[: len(rest.lstrip()) - len(rest.lstrip().lstrip("0123456789"))]
        if found and digits:
            return int(digits)
    return 0


def _has_mypy(root: Path) -> bool:
    """Has the project set mypy up, without plugins? Those are code that would be run."""
    for name, mark in (("mypy.ini", "[mypy"), (".mypy.ini", "[mypy"), ("setup.cfg", "[mypy"),
                       ("pyproject.toml", "[tool.mypy")):  # fmt: skip
        try:
            text = (root / name).read_text("utf-8", "replace")
        except OSError:
            continue
        if mark in text:
            return "plugins" not in text
    return False
