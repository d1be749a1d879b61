"""Phases of calls, as `ps` and `sessions` show them."""

from __future__ import annotations

from loomd.hub.calls import Calls


def said(agent: str, phase: str, since: float, request: str = "r:1") -> dict[str, object]:
    return {"type": "call", "agent": agent, "request": request, "phase": phase, "since": since}


def test_a_call_waits_for_what_its_phase_says_until_it_has_ended() -> None:
    calls = Calls()
    assert calls.waiting_for("s-1/lead", 100.0) == ""
    calls.note("gateway-1", said("s-1/lead", "connect", 60.0))
    assert calls.waiting_for("s-1/lead", 62.0) == "connection, 2 s"
    calls.note("gateway-1", said("s-1/lead", "first_byte", 62.0))
    assert calls.waiting_for("s-1/lead", 102.4) == "first byte, 40 s"
    calls.note("gateway-1", said("s-1/lead", "", 103.0, request="r:0"))  # of an earlier one
    assert calls.waiting_for("s-1/lead", 102.4) == "first byte, 40 s"
    calls.note("gateway-1", said("s-1/lead", "", 103.0))
    assert calls.waiting_for("s-1/lead", 103.0) == "" and calls.open == {}


def test_a_session_shows_the_call_that_waits_longest() -> None:
    calls = Calls()
    calls.note("gateway-1", said("s-1/lead", "first_byte", 90.0))
    assert calls.of_session("s-1", 100.0) == "first byte, 10 s"
    calls.note("gateway-1", said("s-1/coder-1", "answer", 80.0))
    calls.note("gateway-1", said("s-2/lead", "connect", 1.0))
    assert calls.of_session("s-1", 100.0) == "rest of the answer, 20 s (2 calls)"
    assert calls.of_session("s-3", 100.0) == ""


def test_calls_end_with_their_gateway_and_garbage_is_none() -> None:
    calls = Calls()
    calls.note("gateway-1", said("s-1/lead", "connect", 1.0))
    calls.note("gateway-2", said("s-1/coder-1", "connect", 1.0))
    calls.note("gateway-2", {"type": "call", "agent": 3})
    calls.note("gateway-2", said("s-1/x", "dancing", 1.0))
    calls.gone("gateway-1")
    assert list(calls.open) == ["s-1/coder-1"]
