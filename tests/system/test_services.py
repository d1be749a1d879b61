"""OTP's cases on real programs, in trees of the configuration, driven by `loomctl` alone: what a
running OTP answers, case by case."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.support import eventually, processes_naming
from tests.system.yard import Yard, service, sup, yard


@pytest.fixture(scope="module")
def shared() -> Iterator[Yard]:
    with yard() as made:
        yield made


@pytest.fixture
def town(shared: Yard) -> Iterator[Yard]:
    """The shared daemon, which must be there, and the same, after each test."""
    before = shared.ask("daemon", "status")["pid"]
    yield shared
    shared.change()
    eventually(lambda: not shared.node("services")["children"], what="nothing of the test is left")
    assert shared.ask("daemon", "status")["pid"] == before


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- intensity -----------------------------------------------------------------------------------


def test_intensity_0_the_first_crash_ends_the_supervisor_and_nothing_else(town):
    town.configure(
        sup("x", service("a"), service("b"), intensity=0), sup("y", service("c"), intensity=0)
    )
    town.started("b")
    other = town.started("c")
    town.order("a", "exit 1")
    town.wait_state("x", "down")
    assert [step for step in town.steps() if step != "+c"] == ["+a", "+b", "-b"]
    assert town.node("x")["reason"] == "too many restarts: a: exit status 1"
    assert town.node("x")["children"] == [] and alive(other)
    assert town.state("services") == "up"


def test_intensity_1_the_second_crash_ends_it(town):
    town.configure(sup("x", service("a"), intensity=1, period_s=60))
    town.started("a")
    town.order("a", "kill 11")
    town.started("a", 2)
    assert town.node("a")["restarts"] == 1
    town.order("a", "kill 9")
    town.wait_state("x", "down")
    assert town.steps() == ["+a", "+a"]


def test_the_window_of_intensity_slides(town):
    """Crashes that are further apart than the period are never too many."""
    town.configure(sup("x", service("a"), intensity=1, period_s=0.5))
    town.started("a")
    town.order("a", "exit 1")
    born = psutil.Process(town.started("a", 2)).create_time()
    eventually(lambda: time.time() - born > 2.1, what="the window has passed")
    town.order("a", "exit 1")
    town.started("a", 3)
    assert town.state("x") == "up"


def test_failing_starts_after_a_crash_are_retried_and_counted(town):
    # Of any number that a slow machine makes of them; where the limit is, the next test says.
    town.configure(sup("x", service("a", "failing"), intensity=10_000, period_s=600))
    town.wait_state("x", "down")  # a first start that fails ends the start of its supervisor
    assert town.steps() == ["!a"]
    (town.folder / "a.good").touch()
    assert town.child("restart", "x") == "ok"
    town.started("a")
    (town.folder / "a.good").unlink()
    town.order("a", "exit 1")
    eventually(lambda: town.steps().count("!a") >= 4, what="retried")
    (town.folder / "a.good").touch()
    town.started("a", 2)
    eventually(lambda: town.state("a") == "up", what="up again")
    failed = town.steps().count("!a") - 1
    assert failed >= 3 and town.node("a")["restarts"] == failed + 1


def test_a_start_that_always_fails_is_tried_as_often_as_intensity_says(town):
    town.configure(sup("x", service("a", "failing"), intensity=3, period_s=60))
    town.wait_state("x", "down")
    (town.folder / "a.good").touch()
    assert town.child("restart", "x") == "ok"
    town.started("a")
    (town.folder / "a.good").unlink()
    town.order("a", "exit 1")
    town.wait_state("x", "down")
    assert town.steps() == ["!a", "+a", "!a", "!a", "!a"]


# --- start, stop and strategies ------------------------------------------------------------------


def test_start_in_order_each_when_the_one_before_is_ready_and_stop_in_reverse(town):
    town.configure(sup("x", service("c", "slow"), service("a"), service("b")))
    eventually(lambda: town.steps() == ["~c"], what="c is about to start")
    assert town.state("c") == "starting" and town.node("a")["pid"] is None
    town.order("c", "go")
    town.started("b")
    assert town.change()["stopped"] == ["x"]
    town.wait_steps("~c", "+c", "+a", "+b", "-b", "-a", "-c")


def test_a_child_that_fails_to_start_stops_its_predecessors_in_reverse(town):
    town.configure(sup("x", service("a"), service("b"), service("bad", "failing"), service("d")))
    town.wait_state("x", "down")
    assert town.steps() == ["+a", "+b", "!bad", "-b", "-a"]
    assert town.node("x")["reason"] == "bad: exit status 3"


def test_a_child_that_hangs_in_its_start_is_killed_and_has_failed(town):
    town.configure(sup("x", service("a"), service("b", "slow", "deaf", ready_s=0.3)))
    town.wait_state("x", "down")
    assert town.node("x")["reason"] == "b: time-out"
    assert [step for step in town.steps() if step != "~b"] == ["+a", "-a"]
    eventually(lambda: not processes_naming(str(town.folder)), what="nothing is left")


def test_one_for_one_moves_no_sibling(town):
    town.configure(sup("x", service("a"), service("b"), intensity=5))
    pid = town.started("a")
    town.started("b")
    town.order("b", "exit 1")
    town.started("b", 2)
    assert town.node("a")["pid"] == pid


def test_one_for_all_stops_in_reverse_starts_in_order_and_counts_once(town):
    town.configure(
        sup("x", service("a"), service("b"), service("c"), strategy="one_for_all", intensity=1)
    )
    town.started("c")
    town.order("b", "exit 1")
    town.wait_steps("+a", "+b", "+c", "-c", "-a", "+a", "+b", "+c")
    assert town.state("x") == "up"


def test_rest_for_one_leaves_the_earlier_ones_alone(town):
    town.configure(sup("x", *(service(id) for id in "abcd"), strategy="rest_for_one", intensity=1))
    town.started("d")
    town.order("b", "kill 9")
    town.wait_steps("+a", "+b", "+c", "+d", "-d", "-c", "+b", "+c", "+d")


def test_a_temporary_sibling_is_a_casualty_that_does_not_come_back(town):
    town.configure(
        sup(
            "x",
            service("a"),
            service("t", restart="temporary"),
            service("c"),
            strategy="one_for_all",
            intensity=1,
        )
    )
    town.started("c")
    town.order("a", "exit 1")
    town.wait_steps("+a", "+t", "+c", "-c", "-t", "+a", "+c")
    assert town.node("t") is None


def test_shutdown_by_deadline_kill_and_infinity(town):
    town.configure(
        sup(
            "x",
            service("patient", "late", shutdown_s="infinity"),
            service("brutal", shutdown_s="kill"),
            service("deaf", "deaf", shutdown_s=0.2),
            service("good", shutdown_s=30),
        )
    )
    pids = [town.started(id) for id in ("patient", "brutal", "deaf", "good")]
    town.change()
    started = ["+patient", "+brutal", "+deaf", "+good"]
    town.wait_steps(*started, "-good", "-patient")  # the others say no goodbye
    eventually(lambda: [alive(pid) for pid in pids] == [True] + [False] * 3, what="one is left")
    town.order("patient", "bye")
    eventually(lambda: not alive(pids[0]), what="it has gone")


# --- restart types -------------------------------------------------------------------------------

ENDS = {"normal": "exit 0", "abnormal": "exit 1", "killed": "kill 9", "fault": "kill 11"}


def test_permanent_transient_and_temporary_after_each_kind_of_end(town):
    kinds = ("permanent", "transient", "temporary")
    children = [service(f"{kind}-{end}", restart=kind) for kind in kinds for end in ENDS]
    town.configure(sup("x", *children, intensity=50))
    for child in children:
        town.started(child["id"])
    for child in children:
        town.order(child["id"], ENDS[child["id"].rpartition("-")[2]])
    for kind, end in [(k, e) for k in kinds for e in ENDS]:
        if kind == "permanent" or (kind == "transient" and end != "normal"):
            town.started(f"{kind}-{end}", 2)
    town.wait_state("transient-normal", "down")
    assert town.node("transient-normal")["reason"] == "normal"
    eventually(lambda: len(town.node("x")["children"]) == 8, what="the temporary ones are gone")
    assert len(town.story()) == len(children) + 7
    assert town.child("count", "x") == {"specs": 8, "active": 7, "supervisors": 0, "workers": 8}


def test_statuses_that_have_a_meaning_for_actors_have_none_for_services(town):
    """71 would be started again for ever and never counted, 72 would sleep, 74 never start."""
    town.configure(sup("x", service("a"), intensity=4, period_s=60))
    for n, status in enumerate((70, 71, 72, 74), 1):
        town.started("a", n)
        town.order("a", f"exit {status}")
    town.started("a", 5)
    assert town.node("a")["restarts"] == 4


@pytest.mark.parametrize(
    ("restart", "after"), [("permanent", "up"), ("transient", "down"), ("temporary", None)]
)
def test_an_inner_supervisor_that_gives_up(town, restart, after):
    town.configure(sup("x", service("b"), sup("inner", service("a"), intensity=0, restart=restart)))
    town.started("a")
    pid = town.node("b")["pid"]
    town.order("a", "exit 1")
    if after == "up":
        town.started("a", 2)
    town.wait_state("inner", after)
    assert town.node("b")["pid"] == pid and town.state("x") == "up"


def test_a_restart_inside_an_inner_supervisor_stays_inside(town):
    inner = sup("inner", service("b"), service("c"), strategy="one_for_all", intensity=2)
    town.configure(sup("x", service("a"), inner, strategy="one_for_all", intensity=0))
    town.started("c")
    town.order("b", "exit 1")
    town.wait_steps("+a", "+b", "+c", "-c", "+b", "+c")
    assert town.node("x")["restarts"] == town.node("inner")["restarts"] == 0


def test_trees_that_come_back_for_ever_end_the_services_but_not_the_daemon(town):
    """A permanent tree is restarted by `services`, until that gives up: its word is the last."""
    town.configure(sup("wild", service("a"), intensity=0, restart="permanent"), sup("y"))
    hub = town.node("hub")["pid"]
    n = 1
    while town.state("services") == "up":
        if n <= sum(line.startswith("+a ") for line in town.story()):
            town.order("a", "exit 1")
            n += 1
        assert n < 60
    assert town.state("services") == "down" and n > 10
    assert town.node("hub")["pid"] == hub and town.state("sessions") == "up"
    assert town.child("restart", "services") == "ok"
    town.started("a", n)


# --- significant children ------------------------------------------------------------------------


def significant(id: str, restart: str = "transient"):
    return service(id, restart=restart, significant=True)


def test_any_significant_by_its_own_end_only(town):
    town.configure(sup("x", service("a"), significant("s"), auto_shutdown="any_significant"))
    town.started("s")
    town.order("s", "exit 1")
    town.started("s", 2)
    assert town.child("terminate", "s") == "ok"
    assert town.state("x") == "up"
    assert town.child("restart", "s") == "ok"
    town.started("s", 3)
    town.order("s", "exit 0")
    town.wait_state("x", "down")
    assert town.node("x")["reason"] == "significant child s has ended"
    assert town.steps()[-1] == "-a"


def test_all_significant_the_last_one_ends_it(town):
    town.configure(
        sup("x", significant("s"), significant("t", "temporary"), auto_shutdown="all_significant")
    )
    town.started("t")
    town.order("t", "exit 1")
    eventually(lambda: town.node("t") is None, what="t is gone")
    assert town.state("x") == "up"
    town.order("s", "exit 0")
    town.wait_state("x", "down")


# --- calls ---------------------------------------------------------------------------------------


def test_the_calls_answer_as_in_otp(town):
    town.configure(sup("x", service("a"), service("b")))
    town.started("b")
    for call, answer in (
        ("terminate", "ok"),
        ("terminate", "ok"),
        ("start", "already_present"),
        ("delete", "ok"),
        ("start", "ok"),
        ("restart", "running"),
        ("delete", "running"),
        ("terminate", "ok"),
        ("restart", "ok"),
        ("restart", "running"),
    ):
        assert (call, town.child(call, "a")) == (call, answer)
    assert [town.child(call, "zz") for call in ("start", "terminate", "restart", "delete")] == [
        "not_found"
    ] * 4
    assert town.child("start", "a") == "already_started"
    which = town.child("which", "x")
    assert [row["id"] for row in which] == ["a", "b"]  # newest first: a was started anew
    assert which[0]["pid"] == town.node("a")["pid"] and which[0]["type"] == "worker"
    assert town.child("count", "x") == {"specs": 2, "active": 2, "supervisors": 0, "workers": 2}
    assert town.child("which", "a") == "not_a_supervisor"
    assert town.loomctl("child", "delete", "a")[0] == 1
    assert town.loomctl("child", "terminate", "a")[0] == 0


def test_a_child_that_cannot_start_answers_why_and_can_be_given_up_at_once(town):
    town.configure(sup("x", service("a", "failing"), service("b"), intensity=1000, period_s=60))
    town.wait_state("x", "down")
    (town.folder / "a.good").touch()
    assert town.child("restart", "x") == "ok"
    town.started("b")
    (town.folder / "a.good").unlink()
    town.order("a", "exit 1")
    eventually(lambda: town.steps().count("!a") > 3, what="it is retried")
    assert town.child("restart", "a") in ("restarting", "running")
    assert town.child("start", "a") in ("already_present", "already_started")
    assert town.child("terminate", "a") == "ok"
    count = town.steps().count("!a")
    assert town.child("restart", "a") == "exit status 3"
    assert town.steps().count("!a") == count + 1 and town.state("b") == "up"


def test_who_was_terminated_stays_down_over_its_siblings_and_the_hub(town):
    town.configure(
        sup("x", service("a"), service("b"), service("c"), strategy="one_for_all", intensity=1)
    )
    town.started("c")
    assert town.child("terminate", "b") == "ok"
    town.order("a", "exit 1")
    town.started("c", 2)
    hub = town.ask("daemon", "status")["hub_pid"]
    assert town.loomctl("kill", "hub")[0] == 0
    eventually(lambda: town.ask("daemon", "status")["hub_pid"] != hub, what="another hub")
    assert town.state("b") == "down" and town.node("b")["reason"] == "terminated"
    assert town.child("restart", "b") == "ok"
    town.started("b", 2)


def test_a_supervisor_is_a_child_like_any_other(town):
    town.configure(sup("x", sup("inner", service("a"), service("b")), service("c")))
    town.started("c")
    assert town.child("terminate", "inner") == "ok"
    assert town.steps() == ["+a", "+b", "+c", "-b", "-a"]
    assert town.child("count", "x") == {"specs": 2, "active": 1, "supervisors": 1, "workers": 1}
    assert town.child("restart", "inner") == "ok"
    assert town.loomctl("restart", "inner")[0] == 0  # in order, while it runs
    eventually(lambda: town.steps()[5:] == ["+a", "+b", "-b", "-a", "+a", "+b"], what="anew")


def test_the_daemons_own_are_not_to_be_done_without(town):
    for id in ("hub", "template"):
        code, out, err = town.loomctl("child", "terminate", id)
        assert (code, out) == (2, "") and "cannot do without" in err
    for id in ("services", "sessions"):  # deleted, they would come back as the daemon began
        assert town.child("terminate", id) == "ok"
        code, out, err = town.loomctl("child", "delete", id)
        assert (code, out) == (2, "") and "cannot do without" in err
        assert town.child("restart", id) == "ok"


def test_the_supervisors_of_a_session_are_the_sessions_own(town):
    """Its actors are wanted by the state: what runs them cannot be ended beside that."""
    session = town.ask("new", "--repo", str(town.instance.base))["session"]
    town.wait_state(f"{session}/team", "up")
    before = town.node(f"{session}/team")["pid"]
    for id in (session, f"{session}/agents", f"{session}/keepers"):
        code, out, err = town.loomctl("child", "terminate", id)
        assert (code, out) == (2, "") and f"loomctl stop {session}" in err
    assert town.node(f"{session}/team")["pid"] == before
    town.run("stop", session)
    town.run("rm", session)


def test_the_older_output_of_one_is_no_output_of_another(town):
    town.configure(sup("x", service("gemma-3", log_mb=0.001), service("gemma-3.1")))
    town.started("gemma-3.1")
    town.order("gemma-3.1", "shout 10")
    eventually(
        lambda: town.loomctl("logs", "gemma-3.1", "-n", "1")[1] == "done\n", what="it has spoken"
    )
    kept = town.loomctl("logs", "gemma-3.1")
    town.order("gemma-3", "shout 10000")
    eventually(
        lambda: town.loomctl("logs", "gemma-3", "-n", "1")[1] == "done\n", what="so has the other"
    )
    assert town.loomctl("logs", "gemma-3.1") == kept


# --- reload --------------------------------------------------------------------------------------


def test_a_reload_moves_only_what_has_changed(town):
    town.configure(
        sup("x", service("a"), service("b"), service("c"), intensity=1), sup("old", service("d"))
    )
    pids = {id: town.started(id) for id in "abcd"}
    answer = town.change(
        sup("x", service("a"), service("b", "late"), service("e"), intensity=7),
        sup("new", service("f", shutdown_s=1)),
    )
    assert {key: answer[key] for key in ("started", "stopped", "restarted", "updated")} == {
        "started": ["e", "new"],
        "stopped": ["old", "c"],
        "restarted": ["b"],
        "updated": ["x"],
    }
    for id in "ef":
        town.started(id)
    town.started("b", 2)
    assert town.node("a")["pid"] == pids["a"] and town.node("x")["intensity"] == 7
    eventually(lambda: not alive(pids["c"]) and not alive(pids["d"]), what="they are gone")
    answer = town.change(
        sup("x", service("a"), service("b", "late"), service("e"), intensity=7),
        sup("new", service("f", shutdown_s=2)),
    )
    assert answer["changed"] == answer["updated"] == ["f"]
    town.order("b", "exit 0")  # not to be waited for at the end


def test_a_faulty_configuration_changes_nothing_and_says_why(town):
    town.configure(sup("x", service("a")))
    pid = town.started("a")
    good = town.instance.config.read_text()
    town.instance.config.write_text(good.replace('"line:^up$"', '"lines:up"'))
    line = good[: good.index("ready")].count("\n") + 1
    code, out, err = town.loomctl("reload", "config")
    assert (code, out) == (8, "")
    assert f"{town.instance.config}:{line}: supervisor.child.ready: must be" in err
    code, out, _ = town.loomctl("--json", "reload", "all")
    answer = json.loads(out)
    assert (code, answer["errors"][0]["module"], answer["changed"]) == (8, "config", [])
    town.instance.config.unlink()
    code, _, err = town.loomctl("reload", "config")
    assert code == 8 and "No such file" in err
    assert town.node("a")["pid"] == pid
    town.instance.config.write_text(good + "[limits]\niterations = 7\n")
    answer = town.ask("reload", "config")
    assert answer["restart_needed"] == ["limits"] and answer["changed"] == []


def test_a_reload_says_who_is_kept_down(town):
    town.configure(sup("x", service("a")), sup("y", service("b")))
    town.started("a")
    assert town.child("terminate", "x") == "ok"
    answer = town.change(sup("x", service("a"), service("c")), sup("y", service("b"), service("d")))
    assert (answer["started"], answer["held"]) == (["d"], ["c"])
    assert (town.started("d") > 0, town.state("x")) == (True, "down")
    assert town.child("restart", "x") == "ok"
    town.started("c")


# --- life of a process ---------------------------------------------------------------------------


def test_everything_that_a_service_has_started_dies_with_it(town):
    town.configure(sup("x", service("a", "deaf", shutdown_s=0.1)))
    pid = town.started("a")
    town.order("a", "brood")
    files = [town.folder / name for name in ("daemon", "child")]
    eventually(lambda: all(file.exists() for file in files), what="its brood runs")
    below = [int(file.read_text()) for file in files]
    assert town.child("terminate", "a") == "ok"
    eventually(lambda: not any(map(alive, [pid, *below])), what="all of them are gone")


def test_output_is_capped_and_read_with_logs(town):
    town.configure(sup("x", service("a", log_mb=0.1)))
    town.started("a")
    town.order("a", f"shout {2 << 20}")
    eventually(lambda: town.loomctl("logs", "a", "-n", "1")[1] == "done\n", what="the last line")
    sizes = {path.name: path.stat().st_size for path in town.instance.places.output.glob("a*")}
    assert sizes.keys() == {"a", "a~"} and all(0 < size <= 104858 for size in sizes.values())
    assert "\x1b" not in town.loomctl("logs", "a")[1]
    lines = town.ask("logs", "a", "-n", "2")
    assert len(lines) == 2 and lines[-1] == "done"
    code, _, err = town.loomctl("logs", "nobody")
    assert code == 2 and "nobody has written nothing" in err


def test_a_service_does_not_notice_an_upgrade_of_the_daemon(town):
    town.configure(
        sup(
            "x",
            service("a"),
            service("b"),
            service("c", "slow", ready_s=100),  # an upgrade of a busy machine lies in between
            strategy="one_for_all",
        )
    )
    pids = [town.started("a"), town.started("b")]
    assert town.child("terminate", "b") == "ok"
    eventually(lambda: "~c" in town.steps(), what="c is about to start")
    town.order("a", "say before")
    code, out, err = town.loomctl("daemon", "upgrade")
    assert code == 0, out + err
    town.order("a", "say after")
    eventually(lambda: town.ask("logs", "a", "-n", "2") == ["before", "after"], what="both lines")
    assert town.node("a")["pid"] == pids[0] and town.state("b") == "down"
    town.order("c", "go")  # its monitor still waits for its line
    eventually(lambda: town.state("x") == "up", what="all are up")
    town.order("a", "exit 1")
    eventually(lambda: town.steps().count("~c") == 2, what="c is about to start again")
    town.order("c", "go")
    town.started("c", 2)
    assert town.state("b") == "down"


def test_a_service_that_takes_too_much_memory_has_crashed(town):
    town.configure(sup("x", service("a", memory_mb=64), service("b", memory_mb=0), intensity=1))
    pid = town.started("a")
    town.started("b")
    town.order("b", "eat 200")
    town.order("a", "eat 200")
    town.started("a", 2)
    assert not alive(pid) and town.node("a")["restarts"] == 1
    assert town.node("b")["restarts"] == 0


def test_a_service_backs_off_when_it_is_told_to(town):
    town.configure(
        sup("x", service("a", backoff_s=300, backoff_max_s=600), service("b"), intensity=9)
    )
    town.started("b")
    town.order("a", "exit 1")
    town.wait_state("a", "waiting")
    assert town.child("which", "x")[1]["pid"] == "restarting"
    assert town.loomctl("restart", "a")[0] == 0  # a person does not wait
    town.started("a", 2)


def test_a_service_has_no_key_of_the_daemons(town):
    town.configure(sup("x", service("a", env={"OWN": "1"})))
    pid = town.started("a")
    names = {word.split(b"=")[0].decode() for word in _environ(pid).split(b"\0") if word}
    assert {"OWN", "PATH"} <= names
    assert not {"LOOM_KEYS_FD", "NOTIFY_SOCKET", "PYTEST_CURRENT_TEST"} & names
    assert os.getsid(pid) == pid
    os.kill(pid, signal.SIGTERM)  # by somebody else: an end like any other, it is permanent
    town.started("a", 2)


def _environ(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read()
