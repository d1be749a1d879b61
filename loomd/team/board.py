"""The calls that the team itself answers."""

from __future__ import annotations

from typing import assert_never

from loomd.actor import behaviour as act
from loomd.team import calls, council, gate, memory, planning, roster
from loomd.team import claims as cl
from loomd.team.claims import BadRegion, Claim
from loomd.team.decisions import LINKS
from loomd.team.edits import cut
from loomd.team.roster import Agent, short
from loomd.team.tasks import Task
from loomd.team.turn import EVENT_TEXT, Turn
from loomd.wire.bodies import Say, TeamCall


def call(turn: Turn, sender: str, body: TeamCall) -> None:
    """One call of an agent at work. Every one is answered, at once or when its time has come."""
    agent = turn.s.agents.get(sender)
    if agent is None:
        turn.ignored(f"call {body.name}", sender, "not an agent at work")
        return
    if turn.s.phase != "running":
        turn.answer(sender, body.id, "the session is ending", "cancelled")
        return
    try:
        parsed = calls.parse(body.name, body.args)
    except calls.BadArguments as error:
        known = body.name in calls.SHAPES
        turn.answer(sender, body.id, str(error), "bad_args" if known else "no_such_tool")
        return
    match parsed:
        case calls.Spawn():
            _spawn(turn, agent, body, parsed)
        case calls.Assign():
            _assign(turn, agent, body.id, parsed)
        case calls.SendTo():
            _send(turn, agent, body.id, parsed)
        case calls.AskFor():
            council.ask(turn, agent, body.id, parsed)
        case calls.Answer():
            council.answer(turn, agent, body.id, parsed)
        case calls.AskUser():
            asked = calls.AskFor(question=parsed.question)
            council.ask(turn, agent, body.id, asked, parsed.options)
        case calls.Share():
            _share(turn, agent, body.id, parsed.text)
        case calls.ClaimRegion():
            _claim(turn, agent, body, parsed)
        case calls.Decide():
            _decide(turn, agent, body.id, parsed)
        case calls.CastVote():
            council.vote(turn, agent, body.id, parsed)
        case calls.RevisePlan():
            planning.revise(turn, agent, body.id, parsed)
        case calls.RecallFor():
            memory.recall(turn, sender, body.id, parsed.query)
        case calls.Review():
            gate.verdict(turn, sender, body.id, parsed.edit, parsed.verdict, parsed.reason)
        case _:
            assert_never(parsed)


# --- people ------------------------------------------------------------------------------------


def _spawn(turn: Turn, agent: Agent, body: TeamCall, wanted: calls.Spawn) -> None:
    """Answered by the report of the new agent. Over the team size it waits for a place."""
    role = wanted.role.strip().lower()
    wrong = roster.bad_role(role)
    if wrong:
        turn.answer(agent.name, body.id, wrong, "bad_args")
        return
    if full := turn.full(agent):
        turn.answer(agent.name, body.id, full, "refused")
        return
    task = planning.planned(turn, wanted.task)
    if isinstance(task, str):
        turn.answer(agent.name, body.id, task, "refused")
        return
    if task is None:
        task = turn.new_task(wanted.task, parent=agent.task)
    task.state, task.call, task.asker, task.role = "queued", body.id, agent.name, role
    if not fill(turn, task):
        turn.put_task(task)
        turn.emit("spawn_queued", agent=agent.name, role=role, task=task.id)


def _assign(turn: Turn, agent: Agent, id: str, wanted: calls.Assign) -> None:
    task = planning.assign(turn, agent, id, wanted)
    if task is not None:
        fill(turn, task)


def fill(turn: Turn, new: Task | None = None) -> bool:
    """Starts queued spawns, oldest first, as long as there is room; after every step.

    Who waits (for a report, a place or a claim) takes no place, so that whoever could free one is
    never itself in the queue. True if `new` was started.
    """
    size = roster.team_size(turn.team.args)
    for task in turn.queued():
        waiting = {other.asker for other in turn.queued()}
        waiting |= {question.agent for question in turn.team.inquiries.values()}
        waiting |= {
            claim.agent for claim in turn.team.claims.items.values() if claim.state == "queued"
        }
        if len(roster.working(turn.s.agents, waiting)) >= size:
            return False
        agent = turn.agent(task.role, parent=task.asker, task=task.id)
        turn.assign(task, agent, task.text, task.asker or task.by)
    return new is not None and new.owner != ""


def drop_queued(turn: Turn, asker: str | None = None) -> None:
    """Spawns that wait for a place end with who asked for them, or all that waits for one."""
    for task in turn.queued():
        if asker is None or task.asker == asker:
            turn.end_task(task, "cancelled")


