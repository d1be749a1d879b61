"""Samples in, lines out."""

from __future__ import annotations

import pytest

from loomd.bench.figures import FIGURES
from loomd.bench.report import Figure, line, percentile, text


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.0, 1)]
)
def test_percentiles_are_by_nearest_rank(share, value):
    assert percentile(range(1, 101), share) == value


def test_one_sample_is_every_percentile():
    assert {percentile([7.0], share) for share in (0.0, 0.5, 0.99, 1.0)} == {7.0}


def test_a_figure_that_misses_says_so():
    missed = line(Figure("rtt", "ms", [1.0, 2.0, 3.0], 1.5))
    assert missed.missed and "MISSED" in missed.note
    met = line(Figure("rtt", "ms", [1.0, 2.0, 3.0], 2.0))
    assert not met.missed and "met" in met.note


def test_a_rate_is_missed_below_its_goal():
    assert line(Figure("commits", "1/s", [7000.0], 8000.0, more=True)).missed
    assert not line(Figure("commits", "1/s", [9000.0], 8000.0, more=True)).missed


def test_the_judged_percentile_is_the_goals():
    samples = [1.0] * 98 + [50.0, 60.0]
    assert not line(Figure("starvation", "ms", samples, 2.0)).missed
    assert line(Figure("starvation", "ms", samples, 2.0, judged="p99")).missed


def test_a_line_has_the_shape_that_scripts_rely_on():
    value = line(Figure("rtt", "ms", [2.0, 1.0], floor=0.5, note="as seen")).as_json()
    assert {"name", "unit", "n", "p50", "p95", "p99", "max", "note"} <= set(value)
    assert (value["n"], value["max"], value["goal"], value["missed"]) == (2, 2.0, None, False)
    assert "as seen" in text(line(Figure("rtt", "ms", [1.0], note="as seen")))


def test_the_names_of_the_figures_are_public():
    assert {
        "spawn",
        "restart",
        "rtt_durable",
        "rtt",
        "broadcast_10",
        "broadcast_100",
        "broadcast_durable_10",
        "memory_agent",
        "starvation",
        "commits",
        "tool_call",
        "grep",
        "reload",
    } <= set(FIGURES)
