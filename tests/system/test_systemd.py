"""The daemon as a service of a real systemd: units, readiness, watchdog, crash, sockets, stop.

One boot for all tests; each leaves the service installed and is free to stop it. Skipped, loudly,
where no container can be had.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import eventually
from tests.system.container import HOME, PREFIX, UID, Container, Unavailable, booted
from tests.system.mainjob import GOAL, QUICK

pytestmark = pytest.mark.timeout(900)  # the first run makes a Debian

UNITS = f"{HOME}/.config/systemd/user"
SERVICE, SOCKET = "loomd.service", "loomd.socket"
CLIENTS = f"/run/user/{UID}/loom/clients"
CONFIG = f"{HOME}/.config/loom/config.toml"
REPO = f"{HOME}/repo"

KEY = "sk-secret-of-this-credential"
PORT = 18080
"""Of a model's server; the container's network is its own."""
MODEL = f"""
[models]
default = "openai/gpt-5-mini"
[providers.openai]
api_base = "http://127.0.0.1:{PORT}/v1"
api_key_credential = "model"
"""


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    try:
        with booted() as made:
            for name, text in QUICK.items():
                made.write(f"{REPO}/{name}", text)
            git = "git -c user.name=test -c user.email=test@localhost"
            made.user("sh", "-c", f"git init -q; git add .; {git} commit -qm first", cwd=REPO)
            yield made
    except Unavailable as reason:
        pytest.skip(f"NOT TESTED, no systemd in a container: {reason}")


@pytest.fixture
def service(container: Container) -> Iterator[Container]:
    """Installed, listening, and not running."""
    loomctl(container, "daemon", "install")
    container.systemctl("stop", SERVICE, check=False)
    container.systemctl("reset-failed", SERVICE, SOCKET, check=False)
    container.systemctl("start", SOCKET)
    yield container
    container.systemctl("stop", SOCKET, SERVICE, check=False)


def loomctl(container: Container, *args: str, code: int = 0) -> Any:
    done = container.user("loomctl", "--json", *args, check=False)
    assert done.returncode == code, (args, done.stdout, done.stderr, journal(container))
    return json.loads(done.stdout)


def events(container: Container, session: str) -> list[dict[str, Any]]:
    said = container.user("loomctl", "--json", "events", session).stdout
    return [json.loads(line) for line in said.splitlines()]


def renamed(container: Container) -> bool:
    """Whether the job has been done on the checkout, which is then put back."""
    text = container.user("cat", f"{REPO}/conf/parser.py").stdout
    container.user("git", "checkout", "-q", ".", cwd=REPO)
    return "def parse_config" in text


def journal(container: Container) -> str:
    return container.user("journalctl", "--user", "-n", "60", check=False).stdout


def told(container: Container, *which: str) -> list[str]:
    """What the journal has of the service, oldest first."""
    argv = ["journalctl", "--user", "-o", "cat", "-u", SERVICE, *which]
    return container.user(*argv).stdout.splitlines()


def state(container: Container, unit: str = SERVICE) -> str:
    return container.shown(unit, "ActiveState")


def main_pid(container: Container) -> str:
    return container.shown(SERVICE, "MainPID")


def processes(container: Container) -> list[str]:
    """Command lines of the user's, without those of the user manager itself."""
    said = container.run("ps", "-u", str(UID), "-o", "args=", check=False).stdout
    return [line for line in said.splitlines() if "systemd" not in line and "sd-pam" not in line]


def drop_in(container: Container, text: str) -> None:
    container.write(f"{UNITS}/{SERVICE}.d/test.conf", text)
    container.systemctl("daemon-reload")


def restarted(container: Container, before: str) -> None:
    """Waits until systemd runs another root, which is ready."""
    eventually(
        lambda: state(container) == "active" and main_pid(container) not in ("0", before),
        timeout=60.0,
        what=lambda: f"a restart\n{journal(container)}",
        pause=0.1,
    )


