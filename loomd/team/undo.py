"""What a person takes back: which edits, what becomes of the files, and how it ended.

    asked -> planning (the tool host merges with what stands there now) -> applying -> over

One undo at a time; the others wait. It becomes an edit of its own, which needs no review, for a
person has asked for it, but respects claims while the session runs, and edits under way; it is
applied as any other, so it can be taken back too. It does not depend on the phase of the session:
one that is over or paused can be undone. Its end is one event, `undone` or `undo_refused`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from loomd.actor import behaviour as act
from loomd.store import standing
from loomd.team import edits as ed
from loomd.team import gate
from loomd.team.edits import Edit
from loomd.team.roster import short
from loomd.team.state import Team, Undoing
from loomd.team.turn import Turn
from loomd.wire import codec
from loomd.wire.bodies import PlanUndo, Propose, Taken, Undo, UndoPlan

MAX_WAITING: Final = 20
MAX_ORDER: Final = 600 << 10
TRIES: Final = 3
"""How often it is planned anew because somebody has written one of the files meanwhile."""

USER: Final = "user"


class Refusal(Exception):
    """Why not: a wire code, a sentence, and what to do."""

    def __init__(self, code: str, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason, self.hint = code, reason, hint


def asked(turn: Turn, sender: str, body: Undo) -> None:
    if sender != USER:
        turn.ignored("undo", sender, "only a person takes something back")
        return
    one = Undoing(id=body.id, edit=body.edit, task=body.task, all=body.all)
    if len(turn.s.undos) >= MAX_WAITING:
        _refuse(turn, one, Refusal("bad_state", "too many wait to be undone", "try again later"))
        return
    turn.s.undos.append(one)


def settle(turn: Turn) -> None:
    """After every step: takes the first one on, as far as it goes."""
    while turn.s.undos:
        one = turn.s.undos[0]
        if one.state == "asked":
            try:
                _plan(turn, one)
                return
            except Refusal as refusal:
                _over(turn, one, refusal)
        elif one.state == "applying" and one.made not in turn.team.edits:
            _applied(turn, one, turn.fates[one.made])
        else:
            return


# --- which edits ---------------------------------------------------------------------------------


def chosen(team: Team, one: Undoing) -> list[Edit]:
    """The edits that are to be taken back, newest first. Refusal."""
    rows = [_row(edit) for edit in team.journal.values()]
    gone = standing.undone(rows)
    order = [team.journal[str(row["id"])] for row in reversed(standing.in_order(rows))]
    if one.edit:
        return [_one(team, one.edit, gone)]
    effective = [edit for edit in order if edit.id not in gone and edit.tool != standing.UNDO]
    if one.task:
        if one.task not in team.tasks:
            raise Refusal("not_found", f"there is no task {one.task}", "see: loomctl tasks")
        parts = _parts(team, one.task)
        effective = [edit for edit in effective if edit.task in parts]
        if not effective:
            raise Refusal("bad_state", f"no edit of {one.task} is in effect")
    if not effective:
        again = next((edit for edit in order if edit.id not in gone), None)
        hint = f"to have it back: --edit {again.id}" if again is not None else ""
        raise Refusal("bad_state", "no edit of this session is in effect", hint)
    return effective if one.task or one.all else effective[:1]


def _row(edit: Edit) -> dict[str, Any]:
    return {
        "id": edit.id,
        "state": edit.state,
        "place": edit.place,
        "ended": edit.ended,
        "undoes": edit.undoes,
    }


def _one(team: Team, id: str, gone: dict[str, str]) -> Edit:
    edit = team.journal.get(id)
    if edit is not None:
        if id in gone:
            by = gone[id]
            raise Refusal(
                "bad_state", f"{id} has been taken back already, by {by}", f"redo: --edit {by}"
            )
        return edit
    if id in team.edits:
        state = team.edits[id].state
        raise Refusal("bad_state", f"{id} is {state}: it has not been applied yet")
    if id in team.ended:
        raise Refusal("bad_state", f"{id} was never applied: {team.ended[id]}")
    raise Refusal("not_found", f"there is no edit {id}", "see: loomctl edits")


def _parts(team: Team, task: str) -> set[str]:
    """A task and what it was divided into."""
    found, todo = {task}, [task]
    while todo:
        parent = todo.pop()
        for one in team.tasks.values():
            if one.parent == parent and one.id not in found:
                found.add(one.id)
                todo.append(one.id)
    return found


# --- its way -------------------------------------------------------------------------------------


def _plan(turn: Turn, one: Undoing) -> None:
    edits = chosen(turn.team, one)
    _free(turn, {path for edit in edits for path in edit.paths})
    taken = tuple(Taken(edit=edit.id, files=edit.files) for edit in edits)
    order = PlanUndo(undo=one.id, edits=taken)
    if len(codec.encode(order)) > MAX_ORDER:
        raise Refusal(
            "too_large",
            f"{len(edits)} edits are too many to be taken back at once",
            "take them back in parts: --task ID or --edit ID",
        )
    one.state, one.targets = "planning", [edit.id for edit in edits]
    turn.out.append(act.Send(turn.team.tools, order))


def _free(turn: Turn, paths: set[str]) -> None:
    """No edit of these files may be under way: it would be pulled from under its author."""
    for other in turn.team.edits.values():
        if both := sorted(paths.intersection(other.paths)):
            raise Refusal(
                "bad_state",
                f"{other.id} by {short(other.author)} of {both[0]} is under way ({other.state})",
                "wait until it has ended, or stop the session",
            )


def planned(turn: Turn, sender: str, body: UndoPlan) -> None:
    """The tool host has looked: an edit for the disk, or what is in the way."""
    one = turn.s.undos[0] if turn.s.undos else None
    if sender != turn.team.tools or one is None or one.state != "planning" or one.id != body.undo:
        turn.ignored("undo_plan", sender, f"{body.undo} is not being planned")
        return
    try:
        if body.error:
            raise Refusal(body.error, body.detail)
        if body.clashes:
            _clashes(turn, one, body)
            return
        _make(turn, one, body)
    except Refusal as refusal:
        _over(turn, one, refusal)


def _make(turn: Turn, one: Undoing, body: UndoPlan) -> None:
    team = turn.team
    what = ", ".join(one.targets[:5])
    if len(one.targets) > 5:
        what += f" and {len(one.targets) - 5} more"
    again = any(team.journal[id].tool == standing.UNDO for id in one.targets)
    proposal = Propose(
        call="",
        agent=USER,
        tool=standing.UNDO,
        reason=f"{'redo: ' if again else ''}undo of {what}",
        files=body.files,
    )
    _free(turn, {file.path for file in body.files})
    edit = ed.from_proposal(0, proposal, turn.now)
    held = None if turn.s.paused else gate.guard(turn, edit)  # paused, nobody works in its claim
    if held is not None:
        raise Refusal(
            "bad_state",
            f"{held.place} is claimed by {short(held.agent)} ({held.id})",
            "wait until it is released, or pause or stop the session",
        )
    edit.id = f"e-{turn.number('edit')}"
    edit.undoes = list(one.targets)
    one.state, one.made = "applying", edit.id
    gate.admit(turn, edit)


def _applied(turn: Turn, one: Undoing, edit: Edit) -> None:
    if edit.state == "applied":
        turn.s.undos.remove(one)
        turn.emit(
            "undone",
            undo=one.id,
            edit=edit.id,
            edits=one.targets[: ed.SHOWN],
            files=list(edit.paths)[: ed.SHOWN],
        )
    elif edit.state == "conflict" and one.tries + 1 < TRIES:
        one.state, one.made, one.tries = "asked", "", one.tries + 1
    else:
        code = "conflict" if edit.state == "conflict" else "failed"
        _over(turn, one, Refusal(code, edit.detail))


def _clashes(turn: Turn, one: Undoing, body: UndoPlan) -> None:
    paths = [clash.path for clash in body.clashes if clash.path]
    shown = ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
    refusal = Refusal(
        "conflict",
        f"nothing was taken back: others have changed {shown} since",
        "mend these places by hand, or take back what has changed them first",
    )
    _over(turn, one, refusal, [msgspec.structs.asdict(clash) for clash in body.clashes])


def _over(
    turn: Turn, one: Undoing, refusal: Refusal, conflicts: Iterable[dict[str, Any]] = ()
) -> None:
    turn.s.undos.remove(one)
    _refuse(turn, one, refusal, conflicts)


def _refuse(
    turn: Turn, one: Undoing, refusal: Refusal, conflicts: Iterable[dict[str, Any]] = ()
) -> None:
    turn.emit(
        "undo_refused",
        undo=one.id,
        edits=one.targets[: ed.SHOWN],
        code=refusal.code,
        reason=refusal.reason,
        hint=refusal.hint,
        conflicts=list(conflicts),
    )


def tools_ended(turn: Turn, reason: str) -> None:
    """Nobody is there to look, or to write, any more."""
    for one in list(turn.s.undos):
        if one.state != "applying":
            _over(turn, one, Refusal("failed", f"the tool host has ended: {reason}"))


def undelivered(turn: Turn, order: PlanUndo, why: str) -> None:
    one = turn.s.undos[0] if turn.s.undos else None
    if one is not None and one.id == order.undo and one.state == "planning":
        _over(turn, one, Refusal("failed", why))
