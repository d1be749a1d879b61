"""Sums of the ledger: kept as rows, the same as if all of it were read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomd.hub import accounts
from loomd.store.schema import number_key
from loomd.store.tables import Memory
from loomd.wire import codec
from loomd.wire.errors import LoomError

LINE: dict[str, Any] = {
    "session": "s-1",
    "agent": "s-1/a",
    "model": "m",
    "ts": 0.0,
    "input_tokens": 3,
}


def state(lines: Iterable[Mapping[str, Any]], *, at_once: bool = False) -> Memory:
    """With these rows in its ledger; at_once: taken in by a hub that finds them."""
    memory = Memory()
    for n, line in enumerate(lines, 1):
        memory.put("ledger", number_key("ledger", n), codec.pack(line))
        if not at_once:
            accounts.sum_up(memory)
    accounts.sum_up(memory)
    return memory


def test_usage_sums_by_key_and_an_unknown_cost_is_never_zero() -> None:
    txn = state(
        [
            LINE | {"cost_usd": 0.5, "output_tokens": 2},
            LINE | {"cost_usd": 0.25},
            LINE | {"session": "s-2", "cost_usd": None},
            LINE | {"session": "s-2", "cost_usd": 1.0},
        ]
    )
    one, two = accounts.usage(txn, "session")
    assert (one["key"], one["calls"], one["input_tokens"], one["output_tokens"]) == ("s-1", 2, 6, 2)
    assert (one["cost_usd"], two["cost_usd"]) == (0.75, None)
    assert accounts.usage(txn, "day")[0]["key"] == "1970-01-01"
    assert [row["key"] for row in accounts.usage(txn, "model", "s-2")] == ["m"]
    assert (
        accounts.usage(txn, "session", "s-2") == [two] and accounts.usage(txn, "agent", "s") == []
    )
    assert (two["known_usd"], two["unknown"]) == (1.0, 1)
    nothing = accounts.of_session(txn, "s-3")
    assert (nothing["key"], nothing["calls"], nothing["cost_usd"]) == ("s-3", 0, 0.0)
    with pytest.raises(LoomError):
        accounts.usage(txn, "moon")


def test_attempts_are_the_newest_rows_of_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "PAGE_ROWS", 2)
    txn = state([LINE | {"id": f"r{n}", "session": f"s-{n % 2}"} for n in range(5)])
    assert [row["id"] for row in accounts.attempts(txn)] == ["r3", "r4"]
    assert [row["id"] for row in accounts.attempts(txn, "s-1")] == ["r1", "r3"]
    assert accounts.attempts(txn, "s-9") == [] == accounts.attempts(Memory())


def test_usage_tells_the_share_of_the_cache_what_was_lost_and_the_day_that_paid() -> None:
    txn = state(
        [
            LINE | {"cost_usd": 0.5, "input_tokens": 9, "cached_tokens": 3, "reasoning_tokens": 2},
            LINE | {"cost_usd": None, "lost": True, "day": "1970-01-02", "cache_write_tokens": 4},
        ]
    )
    [whole] = accounts.usage(txn, "session")
    assert (whole["cached_share"], whole["lost"], whole["unknown"]) == (0.25, 1, 1)
    assert (whole["reasoning_tokens"], whole["cache_write_tokens"]) == (2, 4)
    assert [row["key"] for row in accounts.usage(txn, "day")] == ["1970-01-01", "1970-01-02"]
    [unknown] = accounts.usage(state([LINE | {"input_tokens": 0}]), "agent")
    assert unknown["cached_share"] is None, "nothing is known to have been read"


NAMES = st.sampled_from(["", "s-1", "s-10", "s-1\0", "*", "#s-1", "m" * 600])


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "session": NAMES,
                "agent": NAMES,
                "model": NAMES,
                "purpose": st.sampled_from(["turn", "ask"]),
                "day": st.sampled_from(["2026-11-27", "2026-11-28"]),
                "input_tokens": st.integers(0, 9),
                "cost_usd": st.sampled_from([None, 0.25, 0.5]),
                "lost": st.booleans(),
            }
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_sums_are_those_of_the_rows(lines: list[dict[str, Any]], at_once: bool) -> None:
    txn = state(lines, at_once=at_once)
    for session in ("", *{line["session"] for line in lines}):
        mine = [line for line in lines if session in ("", line["session"])]
        for by in accounts.KEYS:
            told = {row["key"]: row for row in accounts.usage(txn, by, session)}
            assert told.keys() == {line[by] for line in mine}
            for key, row in told.items():
                of = [line for line in mine if line[by] == key]
                assert (row["calls"], row["lost"]) == (len(of), sum(one["lost"] for one in of))
                assert row["input_tokens"] == sum(one["input_tokens"] for one in of)
                assert row["known_usd"] == sum(one["cost_usd"] or 0 for one in of)
                assert (row["cost_usd"] is None) == any(one["cost_usd"] is None for one in of)
        assert accounts.attempts(txn, session) == mine
