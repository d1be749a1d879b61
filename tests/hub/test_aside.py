"""What takes long is done beside the loop."""

from __future__ import annotations

import select
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from loomd.hub.aside import Aside
from loomd.hub.orders import Orders
from tests.support import BOUND_S


def test_the_loop_goes_on_while_it_is_done_and_hears_of_its_end() -> None:
    aside, go, told = Aside(), threading.Event(), list[Any]()
    try:
        aside.do(lambda: go.wait(BOUND_S), told.append)
        aside.do(lambda: "second", told.append)
        aside.results()
        assert told == []
        go.set()
        while len(told) < 2:
            assert select.select([aside.fd], [], [], BOUND_S)[0]
            aside.results()
        assert told == [True, "second"]
    finally:
        go.set()
        aside.close()


def test_what_fails_there_fails_in_the_loop() -> None:
    aside = Aside()
    try:
        aside.do(lambda: 1 // 0, lambda value: None)
        assert select.select([aside.fd], [], [], BOUND_S)[0]
        with pytest.raises(ZeroDivisionError):
            aside.results()
    finally:
        aside.close()


def test_the_memory_of_processes_is_not_read_in_the_loop() -> None:
    aside = SimpleNamespace(asked=[], do=lambda work, then: aside.asked.append((work, then)))
    children = [["a", 1, None], ["b", 1, 5], ["c", 1, 6]]
    which = SimpleNamespace(which=lambda then: then({"children": children}))
    hub = SimpleNamespace(aside=aside, root=which, rules=SimpleNamespace(actors={}))
    queries = SimpleNamespace(process=lambda name, worker: {"name": name, "pid": worker[2]})
    said: list[Any] = []
    Orders(hub, queries).ps(said.append, memory=True)  # type: ignore[arg-type]
    assert said == []
    for kb, (_, then) in enumerate(aside.asked, 7):
        assert said == []
        then(kb)
    [rows] = said
    assert [row["pss_kb"] for row in rows] == [0, 7, 8]
