"""Who is in the team: names, sizes, specs, who waits for whom. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from loomd.actor.behaviour import Spec
from loomd.actor.ladder import Rung

ONE_OF_A_KIND: Final = frozenset({"lead", "reviewer"})
"""Roles whose first agent is called like the role; the others count from 1."""

NICE: Final = 10

DEPTH: Final = 4
"""How long a chain of agents that wait for each other's report may be."""

SPARE: Final = 20
"""Agents and queued spawns beyond the team size at which further ones are refused."""

_ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_RESERVED: Final = frozenset({"lead", "team", "tools", "user", "all", "hub", "keeper"})


class Agent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`task`: what it does now ("": nothing). `parent`: who spawned it and waits for its report.
    `gate`: reviews edits for the gate, stays until the session ends. `kept`: entries of its log
    that a keeper has. `stopping`: told to stop; its report ends it."""

    name: str
    role: str
    task: str = ""
    parent: str = ""
    gate: bool = False
    kept: int = 0
    stopping: bool = False


def bad_role(role: str) -> str:
    """Why nobody can be spawned in this role; "" if somebody can."""
    if role == "lead":
        return "there is one lead; spawn a researcher, coder, reviewer or tester"
    if not _ROLE.fullmatch(role) or role in _RESERVED:
        return f"{role!r} is no role: researcher, coder, reviewer, tester, or a custom one"
    return ""


def name_for(session: str, role: str, number: int) -> str:
    """`S/lead`, `S/reviewer`, `S/reviewer-2`, `S/coder-1`."""
    plain = number == 1 and role in ONE_OF_A_KIND
    return f"{session}/{role}" if plain else f"{session}/{role}-{number}"


def short(name: str) -> str:
    """`coder-1` of `S/coder-1`."""
    return name.rpartition("/")[2]


def working(agents: Mapping[str, Agent], waiting: Collection[str]) -> list[str]:
    """Who works: neither reviews for the gate nor waits for a report, nor is among `waiting`."""
    asking = {agent.parent for agent in agents.values()}
    return [
        agent.name
        for agent in agents.values()
        if not agent.gate and agent.name not in asking and agent.name not in waiting
    ]


def depth(agents: Mapping[str, Agent], name: str) -> int:
    """How many wait, one for the other, for this agent."""
    found = 0
    while name in agents and agents[name].parent and found <= len(agents):
        found += 1
        name = agents[name].parent
    return found


def listed(agents: Mapping[str, Agent]) -> str:
    """Who is there and what they do, for an answer to a model."""
    return ", ".join(
        f"{short(agent.name)} ({agent.task or 'no task'})"
        for agent in agents.values()
        if not agent.gate
    )


def waits(agents: Mapping[str, Agent]) -> dict[str, set[str]]:
    """Who waits for whose report."""
    edges: dict[str, set[str]] = {}
    for agent in agents.values():
        if agent.parent:
            edges.setdefault(agent.parent, set()).add(agent.name)
    return edges


def descends(agents: Mapping[str, Agent], name: str, ancestor: str) -> bool:
    """Does `ancestor` wait, directly or through others, for `name` to report?"""
    seen: set[str] = set()
    while name in agents and name not in seen:
        seen.add(name)
        name = agents[name].parent
        if name == ancestor:
            return bool(name)
    return False


def agent_spec(
    session: str, agent: Agent, team: Mapping[str, Any], goal: str, ladder: tuple[Rung, ...] = ()
) -> Spec:
    """The spec of an agent; `team` is the team's own spec.args."""
    args: dict[str, Any] = {
        "repo": team.get("repo") or "",
        "rules": str(team.get("rules") or "")[:32_000],
        "team_size": team_size(team),
        "model": team.get("model") or "",
        "yes": bool(team.get("yes")),
        "answers": team.get("answers") or "",
        "budget_usd": team.get("budget_usd"),
        "limits": team.get("limits") or {},
        "goal": goal[:4_000],
    }
    return Spec(
        name=agent.name,
        kind="agent",
        session=session,
        role=agent.role,
        args=args,
        ladder=ladder,
        nice=NICE,
    )


def team_size(team: Mapping[str, Any]) -> int:
    """How many agents may work beside each other. Who waits for a report does not count, nor do
    the gate's reviewers."""
    found = team.get("team")
    return found if isinstance(found, int) and found > 0 else 6
