"""Services under a real root: births, readiness, output, and ends with everything below them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from typing import Any

import psutil

from tests.supervise.test_root import REPO, alive, group, rooted
from tests.support import BOUND_S, eventually

__all__ = ["rooted"]  # the fixture

PROGRAM = str(REPO / "tests/children/service.py")


def service(rooted: Any, id: str, *words: str, **more: Any) -> dict[str, Any]:
    fields = {"shutdown_s": BOUND_S} | {
        k: more.pop(k) for k in ("restart", "shutdown_s", "backoff_s") if k in more
    }
    command = [sys.executable, PROGRAM, str(rooted.folder), id, *words]
    return {
        "id": id,
        **fields,
        "start": {"service": True, "command": command, "ready_s": BOUND_S, **more},
    }


def order(rooted: Any, name: str, text: str) -> None:
    (rooted.folder / name).write_text(text + "\n")


def started(rooted: Any, name: str, n: int = 1) -> int:
    """The pid of the n-th incarnation that lives by its own word."""

    def lives() -> list[str]:
        return [line for line in rooted.read("story").splitlines() if line.startswith(f"+{name} ")]

    return int(eventually(lambda: lives()[n - 1 : n], what=f"start {n} of {name}")[0].split()[1])


def monitors(rooted: Any) -> list[psutil.Process]:
    assert rooted.process is not None
    found = []
    for child in psutil.Process(rooted.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just been reaped
            if child.name().startswith("log:"):
                found.append(child)
    return found


def test_ready_by_notification_port_line_and_at_once(rooted):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    rooted.start(
        service(rooted, "note", ready="notify"),
        service(rooted, "port", ready=f"tcp:127.0.0.1:{port}"),
        service(rooted, "line", ready="line:^serving [0-9]+$"),
        service(rooted, "once"),
    )
    started(rooted, "note")
    assert not rooted.lines("started")
    order(rooted, "note", "notify READY=0")
    order(rooted, "note", "notify READY=1")
    rooted.wait_started("note")
    started(rooted, "port")
    order(rooted, "port", f"listen {port}")
    rooted.wait_started("port")
    started(rooted, "line")
    order(rooted, "line", "say serving soon")
    order(rooted, "line", "say serving 12")
    rooted.wait_started("line")
    rooted.wait_started("once")
    started(rooted, "once")
    rooted.wait_line("ready")
    assert rooted.stop() == 0
    story = [line for line in rooted.read("story").splitlines() if line.startswith("-")]
    assert story == ["-once", "-line", "-port", "-note"]


def test_a_service_that_is_not_ready_in_time_has_failed_to_start(rooted):
    rooted.start(
        service(rooted, "a", ready="line:^up$"), service(rooted, "b", ready="notify", ready_s=0.2)
    )
    line = rooted.wait_line("start_error", name="b")
    assert line["reason"] == "time-out"
    assert rooted.wait() == 1 and rooted.read("story").splitlines()[-1] == "-a"


def test_a_program_that_is_not_there_has_failed_to_start_and_says_so(rooted):
    rooted.start({"id": "a", "start": {"service": True, "command": ["no-such-program"]}})
    said = "cannot execute no-such-program: No such file or directory"
    assert rooted.wait_line("start_error", name="a")["reason"] == said
    assert rooted.wait() == 1


def test_a_program_that_ends_at_once_had_started(rooted):
    """Not OTP's `ignore`: a permanent child that ends normally is restarted, and counted."""
    rooted.start({"id": "a", "start": {"service": True, "command": ["true"]}}, intensity=2)
    assert rooted.wait() == 1
    assert len(rooted.lines("started")) == 3
    assert rooted.lines("gave_up")[0]["reason"] == "too many restarts: a: normal"


def test_statuses_that_mean_something_to_us_are_a_services_own(rooted):
    rooted.start(service(rooted, "a"), intensity=5)
    for i, status in enumerate((70, 71, 72, 73, 74)):
        started(rooted, "a", i + 1)
        order(rooted, "a", f"exit {status}")
        line = rooted.wait_line("exited", i + 1, name="a")
        assert (line["status"], line["reason"]) == (status, f"exit status {status}")
        assert line["level"] == "warning" and line["restart"]
    started(rooted, "a", 6)
    order(rooted, "a", "exit 71")
    assert rooted.wait() == 1  # each was counted


def test_the_environment_is_what_the_config_allows_and_its_own(rooted):
    program = "import os; print(sorted(os.environ)); print(os.getcwd(), os.environ['B'])"
    rooted.start(
        {
            "id": "a",
            "restart": "transient",
            "start": {
                "service": True,
                "command": [sys.executable, "-c", program],
                "env": {"B": "own"},
                "cwd": str(rooted.folder),
            },
        },
        environment={"PATH": os.environ["PATH"], "B": "root's"},
        env={"OPENAI_API_KEY": "sk-secret", "NOTIFY_SOCKET": "/nobody"},
    )
    rooted.wait_line("exited", name="a")
    names, rest = (rooted.output / "a").read_text().splitlines()
    assert set(eval(names)) - {"LC_CTYPE"} == {"PATH", "B", "PYTHONUNBUFFERED", "LOOM_OWNER"}
    assert rest == f"{rooted.folder} own"
    rooted.stop()


