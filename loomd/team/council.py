"""What the team asks itself and people: questions with one answer each, and votes.

A question to an agent holds its asker's call until it is answered, so it is refused where waiting
would never end: the one asked waits, directly or through others, for the asker.
"""

from __future__ import annotations

from loomd.actor import behaviour as act
from loomd.team import calls
from loomd.team import claims as cl
from loomd.team import questions as qu
from loomd.team import votes as vo
from loomd.team.edits import cut
from loomd.team.questions import Question
from loomd.team.roster import Agent, short
from loomd.team.turn import EVENT_TEXT, Turn
from loomd.team.votes import Vote
from loomd.wire.bodies import Decision, Inquiry, Say

PEOPLE = frozenset({"user", "human", "person"})
VOTE = "vote:"
"""Timers that close votes."""


# --- questions ---------------------------------------------------------------------------------


def ask(
    turn: Turn, agent: Agent, id: str, asked: calls.AskFor, options: tuple[str, ...] = ()
) -> None:
    """A person answers through a row of questions, an agent with `answer`."""
    to = ""
    if asked.to.strip() not in PEOPLE:
        name = turn.resolve(agent, asked.to)
        if name is None:
            text = f"no {asked.to} to ask; there is {turn.others_listed(agent)}"
            turn.answer(agent.name, id, text, "not_found")
            return
        if cl.reaches(turn.all_waits(), name, agent.name):
            text = (
                f"{short(name)} waits for you, so it could never answer: go on without, "
                "put it into your report, or ask the user"
            )
            turn.answer(agent.name, id, text, "conflict")
            return
        to = name
    elif turn.team.args.get("answers") == "nobody":
        text = "nobody is there to be asked: decide yourself, and say what you have assumed"
        turn.answer(agent.name, id, text, "denied")
        return
    question = Question(
        id=qu.question_id(turn.team.session, turn.number("question")),
        session=turn.team.session,
        actor=turn.team.name,
        agent=agent.name,
        call=id,
        text=cut(qu.with_options(asked.question, options), qu.TEXT_LIMIT),
        args={"options": list(options)} if options else {},
        asked=turn.now,
    )
    if to:
        question.kind, question.state, question.to = "inquiry", "asked", to
        turn.team.inquiries[question.id] = question
        turn.s.inquiries.append(question.id)
        text = f"Question {question.id} by {short(agent.name)}: {question.text}"
        turn.out.append(act.Send(to, Inquiry(id=question.id, text=text, sender=agent.name)))
    else:
        turn.team.questions[question.id] = question
        turn.s.asks.append(question.id)
    turn.put_question(question)
    more = {"to": to} if to else {}
    turn.emit("question_asked", id=question.id, agent=agent.name, text=question.text, **more)


def answer(turn: Turn, agent: Agent, id: str, given: calls.Answer) -> None:
    """An agent's answer to what it was asked."""
    mine = [one for one in turn.team.inquiries.values() if one.to == agent.name]
    question = turn.team.inquiries.get(given.question.strip())
    if question is None and not given.question.strip() and len(mine) == 1:
        question = mine[0]
    if question is None:
        known = ", ".join(one.id for one in mine) or "none"
        what = given.question.strip() or "which one? a question"
        text = f"{what} does not wait for an answer of yours; what does: {known}"
        turn.answer(agent.name, id, text, "not_found")
        return
    if question.to != agent.name:
        text = f"{question.id} was asked of {short(question.to)}"
        turn.answer(agent.name, id, text, "denied")
        return
    _close(turn, question, "answered")
    turn.emit("question_answered", id=question.id, by=agent.name, text=cut(given.text, EVENT_TEXT))
    turn.answer(question.agent, question.call, given.text, "", by=agent.name)
    turn.answer(agent.name, id, f"{short(question.agent)} has your answer")


def _close(turn: Turn, question: Question, state: str) -> None:
    question.state = state
    question.by = question.to if state == "answered" else ""
    turn.put_question(question)
    del turn.team.inquiries[question.id]
    turn.s.inquiries.remove(question.id)


def decided(turn: Turn, sender: str, body: Decision) -> None:
    """A person's answer; the hub has written it into the row."""
    question = turn.team.questions.pop(body.question, None)
    if question is None:
        turn.ignored("decision", sender, f"{body.question} is not open")
        return
    turn.s.asks.remove(body.question)
    if body.allow:
        turn.answer(question.agent, question.call, qu.chosen(question, body.text))
    else:
        text = body.text or "the user does not answer this"
        turn.answer(question.agent, question.call, text, "denied")


def close_questions(turn: Turn, agent: str | None = None, last: str = "") -> None:
    """Nobody waits for the answer any more: an agent has ended, or all. Who had asked that agent
    is told, with its last word."""
    for question in list(turn.team.questions.values()):
        if agent is None or question.agent == agent:
            question.state = "closed"
            turn.put_question(question)
            del turn.team.questions[question.id]
            turn.s.asks.remove(question.id)
    for question in list(turn.team.inquiries.values()):
        if agent is None or agent in (question.agent, question.to):
            _close(turn, question, "closed")
            if agent == question.to:
                text = f"{short(agent)} has ended without an answer"
                text += f"; its last word: {cut(last, EVENT_TEXT)}" if last else ""
                turn.answer(question.agent, question.call, text, "not_found")


# --- votes -------------------------------------------------------------------------------------


