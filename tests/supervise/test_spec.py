"""Specs are checked one field at a time, and refused with the bad value. Case names are OTP's."""

from __future__ import annotations

from typing import Any

import pytest

from loomd.supervise import spec as s

START = {"command": ["toy"]}


def worker(**more: Any) -> dict[str, Any]:
    return {"id": "a", "start": START, **more}


def sup(*children: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "sup", "type": "supervisor", "children": list(children), **more}


def test_sup_start_map_defaults():
    made = s.parse_worker(worker())
    assert (made.restart, made.shutdown_s, made.significant) == ("permanent", 5.0, False)
    inner = s.parse_supervisor(sup())
    assert (inner.restart, inner.shutdown_s, inner.strategy) == (
        "permanent",
        "infinity",
        "one_for_one",
    )
    assert (inner.intensity, inner.period_s, inner.auto_shutdown) == (1, 5.0, "never")


def test_sup_start_map_and_sup_flags_unknown_keys_are_ignored():
    assert s.parse(worker(colour="red")) == s.parse(worker())


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("a", "not_a_spec"),
        ({"start": START}, "missing_id"),
        ({"id": "a"}, "missing_start"),
        (worker(id=""), "invalid_id"),
        (worker(id="../etc"), "invalid_id"),
        (worker(id="a/../b"), "invalid_id"),
        (worker(id="a" * 121), "invalid_id"),
        (worker(id=7), "invalid_id"),
        (worker(type="thread"), "invalid_type"),
        (worker(restart="always"), "invalid_restart"),
        (worker(restart=["permanent"]), "invalid_restart"),
        (worker(shutdown_s=-1), "invalid_shutdown"),
        (worker(shutdown_s=True), "invalid_shutdown"),
        (worker(shutdown_s="soon"), "invalid_shutdown"),
        (worker(shutdown_s=[]), "invalid_shutdown"),
        (worker(shutdown_s=float("nan")), "invalid_shutdown"),
        (worker(significant=1), "invalid_significant"),
        (worker(start=[]), "invalid_start"),
        (worker(start={}), "invalid_start"),
        (worker(start={"command": "ls"}), "invalid_start"),
        (worker(start={"command": [1]}), "invalid_start"),
        (worker(start={"command": ["a\0b"]}), "invalid_start"),
        (worker(start={"command": ["ls"], "template": "actors", "entry": "m:f"}), "invalid_start"),
        (worker(start={"template": "actors", "entry": "m"}), "invalid_entry"),
        (worker(start={"template": "actors", "entry": "m:f", "args": []}), "invalid_args"),
        (worker(start={"command": ["ls"], "nice": 20}), "invalid_nice"),
        (worker(start={"command": ["ls"], "ready": "soon"}), "invalid_ready"),
        (worker(start={"command": ["ls"], "ready_s": 0}), "invalid_ready_s"),
        (sup(strategy="one_for_some"), "invalid_strategy"),
        (sup(intensity=-1), "invalid_intensity"),
        (sup(intensity=1.5), "invalid_intensity"),
        (sup(period_s=0), "invalid_period"),
        (sup(auto_shutdown="always"), "invalid_auto_shutdown"),
        (sup(dynamic=True, strategy="one_for_all"), "bad_combination"),
        (sup(dynamic=True, auto_shutdown="any_significant"), "bad_combination"),
        (sup(worker(), worker()), "duplicate_child_name"),
        (sup(sup(worker(id="sup"))), "duplicate_child_name"),
        ({**sup(), "children": "a"}, "invalid_children"),
        (
            sup(worker(significant=True), auto_shutdown="any_significant"),
            "bad_combination",
        ),
        (sup(worker(significant=True, restart="transient")), "bad_combination"),
    ],
)
def test_sup_start_map_faulty_specs_child_specs_and_sup_flags_name_the_field(spec, reason):
    with pytest.raises(s.SpecError) as wrong:
        s.parse(spec)
    assert wrong.value.reason == reason
    assert repr(wrong.value.value) in str(wrong.value)


@pytest.mark.parametrize("restart", s.RESTARTS)
@pytest.mark.parametrize("shutdown", [0, 0.5, 5, "kill", "infinity"])
def test_child_specs_every_valid_combination_is_accepted(restart, shutdown):
    made = s.parse(worker(restart=restart, shutdown_s=shutdown))
    assert (made.restart, made.shutdown_s) == (restart, shutdown)


def test_a_worker_is_no_supervisor_and_the_other_way_round():
    with pytest.raises(s.SpecError, match="not_a_supervisor"):
        s.parse_supervisor(worker())
    with pytest.raises(s.SpecError, match="not_a_worker"):
        s.parse_worker(sup())
