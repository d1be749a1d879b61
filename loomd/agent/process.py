"""The process of one agent: roles from disk, then the generic host."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from loomd.agent.loop import AgentBehaviour
from loomd.agent.prompt import Role, parse_role
from loomd.wire.errors import LoomError

if TYPE_CHECKING:
    from loomd.supervise.link import ProcessBirth

PACKAGE_ROLES = Path(__file__).parent / "roles"


def read_roles(folder: Path) -> tuple[dict[str, Role], dict[str, str]]:
    """The roles in `folder` by name, and the files that hold none: {name of the file: why}. These
    are left out, so that a slip in a custom role does not stop the agents of other roles."""
    roles, broken = {}, {}
    for path in sorted(folder.glob("*.md")):
        try:
            role = parse_role(path.read_text(encoding="utf-8"), path.stem, str(path))
        except (LoomError, OSError, UnicodeDecodeError) as error:
            said = error.message if isinstance(error, LoomError) else f"{path}: {error}"
            structlog.get_logger().error("role left out", path=str(path), error=said)
            broken[path.stem] = said
            continue
        roles[role.name] = role
    return roles, broken


@cache
def package_roles() -> dict[str, Role]:
    """The roles that ship with loomd."""
    return read_roles(PACKAGE_ROLES)[0]


def behaviour() -> AgentBehaviour:
    """One with the roles that ship, for a look at saved states."""
    return AgentBehaviour(package_roles())


def main(birth: ProcessBirth) -> None:
    """Entry point. The user's roles stand in `roles/` beside the config file and win."""
    from loomd.actor.host import run

    custom, broken = read_roles(Path(birth.args["config"]).parent / "roles")
    run(birth, AgentBehaviour({**package_roles(), **custom}, broken), None)
