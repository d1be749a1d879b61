"""Jobs, commands in the background, as the tool host's behaviour sees them. Pure.

A background call opens two effects in one commit: `job-ID`, open for as long as the job runs, and
the call's own, which ends when the command has begun. A job's row stands in table `jobs` from its
beginning. One whose tool host has died is lost: its effect ends so when the next host finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from loomd.wire import codec
from loomd.wire.bodies import Body, Propose, ToolCall, ToolResult

EFFECT: Final = "job-"

MAX_JOBS: Final = 8
"""That run in a session at once, unless [limits] says otherwise."""

SHOWN: Final = 2_000
"""Characters of a command in a row."""

TEXT: Final = 8_000
"""Characters of what a job's end is told as, in its row."""

STATES: Final[Mapping[str, str]] = {
    "": "done",
    "cancelled": "killed",
    "timeout": "timeout",
    "idle": "idle",
    "crashed": "crashed",
    "interrupted": "lost",
}
"""Error of the last result -> state of the job; any other: failed."""

LOST: Final = (
    "it died with the tool host, which was killed or replaced by new code; what it printed last is "
    "lost, and nothing that it changed in a private copy was kept"
)


# The names of built-in tools are nobody else's.


def wanted(call: ToolCall) -> bool:
    """Whether this call begins a job."""
    said = call.args.get("background")
    if isinstance(said, str):
        said = said.lower() == "true"
    return call.name == "shell" and said is True


def about(call: ToolCall) -> bool:
    """Whether this call speaks with a job; the tool host answers it itself."""
    return call.name == "job"


def aside(call: ToolCall) -> bool:
    """Whether a call has no process of its own, and so waits in no line: jobs have a limit of
    their own, and who polls one must not keep others from their calls."""
    return about(call) or wanted(call)


def begun(id: str, session: str, call: ToolCall, now: float) -> dict[str, Any]:
    """The row of a job that has just been asked for."""
    command = str(call.args.get("command"))
    return {
        "id": id,
        "session": session,
        "agent": call.agent,
        "call": call.id,
        "task": call.task,
        "command": command if len(command) <= SHOWN else f"{command[:SHOWN]}...",
        "pty": bool(call.args.get("pty")),
        "state": "running",
        "started": now,
        "ended": 0.0,
        "exit": None,
        "text": "",  # how it ended
        "output": "",  # blob: all that it printed
        "proposal": "",  # blob: a Propose, until an agent has asked how the job ended
    }


def state_of(body: Body) -> str:
    """done | failed | killed | timeout | idle | crashed | lost"""
    match body:
        case Propose():
            return "done"
        case ToolResult():
            return STATES.get(body.error, "failed")
        case _:
            return "crashed"


def ended(row: Mapping[str, Any], said: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Its row after its end, of which `note` has made `said`."""
    body = codec.body(said["body"])
    code = 0 if isinstance(body, Propose) else None
    if isinstance(body, ToolResult):
        code = body.data.get("exit")
    return {
        **row,
        "state": state_of(body),
        "exit": code,
        "ended": now,
        "text": said["text"][-TEXT:],
        "output": said["output"],
        "proposal": said["proposal"],
    }


def lost(id: str) -> ToolResult:
    """What came of a job whose tool host has died."""
    return ToolResult(id=id, ok=False, error="interrupted", text=LOST)


def told(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of a row, for the session's log."""
    names = ("id", "agent", "call", "command", "state", "exit")
    return {name: row[name] for name in names}


def note(body: Body, text: str, output: str = "", proposal: str = "") -> dict[str, Any]:
    """How a job's effect ends: the data of a Note. text: how that is told; output, proposal: blobs
    of all that it printed and of the Propose that came of it."""
    raw = (
        codec.encode(msgspec.structs.replace(body, files=(), note=""))
        if isinstance(body, Propose)
        else codec.encode(body)
    )
    return {"body": raw, "text": text, "output": output, "proposal": proposal}


def lost_note(id: str) -> dict[str, Any]:
    """The same of a job whose tool host has died."""
    return note(lost(id), LOST)
