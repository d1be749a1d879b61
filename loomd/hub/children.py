"""What clients ask of the supervision tree: OTP's calls, and another configuration of services.

The tree is the root's; the hub asks, and answers in CONTRACT's shapes. An actor is the exception:
it is wanted or not by the state, so `terminate` ends it there, for good, and its team hears of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from loomd.hub import configured
from loomd.hub.reconcile import GROUPS
from loomd.hub.rules import HUB
from loomd.store.schema import session_of
from loomd.wire.errors import LoomError

if TYPE_CHECKING:
    from loomd.hub.mail import Batch
    from loomd.hub.process import Hub
    from loomd.hub.rules import Result

CALLS: Final = ("start", "terminate", "restart", "delete")
QUESTIONS: Final = ("which", "count")
NEEDED: Final = frozenset({HUB, "template"})
"""Without these there is nobody left to ask for their restart."""
PLACES: Final = frozenset({"services", "sessions"})
"""What is started on demand is started here."""
HEADS: Final = frozenset({"team", "tools"})
"""Kinds without which a session is none."""
WHAT_BECOMES: Final = ("started", "stopped", "restarted", "updated", "held")
"""Of what has changed in a configuration."""

Done = Callable[[Any], None]


def kind_of(name: str) -> str:
    """The kind of a process that is no actor."""
    if name in (HUB, "watch"):
        return name
    return "template" if name.partition("-")[0] == "template" else "service"


def child(hub: Hub, done: Done, call: str, id: str) -> None:
    """One of the supervisor's calls: {id, result}; `result` is "ok", OTP's error word, or what
    `which` and `count` answer."""
    if call in QUESTIONS:
        hub.root.call(
            {"op": "child", "call": call, "name": id},
            lambda answer: done({"id": id, "result": _text(answer)}),
        )
        return
    if call not in CALLS:
        said = ", ".join(CALLS + QUESTIONS)
        raise LoomError("usage", f"no call {call!r}", f"there are: {said}")
    if call == "terminate" and id in NEEDED:
        raise LoomError(
            "bad_state",
            f"the daemon cannot do without its {id}",
            f"loomctl restart {id} replaces it, loomctl daemon stop ends the daemon",
        )
    if call == "delete" and id in PLACES:
        raise LoomError(
            "bad_state",
            f"the daemon cannot do without its {id}",
            f"loomctl child terminate {id} stops all that is in it",
        )
    row = hub.rules.actors.get(id)
    if call == "terminate" and row is None and (session := _session_behind(hub, id)):
        raise LoomError(
            "bad_state",
            f"the state of {session} says that its actors run: it would start {id} again",
            f"loomctl pause {session}, or loomctl stop {session}, stops its work",
        )
    if call == "terminate" and session_of(id) and row is not None:
        _end_actor(hub, done, id)
        return
    hub.root.call(
        {"op": "child", "call": call, "name": id},
        lambda answer: done({"id": id, "result": answer.get("error") or "ok"}),
    )


def _session_behind(hub: Hub, id: str) -> str:
    """The session that this supervisor belongs to; "" if it belongs to none."""
    session, _, group = id.partition("/")
    of_session = session in hub.rules.sessions and group in ("", *GROUPS.values())
    return session if of_session else ""


def _text(answer: dict[str, Any]) -> Any:
    return json.loads(answer["text"]) if "text" in answer else answer.get("error")


def _end_actor(hub: Hub, done: Done, name: str) -> None:
    session = session_of(name)
    if hub.rules.known[name].kind in HEADS:
        raise LoomError(
            "bad_state",
            f"{session} cannot do without {name}",
            f"loomctl restart {name} replaces it, loomctl stop {session} ends the session",
        )

    def then(result: Result) -> None:
        hub.follow(result)
        done({"id": name, "result": "ok"})

    hub.submit(
        lambda batch: _ended(batch, name),
        then,
        name,
        lambda code, detail: done(LoomError(code, detail)),
    )


def _ended(batch: Batch, name: str) -> Result:
    result = batch.begin()
    batch.end(name, "terminated by a person", by="client")
    return result


# --- another configuration -----------------------------------------------------------------------


def reload_config(hub: Hub, done: Done) -> None:
    """Reads the configuration again and has the root run what it says of services.

    Answers {loaded, changed, errors: [{module, error}], started, stopped, restarted, updated, held,
    restart_needed}: ids; `held` has those that a person keeps down, `restart_needed` the tables
    that only a new daemon reads. With an error nothing is changed.
    """
    path = hub.places.config
    try:
        settings = configured.read(path)
    except LoomError as error:
        hint = f" ({error.hint})" if error.hint else ""
        done(_reply(errors=[{"module": "config", "error": error.message + hint}]))
        return
    old, new = hub.settings, json.loads(json.dumps(settings.as_dict()))
    needed = sorted(
        table for table in new if new[table] != old.get(table) and table not in configured.LIVE
    )

    def then(answer: dict[str, Any]) -> None:
        said = _text(answer)
        if not isinstance(said, dict):
            done(_reply(errors=[{"module": "config", "error": f"{path}: {said}"}]))
            return
        configured.take_settings(hub, new, lambda tables: settled(said, tables))

    def settled(said: dict[str, Any], tables: Any) -> None:
        if isinstance(tables, LoomError):
            done(tables)
            return
        changed = [id for ids in said.values() for id in ids] + tables
        done(_reply(changed=changed, loaded=_ids(settings.supervisors), **said, needed=needed))

    hub.root.call_in_pieces({"op": "configure"}, json.dumps(list(settings.supervisors)), then)


def _ids(specs: Any) -> list[str]:
    found = []
    for spec in specs:
        found += [spec["id"], *_ids(spec.get("children", ()))]
    return found


def _reply(
    *,
    loaded: list[str] | None = None,
    changed: list[str] | None = None,
    errors: list[dict[str, str]] | None = None,
    needed: list[str] | None = None,
    **ids: list[str],
) -> dict[str, Any]:
    return {
        "loaded": loaded or [],
        "changed": changed or [],
        "errors": errors or [],
        **{name: ids.get(name, []) for name in WHAT_BECOMES},
        "restart_needed": needed or [],
    }
