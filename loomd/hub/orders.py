"""What clients have done: by the root, by an actor, or by this hub. Answered when it is done.

Every method is an operation (`loomd.hub.clients.OPS`); `done` ends it, with its value or with a
LoomError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loomd import trust as trusts
from loomd.hub import calls, checks, children, configured, roles, toolsets
from loomd.hub.queries import Queries, pss_kb
from loomd.store.schema import session_of
from loomd.wire import codec
from loomd.wire.bodies import Reload, Reloaded
from loomd.wire.errors import LoomError
from loomd.wire.messages import Answered

if TYPE_CHECKING:
    from loomd.hub.process import Hub

FROM_CLIENT: Final = b"\0c"
"""Route of an ask that a client sent; names of actors never begin so."""

Done = Callable[[Any], None]
"""Ends a call: with its value, or with a LoomError."""


class Orders:
    """Those that are under way. Belongs to the hub's loop."""

    def __init__(self, hub: Hub, queries: Queries) -> None:
        self.hub = hub
        self.queries = queries
        self._asking: dict[str, Done] = {}
        self._asks = 0
        self._watching: dict[str, tuple[list[str], Done]] = {}

    # --- processes -------------------------------------------------------------------------------

    def ps(self, done: Done, session: str = "", memory: bool = False) -> None:
        if session:
            self.queries.known_session(session)

        def then(answer: dict[str, Any]) -> None:
            workers = {str(row[0]): row for row in answer["children"]}
            names = list(workers)
            names += [
                name
                for name, row in self.hub.rules.actors.items()
                if row.wanted != "ended" and name not in workers
            ]
            rows = [
                self.queries.process(name, workers.get(name, ()))
                for name in sorted(names)
                if not session or session_of(name) == session
            ]
            if memory:
                self._weigh(rows, done)
            else:
                done(rows)

        self.hub.root.which(then)

    def _weigh(self, rows: list[dict[str, Any]], done: Done) -> None:
        """Adds `pss_kb` to each. The kernel takes 10 ms and more for a process: for a team of a
        hundred it has been 28 s, and nobody's commit may wait for that. One piece of work each: a
        hub that stops waits for one of them."""
        left = [row for row in rows if row["pid"]]
        for row in rows:
            row["pss_kb"] = 0

        def weighed(row: dict[str, Any], kb: int) -> None:
            row["pss_kb"] = kb
            left.remove(row)
            if not left:
                done(rows)

        for row in list(left):
            self.hub.aside.do(partial(pss_kb, row["pid"]), partial(weighed, row))
        if not left:
            done(rows)

    def tree(self, done: Done) -> None:
        self.hub.root.call({"op": "tree"}, lambda answer: done(json.loads(answer["text"])))

    def kill(self, done: Done, name: str, signal: int = 9) -> None:
        if not 1 <= signal <= 64:
            raise LoomError("usage", f"no signal {signal}")
        self._root(done, {"op": "signal", "name": name, "signal": signal}, name)

    def restart(self, done: Done, name: str) -> None:
        self._root(done, {"op": "restart", "name": name}, name)

    def child(self, done: Done, call: str, id: str) -> None:
        children.child(self.hub, done, call, id)

    def _root(self, done: Done, message: dict[str, Any], name: str) -> None:
        def then(answer: dict[str, Any]) -> None:
            if answer.get("ok"):
                done({"name": name, "pid": answer["pid"], "incarnation": answer["incarnation"]})
                return
            error = str(answer.get("error") or "failed")
            if error == "not_found":
                row = self.hub.rules.actors.get(name)
                if row is not None and row.wanted != "ended":
                    done(LoomError("not_running", f"{name} is {row.wanted} and has no process"))
                else:
                    done(LoomError("no_such_actor", f"no {name!r}", "see: loomctl ps"))
            elif error == "not_running":
                done(LoomError("not_running", f"{name} has no process now"))
            else:
                done(LoomError("failed", f"{message['op']} {name}: {error}"))

        self.hub.root.call(message, then)

    def upgrade(self, done: Done, key: str = "") -> None:
        """New code everywhere. This very hub is replaced on the way: its successor is asked again
        with the same key, and the root knows by that what is meant."""
        self._upgrade(done, key, execute=True)

    def _upgrade(self, done: Done, key: str, *, execute: bool) -> None:
        def then(answer: dict[str, Any]) -> None:
            result = json.loads(answer["text"])
            refused = result.pop("refused")
            if refused:
                done(LoomError(refused["code"], refused["reason"], refused.get("hint", "")))
                return
            result.pop("key")
            done(result)

        self.hub.root.call({"op": "upgrade", "key": key, "execute": execute}, then)

    def shutdown(self, done: Done) -> None:
        done({"stopping": True, "pid": self.hub.root_pid})
        self.hub.root.tell({"op": "shutdown"})

    # --- actors and checkouts --------------------------------------------------------------------

    def ask(self, done: Done, actor: str, body: dict[str, Any]) -> None:
        raw = codec.encode(body)
        codec.body(raw)  # refused here, not in the actor
        self._asks += 1
        id = str(self._asks)
        self._asking[id] = done
        self.hub.ask(FROM_CLIENT, id, "user", actor, raw)

    def answered(self, answer: Answered) -> None:
        """An actor's answer to a client's ask."""
        done = self._asking.pop(answer.id, None)
        if done is None:
            return
        if answer.error:
            done(LoomError(answer.error, answer.detail or answer.error))
            return
        try:
            codec.body(answer.body)
        except LoomError as error:
            done(LoomError("internal", f"the actor's answer is none: {error.message}"))
        else:
            done(codec.unpack(answer.body))

    def streams(self, done: Done, session: str, have: dict[str, int]) -> None:
        self.queries.known_session(session)
        calls.streams(self.hub, done, session, have)

    def models(self, done: Done, check: bool = False, key: str = "") -> None:
        if check:
            checks.models(self.hub, done, key)
        else:
            calls.ask(self.hub, done, {"models": True})

    def record(self, done: Done, session: str, after: int = 0) -> None:
        self.queries.known_session(session)
        calls.ask(self.hub, done, {"record": session, "after": after})

    def trust(self, done: Done, repo: str, hash: str = "") -> None:
        """Trusts a checkout as long as it has this hash, or "*" whatever it becomes; "" takes it
        back."""
        if hash not in ("", trusts.ANY) and not re.fullmatch(r"[0-9a-f]{64}", hash):
            raise LoomError("usage", f"{hash!r} is no hash")
        try:
            trusts.trust(self.hub.places, Path(repo), hash)
        except OSError as error:
            raise LoomError("failed", f"{repo} could not be trusted: {error}") from None
        done({"repo": repo, "trusted": bool(hash), "hash": hash})

    # --- new code and settings -------------------------------------------------------------------

    def reload(self, done: Done, what: str = "tools", key: str = "", saved: bool = False) -> None:
        """New tools, roles, settings of models, services and all of a new configuration, new code
        for actors, or all of it. saved: somebody has saved a file and nobody waits for an answer,
        so nobody is woken."""
        parts: dict[str, Callable[[Done], None]] = {
            "config": self._reload_config,
            "models": lambda done: configured.reload_models(self.hub, done),
            "tools": lambda done: self._reload_tools(done, wake=not saved),
            "roles": lambda done: roles.reload_roles(self.hub, done),
            "actors": lambda done: self._reload_actors(done, key),
        }
        if what == "all":
            wanted = ["tools", "roles", "actors"]
            if self.hub.places.config.exists():
                wanted.insert(0, "config")
            _in_turn([parts[one] for one in wanted], {}, done)
        elif what in parts:
            parts[what](done)
        else:
            said = ", ".join([*parts, "all"])
            raise LoomError("usage", f"nothing named {what!r} is reloaded", f"there are: {said}")

    def _reload_config(self, done: Done) -> None:
        children.reload_config(
            self.hub, lambda said: done({"generation": self.hub.generation, **said})
        )

    def _reload_tools(self, done: Done, *, wake: bool) -> None:
        """Every tool host that runs forms a new generation; what came of it, together.

        If none runs, and `wake`, that of the newest session is woken for it: the author of a tool
        wants to know whether it loads, and that session goes on with it when it is spoken to. One
        that sleeps looks by itself when it wakes.
        """
        known = self.hub.rules.known
        hosts = [name for name in self.hub.peers.by_name if known[name].kind == "tools"]
        if not hosts and wake:
            rows = self.hub.rules.actors.items()
            asleep = [(row.created, n) for n, row in rows if known[n].kind == "tools"
                      and row.wanted != "ended"]  # fmt: skip
            hosts = [name for _, name in sorted(asleep)[-1:]]
        total: dict[str, Any] = {"generation": 0, "loaded": [], "changed": [], "errors": []}
        left = len(hosts)
        if not hosts:
            done(total)
            return

        def then(answer: Answered) -> None:
            nonlocal left
            left -= 1
            if answer.error:
                total["errors"].append(
                    {"module": "", "error": f"{answer.error}: {answer.detail}".rstrip(": ")}
                )
            else:
                try:
                    said: Any = codec.body(answer.body)
                except LoomError as error:
                    said = None
                    total["errors"].append({"module": "", "error": error.message})
                if isinstance(said, Reloaded):
                    total["generation"] = max(total["generation"], said.generation)
                    for field in ("loaded", "changed"):
                        new = [one for one in getattr(said, field) if one not in total[field]]
                        total[field] += new
                    total["errors"] += [e for e in said.errors if e not in total["errors"]]
            if left == 0:
                done(total)

        for name in hosts:
            self.hub.ask_here(name, codec.encode(Reload(what="tools")), then)

    def _reload_actors(self, done: Done, key: str) -> None:
        """New code for every process but the root."""

        def then(value: Any) -> None:
            if isinstance(value, LoomError) and value.code == "failed":
                # The new code is refused: as with tools, that is an answer.
                value = {
                    "generation": self.hub.generation,
                    "moved": [],
                    "errors": [{"name": "loomd", "error": value.message}],
                }
            if isinstance(value, LoomError):
                done(value)
                return
            errors = [{"module": one["name"], "error": one["error"]} for one in value["errors"]]
            done(
                {
                    "generation": value["generation"],
                    "loaded": value["moved"],
                    "changed": value["moved"],
                    "errors": errors,
                }
            )

        self._upgrade(then, key, execute=False)

    def watched(self, done: Done, known: list[str]) -> None:
        """Answered {repos} when these are others than `known`: what `watch` asks."""
        self._watching["watch"] = known, done
        self.look()

    def look(self) -> None:
        """Are other repos to be watched by now?"""
        for name, (known, done) in list(self._watching.items()):
            repos = toolsets.watched(self.hub)
            if repos != known:
                del self._watching[name]
                done({"repos": repos})


def _in_turn(parts: list[Callable[[Done], None]], said: dict[str, Any], done: Done) -> None:
    """One reload after the other; what came of them, together. The first that fails is the end, and
    so is a faulty configuration."""
    if not parts:
        done(said)
        return

    def then(value: Any) -> None:
        if isinstance(value, LoomError):
            done(value)
            return
        lists = ("loaded", "changed", "errors")
        both = {field: said.get(field, []) + value[field] for field in lists}
        faulty = any(error["module"] == "config" for error in value["errors"])
        _in_turn([] if faulty else parts[1:], {**said, **value, **both}, done)

    parts[0](then)
