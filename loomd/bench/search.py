"""The tool `grep` beside ripgrep alone."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from loomd.bench.report import Figure
from loomd.tools.builtin.grep import grep as tool
from loomd.tools.contract import Context

FILES: Final = 10_000
ROUNDS: Final = 30
GOAL: Final = 1.3


def grep(folder: Path) -> Iterator[Figure]:
    """Without the process of the call (see `tool_call`): what the search itself takes."""
    _plant(folder)
    ctx = Context(repo=folder, env={"PATH": os.environ["PATH"]})
    program = shutil.which("rg")
    try:
        samples, alone = [], []
        for turn in range(ROUNDS + 2):
            began = time.perf_counter()
            said = tool("needle_[0-9]+", ctx)
            between = time.perf_counter()
            if program:
                command = [program, "--no-config", "-n", "needle_[0-9]+", "."]
                found = subprocess.run(command, cwd=folder, capture_output=True, check=True)
                assert found.stdout.count(b"\n") == said.count("\n") + 1
            if turn >= 2:  # the files are in memory
                samples.append((between - began) * 1000)
                alone.append((time.perf_counter() - between) * 1000)
    finally:
        shutil.rmtree(folder)
    floor = statistics.median(alone) if program else None
    note = "floor: ripgrep alone" if program else "ripgrep is not installed: our own walk"
    goal = None if floor is None else GOAL * floor
    if floor is not None:
        note = f"{statistics.median(samples) / floor:.2f} x ripgrep (goal {GOAL}); {note}"
    yield Figure("grep", "ms", samples, goal, floor=floor, note=f"{FILES} files; {note}")


def _plant(folder: Path) -> None:
    """A git checkout of so many files of code, 25 MB, with one hit in every fiftieth."""
    line = "    value = compute(first, second)  # as before\n"
    for n in range(FILES):
        path = folder / f"pkg{n // 500}/part{n % 20}/module_{n}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        hit = f"needle_{n} = 1\n" if n % 50 == 0 else ""
        path.write_text(line * 50 + hit)
    for args in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *args], cwd=folder, check=True)
