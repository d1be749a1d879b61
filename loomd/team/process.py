"""The team's behaviour: which input goes to which handler; and the entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from loomd.actor import behaviour as act
from loomd.team import board, council, gate, memory, planning, session, undo
from loomd.team.state import Saved, Team, load
from loomd.team.turn import Turn
from loomd.wire import codec
from loomd.wire.bodies import (
    Applied,
    Apply,
    Assign,
    Body,
    Changed,
    Control,
    Decision,
    Ended,
    Inquiry,
    KeeperReady,
    Note,
    Offload,
    PlanUndo,
    Propose,
    Recall,
    Recalled,
    Report,
    ReviewRequest,
    Say,
    TeamCall,
    ToolResult,
    Undelivered,
    Undo,
    UndoPlan,
)
from loomd.wire.errors import LoomError

if TYPE_CHECKING:
    from loomd.supervise.link import ProcessBirth


class TeamBehaviour:
    """See the package. Deterministic: no performer."""

    version = 1

    def init(self, birth: act.Birth) -> Team:
        return load(birth)

    def step(self, state: Team, input: act.Input, now: float) -> tuple[Team, list[act.Change]]:
        turn = Turn(state, now)
        match input:
            case act.Init():
                pass
            case act.Mailed():
                _mailed(turn, input.sender, input.body)
            case act.TimerDue():
                _due(turn, input.key)
            case act.EffectEnded():
                turn.ignored("effect", input.effect, "the team opens none")
            case _:
                assert_never(input)
        board.grant(turn)
        board.fill(turn)
        planning.settle(turn)
        undo.settle(turn)
        gate.settle(turn)
        session.settle(turn)
        _show(turn)
        return state, turn.out

    def save(self, state: Team) -> Saved:
        return state.saved

    def upgrade(self, saved: Any, version: int) -> Any:
        raise LoomError("bad_state", f"team state of version {version} is not known")

    def answer(self, state: Team, question: Body, reader: act.Reader) -> Body:
        """A `Note` gets who is there and what is open, for people."""
        if not isinstance(question, Note):
            raise LoomError("bad_request", f"a team has no answer to {type(question).__name__}")
        s = state.saved
        return Note(
            data={
                "phase": s.phase,
                "paused": s.paused,
                "task": s.task,
                "agents": {
                    agent.name: {"role": agent.role, "task": agent.task, "gate": agent.gate}
                    for agent in s.agents.values()
                },
                "edits": {edit.id: edit.state for edit in state.edits.values()},
                "claims": {claim.id: claim.state for claim in state.claims.items.values()},
                "questions": list(state.questions),
                "inquiries": {one.id: one.to for one in state.inquiries.values()},
                "votes": {vote.id: vote.ballots for vote in s.votes},
                "plan": {"version": s.plan_version, "tasks": s.plan},
                "recalls": len(s.recalls),
            }
        )


def _mailed(turn: Turn, sender: str, body: Body) -> None:
    match body:
        case Say():
            session.said(turn, sender, body)
        case Control():
            session.control(turn, sender, body)
        case Report():
            session.report(turn, sender, body)
        case Ended():
            session.ended(turn, body.name, body.reason)
        case TeamCall():
            board.call(turn, sender, body)
        case Decision():
            council.decided(turn, sender, body)
        case Propose():
            gate.propose(turn, sender, body)
        case Applied():
            gate.applied(turn, sender, body)
        case Changed():
            gate.changed(turn, sender, body)
        case Undo():
            undo.asked(turn, sender, body)
        case UndoPlan():
            undo.planned(turn, sender, body)
        case Offload():
            memory.offload(turn, sender, body)
        case KeeperReady():
            memory.ready(turn, sender, body)
        case Recalled():
            memory.recalled(turn, sender, body)
        case Undelivered():
            _undelivered(turn, body)
        case _:
            turn.ignored(type(body).__name__, sender, "nothing for a team")


def _due(turn: Turn, key: str) -> None:
    match key:
        case session.DEADLINE:
            session.timed_out(turn)
        case session.CLOSING:
            session.closing(turn)
        case session.AGAIN:
            session.again(turn)
        case memory.TIMER:
            memory.due(turn)
        case _ if key.startswith(council.VOTE):
            council.due(turn, key)
        case _:
            turn.ignored("timer", key, "unknown")


def _undelivered(turn: Turn, body: Undelivered) -> None:
    """Mail that was not accepted: what should have answered it never will."""
    try:
        refused: Body | None = codec.body(body.body)
    except LoomError:
        refused = None
    why = f"{body.to} could not take it: {body.reason}"
    agent = turn.s.agents.get(body.to)
    match refused:
        case Recall():
            memory.undelivered(turn, body.to, refused)
        case Apply():
            edit = turn.team.edits.get(refused.edit)
            if edit is not None and edit.state == "applying":
                gate.finish(turn, edit, Applied(edit=refused.edit, state="failed", detail=why))
        case PlanUndo():
            undo.undelivered(turn, refused, why)
        case Assign() | Inquiry() | ReviewRequest() | ToolResult() if agent is not None:
            # It would wait for ever, or nobody would do the work.
            turn.out.append(act.Stop(agent.name, reason=body.reason))
            session.lost(turn, agent, why)
        case _:
            turn.ignored("undelivered", body.to, body.reason)


def _show(turn: Turn) -> None:
    """The session's state and the team's status line, where they have changed."""
    s = turn.s
    if s.phase == "running":
        state = "paused" if s.paused else "waiting" if s.asks else "running"
        if state != s.shown:
            fresh = s.shown not in ("running", "waiting", "paused")
            s.shown = state
            turn.out.append(
                # Its last answer stays until there is another one.
                act.Session(state=state, kind="") if fresh else act.Session(state=state)
            )
    status = {
        "new": ("idle", ""),
        "running": ("working", ""),
        "ending": ("ending", ""),
        "over": ("idle", ""),
    }[s.phase]
    if s.phase == "running" and s.paused:
        status = ("paused", "")
    elif s.phase == "running" and s.asks:
        status = ("waiting", f"answer {s.asks[0]}")
    if status != s.status:
        s.status = status
        turn.out.append(act.Show(*status))


def main(birth: ProcessBirth) -> None:
    """Entry point."""
    from loomd.actor.host import run

    run(birth, TeamBehaviour(), None)
