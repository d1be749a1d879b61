"""No process escapes: by cgroups where this machine lets us have some, and without them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from loomd.supervise import cgroup, kernel
from loomd.supervise.brood import Hunt
from loomd.supervise.memory import MemoryWatch
from loomd.supervise.sweep import noted_cgroup
from tests.supervise.test_root import TEMPLATE, Rooted, alive
from tests.support import BOUND_S, describe, eventually


def _usable() -> str:
    """Why there can be no cgroups here; "" if there can."""
    probe = (
        "from loomd.supervise.cgroup import Cgroups\nmade = Cgroups.create()\nassert made.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    return done.stderr.strip().rpartition("\n")[2]


WHY_NOT = _usable()
BOTH = pytest.mark.parametrize(
    "cgroups",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(bool(WHY_NOT), reason=f"no cgroup: {WHY_NOT}")),
    ],
    ids=["walk", "cgroup"],
)
needs_cgroups = pytest.mark.skipif(bool(WHY_NOT), reason=f"no cgroup: {WHY_NOT}")


@pytest.fixture
def rooted():
    with tempfile.TemporaryDirectory(prefix="loom-root-", dir="/tmp") as base:
        made = Rooted(Path(base))
        try:
            yield made
        finally:
            if left := noted_cgroup(made.base):  # nothing, but of a test that has failed
                cgroup.Leaf(left).kill()
            made.close()
            if left:
                cgroup.remove(left)


def base_of(rooted: Rooted) -> str:
    """The folder of its cgroups. Others' daemons may have theirs beside it."""
    return eventually(lambda: noted_cgroup(rooted.base), what="its cgroup is noted")


def command(id: str, text: str, *args: str, **more):
    """A command: a Python program."""
    start = {"command": [sys.executable, "-c", text, *args], "ready": "none"}
    return {"id": id, "start": start, **more}


def pids(path: Path, n: int) -> list[int]:
    """What has been written there, one pid a line, once there are n."""

    def whole() -> list[int]:
        text = path.read_text() if path.exists() else ""
        lines = text.splitlines() if text.endswith("\n") else []
        return [int(line) for line in lines] if len(lines) >= n else []

    return eventually(whole, what=f"{n} pids in {path}")


ESCAPES = """
import os, signal, sys
def tell(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
def stubborn():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    tell(sys.argv[1])
    while True:
        signal.pause()
def daemon(live):
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            live()
        os._exit(0)
    os.waitpid(middle, 0)
def unmarked():
    tell(sys.argv[1])
    os.execve(sys.executable, [sys.executable, "-c", "import signal; signal.pause()"], {})
if os.fork() == 0:
    stubborn()
if os.fork() == 0:
    os.setsid()
    stubborn()
daemon(stubborn)
daemon(unmarked)
tell(sys.argv[1] + ".main")
while True:
    signal.pause()
"""


@BOTH
def test_whatever_a_command_leaves_is_dead_before_its_successor_starts(rooted, cgroups):
    told, main = rooted.base / "told", rooted.base / "told.main"
    rooted.start(command("a", ESCAPES, str(told)), cgroups=cgroups)
    first = pids(told, 4)
    os.kill(pids(main, 1)[0], signal.SIGKILL)
    pids(main, 2)
    assert not any(alive(pid) for pid in first)
    second = pids(told, 8)[4:]
    assert rooted.stop() == 0
    assert not any(alive(pid) for pid in second)
    assert not rooted.lines("cgroup_left") and not rooted.lines("undead")
    if not cgroups:  # else their cgroup has ended them
        logged = {pid for line in rooted.lines("orphans_killed") for pid in line["pids"]}
        assert logged & set(first) and logged & set(second)


CROWD = """
import os, signal, sys
for _ in range(600):
    if os.fork() == 0:
        signal.pause()
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
signal.pause()
"""


TELLS = """
import os, signal, sys
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
signal.pause()
"""


@BOTH
def test_the_root_needs_no_descriptor_for_each_of_a_crowd(rooted, cgroups):
    """A command that forks without end is its own matter: the root has 400 descriptors here."""
    told, other = rooted.base / "told", rooted.base / "other"
    rooted.start(command("a", CROWD, str(told)), command("b", TELLS, str(other)), cgroups=cgroups)
    first = pids(told, 1)[0]
    crowd = [child.pid for child in psutil.Process(first).children()]
    assert len(crowd) == 600
    bystander = pids(other, 1)[0]
    resource.prlimit(rooted.process.pid, resource.RLIMIT_NOFILE, (400, 400))
    os.kill(first, signal.SIGKILL)
    pids(told, 2)
    assert not any(alive(pid) for pid in crowd)
    assert alive(bystander) and len(pids(other, 1)) == 1
    assert rooted.stop() == 0
    assert not rooted.lines("cgroup_left")


