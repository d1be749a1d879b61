"""Keepers, and recalls that go to all of them."""

from __future__ import annotations

from loomd.actor import behaviour as act
from loomd.team import calls
from loomd.team.edits import cut
from loomd.team.roster import short
from loomd.team.state import Recalling
from loomd.team.turn import Turn
from loomd.wire.bodies import Hit, KeeperReady, Offload, Recall, Recalled, Span

RECALL_S = 15.0
"""How long a recall waits for keepers that do not answer."""

HITS = 8
HIT_TEXT = 2_000
EXACT_TEXT = 400_000
MAX_WAITING = 20
QUERY_LIMIT = 500

TIMER = "recall"


def offload(turn: Turn, sender: str, body: Offload) -> None:
    """A stretch of an agent's view goes to a keeper; the agent hears when it is there."""
    agent = turn.s.agents.get(sender)
    if agent is None or body.first < 1 or body.last < body.first:
        turn.ignored("offload", sender, "not an agent at work, or no entries")
        return
    turn.keep(sender, body.first, body.last, cut(body.title, 200), owner=sender)
    turn.span_kept(agent, Span(log=sender, first=body.first, last=body.last))


def ready(turn: Turn, sender: str, body: KeeperReady) -> None:
    keeper = turn.team.keepers.get(short(sender))
    if keeper is None:
        turn.ignored("keeper_ready", sender, "no such keeper")
        return
    keeper.line, keeper.state = body.line, "ready"
    keeper.entries, keeper.bytes = body.entries or keeper.entries, body.bytes
    turn.put_keeper(keeper)
    if keeper.owner and keeper.owner in turn.s.agents:
        turn.out.append(act.Send(keeper.owner, body))


def ended(turn: Turn, name: str, reason: str) -> bool:
    """A keeper has given up: its stretch stays in the log, but it does not answer any more."""
    keeper = turn.team.keepers.get(short(name))
    if keeper is None:
        return False
    if keeper.state == "starting" and keeper.owner in turn.s.agents:
        # Its owner waits for the line: the entries leave its view all the same.
        span = Span(log=keeper.log, first=keeper.first, last=keeper.last)
        line = f"{keeper.id}: {keeper.title or 'earlier entries'} (not answering: {reason})"
        turn.out.append(act.Send(keeper.owner, KeeperReady(keeper=name, span=span, line=line)))
    keeper.state = "ended"
    turn.put_keeper(keeper)
    for recall in list(turn.s.recalls):
        _answered_by(turn, recall, name)
    return True


# --- recall ------------------------------------------------------------------------------------


def recall(turn: Turn, agent: str, call: str, query: str) -> None:
    """Asks every keeper, or the one that the query cites, and answers with ranked hits."""
    keepers = [one for one in turn.team.keepers.values() if one.state != "ended"]
    cited = calls.exact(query)
    if not keepers:
        text = "There are no keepers yet: nothing has left the agents' views so far."
        turn.answer(agent, call, text)
    elif cited is not None and all(one.id != cited[0] for one in keepers):
        known = ", ".join(one.id for one in keepers)
        turn.answer(agent, call, f"no {cited[0]} answers; there are: {known}", "not_found")
    elif len(turn.s.recalls) >= MAX_WAITING:
        turn.answer(agent, call, "too many recalls at once: wait for the others", "refused")
    else:
        turn.s.recalls.append(Recalling(call=call, agent=agent, query=query[:QUERY_LIMIT]))
        _next(turn)


def _next(turn: Turn) -> None:
    """Asks for the oldest recall, if it has not been asked yet."""
    while turn.s.recalls and not turn.s.recalls[0].asked:
        one = turn.s.recalls[0]
        one.asked = True
        cited = calls.exact(one.query)
        alive = [k.id for k in turn.team.keepers.values() if k.state != "ended"]
        names = [id for id in alive if cited is None or id == cited[0]]
        one.waiting = [f"{turn.team.session}/{id}" for id in names]
        if not one.waiting:
            _finish(turn, one)
            continue
        if cited is None:
            body = Recall(id=one.call, mode="search", query=one.query, limit=HITS)
        else:
            one.exact = True
            body = Recall(id=one.call, mode="exact", first=cited[1], last=cited[2])
        turn.out.append(act.Send(tuple(one.waiting), body))
        turn.out.append(act.SetTimer(TIMER, turn.now + RECALL_S))


def recalled(turn: Turn, sender: str, body: Recalled) -> None:
    one = next((r for r in turn.s.recalls if r.asked and r.call == body.id), None)
    if one is None or sender not in one.waiting:
        turn.ignored("recalled", sender, "nobody waits for it")
        return
    if body.error:
        one.error = cut(body.error, 500)
    if one.exact:
        # Whole, and therefore never through the saved state.
        turn.s.recalls.remove(one)
        text = "\n\n".join(f"[{short(sender)}:{hit.entry}]\n{hit.text}" for hit in body.hits)
        text += "\n[there is more: ask for fewer entries at once]" if body.truncated else ""
        error = "" if body.hits else "not_found"
        turn.answer(one.agent, one.call, cut(text or one.error, EXACT_TEXT), error)
        _done(turn)
        return
    for hit in body.hits[:HITS]:
        one.hits.append((hit.score, _reference(hit, sender), cut(hit.text, HIT_TEXT)))
    one.hits = sorted(one.hits, key=lambda hit: (-hit[0], hit[1]))[:HITS]
    _answered_by(turn, one, sender)


def _reference(hit: Hit, sender: str) -> str:
    return (
        f"{short(sender)}:{hit.entry} of {short(hit.log)}"
        if hit.log
        else f"{short(sender)}:{hit.entry}"
    )


def _answered_by(turn: Turn, one: Recalling, keeper: str) -> None:
    if keeper in one.waiting:
        one.waiting.remove(keeper)
        if one.asked and not one.waiting:
            _finish(turn, one)
            _done(turn)


def _finish(turn: Turn, one: Recalling) -> None:
    turn.s.recalls.remove(one)
    missing = ", ".join(short(name) for name in one.waiting)
    parts = [f"[{reference}]\n{text}" for _, reference, text in one.hits]
    if not parts:
        parts.append(one.error or f"Nothing that the keepers hold matches {one.query!r}.")
    if missing:
        parts.append(f"(no answer from {missing})")
    turn.answer(one.agent, one.call, "\n\n".join(parts))


def _done(turn: Turn) -> None:
    turn.out.append(act.CancelTimer(TIMER))
    _next(turn)


def due(turn: Turn) -> None:
    """Whoever has not answered by now is left out."""
    if turn.s.recalls and turn.s.recalls[0].asked:
        _finish(turn, turn.s.recalls[0])
        _next(turn)


def undelivered(turn: Turn, to: str, body: Recall) -> None:
    for one in list(turn.s.recalls):
        if one.call == body.id:
            if one.exact:
                one.error = f"{short(to)} does not answer"
            _answered_by(turn, one, to)


def forget(turn: Turn, agent: str | None = None) -> None:
    """Drops the recalls of an agent that has ended, or all."""
    first = turn.s.recalls[:1]
    turn.s.recalls = [r for r in turn.s.recalls if agent is not None and r.agent != agent]
    if first and turn.s.recalls[:1] != first:
        _done(turn)
