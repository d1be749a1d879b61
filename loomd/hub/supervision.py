"""When a supervisor gives up, or the whole daemon dies. Pure, over a `Batch`.

A session whose supervisor gave up has failed with kind `supervision`. Whoever ran is `halted`: it
sleeps, and neither mail nor timers nor a restart of the daemon wake it, until a person resumes the
session; then it goes on from its last commit, with the mail that has come meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loomd.hub.rules import HUB
from loomd.store.tables import History, SessionRow, Transaction
from loomd.wire import codec
from loomd.wire.bodies import Restarted
from loomd.wire.messages import CONTROL

if TYPE_CHECKING:
    from loomd.hub.mail import Batch
    from loomd.hub.rules import Result

BOOT_KEY: Final = b"boot"
"""Row of `meta`: the boot number of the last daemon that this state has seen."""

WAS: Final = "was"
"""Key of a session's `data`: its state before supervision gave it up."""

DAEMON_RESTARTED: Final = "the daemon was restarted"

TOLD: Final = frozenset({"agent"})
"""Kinds that hear of a restart of the daemon: what thinks must know why its calls broke off."""


def gave_up(batch: Batch, supervisor: str, reason: str = "", number: int = 0) -> Result:
    """A supervisor has given up. A session's, or one of its groups, which takes the session with
    it: that session has failed, nothing else moves. `number` of the root's note, 0: it has none; a
    note that comes again changes nothing, even if the session has been resumed since."""
    result = batch.begin()
    session = supervisor.partition("/")[0]
    row = batch.peek_session(session)
    if row is None:
        return result
    if 0 < number <= row.noted:
        if failed(row):  # the hub that booked it may have died before it told the root
            result.over.append(session)
        return result
    changed = batch.session(session)
    assert changed is not None
    changed.noted = max(number, row.noted)
    if not batch.live(session):
        return result
    hint = f"its state and its mail are kept; go on with: loomctl resume {session}"
    changed.data = {**changed.data, "hint": hint, WAS: row.state}
    changed.state, changed.kind, changed.ended = "failed", "supervision", batch.now
    changed.answer = f"supervision gave up: {reason or supervisor}"
    batch.event(
        session,
        "session_ended",
        HUB,
        {"state": "failed", "kind": "supervision", "answer": changed.answer, "hint": hint},
    )
    for name in batch.members(session):
        held = batch.peek(name)
        if held is not None and held.wanted == "running":
            halt(batch, name)
    result.over.append(session)
    return result


def halt(batch: Batch, name: str) -> None:
    """It sleeps until its session is resumed."""
    batch.sleep(name)
    row = batch.actor(name)
    assert row is not None
    row.halted = True


def failed(row: SessionRow | None) -> bool:
    """Whether supervision gave this session up, and nobody has resumed it. (A team may end its
    session with that kind too, if its lead was given up: that one is over.)"""
    return row is not None and row.state == "failed" and WAS in row.data


def concludes(batch: Batch, row: SessionRow, state: str | None) -> bool:
    """Of a commit that was under way when the supervisor gave up: whether the session has just
    ended, and so is over. Otherwise it is failed; `state` is what a resumed one goes on in."""
    if state not in ("done", "failed", "stopped"):
        if state is not None:
            row.data = {**row.data, WAS: state}
        return False
    row.data = {key: value for key, value in row.data.items() if key != WAS}
    for name in batch.members(row.session):
        held = batch.actor(name)
        if held is not None:
            held.halted = False
    return True


def resume(batch: Batch, session: str, cause: str = "") -> list[str]:
    """A session that supervision gave up goes on; who runs again.

    All that were halted, and whoever has got mail since: nobody else is woken.
    """
    row = batch.session(session)
    assert row is not None
    before = str(row.data.get(WAS) or "running")
    row.state = "running" if before == "paused" else before
    row.kind, row.answer, row.ended = "", "", None
    row.data = {key: value for key, value in row.data.items() if key not in ("hint", WAS)}
    names = []
    for name in batch.members(session):
        held = batch.actor(name)
        if held is None or held.wanted == "ended":
            continue
        if held.wanted == "asleep" and (held.halted or batch.busy(name, held)):
            batch.awaken(name)
            names.append(name)
        held.halted = False
        if held.recovery is not None:  # a person has seen to it: its failures count anew
            held.recovery = History(rung=held.recovery.rung, since=batch.now)
    batch.event(session, "session_resumed", "user", {"state": row.state, "actors": names}, cause)
    return names


def begin_boot(txn: Transaction, boot: int) -> bool:
    """Notes which daemon runs; whether it is another one than the last that this state has seen.

    In the same transaction as what follows from it, so it follows once per start of a daemon.
    """
    raw = txn.get("meta", BOOT_KEY)
    last = 0 if raw is None else int(codec.unpack(raw))
    if boot <= last:
        return False
    txn.put("meta", BOOT_KEY, codec.pack(boot))
    return True


def daemon_restarted(batch: Batch, boot: int, when: str) -> None:
    """Everything that ran has ended with the last daemon and is about to go on: each agent is told
    by mail, people by one event per session. `when`: the time, for people."""
    for session in sorted(batch.rules.sessions):
        if "/" in session or not batch.live(session):
            continue
        names = []
        for name in batch.members(session):
            held = batch.peek(name)
            if held is None or held.wanted != "running" or not held.fence:
                continue
            row = batch.actor(name)
            assert row is not None
            row.status, row.waiting_for = "restarting", DAEMON_RESTARTED
            row.status_since = batch.now
            names.append(name)
            if batch.known(name).kind in TOLD:
                body = codec.encode(Restarted(at=batch.now, when=when))
                batch.deliver(name, CONTROL, f"{name}/boot.{boot}", HUB, body)
        if names:
            batch.event(session, "daemon_restarted", HUB, {"at": when, "actors": names})
