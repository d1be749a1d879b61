"""What clients may ask without changing anything: rows of the state, as CONTRACT shows them.

Every method is an operation (`loomd.hub.clients.OPS`) and answers at once, from one short reading
transaction; LoomError if there is no such thing.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from loomd import projects
from loomd.hub import accounts, boards, children, permits, requests, roles, supervision, toolsets
from loomd.hub.checkouts import trusted
from loomd.hub.rules import DAEMON, OVER, TEST_KINDS
from loomd.store import journal
from loomd.store.schema import name_key, session_of
from loomd.store.tables import SessionRow, dead_row
from loomd.wire import codec
from loomd.wire.errors import LoomError
from loomd.wire.messages import PROTOCOL

if TYPE_CHECKING:
    from loomd.hub.process import Hub

JOB_BYTES: Final = 256 << 10
"""Of what a job has printed, the end, in one reply."""

PAGE_KB: Final = os.sysconf("SC_PAGE_SIZE") // 1024


class Queries:
    """Belongs to the hub's loop."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def status(self) -> dict[str, Any]:
        hub = self.hub
        shown = [row for row in self._sessions() if row.state not in OVER]
        return {
            "version": hub.version,
            "pid": hub.root_pid,
            "hub_pid": os.getpid(),
            "uptime_s": round(_uptime(hub.root_pid), 3),
            "state_dir": str(hub.places.state),
            "runtime_dir": str(hub.places.runtime),
            "containment": hub.containment,
            "protocol": PROTOCOL,
            "sessions": len(shown),
            "actors": len(hub.peers.by_name),
            "generation": hub.generation,
            "last_upgrade": hub.root.last_upgrade,
            "epoch": hub.epoch,
            "counters": dict(hub.counters),
            "transactions": hub.writer.transactions,
            "jobs": hub.writer.jobs,
            "store": hub.store.size(),
        }

    def events(self, session: str, after: int = 0, limit: int = 500) -> dict[str, Any]:
        self.known_session(session)
        with self.hub.store.reading() as txn:
            return journal.events(txn, session, max(0, after), limit)

    def sessions(self) -> list[dict[str, Any]]:
        with self.hub.store.reading() as txn:
            asking = {row["session"] for row in boards.open_questions(txn, "")}
            rows = sorted(self._sessions(), key=lambda row: row.created)[-500:]
            costs = {row.session: accounts.of_session(txn, row.session)["cost_usd"] for row in rows}
        waits = {row.session: self._waits_for(row, row.session in asking) for row in rows}
        return [
            {
                "session": row.session,
                "repo": row.repo,
                "state": "waiting" if waits[row.session] else row.state,
                "waiting_for": waits[row.session],
                "calling": self.hub.calls.of_session(row.session, time.time()),
                "kind": row.kind,
                "goal": row.goal[:500],
                "created": row.created,
                "ended": row.ended,
                "agents": len(self._agents(row.session)),
                "cost_usd": costs[row.session],
            }
            for row in rows
        ]

    def session(self, session: str) -> dict[str, Any]:
        row = self.known_session(session)
        shown: dict[str, Any] = msgspec.to_builtins(row)
        del shown["noted"]
        with self.hub.store.reading() as txn:
            shown["tasks"] = boards.board(txn, row, "tasks")[:100]
            shown["jobs"] = boards.board(txn, row, "jobs")[-50:]
            shown["questions"] = boards.open_questions(txn, session)[:50]
            shown["usage"] = accounts.of_session(txn, session)
        shown["waiting_for"] = self._waits_for(row, bool(shown["questions"]))
        if shown["waiting_for"]:
            shown["state"] = "waiting"
        shown["agents"] = [self.process(name) for name in self._agents(session)]
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
        row = self.known_session(session)
        with self.hub.store.reading() as txn:
            return boards.board(txn, row, table)

    def tools(self, session: str = "") -> dict[str, Any]:
        if session:
            self.known_session(session)
        return toolsets.toolset(self.hub, session)

    def roles(self, session: str = "") -> dict[str, Any]:
        if session:
            self.known_session(session)
        return roles.in_force(self.hub, session)

    def job(self, session: str, id: str) -> dict[str, Any]:
        """One that has ended: its row, and the end of what it printed."""
        row = self.known_session(session)
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
            self.known_session(session)
        with self.hub.store.reading() as txn:
            return boards.open_questions(txn, session)

    def permissions(self, repo: str = "") -> dict[str, Any]:
        """What holds in a session that is opened in `repo` now; all saved rules without it."""
        own = self.hub.settings.get("permissions") or {}
        said = projects.read(Path(repo)).in_force(trusted(self.hub.places, repo)) if repo else {}
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
        hash = trusted(self.hub.places, str(path.resolve()))
        return {
            "repo": str(path.resolve()),
            "hash": found.hash,
            "files": found.files[:500],
            "trusted": found.believed(hash),
            "changed": bool(hash) and not found.believed(hash),
            "why_not": found.why_not,
        }

    def usage(self, by: str = "session", session: str = "") -> list[dict[str, Any]]:
        with self.hub.store.reading() as txn:
            return accounts.usage(txn, by, session)

    def attempts(self, session: str = "") -> list[dict[str, Any]]:
        """The newest rows of the ledger, oldest first: of a session, or of all."""
        if session:
            self.known_session(session)
        with self.hub.store.reading() as txn:
            return [boards.jsonable(row) for row in accounts.attempts(txn, session)]

    def dead(self) -> list[dict[str, Any]]:
        with self.hub.store.reading() as txn:
            found = [dead_row.decode(raw) for _, raw in txn.scan("dead", b"")]
        return [requests.dead_json(row) for row in found[:500]]

    def diff(self, session: str, edit: str = "") -> dict[str, Any]:
        """What a session changed, or what one edit of it did or would."""
        self.known_session(session)
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

    # --- shared --------------------------------------------------------------------------------

    def _sessions(self) -> list[SessionRow]:
        return [
            row
            for row in self.hub.rules.sessions.values()
            if not row.removed and row.session != DAEMON
        ]

    def known_session(self, session: str) -> SessionRow:
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

    def process(self, name: str, worker: Any = ()) -> dict[str, Any]:
        """One line of `ps`. `worker`: the root's row of it, if it has one."""
        hub = self.hub
        row = hub.rules.actors.get(name)
        known = hub.rules.known.get(name)
        child = hub.root.children.get(name)
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
        if shown["state"] == "thinking" and (call := hub.calls.waiting_for(name, time.time())):
            shown["waiting_for"] = call
        if name in hub.no_room and pid:
            shown |= {"state": "waiting", "waiting_for": "disk_full"}
        return shown


def _uptime(pid: int) -> float:
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0.0
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return max(0.0, since_boot - ticks / os.sysconf("SC_CLK_TCK"))


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_KB
    except (OSError, ValueError, IndexError):
        return 0


def pss_kb(pid: int) -> int:
    """Its memory, of what it shares with others its part; 0 if it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return 0
