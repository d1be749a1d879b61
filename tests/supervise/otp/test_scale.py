"""Scale: many children cost what they cost one by one. Work is counted in lines that run, not in
seconds, so that a busy machine changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from loomd.supervise import policy as p
from loomd.supervise import spec as s
from tests.supervise.otp.stage import Stage, sup, worker, workers


def lines_of(work: Callable[[], Any]) -> int:
    """How many lines of the policy run in `work`."""
    count = 0

    def trace(frame: Any, what: str, arg: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != p.__file__:
            return None
        count += what == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def static(n: int, strategy: str) -> None:
    stage = Stage(
        sup("root", *workers(*(f"c{i}" for i in range(n))), strategy=strategy), check=False
    )
    assert len(stage.live) == n
    stage.shutdown()
    assert stage.finish is not None and stage.finish.ok


def dynamic(n: int) -> None:
    stage = Stage(sup("root", dynamic=True, intensity=n), check=False)
    for i in range(n):
        stage.start("root", worker(f"c{i}", "temporary" if i % 2 else "permanent"))
    for i in range(n):
        stage.crash(f"c{i}")
    assert len(stage.live) == n // 2
    stage.shutdown()
    assert stage.finish is not None and stage.finish.ok


@pytest.mark.parametrize("strategy", s.STRATEGIES)
def test_scale_start_stop_many_children(strategy):
    few, many = (lines_of(lambda n=n: static(n, strategy)) for n in (20, 200))
    assert many < 50 * few


def test_simple_one_for_one_scale_many_temporary_children():
    few, many = (lines_of(lambda n=n: dynamic(n)) for n in (20, 200))
    assert many < 12 * few
