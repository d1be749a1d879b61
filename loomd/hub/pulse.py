"""What the root sees and hears of the hub: that its loop turns, and how much goes on.

The loop beats the hub's slot at each turn; a hub that does not turn for a heartbeat is killed and
restarted by the root like any other child. The numbers are what `systemctl status` shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loomd.hub import boards
from loomd.hub.rules import DAEMON, OVER
from loomd.supervise.slots import LOOP

if TYPE_CHECKING:
    from loomd.hub.process import Hub

HEARTBEAT_S = 5.0


class Pulse:
    """One per hub; belongs to the loop's thread. `every_s`: how often the loop must turn."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._slot = hub.birth.slot
        supervision = (hub.birth.args.get("settings") or {}).get("supervision") or {}
        self.every_s = float(supervision.get("heartbeat_s", HEARTBEAT_S)) / 4
        self._counted = -1
        self._blocked = 0
        self._told: tuple[int, int, int] | None = None

    def begin(self) -> None:
        self._slot.begin(LOOP)

    def beat(self) -> None:
        self._slot.beat()

    def end(self) -> None:
        self._slot.end()

    def tell(self) -> None:
        """Tells the root the numbers, if they have changed. Called once a second."""
        hub = self._hub
        if hub.writer.transactions != self._counted:
            self._counted = hub.writer.transactions
            self._blocked = self._waiting()
        sessions = sum(
            row.state not in OVER and not row.removed and row.session != DAEMON
            for row in hub.rules.sessions.values()
        )
        numbers = (sessions, len(hub.peers.by_name), self._blocked)
        if numbers != self._told:
            self._told = numbers
            hub.root.tell(
                {
                    "op": "status",
                    "sessions": numbers[0],
                    "actors": numbers[1],
                    "blocked": numbers[2],
                }
            )

    def _waiting(self) -> int:
        """Sessions that wait for a person."""
        with self._hub.store.reading() as txn:
            asking = {row["session"] for row in boards.open_questions(txn, "")}
        sessions = self._hub.rules.sessions
        return sum(name in sessions and sessions[name].state == "running" for name in asking)
