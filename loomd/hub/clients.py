"""The operations of clients: who may ask, what they may ask, and what they are answered.

`OPS` is the whole list. Reads are answered at once from the state; journaled requests
(`loomd.hub.requests`) become jobs of the writer; calls wait for the root or for an actor. Arguments
are checked against the signature of the operation; unknown ones are ignored, so that a newer client
can talk to an older hub. Every reply fits a frame.
"""

from __future__ import annotations

import hmac
import inspect
import json
import os
import re
import stat
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, assert_never

import msgspec
import structlog

from loomd import projects
from loomd import trust as trusts
from loomd.hub import (
    boards,
    children,
    configured,
    permits,
    requests,
    roles,
    supervision,
    toolsets,
)
from loomd.hub.intake import Intake
from loomd.hub.mail import DAEMON, HUB, OVER, TEST_KINDS, Result
from loomd.store import journal
from loomd.store.env import StoreError
from loomd.store.schema import name_key, session_of
from loomd.store.tables import SessionRow, dead_row
from loomd.wire import codec, sockets
from loomd.wire.bodies import Reload, Reloaded
from loomd.wire.errors import LoomError
from loomd.wire.messages import (
    PROTOCOL,
    Answered,
    ClientHello,
    ClientPing,
    ClientPong,
    ClientWelcome,
    Failure,
    Reply,
    Request,
)

if TYPE_CHECKING:
    from loomd.hub.process import Hub

TURN: Final = 4
"""Requests taken per turn of the loop: a page each, so that no client stalls the commits."""

MAX_CLIENTS: Final = 10_000
REMEMBERED: Final = 1000
"""Calls whose outcome is kept for a resend."""

JOB_BYTES: Final = 256 << 10
"""Of what a job has printed, the end, in one reply."""

PAGE_KB: Final = os.sysconf("SC_PAGE_SIZE") // 1024

log = structlog.get_logger()

FROM_CLIENT: Final = b"\0c"
"""Route of an ask that a client sent; names of actors never begin so."""

Done = Callable[[Any], None]
"""Ends a call: with its value, or with a LoomError."""


