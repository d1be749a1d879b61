"""New code under a running daemon: everything moves, nobody is interrupted, and bad code is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import RequestFailed, eventually
from tests.system.upgrading import CONFIG, SESSION, Upgrading, upgrading

ECHO = "loomd/actor/echo.py"
SAID = 'return [Send(mail.sender, Note(data={"echo": data.get("value")}))]'
ANSWER = "return Note(data=value)"


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """What lives below the shared daemon changes with every case: its end is where it is seen that
    nothing is left."""


SERVICE = """
[[supervisor]]
id = "local"
[[supervisor.child]]
id = "clock"
ready = "line:up"
command = {command}
"""
TICKS = """
import time
print("up")
n = 0
while True:
    n += 1
    print("tick", n)
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Upgrading]:
    config = CONFIG + SERVICE.format(command=json.dumps([sys.executable, "-u", "-c", TICKS]))
    with upgrading(config) as made:
        yield made


def loud(up: Upgrading) -> list[dict[str, object]]:
    """What warns of an end that belongs to an upgrade which went well."""
    ended = [
        one for one in up.lines("exited") if one["name"].startswith(("preflight", "template@"))
    ]
    assert ended
    return [one for one in ended if one["level"] != "info" and one.get("signal") == signal.SIGTERM]


def test_new_code_everywhere_and_a_follower_misses_nothing(shared: Upgrading):
    up = shared
    a, b, p, z = (up.spawn(name) for name in ("a", "b", "p", "z"))
    up.client.request("unspawn", name=p)
    p = up.spawn("performer", "echo-performer")
    up.tell(a, op="stop", name=z, asleep=True)
    eventually(lambda: up.row(z)["wanted"] == "asleep")
    follower = subprocess.Popen(
        [sys.executable, "-m", "loomctl", "--json", "events", SESSION, "--follow"],
        env=up.instance.environment(**up.daemon.env),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    try:
        heard = [json.loads(follower.stdout.readline())]  # it is attached
        before = up.client.request("status")
        was = up.incarnations()
        up.tell(p, op="effect", id="e1", do={"do": "later", "s": 0.5})
        for n in range(1, 30):
            up.tell(a, op="add", n=n)
            up.tell(b, op="emit", type="counted", data={"n": n})
        up.code.change("loomd/boot.py", 'VERSION = "', 'VERSION = "9.')
        up.code.change(ECHO, ANSWER, 'return Note(data={"new": value})')
        result = up.loomctl("daemon", "upgrade")
        for n in range(30, 40):
            up.tell(a, op="add", n=n)
            up.tell(b, op="emit", type="counted", data={"n": n})
        up.tell(b, op="emit", type="last")
        while heard[-1]["type"] != "last":
            heard.append(json.loads(follower.stdout.readline()))
    finally:
        follower.kill()
        follower.communicate()

    assert result["errors"] == [] and result["kept"] == []
    assert {"hub", "models", a, b, p} <= set(result["moved"])
    now = up.client.request("status")
    assert now["pid"] == before["pid"] == up.daemon.pid
    assert now["version"] == "9." + before["version"]
    assert now["generation"] == result["generation"] == before["generation"] + 1
    rows = up.ps()
    for name in ("hub", "models", a, b, p):
        assert rows[name]["incarnation"] > was[name]
        assert rows[name]["generation"] == now["generation"], rows[name]
        assert rows[name]["restarts"] == 0, rows[name]
    assert up.ask(a, op="echo", value=1) == {"new": 1}
    row = up.until(a, lambda row: row["state"]["count"] == 39)
    assert row["state"]["wrong"] == []
    # The effect under way was waited for, not started again.
    assert up.until(p, lambda row: "e1" in row["state"]["ended"])["state"]["ended"]["e1"] == {
        "attempt": 1
    }
    assert [event["seq"] for event in heard] == list(range(1, len(heard) + 1))
    counted = [event["data"]["n"] for event in heard if event["type"] == "counted"]
    assert counted == list(range(1, 40))
    assert {e["type"] for e in heard} >= {"actor_upgraded"}
    assert not any(e["type"] == "actor_restarted" for e in heard)
    assert loud(up) == []
    up.tell(z, op="add", n=1)  # it slept through it
    up.until(z, lambda row: row["state"]["count"] == 1)
    assert up.ask(z, op="echo", value=2) == {"new": 2}
    assert up.ps()[z]["generation"] == now["generation"]


@pytest.mark.parametrize(
    ("module", "old", "new", "said"),
    [
        ("loomd/keeper/index.py", "", "\ndef broken(:\n", "loomd.keeper"),
        ("loomd/team/board.py", "", "\nimport nowhere_to_be_found\n", "nowhere_to_be_found"),
        ("loomd/boot.py", "", "\nraise RuntimeError('no boot')\n", "no boot"),
        ("loomd/store/schema.py", "VERSION: Final = 1", "VERSION: Final = 0", "schema"),
        ("loomd/actor/echo.py", "    version = 1", "    version = 0", "saved version 1"),
        ("loomd/supervise/freeze.py", "FORMAT = 1", "FORMAT = 0", "format"),
        ("loomd/actor/echo.py", "", "\nimport threading\nthreading.Thread(target=lambda: "
         "time.sleep(9), daemon=True).start()\n", "threads"),
    ],
)  # fmt: skip
def test_code_that_cannot_work_is_refused_and_nothing_has_changed(
    shared: Upgrading, module: str, old: str, new: str, said: str
):
    up = shared
    up.spawn("kept")
    before, status = up.incarnations(), up.client.request("status")
    up.code.change(module, old, new)
    try:
        with pytest.raises(RequestFailed, match=said):
            up.upgrade()
    finally:
        up.code.undo()
    assert up.incarnations() == before
    after = up.client.request("status")
    assert [after[k] for k in ("pid", "generation", "version", "epoch")] == [
        status[k] for k in ("pid", "generation", "version", "epoch")
    ]


def test_a_config_that_is_wrong_is_refused_with_its_line(shared: Upgrading):
    up = shared
    kept = up.instance.config.read_text()
    up.instance.config.write_text(kept + "[limits]\niterations = -1\n")
    try:
        refused = up.loomctl("daemon", "upgrade", code=8)
    finally:
        up.instance.config.write_text(kept)
    assert refused["error"]["code"] == "config" and "iterations" in refused["error"]["message"]


def test_who_fails_on_the_new_code_goes_on_with_the_code_before(shared: Upgrading):
    up = shared
    bad, late, good = (up.spawn(name) for name in ("bad", "late", "good"))
    for name in (bad, late, good):
        up.tell(name, op="add", n=1)
        up.until(name, lambda row: row["state"]["count"] == 1)
    was = up.client.request("status")["generation"]
    up.code.change(
        ECHO,
        "        saved = Saved() if",
        '        if birth.spec.name.endswith("/bad"):\n'
        '            raise RuntimeError("bad from its birth on")\n'
        "        saved = Saved() if",
    )
    up.code.change(
        ECHO,
        "        match input:\n            case Init():",
        '        if state.name.endswith("/late"):\n'
        '            raise RuntimeError("late, in its first step")\n'
        "        match input:\n            case Init():",
    )
    result = up.loomctl("daemon", "upgrade", code=1)
    assert result["kept"] == [bad]
    (error,) = result["errors"]
    assert error["name"] == bad and "bad from its birth on" in error["error"]
    line = up.lines("upgraded")[-1]
    assert (line["level"], line["errors"]) == ("error", 1)
    assert bad in line["reason"] and "bad from its birth on" in line["reason"]
    assert late in result["moved"] and good in result["moved"]
    up.tell(bad, op="add", n=2)
    assert up.until(bad, lambda row: row["state"]["count"] == 2)["state"]["wrong"] == []
    up.tell(late, op="add", n=2)  # its first mail on the new code kills it; not on the old
    assert up.until(late, lambda row: row["state"]["count"] == 2)["state"]["wrong"] == []
    rows = up.ps()
    assert [rows[name]["generation"] for name in (bad, late, good)] == [was, was, was + 1]
    assert up.client.request("dead", action="list") == []
    assert {line["name"] for line in up.lines("new_code_failed")} >= {bad, late}
    # They stay there, whatever happens to them, and get their chance at the next upgrade.
    up.client.request("kill", name=bad, signal=9)
    up.tell(bad, op="add", n=3)
    up.until(bad, lambda row: row["state"]["count"] == 3)
    assert up.ps()[bad]["generation"] == was
    up.code.undo()
    result = up.upgrade()
    assert result["errors"] == [] and {bad, late, good} <= set(result["moved"])
    assert up.ps()[bad]["generation"] == was + 2
    for name in (bad, late, good):
        up.client.request("unspawn", name=name)


def test_a_hub_that_fails_takes_the_whole_generation_back(shared: Upgrading):
    up = shared
    a = up.spawn("under-the-hub")
    before, status = up.incarnations(), up.client.request("status")
    up.code.change(
        "loomd/hub/process.py",
        "    sys.setswitchinterval(SWITCH_S)\n",
        '    raise RuntimeError("no hub today")\n',
    )
    try:
        result = up.upgrade()
    finally:
        up.code.undo()
    assert [error["name"] for error in result["errors"]] == ["hub"]
    assert result["moved"] == [] and result["generation"] == status["generation"]
    line = up.lines("upgrade_failed")[-1]
    assert line["generation"] == status["generation"] and "no hub today" in line["reason"]
    after = up.incarnations()
    assert after["models"] == before["models"] and after[a] == before[a]
    assert up.client.request("status")["generation"] == status["generation"]
    b = up.spawn("born-after")  # from the template before
    assert up.ask(b, op="state")["restarts"] == 0
    result = up.upgrade()
    assert result["errors"] == [] and a in result["moved"]
    assert result["generation"] == status["generation"] + 2
    for name in (a, b):
        up.client.request("unspawn", name=name)


def test_reload_actors_moves_them_and_leaves_the_root(shared: Upgrading):
    up = shared
    a = up.spawn("reloaded")
    resumed = len(up.lines("resumed"))
    up.code.change(ECHO, "        match data:\n", '        if data == "x":\n'
                   '            return Note(data="reloaded")\n        match data:\n')  # fmt: skip
    try:
        result = up.loomctl("reload", "actors")
    finally:
        up.code.undo()
    assert a in result["changed"] and result["errors"] == []
    up.code.change("loomd/team/board.py", "", "\nimport nowhere_to_be_found\n")
    try:
        refused = up.loomctl("reload", "all", code=1)  # its other parts are answered for too
    finally:
        up.code.undo()
    assert refused["generation"] == result["generation"] and refused["changed"] == []
    [error] = (one for one in refused["errors"] if one["module"] == "loomd")
    assert "nowhere_to_be_found" in error["error"] and "restarted" in refused
    assert up.client.request("ask", actor=a, body={"t": "note", "data": "x"})["data"] == "reloaded"
    assert len(up.lines("resumed")) == resumed
    assert loud(up) == []
    up.client.request("unspawn", name=a)


def test_a_hangup_that_is_refused_is_seen_in_the_status(shared: Upgrading):
    up = shared
    up.code.change("loomd/team/board.py", "", "\nimport gone_with_the_hangup\n")
    try:
        os.kill(up.daemon.pid, signal.SIGHUP)
        last = eventually(lambda: refused(up), 60, what=up.daemon.tail)
    finally:
        up.code.undo()
    assert "gone_with_the_hangup" in last["reason"]
    shown = subprocess.run(
        [sys.executable, "-m", "loomctl", "daemon", "status"],
        env=up.instance.environment(**up.daemon.env),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    [line] = [line for line in shown.splitlines() if line.startswith("last_upgrade")]
    assert line.split(maxsplit=1)[1].startswith("refused: ") and "gone_with_the_hangup" in line
    hub = up.client.request("status")["hub_pid"]
    up.client.request("kill", name="hub")
    eventually(lambda: up.client.request("status")["hub_pid"] != hub, what="another hub")
    assert eventually(lambda: refused(up), what="it has been told") == last
    assert up.upgrade()["errors"] == []
    last = eventually(lambda: up.client.request("status")["last_upgrade"], what="the same")
    assert last == {"state": "done", "reason": ""}


def refused(up: Upgrading) -> dict[str, str] | None:
    last = up.client.request("status")["last_upgrade"]
    return (
        last
        if last and last["state"] == "refused" and "gone_with_the_hangup" in last["reason"]
        else None
    )


def test_a_hangup_means_upgrade_and_a_service_of_the_user_runs_through_it(shared: Upgrading):
    up = shared
    clock = eventually(lambda: up.ps().get("clock", {}).get("pid"), what=lambda: str(up.ps()))
    written = up.instance.places.output / "clock"

    def ticks() -> list[int]:
        lines = [line.split() for line in written.read_text().splitlines()]
        return [int(line[1]) for line in lines if len(line) == 2 and line[0] == "tick"]

    was = up.client.request("status")["generation"]
    os.kill(up.daemon.pid, signal.SIGHUP)
    eventually(lambda: up.client.request("status")["generation"] == was + 1)
    eventually(lambda: up.lines("upgraded")[-1]["generation"] == was + 1)
    heard = len(ticks())
    eventually(lambda: len(ticks()) > heard + 5)
    said = ticks()  # read once: it goes on
    assert said == list(range(1, len(said) + 1))  # nothing of what it says is lost
    assert up.ps()["clock"]["pid"] == clock
    os.kill(clock, signal.SIGKILL)  # it is still watched
    eventually(lambda: up.ps()["clock"]["pid"] not in (None, clock))
