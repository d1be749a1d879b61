"""May this call be made: allow, ask or deny. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["allow", "ask", "deny"]

ASKS: Final[dict[str, frozenset[str]]] = {
    "never": frozenset({"execute", "network"}),
    "on-request": frozenset({"execute", "network"}),
    "always": frozenset({"write", "execute", "network"}),
}
"""mode -> the accesses for which a person's word is needed; `never` denies what it may not ask."""


@dataclass(frozen=True)
class Decided:
    verdict: Verdict
    reason: str


def decide(
    mode: str, access: str, *, yes: bool = False, granted: Collection[str] = (), tool: str = ""
) -> Decided:
    """The rule for a call of `tool`. yes: the session was opened with --yes; granted: tools that a
    person has allowed for the whole session. An unknown mode is taken as the strictest."""
    if access not in ASKS.get(mode, ASKS["always"]):
        return Decided("allow", f"{access} needs no permission in mode {mode}")
    if yes:
        return Decided("allow", "the session was opened with --yes")
    if tool and tool in granted:
        return Decided("allow", f"{tool} was allowed for this session")
    if mode == "never":
        return Decided(
            "deny",
            f"{tool or 'this tool'} needs permission to {_verb(access)}, and permissions.mode is "
            "`never`: nobody is asked",
        )
    return Decided("ask", f"{tool or 'this tool'} wants to {_verb(access)}")


def _verb(access: str) -> str:
    return {
        "read": "read files",
        "write": "propose a change of files",
        "execute": "execute a command",
        "network": "use the network",
    }.get(access, access)
