"""The task board: what was asked for, by whom, of whom, and how it ended. Pure."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

TEXT_LIMIT: Final = 100_000
"""Characters of a task's text in its row; the whole lies in its owner's log."""

TITLE_LIMIT: Final = 100

TaskState = Literal["planned", "queued", "running", "done", "failed", "cancelled"]


class Task(msgspec.Struct, kw_only=True):
    """`owner`: the agent that does it; `parent`: the task it is part of; `call`: the `spawn` of
    `asker` that is answered when it ends ("" for a person's). `by`: who has assigned it, and is
    told of its end by a message. `planned`: a step of the plan that nobody was given yet."""

    id: str
    title: str
    text: str
    state: TaskState = "running"
    owner: str = ""
    parent: str = ""
    created: float = 0.0
    ended: float | None = None
    call: str = ""
    asker: str = ""
    kind: str = ""  # of a failure
    role: str = ""  # of the agent that a queued `spawn` or `assign` will start
    by: str = ""

    @property
    def open(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def unfinished(self) -> bool:
        return self.open or self.state == "planned"


def title_of(text: str) -> str:
    """The first line that says something, cut."""
    line = next((one.strip() for one in text.splitlines() if one.strip()), "")
    return line if len(line) <= TITLE_LIMIT else line[: TITLE_LIMIT - 1] + "…"


def new_task(number: int, text: str, now: float, **more: Any) -> Task:
    """Task `t-<number>`."""
    return Task(id=f"t-{number}", title=title_of(text), text=text[:TEXT_LIMIT], created=now, **more)


def close(task: Task, state: TaskState, now: float, kind: str = "") -> None:
    """Ends a task; one that has ended stays as it is."""
    if task.unfinished:
        task.state, task.ended, task.kind = state, now, kind


def row(task: Task) -> dict[str, Any]:
    plain = msgspec.to_builtins(task)
    assert isinstance(plain, dict)
    return plain


def from_row(value: Any) -> Task:
    return msgspec.convert(value, Task)
