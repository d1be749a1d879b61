"""The board's work to come: `assign` gives a task away without waiting, `revise_plan` orders it.

An assigned task ends with a message to whoever gave it. The session does not end before its
assigned tasks have: a lead that reports earlier is called again when the last of them has ended.
"""

from __future__ import annotations

from loomd.actor import behaviour as act
from loomd.team import calls, plan, roster
from loomd.team.edits import cut
from loomd.team.roster import Agent, short
from loomd.team.tasks import Task
from loomd.team.turn import Turn
from loomd.wire.bodies import Assign, Say

QUEUE = 8
"""Tasks that may wait for one agent."""

REPORT_TEXT = 24_000
RESULT_TEXT = 600


def planned(turn: Turn, text: str) -> Task | str | None:
    """The planned task that `text` names; None if it is a task itself; else why it cannot be."""
    if not plan.is_id(text):
        return None
    task = turn.team.tasks.get(text.strip())
    if task is not None and task.state == "planned":
        return task
    if task is None:
        return f"there is no task {text.strip()}"
    return f"{task.id} is {task.state}: only a planned task can be given away by its id"


# --- assign ------------------------------------------------------------------------------------


def assign(turn: Turn, agent: Agent, id: str, wanted: calls.Assign) -> Task | None:
    """Answered at once. The new task if it waits for a new agent, which `board.fill` starts."""
    task = planned(turn, wanted.task)
    if isinstance(task, str):
        turn.answer(agent.name, id, task, "not_found" if "no task" in task else "refused")
        return None
    to = wanted.to.strip()
    name = turn.resolve(agent, to)
    role = to.lower()
    if name is None and roster.bad_role(role):
        text = f"no {to} to assign to; there is {turn.others_listed(agent)}; or name a role"
        turn.answer(agent.name, id, text, "not_found")
        return None
    if name is None and plan_like(turn, role):
        text = f"{role} is not at work; there is {turn.others_listed(agent)}; or name a role"
        turn.answer(agent.name, id, text, "not_found")
        return None
    if name is not None:
        other = turn.s.agents[name]
        waiting = [one for one in turn.team.tasks.values() if one.owner == name and one.open]
        wrong = ""
        if name == turn.s.lead:
            wrong = "the lead's task is the session's own: send it a message"
        elif other.gate:
            wrong = f"{short(name)} reviews edits and takes no tasks; name a role"
        elif other.stopping:
            wrong = f"{short(name)} has been told to stop"
        elif len(waiting) > QUEUE:
            wrong = f"{short(name)} has {len(waiting)} tasks already: {waiting[-1].id} is the last"
        if wrong:
            turn.answer(agent.name, id, wrong, "refused")
            return None
    elif full := turn.full(agent):
        turn.answer(agent.name, id, full, "refused")
        return None
    if task is None:
        task = turn.new_task(wanted.task, parent=agent.task)
    task.state, task.by = "queued", agent.name
    task.owner, task.role = name or "", "" if name else role
    turn.put_task(task)
    who = short(name) if name else f"a new {role}"
    turn.emit(
        "task_assigned",
        task=task.id,
        title=task.title,
        owner=task.owner,
        role=task.role,
        by=task.by,
    )
    text = f"{task.id} is on the board for {who}; its report comes to you as a message"
    turn.answer(agent.name, id, text, "", task=task.id)
    return task if not name else None


def plan_like(turn: Turn, name: str) -> bool:
    """`coder-7` is the name of an agent that is not there, and no role."""
    stem, dash, number = name.rpartition("-")
    return bool(dash) and number.isdecimal() and not roster.bad_role(stem)


def next_task(turn: Turn, agent: Agent) -> bool:
    """Gives an agent that has reported the next task that waits for it."""
    tasks = turn.team.tasks.values()
    task = next((one for one in tasks if one.owner == agent.name and one.state == "queued"), None)
    if task is None or turn.s.phase != "running":
        return False
    agent.parent = ""  # whoever waited for it has its report
    turn.assign(task, agent, task.text, task.by)
    return True


def told(turn: Turn, task: Task, text: str) -> None:
    """Tells who had assigned a task, or the lead in its place, that it has ended."""
    if not task.by or turn.s.phase != "running":
        return
    who = task.by if task.by in turn.s.agents else turn.s.lead
    if who in turn.s.agents:
        owner = f" by {short(task.owner)}" if task.owner else ""
        said = f"{task.id} ({task.title}) is {task.state}{owner}: {cut(text, REPORT_TEXT)}"
        turn.out.append(act.Send(who, Say(text=said, sender=turn.team.name)))