def test_a_child_for_which_there_is_no_descriptor_could_not_start(rooted):
    """It is tried again like any other; the root lives on."""
    told = rooted.base / "told"
    rooted.start(command("a", TELLS, str(told)), intensity=1_000_000)  # it tries without a pause
    first = pids(told, 1)[0]
    root = rooted.process.pid
    before = resource.prlimit(root, resource.RLIMIT_NOFILE)
    resource.prlimit(root, resource.RLIMIT_NOFILE, (3, before[1]))
    os.kill(first, signal.SIGKILL)
    rooted.wait_line("no_link", name="a")
    resource.prlimit(root, resource.RLIMIT_NOFILE, before)
    pids(told, 2)
    assert rooted.stop() == 0


@BOTH
def test_a_helper_in_the_background_lives_as_long_as_its_owner(rooted, cgroups):
    told, main = rooted.base / "told", rooted.base / "told.main"
    rooted.start(
        command("a", ESCAPES, str(told)),
        command("b", "print(1)", restart="temporary"),
        TEMPLATE,
        rooted.toy("c"),
        cgroups=cgroups,
    )
    everyone = pids(told, 4)
    helpers = eventually(
        lambda: found if len(found := [p for p in everyone if not _cleared(p)]) == 3 else [],
        what="three with their mark, and one without",
    )
    os.kill(rooted.wait_started("c"), signal.SIGKILL)  # its death is nothing to them
    rooted.wait_started("c", 2)
    assert all(alive(pid) for pid in helpers)  # only who is nobody's is killed at once
    below = kernel.children_of(pids(main, 1)[0])
    (adopted,) = set(helpers) - set(below)  # whose parent has gone: the root is it now
    for pid in helpers:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(adopted), what="it has left no zombie")
    assert alive(pids(main, 1)[0])
    assert rooted.stop() == 0


def _cleared(pid: int) -> bool:
    try:
        return b"LOOM_OWNER" not in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return True


RUNNER = """
import os, signal, sys
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork():
                os._exit(0)  # never the same process for long
if os.fork() == 0:
    while True:
        if os.fork() == 0:
            signal.pause()
        if len(open(f"/proc/self/task/{os.getpid()}/children").read().split()) > 40:
            signal.pause()
while True:
    signal.pause()
"""


@BOTH
def test_what_forks_while_it_is_killed_is_caught_too(rooted, cgroups):
    told = rooted.base / "told"
    rooted.start(
        command("a", RUNNER, str(told), restart="temporary"),
        TEMPLATE,
        rooted.toy("b"),
        cgroups=cgroups,
    )
    rooted.wait_started("b")
    os.kill(pids(told, 1)[0], signal.SIGKILL)
    rooted.wait_line("exited", name="a")
    assert not [said for said in describe(rooted.left()) if RUNNER in said]
    assert rooted.stop() == 0


def test_a_hunt_ends_what_stands_below_and_nobody_beside():
    nap = [sys.executable, "-c", "import signal; signal.pause()"]
    shell = f"'{nap[0]}' -c '{nap[2]}' & '{nap[0]}' -c '{nap[2]}'"
    with subprocess.Popen(["sh", "-c", shell]) as one, subprocess.Popen(nap) as other:
        below = eventually(
            lambda: found if len(found := kernel.children_of(one.pid)) == 2 else [], what="two"
        )
        hunt = Hunt()
        while not hunt.round([one.pid]):
            assert set(hunt.held) <= {one.pid, *below}
        assert set(hunt.held) == {one.pid, *below}
        assert one.wait() == -signal.SIGKILL
        eventually(lambda: not any(map(alive, below)), what="what stood below is dead")
        assert other.poll() is None
        other.kill()


