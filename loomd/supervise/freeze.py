"""A policy as plain JSON, and back: what a root hands to its own successor. Pure.

Every field of a node that is plain goes as it stands, so a field that is added to a node is carried
without a change here; what the successor does not know is dropped, and what it misses has its
default. Only the shape of the whole has a number, `FORMAT`.

Taken between two events: then nothing is half done, and what a policy does next follows from what
is frozen. `thaw(freeze(policy))` answers every further event as `policy` would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from loomd.supervise import spec as s
from loomd.supervise import tree as t
from loomd.supervise.policy import Policy

FORMAT = 1

_APART = frozenset({"spec", "parent", "children", "waiters"})
"""Fields of a node that need more than their value."""


class FreezeError(ValueError):
    """What was handed on cannot be read: another format, or a value that cannot be."""


def freeze(policy: Policy) -> dict[str, Any]:
    """The whole policy as JSON-able data."""
    assert not policy._dirty, "frozen in the middle of an event"
    return {
        "format": FORMAT,
        "root": _freeze_node(policy.root),
        "timers": [[kind, name, at] for (kind, name), at in policy.timers.items()],
        "finished": policy.finished,
        "next": policy._next,
        "intensity": policy._intensity,
        "period_s": policy._period_s,
        "free_blames": policy._free_blames,
        "parked": [
            {
                "spec": s.plain(event.spec),
                "session": event.session,
                "group": event.group,
                "after": event.after,
            }
            for event in policy._parked
        ],
        "asked_to_end": policy._asked_to_end,
        "held": sorted(policy.held),
        "additions": [[home, s.plain(spec)] for home, spec in policy._additions],
    }


def thaw(frozen: Mapping[str, Any]) -> Policy:
    """The policy that `frozen` was made of. Raises FreezeError."""
    if frozen.get("format") != FORMAT:
        raise FreezeError(f"format {frozen.get('format')!r}, this code reads {FORMAT}")
    try:
        root = frozen["root"]
        policy = Policy(
            s.parse_supervisor(root["spec"]),
            base=frozen["next"],
            intensity=frozen["intensity"],
            period_s=frozen["period_s"],
            free_blames=frozen["free_blames"],
        )
        policy.nodes.clear()
        node = _thaw_node(root, None, policy.nodes)
        assert isinstance(node, t.Supervisor)
        policy.root = node
        policy.timers = {(kind, name): float(at) for kind, name, at in frozen["timers"]}
        policy.finished = frozen["finished"]
        policy._asked_to_end = frozen["asked_to_end"]
        policy._parked = [
            t.Ensure(
                s.parse_worker(event["spec"]), event["session"], event["group"], event["after"]
            )
            for event in frozen["parked"]
        ]
        policy.held = set(frozen.get("held", ()))
        policy._additions = [(home, s.parse(spec)) for home, spec in frozen.get("additions", ())]
        policy.validate()
    except s.SpecError as error:
        raise FreezeError(f"a spec that this code refuses: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise FreezeError(f"{type(error).__name__}: {error}") from error
    return policy


def _freeze_node(node: t.Child) -> dict[str, Any]:
    frozen = {
        field.name: getattr(node, field.name)
        for field in dataclasses.fields(node)
        if field.name not in _APART
    }
    frozen["spec"] = s.plain(node.spec)
    frozen["waiters"] = [[waiter.call, waiter.kind] for waiter in node.waiters]
    if isinstance(node, t.Supervisor):
        frozen["children"] = [_freeze_node(child) for child in node.children.values()]
    return frozen


def _thaw_node(
    frozen: Mapping[str, Any], parent: t.Supervisor | None, nodes: dict[str, t.Child]
) -> t.Child:
    spec = s.parse(frozen["spec"])
    node: t.Child
    if isinstance(spec, s.SupervisorSpec):
        node = t.Supervisor(spec, parent)
    else:
        if parent is None:
            raise FreezeError("a worker at the root")
        node = t.Worker(spec, parent)
    for field in dataclasses.fields(node):
        if field.name not in _APART and field.name in frozen:
            value = frozen[field.name]
            # JSON has lists only; where a field holds a tuple, its default is one.
            shaped = _tuples(value) if isinstance(field.default, tuple) else value
            setattr(node, field.name, shaped)
    node.waiters = [t.Waiter(call, kind) for call, kind in frozen["waiters"]]
    if node.id in nodes:
        raise FreezeError(f"two nodes called {node.id}")
    nodes[node.id] = node
    if isinstance(node, t.Supervisor):
        for below in frozen["children"]:
            child = _thaw_node(below, node, nodes)
            node.children[child.id] = child
    return node


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list | tuple) else value