def _send(turn: Turn, agent: Agent, id: str, said: calls.SendTo) -> None:
    if said.to.strip() in ("team", "all", "everyone"):
        to = turn.others(agent)
    elif said.to.strip() == "user":
        turn.emit("shared", agent=agent.name, text=cut(said.text, EVENT_TEXT), to="user")
        turn.answer(agent.name, id, "the user sees it")
        return
    else:
        name = turn.resolve(agent, said.to)
        to = (name,) if name else ()
    if not to:
        text = f"no {said.to} to send to; there is {turn.others_listed(agent)}"
        turn.answer(agent.name, id, text, "not_found")
        return
    turn.out.append(act.Send(to, Say(text=said.text, sender=agent.name)))
    turn.emit(
        "message",
        agent=agent.name,
        to=[short(name) for name in to],
        text=cut(said.text, EVENT_TEXT),
    )
    turn.answer(agent.name, id, f"sent to {', '.join(short(name) for name in to)}")


def _share(turn: Turn, agent: Agent, id: str, text: str) -> None:
    others = turn.others(agent)
    turn.emit("shared", agent=agent.name, text=cut(text, EVENT_TEXT))
    if others:
        turn.out.append(act.Send(others, Say(text=text, sender=agent.name)))
    turn.answer(agent.name, id, f"shared with {len(others)}")


# --- claims ------------------------------------------------------------------------------------


def _claim(turn: Turn, agent: Agent, body: TeamCall, wanted: calls.ClaimRegion) -> None:
    """Answered when granted; refused if waiting would never end."""
    team = turn.team
    try:
        path = cl.clean_path(wanted.path, team.repo)
        lines, symbol = cl.parse_region(wanted.region)
    except BadRegion as error:
        turn.answer(agent.name, body.id, str(error), "bad_args")
        return
    claim = Claim(
        id=f"c-{turn.number('claim')}",
        path=path,
        region=wanted.region.strip(),
        agent=agent.name,
        task=agent.task,
        lines=lines,
        symbol=symbol,
        call=body.id,
    )
    asked = team.claims.request(claim, team.related, turn.waits())
    match asked.state:
        case "held":
            _granted(turn, claim)
        case "queued":
            turn.put_claim(claim)
            blocker = asked.blocker.agent if asked.blocker else ""
            turn.emit(
                "claim_queued",
                claim=claim.id,
                agent=claim.agent,
                path=claim.path,
                region=claim.region,
                behind=blocker,
            )
        case "conflict":
            assert asked.blocker is not None
            holder = short(asked.blocker.agent)
            text = (
                f"{asked.blocker.place} is claimed by {holder}, who waits for you: "
                "waiting for it would never end. Work elsewhere or report"
            )
            turn.answer(agent.name, body.id, text, "conflict", holder=asked.blocker.agent)


def _granted(turn: Turn, claim: Claim) -> None:
    turn.put_claim(claim)
    turn.emit(
        "claim_granted",
        claim=claim.id,
        agent=claim.agent,
        path=claim.path,
        region=claim.region,
        lines=list(claim.lines),
    )
    turn.answer(claim.agent, claim.call, f"claimed {claim.place}", claim=claim.id)


def release(turn: Turn, agent: str, task: str | None = None) -> None:
    """All claims of an agent (or of one of its tasks) end; who waited for them gets theirs."""
    for claim in turn.team.claims.release(agent, task):
        turn.put_claim(claim)
        turn.emit(
            "claim_released",
            claim=claim.id,
            agent=claim.agent,
            path=claim.path,
            region=claim.region,
        )


def grant(turn: Turn) -> None:
    """Grants what nothing blocks any more. After every release."""
    for claim in turn.team.claims.grant(turn.team.related):
        _granted(turn, claim)


# --- decisions ---------------------------------------------------------------------------------


def _decide(turn: Turn, agent: Agent, id: str, wanted: calls.Decide) -> None:
    graph = turn.graph()
    text = wanted.text
    if wanted.because:
        text = f"{text}\nBecause: {wanted.because}" if text else wanted.because
    links = [(link, target) for link in LINKS for target in getattr(wanted, link)]
    unknown = [target for _, target in links if target not in turn.team.nodes]
    if unknown:
        turn.answer(agent.name, id, f"the graph has no {', '.join(unknown)}", "not_found")
        return
    try:
        rows = graph.decision(
            wanted.kind.strip().lower(),
            wanted.title,
            text,
            wanted.options,
            wanted.chosen,
            turn.now,
            agent.name,
            parent=turn.s.goal,
        )
        rows += [
            graph.edge(link, rows[0]["id"], target, turn.now, agent.name) for link, target in links
        ]
    except ValueError as error:
        turn.answer(agent.name, id, f"kind: {error}", "bad_args")
        return
    turn.record(graph, rows, say=True)
    turn.answer(agent.name, id, f"recorded as {rows[0]['id']}", node=rows[0]["id"])