def pending(turn: Turn) -> list[Task]:
    """Assigned tasks that have not ended."""
    return [task for task in turn.team.tasks.values() if task.by and task.open]


def rest(turn: Turn, text: str) -> bool:
    """The lead has reported, but assigned tasks have not ended: its task goes on."""
    left = pending(turn)
    if not left:
        return False
    turn.s.resting = True
    turn.emit(
        "lead_waits",
        agent=turn.s.lead,
        tasks=[task.id for task in left],
        text=cut(text, RESULT_TEXT),
    )
    return True


def settle(turn: Turn) -> None:
    """After every step: a lead that waits for assigned tasks goes on when the last has ended."""
    s = turn.s
    if not s.resting or s.phase != "running" or pending(turn):
        return
    s.resting = False
    text = (
        "All that was assigned has ended; the reports stand above. Go on, or end with your report "
        "on the whole."
    )
    turn.out.append(act.Send(s.lead, Assign(task=s.task, text=text, sender=turn.team.name)))


# --- the plan ----------------------------------------------------------------------------------


def revise(turn: Turn, agent: Agent, id: str, wanted: calls.RevisePlan) -> None:
    """A new version of the plan, told to all."""
    s, tasks = turn.s, turn.team.tasks
    steps = [step for step in wanted.steps if step.strip()]
    if not 1 <= len(steps) <= plan.MAX_STEPS:
        text = f"revise_plan: 1 to {plan.MAX_STEPS} steps, each a text or the id of a task"
        turn.answer(agent.name, id, text, "bad_args")
        return
    if wanted.version and wanted.version != s.plan_version:
        text = (
            f"the plan is at version {s.plan_version} and not at {wanted.version}; it is:\n"
            f"{listed(turn) or '(empty)'}"
        )
        turn.answer(agent.name, id, text, "conflict", version=s.plan_version)
        return
    named = [step.strip() for step in steps if plan.is_id(step)]
    unknown = [one for one in named if one not in tasks or one == s.task]
    if unknown or len(set(named)) != len(named):
        text = (
            f"no step of a plan: {', '.join(unknown)}" if unknown else "a task stands in it twice"
        )
        turn.answer(agent.name, id, f"revise_plan: {text}", "not_found" if unknown else "bad_args")
        return
    order, added = [], []
    for step in steps:
        if plan.is_id(step):
            order.append(step.strip())
            continue
        task = turn.new_task(step, state="planned", parent=agent.task)
        turn.put_task(task)
        order.append(task.id)
        added.append(task.id)
    dropped = [one.id for one in tasks.values() if one.state == "planned" and one.id not in order]
    for one in dropped:
        turn.end_task(tasks[one], "cancelled", "dropped")
    s.plan, s.plan_version = order, s.plan_version + 1
    reason = cut(wanted.reason, plan.REASON_LIMIT)
    _draw(turn, agent, reason)
    turn.emit(
        "plan_revised",
        version=s.plan_version,
        by=agent.name,
        reason=reason,
        steps=[{"id": one, "title": tasks[one].title, "state": tasks[one].state} for one in order],
        added=added,
        dropped=dropped,
    )
    text = f"Plan, version {s.plan_version}, by {short(agent.name)} ({reason}):\n{listed(turn)}"
    if others := turn.others(agent):
        turn.out.append(act.Send(others, Say(text=text, sender=agent.name)))
    turn.answer(agent.name, id, text, "", version=s.plan_version, added=added, dropped=dropped)


def listed(turn: Turn) -> str:
    return plan.listing([turn.team.tasks[id] for id in turn.s.plan])


def _draw(turn: Turn, agent: Agent, reason: str) -> None:
    """A node for the version, which supersedes the one before it."""
    s = turn.s
    graph = turn.graph()
    kind = "revisit" if s.plan_node else "decision"
    title = f"plan, version {s.plan_version}: {reason}"
    node = graph.node(kind, title, turn.now, agent.name, listed(turn))
    rows = [node]
    if s.plan_node:
        rows.append(graph.edge("supersedes", node["id"], s.plan_node, turn.now, agent.name))
    elif s.goal:
        rows.append(graph.edge("leads_to", s.goal, node["id"], turn.now, agent.name))
    turn.record(graph, rows, say=True)
    s.plan_node = node["id"]
