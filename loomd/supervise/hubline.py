"""What the hub may ask of the root, and what the root tells it.

Messages are queued to a limit and may be lost: a new hub asks `which` and reconciles, and a hub
that was too slow gets an unasked `which` (id null). Notes of ends (`exited`, `gave_up`) are
numbered and kept (`notes`) until a hub has said `noted`; a new hub gets them before the answer to
its `which`, so that it starts nothing that has given up. Nothing the hub sends can harm the root:
what is malformed is answered with an error, or logged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from loomd.supervise import reconfigure
from loomd.supervise import spec as s
from loomd.supervise import tree as t
from loomd.supervise.link import LinkClosed, TooLarge
from loomd.supervise.notes import Notes
from loomd.supervise.policy import SERVICES

if TYPE_CHECKING:
    from loomd.supervise.process import Process
    from loomd.supervise.root import Root

PAGE = 200
"""Children per `which` datagram."""
PIECE = 24_000
"""Characters of JSON per `tree` datagram: escaping may double them."""


class HubLine:
    """One per root; outlives every hub."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._missed = False
        self._notes = Notes(root.config.boot)
        self._hears = False  # there is a hub that has started
        self._sent = 0  # the last note that is on its way to this hub
        self._forgets = False  # this hub is of code that does not acknowledge notes
        self._calls: dict[int, Any] = {}  # our number of a call -> the hub's id of it
        self._next_call = 0
        self._parts: dict[Any, list[str]] = {}  # of configurations that are still coming in
        self.epoch = 0
        self._ops: dict[str, Callable[[dict[str, Any]], None]] = {
            "epoch": self._epoch,
            "noted": self._noted,
            "ensure": self._ensure,
            "stop": self._stop,
            "end_session": self._stop,
            "which": self._which,
            "tree": self._tree,
            "signal": self._signal,
            "restart": self._restart,
            "child": self._child,
            "status": self._status,
            "configure": self._configure,
            "upgrade": self._upgrade,
            "shutdown": self._shutdown,
        }

    # --- to the hub ----------------------------------------------------------------------------

    def note(self, message: dict[str, Any]) -> None:
        """Tells the hub, if there is one."""
        hub = self._hub()
        if hub is None or hub.name == message.get("name"):
            return
        self._put(hub, message)
        self._root.send_queued(hub)

    def must_note(self, message: dict[str, Any]) -> None:
        """Tells a hub of an end: this one, or the next."""
        if message.get("name") == self._root.config.hub:
            return
        numbered, lost = self._notes.keep(message)
        if lost is not None:
            self._root.log.line(
                "error",
                "note_lost",
                op=lost["op"],
                name=lost.get("name") or lost.get("supervisor"),
                reason=lost["reason"],
            )
        hub = self._hub()
        if hub is not None and self._hears and not self._missed:  # else it gets them in order later
            self._pass_on(hub, [numbered])

    def hub_ready(self) -> None:
        """A hub has started: it gets what no hub before it has booked."""
        self._hears, self._sent, self._forgets = True, 0, False
        hub = self._hub()
        if hub is not None:
            self._pass_on(hub, self._notes.after(0))

    def drained(self) -> None:
        """The queue toward the hub is empty again."""
        hub = self._hub()
        if self._missed and hub is not None:
            self._missed = False
            if self._hears:
                self._pass_on(hub, self._notes.after(self._sent))
            self._which({"id": None})

    def hub_gone(self) -> None:
        """Its questions died with it, and what was on its way to it."""
        self._calls.clear()
        self._parts.clear()
        self._missed = self._hears = False

    def _pass_on(self, hub: Process, notes: list[dict[str, Any]]) -> None:
        for note in notes:
            if not self._put(hub, note):
                break
            self._sent = note["number"]
            if self._forgets:
                self._notes.taken(self._sent)
        self._root.send_queued(hub)

    def _put(self, hub: Process, message: dict[str, Any]) -> bool:
        """False: it takes nothing more."""
        try:
            hub.link.send(message)
        except TooLarge as error:
            self._root.log.line("error", "note_too_large", reason=str(error))
        except LinkClosed:
            self._missed = True
            return False
        return True

    def freeze(self) -> dict[str, Any]:
        """For the root's successor, which goes on with the same hub."""
        calls = [[number, id] for number, id in self._calls.items()]
        return {
            "missed": self._missed,
            "calls": calls,
            "next_call": self._next_call,
            "parts": [[id, parts] for id, parts in self._parts.items()],
            "epoch": self.epoch,
            "notes": self._notes.freeze(),
            "hears": self._hears,
            "sent": self._sent,
            "forgets": self._forgets,
        }

    def thaw(self, frozen: dict[str, Any]) -> None:
        """After the processes."""
        if "notes" in frozen:
            self._notes = Notes.thaw(frozen["notes"])
            self._hears, self._sent = frozen["hears"], frozen["sent"]
            self._forgets = frozen["forgets"]
        else:  # of code that kept no notes, as its hub acknowledges none
            self._hears = self._forgets = self._hub() is not None
        self._missed = frozen["missed"]
        self._calls = {number: id for number, id in frozen["calls"]}
        self._next_call = frozen["next_call"]
        self._parts = {id: parts for id, parts in frozen["parts"]}
        self.epoch = frozen["epoch"]

    def reply(self, action: t.Reply) -> None:
        if action.call not in self._calls:
            return
        self._result(self._calls.pop(action.call), action.error, action.name)

    def _result(self, id: Any, error: str, name: str = "") -> None:
        process = self._root.processes.get(name)
        self.note(
            {
                "op": "result",
                "id": id,
                "ok": not error,
                "error": error,
                "pid": process.pid if process is not None else 0,
                "incarnation": process.incarnation if process is not None else 0,
            }
        )

    def _hub(self) -> Process | None:
        hub = self._root.processes.get(self._root.config.hub)
        return hub if hub is not None and hub.pid and not hub.dead else None

    # --- from the hub --------------------------------------------------------------------------

    def request(self, message: dict[str, Any]) -> None:
        """One message of the hub."""
        op = message.get("op")
        handler = self._ops.get(op) if isinstance(op, str) else None
        try:
            if handler is None:
                raise ValueError(f"unknown op {op!r}")
            handler(message)
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            said = f"{type(error).__name__}: {error}"[:500]
            self._root.log.line("warning", "bad_request", op=str(op)[:80], reason=said)
            if message.get("id") is not None:
                self._result(message["id"], said)

    def _epoch(self, message: dict[str, Any]) -> None:
        self.epoch = int(message["epoch"])
        for process in list(self._root.processes.values()):
            if process.name != self._root.config.hub and not process.spec.start.serves:
                self._root.send(process, {"op": "epoch", "epoch": self.epoch})
        self._forgets = not message.get("notes", False)
        if self._forgets:  # and what it got before it said so
            for note in self._notes.after(0):
                if note["number"] <= self._sent:
                    self._notes.taken(note["number"])
        self._root.upgrade.tell_hub()

    def _noted(self, message: dict[str, Any]) -> None:
        """The hub has booked this one for good."""
        self._notes.taken(int(message["number"]))

    def _ensure(self, message: dict[str, Any]) -> None:
        given = dict(message["spec"])
        given.setdefault("id", message["name"])
        spec = s.parse_worker(given)
        if spec.id != message["name"]:
            raise ValueError(f"spec of {spec.id!r} for {message['name']!r}")
        session, group = message.get("session") or "", message.get("group") or ""
        if group not in ("", "agents", "keepers", "gateways"):
            raise ValueError(f"group {group!r}")
        self._root.tell(t.Ensure(spec, session, group, int(message.get("after") or 0)))
        if message.get("id") is not None:
            self._result(message["id"], "", spec.id)

    def _stop(self, message: dict[str, Any]) -> None:
        name = message["session"] if message["op"] == "end_session" else message["name"]
        self._root.tell(t.Forget(str(name)))
        if message.get("id") is not None:
            self._result(message["id"], "", str(name))

    def _which(self, message: dict[str, Any]) -> None:
        shift = time.time() - time.monotonic()
        rows = []
        for worker in t.workers(self._root.policy.root):
            started = worker.started_at + shift if worker.started_at else 0.0
            rows.append(
                [
                    worker.id,
                    worker.incarnation,
                    worker.pid,
                    worker.state,
                    worker.restarts,
                    round(started, 3),
                ]
            )
        pages = [rows[i : i + PAGE] for i in range(0, len(rows), PAGE)] or [[]]
        for i, page in enumerate(pages):
            last = i == len(pages) - 1
            self.note({"op": "which", "id": message.get("id"), "children": page, "last": last})

    def _tree(self, message: dict[str, Any]) -> None:
        shift = time.time() - time.monotonic()
        self._pieces(message, _in_epoch_seconds(t.picture(self._root.policy.root), shift))

    def _pieces(self, message: dict[str, Any], value: Any) -> None:
        """The answer to a message."""
        self.pieces(message.get("id"), json.dumps(value))

    def pieces(self, id: Any, text: str) -> None:
        """An answer of any size."""
        pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)]
        for i, piece in enumerate(pieces):
            self.note({"op": "tree", "id": id, "part": piece, "last": i == len(pieces) - 1})

    def _upgrade(self, message: dict[str, Any]) -> None:
        key, execute = str(message["key"]), bool(message.get("execute"))
        self._root.upgrade.ask(key, execute=execute, id=message.get("id"))

    def _signal(self, message: dict[str, Any]) -> None:
        name, number = str(message["name"]), int(message.get("signal") or 9)
        process = self._root.processes.get(name)
        if process is None:
            known = name in self._root.policy.nodes
            self._result(message.get("id"), "not_running" if known else "not_found", name)
            return
        pid, incarnation = process.pid, process.incarnation
        sent = self._root.ends.signal(process, number)
        self.note(
            {
                "op": "result",
                "id": message.get("id"),
                "ok": sent,
                "error": "" if sent else "not_running",
                "pid": pid,
                "incarnation": incarnation,
            }
        )

    def _restart(self, message: dict[str, Any]) -> None:
        self._root.tell(t.Bounce(self._call(message), str(message["name"])))

    def _child(self, message: dict[str, Any]) -> None:
        name, wish = str(message["name"]), message["call"]
        if wish == "start":
            self._start_child(message, name)
        elif wish == "terminate":
            self._root.tell(t.TerminateChild(self._call(message), name))
        elif wish == "restart":
            self._root.tell(t.RestartChild(self._call(message), name))
        elif wish == "delete":
            self._root.tell(t.DeleteChild(self._call(message), name))
        elif wish in ("which", "count"):
            node = self._root.policy.nodes.get(name)
            if not isinstance(node, t.Supervisor):
                self._pieces(message, "not_found" if node is None else "not_a_supervisor")
            elif wish == "which":
                self._pieces(message, _listed(node))
            else:
                self._pieces(message, t.count_children(node))
        else:
            raise ValueError(f"call {wish!r}: start, terminate, restart, delete, which or count")

    def _start_child(self, message: dict[str, Any], name: str) -> None:
        """OTP's start_child of a child that its supervisor's spec names: one that was deleted, or
        was temporary and has ended."""
        nodes = self._root.policy.nodes
        if name in nodes:
            down = nodes[name].state in ("down", "waiting")
            self._result(message.get("id"), "already_present" if down else "already_started", name)
            return
        for sup in nodes.values():
            for spec in sup.spec.children if isinstance(sup, t.Supervisor) else ():
                if spec.id == name:
                    self._root.tell(t.StartChild(self._call(message), sup.id, spec))
                    return
        self._result(message.get("id"), "not_found", name)

    def _configure(self, message: dict[str, Any]) -> None:
        """New trees of the user's, as specs below `services`, in pieces; answered with what is
        started, stopped, restarted, updated and held. If anything is wrong, nothing is done."""
        id = message["id"]
        parts = self._parts.setdefault(id, [])
        parts.append(str(message["part"]))
        if not message.get("last", True):
            return
        del self._parts[id]
        policy = self._root.policy
        services = policy.nodes[SERVICES]
        if not isinstance(services, t.Supervisor):
            raise ValueError("this tree has no services")
        children = tuple(s.parse(child) for child in json.loads("".join(parts)))
        spec = replace(services.spec, children=children)
        ids = s.all_ids(spec)[1:]
        own = {node.id for node in t.walk(services)}
        for name in ids:
            if ids.count(name) > 1 or (name in policy.nodes and name not in own):
                raise s.SpecError("duplicate_child_name", name)
        changes = reconfigure.diff(services.spec, spec)
        self._root.tell(t.Configure(spec))
        said = reconfigure.report(changes, reconfigure.kept_down(spec, policy.held))
        self._root.log.line("info", "configured", **said)
        self._pieces(message, said)

    def _status(self, message: dict[str, Any]) -> None:
        sessions, actors, blocked = (int(message[k]) for k in ("sessions", "actors", "blocked"))
        several = "" if sessions == 1 else "s"
        self._root.notify.status(f"{sessions} session{several}, {actors} actors, {blocked} blocked")

    def _shutdown(self, message: dict[str, Any]) -> None:
        self._root.shutdown("asked by the hub")

    def _call(self, message: dict[str, Any]) -> int:
        self._next_call += 1
        if message.get("id") is not None:
            self._calls[self._next_call] = message["id"]
        return self._next_call


def _in_epoch_seconds(picture: dict[str, Any], shift: float) -> dict[str, Any]:
    """The same picture with `started_at` on the wall clock; 0: never."""
    if picture["started_at"]:
        picture["started_at"] = round(picture["started_at"] + shift, 3)
    for child in picture["children"]:
        _in_epoch_seconds(child, shift)
    return picture


def _listed(sup: t.Supervisor) -> list[dict[str, Any]]:
    """which_children, newest first; a supervisor has no process of its own."""
    return [
        {"id": id, "pid": pid or None, "type": kind, "state": sup.children[id].state}
        for id, pid, kind in t.which_children(sup)
    ]
