"""The life of the session: what a person says, reports, ends of agents, pause, stop, the end.

A session's end is a phase: the agents are told to stop and report, what is being applied and the
keepers that are being started are waited for, and only then the session is said to be over, so that
nothing wakes it afterwards.
"""

from __future__ import annotations

from loomd.actor import behaviour as act
from loomd.team import board, council, gate, memory, planning, roster, undo
from loomd.team.roster import Agent
from loomd.team.state import Outcome
from loomd.team.tasks import Task, TaskState, title_of
from loomd.team.turn import Turn
from loomd.wire.bodies import CancelCall, CancelModel, Control, Report, Say
from loomd.wire.messages import CONTROL

DEADLINE = "deadline"
CLOSING = "closing"
AGAIN = "again"

CLOSING_S = 10.0
"""How long the end waits for agents and keepers; for an edit on its way to the disk it waits on."""

ANSWER_LIMIT = 24_000
"""Bytes of the session's answer: it lies in the saved state while the session ends."""

MAX_LATER = 20


# --- what a person says ------------------------------------------------------------------------


def said(turn: Turn, sender: str, body: Say) -> None:
    by = body.sender or sender
    if turn.s.phase == "ending":
        if len(turn.s.later) >= MAX_LATER:
            turn.ignored("say", by, "too much was said while the session was ending")
            return
        task = turn.new_task(body.text, state="queued")
        turn.put_task(task)
        turn.s.later.append(task.id)
        return
    if turn.s.phase == "running":
        name = turn.s.lead
        if body.to and body.to != "lead":
            name = body.to if "/" in body.to else f"{turn.team.session}/{body.to}"
        if name not in turn.s.agents:
            turn.ignored("say", by, f"{name} is not at work; the lead gets it")
            name = turn.s.lead
        turn.out.append(act.Send(name, Say(text=body.text, sender=by)))
        return
    begin(turn, turn.new_task(body.text), by)


def begin(turn: Turn, task: Task, by: str) -> None:
    """A task of the session itself: a goal in the graph, and the lead at work."""
    s = turn.s
    s.phase, s.task, s.outcome, s.forced, s.paused = "running", task.id, None, False, False
    graph = turn.graph()
    goal = graph.node("goal", title_of(task.text), turn.now, by, task.text)
    turn.record(graph, [goal], say=True)
    s.goal = goal["id"]
    lead = s.agents.get(s.lead)
    if lead is None:
        lead = turn.agent("lead", task=task.id)
        s.lead = lead.name
    else:
        lead.stopping, lead.task = False, task.id
        turn.start(lead)
    turn.assign(task, lead, task.text, by)
    timeout = turn.team.args.get("timeout_s")
    if timeout:
        turn.out.append(act.SetTimer(DEADLINE, turn.now + float(timeout)))


def again(turn: Turn) -> None:
    """What was said while the last task was ending."""
    if turn.s.phase != "over" or not turn.s.later:
        return
    first, *others = (turn.team.tasks[id] for id in turn.s.later)
    turn.s.later = []
    begin(turn, first, "user")
    for task in others:
        turn.end_task(task, "cancelled", "joined")
        turn.out.append(act.Send(turn.s.lead, Say(text=task.text, sender="user")))


# --- reports and ends of agents ----------------------------------------------------------------


def report(turn: Turn, sender: str, body: Report) -> None:
    agent = turn.s.agents.get(sender)
    if agent is None:
        turn.ignored("report", sender, f"not an agent at work ({body.task})")
        return
    turn.keep_log(agent, body)
    if agent.gate:
        _reviewer_reported(turn, agent, body)
        return
    task = turn.team.tasks.get(body.task)
    if task is None or task.owner != sender or agent.task != body.task:
        turn.ignored("report", sender, f"{body.task!r} is not its task")
        return
    through = body.state == "done" and turn.s.phase == "running"
    if sender == turn.s.lead and through and planning.rest(turn, body.text):
        return
    agent.task, agent.stopping = "", False
    if sender == turn.s.lead:
        stopped = turn.s.outcome is not None and turn.s.outcome.state == "stopped"
        turn.end_task(task, "cancelled" if stopped else body.state, body.kind)
        if turn.s.phase == "running":
            end(turn, _outcome(turn, body))
        return
    text = body.text or body.kind
    error = "" if body.state == "done" else body.kind or "failed"
    if turn.s.phase == "running" and body.kind not in ("stopped", "cancelled"):
        _end_task(turn, task, body.state, text, error)
        board.release(turn, agent.name, task.id)
        if planning.next_task(turn, agent):
            return
    _end_agent(turn, agent, body.state, text, error, stop=True)


def _bounded(text: str) -> str:
    raw = text.encode()
    if len(raw) <= ANSWER_LIMIT:
        return text
    return f"{raw[:ANSWER_LIMIT].decode(errors='ignore')}\n[cut: {len(raw) - ANSWER_LIMIT} bytes]"


