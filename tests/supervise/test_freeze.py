"""A policy that was handed on as JSON goes on exactly as it would have."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from loomd.supervise import freeze as f
from loomd.supervise import spec as s
from loomd.supervise import tree as t
from tests.supervise.otp.stage import Stage, sup, worker, workers
from tests.supervise.test_policy_property import Tree, trees


def handed_on(policy: Any) -> Any:
    return f.thaw(json.loads(json.dumps(f.freeze(policy))))


class Twins(Tree):
    """At every event of a random life: the policy and one thawed just before do the same."""

    def handle(self, event: t.Event) -> list[t.Action]:
        twin = handed_on(self.policy)
        actions = super().handle(event)
        assert twin.handle(event, self.now) == actions
        assert f.freeze(twin) == f.freeze(self.policy)
        return actions


TestTwins = Twins.TestCase
TestTwins.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)


@given(trees())
def test_a_spec_survives_as_plain_data(tree: dict[str, Any]):
    spec = s.parse(tree)
    assert s.parse(json.loads(json.dumps(s.plain(spec)))) == spec


@given(
    st.fixed_dictionaries(
        {
            "template": st.just("actors"),
            "entry": st.just("a.b:main"),
            "args": st.dictionaries(st.text(), st.integers() | st.text()),
            "nice": st.integers(-20, 19),
            "ready": st.sampled_from(["link", "none"]),
            "ready_s": st.floats(0.1, 100),
            "keys": st.booleans(),
            "lock": st.booleans(),
        }
    )
    | st.fixed_dictionaries(
        {
            "serves": st.just("actors"),
            "preload": st.lists(st.just("a.b")),
            "without": st.lists(st.just("c")),
            "spares": st.integers(0, 16),
        }
    )
)
def test_a_start_survives_as_plain_data(start: dict[str, Any]):
    spec = s.parse({"id": "a", "start": start})
    assert s.parse(json.loads(json.dumps(s.plain(spec)))) == spec


def test_nothing_of_a_policy_is_forgotten():
    """A new attribute has to be frozen, or be empty between two events."""
    policy = Stage(sup("root", *workers("a"))).policy
    between_events = {"nodes", "now", "out", "gone", "dirty"}
    known = {name.removeprefix("_") for name in vars(policy)}
    assert known - between_events == set(f.freeze(policy)) - {"format"}


def test_callers_who_wait_and_births_that_wait_are_handed_on():
    stage = Stage(sup("root", *workers("a", "b"), sup("services", dynamic=True)))
    stage.stuck.add("a")
    assert stage.bounce("a") is None
    stage.policy = handed_on(stage.policy)
    stage.stuck.clear()
    stage.exit("a", 0)
    assert stage.answers == {1: ""}


def test_a_field_that_a_newer_node_has_is_carried_and_an_unknown_one_dropped():
    stage = Stage(sup("root", *workers("a")))
    frozen = f.freeze(stage.policy)
    (child,) = frozen["root"]["children"]
    child["restarts"] = 5
    child["of_another_version"] = [1]
    del child["failures"]
    node = f.thaw(frozen).nodes["a"]
    assert isinstance(node, t.Worker)
    assert (node.restarts, node.failures) == (5, 0)
    assert not hasattr(node, "of_another_version")


@pytest.mark.parametrize(
    "damage",
    [
        lambda z: z.update(format=f.FORMAT + 1),
        lambda z: z.pop("next"),
        lambda z: z["root"]["children"][0].update(spec={"id": "a"}),
        lambda z: z["root"]["children"].append(z["root"]["children"][0]),
        lambda z: z["root"]["children"][0].update(state="starting"),  # without its time-out
        lambda z: z["timers"].append(["stop", "nobody", 1.0]),
        lambda z: z.update(root={**z["root"]["children"][0]}),
    ],
)
def test_what_cannot_be_is_refused(damage: Any):
    frozen = f.freeze(Stage(sup("root", worker("a"), worker("b"))).policy)
    damage(frozen)
    with pytest.raises(f.FreezeError):
        f.thaw(frozen)


# --- supplanting ---------------------------------------------------------------------------------


def supplanted(stage: Stage, name: str, old: str) -> str | None:
    """The answer to the call; None: none yet."""
    return stage._call(t.Supplant(stage._number(), s.parse_worker(worker(name)), old))


def test_a_supplanted_child_runs_beside_its_successor_and_is_never_started_again():
    stage = Stage(sup("root", *workers("a", "b"), intensity=0))
    first = stage.live.pop("a")
    stage.live["a@1"] = first
    assert supplanted(stage, "a", "a@1") == ""
    assert stage.took() == "+a +b +a"
    assert stage.running == {"a", "a@1", "b"}
    stage.exit("a@1", -1, 9)
    assert stage.state("a@1") is None and stage.running == {"a", "b"} and stage.finish is None
    stage.tell(t.Shutdown())
    assert stage.took() == "-b -a"


def test_a_successor_that_cannot_start_costs_nobody_anything():
    stage = Stage(sup("root", *workers("a", "b"), intensity=0))
    stage.live["a@1"] = stage.live.pop("a")
    stage.refuse["a"] = [74]
    assert supplanted(stage, "a", "a@1") == "status 74"
    assert stage.running == {"a@1", "b"} and stage.finish is None
    stage.tell(t.Forget("a@1"))
    assert stage.running == {"b"} and stage.state("a@1") is None


def test_only_who_is_up_can_be_supplanted():
    stage = Stage(sup("root", *workers("a", "b")))
    stage.slow.add("a")
    stage.crash("a")
    assert supplanted(stage, "a", "a@1") == "not_running"
    assert supplanted(stage, "b", "a") == "name_taken"
    assert supplanted(stage, "c", "c@1") == "not_found"


def test_a_new_spec_counts_from_the_next_start():
    stage = Stage(sup("root", worker("a", "permanent")))
    stage.tell(t.Respec(s.parse_worker(worker("a", "transient"))))
    stage.exit("a", 0)
    assert stage.running == set() and stage.finish is None


def test_upgraded_while_it_starts_is_no_failed_start():
    stage = Stage(sup("root", *workers("a"), intensity=0))
    stage.slow.add("a")
    stage.exit("a", 71)
    stage.exit("a", 71)
    assert stage.running == {"a"} and stage.finish is None
    assert stage.policy.nodes["a"].restarts == 0
