"""Clients' requests that change the state: once per (client, request id). Pure, over a `Batch`.

Each operation checks everything before its first write and raises LoomError to refuse; a refusal
leaves no trace. The reply is stored in the same transaction, so a resend gets the same one and
changes nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any, Final

from loomd.actor.behaviour import Spec
from loomd.hub import permits, poison, supervision
from loomd.hub.mail import Batch, tag_of
from loomd.hub.rules import LIVE, OVER, TEST_KINDS, Result, read_spec
from loomd.store.schema import mail_key, session_of, text_key
from loomd.store.tables import (
    MAX_KEY,
    ActorRow,
    DeadRow,
    RequestRow,
    SessionRow,
    Transaction,
    request_row,
    stored_mail,
)
from loomd.wire import codec
from loomd.wire.bodies import Body, Control, Decision, Say, Undo
from loomd.wire.errors import LoomError
from loomd.wire.messages import CONTROL, WORK, Failure, Reply, Request

ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
Op = Callable[..., Any]


def perform(batch: Batch, client: str, request: Request) -> Result:
    """Does a request, or finds what it was answered when it was done."""
    result = batch.begin()
    key = text_key(client, request.id)
    if len(key) > MAX_KEY:
        result.reply = failure(request.id, LoomError("bad_request", "client or id is too long"))
        return result
    done = batch.txn.get("requests", key)
    if done is not None:
        result.reply = request_row.decode(done).reply
        return result
    try:
        value = OPS[request.op](batch, f"{client}/{request.id}", **request.args)
    except LoomError as error:
        result.reply = failure(request.id, error)
        return result
    reply = codec.encode(Reply(id=request.id, value=value))
    batch.txn.put("requests", key, codec.encode(RequestRow(reply=reply, ts=batch.now)))
    result.reply = reply
    result.value = value
    return result


def intend(batch: Batch, client: str, request: Request, value: Any) -> Result:
    """Notes that a request is about to be done, and what it is answered if this hub cannot any
    more. The result's value: None the first time, then what was noted."""
    result = batch.begin()
    key = text_key(client, request.id)
    done = batch.txn.get("requests", key) if len(key) <= MAX_KEY else None
    if done is not None:
        reply = codec.to_client(request_row.decode(done).reply)
        result.value = reply.value if isinstance(reply, Reply) else value
        return result
    if len(key) <= MAX_KEY:
        row = RequestRow(reply=codec.encode(Reply(id=request.id, value=value)), ts=batch.now)
        batch.txn.put("requests", key, codec.encode(row))
    return result


def failure(id: str, error: LoomError) -> bytes:
    """The encoded Failure of a request."""
    return codec.encode(Failure(id=id, code=error.code, message=error.message, hint=error.hint))


# --- sessions ----------------------------------------------------------------------------------


