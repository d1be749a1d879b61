"""The plan: tasks of the board in an order, in versions. Pure.

A step is a task. One that nobody does yet is `planned`: `assign` or `spawn` gives it to an agent by
its id, a later version that leaves it out drops it. What has begun goes on, whatever is planned.
Every version is an event and a node of the decision graph, so none of them is lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from loomd.team.roster import short
from loomd.team.tasks import Task

MAX_STEPS: Final = 40
REASON_LIMIT: Final = 2_000

_ID: Final = re.compile(r"t-\d{1,9}")


def is_id(step: str) -> bool:
    """Does it name a task of the board?"""
    return _ID.fullmatch(step.strip()) is not None


def listing(steps: Sequence[Task]) -> str:
    """One numbered line per step."""
    return "\n".join(
        f"{i}. {task.id} [{task.state}{' ' + short(task.owner) if task.owner else ''}] {task.title}"
        for i, task in enumerate(steps, 1)
    )
