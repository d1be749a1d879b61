"""Echo actors on a real daemon: what supervision, mail, effects, timers and sleep promise."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from loomd.wire import messages as m
from tests.support import BOUND_S, Client, Daemon, RequestFailed, TestInstance, eventually

SESSION = "s-echo00"
CONFIG = "[supervision]\nintensity = 1000\nperiod_s = 1\nheartbeat_s = 1\npoison_crashes = 2\n"


def note(**data: Any) -> dict[str, Any]:
    return {"t": "note", "data": data}


class Echoes:
    """Echo actors of one session, and what they say of themselves."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.client: Client = daemon.client()

    def spawn(self, name: str, kind: str = "echo") -> str:
        full = f"{SESSION}/{name}"
        self.client.request("spawn", spec={"name": full, "kind": kind, "session": SESSION})
        return full

    def tell(self, to: str, /, **data: Any) -> None:
        self.client.request("post", to=to, body=note(**data))

    def ask(self, to: str, **data: Any) -> Any:
        return self.client.request("ask", actor=to, body=note(**data))["data"]

    def row(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = self.client.request("fetch_state", name=name)
        return value

    def saved(self, name: str) -> dict[str, Any]:
        return self.row(name)["state"] or {}

    def until(self, name: str, true: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        return eventually(
            lambda: (lambda row: row if row["state"] and true(row) else None)(self.row(name)),
            what=lambda: f"{self.row(name)}\n{self.daemon.tail(20)}",
        )

    def process(self, name: str) -> dict[str, Any]:
        return next(row for row in self.client.request("ps") if row["name"] == name)


@pytest.fixture
def echoes(instance: TestInstance) -> Iterator[Echoes]:
    instance.config.write_text(CONFIG)
    daemon = Daemon(instance).start()
    made = Echoes(daemon)
    try:
        yield made
        made.client.close()
        daemon.stop()
    finally:
        made.client.close()
        daemon.kill()


def test_an_actor_answers_remembers_and_is_shown(echoes: Echoes):
    a = echoes.spawn("a")
    assert echoes.ask(a, op="echo", value={"x": [1, 2]}) == {"x": [1, 2]}
    echoes.tell(a, op="add", n=1)
    echoes.until(a, lambda row: row["state"]["count"] == 1)
    shown = echoes.process(a)
    assert (shown["kind"], shown["session"], shown["restarts"]) == ("echo", SESSION, 0)
    with pytest.raises(RequestFailed, match="refused as asked"):
        echoes.ask(a, op="refuse")
    with pytest.raises(RequestFailed, match="failed as asked"):
        echoes.ask(a, op="fail")
    assert echoes.ask(a, op="state")["restarts"] == 0


@pytest.mark.parametrize("op", ["crash", "hang", "exit", "segv", "grow"])
def test_a_mail_that_kills_goes_to_the_dead_letters_and_the_next_is_done(echoes: Echoes, op: str):
    """Its error, a hang or a refused state: blamed twice, then put aside. Others go on."""
    a = echoes.spawn("a")
    b = echoes.spawn("b")
    echoes.tell(a, op="add", n=1)
    echoes.tell(a, op=op, kb=80, status=3)
    echoes.tell(a, op="add", n=2)
    echoes.tell(b, op="add", n=1)
    row = echoes.until(a, lambda row: row["state"]["count"] == 2)
    assert row["state"]["wrong"] == [] and row["restarts"] == 2
    echoes.until(b, lambda row: row["state"]["count"] == 1)
    assert echoes.row(b)["restarts"] == 0
    dead = echoes.client.request("dead", action="list")
    assert [(letter["actor"], letter["crashes"]) for letter in dead] == [(a, 2)]


def test_a_killed_actor_goes_on_with_the_same_mail(echoes: Echoes):
    a = echoes.spawn("a")
    for n in range(1, 6):
        echoes.tell(a, op="add", n=n)
        pid = echoes.process(a)["pid"]
        if pid:
            with contextlib.suppress(ProcessLookupError):  # dead since the last round
                os.kill(pid, signal.SIGKILL)
    row = echoes.until(a, lambda row: row["state"]["count"] == 5)
    assert row["state"]["wrong"] == []
    assert echoes.client.request("dead", action="list") == []


def test_a_caller_learns_that_its_callee_died(echoes: Echoes):
    a = echoes.spawn("a")
    echoes.ask(a, op="echo", value=1)
    pid = echoes.process(a)["pid"]
    os.kill(pid, signal.SIGSTOP)
    with Client(echoes.daemon.instance.places) as other:
        got: list[Any] = []
        body = note(op="echo", value=1)
        other._send(m.Request(id="q", op="ask", args={"actor": a, "body": body}))  # not waited for
        # What one client sends is taken in its order: the hub has it when it has answered this.
        other._send(m.Request(id="s", op="status"))
        answer = other._receive(BOUND_S)
        assert isinstance(answer, m.Reply) and answer.id == "s"
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: got.append(other._receive(0.05)) or got[-1], what="an obituary")
        assert got[-1].code == "actor_died"


def test_children_are_started_slept_woken_and_ended_by_commits(echoes: Echoes):
    a = echoes.spawn("a")
    child = f"{SESSION}/child"
    echoes.tell(a, op="start", name=child)
    eventually(lambda: child in [row["name"] for row in echoes.client.request("ps")])
    echoes.tell(child, op="add", n=1)
    echoes.until(child, lambda row: row["state"]["count"] == 1)
    echoes.tell(a, op="stop", name=child, asleep=True)
    eventually(lambda: echoes.row(child)["wanted"] == "asleep")
    eventually(lambda: not echoes.process(child)["pid"])
    echoes.tell(child, op="add", n=2)
    row = echoes.until(child, lambda row: row["state"]["count"] == 2)
    assert row["wanted"] == "running"
    echoes.tell(a, op="stop", name=child)
    eventually(lambda: echoes.row(child)["wanted"] == "ended")
    eventually(
        lambda: not any(r["name"] == child and r["pid"] for r in echoes.client.request("ps"))
    )
    echoes.tell(a, op="start", name=f"{SESSION}/other")
    echoes.until(a, lambda row: row["step"] >= 5)


def test_a_timer_fires_once_and_wakes_a_sleeper(echoes: Echoes):
    a, b = echoes.spawn("a"), echoes.spawn("b")
    echoes.tell(a, op="timer", key="t", after=0.0)
    echoes.until(a, lambda row: row["state"]["timers"] == 1)
    echoes.tell(a, op="timer", key="u", after=1.0)
    echoes.until(a, lambda row: row["mailbox"] == 0 and row["step"] >= 4)
    echoes.tell(b, op="stop", name=a, asleep=True)
    row = echoes.until(a, lambda row: row["state"]["timers"] == 2)
    assert row["state"]["done"] == ["timer t", "timer u"]


def test_effects_end_are_cancelled_and_survive_a_kill(echoes: Echoes):
    w = echoes.spawn("w", "echo-performer")
    echoes.tell(w, op="effect", id="now", do={"do": "now"})
    echoes.tell(w, op="effect", id="later", do={"do": "later", "s": 0.01})
    echoes.tell(w, op="effect", id="never", do={"do": "never"})
    echoes.until(w, lambda row: {"now", "later"} <= set(row["state"]["ended"]))
    os.kill(echoes.process(w)["pid"], signal.SIGKILL)
    echoes.until(w, lambda row: row["restarts"] == 1)
    echoes.tell(w, op="effect", id="more", do={"do": "now"})
    echoes.until(w, lambda row: "more" in row["state"]["ended"])
    echoes.tell(w, op="cancel", id="never")
    row = echoes.until(w, lambda row: "never" in row["state"]["ended"])
    assert row["state"]["ended"] == {
        "now": {"attempt": 1},
        "later": {"attempt": 1},
        "never": {"cancelled": True},
        "more": {"attempt": 1},
    }


def test_the_attempt_of_an_effect_counts_its_starts(echoes: Echoes):
    w = echoes.spawn("w", "echo-performer")
    echoes.tell(w, op="effect", id="e", do={"do": "again"})
    echoes.until(w, lambda row: row["step"] >= 2)
    os.kill(echoes.process(w)["pid"], signal.SIGKILL)
    row = echoes.until(w, lambda row: "e" in row["state"]["ended"])
    assert row["state"]["ended"]["e"] == {"attempt": 2}


def test_an_error_in_a_callback_of_the_performer_is_an_error_of_the_actor(echoes: Echoes):
    w = echoes.spawn("w", "echo-performer")
    echoes.tell(w, op="effect", id="bad", do={"do": "fail"})
    echoes.until(w, lambda row: row["restarts"] >= 1)
    assert "failed as told, in a callback" in echoes.daemon.tail()


def test_a_performer_that_blocks_its_loop_is_found_hung(echoes: Echoes):
    w = echoes.spawn("w", "echo-performer")
    echoes.tell(w, op="effect", id="bad", do={"do": "block"})
    echoes.until(w, lambda row: row["restarts"] >= 1)


def test_a_broadcast_reaches_everyone_once(echoes: Echoes):
    a = echoes.spawn("a")
    all = [echoes.spawn(f"n{i}") for i in range(5)]
    for n in (1, 2, 3):
        echoes.tell(a, op="broadcast", to=all, n=n)
    for name in all:
        row = echoes.until(name, lambda row: row["state"]["count"] == 3)
        assert row["state"]["seen"] == {a: 3} and row["state"]["wrong"] == []


def test_mail_to_nobody_comes_back(echoes: Echoes):
    a = echoes.spawn("a")
    echoes.tell(a, op="ping", to=f"{SESSION}/nobody", n=1)
    row = echoes.until(a, lambda row: row["state"]["other"])
    assert row["state"]["other"] == ["Undelivered"]