def open_session(
    batch: Batch,
    id: str,
    *,
    repo: str,
    goal: str = "",
    model: str = "",
    team: int = 6,
    yes: bool = False,
    budget_usd: float | None = None,
    timeout_s: float | None = None,
    env: dict[str, str] | None = None,
    answers: str = "person",
    base: str = "",
    rules: str = "",
    project: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A new session with its team and its tool host; with a goal, that is said to it. `answers`:
    who can answer its questions: a `person` at this client, one who comes `later`, or `nobody`."""
    if answers not in ("person", "later", "nobody"):
        raise LoomError("usage", f"no such answers: {answers!r}", "person, later or nobody")
    session = _new_session(batch, id)
    common: dict[str, Any] = {
        "repo": repo,
        "model": model,
        "team": team,
        "yes": yes,
        "budget_usd": budget_usd,
        "timeout_s": timeout_s,
        "env": dict(env or {}),
        "base": base,
        "goal": goal,
        "rules": rules,
        "answers": answers,
        "project": project or {},
    }
    said = common["project"]
    if said.get("review") is not None:
        common["review"] = said["review"]
    if said.get("session_usd") is not None:
        own = budget_usd if budget_usd is not None else math.inf
        common["budget_usd"] = budget_usd = min(own, said["session_usd"])
    specs = [
        Spec(
            name=f"{session}/{kind}",
            kind=kind,
            session=session,
            args=common,
            restart="transient",
            nice=10 if kind == "tools" else 0,
        )
        for kind in ("team", "tools")
    ]
    if len(codec.encode(common)) > 48 << 10:
        raise LoomError("too_large", "goal and environment of a session are over 48 KiB")
    batch.sessions[session] = SessionRow(
        session=session,
        repo=repo,
        goal=goal,
        state="starting",
        created=batch.now,
        model=model,
        team=team,
        yes=yes,
        budget_usd=budget_usd,
        timeout_s=timeout_s,
        env=dict(env or {}),
        base=base,
    )
    opened = {"goal": goal, "repo": repo, "model": model, "team": team}
    batch.event(session, "session_opened", "hub", opened, id)
    if ignored := said.get("ignored"):
        hint = f"loomctl trust {repo}"
        batch.event(session, "project_untrusted", "hub", {"ignored": ignored, "hint": hint}, id)
    for spec in specs:
        batch.create(spec)
    if goal:
        _say(batch, id, session, goal, "")
    return {"session": session}


def say(batch: Batch, id: str, *, session: str, text: str, to: str = "") -> dict[str, Any]:
    """Says something to a session; one that is over goes on."""
    row = _session(batch, session)
    if not text.strip():
        raise LoomError("usage", "there is nothing to say")
    if len(text.encode()) > codec.BLOB_LIMIT:
        raise LoomError("too_large", "a message is at most 64 KiB", "put it into a file")
    if to and "/" not in to:
        to = f"{session}/{to}"
    if to:
        held = batch.peek(to)
        if held is None or session_of(to) != session or held.wanted == "ended":
            raise LoomError("no_such_actor", f"no {to} in {session}", f"see: loomctl ps {session}")
    _reachable(batch, f"{session}/team")
    if supervision.failed(row):
        supervision.resume(batch, session, id)
    elif row.state in OVER:
        row.state, row.ended, row.kind = "running", None, ""
    return _say(batch, id, session, text, to)


def _say(batch: Batch, id: str, session: str, text: str, to: str) -> dict[str, Any]:
    seq = batch.event(session, "said", "user", {"text": text, "to": to, "message": id}, id)
    body = Say(text=text, sender="user", to=to)
    _mail(batch, f"{session}/team", WORK, id, body)
    return {"message": id, "seq": seq}


SHOWN: Final = {"pause": "paused", "resume": "running", "stop": "stopped"}
"""What a session is on its way to after a control."""


def control(batch: Batch, id: str, *, session: str, op: str) -> dict[str, Any]:
    """pause | resume | cancel | stop | step, to the team. SESSION/AGENT in the place of the session
    (a hub that knows no such cancel finds none of this name, and cancels nothing): what is
    cancelled is the work of this one alone. A session that supervision gave up is resumed:
    everybody in it goes on from the last commit."""
    if op not in ("pause", "resume", "cancel", "stop", "step"):
        raise LoomError("usage", f"no such control: {op!r}")
    named = session
    session, slash, _ = named.partition("/")
    agent = named if slash else ""
    if agent and op != "cancel":
        raise LoomError("usage", f"{op} is for a session, not for one of its agents")
    row = _session(batch, session)
    if agent and (agent not in batch.members(session) or batch.known(agent).kind != "agent"):
        raise LoomError("not_found", f"there is no agent {agent}", f"see: loomctl ps {session}")
    if op == "resume" and supervision.failed(row):
        supervision.resume(batch, session, id)
        if batch.peek(f"{session}/team") is None:  # one of the bench's or of a test's
            return {"session": session, "state": row.state}
    if row.state in OVER:
        if op == "stop":
            return {"session": session, "state": row.state}
        _reachable(batch, f"{session}/team")
        kind = f" ({row.kind})" if row.kind else ""
        raise LoomError(
            "bad_state",
            f"{session} is {row.state}{kind}: there is nothing to {op}",
            f"it goes on when it is told something: loomctl send {session} TEXT",
        )
    _reachable(batch, f"{session}/team")
    if agent:
        _reachable(batch, agent)
    batch.event(session, "control", "user", {"op": op} | ({"agent": agent} if agent else {}), id)
    body = Control(op=op, agent=agent)  # type: ignore[arg-type]
    _mail(batch, f"{session}/team", CONTROL, id, body)
    if op == "resume" and row.state != "paused":  # it starts, runs, or waits for a person
        return {"session": session, "state": row.state}
    return {"session": session, "state": SHOWN.get(op, row.state)}


def undo(
    batch: Batch, id: str, *, session: str, edit: str = "", task: str = "", all: bool = False
) -> dict[str, Any]:
    """That something is to be taken back: one edit, a task's, all, or the last one in effect. What
    comes of it is said by the event `undone` or `undo_refused` that names it."""
    row = _session(batch, session)
    if bool(edit) + bool(task) + all > 1:
        raise LoomError("usage", "one of an edit, a task and all is taken back, not several")
    _reachable(batch, f"{session}/team")
    _reachable(batch, f"{session}/tools")
    if supervision.failed(row):
        raise LoomError(
            "bad_state",
            f"the supervisor of {session} gave up: nobody is there to take anything back",
            f"first: loomctl resume {session}",
        )
    asked = {"undo": id, "edit": edit, "task": task, "all": all}
    seq = batch.event(session, "undo_asked", "user", asked, id)
    _mail(batch, f"{session}/team", WORK, id, Undo(id=id, edit=edit, task=task, all=all))
    return {"undo": id, "seq": seq}


def remove(batch: Batch, id: str, *, session: str) -> dict[str, Any]:
    """Takes a session that is over off the list; its log stays."""
    row = _session(batch, session)
    if row.state in LIVE:
        raise LoomError("bad_state", f"{session} is {row.state}", f"end it: loomctl stop {session}")
    row.removed = True
    for name in batch.members(session):
        batch.end(name, "removed", by=f"{session}/team")
    return {"session": session, "state": "removed"}


# --- what a session waits for --------------------------------------------------------------------


def question(txn: Transaction, id: str) -> tuple[bytes, dict[str, Any]]:
    """The question of this id: its key and row; an open one before an answered one."""
    found: tuple[bytes, dict[str, Any]] | None = None
    wanted = id.encode()
    for key, raw in txn.scan("questions", b""):
        part = key.partition(b"\0")[2]
        if part != wanted and not wanted.endswith(part) and wanted not in raw:
            continue
        row = codec.unpack(raw)
        if id not in (row.get("id"), part.decode(), f"{row.get('session')}/{row.get('id')}"):
            continue
        found = key, row
        if row.get("state") == "open":
            break
    if found is None:
        raise LoomError("not_found", f"nothing waits under {id!r}", "see: loomctl waiting")
    return found


def decide(
    batch: Batch,
    id_: str,
    *,
    id: str,
    allow: bool = True,
    scope: str = "once",
    text: str = "",
    by: str = "",
) -> dict[str, Any]:
    """Answers what a session waits for. The first answer wins."""
    if scope not in ("once", "session", "always"):
        raise LoomError("usage", f"no such scope: {scope!r}")
    key, row = question(batch.txn, id)
    if row.get("state") != "open":
        raise LoomError(
            "bad_state", f"{id} is {row.get('state')} already, by {row.get('by') or 'its session'}"
        )
    is_permission = row.get("kind") != "question"
    if allow and is_permission and scope not in (row.get("scopes") or ("once", "session")):
        raise LoomError(
            "usage",
            f"{id} cannot be allowed for {scope!r}: no rule can say what it would do again",
            f"loomctl approve {id} allows it once",
        )
    session = str(row.get("session") or key.partition(b"\0")[0].decode())
    to = str(row.get("actor") or f"{session}/team")
    _reachable(batch, to)
    said = ("allow" if allow else "deny") if is_permission else ("answer" if allow else "deny")
    row.update(state="answered", allow=allow, by=by, scope=scope, answer=text, answered=batch.now)
    batch.txn.put("questions", key, codec.pack(row))
    batch.event(
        session,
        "permission_decided" if is_permission else "question_answered",
        "user",
        {"id": row.get("id"), "decision": said, "by": by, "scope": scope, "text": text}
        | {name: row.get(name) for name in ("call", "agent", "tool") if is_permission}
        | ({"rules": row.get("rules") or []} if allow and scope != "once" else {}),
        id_,
    )
    body = Decision(question=str(row["id"]), allow=allow, scope=scope, text=text, by=by)  # type: ignore[arg-type]
    _mail(batch, to, CONTROL, id_, body)
    if allow and is_permission and scope == "always":
        permits.save(batch, id_, session, [str(rule) for rule in row.get("rules") or ()], by)
    return {"id": id, "decision": said, "by": by}


# --- dead letters --------------------------------------------------------------------------------


def dead(batch: Batch, id_: str, *, action: str, id: str = "") -> dict[str, Any]:
    """retry: back to where it was, as new; drop: forgotten."""
    if action not in ("retry", "drop"):
        raise LoomError("usage", f"no such action: {action!r}")
    row = poison.find(batch, id)
    if row is None:
        raise LoomError("not_found", f"no dead letter {id!r}", "see: loomctl dead")
    if action == "retry" and (why := poison.retry(batch, row)):
        raise LoomError("bad_state", f"{row.actor} cannot take it: {why}")
    batch.txn.delete("dead", id.encode())
    return {"id": id, "action": action}


def dead_json(row: DeadRow) -> dict[str, Any]:
    """As CONTRACT shows it."""
    if row.kind == "mail":
        mail = stored_mail.decode(row.mail)
        message = f"{tag_of(mail.body) or 'mail'} {mail.id} from {mail.sender}"
    else:
        message = " ".join(filter(None, (row.kind, row.key, tag_of(row.body))))
    return {
        "id": row.id,
        "actor": row.actor,
        "kind": row.kind,
        "message": message,
        "crashes": row.crashes,
        "error": row.error,
        "ts": row.ts,
        "sender": row.sender,
    }


# --- bench and tests -----------------------------------------------------------------------------


def spawn(batch: Batch, id: str, *, spec: dict[str, Any], mail: Any = None) -> dict[str, Any]:
    """Wants an actor of a test kind running; with `mail`, puts this body into its mailbox."""
    wanted = read_spec(spec)
    if wanted.kind not in TEST_KINDS:
        raise LoomError("bad_request", f"spawn is for {sorted(TEST_KINDS)}, not {wanted.kind!r}")
    if len(mail_key(wanted.name, WORK, 0)) > MAX_KEY:
        raise LoomError("bad_request", "the name is too long")
    if wanted.session and batch.peek_session(wanted.session) is None:
        batch.sessions[wanted.session] = SessionRow(
            session=wanted.session, repo="", goal="bench", state="running", created=batch.now
        )
    batch.create(wanted)
    if mail is not None:
        batch.deliver(wanted.name, WORK, id, "client", _encoded(mail), id, force=True)
    return {"name": wanted.name}


def unspawn(batch: Batch, id: str, *, name: str) -> dict[str, Any]:
    _test_actor(batch, name)
    batch.end(name, "unspawned", by="client")
    return {"name": name}


def post(batch: Batch, id: str, *, to: str, body: Any, lane: int = WORK) -> dict[str, Any]:
    """One mail to an actor of a test kind."""
    _test_actor(batch, to)
    why = batch.deliver(to, lane & 1, id, "client", _encoded(body), id, force=True)
    if why:
        raise LoomError("bad_state", f"{to} cannot take it: {why}")
    return {"message": id}


def _test_actor(batch: Batch, name: str) -> ActorRow:
    row = batch.peek(name)
    if row is None:
        raise LoomError("no_such_actor", f"no actor {name!r}")
    if batch.known(name).kind not in TEST_KINDS:
        raise LoomError("bad_request", f"{name} is not of a test kind")
    return row


def _encoded(body: Any) -> bytes:
    raw = body if isinstance(body, bytes) else codec.encode(body)
    codec.body(raw)
    return raw


# --- shared --------------------------------------------------------------------------------------


def _session(batch: Batch, session: str) -> SessionRow:
    row = batch.session(session) if session else None
    if row is None or row.removed:
        raise no_such_session(session)
    return row


def no_such_session(session: str) -> LoomError:
    return LoomError("no_such_session", f"no session {session!r}", "see: loomctl sessions")


def _reachable(batch: Batch, name: str) -> None:
    row = batch.peek(name)
    if row is None or row.wanted == "ended":
        why = row.ended_reason if row is not None else "never started"
        raise LoomError("bad_state", f"{name} is no more: {why}", "open another: loomctl run")


def _mail(batch: Batch, to: str, lane: int, id: str, body: Body) -> None:
    why = batch.deliver(to, lane, id, "user", codec.encode(body), id, force=True)
    if why:
        raise LoomError("bad_state", f"{to} cannot be told: {why}")


def _new_session(batch: Batch, id: str) -> str:
    """Six letters or digits made from the request's own id, so that replay makes the same."""
    n = 0
    while True:
        digest = hashlib.sha256(f"{id}#{n}#{batch.now}".encode()).digest()
        number = int.from_bytes(digest[:8], "big")
        letters = ""
        for _ in range(6):
            number, digit = divmod(number, 36)
            letters += ALPHABET[digit]
        session = f"s-{letters}"
        if batch.peek_session(session) is None:
            return session
        n += 1


OPS: Final[dict[str, Op]] = {
    "open_session": open_session,
    "say": say,
    "control": control,
    "undo": undo,
    "remove": remove,
    "decide": decide,
    "forget_permit": permits.forget,
    "dead": dead,
    "spawn": spawn,
    "unspawn": unspawn,
    "post": post,
}
"""Journaled: what they were answered is stored with what they did."""
