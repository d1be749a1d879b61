"""The door of `offline/rules`: a resolved request in, an outcome out, as from any model. Pure."""

from __future__ import annotations

from functools import partial

from loomd.gateway.offline.coder import coder
from loomd.gateway.offline.lead import HINT, lead
from loomd.gateway.offline.researcher import researcher
from loomd.gateway.offline.reviewer import review
from loomd.gateway.offline.talk import follow, read_talk
from loomd.gateway.offline.tester import tester
from loomd.gateway.types import Resolved
from loomd.wire.bodies import Failed, FinalAnswer, Outcome


def complete(request: Resolved) -> Outcome:
    """The next move of the agent whose conversation this is.

    Deterministic and stateless: the same conversation gets the same answer. Calls are numbered
    `REQUEST.1`, `REQUEST.2`. Failed kinds of its own: unknown_goal bad_goal conflict not_found
    research_failed incomplete tests_failed too_large unknown_task search_failed.
    """
    if request.purpose in ("ask", "title"):
        return _from_text(request)
    talk = read_talk(request)
    if request.purpose == "review":
        return review(request, talk)
    match request.role:
        case "lead":
            return follow(partial(lead, talk), talk, request.request)
        case "researcher":
            return follow(researcher, talk, request.request)
        case "coder":
            return follow(partial(coder, talk), talk, request.request)
        case "tester":
            return follow(partial(tester, talk), talk, request.request)
        case "reviewer":
            return review(request, talk)
    return Failed(
        kind="unknown_goal",
        detail=f"offline/rules has no rules for the role {request.role!r}: it can be lead, "
        "researcher, coder, reviewer, tester",
        hint=HINT,
    )


def _from_text(request: Resolved) -> Outcome:
    """Asked to answer from a text (a keeper's ask, a title): it quotes, it cannot compose."""
    asked = next((e.text for e in reversed(request.entries) if e.role == "user"), "")
    first = next((line.strip() for line in asked.split("\n") if line.strip()), "")
    if request.purpose == "title":
        return FinalAnswer(text=first[:60] or "untitled")
    return Failed(
        kind="unknown_goal",
        detail="offline/rules cannot answer questions in its own words; search and exact recall "
        "need no model",
        hint=HINT,
    )