def vote(turn: Turn, agent: Agent, id: str, wanted: calls.CastVote) -> None:
    """Opens a vote, or casts a ballot."""
    if wanted.vote.strip():
        _cast(turn, agent, id, wanted)
    else:
        _open(turn, agent, id, wanted)


def _open(turn: Turn, agent: Agent, id: str, wanted: calls.CastVote) -> None:
    options = [" ".join(option.split()) for option in wanted.options]
    title = " ".join(wanted.title.split())
    if wrong := vo.wrong(title, options, wanted.close_s):
        turn.answer(agent.name, id, f"vote: {wrong}", "bad_args")
        return
    if len(turn.s.votes) >= vo.OPEN_AT_ONCE:
        known = ", ".join(one.id for one in turn.s.votes)
        turn.answer(agent.name, id, f"too many votes are open: {known}", "refused")
        return
    voters = list(turn.s.agents)
    quorum = wanted.quorum or vo.majority(len(voters))
    if not 1 <= quorum <= len(voters):
        text = f"vote: quorum is 1 to {len(voters)}: so many agents are there"
        turn.answer(agent.name, id, text, "bad_args")
        return
    one = Vote(
        id=f"v-{turn.number('vote')}",
        title=title,
        options=options,
        by=agent.name,
        voters=voters,
        quorum=quorum,
        due=turn.now + wanted.close_s,
    )
    if wanted.choice.strip():
        index = vo.choice(one, wanted.choice)
        if index is None:
            turn.answer(agent.name, id, _no_option(one, wanted.choice), "bad_args")
            return
        one.ballots[agent.name] = index
    turn.s.votes.append(one)
    turn.out.append(act.SetTimer(VOTE + one.id, one.due))
    others = turn.others(agent)
    if others:
        text = vo.announced(one, short(agent.name), wanted.close_s)
        call = Inquiry(id=one.id, text=text, sender=agent.name, optional=True)
        turn.out.append(act.Send(others, call))
    turn.emit(
        "vote_opened",
        vote=one.id,
        title=title,
        options=options,
        agent=agent.name,
        voters=list(voters),
        quorum=quorum,
        due=one.due,
    )
    text = vo.announced(one, "you", wanted.close_s)
    turn.answer(agent.name, id, f"{text}\nIts result comes as a message.", "", vote=one.id)
    _close_complete(turn)


def _no_option(one: Vote, said: str) -> str:
    return f"{one.id}: {said!r} is none of the options: {', '.join(map(repr, one.options))}"


def _cast(turn: Turn, agent: Agent, id: str, wanted: calls.CastVote) -> None:
    name = wanted.vote.strip()
    one = next((one for one in turn.s.votes if one.id == name), None)
    if one is None:
        known = ", ".join(one.id for one in turn.s.votes) or "none"
        turn.answer(agent.name, id, f"{name} is not open; open votes: {known}", "not_found")
        return
    if agent.name not in one.voters:
        text = f"{name} was opened before you came: you have no vote in it"
        turn.answer(agent.name, id, text, "denied")
        return
    index = vo.choice(one, wanted.choice)
    if index is None:
        turn.answer(agent.name, id, _no_option(one, wanted.choice), "bad_args")
        return
    one.ballots[agent.name] = index
    option = one.options[index]
    turn.emit("vote_cast", vote=one.id, agent=agent.name, choice=option)
    left = len([name for name in one.voters if name not in one.ballots])
    turn.answer(agent.name, id, f"{one.id}: your ballot is {option!r}; {left} are missing")
    _close_complete(turn)


def _close_complete(turn: Turn) -> None:
    for one in list(turn.s.votes):
        if vo.complete(one):
            close_vote(turn, one, *vo.outcome(one))


def due(turn: Turn, key: str) -> None:
    """A vote's time is over."""
    one = next((one for one in turn.s.votes if VOTE + one.id == key), None)
    if one is not None:
        close_vote(turn, one, *vo.outcome(one))


def close_vote(turn: Turn, one: Vote, state: str, winner: str) -> None:
    """Told to all, and recorded in the graph: the title, the options, the one that has won."""
    turn.s.votes.remove(one)
    turn.out.append(act.CancelTimer(VOTE + one.id))
    text = vo.told(one, state, winner)
    turn.emit(
        "vote_closed",
        vote=one.id,
        state=state,
        winner=winner,
        title=one.title,
        ballots={name: one.options[i] for name, i in one.ballots.items()},
    )
    if state == "withdrawn":
        return
    graph = turn.graph()
    title = f"{one.id}: {one.title}"
    rows = graph.decision(
        "decision", title, text, one.options, winner, turn.now, one.by, parent=turn.s.goal
    )
    turn.record(graph, rows, say=True)
    everybody = tuple(turn.s.agents)
    if everybody:
        turn.out.append(act.Send(everybody, Say(text=text, sender=turn.team.name)))


def voter_ended(turn: Turn, agent: str) -> None:
    """Who has ended is not waited for; without voters left there is nothing to decide."""
    for one in list(turn.s.votes):
        if agent in one.voters:
            one.voters.remove(agent)
            one.quorum = max(1, min(one.quorum, len(set(one.voters) | set(one.ballots))))
            if not one.voters and not one.ballots:
                close_vote(turn, one, "withdrawn", "")
    _close_complete(turn)


def withdraw_votes(turn: Turn) -> None:
    for one in list(turn.s.votes):
        close_vote(turn, one, "withdrawn", "")
