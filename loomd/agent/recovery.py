"""What an agent on a rung of its recovery ladder runs with. Pure.

Two things climb the ladder: crashes, which the hub counts and tells (`AgentState.rung`), and
answers of the model that cannot be used, which the agent counts itself, per task (`failures`). The
higher of the two rungs holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from loomd.actor import ladder as lad
from loomd.actor.behaviour import Send, Spec
from loomd.actor.ladder import Parameters
from loomd.actor.roles import Role
from loomd.agent import view as vw
from loomd.agent.prompt import cut
from loomd.agent.state import AgentState
from loomd.store.tables import History
from loomd.wire.bodies import Entry, Offload, Recover

if TYPE_CHECKING:
    from loomd.agent.loop import Step

MENDABLE: Final = frozenset({"empty", "malformed", "context_overflow", "repeats"})
"""Failures of a model that other parameters, or a conversation begun anew, may mend."""

LEAST_VIEW: Final = 500
"""Tokens below which a view is not made smaller."""

REASON_TEXT: Final = 500
"""Bytes of a reason in an event."""


# --- what it runs with -------------------------------------------------------------------------


def rung_of(saved: AgentState) -> int:
    return max(saved.rung, saved.failures.rung if saved.failures is not None else 0)


def parameters_of(spec: Spec, saved: AgentState) -> Parameters:
    """What the next request is made with."""
    return lad.parameters(spec.ladder, rung_of(saved)) if spec.ladder else Parameters()


def fallback_of(spec: Spec, role: Role, settings: Mapping[str, Any]) -> str:
    """The first fallback of the model that this agent uses; "" if none is configured."""
    models = settings.get("models") or {}
    usual = spec.args.get("model") or role.model or (models.get("roles") or {}).get(spec.role)
    chain = (models.get("fallback") or {}).get(usual or models.get("default")) or ()
    return str(chain[0]) if chain else ""


def model(usual: str, fallback: str, with_: Parameters) -> str:
    """The model to ask."""
    if not with_.fallback:
        return usual
    return with_.model or fallback or usual


def temperature(usual: float | None, with_: Parameters) -> float | None:
    """Lower than usual, never higher."""
    if with_.temperature is None or (usual is not None and usual < with_.temperature):
        return usual
    return with_.temperature


def view_tokens(usual: int, with_: Parameters) -> int:
    """Of the view, in estimated tokens."""
    return usual if with_.view >= 1 else max(min(usual, LEAST_VIEW), int(usual * with_.view))


# --- climbing, and the way down ----------------------------------------------------------------


def recover(step: Step, body: Recover) -> None:
    """The hub counts its crashes: from here on it stands on this rung."""
    step.s.rung = min(max(body.rung, 0), len(step.agent.spec.ladder))
    if body.do == "conversation":
        begin_again(step, f"it failed again and again ({body.reason})")


def climb(step: Step, kind: str, detail: str) -> bool:
    """The model's answers cannot be used: on with what the ladder holds for that. False: there is
    nothing more, or nothing at all."""
    s, ladder = step.s, lad.answers(step.agent.spec.ladder)
    if not ladder or kind not in MENDABLE:
        return False
    before, history = rung_of(s), s.failures
    if history is None or history.rung < before:
        history = History(rung=before, since=step.now)
    s.failures = lad.climb(ladder, history, step.now)
    if s.failures.rung != before:
        _moved(step, before, "model", f"{kind}: {detail}")
    if s.failures.rung >= len(ladder):
        return False
    if lad.name_of(ladder, s.failures.rung) == "conversation":
        begin_again(step, f"the model's answers could not be used ({kind}: {detail})")
    else:
        step.tell(f"Your last answer could not be used ({kind}: {detail}). Try another way.")
        step.think()
    return True


def answered(step: Step) -> None:
    """The model has given an answer that can be used."""
    if step.s.failures is not None:
        ladder = lad.answers(step.agent.spec.ladder)
        lower = lad.steady(ladder, step.s.failures, step.now)
        if lower is not None:
            descend(step, lower, "its model answers again")


def descend(step: Step, lower: History | None, reason: str) -> None:
    """Failures of the model are forgotten, as far as `lower`."""
    before = rung_of(step.s)
    step.s.failures = lower if lower is not None and lower.rung else None
    if rung_of(step.s) != before:
        _moved(step, before, "steady", reason)


def _moved(step: Step, before: int, cause: str, reason: str) -> None:
    ladder = step.agent.spec.ladder
    step.emit(
        "recovery",
        {
            "name": step.agent.spec.name,
            "rung": lad.name_of(ladder, rung_of(step.s)),
            "from": lad.name_of(ladder, before),
            "cause": cause,
            "reason": cut(reason, REASON_TEXT),
        },
    )


def begin_again(step: Step, why: str) -> None:
    """The conversation starts from its task: a new view with the task, what awaits a verdict, and
    the last report. Nothing is lost: what leaves the view goes to a keeper."""
    s = step.s
    at_work = s.phase in ("thinking", "acting", "shrinking")
    step.abandon("the conversation was restarted")
    coming = [one.n for one in (*s.arrived, *s.aside)]
    task = s.task.entry if s.task is not None and s.task.entry.n not in coming else None
    awaited = set(s.reviews.values())
    old, s.view = s.view, vw.ViewState(index=s.view.index)
    if task is not None:
        vw.add(s.view, [task.n], task.tokens)
    s.view.blocks += [block for block in old.blocks if awaited & set(block.numbers())]
    held = max(task.n if task else 0, old.leaving.last if old.leaving else 0)
    left = [n for block in old.blocks for n in block.numbers() if n > held]
    first = min(left, default=1)
    last = min([max(left, default=0), *(n - 1 for n in (*awaited, *coming))])
    if first <= last:
        title = f"before the conversation was restarted: {s.task.text if s.task else ''}"
        offer = Offload(first=first, last=last, title=" ".join(title.split())[:80])
        step.out.append(Send(step.agent.team, offer))
    s.counters.history.clear()
    s.counters.retries = s.counters.shrinks = 0
    text = (
        f"This conversation was restarted from its task, because {why}. Calls under way were "
        "cancelled; your claims and tasks are still yours; files are as you left them. "
        "recall(query) searches what was said before."
    )
    if s.report:
        text += f"\nYour last report was: {s.report}"
    s.aside.append(step.append(Entry(role="note", text=text)))
    if at_work:
        step.think()