def test_a_start_time_tells_a_process_from_its_namesake():
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        now = kernel.stat_of(process.pid)
        assert now is not None
        assert not kernel.signal_exactly(process.pid, now.start + 1, signal.SIGKILL)
        assert process.poll() is None
        assert kernel.signal_exactly(process.pid, now.start, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not kernel.signal_exactly(process.pid, now.start, signal.SIGKILL)


# --- cgroups -------------------------------------------------------------------------------------


def _leaf(pid: int) -> str:
    return os.path.basename(cgroup.cgroup_of(pid))


@needs_cgroups
def test_every_incarnation_has_a_cgroup_of_its_own_and_none_is_left(rooted):
    rooted.start(
        TEMPLATE,
        rooted.toy("a"),
        rooted.toy("b"),
        command("c", "import signal; signal.pause()"),
        cgroups=True,
    )
    rooted.wait_line("ready")
    base = base_of(rooted)
    births = {line["name"]: line for line in rooted.lines("started")}
    root = [str(rooted.process.pid)]
    eventually(
        lambda: Path(base, "root/cgroup.procs").read_text().split() == root, what="root alone"
    )
    leaves = {name: f"{base}/{_leaf(births[name]['pid'])}" for name in ("a", "b")}
    for name, leaf in leaves.items():
        assert Path(leaf, "cgroup.procs").read_text().split() == [str(births[name]["pid"])]
    (service,) = [path for path in cgroup.below(base) if "/c#" in path]
    assert len(Path(service, "cgroup.procs").read_text().split()) == 1
    assert str(births["template"]["pid"]) in Path(base, "births/cgroup.procs").read_text().split()
    os.kill(births["a"]["pid"], signal.SIGKILL)
    rooted.wait_started("a", 2)
    eventually(lambda: not Path(leaves["a"]).exists(), what="the cgroup of the dead is removed")
    # root, births, a, b, c and two spares
    eventually(lambda: len(cgroup.below(base)) == 7, what="no other")
    assert rooted.stop() == 0
    assert not Path(base).exists()


@needs_cgroups
def test_a_stopped_process_in_a_cgroup_of_its_own_making_dies_with_its_owner(rooted):
    """Below the leaf somebody has made another, and moved a stopped process there."""
    told = rooted.base / "told"
    rooted.start(command("a", ESCAPES, str(told), restart="temporary"), cgroups=True)
    main = pids(rooted.base / "told.main", 1)[0]
    helper = pids(told, 4)[0]
    base = base_of(rooted)
    (leaf,) = [path for path in cgroup.below(base) if "#" in path]
    os.mkdir(f"{leaf}/inner")
    Path(leaf, "inner/cgroup.procs").write_text(str(helper))
    os.kill(helper, signal.SIGSTOP)
    os.kill(main, signal.SIGKILL)
    rooted.wait_line("exited", name="a")
    assert not alive(helper)
    eventually(lambda: not Path(leaf).exists(), what="its cgroups are removed")
    assert rooted.stop() == 0


FREEZER = Path("/sys/fs/cgroup/freezer")


@pytest.mark.skipif(
    not os.access(FREEZER / "cgroup.procs", os.W_OK), reason="no freezer of cgroup v1 to write to"
)
@BOTH
def test_who_cannot_die_does_not_keep_the_tree_from_going_on(rooted, cgroups):
    """In that freezer a process does not even take SIGKILL: like one that waits for a lost disk."""
    ice = FREEZER / f"loom-test-{os.getpid()}"
    ice.mkdir()
    try:
        told, main = rooted.base / "told", rooted.base / "told.main"
        rooted.start(TEMPLATE, command("a", ESCAPES, str(told)), rooted.toy("b"), cgroups=cgroups)
        rooted.wait_started("b")
        helper = next(pid for pid in pids(told, 4) if not _cleared(pid))
        (ice / "cgroup.procs").write_text(str(helper))
        (ice / "freezer.state").write_text("FROZEN")
        os.kill(pids(main, 1)[0], signal.SIGKILL)
        pids(main, 2)
        assert rooted.wait_line("undead")["level"] == "error"
        assert psutil.pid_exists(helper)
        os.kill(rooted.wait_started("b"), signal.SIGKILL)  # once is enough to wait for it
        rooted.wait_started("b", 2)
        assert len(rooted.lines("undead")) == 1
        (ice / "freezer.state").write_text("THAWED")
        eventually(lambda: not psutil.pid_exists(helper), what="it is dead and reaped")
        assert rooted.stop() == 0
    finally:
        (ice / "freezer.state").write_text("THAWED")
        eventually(lambda: _rmdir(ice), what="the freezer's cgroup is removed")


def _rmdir(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:
        return False
    return True


def test_limits_and_the_kernels_kills_are_read_and_written_where_they_are_offered(tmp_path):
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
    for name in names:
        (tmp_path / name).write_text("")
    leaf = cgroup.Leaf(str(tmp_path))
    leaf.limit(64 << 20, 100)
    assert [(tmp_path / name).read_text() for name in names] == ["67108864", "0", "1", "100"]
    assert leaf.oom_kills() == 0
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\n")
    assert leaf.oom_kills() == 2


# --- memory --------------------------------------------------------------------------------------


@BOTH
def test_who_holds_too_much_is_killed_and_what_it_had_in_hand_is_blamed(rooted, cgroups):
    rooted.start(
        TEMPLATE,
        rooted.hub_spec(),
        rooted.toy("a", "grow_in_step", mb=80),
        rooted.toy("b", "hold", mb=80, memory_mb=200),
        memory_mb=64,
        heartbeat_s=BOUND_S,  # it is not to be killed because it hangs
        cgroups=cgroups,
    )
    note = rooted.wait_note("exited", name="a")
    assert note["reason"] == "memory" and note["signal"] == signal.SIGKILL
    assert note["blame"] == {"kind": "mail", "lane": 1, "seq": 5}
    line = rooted.wait_line("over_memory", name="a")
    assert line["limit_mb"] == 64 and line["mb"] >= 64
    assert not rooted.lines("over_memory", name="b")


def test_an_idle_child_is_not_looked_at_twice():
    watch = MemoryWatch()
    assert watch.due("a", 1, 0, idle=True)
    assert not watch.due("a", 1, 0, idle=True)
    assert watch.due("a", 1, 1, idle=True)  # it has begun something since
    assert watch.due("a", 1, 1, idle=False) and watch.due("a", 1, 1, idle=False)
    assert watch.due("a", 2, 1, idle=True)  # another incarnation
    watch.forget("a")
    assert watch.due("a", 2, 1, idle=True)