class Clients:
    """The clients' ROUTER and what it can be asked. Belongs to the hub's loop."""

    def __init__(self, hub: Hub, socket: sockets.Socket) -> None:
        self.hub = hub
        self.socket = socket
        self._intake = Intake(
            "clients",
            socket,
            codec.from_client,
            lambda code, detail, hint: Failure(id="", code=code, message=detail, hint=hint),
            lambda identity, frame: self._send(identity, codec.encode(frame)),
            hub.refusals,
        )
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._asking: dict[str, Done] = {}
        self._asks = 0
        self._called: OrderedDict[tuple[str, str], list[Any]] = OrderedDict()
        self._watching: dict[str, tuple[list[str], Done]] = {}

    def turn(self) -> None:
        """Takes a few frames."""
        for identity, message in self._intake.messages(TURN):
            match message:
                case ClientHello():
                    self._hello(identity, message)
                case ClientPing():
                    self._send(
                        identity,
                        codec.encode(ClientPong(nonce=message.nonce, epoch=self.hub.epoch)),
                    )
                case Request():
                    self._request(identity, message)
                case _:
                    assert_never(message)

    def _hello(self, identity: bytes, hello: ClientHello) -> None:
        if not hmac.compare_digest(self.hub.client_token.encode(), hello.token.encode()):
            self._intake.refuse(identity, "auth", "the token is wrong", "read the token file again")
            return
        if hello.protocol != PROTOCOL:
            self._intake.refuse(
                identity, "bad_request", f"protocol {hello.protocol}, this daemon has {PROTOCOL}"
            )
            return
        if not hello.client or len(hello.client) > 200:
            self._intake.refuse(identity, "bad_request", "a client's id has 1 to 200 characters")
            return
        self._known[identity] = hello.client
        self._known.move_to_end(identity)
        if len(self._known) > MAX_CLIENTS:
            self._known.popitem(last=False)
        self._send(
            identity,
            codec.encode(
                ClientWelcome(
                    epoch=self.hub.epoch,
                    version=self.hub.version,
                    protocol=PROTOCOL,
                    generation=self.hub.generation,
                )
            ),
        )

    def _request(self, identity: bytes, request: Request) -> None:
        client = self._known.get(identity)
        if client is None:
            self.hub.counters["auth"] += 1
            error = LoomError("auth", "say Hello first")
            self._send(identity, requests.failure(request.id, error))
            return
        operation = OPS.get(request.op)
        try:
            if operation is None:
                raise LoomError("unknown_op", f"no operation {request.op!r}")
            args = operation.checked(request.args)
            if request.op == "dead" and args["action"] == "list":
                self._reply(identity, request.id, self.dead())
            elif operation.journaled:
                self._journal(identity, client, request, args)
            elif operation.call:
                self._call(identity, client, request, operation, args)
            else:
                self._reply(identity, request.id, operation.function(self, **args))
        except LoomError as error:
            self.hub.counters["failed_request"] += 1
            self._send(identity, requests.failure(request.id, error))
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - what one client asks must not end all sessions
            self._send(identity, requests.failure(request.id, self._defect(request.op, error)))

    def _defect(self, what: str, error: Exception) -> LoomError:
        """An error of our own while serving one client: logged, and told to that client."""
        self.hub.counters["internal"] += 1
        log.error("client.failed", op=what, error=traceback.format_exc())
        return LoomError("internal", f"{type(error).__name__}: {error}"[:500])

    # --- journaled -----------------------------------------------------------------------------

    def _journal(
        self, identity: bytes, client: str, request: Request, args: dict[str, Any]
    ) -> None:
        if request.op == "open_session":
            args |= prepared(args["repo"], self._trusted)
            # Its agents find them: this job comes before the one that opens the session.
            roles.reload_roles(self.hub, lambda said: None, [args["repo"]])
        request = Request(id=request.id, op=request.op, args=args)

        def then(result: Result) -> None:
            self._send(identity, result.reply)
            self.hub.follow(result)

        def failed(code: str, detail: str) -> None:
            hint = "free some space" if code == "disk_full" else ""
            self.hub.counters[code] += 1
            self._send(identity, requests.failure(request.id, LoomError(code, detail, hint)))

        self.hub.submit(
            lambda batch: requests.perform(batch, client, request), then, request.op, failed
        )

    # --- calls ---------------------------------------------------------------------------------

    def _call(
        self,
        identity: bytes,
        client: str,
        request: Request,
        operation: Operation,
        args: dict[str, Any],
    ) -> None:
        """Something that is answered later. A resend waits for the same outcome."""
        key = client, request.id
        entry = self._called.get(key)
        if entry is not None:
            entry[0] = identity
            if entry[1] is not None:
                self._send(identity, entry[1])
            return
        entry = self._called[key] = [identity, None]
        if len(self._called) > REMEMBERED:
            self._called.popitem(last=False)

        def done(value: Any) -> None:
            if isinstance(value, LoomError):
                frame = requests.failure(request.id, value)
            else:
                frame = self._frame(request.id, value)
            if operation.changes:
                entry[1] = frame
            else:
                self._called.pop(key, None)
            self._send(entry[0], frame)

        try:
            if operation.keyed:
                args["key"] = f"{client}/{request.id}"
            if request.op in ("kill", "restart") and args["name"] == HUB:
                self._own_end(client, request, done, lambda: operation.function(self, done, **args))
            else:
                operation.function(self, done, **args)
        except LoomError as error:
            done(error)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - as in `_request`; a resend must not wait for it
            done(self._defect(request.op, error))

    def _own_end(
        self, client: str, request: Request, done: Done, perform: Callable[[], None]
    ) -> None:
        """A request that ends this very hub is answered by its successor, which gets it again and
        must not end itself too: that it was made is journaled before it is done."""
        me = {"name": HUB, "pid": os.getpid(), "incarnation": self.hub.birth.incarnation}

        def then(result: Result) -> None:
            if result.value is None:
                perform()
            else:
                done(result.value if request.op == "kill" else me)

        self.hub.submit(
            lambda batch: requests.intend(batch, client, request, me),
            then,
            request.op,
            lambda code, detail: done(LoomError(code, detail)),
        )

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

    # --- out -----------------------------------------------------------------------------------

    def _frame(self, id: str, value: Any) -> bytes:
        raw = codec.encode(Reply(id=id, value=value))
        if len(raw) > codec.SOFT_LIMIT:
            error = LoomError("too_large", f"the reply has {len(raw)} bytes", "ask for less")
            return requests.failure(id, error)
        return raw

    def _reply(self, identity: bytes, id: str, value: Any) -> None:
        self._send(identity, self._frame(id, value))

    def _send(self, identity: bytes, frame: bytes) -> None:
        try:
            self.socket.send_to(identity, frame)
        except sockets.Unreachable:  # it went away, or takes nothing: it will ask again
            self.hub.counters["client_gone"] += 1

    # --- reads ---------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        hub = self.hub
        shown = [row for row in self._sessions() if row.state not in OVER]
        return {
            "version": hub.version,
            "pid": hub.root_pid,
            "hub_pid": os.getpid(),
            "uptime_s": round(self._uptime(hub.root_pid), 3),
            "state_dir": str(hub.places.state),
            "runtime_dir": str(hub.places.runtime),
            "containment": hub.containment,
            "protocol": PROTOCOL,
            "sessions": len(shown),
            "actors": len(hub.peers.by_name),
            "generation": hub.generation,
            "last_upgrade": hub.last_upgrade,
            "epoch": hub.epoch,
            "counters": dict(hub.counters),
            "transactions": hub.writer.transactions,
            "jobs": hub.writer.jobs,
            "store": hub.store.size(),
        }

    def events(self, session: str, after: int = 0, limit: int = 500) -> dict[str, Any]:
        self._session(session)
        with self.hub.store.reading() as txn:
            return journal.events(txn, session, max(0, after), limit)

    def sessions(self) -> list[dict[str, Any]]:
        with self.hub.store.reading() as txn:
            sums = boards.usage(boards.ledger(txn), "session")
            asking = {row["session"] for row in boards.open_questions(txn, "")}
        costs = {line["key"]: line["cost_usd"] for line in sums}
        rows = sorted(self._sessions(), key=lambda row: row.created)[-500:]
        waits = {row.session: self._waits_for(row, row.session in asking) for row in rows}
        return [
            {
                "session": row.session,
                "repo": row.repo,
                "state": "waiting" if waits[row.session] else row.state,
                "waiting_for": waits[row.session],
                "kind": row.kind,
                "goal": row.goal[:500],
                "created": row.created,
                "ended": row.ended,
                "agents": len(self._agents(row.session)),
                "cost_usd": costs.get(row.session, 0.0),
            }
            for row in rows
        ]

    def session(self, session: str) -> dict[str, Any]:
        row = self._session(session)
        shown: dict[str, Any] = msgspec.to_builtins(row)
        del shown["noted"]
        with self.hub.store.reading() as txn:
            shown["tasks"] = boards.board(txn, row, "tasks")[:100]
            shown["jobs"] = boards.board(txn, row, "jobs")[-50:]
            shown["questions"] = boards.open_questions(txn, session)[:50]
            used = boards.usage(boards.ledger(txn), "session", session)
        shown["usage"] = (
            used[0] if used else boards.usage([{"session": session}], "session")[0] | {"calls": 0}
        )
        shown["waiting_for"] = self._waits_for(row, bool(shown["questions"]))
        if shown["waiting_for"]:
            shown["state"] = "waiting"
        shown["agents"] = [self._process(name) for name in self._agents(session)]
        shown["hint"] = str(row.data.get("hint", ""))
        shown["resumable"] = supervision.failed(row)
        return shown

    def _waits_for(self, row: SessionRow, asking: bool) -> str:
        """What a live session cannot go on without: `disk_full`, `answer` (of a person, whatever
        else goes on in it), or "". That the disk is full cannot be in its row."""
        if row.state not in ("starting", "running", "waiting"):
            return ""
        if any(session_of(name) in (row.session, "") for name in self.hub.no_room):
            return "disk_full"
        return "answer" if row.state == "waiting" or (asking and row.state == "running") else ""

    def board(self, session: str, table: str) -> list[dict[str, Any]]:
        row = self._session(session)
        with self.hub.store.reading() as txn:
            return boards.board(txn, row, table)

    def tools(self, session: str = "") -> dict[str, Any]:
        if session:
            self._session(session)
        return toolsets.toolset(self.hub, session)

    def roles(self, session: str = "") -> dict[str, Any]:
        if session:
            self._session(session)
        return roles.in_force(self.hub, session)

    def job(self, session: str, id: str) -> dict[str, Any]:
        """One that has ended: its row, and the end of what it printed."""
        row = self._session(session)
        with self.hub.store.reading() as txn:
            jobs = boards.board(txn, row, "jobs")
        for job in jobs:
            if job["id"] == id:
                printed = self.hub.store.blob(job["output"])[-JOB_BYTES:] if job["output"] else b""
                said = printed.decode("utf-8", "replace").rstrip("\n")
                return {**job, "text": f"{said}\n{job['text']}".strip()}
        raise LoomError("not_found", f"no job {id!r}", f"see: loomctl jobs {session}")

    def waiting(self, session: str = "") -> list[dict[str, Any]]:
        if session:
            self._session(session)
        with self.hub.store.reading() as txn:
            return boards.open_questions(txn, session)

    def permissions(self, repo: str = "") -> dict[str, Any]:
        """What holds in a session that is opened in `repo` now; all saved rules without it."""
        own = self.hub.settings.get("permissions") or {}
        said = projects.read(Path(repo)).in_force(self._trusted(repo)) if repo else {}
        project = said.get("permissions") or {}
        with self.hub.store.reading() as txn:
            saved = [row for _, row in permits.saved(txn, repo)]
        listed = [
            {"verdict": verdict, "rule": rule, "source": source, "id": "", "repo": repo}
            for source, table in (("config", own), ("project", project))
            for verdict in ("deny", "ask", "allow")
            for rule in table.get(verdict) or ()
        ]
        listed += [{"verdict": "allow", "source": "saved", **row} for row in saved]
        return {
            "repo": repo,
            "modes": permits.modes(own, said),
            "rules": listed[:500],
            "trusted": bool(said.get("trusted")),
            "ignored": said.get("ignored") or [],
        }

    def project(self, repo: str) -> dict[str, Any]:
        """What a checkout says of itself, and whether that is trusted."""
        path = Path(repo)
        if not path.is_absolute() or not path.is_dir():
            raise LoomError("usage", f"{repo} is no directory", "name the repo: loomctl trust DIR")
        found = projects.read(path.resolve())
        hash = self._trusted(str(path.resolve()))
        return {
            "repo": str(path.resolve()),
            "hash": found.hash,
            "files": found.files[:500],
            "trusted": found.believed(hash),
            "changed": bool(hash) and not found.believed(hash),
            "why_not": found.why_not,
        }

    def trust(self, repo: str, hash: str = "") -> dict[str, Any]:
        """Trusts a checkout as long as it has this hash, or "*" whatever it becomes; "" takes it
        back."""
        if hash not in ("", trusts.ANY) and not re.fullmatch(r"[0-9a-f]{64}", hash):
            raise LoomError("usage", f"{hash!r} is no hash")
        try:
            trusts.trust(self.hub.places, Path(repo), hash)
        except OSError as error:
            raise LoomError("failed", f"{repo} could not be trusted: {error}") from None
        return {"repo": repo, "trusted": bool(hash), "hash": hash}

    def _trusted(self, repo: str) -> str:
        return trusts.word(self.hub.places, Path(repo))

    def usage(self, by: str = "session", session: str = "") -> list[dict[str, Any]]:
        with self.hub.store.reading() as txn:
            return boards.usage(boards.ledger(txn), by, session)

    def dead(self) -> list[dict[str, Any]]:
        with self.hub.store.reading() as txn:
            found = [dead_row.decode(raw) for _, raw in txn.scan("dead", b"")]
        return [requests.dead_json(row) for row in found[:500]]

    def diff(self, session: str, edit: str = "") -> dict[str, Any]:
        """What a session changed, or what one edit of it did or would."""
        self._session(session)
        with self.hub.store.reading() as txn:
            edits = [codec.unpack(raw) for _, raw in txn.scan("edits", name_key(session))]
        if not edit:
            return boards.diff(edits, self.hub.store.blob)
        one = next((row for row in edits if row.get("id") == edit), None)
        if one is None:
            hint = f"see: loomctl edits {session}"
            raise LoomError("not_found", f"{session} has no edit {edit}", hint)
        return boards.diff_of(one, self.hub.store.blob)

    def fetch_state(self, name: str) -> dict[str, Any]:
        row = self.hub.rules.actors.get(name)
        if row is None:
            raise LoomError("no_such_actor", f"no actor {name!r}")
        if self.hub.rules.known[name].kind not in TEST_KINDS:
            raise LoomError("bad_request", f"{name} is not of a test kind")
        return {
            "name": name,
            "step": row.step,
            "incarnation": row.fence,
            "restarts": row.restarts,
            "wanted": row.wanted,
            "status": row.status,
            "mailbox": sum(row.boxed),
            "log": row.log,
            "state": None if row.state is None else codec.unpack(row.state),
        }

    # --- calls ---------------------------------------------------------------------------------

    def ps(self, done: Done, session: str = "", memory: bool = False) -> None:
        if session:
            self._session(session)

        def then(answer: dict[str, Any]) -> None:
            workers = {str(row[0]): row for row in answer["children"]}
            names = list(workers)
            names += [
                name
                for name, row in self.hub.rules.actors.items()
                if row.wanted != "ended" and name not in workers
            ]
            done(
                [
                    self._process(name, workers.get(name, ()), memory=memory)
                    for name in sorted(names)
                    if not session or session_of(name) == session
                ]
            )

        self.hub.ask_which(then)

    def tree(self, done: Done) -> None:
        self.hub.call_root({"op": "tree"}, lambda answer: done(json.loads(answer["text"])))

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

        self.hub.call_root(message, then)

    def ask(self, done: Done, actor: str, body: dict[str, Any]) -> None:
        raw = codec.encode(body)
        codec.body(raw)  # refused here, not in the actor
        self._asks += 1
        id = str(self._asks)
        self._asking[id] = done
        self.hub.ask(FROM_CLIENT, id, "user", actor, raw)

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

        self.hub.call_root({"op": "upgrade", "key": key, "execute": execute}, then)

    def shutdown(self, done: Done) -> None:
        done({"stopping": True, "pid": self.hub.root_pid})
        self.hub.tell_root({"op": "shutdown"})

    # --- shared --------------------------------------------------------------------------------

    def _sessions(self) -> list[SessionRow]:
        return [
            row
            for row in self.hub.rules.sessions.values()
            if not row.removed and row.session != DAEMON
        ]

    def _session(self, session: str) -> SessionRow:
        row = self.hub.rules.sessions.get(session)
        if row is None or row.removed:
            raise requests.no_such_session(session)
        return row

    def _agents(self, session: str) -> list[str]:
        rules = self.hub.rules
        names = [
            name
            for name in rules.members.get(session, ())
            if rules.known[name].kind in ("agent", *TEST_KINDS)
        ]
        return sorted(names, key=lambda name: (rules.actors[name].created, name))

    def _process(self, name: str, worker: Any = (), *, memory: bool = False) -> dict[str, Any]:
        """One line of `ps`. `worker`: the root's row of it, if it has one."""
        hub = self.hub
        row = hub.rules.actors.get(name)
        known = hub.rules.known.get(name)
        child = hub.children.get(name)
        pid = worker[2] if worker else child.pid if child is not None else None
        incarnation = worker[1] if worker else row.fence if row is not None else 0
        started = worker[5] if worker else child.started_at if child is not None else 0.0
        if row is not None:
            state = row.status if pid or row.wanted != "running" else "starting"
        else:
            state = str(worker[3]) if worker else ""
        shown: dict[str, Any] = {
            "name": name,
            "kind": known.kind if known is not None else children.kind_of(name),
            "session": known.session if known is not None else session_of(name),
            "role": hub.rules.spec(name).role if row is not None else "",
            "pid": pid or None,
            "incarnation": incarnation,
            "generation": row.generation if row is not None else hub.generation,
            "state": state,
            "restarts": max(row.restarts if row is not None else 0, worker[4] if worker else 0),
            "uptime_s": round(max(0.0, time.time() - started), 3) if pid and started else 0.0,
            "rss_kb": _rss(pid) if pid else 0,
            "mailbox": sum(row.boxed) if row is not None else 0,
            "waiting_for": row.waiting_for if row is not None else "",
            "recovery": row.rung if row is not None else "",
        }
        if name in hub.no_room and pid:
            shown |= {"state": "waiting", "waiting_for": "disk_full"}
        if memory:
            shown["pss_kb"] = _pss(pid) if pid else 0
        return shown

    @staticmethod
    def _uptime(pid: int) -> float:
        try:
            ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        except (OSError, ValueError, IndexError):
            return 0.0
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        return max(0.0, since_boot - ticks / os.sysconf("SC_CLK_TCK"))


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


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_KB
    except (OSError, ValueError, IndexError):
        return 0


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return 0


