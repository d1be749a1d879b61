"""Calls of models under way, as gateways tell of them: phases for `ps`, and what only a gateway
knows (the text so far, the models, a recording).

Phases are said by publications, which a hub forgets with its life; gateways repeat them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from loomd.store.schema import session_of
from loomd.wire import codec
from loomd.wire.bodies import Note
from loomd.wire.errors import LoomError
from loomd.wire.messages import Answered

if TYPE_CHECKING:
    from loomd.hub.process import Hub

Done = Callable[[Any], None]

SAID: Final = {"connect": "connection", "first_byte": "first byte", "answer": "rest of the answer"}
"""Phase -> what the call waits for."""


@dataclass(frozen=True)
class Call:
    gateway: str
    request: str
    phase: str
    since: float


@dataclass
class Calls:
    """agent -> its call under way. An agent has one at a time, a keeper may have several: the
    newest is shown."""

    open: dict[str, Call] = field(default_factory=dict)

    def note(self, gateway: str, data: Mapping[str, Any]) -> None:
        """A publication of type `call`: see loomd.gateway.streams."""
        match data:
            case {
                "agent": str(agent),
                "request": str(request),
                "phase": str(phase),
                "since": int() | float() as since,
            }:
                known = self.open.get(agent)
                if phase in SAID:
                    self.open[agent] = Call(gateway, request, phase, float(since))
                elif known is not None and known.request == request:
                    del self.open[agent]

    def gone(self, gateway: str) -> None:
        """An incarnation of it has ended, and its connections with it."""
        self.open = {agent: call for agent, call in self.open.items() if call.gateway != gateway}

    def waiting_for(self, agent: str, now: float) -> str:
        """`first byte, 40 s`; "" without a call at a provider."""
        call = self.open.get(agent)
        return "" if call is None else _said(call, now)

    def of_session(self, session: str, now: float) -> str:
        """The same for that call of a session that has waited longest, and how many there are."""
        calls = [call for agent, call in self.open.items() if session_of(agent) == session]
        if not calls:
            return ""
        longest = _said(min(calls, key=lambda call: call.since), now)
        return longest if len(calls) == 1 else f"{longest} ({len(calls)} calls)"


def _said(call: Call, now: float) -> str:
    return f"{SAID[call.phase]}, {max(0.0, now - call.since):.0f} s"


# --- asking gateways ---------------------------------------------------------------------------


def streams(hub: Hub, done: Done, session: str, have: dict[str, int]) -> None:
    """{deltas, more} of a session's answers under way, from whichever gateway has them."""
    names = [name for name in hub.peers.by_name if hub.rules.known[name].kind == "gateway"]
    found: dict[str, Any] = {"deltas": [], "more": False}
    left = len(names)
    if not names:
        done(found)
        return

    def then(answer: Answered) -> None:
        nonlocal left
        left -= 1
        if not answer.error:  # one that died has no stream any more
            said = _data(answer)
            found["deltas"] += said["deltas"]
            found["more"] = found["more"] or said["more"]
        if left == 0:
            done(found)

    for name in names:
        # They share what fits into one reply.
        data = {"streams": session, "have": have, "among": len(names)}
        hub.ask_here(name, codec.encode(Note(data=data)), then)


def ask(hub: Hub, done: Done, question: Mapping[str, Any]) -> None:
    """What any gateway can say: the newest is asked."""
    rows = hub.rules.actors.items()
    names = [
        name
        for name, row in rows
        if hub.rules.known[name].kind == "gateway" and row.wanted == "running"
    ]
    if not names:
        raise LoomError("not_running", "there is no gateway", "see: loomctl ps")
    newest = max(names, key=lambda name: (len(name), name))

    def then(answer: Answered) -> None:
        if answer.error:
            done(LoomError(answer.error, answer.detail or answer.error))
        else:
            done(_data(answer))

    hub.ask_here(newest, codec.encode(Note(data=dict(question))), then)


def _data(answer: Answered) -> Any:
    body = codec.body(answer.body)
    return body.data if isinstance(body, Note) else None
