"""The review gate: who may judge an edit, and what a verdict is. Pure.

An edit needs a different agent than its author. Reviewers are started when the first edit waits;
one that ends without a verdict is replaced, and after `PATIENCE` of them the edit is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from loomd.team.edits import Edit, cut
from loomd.team.roster import Agent
from loomd.wire.bodies import ReviewRequest

PATIENCE: Final = 2
REASON_LIMIT: Final = 8_000

_VERDICTS: Final = {
    "approve": "approve",
    "approved": "approve",
    "accept": "approve",
    "lgtm": "approve",
    "revise": "revise",
    "request_changes": "revise",
    "changes_requested": "revise",
    "refuse": "refuse",
    "refused": "refuse",
    "reject": "refuse",
    "rejected": "refuse",
}


def verdict(text: str) -> str:
    """approve | revise | refuse, or "" if the word is none of them."""
    return _VERDICTS.get(text.strip().lower().replace(" ", "_").replace("-", "_"), "")


def choose(agents: Iterable[Agent], author: str) -> str:
    """A reviewer at work that is not the author; "" if there is none."""
    for agent in agents:
        if agent.gate and not agent.stopping and agent.name != author:
            return agent.name
    return ""


def request(edit: Edit) -> ReviewRequest:
    """What the reviewer gets: the diff is what is judged, the blobs are there to look around."""
    return ReviewRequest(
        edit=edit.id,
        author=edit.author,
        reason=edit.reason or f"{edit.tool} of {edit.what}",
        diff=cut(edit.diff, 100_000),
        paths=edit.paths,
    )