def prepared(repo: str, trusted: Callable[[str], str]) -> dict[str, Any]:
    """What must be looked up on disk before a session is journaled: {repo, base, rules, project}.
    `trusted`: repo -> the hash with which it is trusted."""
    path = Path(repo)
    if not path.is_absolute():
        raise LoomError("usage", f"{repo!r} is not an absolute path", "name the repo: --repo DIR")
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise LoomError("usage", f"{repo} {what}", "name the repo: --repo DIR")
    if not os.access(path, os.R_OK | os.X_OK):
        raise LoomError("usage", f"{repo} is not readable", "check its permissions")
    path = path.resolve()
    return {
        "repo": str(path),
        "base": head(path),
        "rules": project_rules(path),
        "project": projects.read(path).in_force(trusted(str(path))),
    }


RULES_BYTES: Final = 16 << 10
"""Of AGENTS.md: a spec holds 48 KiB in all, and every model request carries these."""


def project_rules(repo: Path) -> str:
    """The repo's AGENTS.md, for every agent of the session; "" if there is none."""
    path = repo / "AGENTS.md"
    try:
        # A link out of the checkout, or a pipe, is not the project's to hand us.
        if not path.is_file() or not path.resolve().is_relative_to(repo):
            return ""
        with path.open("rb") as file:
            raw = file.read(RULES_BYTES + 1)
    except OSError:
        return ""
    text = raw[:RULES_BYTES].decode("utf-8", "replace")
    return text if len(raw) <= RULES_BYTES else text + "\n[cut: the rest is in AGENTS.md]"


