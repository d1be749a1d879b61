"""What is wanted against what the root has."""

from __future__ import annotations

from loomd.actor.behaviour import Spec
from loomd.hub.reconcile import Births, children, reconcile

BIRTHS = Births(entries={"agent": "a:main", "team": "t:main", "models": "m:main"}, args={"x": 1})


def spec(name: str, kind: str = "agent") -> Spec:
    return Spec(name=name, kind=kind, session=name.partition("/")[0] if "/" in name else "")


def test_a_worker_spec_carries_the_common_args_and_not_the_actors_own() -> None:
    order = BIRTHS.ensure(Spec(name="s-1/lead", kind="agent", session="s-1", nice=10))
    assert order is not None
    assert (order["group"], order["session"]) == ("agents", "s-1")
    assert order["spec"]["start"] == {
        "template": "actors",
        "entry": "a:main",
        "args": {"x": 1},
        "nice": 10,
        "cold": False,
        "keys": False,
        "nursery": False,
    }


def test_what_is_missing_is_ensured_team_first_and_what_is_not_wanted_is_stopped() -> None:
    have = children(
        [
            ["s-1/old", 5, 50, "running", 0, 1.0],
            ["s-1/gone", 6, 60, "running", 0, 1.0],
            ["s-1/here", 7, 70, "running", 0, 1.0],
            ["s-1/waiting", 8, 0, "waiting", 3, 0.0],
            ["hub", 1, 10, "running", 0, 1.0],
        ]
    )
    wanted = {
        "s-1/lead": ("running", spec("s-1/lead")),
        "s-1/team": ("running", spec("s-1/team", "team")),
        "s-1/here": ("running", spec("s-1/here")),
        "s-1/waiting": ("running", spec("s-1/waiting")),
        "s-1/old": ("asleep", spec("s-1/old")),
        "s-1/never": ("ended", spec("s-1/never")),
        "models": ("running", spec("models", "models")),
    }
    orders = [(order["op"], order["name"]) for order in reconcile(wanted, have, BIRTHS)]
    assert orders == [
        ("stop", "s-1/gone"),
        ("stop", "s-1/old"),
        ("ensure", "s-1/team"),
        ("ensure", "s-1/lead"),
        ("ensure", "s-1/waiting"),
    ]


def test_a_kind_that_nobody_knows_how_to_run_is_left_alone() -> None:
    assert reconcile({"s-1/x": ("running", spec("s-1/x", "what"))}, {}, BIRTHS) == []


def test_a_gateway_that_was_replaced_and_has_no_place_in_the_tree_is_started_with_the_keys() -> (
    None
):
    births = Births(
        entries={"gateway": "g:main", "models": "m:main"},
        own=frozenset({"models"}),
        gateway_template="litellm",
    )
    wanted = {name: ("running", spec(name, "gateway")) for name in ("gateway-1", "gateway-2")}
    wanted["models"] = ("running", spec("models", "models"))
    have = children([["gateway-2", 4, 77, "up", 1, 0.0]])
    [order] = reconcile(wanted, have, births)
    assert (order["name"], order["session"], order["group"]) == ("gateway-1", "", "gateways")
    assert order["spec"]["start"]["template"] == "litellm" and order["spec"]["start"]["keys"]
    down = children([["gateway-1", 5, 0, "waiting", 1, 0.0], ["gateway-2", 4, 77, "up", 1, 0.0]])
    assert reconcile(wanted, down, births) == []  # the root has a place for it