def _outcome(turn: Turn, body: Report) -> Outcome:
    """Of the lead's report. A word that is no task ("thanks!") does not undo what was done."""
    before, answer = turn.s.before, _bounded(body.text)
    if body.kind == "unknown_goal" and before is not None:
        turn.emit("reply", agent=turn.s.lead, text=answer, hint=body.hint)
        return Outcome(
            state=before.state, kind=before.kind, answer=answer, hint=body.hint, kept=True
        )
    return Outcome(state=body.state, kind=body.kind, answer=answer, hint=body.hint)


def _reviewer_reported(turn: Turn, agent: Agent, body: Report) -> None:
    """A reviewer reports that it has failed, and another one takes its place; or, told to stop
    because the session ends, its last word: it stays for what comes next."""
    if turn.s.phase != "running":
        agent.stopping = False
    elif body.state == "failed":
        agent.stopping = True
        turn.out.append(act.Stop(agent.name, reason=f"failed: {body.kind}"))
        _gone(turn, agent, body.kind or "failed")
        gate.reviewer_ended(turn, agent, body.text or body.kind)


def ended(turn: Turn, name: str, reason: str) -> None:
    """The hub says that an actor has ended for good."""
    if name == turn.team.tools:
        gate.tools_ended(turn, reason)
        undo.tools_ended(turn, reason)
        if turn.s.phase == "running":
            text = f"the tool host has ended: {reason}"
            end(turn, Outcome(state="failed", kind="supervision", answer=text))
        return
    if memory.ended(turn, name, reason):
        return
    agent = turn.s.agents.get(name)
    if agent is None:
        turn.ignored("ended", name, reason)
        return
    lost(turn, agent, reason)


def lost(turn: Turn, agent: Agent, reason: str) -> None:
    """An agent that will never report: its claims are free, its call is answered, and what it had
    called, or asked a model, is ended."""
    cancel = CancelCall(agent=agent.name, reason="its agent has ended")
    turn.out.append(act.Send(turn.team.tools, cancel))
    turn.out.append(act.Send("models", CancelModel(agent=agent.name)))
    if agent.gate:
        agent.stopping = True
        _gone(turn, agent, reason)
        gate.reviewer_ended(turn, agent, reason)
    elif agent.name == turn.s.lead:
        _gone(turn, agent, reason)
        turn.s.lead = ""
        if agent.task:
            turn.end_task(turn.team.tasks[agent.task], "failed", "supervision")
        if turn.s.phase == "running":
            text = f"the lead has ended: {reason}"
            end(turn, Outcome(state="failed", kind="supervision", answer=text))
    else:
        text = f"{roster.short(agent.name)} has ended without a report: {reason}"
        _end_agent(turn, agent, "failed", text, "crashed")


def _end_agent(
    turn: Turn, agent: Agent, state: TaskState, text: str, error: str, stop: bool = False
) -> None:
    """A spawned agent is through: its task ends, who spawned it gets the answer."""
    if stop:
        turn.out.append(act.Stop(agent.name, reason=state))
    _gone(turn, agent, error or state, text)
    for task in list(turn.team.tasks.values()):
        if task.owner == agent.name and task.open:
            _end_task(turn, task, state, text, error)


def _end_task(turn: Turn, task: Task, state: TaskState, text: str, error: str) -> None:
    """Who has spawned an agent for it gets the answer, who has assigned it a message."""
    turn.end_task(task, state, error)
    turn.answer(task.asker, task.call, text, error, agent=task.owner, task=task.id)
    planning.told(turn, task, text)


def _gone(turn: Turn, agent: Agent, reason: str, last: str = "") -> None:
    """What an agent held and awaited ends with it; whom it had spawned is told to stop. `last`:
    its report, for who waits for another word of it."""
    turn.s.agents.pop(agent.name, None)
    turn.emit("agent_ended", name=agent.name, role=agent.role, reason=reason)
    board.release(turn, agent.name)
    council.close_questions(turn, agent.name, last)
    council.voter_ended(turn, agent.name)
    memory.forget(turn, agent.name)
    gate.author_ended(turn, agent.name)
    board.drop_queued(turn, agent.name)
    for child in list(turn.s.agents.values()):
        if child.parent == agent.name:
            stop(turn, child, f"{roster.short(agent.name)}, who asked for it, has ended")


def stop(turn: Turn, agent: Agent, reason: str) -> None:
    """Tells an agent to give up what it does; its report ends it. Its calls are ended at once: the
    order to stop is in its mailbox before their results are, so it begins nothing anew.

    In the lane of work: it must not overtake the task that it ends. The word to the tool host may
    overtake a call: the agent, when it is told, cancels that one behind it.
    """
    if not agent.stopping:
        agent.stopping = True
        turn.out.append(act.Send(agent.name, Control(op="stop", reason=reason)))
        cancel = CancelCall(agent=agent.name, reason=reason)
        turn.out.append(act.Send(turn.team.tools, cancel, lane=CONTROL))


