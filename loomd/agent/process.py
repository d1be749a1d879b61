"""The process of one agent: the roles that ship, then the generic host."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from loomd.actor.roles import Role, parse_role
from loomd.agent.loop import AgentBehaviour

if TYPE_CHECKING:
    from loomd.supervise.link import ProcessBirth

PACKAGE_ROLES = Path(__file__).parent / "roles"


@cache
def package_roles() -> dict[str, Role]:
    """The roles that ship with loomd."""
    found = (parse_role(path.read_text(), path.stem) for path in PACKAGE_ROLES.glob("*.md"))
    return {role.name: role for role in found}


def behaviour() -> AgentBehaviour:
    """One that knows the roles that ship."""
    return AgentBehaviour(package_roles())


def main(birth: ProcessBirth) -> None:
    """Entry point. What the user and the repo have written of roles stands in the state."""
    from loomd.actor.host import run

    run(birth, behaviour(), None)
