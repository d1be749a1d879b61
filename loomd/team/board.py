"""The calls that the team itself answers."""

from __future__ import annotations

from typing import assert_never

from loomd.actor import behaviour as act
from loomd.team import calls, gate, memory, roster
from loomd.team import claims as cl
from loomd.team import questions as qu
from loomd.team.claims import BadRegion, Claim
from loomd.team.decisions import LINKS
from loomd.team.edits import cut
from loomd.team.questions import Question
from loomd.team.roster import Agent, short
from loomd.team.tasks import Task
from loomd.team.turn import Turn
from loomd.wire.bodies import Decision, Say, TeamCall

EVENT_TEXT = 2_000


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
        case calls.SendTo():
            _send(turn, agent, body.id, parsed)
        case calls.AskFor():
            _ask(turn, agent, body.id, parsed)
        case calls.Share():
            _share(turn, agent, body.id, parsed.text)
        case calls.ClaimRegion():
            _claim(turn, agent, body, parsed)
        case calls.Decide():
            _decide(turn, agent, body.id, parsed)
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
    size, queued = roster.team_size(turn.team.args), len(_queued(turn))
    deep = roster.depth(turn.s.agents, agent.name) >= roster.DEPTH
    if deep or len(turn.s.agents) + queued >= size + roster.SPARE:
        there = roster.listed(turn.s.agents)
        text = (
            f"the team is full: {size} agents may work beside each other, a chain of those that "
            f"wait for each other is at most {roster.DEPTH} long, and {queued} spawns wait for a "
            f"place. There are: {there}. Wait for a report, or do it yourself"
        )
        turn.answer(agent.name, body.id, text, "refused")
        return
    task = turn.new_task(
        wanted.task,
        state="queued",
        parent=agent.task,
        call=body.id,
        asker=agent.name,
        role=role,
    )
    if not fill(turn, task):
        turn.put_task(task)
        turn.emit("spawn_queued", agent=agent.name, role=role, task=task.id)


def _queued(turn: Turn) -> list[Task]:
    return [task for task in turn.team.tasks.values() if task.state == "queued" and task.call]


def fill(turn: Turn, new: Task | None = None) -> bool:
    """Starts queued spawns, oldest first, as long as there is room; after every step.

    Who waits (for a report, a place or a claim) takes no place, so that whoever could free one is
    never itself in the queue. True if `new` was started.
    """
    size = roster.team_size(turn.team.args)
    queued = _queued(turn)
    for task in queued:
        waiting = {other.asker for other in _queued(turn)}
        waiting |= {
            claim.agent for claim in turn.team.claims.items.values() if claim.state == "queued"
        }
        if len(roster.working(turn.s.agents, waiting)) >= size:
            return False
        agent = turn.agent(task.role, parent=task.asker, task=task.id)
        turn.assign(task, agent, task.text, task.asker)
    return new is not None and new.owner != ""


def drop_queued(turn: Turn, asker: str | None = None) -> None:
    """Spawns that wait for a place end with who asked for them, or all."""
    for task in _queued(turn):
        if asker is None or task.asker == asker:
            turn.end_task(task, "cancelled")


def _resolve(turn: Turn, agent: Agent, to: str) -> str | None:
    """The full name of an agent at work, or None."""
    to = to.strip()
    name = turn.s.lead if to == "lead" else to if "/" in to else f"{turn.team.session}/{to}"
    return name if name in turn.s.agents and name != agent.name else None


def _others(turn: Turn, agent: Agent) -> tuple[str, ...]:
    return tuple(one.name for one in turn.s.agents.values() if one.name != agent.name)


def _send(turn: Turn, agent: Agent, id: str, said: calls.SendTo) -> None:
    if said.to.strip() in ("team", "all", "everyone"):
        to = _others(turn, agent)
    elif said.to.strip() == "user":
        turn.emit("shared", agent=agent.name, text=cut(said.text, EVENT_TEXT), to="user")
        turn.answer(agent.name, id, "the user sees it")
        return
    else:
        name = _resolve(turn, agent, said.to)
        to = (name,) if name else ()
    if not to:
        there = ", ".join(short(name) for name in _others(turn, agent)) or "nobody else"
        turn.answer(agent.name, id, f"no {said.to} to send to; there is {there}", "not_found")
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
    others = _others(turn, agent)
    turn.emit("shared", agent=agent.name, text=cut(text, EVENT_TEXT))
    if others:
        turn.out.append(act.Send(others, Say(text=text, sender=agent.name)))
    turn.answer(agent.name, id, f"shared with {len(others)}")


# --- questions ---------------------------------------------------------------------------------


def _ask(turn: Turn, agent: Agent, id: str, asked: calls.AskFor) -> None:
    """A person answers through a row of questions, an agent through `send`."""
    if asked.to.strip() not in ("user", "human", "person"):
        name = _resolve(turn, agent, asked.to)
        if name is None:
            there = ", ".join(short(one) for one in _others(turn, agent)) or "nobody else"
            turn.answer(agent.name, id, f"no {asked.to} to ask; there is {there}", "not_found")
            return
        text = f"{short(agent.name)} asks (answer with send): {asked.question}"
        turn.out.append(act.Send(name, Say(text=text, sender=agent.name)))
        turn.answer(agent.name, id, f"sent to {short(name)}; the answer comes as a message")
        return
    question = Question(
        id=qu.question_id(turn.team.session, turn.number("question")),
        session=turn.team.session,
        actor=turn.team.name,
        agent=agent.name,
        call=id,
        text=cut(asked.question, qu.TEXT_LIMIT),
        asked=turn.now,
    )
    turn.team.questions[question.id] = question
    turn.s.asks.append(question.id)
    turn.put_question(question)
    turn.emit("question_asked", id=question.id, agent=agent.name, text=question.text)


def decided(turn: Turn, sender: str, body: Decision) -> None:
    """A person's answer; the hub has written it into the row."""
    question = turn.team.questions.pop(body.question, None)
    if question is None:
        turn.ignored("decision", sender, f"{body.question} is not open")
        return
    turn.s.asks.remove(body.question)
    if body.allow:
        turn.answer(question.agent, question.call, body.text or "yes")
    else:
        text = body.text or "the user does not answer this"
        turn.answer(question.agent, question.call, text, "denied")


def close_questions(turn: Turn, agent: str | None = None) -> None:
    """Nobody waits for the answer any more: an agent has ended, or all."""
    for question in list(turn.team.questions.values()):
        if agent is None or question.agent == agent:
            question.state = "closed"
            turn.put_question(question)
            del turn.team.questions[question.id]
            turn.s.asks.remove(question.id)


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
    asked = team.claims.request(claim, team.related, roster.waits(turn.s.agents))
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


def release(turn: Turn, agent: str) -> None:
    """All claims of an agent end; who waited for them gets theirs."""
    for claim in turn.team.claims.release(agent):
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
