"""From a proposal to the disk: claims, review, one apply at a time, the author's answer."""

from __future__ import annotations

from loomd.actor import behaviour as act
from loomd.store.standing import UNDO
from loomd.team import edits as ed
from loomd.team import review
from loomd.team.claims import BadRegion, Claim, clean_path
from loomd.team.edits import Edit, EditState
from loomd.team.roster import Agent, short
from loomd.team.turn import Turn
from loomd.wire.bodies import Applied, Apply, Changed, Propose


def propose(turn: Turn, sender: str, body: Propose) -> None:
    """A new edit. Refused before the disk is touched if it breaks into another's claim."""
    team = turn.team
    if sender != team.tools:
        turn.ignored("propose", sender, "only the tool host proposes")
        return
    if body.agent not in turn.s.agents or turn.s.phase != "running":
        turn.ignored("propose", body.agent, "its author is not at work any more")
        return
    if any(edit.call == body.call for edit in team.edits.values()):
        turn.ignored("propose", body.agent, f"{body.call} has proposed already")
        return
    if not body.files:
        turn.answer(body.agent, body.call, body.note or "nothing changed")
        return
    edit = ed.from_proposal(turn.number("edit"), body, turn.now)
    team.edits[edit.id] = edit
    _said(turn, edit)
    for change in body.files:
        try:
            clean = clean_path(change.path)
        except BadRegion as error:
            _end(turn, edit, "refused", str(error))
            return
        if clean != change.path:
            _end(turn, edit, "refused", f"{change.path} is not a plain path within the checkout")
            return
    if not _guarded(turn, edit):
        turn.put_edit(edit)  # `settle` takes it on


def _said(turn: Turn, edit: Edit) -> None:
    turn.emit(
        "edit_proposed",
        edit=edit.id,
        author=edit.author,
        files=list(edit.paths),
        reason=edit.reason,
        diff=ed.cut(edit.diff, ed.EVENT_DIFF),
    )


def _guarded(turn: Turn, edit: Edit) -> bool:
    """Refuses an edit that would break into another's claim."""
    held = guard(turn, edit)
    if held is not None:
        why = f"{held.place} is claimed by {short(held.agent)} ({held.id})"
        _end(turn, edit, "refused", why)
    return held is not None


def guard(turn: Turn, edit: Edit) -> Claim | None:
    """The claim of another that an edit would break into."""
    team = turn.team
    for change in edit.files:
        spans = edit.spans.get(change.path, [])
        held = team.claims.guarding(edit.author, change, spans, team.related)
        if held is not None:
            return held
    return None


def admit(turn: Turn, edit: Edit) -> None:
    """An undo: a person has asked for it, so nobody reviews it. One that has nothing left to do is
    applied here and now."""
    turn.team.edits[edit.id] = edit
    _said(turn, edit)
    if edit.files:
        _pass(turn, edit)
    else:
        _end(turn, edit, "applied", "the files stood as before already")


def _advance(turn: Turn, edit: Edit) -> None:
    """On from `proposed`: parked, to a reviewer, or straight to the disk."""
    if ed.in_the_way(edit, turn.team.edits.values()) is not None:
        return
    if turn.team.review or edit.review:
        _send_to_review(turn, edit)
    else:
        _approve(turn, edit)


def _send_to_review(turn: Turn, edit: Edit) -> None:
    name = review.choose(turn.s.agents.values(), edit.author)
    if not name:
        name = turn.agent("reviewer", gate=True).name
    edit.state, edit.reviewer = "reviewing", name
    turn.put_edit(edit)
    turn.out.append(act.Send(name, review.request(edit)))


def verdict(turn: Turn, reviewer: str, call: str, id: str, said: str, reason: str) -> None:
    """The call `review(edit, verdict, reason)` of the reviewer that was asked."""
    edit = turn.team.edits.get(id)
    if edit is None:
        fate = turn.team.ended.get(id)
        text = f"{id} has ended: {fate}" if fate else f"there is no edit {id}"
        turn.answer(reviewer, call, text, "not_found")
        return
    if edit.state != "reviewing" or edit.reviewer != reviewer:
        why = f"{id} is {edit.state}" if edit.state != "reviewing" else f"{id} is another's"
        turn.answer(reviewer, call, f"{why}: no verdict of yours is awaited", "denied")
        return
    word = review.verdict(said)
    if not word:
        text = f"verdict {said!r} is none of approve, revise, refuse"
        turn.answer(reviewer, call, text, "bad_args")
        return
    reason = ed.cut(reason, review.REASON_LIMIT)
    turn.answer(reviewer, call, f"{id}: {word}")
    if word == "approve":
        edit.detail = reason
        _approve(turn, edit)
    elif word == "revise":
        _end(turn, edit, "revise", reason or "no reason given")
    else:
        _end(turn, edit, "refused", reason or "no reason given")


def _approve(turn: Turn, edit: Edit) -> None:
    if not _guarded(turn, edit):  # claimed by another while it was judged
        _pass(turn, edit)


def _pass(turn: Turn, edit: Edit) -> None:
    edit.state = "approved"
    turn.put_edit(edit)
    turn.emit("edit_approved", edit=edit.id, author=edit.author, reviewer=edit.reviewer)


def settle(turn: Turn) -> None:
    """After every step: parked edits whose way is free go on, and the next one to the disk."""
    for edit in list(turn.team.edits.values()):
        if edit.state == "proposed":
            _advance(turn, edit)
    edits = turn.team.edits.values()
    if not any(edit.state == "applying" for edit in edits):
        next_ = next((edit for edit in edits if edit.state == "approved"), None)
        if next_ is not None:
            next_.state = "applying"
            turn.put_edit(next_)
            order = Apply(edit=next_.id, files=next_.files, exact=next_.tool == UNDO)
            turn.out.append(act.Send(turn.team.tools, order))