# --- control -----------------------------------------------------------------------------------


def control(turn: Turn, sender: str, body: Control) -> None:
    if turn.s.phase in ("over", "ending"):
        turn.ignored(f"control {body.op}", sender, "the session is ending or over")
        return
    match body.op:
        case "stop":
            end(turn, Outcome(state="stopped", answer=body.reason))
        case "cancel" if body.agent not in ("", turn.s.lead):
            agent = turn.s.agents.get(body.agent)
            if agent is None:
                turn.ignored("control cancel", sender, f"{body.agent} is not at work")
            else:
                stop(turn, agent, "cancelled by the user")
        case "cancel":
            end(turn, Outcome(state="stopped", kind="cancelled", answer=body.reason))
        case "pause" | "resume" | "step":
            if body.op != "step":
                turn.s.paused = body.op == "pause"
            names = tuple(turn.s.agents)
            if names:
                turn.out.append(act.Send(names, body, lane=CONTROL))


def timed_out(turn: Turn) -> None:
    if turn.s.phase == "running":
        limit = float(turn.team.args.get("timeout_s") or 0.0)
        text = f"stopped after {limit:g} seconds"
        end(turn, Outcome(state="failed", kind="timeout", answer=text))


# --- the end -----------------------------------------------------------------------------------


def end(turn: Turn, outcome: Outcome) -> None:
    """Begins the end. `settle` finishes it, in this step if nothing is left to wait for."""
    s = turn.s
    s.phase, s.outcome, s.paused = "ending", outcome, False
    turn.out.append(act.CancelTimer(DEADLINE))
    turn.out.append(act.SetTimer(CLOSING, turn.now + CLOSING_S))
    for agent in list(s.agents.values()):
        if agent.task or agent.gate:
            stop(turn, agent, f"the session is {outcome.state}")
    council.close_questions(turn)
    council.withdraw_votes(turn)
    s.resting = False
    board.drop_queued(turn)
    gate.withdraw(turn, "the session has ended")
    memory.forget(turn)
    for name in list(s.agents):
        board.release(turn, name)


def closing(turn: Turn) -> None:
    """Enough waited: what has not answered is stopped without."""
    if turn.s.phase == "ending":
        turn.s.forced = True


def settle(turn: Turn) -> None:
    """After every step of an ending session: is there anything left to wait for?"""
    s, team = turn.s, turn.team
    if s.phase != "ending" or any(edit.state == "applying" for edit in team.edits.values()):
        return
    if s.undos:  # nobody would be there to go on with it
        return
    at_work = [agent for agent in s.agents.values() if agent.stopping]
    starting = [keeper for keeper in team.keepers.values() if keeper.state == "starting"]
    if (at_work or starting) and not s.forced:
        return
    assert s.outcome is not None
    outcome = s.outcome
    for agent in list(s.agents.values()):
        if agent.stopping:  # without its last word
            turn.out.append(act.Send("models", CancelModel(agent=agent.name)))
        if not agent.gate and agent.name != s.lead:
            turn.out.append(act.Stop(agent.name, reason=outcome.state))
            _gone(turn, agent, outcome.state)
        agent.task, agent.stopping = "", False
    for task in team.tasks.values():
        if task.unfinished and task.id not in s.later:
            failed = outcome.state == "failed" or outcome.kept
            state: TaskState = "failed" if failed else "cancelled"
            turn.end_task(task, state, outcome.kind)
    _draw(turn, outcome)
    turn.out.append(act.CancelTimer(CLOSING))
    s.phase, s.task, s.goal = "over", "", ""
    s.plan, s.plan_version, s.plan_node = [], 0, ""
    s.before = Outcome(state=outcome.state, kind=outcome.kind)
    s.outcome, s.forced = None, False
    turn.emit(
        "session_ended",
        state=outcome.state,
        kind=outcome.kind,
        answer=outcome.answer,
        hint=outcome.hint,
    )
    s.shown = outcome.state
    turn.out.append(
        act.Session(
            state=outcome.state,
            kind=outcome.kind,
            answer=None if outcome.kept else outcome.answer,
            data={"hint": f"{outcome.answer}; {outcome.hint}" if outcome.kept else outcome.hint},
        )
    )
    if s.later:
        turn.out.append(act.SetTimer(AGAIN, turn.now))


def _draw(turn: Turn, outcome: Outcome) -> None:
    if turn.s.goal:
        graph = turn.graph()
        state = "failed" if outcome.kept else outcome.state
        title = f"{state}: {title_of(outcome.answer or outcome.kind)}"
        node = graph.node("outcome", title, turn.now, turn.team.name, outcome.answer)
        edge = graph.edge("leads_to", turn.s.goal, node["id"], turn.now, turn.team.name)
        turn.record(graph, [node, edge], say=True)