def asked(container: Container) -> list[str] | None:
    """What each request to the model's server was authorized by; None: it is not there yet."""
    get = f"urllib.request.urlopen('http://127.0.0.1:{PORT}/requests').read().decode()"
    done = container.user("python3", "-c", f"import urllib.request; print({get})", check=False)
    return [one["_authorization"] for one in json.loads(done.stdout)] if done.stdout else None


def blocked(container: Container, count: int) -> None:
    """Waits until the status line says that so many sessions wait for a person."""
    eventually(
        lambda: container.shown(SERVICE, "StatusText").endswith(f" actors, {count} blocked"),
        what=lambda: container.shown(SERVICE, "StatusText"),
        pause=0.1,
    )


def finish(container: Container, session: str) -> None:
    """Answers what the session asks until its job is done."""

    def done() -> bool:
        for question in loomctl(container, "waiting", session):
            loomctl(container, "approve", question["id"], "--for", "session")
        return bool(loomctl(container, "show", session)["state"] == "done")

    eventually(done, timeout=90.0, what=lambda: f"the work done\n{journal(container)}", pause=0.2)
    blocked(container, 0)
    assert renamed(container)


def test_the_units_are_verified_without_a_word(service):
    done = service.user(
        "systemd-analyze", "verify", "--user", f"{UNITS}/{SERVICE}", f"{UNITS}/{SOCKET}"
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert service.systemctl("is-enabled", SERVICE, SOCKET).split() == ["enabled", "enabled"]


def test_the_first_client_starts_it_and_its_session_is_done_in_the_sandbox(service):
    assert (state(service), state(service, SOCKET)) == ("inactive", "active")
    refused = loomctl(service, "--no-start", "ps", code=3)["error"]
    assert refused["code"] == "no_daemon"  # that systemd listens is no daemon
    report = loomctl(service, "run", GOAL, "--repo", REPO, "--yes")
    assert report["state"] == "done", journal(service)
    assert renamed(service)
    tests = [
        event["data"]
        for event in events(service, report["session"])
        if event["type"] == "tool_result" and event["data"]["name"] == "shell"
    ]
    assert tests and all(result["ok"] for result in tests), tests
    assert "1 passed" in tests[-1]["text"]
    assert state(service) == "active"
    status = loomctl(service, "daemon", "status")
    assert str(status["pid"]) == main_pid(service) and status["unit"] == "loomd"


def test_a_bare_connection_starts_it_and_is_served(service):
    """Without a word to systemctl: `loomctl` finds no unit, connects, and waits."""
    service.user("mv", f"{UNITS}/{SERVICE}", f"{HOME}/aside")
    try:
        assert any(row["name"] == "hub" for row in loomctl(service, "ps"))
    finally:
        service.user("mv", f"{HOME}/aside", f"{UNITS}/{SERVICE}")
    assert state(service) == "active"
    assert service.user("sh", "-c", "ls ~/.local/state/loom/log", check=False).returncode != 0
    assert sum("bin/loomd" in line for line in processes(service)) == 1


def test_it_is_active_when_it_is_ready_and_not_before(service):
    words = ("Starting loomd.service", "ready pid=", "Started loomd.service")

    def order() -> list[str]:
        """By the journal, which is written behind: a state may be too short to be seen."""
        return [word for line in told(service) for word in words if line.startswith(word)]

    def exits() -> list[str]:  # of a priority of its own, and no JSON
        lines = told(service, "-p", "4..4")
        return [line for line in lines if line.startswith("exited name=models pid=")]

    before = len(order())
    service.systemctl("start", "--no-block", SERVICE)
    eventually(lambda: state(service) == "active", timeout=60.0, what="active")
    eventually(lambda: len(order()) >= before + 3, what=lambda: journal(service))
    assert order()[before:] == list(words)
    assert loomctl(service, "--no-start", "daemon", "status")["pid"] > 0
    blocked(service, 0)
    before = len(exits())
    loomctl(service, "kill", "models")
    eventually(lambda: len(exits()) > before, what=lambda: journal(service))
    assert "signal=9" in exits()[-1]


def test_a_killed_root_is_restarted_and_sessions_go_on(service):
    session = loomctl(service, "run", GOAL, "--repo", REPO, "--detach")["session"]
    eventually(lambda: loomctl(service, "waiting", session), what="a question", pause=0.1)
    blocked(service, 1)
    before = main_pid(service)
    service.run("kill", "-9", before)
    restarted(service, before)
    assert service.shown(SERVICE, "NRestarts") == "1"
    blocked(service, 1)
    finish(service, session)
    types = [event["type"] for event in events(service, session)]
    assert types.count("daemon_restarted") == 1, types


def test_a_root_that_hangs_is_ended_by_the_watchdog_and_restarted(service):
    drop_in(service, "[Service]\nWatchdogSec=8\n")  # more than a busy machine stands still
    try:
        loomctl(service, "daemon", "start")
        before = main_pid(service)
        service.run("kill", "-STOP", before)
        restarted(service, before)
        said = service.user("journalctl", "--user", "-o", "cat", "-u", SERVICE).stdout
        assert "Watchdog timeout" in said
        assert "Fatal Python error: Aborted" in said  # with where it was
        assert service.shown(SERVICE, "NRestarts") == "1"
    finally:
        service.user("rm", "-r", f"{UNITS}/{SERVICE}.d")
        service.systemctl("daemon-reload")


def test_a_bad_configuration_is_said_and_not_tried_again(service):
    service.write(CONFIG, "[nonsense]\n")
    try:
        error = loomctl(service, "daemon", "start", code=8)["error"]
        assert error["code"] == "config" and "nonsense: unknown key" in error["message"]
        assert (state(service), service.shown(SERVICE, "NRestarts")) == ("failed", "0")
    finally:
        service.user("rm", CONFIG)
    assert loomctl(service, "daemon", "start")["pid"] > 0  # mended: it starts


def test_a_credential_of_systemd_is_the_key_and_is_in_no_environment(service):
    """Used in calls to a server on the container's own loopback."""
    said = [{"text": "ready"}, {"text": "hello"}]
    service.write(f"{HOME}/said.json", json.dumps(said))
    service.write(f"{HOME}/key", f"{KEY}\n", mode="600")
    service.write(CONFIG, MODEL)
    drop_in(service, f"[Service]\nLoadCredential=model:{HOME}/key\n")
    server = [f"{PREFIX}/bin/python", "-m", "tests.openai_server", "--port", str(PORT)]
    unit = ["systemd-run", "--user", "--unit=model", "--working-directory=/opt/source"]
    service.user(*unit, *server, "--script", f"{HOME}/said.json")
    try:
        eventually(lambda: asked(service) == [], what="the model's server", pause=0.1)
        loomctl(service, "daemon", "start")
        [model] = loomctl(service, "models", "--check")
        assert (model["key"], model["check"]["ok"]) == ("credential model", True), model
        report = loomctl(service, "run", "say hello", "--repo", REPO, "--yes")
        assert (report["state"], report["answer"]) == ("done", "hello"), journal(service)
        assert asked(service) == [f"Bearer {KEY}"] * 2
        places = f"/proc/[0-9]*/environ /proc/[0-9]*/cmdline {HOME}/.local {HOME}/.config"
        found = f"grep -rlF -f {HOME}/key {places} /run/user/{UID}/loom 2>/dev/null"
        assert service.run("sh", "-c", found, check=False).stdout == ""
        assert KEY not in service.user("journalctl", "--user").stdout
    finally:
        service.systemctl("stop", "model", check=False)
        service.user("rm", "-r", f"{UNITS}/{SERVICE}.d", CONFIG)
        service.systemctl("daemon-reload")


def test_reload_brings_new_code_in_the_same_process_and_sessions_go_on(service):
    """The code on disk is changed, `systemctl reload` does the rest; twice, for who can do it once
    may have lost what it needs for the second time."""
    session = loomctl(service, "run", GOAL, "--repo", REPO, "--detach")["session"]
    eventually(lambda: loomctl(service, "waiting", session), what="a question", pause=0.1)
    main, before = main_pid(service), loomctl(service, "daemon", "status")
    for count in (1, 2):
        service.new_code(f"# the code of reload {count}\n")
        service.systemctl("reload", SERVICE)

        def moved(count: int = count) -> bool:
            status = loomctl(service, "daemon", "status")
            generations = {row["generation"] for row in loomctl(service, "ps") if row["pid"]}
            return generations == {before["generation"] + count} == {status["generation"]}

        eventually(moved, timeout=60.0, what=lambda: journal(service), pause=0.2)
        eventually(lambda: state(service) == "active", what=lambda: journal(service), pause=0.1)
    assert main_pid(service) == main == str(before["pid"])
    assert service.shown(SERVICE, "NRestarts") == "0"
    blocked(service, 1)
    finish(service, session)
    service.new_code("raise RuntimeError('not fit to run')\n")
    try:
        service.systemctl("reload", SERVICE, check=False)
        eventually(
            lambda: "not fit to run" in journal(service) and state(service) == "active",
            timeout=60.0,
            what=lambda: journal(service),
            pause=0.2,
        )
        assert main_pid(service) == main
        status = loomctl(service, "daemon", "status")
        assert status["generation"] == before["generation"] + 2
        assert status["last_upgrade"]["state"] == "refused"
        assert "not fit to run" in status["last_upgrade"]["reason"]
        shown = service.shown(SERVICE, "StatusText")
        assert "; last reload refused: " in shown and "not fit to run" in shown
    finally:
        service.new_code("")


def test_the_control_group_is_delegated_and_every_process_is_in_one_of_its_own(service):
    assert loomctl(service, "daemon", "start")["containment"] == "cgroup"
    group = service.shown(SERVICE, "ControlGroup")
    rows = [row for row in loomctl(service, "ps") if row["pid"]]
    assert len(rows) >= 4
    groups = set()
    for row in rows:
        lines = service.run("cat", f"/proc/{row['pid']}/cgroup").stdout.splitlines()
        (path,) = (line[3:] for line in lines if line.startswith("0::"))
        assert path.startswith(f"{group}/"), (row["name"], path)
        groups.add(path)
    assert len(groups) == len(rows)


def test_stop_is_clean_and_sticks_and_start_restart_and_logs_go_through_systemd(service):
    assert str(loomctl(service, "daemon", "start")["pid"]) == main_pid(service)
    before = main_pid(service)
    assert str(loomctl(service, "daemon", "restart")["pid"]) == main_pid(service) != before
    assert any("ready pid=" in line for line in loomctl(service, "daemon", "logs"))
    group = service.shown(SERVICE, "ControlGroup")
    assert loomctl(service, "daemon", "stop")["stopped"] is True
    assert [state(service, unit) for unit in (SERVICE, SOCKET)] == ["inactive", "inactive"]
    assert service.shown(SERVICE, "Result") == "success"
    assert processes(service) == []
    left = service.run("ls", "-d", f"/sys/fs/cgroup{group}", CLIENTS, check=False).stdout
    assert left == ""


def test_a_daemon_of_loomctls_own_is_moved_under_systemd_by_restart(service):
    loomctl(service, "daemon", "uninstall")
    try:
        alone = loomctl(service, "daemon", "start")
        assert loomctl(service, "daemon", "status")["unit"] is None
        said = loomctl(service, "daemon", "install")
        assert not said["listening"] and "daemon restart" in said["hint"]
        assert loomctl(service, "ps")  # still served by the one that runs
        moved = loomctl(service, "daemon", "restart")
        assert str(moved["pid"]) == main_pid(service) != str(alone["pid"])
    finally:
        service.user("rm", "-f", f"{HOME}/.local/state/loom/log")


def test_uninstall_stops_it_and_leaves_no_unit(service):
    loomctl(service, "daemon", "start")
    gone = loomctl(service, "daemon", "uninstall")
    assert sorted(gone["files"]) == [f"{UNITS}/{SERVICE}", f"{UNITS}/{SOCKET}"]
    assert service.shown(SERVICE, "LoadState") == "not-found"
    assert processes(service) == []
    assert service.user("find", UNITS, "-name", "loomd*").stdout == ""
    assert service.user("test", "-d", f"{HOME}/.local/state/loom/lmdb").returncode == 0