def applied(turn: Turn, sender: str, body: Applied) -> None:
    """How the one edit that was being applied has ended."""
    edit = turn.team.edits.get(body.edit)
    if sender != turn.team.tools or edit is None or edit.state != "applying":
        turn.ignored("applied", sender, f"{body.edit} is not being applied")
        return
    finish(turn, edit, body)


def finish(turn: Turn, edit: Edit, body: Applied) -> None:
    if body.state == "applied":
        _moved(turn, edit)
        _draw(turn, edit)
        _end(turn, edit, "applied", edit.detail)
        _overtake(turn, edit)
    elif body.state == "conflict":
        _end(turn, edit, "conflict", body.detail or "the file has changed; read it again")
    else:
        _end(turn, edit, "refused", body.detail or "it could not be written", error="failed")


def changed(turn: Turn, sender: str, body: Changed) -> None:
    """What a call has changed in the checkout itself: an edit that is applied already."""
    if sender != turn.team.tools:
        turn.ignored("changed", sender, "only the tool host sees that")
        return
    if any(edit.call == body.call for edit in turn.team.journal.values()):
        turn.ignored("changed", body.agent, f"{body.call} has been journaled already")
        return
    if body.left:
        left = list(body.left)
        turn.emit("not_covered", agent=body.agent, call=body.call, reason=body.reason, files=left)
    if not body.files:
        return
    proposal = Propose(
        call=body.call,
        agent=body.agent,
        tool=body.tool,
        reason=f"{body.reason} (interrupted)" if body.interrupted else body.reason,
        files=body.files,
        task=body.task,
        note="".join(f"not covered: {line}\n" for line in body.left),
    )
    edit = ed.from_proposal(turn.number("edit"), proposal, turn.now)
    turn.team.edits[edit.id] = edit
    _moved(turn, edit)
    _draw(turn, edit)
    _end(turn, edit, "applied", "interrupted" if body.interrupted else "", tell=False)
    _overtake(turn, edit)


def _moved(turn: Turn, edit: Edit) -> None:
    for path, spans in edit.spans.items():
        for claim in turn.team.claims.moved(edit.author, path, spans):
            turn.put_claim(claim)


def _draw(turn: Turn, edit: Edit) -> None:
    """The action and its outcome, below the goal."""
    graph = turn.graph()
    task = turn.team.tasks.get(edit.task)
    title = edit.reason.partition("\n")[0] or (task.title if task else f"change {edit.what}")
    action = graph.node("action", f"{edit.id}: {title}", turn.now, edit.author)
    by = f", approved by {short(edit.reviewer)}" if edit.reviewer else ""
    outcome = graph.node("outcome", f"applied {edit.what}{by}", turn.now, turn.team.name)
    rows = [action, outcome]
    if turn.s.goal:
        rows.append(graph.edge("leads_to", turn.s.goal, action["id"], turn.now, edit.author))
    rows.append(graph.edge("leads_to", action["id"], outcome["id"], turn.now, turn.team.name))
    turn.record(graph, rows)


def _overtake(turn: Turn, edit: Edit) -> None:
    """Edits made from a content that is gone go back now: nobody need judge them."""
    for other in list(turn.team.edits.values()):
        path = ed.overtaken(other, edit)
        if path and other.state != "applying":
            _end(
                turn,
                other,
                "conflict",
                f"{edit.id} by {short(edit.author)} has changed {path} meanwhile: "
                "read it again and propose anew",
            )


def _end(
    turn: Turn, edit: Edit, state: EditState, detail: str, error: str = "", *, tell: bool = True
) -> None:
    """The fate of an edit: row, event, and the answer to its author, once."""
    edit.state, edit.detail, edit.ended = state, detail, turn.now
    if state == "applied":
        edit.place = turn.number("applied")
    turn.fates[edit.id] = edit
    turn.put_edit(edit)
    turn.team.forget(edit)
    turn.emit(
        f"edit_{state}",
        edit=edit.id,
        author=edit.author,
        files=list(edit.paths),
        reviewer=edit.reviewer,
        reason=detail,
    )
    wrong = "" if state == "applied" else error or str(state)
    if tell:  # of a call that has changed the checkout itself the tool host tells the rest
        turn.answer(edit.author, edit.call, ed.answer_text(edit), wrong, edit=edit.id)


# --- ends --------------------------------------------------------------------------------------


def author_ended(turn: Turn, agent: str) -> None:
    """Proposals of an agent that has ended are withdrawn; what is being applied goes on."""
    for edit in list(turn.team.edits.values()):
        if edit.author == agent and edit.state != "applying":
            _end(turn, edit, "refused", "its author has ended")


def reviewer_ended(turn: Turn, agent: Agent, reason: str) -> None:
    """Edits that waited for this reviewer get another one, or are refused after two."""
    for edit in list(turn.team.edits.values()):
        if edit.state != "reviewing" or edit.reviewer != agent.name:
            continue
        edit.failures += 1
        if edit.failures >= review.PATIENCE:
            _end(turn, edit, "refused", f"no reviewer came to a verdict: {reason}")
        else:
            _send_to_review(turn, edit)


def tools_ended(turn: Turn, reason: str) -> None:
    """Nobody will say how the edit that was being applied has ended."""
    for edit in list(turn.team.edits.values()):
        if edit.state == "applying":
            _end(turn, edit, "refused", f"the tool host has ended: {reason}", error="failed")


def withdraw(turn: Turn, why: str) -> None:
    """The session ends: only what is being applied goes on, and what a person takes back."""
    for edit in list(turn.team.edits.values()):
        if edit.state != "applying" and edit.tool != UNDO:
            _end(turn, edit, "refused", why, error="cancelled")