def head(repo: Path) -> str:
    """The commit that HEAD names; "" if this is no git repo, or one without a commit.

    The folder may be anybody's: nothing but small plain files is read, and nothing but the name of
    a commit is taken from them.
    """
    git = repo / ".git"
    if git.is_file():  # a worktree: "gitdir: PATH"
        git = repo / _small(git).partition(":")[2].strip()
    said = _small(git / "HEAD").strip()
    if not said.startswith("ref:"):
        return _commit(said)
    ref = said.partition(":")[2].strip()
    if not ref.startswith("refs/") or ".." in ref:
        return ""
    roots = [git]
    if common := _small(git / "commondir").strip():
        roots.append(git / common)
    for root in roots:
        if found := _commit(_small(root / ref).strip()):
            return found
        for line in _small(root / "packed-refs", PACKED_BYTES).splitlines():
            commit, _, name = line.partition(" ")
            if name == ref:
                return _commit(commit)
    return ""


PACKED_BYTES: Final = 16 << 20


def _small(path: Path, limit: int = 4096) -> str:
    """The text of a plain file; "" if it is none, cannot be read, or is larger than `limit`."""
    try:
        # Not to wait for a pipe's other end.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):  # ValueError: a NUL in a path
        return ""
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            return ""
        return os.read(fd, limit).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _commit(text: str) -> str:
    """`text` if it is the name of a commit (SHA-1 or SHA-256 in hex), else ""."""
    return text if len(text) in (40, 64) and not set(text) - set("0123456789abcdef") else ""


