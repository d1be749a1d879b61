"""What is wanted against what the root has. Pure.

Table `actors` is the desired state; the root's dynamic children are a cache of it. Requests are
idempotent, so asking again costs nothing. What has ended or given up while there was no hub is
booked before: the root has kept the notes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from loomd.actor.behaviour import Spec

GROUPS: Final = {
    "agent": "agents",
    "echo": "agents",
    "echo-performer": "agents",
    "keeper": "keepers",
    "gateway": "gateways",
}
"""Kind -> the dynamic supervisor that it stands under, in its session or (gateways) in the daemon;
others: the session itself."""

COLD: Final = frozenset({"tools"})
"""Kinds that fork before they open anything: what a process has opened ahead they cannot use."""

SHUTDOWN_S: Final = 5.0


@dataclass(frozen=True)
class Births:
    """What the hub knows of making processes: entry points by kind, and args common to all.

    own  the daemon's own actors but gateways: the root's tree holds them, for ever
    gateway_template  the template of a gateway that the tree does not hold
    """

    entries: Mapping[str, str]
    args: Mapping[str, Any] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    gateway_template: str = "actors"

    def worker(self, spec: Spec) -> dict[str, Any] | None:
        """The root's child spec of an actor; None: nobody knows how to run this kind."""
        entry = self.entries.get(spec.kind)
        if entry is None:
            return None
        return {
            "id": spec.name,
            "type": "worker",
            "restart": spec.restart,
            "shutdown_s": SHUTDOWN_S,
            "significant": False,
            "start": {
                "template": self.gateway_template if spec.kind == "gateway" else "actors",
                "entry": entry,
                "args": dict(self.args),
                "nice": spec.nice,
                "cold": spec.kind in COLD,
                "keys": spec.kind == "gateway",
                "nursery": spec.kind == "tools",
                # Behind a template that imports for seconds, nothing waits for it.
                **({"ready": "none"} if spec.kind == "gateway" else {}),
            },
        }

    def ensure(self, spec: Spec, after: int = 0) -> dict[str, Any] | None:
        """The order to run an actor; None for the daemon's own (the root's tree holds them).

        Gateways are not among those: the first of them stands in the tree until it is given up.
        """
        worker = self.worker(spec)
        if worker is None or spec.name in self.own:
            return None
        if not spec.session and not (spec.kind == "gateway" and self.own):
            return None
        return {
            "op": "ensure",
            "name": spec.name,
            "session": spec.session,
            "group": GROUPS.get(spec.kind, ""),
            "spec": worker,
            "after": after,
        }


@dataclass(frozen=True)
class Child:
    """One worker that the root has, from its `which`."""

    name: str
    incarnation: int
    pid: int
    state: str
    restarts: int
    started_at: float


def children(rows: Iterable[Sequence[Any]]) -> dict[str, Child]:
    """By name, from the rows of `which`."""
    found = {}
    for row in rows:
        name, incarnation, pid, state, restarts, started_at = (*row, 0, 0, "", 0, 0.0)[:6]
        found[str(name)] = Child(
            str(name), incarnation or 0, pid or 0, str(state), restarts or 0, started_at or 0.0
        )
    return found


def reconcile(
    wanted: Mapping[str, tuple[str, Spec]], have: Mapping[str, Child], births: Births
) -> list[dict[str, Any]]:
    """Orders that make `have` what `wanted` says: {name: (running | asleep | ended, spec)}.

    Everything wanted running is ensured unless a process of it is there; what is there, or waits
    for a restart, and is not wanted, or is unknown, is stopped. The daemon's own actors are never
    touched.
    """
    orders = []
    for name, child in sorted(have.items()):
        row = wanted.get(name)
        if "/" in child.name and (row is None or row[0] != "running"):
            orders.append({"op": "stop", "name": name})
    for name, (state, spec) in sorted(wanted.items(), key=_team_first):
        if state != "running" or (name in have and have[name].pid):
            continue
        if not spec.session and name in have:
            continue  # the root has a place for it
        order = births.ensure(spec)
        if order is not None:
            orders.append(order)
    return orders


def _team_first(item: tuple[str, tuple[str, Spec]]) -> tuple[str, int, str]:
    name, (_, spec) = item
    return spec.session, {"team": 0, "tools": 1}.get(spec.kind, 2), name


def gone(fences: Mapping[str, int], have: Mapping[str, Child]) -> list[str]:
    """Actors whose last known incarnation the root does not have any more."""
    return sorted(
        name
        for name, fence in fences.items()
        if fence and (name not in have or have[name].incarnation != fence)
    )
