"""The recovery ladder of an actor that fails again and again: what its successor runs with. Pure.

    restart        as it was
    parameters     with other ones: a fallback model, a lower temperature, a smaller view
    conversation   from its task, with a new view; what was said stays in the log
    (the end)      it is given up, and the team is told

Each rung holds for `count` failures within `period_s`; one more climbs to the next, whose first
failure that one is. A rung that has held for its period without a failure is left downward. Whether
the process is restarted at all is its supervisor's decision, with its own intensity: the ladder
stands below that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from loomd.store.tables import History

Do = Literal["restart", "parameters", "conversation"]

GIVE_UP: Final = "give_up"
"""What stands above the last rung, in events."""


class Rung(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`model` "": the first fallback of the model that the actor uses; `temperature` None: as it
    was; `view`: share of the usual size. A rung keeps what the rungs below it have set."""

    do: Do = "restart"
    count: int = 1
    period_s: float = 60.0
    model: str = ""
    temperature: float | None = None
    view: float = 1.0


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What a rung comes to. `fallback`: another model than the usual one is to be asked, `model`
    or, if that is "", the first fallback of the usual one."""

    fallback: bool = False
    model: str = ""
    temperature: float | None = None
    view: float = 1.0


def climb(ladder: Sequence[Rung], history: History, now: float) -> History:
    """After a failure at `now`. The rung may be `len(ladder)`: give it up."""
    rung = min(history.rung, len(ladder))
    if rung == len(ladder):
        return History(rung=rung, since=now)
    period = ladder[rung].period_s
    # Of a clock that was set back nothing is held against anybody.
    falls = tuple(at for at in history.falls if 0 <= now - at <= period)
    if len(falls) < ladder[rung].count:
        return History(rung=rung, falls=(*falls, now), since=history.since or now)
    rung += 1
    while rung < len(ladder) and ladder[rung].count == 0:
        rung += 1
    return History(rung=rung, falls=(now,), since=now)


def steady(ladder: Sequence[Rung], history: History, now: float) -> History | None:
    """After a success at `now`: the history to go on with, one rung lower if this one has held for
    its period; None if nothing changes."""
    if history.rung == 0 or not ladder:
        return None
    rung = min(history.rung, len(ladder) - 1)
    last = max((history.since, *history.falls))
    if 0 <= now - last <= ladder[rung].period_s:
        return None
    return History(rung=rung - 1, since=now)


def parameters(ladder: Sequence[Rung], rung: int) -> Parameters:
    """What to run with on `rung`: all that it and the rungs below it have set."""
    made = Parameters()
    for one in ladder[: rung + 1]:
        if one.do == "restart":
            continue
        made = Parameters(
            fallback=made.fallback or one.do == "parameters",
            model=one.model or made.model,
            temperature=made.temperature if one.temperature is None else one.temperature,
            view=min(made.view, one.view),
        )
    return made


def answers(ladder: Sequence[Rung]) -> tuple[Rung, ...]:
    """The same ladder for failed answers of a model: another try alone would change nothing."""
    return tuple(
        msgspec.structs.replace(one, count=0) if one.do == "restart" else one for one in ladder
    )


def name_of(ladder: Sequence[Rung], rung: int) -> str:
    """What is done on `rung`, for events and people."""
    return ladder[rung].do if rung < len(ladder) else GIVE_UP


def of_settings(settings: Mapping[str, Any]) -> tuple[Rung, ...]:
    """The ladder of agents from the table `[recovery]`; the default one where that is silent."""
    table = settings.get("recovery") or {}

    def held(key: str, default: tuple[int, float]) -> dict[str, Any]:
        count, period = table.get(key) or default
        return {"count": int(count), "period_s": float(period)}

    temperature = table.get("temperature")
    return (
        Rung(do="restart", **held("restart", (3, 60.0))),
        Rung(
            do="parameters",
            **held("parameters", (2, 300.0)),
            model=str(table.get("model") or ""),
            temperature=0.0 if temperature is None else float(temperature),
            view=float(table.get("view") or 0.5),
        ),
        Rung(do="conversation", **held("conversation", (1, 600.0))),
    )
