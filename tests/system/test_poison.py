"""What ends its reader again and again is set aside: real processes, real faults, real SIGKILLs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

from tests.support import Client, Daemon, eventually

CONFIG = "[supervision]\nintensity = 4\nperiod_s = 600\nheartbeat_s = 2\npoison_crashes = 3\n"
"""The session would fail at the fifth death that counts: blamed ones must not."""

S = "s-echo00"


def note(**data: Any) -> dict[str, Any]:
    return {"t": "note", "data": data}


def spawn(client: Client, name: str, kind: str = "echo") -> str:
    client.request("spawn", spec={"name": f"{S}/{name}", "kind": kind, "session": S})
    return f"{S}/{name}"


def tell(client: Client, to: str, /, **data: Any) -> None:
    client.request("post", to=to, body=note(**data))


def saved(client: Client, name: str) -> dict[str, Any]:
    return client.request("fetch_state", name=name)["state"] or {}


def letters(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.request("dead", action="list")
    return found


def state(client: Client) -> str:
    return str(client.request("session", session=S)["state"])


def test_timers_and_effects_that_kill_are_set_aside_and_their_actor_goes_on(
    daemons: Callable[..., Daemon],
) -> None:
    """In the step of a timer, in the step of an effect's end, in the performer's own callback, and
    one that blocks the performer's loop. Each three times; none of them costs intensity."""
    daemon = daemons(CONFIG)
    with daemon.client() as client:
        kinds = []
        for n, (kind, data) in enumerate(
            [
                ("timer", {"op": "timer", "key": "segv:t", "after": 0.0}),
                ("effect", {"op": "effect", "id": "crash:e", "do": {"do": "now"}}),
                ("effect", {"op": "effect", "id": "callback", "do": {"do": "fail"}}),
                ("effect", {"op": "effect", "id": "hung", "do": {"do": "block"}}),
            ],
            1,
        ):
            name = spawn(client, f"a{n}", "echo-performer")
            tell(client, name, **data)
            tell(client, name, op="add", n=1)
            eventually(
                lambda n=n: len(letters(client)) == n,
                what=lambda n=n: f"{n} set aside\n{daemon.tail(20)}",
            )
            eventually(lambda name=name: saved(client, name).get("count") == 1)
            eventually(lambda name=name: saved(client, name)["other"] == ["Undelivered"])
            letter = next(one for one in letters(client) if one["actor"] == name)
            assert (letter["kind"], letter["crashes"]) == (kind, 3)
            kinds.append(letter["kind"])
        assert state(client) == "running"
        (timer,) = [one for one in letters(client) if one["kind"] == "timer"]
        client.request("dead", action="retry", id=timer["id"])
        eventually(
            lambda: {one["id"] for one in letters(client) if one["kind"] == "timer"} - {
                timer["id"]}, what="the timer fires and kills again",
        )  # fmt: skip
        for letter in letters(client):
            client.request("dead", action="drop", id=letter["id"])
        assert letters(client) == []


def test_an_effect_that_is_put_back_is_performed(daemons: Callable[..., Daemon]) -> None:
    daemon = daemons(CONFIG)
    with daemon.client() as client:
        w = spawn(client, "w", "echo-performer")
        tell(client, w, op="effect", id="e", do={"do": "never"})
        eventually(lambda: client.request("fetch_state", name=w)["step"] == 2)
        deaths = 0
        while not letters(client):  # one that dies before its effect has begun is not blamed
            os.kill(pid_of(client, w), signal.SIGSEGV)
            deaths += 1
            eventually(lambda n=deaths: client.request("fetch_state", name=w)["restarts"] == n)
            eventually(
                lambda n=deaths: (
                    letters(client) or client.request("fetch_state", name=w)["step"] == 2 + n
                )
            )
        (letter,) = letters(client)
        assert letter["crashes"] == 3
        client.request("dead", action="retry", id=letter["id"])
        eventually(lambda: client.request("fetch_state", name=w)["restarts"] == deaths + 1)
        tell(client, w, op="cancel", id="e")
        eventually(lambda: saved(client, w)["ended"] == {"e": {"cancelled": True}})
        assert state(client) == "running"


def pid_of(client: Client, name: str) -> int:
    def found() -> int:
        for row in client.request("ps", session=S):
            if (
                row["name"] == name
                and row["pid"]
                and row["state"] not in ("starting", "restarting")
            ):
                return int(row["pid"])
        return 0

    return eventually(found, what=f"{name} runs")


def test_a_sigkill_of_unknown_origin_is_blamed_from_the_tenth_on_the_same_mail(
    daemons: Callable[..., Daemon],
) -> None:
    """Nine count for supervision and not against the mail; with the twelfth it is set aside."""
    config = CONFIG.replace("intensity = 4", "intensity = 9").replace("heartbeat_s = 2", "")
    daemon = daemons(config + "heartbeat_s = 60\n")
    with daemon.client() as client:
        a = spawn(client, "a")
        eventually(lambda: saved(client, a) is not None and pid_of(client, a))
        tell(client, a, op="hang")
        tell(client, a, op="add", n=1)
        killed: set[int] = set()

        def set_aside() -> bool:
            for row in client.request("ps", session=S):
                busy = row["pid"] and row["incarnation"] not in killed and _burns(row["pid"])
                if row["name"] == a and busy:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(row["pid"], signal.SIGKILL)
                        killed.add(row["incarnation"])
            return bool(letters(client))

        eventually(set_aside, 60, what=lambda: f"set aside; {len(killed)} killed, {state(client)}")
        assert len(killed) == 12
        (letter,) = letters(client)
        assert (letter["kind"], letter["crashes"], letter["error"]) == (
            "mail",
            3,
            "killed by SIGKILL",
        )
        eventually(lambda: saved(client, a).get("count") == 1, what="the next mail is done")
        assert state(client) == "running"


def _burns(pid: int) -> bool:
    """Whether it is in the endless step: it has used some processor time by itself."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[11]) >= 15  # utime in ticks


def test_one_that_exits_inside_a_step_without_an_error_is_blamed_too(
    daemons: Callable[..., Daemon],
) -> None:
    daemon = daemons(CONFIG)
    with daemon.client() as client:
        a = spawn(client, "a")
        tell(client, a, op="exit", status=0)
        tell(client, a, op="add", n=1)
        eventually(lambda: saved(client, a).get("count") == 1)
        assert [letter["crashes"] for letter in letters(client)] == [3]
