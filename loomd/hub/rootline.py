"""The hub's side of the link to the root: orders and requests out, notes and answers in.

The root keeps each note of an end until it is `noted`; notes are booked in the state first, and
what they say has ended is started anew (`reconcile`) only after that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import structlog

from loomd.hub import mail, reconcile, supervision
from loomd.hub.mail import Batch
from loomd.hub.rules import Result
from loomd.store.schema import session_of
from loomd.supervise.link import TooLarge
from loomd.wire import topics

if TYPE_CHECKING:
    from loomd.hub.process import Hub

log = structlog.get_logger()

PIECE: Final = 24_000
"""Characters of a request's text per datagram to the root: escaping may double them."""


class RootLine:
    """births: the orders by which children are started; children: what the root has, by name;
    heard: it has said what it has, and what it kept for us is in the writer's hands. Actors are not
    listened to before: a Hello that overtakes the note of its predecessor's death moves the fence,
    and nobody is blamed."""

    def __init__(self, hub: Hub, births: reconcile.Births) -> None:
        self.hub = hub
        self.births = births
        self.children: dict[str, reconcile.Child] = {}
        self.heard = False
        self.last_upgrade: dict[str, str] | None = None  # {state, reason}, as the root says
        self._ids = 0
        self._calls: dict[int, Callable[[dict[str, Any]], None]] = {}
        self._pages: dict[Any, list[Any]] = {}
        self._pieces: dict[Any, list[str]] = {}
        self._unbooked = 0  # notes of ends that are not durable yet

    def tell(self, message: dict[str, Any]) -> None:
        try:
            self.hub.birth.link.send(message)
        except TooLarge as error:
            log.error("link.too_large", op=message.get("op"), error=str(error))

    def ensure(self, name: str) -> None:
        """Asks the root to run an actor that is wanted."""
        row = self.hub.rules.actors.get(name)
        if row is None or row.wanted != "running":
            return
        spec = self.hub.rules.spec(name)
        if spec.session and spec.kind not in self.births.entries:
            log.error("ensure.unknown_kind", actor=name, kind=spec.kind)
        order = self.births.ensure(spec)
        if order is not None:
            self.tell(order)

    def end(self, name: str) -> None:
        """Asks the root to end an actor's process and forget it."""
        if session_of(name) or self.hub.rules.known[name].kind == "gateway":
            self.tell({"op": "stop", "name": name})
        row = self.hub.rules.actors.get(name)
        self.hub.asks_died(name, f"{name} has ended", held=row is None or row.wanted == "ended")

    def call(self, message: dict[str, Any], then: Callable[[dict[str, Any]], None]) -> None:
        """A request that the root answers; `then` gets its `result`, `tree` or `which`, whole."""
        self._ids += 1
        self._calls[self._ids] = then
        self.tell({**message, "id": self._ids})

    def call_in_pieces(
        self, message: dict[str, Any], text: str, then: Callable[[dict[str, Any]], None]
    ) -> None:
        """The same for a request whose `text` may be larger than a datagram."""
        self._ids += 1
        self._calls[self._ids] = then
        pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)]
        for i, piece in enumerate(pieces):
            last = i == len(pieces) - 1
            self.tell({**message, "id": self._ids, "part": piece, "last": last})

    def which(self, then: Callable[[dict[str, Any]], None] | None) -> None:
        if then is None:
            self.call({"op": "which"}, lambda answer: self._reconcile(answer["children"]))
        else:
            self.call({"op": "which"}, then)

    def receive(self) -> None:
        """Takes all that the root has said."""
        while (note := self.hub.birth.link.receive()) is not None:
            try:
                self._note(note)
            except (KeyError, TypeError, ValueError) as error:
                self.hub.counters["bad_note"] += 1
                log.error("note.bad", op=note.get("op"), error=repr(error))
            if self.hub.stopping:
                return

    def _note(self, note: dict[str, Any]) -> None:
        match note.get("op"):
            case "stop":
                self.hub.stopping = True
            case "upgrade":
                self.hub.stopping = self.hub.upgraded = True
            case "upgraded":
                self.last_upgrade = {key: str(note[key]) for key in ("state", "reason")}
            case "born":
                name = str(note["name"])
                self.children[name] = reconcile.Child(
                    name, int(note["incarnation"]), int(note["pid"]), "running", 0, time.time()
                )
            case "exited":
                self._exited(note)
            case "gave_up":
                supervisor, reason = str(note["supervisor"]), str(note.get("reason") or "")
                log.error("supervisor.gave_up", supervisor=supervisor, reason=reason)
                number = int(note.get("number") or 0)
                self._book(
                    note,
                    lambda batch: supervision.gave_up(batch, supervisor, reason, number),
                    supervisor,
                )
            case "which":
                pages = self._pages.setdefault(note.get("id"), [])
                pages += note["children"]
                if note.get("last", True):
                    del self._pages[note.get("id")]
                    self._answered(note.get("id"), {"children": pages}, note)
            case "tree":
                pieces = self._pieces.setdefault(note.get("id"), [])
                pieces.append(note["part"])
                if note.get("last", True):
                    del self._pieces[note.get("id")]
                    self._answered(note.get("id"), {"text": "".join(pieces)}, note)
            case "result":
                self._answered(note.get("id"), note, note)
            case "epoch" | "pid" | "ready":
                pass
            case op:
                log.warning("note.unknown", op=op)

    def _answered(self, id: Any, answer: dict[str, Any], note: dict[str, Any]) -> None:
        then = self._calls.pop(id, None)
        if then is not None:
            then(answer)
        elif note["op"] == "which":
            self._reconcile(answer["children"])  # we were too slow, and notes were lost

    def _exited(self, note: dict[str, Any]) -> None:
        name, incarnation = str(note["name"]), int(note["incarnation"])
        child = self.children.get(name)
        if child is not None and child.incarnation <= incarnation:
            del self.children[name]
        if name not in self.children:
            self.hub.no_room.discard(name)  # its successor will say so itself
        self.hub.peers.drop(name, up_to=incarnation)
        self.hub.check_readers = True
        reason = mail.exit_reason(note)
        log.info(
            "actor.exited",
            actor=name,
            incarnation=incarnation,
            status=note.get("status"),
            signal=note.get("signal"),
            reason=reason,
            final=bool(note.get("final")),
        )
        self.hub.publisher.delta(
            topics.OBITUARIES,
            name,
            {
                "name": name,
                "incarnation": incarnation,
                "status": note.get("status"),
                "reason": reason,
            },
        )
        if name not in self.hub.peers.by_name:
            self.hub.asks_died(name, f"{name}: {reason}")
        self._book(note, lambda batch: batch.exited(note), name)

    def _book(self, note: dict[str, Any], apply: Callable[[Batch], Result], name: str) -> None:
        """Writes down a note of an end; once that is durable, the root need not keep it for our
        successor."""

        def then(result: Result) -> None:
            self._unbooked -= 1
            self.hub.follow(result)
            if "number" in note:
                self.tell({"op": "noted", "number": note["number"]})

        self._unbooked += 1
        self.hub.submit(apply, then, name)

    def _reconcile(self, rows: list[Any]) -> None:
        """Makes what the root has what is wanted, once the notes before this answer are booked:
        what they say has given up must not be started."""
        have = reconcile.children(rows)
        self.children = {name: child for name, child in have.items() if child.pid}
        for name, peer in list(self.hub.peers.by_name.items()):
            if name in have and have[name].incarnation > peer.incarnation:
                self.hub.peers.drop(name)
                self.hub.asks_died(name, f"{name} was restarted")
        self.heard = True
        if self._unbooked:
            self.hub.submit(lambda batch: batch.begin(), lambda _: self._order(have), "reconcile")
        else:
            self._order(have)

    def _order(self, have: dict[str, reconcile.Child]) -> None:
        wanted = {
            name: (row.wanted, self.hub.rules.spec(name))
            for name, row in self.hub.rules.actors.items()
            if row.wanted == "running" or name in have
        }
        orders = reconcile.reconcile(wanted, have, self.births)
        log.info("reconciled", children=len(have), wanted=len(wanted), orders=len(orders))
        for order in orders:
            self.tell(order)