def test_output_is_bounded_while_it_runs(rooted):
    rooted.start(service(rooted, "a", log_bytes=100_000))
    started(rooted, "a")
    order(rooted, "a", f"shout {4 << 20}")

    def done() -> bool:
        with contextlib.suppress(FileNotFoundError):  # just being turned over
            assert all(path.stat().st_size <= 100_000 for path in rooted.output.iterdir())
            return (rooted.output / "a").read_bytes().endswith(b"done\n")
        return False

    eventually(done, what="all of it is out")
    assert sorted(path.name for path in rooted.output.iterdir()) == ["a", "a~"]
    rooted.stop()


def test_a_dead_monitor_is_replaced_and_its_service_does_not_notice(rooted):
    rooted.start(service(rooted, "a"))
    pid = started(rooted, "a")
    rooted.wait_started("a")
    out = rooted.output / "a"
    eventually(lambda: out.exists() and "up" in out.read_text(), what="its first word")
    (monitor,) = monitors(rooted)
    monitor.kill()
    order(rooted, "a", "say one")
    rooted.wait_line("monitor_gone", name="a")
    order(rooted, "a", "say two")
    eventually(
        lambda: (rooted.output / "a").read_text() == "up\none\ntwo\n", what="nothing is lost"
    )
    assert alive(pid)
    eventually(lambda: len(monitors(rooted)) == 1, what="the dead one is reaped")
    rooted.stop()


def test_a_monitor_that_dies_before_its_service_is_ready(rooted):
    rooted.start(service(rooted, "a", ready="line:^now$"))
    started(rooted, "a")
    (monitor,) = eventually(lambda: monitors(rooted), what="it has its name")
    monitor.kill()
    rooted.wait_line("monitor_gone", name="a")
    order(rooted, "a", "say now")
    rooted.wait_started("a")
    rooted.stop()


def test_what_it_says_last_is_told_before_its_end(rooted):
    program = "print('ready to go'); import os; os._exit(5)"
    rooted.start(
        {
            "id": "a",
            "restart": "temporary",
            "start": {
                "service": True,
                "command": [sys.executable, "-c", program],
                "ready": "line:ready",
            },
        }
    )
    rooted.wait_line("exited", name="a", restart=False)
    assert [line["event"] for line in rooted.lines(name="a")] == [
        "started",
        "exited",
    ]
    assert (rooted.output / "a").read_text() == "ready to go\n"
    rooted.stop()


def test_a_service_is_killed_with_everything_below_it(rooted):
    """Double fork, a session of its own, SIGTERM ignored."""
    rooted.start(
        group("g", service(rooted, "a", "deaf", shutdown_s=0.1), restart="temporary"),
        service(rooted, "b"),
    )
    pid = started(rooted, "a")
    order(rooted, "a", "brood")
    below = [
        int(eventually(lambda name=name: rooted.read(name), what=name))
        for name in ("daemon", "child")
    ]
    rooted.wait_line("ready")
    assert alive(pid)
    assert rooted.stop() == 0
    assert not any(alive(one) for one in (pid, *below))
    assert rooted.lines("exited", name="a")[-1]["reason"] == "stop time-out"


def test_kill_9_of_the_root_takes_services_and_monitors_with_it(rooted):
    rooted.start(service(rooted, "a", "deaf"))
    started(rooted, "a")
    rooted.wait_line("ready")
    everything = psutil.Process(rooted.process.pid).children(recursive=True)
    assert len(everything) == 2
    os.kill(rooted.process.pid, signal.SIGKILL)
    rooted.process.wait()
    eventually(lambda: not any(alive(p.pid) for p in everything), what="all gone")


def test_no_descriptor_is_left_by_a_service_that_is_restarted(rooted):
    rooted.start(service(rooted, "a", ready="notify"), intensity=100)
    assert rooted.process is not None
    lowest = 1 << 20

    def as_before() -> bool:
        """What its predecessor leaves is closed soon after it is ready, not before that is said."""
        nonlocal lowest
        now = len(os.listdir(f"/proc/{rooted.process.pid}/fd"))
        lowest = min(lowest, now)
        return now == lowest

    for n in range(1, 7):
        started(rooted, "a", n)
        order(rooted, "a", "notify READY=1")
        rooted.wait_started("a", n)
        if n > 1:
            eventually(as_before, what="as few descriptors as before")
        order(rooted, "a", "kill 9")
    started(rooted, "a", 7)
    rooted.stop()
