"""From samples to what is printed. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """What a figure function yields.

    goal    of `judged` (p50, p99 or max), in `unit`; None: none is set
    floor   the same by the bare mechanism, in the same run and unit; None: not measured
    more    bigger is better (rates)
    """

    name: str
    unit: str
    samples: Sequence[float]
    goal: float | None = None
    judged: str = "p50"
    floor: float | None = None
    note: str = ""
    more: bool = False


@dataclass(frozen=True)
class Line:
    """One object of the bench's JSON."""

    name: str
    unit: str
    n: int
    p50: float
    p95: float
    p99: float
    max: float
    goal: float | None
    missed: bool
    floor: float | None
    note: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank. `ordered` ascending and not empty."""
    rank = math.ceil(round(share * len(ordered), 9))
    return ordered[max(0, rank - 1)]


def line(figure: Figure) -> Line:
    ordered = sorted(figure.samples)
    values = {
        "p50": percentile(ordered, 0.5),
        "p95": percentile(ordered, 0.95),
        "p99": percentile(ordered, 0.99),
        "max": ordered[-1],
    }
    judged = values[figure.judged]
    missed = figure.goal is not None and (
        judged < figure.goal if figure.more else judged > figure.goal
    )
    note = figure.note
    if figure.goal is not None:
        bound = ">=" if figure.more else "<="
        said = f"goal {figure.judged} {bound} {figure.goal:g} {figure.unit}"
        note = f"{said}: {'MISSED' if missed else 'met'}" + (f"; {note}" if note else "")
    if figure.floor is not None:
        note += f"; floor {figure.floor:.3g} {figure.unit}"
    return Line(
        name=figure.name,
        unit=figure.unit,
        n=len(ordered),
        **{key: round(value, 4) for key, value in values.items()},
        goal=figure.goal,
        missed=missed,
        floor=None if figure.floor is None else round(figure.floor, 4),
        note=note.removeprefix("; "),
    )


def text(line: Line) -> str:
    """One line for people."""
    return (
        f"{line.name:<22} {line.p50:>10.3f} {line.p95:>10.3f} {line.p99:>10.3f} {line.max:>10.3f}"
        f" {line.unit:<9} n={line.n:<6} {line.note}"
    )


HEAD = f"{'':<22} {'p50':>10} {'p95':>10} {'p99':>10} {'max':>10}"
