"""What stays of each agent's commands: its folder and variables, over calls and over restarts.

A row of table `tool_state` per agent, written with the commit of the call that changed it, like the
state of any tool; but no call waits for another's. What may be a secret stays in this process alone
and is gone with it.
"""

from __future__ import annotations

from typing import Any, Final

from loomd.actor.behaviour import Reader
from loomd.store.schema import text_key
from loomd.tools import shellenv

TOOL: Final = "shell"

PREFIX: Final = f"{TOOL}@"
"""Of the names of these rows; the agent's name follows."""


class Surroundings:
    """Of one session."""

    def __init__(self, session: str, reader: Reader) -> None:
        self.session = session
        self.reader = reader
        self._now: dict[str, dict[str, Any]] = {}

    def of(self, agent: str) -> dict[str, Any]:
        """What the agent's next command begins with."""
        if agent not in self._now:
            row = self.reader.row("tool_state", text_key(self.session, _name(agent)))
            self._now[agent] = {**shellenv.EMPTY, **(row if isinstance(row, dict) else {})}
        return self._now[agent]

    def left(self, agent: str, given: dict[str, Any], left: Any) -> dict[str, Any] | None:
        """What a command has left; {tool, value} to be stored, None if nothing has changed.
        ValueError if it is nothing of ours: the process that said it is not trusted."""
        checked = _checked(left)
        now = self.of(agent)
        made = shellenv.merged(now, given, checked)
        if made == now:
            return None
        self._now[agent] = made
        return {"tool": _name(agent), "value": shellenv.durable(made)}


def _name(agent: str) -> str:
    return f"{PREFIX}{agent}"


def _checked(left: Any) -> dict[str, Any]:
    cwd, env, unset = left["cwd"], left["env"], left["unset"]
    names = [*env, *env.values(), *unset, cwd]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("folder and variables are texts")
    if sum(len(name) for name in names) > 2 * shellenv.KEPT_BYTES:
        raise ValueError("too much to be kept")
    return {"cwd": cwd, "env": dict(env), "unset": list(unset)}