class Operation:
    """One entry of OPS: its function, its arguments, and how it is answered."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        journaled: bool = False,
        call: bool = False,
        changes: bool = False,
        keyed: bool = False,
    ) -> None:
        self.keyed = keyed  # it gets the client's and the request's id
        self.function = function
        self.journaled = journaled
        self.call = call
        self.changes = changes
        skipped = 2 if journaled or call else 1  # batch and id; self and done; self
        signature = inspect.signature(function, eval_str=True)
        fields: list[Any] = []
        for parameter in list(signature.parameters.values())[skipped:]:
            field: tuple[Any, ...] = parameter.name, parameter.annotation
            if parameter.default is not parameter.empty:
                field = (*field, parameter.default)
            fields.append(field)
        self._struct = msgspec.defstruct(function.__name__, fields, kw_only=True)

    def checked(self, args: dict[str, Any]) -> dict[str, Any]:
        """The arguments, checked, with defaults. LoomError(bad_request)."""
        try:
            value = msgspec.convert(args, self._struct)
        except msgspec.ValidationError as error:
            raise LoomError("bad_request", f"arguments: {error}") from None
        return {name: getattr(value, name) for name in self._struct.__struct_fields__}


OPS: Final[dict[str, Operation]] = {
    name: Operation(function, journaled=True) for name, function in requests.OPS.items()
} | {
    "status": Operation(Clients.status),
    "events": Operation(Clients.events),
    "sessions": Operation(Clients.sessions),
    "session": Operation(Clients.session),
    "board": Operation(Clients.board),
    "tools": Operation(Clients.tools),
    "roles": Operation(Clients.roles),
    "job": Operation(Clients.job),
    "waiting": Operation(Clients.waiting),
    "permissions": Operation(Clients.permissions),
    "project": Operation(Clients.project),
    "trust": Operation(Clients.trust),
    "usage": Operation(Clients.usage),
    "diff": Operation(Clients.diff),
    "fetch_state": Operation(Clients.fetch_state),
    "ps": Operation(Clients.ps, call=True),
    "tree": Operation(Clients.tree, call=True),
    "kill": Operation(Clients.kill, call=True, changes=True),
    "restart": Operation(Clients.restart, call=True, changes=True),
    "child": Operation(Clients.child, call=True, changes=True),
    "ask": Operation(Clients.ask, call=True),
    "reload": Operation(Clients.reload, call=True, changes=True, keyed=True),
    "watched": Operation(Clients.watched, call=True),
    "upgrade": Operation(Clients.upgrade, call=True, changes=True, keyed=True),
    "shutdown": Operation(Clients.shutdown, call=True, changes=True),
}
"""Everything a client can ask for."""
