"""The door of `offline/rules`: a resolved request in, an outcome out, as from any model. Pure."""

from __future__ import annotations

from functools import partial

from loomd.gateway.offline.coder import coder
from loomd.gateway.offline.lead import HINT, lead
from loomd.gateway.offline.researcher import researcher
from loomd.gateway.offline.reviewer import review
from loomd.gateway.offline.talk import Step, follow, read_talk
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
    step: Step
    match request.role:
        case "lead":
            step = partial(lead, talk)
        case "researcher":
            step = researcher
        case "coder":
            step = partial(coder, talk)
        case "tester":
            step = partial(tester, talk)
        case "reviewer":
            return review(request, talk)
        case _:
            return _no_rules(request)
    return _after(talk.answered, follow(step, talk, request.request))


def _after(answered: str, outcome: Outcome) -> Outcome:
    """The task was answered already, and something was said meanwhile: what is no job does not
    unmake that answer, and the answer to what is one comes after it."""
    if not answered:
        return outcome
    if isinstance(outcome, Failed) and outcome.kind in ("unknown_goal", "unknown_task"):
        return FinalAnswer(text=answered)
    if isinstance(outcome, FinalAnswer):
        return FinalAnswer(text=f"{answered}\n\n{outcome.text}")
    return outcome


def _no_rules(request: Resolved) -> Failed:
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
