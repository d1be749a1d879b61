"""What has changed between two trees: the least that makes one of the other. Pure.

Not OTP's code_change, which keeps what runs and starts nothing: children that are new are started,
missing ones stopped, changed ones restarted; where only the rules of supervision have changed (a
supervisor's own flags, a worker's restart type, time-outs, back-off, size of its log) they are
applied in place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from loomd.supervise.spec import ChildSpec, SupervisorSpec, WorkerSpec, all_ids


@dataclass(frozen=True)
class Change:
    """One step, below `supervisor`; `spec` is the new one (of a stop, the old one)."""

    kind: Literal["start", "stop", "restart", "update"]
    supervisor: str
    spec: ChildSpec

    @property
    def id(self) -> str:
        return self.spec.id


def diff(old: SupervisorSpec, new: SupervisorSpec) -> list[Change]:
    """The steps from `old` to `new`, two specs of one supervisor: in each supervisor first the
    stops, last child first, then the rest in the order of `new`. A supervisor of its own that is
    started or stopped is one step, whatever is in it."""
    before = {spec.id: spec for spec in old.children}
    after = {spec.id: spec for spec in new.children}
    changes = [
        Change("stop", new.id, spec)
        for spec in reversed(old.children)
        if not _stays(spec, after.get(spec.id))
    ]
    for spec in new.children:
        was = before.get(spec.id)
        if was == spec:
            continue
        if was is None or not _stays(was, spec):
            changes.append(Change("start", new.id, spec))
        elif isinstance(was, SupervisorSpec) and isinstance(spec, SupervisorSpec):
            if flags(was) != flags(spec) or order(was, spec) != order(spec, was):
                changes.append(Change("update", new.id, spec))
            changes += diff(was, spec)
        elif isinstance(was, WorkerSpec) and isinstance(spec, WorkerSpec):
            kind: Literal["restart", "update"] = "restart" if _runs_else(was, spec) else "update"
            changes.append(Change(kind, new.id, spec))
    return changes


def _stays(old: ChildSpec, new: ChildSpec | None) -> bool:
    return type(old) is type(new)


def _runs_else(old: WorkerSpec, new: WorkerSpec) -> bool:
    """Whether the process itself would be another one."""
    start = replace(old.start, ready_s=new.start.ready_s, log_bytes=new.start.log_bytes)
    return start != new.start


def flags(spec: SupervisorSpec) -> SupervisorSpec:
    """A supervisor without its children."""
    return replace(spec, children=())


def order(spec: SupervisorSpec, other: SupervisorSpec) -> list[str]:
    """The ids that both have, in the order of `spec`."""
    common = {child.id for child in other.children}
    return [child.id for child in spec.children if child.id in common]


def supervisors(spec: SupervisorSpec) -> Iterator[SupervisorSpec]:
    """It, and every supervisor below it."""
    yield spec
    for child in spec.children:
        if isinstance(child, SupervisorSpec):
            yield from supervisors(child)


def by_id(spec: SupervisorSpec) -> Mapping[str, SupervisorSpec]:
    return {each.id: each for each in supervisors(spec)}


def kept_down(spec: ChildSpec, terminated: Collection[str]) -> set[str]:
    """The ids that do not run because a person has terminated them or a supervisor above."""
    if spec.id in terminated:
        return set(all_ids(spec))
    if isinstance(spec, WorkerSpec):
        return set()
    return {id for child in spec.children for id in kept_down(child, terminated)}


def report(changes: list[Change], down: Collection[str] = ()) -> dict[str, list[str]]:
    """For people: the ids that are started, stopped, restarted and updated; `held`: those that
    would be started or restarted, but are kept `down`."""
    ids: dict[str, list[str]] = {"started": [], "stopped": [], "restarted": [], "updated": []}
    ids["held"] = []
    gone = {change.id for change in changes if change.kind == "stop"}
    come = {change.id for change in changes if change.kind == "start"}
    for change in changes:
        if change.id in gone & come:  # it moved, or became another kind of child
            where = "restarted" if change.kind == "start" else ""
        else:
            names = {"start": "started", "stop": "stopped", "update": "updated"}
            where = names.get(change.kind, "restarted")
        if where in ("started", "restarted") and change.id in down:
            where = "held"
        if where:
            ids[where].append(change.id)
    return ids
