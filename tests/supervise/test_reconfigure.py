"""Another configuration: only what has changed is started, stopped, restarted."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from loomd.supervise import reconfigure as r
from loomd.supervise import spec as s
from loomd.supervise import tree as t
from tests.supervise.otp.stage import Stage, sup
from tests.supervise.otp.stage import worker as plain_worker


def worker(id: str, *words: str, restart: str = "permanent", **more: Any) -> dict[str, Any]:
    made = plain_worker(id, restart, **more)
    return made | {"start": {"command": ["toy", *words], **more.pop("start", {})}}


def services(*children: dict[str, Any]) -> dict[str, Any]:
    return sup("services", *children, independent=True, restart="transient", intensity=9)


def staged(*children: dict[str, Any]) -> Stage:
    stage = Stage(sup("root", plain_worker("hub"), services(*children)))
    stage.took()
    return stage


def configure(stage: Stage, *children: dict[str, Any]) -> str:
    stage.tell(t.Configure(s.parse_supervisor(services(*children))))
    return stage.took()


def steps(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    pair = [s.parse_supervisor(services(*children)) for children in (old, new)]
    return [f"{change.kind} {change.supervisor}/{change.id}" for change in r.diff(*pair)]


def test_the_same_tree_is_no_change():
    tree = [sup("x", worker("a"), sup("y", worker("b")))]
    assert steps(tree, tree) == []


def test_missing_ones_stop_in_reverse_and_new_ones_start_in_order():
    old = [sup("x", worker("a"), worker("b"), worker("c"))]
    new = [sup("x", worker("d"), worker("b"), worker("e"))]
    assert steps(old, new) == ["stop x/c", "stop x/a", "start x/d", "start x/e"]
    stage = staged(*old)
    b = stage.live["b"]
    assert configure(stage, *new) == "-c -a +d +e"
    assert stage.live["b"] == b and list(stage.node("x").children) == ["d", "b", "e"]


def test_a_changed_command_restarts_one_child_whatever_the_strategy():
    old = sup("x", worker("a"), worker("b"), worker("c"), strategy="one_for_all")
    new = sup("x", worker("a"), worker("b", "new"), worker("c"), strategy="one_for_all")
    assert steps([old], [new]) == ["restart x/b"]
    stage = staged(old)
    assert configure(stage, new) == "-b +b"
    assert stage.node("b").spec.start.command == ("toy", "new")


def test_rules_of_supervision_apply_in_place():
    old = sup("x", worker("a"), worker("b"), intensity=1)
    new = sup(
        "x",
        worker("a", shutdown_s=1, backoff_s=1, start={"ready_s": 3}),
        worker("b", restart="temporary"),
        intensity=0,
        strategy="rest_for_one",
        auto_shutdown="any_significant",
    )
    assert steps([old], [new]) == ["update services/x", "update x/a", "update x/b"]
    stage = staged(old)
    stage.crash("a")
    stage.took()
    assert configure(stage, new) == ""
    assert stage.node("x").attempts == []
    stage.crash("b")
    assert stage.running == {"hub", "a"}


def test_another_order_of_the_same_children_moves_no_process():
    old, new = sup("x", worker("a"), worker("b")), sup("x", worker("b"), worker("a"))
    assert steps([old], [new]) == ["update services/x"]
    stage = staged(old)
    assert configure(stage, new) == ""
    stage.shutdown()
    assert stage.took() == "-a -b -hub"


def test_a_child_that_moves_is_stopped_before_it_is_started():
    stage = staged(sup("x", worker("a"), worker("b")), sup("y"))
    stage.stuck.add("b")
    moved = (sup("x", worker("a")), sup("y", worker("b")))
    assert configure(stage, *moved) == "-b"
    assert configure(stage, *moved) == ""
    stage.stuck.clear()
    stage.exit("b")
    assert stage.took() == "+b" and stage.node("b").parent.id == "y"


def test_a_child_that_moves_there_and_back_again():
    home, away = (sup("x", worker("b")), sup("y")), (sup("x"), sup("y", worker("b")))
    stage = staged(*home)
    stage.stuck.add("b")
    configure(stage, *away)
    configure(stage, *home)
    stage.stuck.clear()
    stage.exit("b")
    assert stage.took() == "+b" and stage.node("b").parent.id == "x"
    assert stage.policy._additions == []


def test_a_child_moves_between_supervisors_that_both_start_anew():
    stage = staged(sup("x", worker("u")), sup("y", worker("v")))
    stage.stuck = {"u", "v"}
    configure(stage)
    configure(stage, sup("x", worker("v")), sup("y"))
    stage.stuck.clear()
    stage.exit("u")
    assert stage.state("x") == "up" and stage.state("v") == "stopping"
    stage.exit("v")
    assert stage.took() == "+v" and stage.node("v").parent.id == "x"


def test_a_process_becomes_a_supervisor():
    old, new = sup("x", worker("a")), sup("x", sup("a", worker("b")))
    assert steps([old], [new]) == ["stop x/a", "start x/a"]
    pair = [s.parse_supervisor(services(tree)) for tree in (old, new)]
    assert r.report(r.diff(*pair))["restarted"] == ["a"]
    stage = staged(old)
    assert configure(stage, new) == "-a +b"


def test_what_a_person_keeps_down_is_not_said_to_start():
    old = sup("x", worker("a"), sup("y", worker("b"), worker("c")))
    new = sup("x", worker("a", "new"), sup("y", worker("b", "new"), worker("d")))
    pair = [s.parse_supervisor(services(tree, worker("z"))) for tree in (old, new)]
    pair[1] = s.parse_supervisor(services(new, worker("z", "new")))
    changes = r.diff(*pair)
    said = r.report(changes, r.kept_down(pair[1], {"y", "unknown"}))
    assert said == {
        "started": [],
        "stopped": ["c"],
        "restarted": ["a", "z"],
        "updated": [],
        "held": ["b", "d"],
    }
    said = r.report(changes, r.kept_down(pair[1], {"a", "services"}))
    assert said["held"] == ["a", "b", "d", "z"] and said["restarted"] == []
    stage = staged(old, worker("z"))
    stage.terminate("y")
    stage.took()
    assert configure(stage, new, worker("z", "new")) == "-a -z +a +z"


def test_a_mended_child_is_tried_again_and_an_unchanged_one_is_not():
    stage = Stage(sup("root", services(sup("x", worker("bad")), sup("y", worker("no")))), False)
    stage.refuse = {"bad": [73], "no": [73]}
    stage.tell(t.Boot())
    stage.took()
    assert configure(stage, sup("x", worker("bad", "mended")), sup("y", worker("no"))) == "+bad"
    assert stage.state("x") == "up" and stage.state("y") == "down"


def test_a_change_deep_in_a_tree_that_gave_up_starts_it_again():
    stage = staged(sup("x", worker("a"), sup("y", worker("b")), intensity=0, restart="transient"))
    stage.crash("a")
    assert stage.state("x") == "down" and stage.took() == "-b"
    new = sup("x", worker("a"), sup("y", worker("b", "new")), intensity=0, restart="transient")
    assert configure(stage, new) == "+a +b"


def test_a_change_that_cannot_start_moves_nothing_else():
    stage = staged(sup("x", worker("a"), worker("b"), strategy="one_for_all", intensity=0))
    stage.refuse["b"] = [73]
    new = sup("x", worker("a"), worker("b", "typo"), strategy="one_for_all", intensity=0)
    assert configure(stage, new) == "-b +b"
    assert stage.running == {"hub", "a"} and stage.state("b") == "down"
    new = sup("x", worker("a"), worker("b"), strategy="one_for_all", intensity=0)
    assert configure(stage, new) == "+b"


def test_who_was_terminated_stays_down_through_a_change():
    stage = staged(sup("x", worker("a"), worker("b")))
    assert stage.terminate("a") == ""
    stage.took()
    assert configure(stage, sup("x", worker("a", "new"), worker("b"))) == ""
    assert stage.restart("a") == ""
    assert stage.node("a").spec.start.command == ("toy", "new")
    assert stage.terminate("a") == ""
    configure(stage, sup("x", worker("b")))
    assert configure(stage, sup("x", worker("a"), worker("b"))) == "+a"


def test_who_has_ended_or_was_deleted_is_not_brought_back_by_another_change():
    tree = sup("x", worker("t", restart="temporary"), worker("d"), worker("a"))
    stage = staged(tree)
    stage.exit("t")
    assert stage.terminate("d") == "" and stage.delete("d") == ""
    stage.took()
    new = sup("x", worker("t", restart="temporary"), worker("d"), worker("a", "new"))
    assert configure(stage, new) == "-a +a"


def test_services_that_gave_up_start_again_with_a_change():
    stage = staged(sup("x", worker("a"), intensity=0))
    for _ in range(10):
        stage.crash("a")
    assert stage.state("services") == "down"
    stage.took()
    assert configure(stage, sup("x", worker("a", "mended"), intensity=0)) == "+a"


def test_a_change_while_the_tree_is_shut_down_starts_nothing():
    stage = staged(sup("x", worker("a")))
    stage.stuck.add("a")
    stage.shutdown()
    stage.took()
    assert configure(stage, sup("x", worker("a", "new"), worker("b"))) == ""
    stage.exit("a")
    assert stage.finish is not None and stage.finish.ok


# --- properties ----------------------------------------------------------------------------------

IDS = ["a", "b", "c", "d"]


@st.composite
def trees(draw: Any) -> list[dict[str, Any]]:
    """Trees of at most two levels over few names: they change places and kinds."""
    ids = draw(st.permutations([*IDS, "u", "v", "w"]))
    made: list[dict[str, Any]] = []
    for i, id in enumerate(ids[: draw(st.integers(0, 7))]):
        word = draw(st.sampled_from(["one", "two"]))
        homes = [made]
        homes += [one["children"] for one in made if "children" in one]
        home = draw(st.sampled_from(homes)) if i else made
        if home is made or draw(st.booleans()):
            flags = {"intensity": draw(st.integers(0, 2)), "restart": "transient"}
            home.append(sup(id, strategy=draw(st.sampled_from(s.STRATEGIES)), **flags))
        else:
            home.append(worker(id, word))
    return made


def wanted(children: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for child in children:
        if "start" in child:
            found[child["id"]] = tuple(child["start"]["command"])
        else:
            found |= wanted(child["children"])
    return found


@given(st.lists(trees(), min_size=2, max_size=5), st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_the_changes_the_last_configuration_runs(configs, data):
    stage = staged(*configs[0])
    for config in configs[1:]:
        stage.stuck = {id for id in stage.live if data.draw(st.booleans(), id)}
        configure(stage, *config)
    stage.stuck.clear()
    while late := [w.id for w in t.workers(stage.policy.root) if w.state == "stopping"]:
        stage.exit(late[0])
    expected = wanted(configs[-1])
    assert stage.running == {"hub", *expected}
    for id, command in expected.items():
        assert stage.node(id).spec.start.command == command
    assert stage.policy._additions == []
    assert stage.node("services").attempts == []


@given(st.lists(trees(), min_size=1, max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_a_life_between_configurations_keeps_the_tree_whole(configs, data):
    """Crashes, ends, calls and time in between; the stage validates the tree after each event."""
    stage = staged()
    for config in configs:
        stage.stuck = {id for id in IDS if data.draw(st.booleans())}
        configure(stage, *config)
        for _ in range(data.draw(st.integers(0, 6))):
            what = data.draw(st.sampled_from(["crash", "exit", "terminate", "restart", "time"]))
            id = data.draw(st.sampled_from([*IDS, "u", "v", "w"]))
            if what == "time":
                stage.after(data.draw(st.sampled_from([0.1, 6.0])))
            elif what in ("terminate", "restart"):
                getattr(stage, what)(id)
            elif id in stage.live:
                stage.exit(id, int(what == "crash"))
    stage.stuck.clear()
    stage.shutdown()
    while stage.live:
        stage.exit(min(stage.live))
    assert stage.finish is not None and not stage.policy.timers


@given(trees(), trees())
@settings(max_examples=100, deadline=None)
def test_what_has_not_changed_keeps_its_process(old, new):
    stage = staged(*old)
    before = dict(stage.live)
    pair = [s.parse_supervisor(services(*tree)) for tree in (old, new)]
    moved = {change.id for change in r.diff(*pair)}
    inside = {id for change in r.diff(*pair) if change.kind in ("start", "stop")
              for id in s.all_ids(change.spec)}  # fmt: skip
    configure(stage, *new)
    for id in before.keys() - moved - inside:
        assert stage.live[id] == before[id]


def test_a_configuration_of_what_is_not_there_changes_nothing():
    stage = Stage(sup("root", plain_worker("a")))
    assert stage.tell(t.Configure(s.parse_supervisor(services()))) == []
