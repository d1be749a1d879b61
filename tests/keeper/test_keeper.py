"""A keeper as a script: recalls in, hits out; what it gives is what lies in the log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loomd.actor import behaviour as act
from loomd.keeper.memory import ANSWER_BYTES, HIT_TEXT, window
from loomd.keeper.process import MAX_OPEN, Keeper, KeeperBehaviour
from loomd.wire import codec
from loomd.wire.bodies import (
    Body,
    Call,
    Entry,
    Failed,
    FinalAnswer,
    KeeperReady,
    ModelOutcome,
    ModelRequest,
    Note,
    Recall,
    Recalled,
    Say,
    Span,
    Undelivered,
)
from loomd.wire.errors import LoomError

LOG = "s-1/coder-1"
BEHAVIOUR = KeeperBehaviour()


class Log:
    """A log in memory: what the reader of a real keeper gives."""

    def __init__(self, *entries: Entry, blobs: dict[str, bytes] | None = None) -> None:
        self.raw = {n: codec.encode(entry) for n, entry in enumerate(entries, 1)}
        self.blobs = blobs or {}

    def entries(self, log: str, first: int, last: int) -> Iterator[tuple[int, Entry]]:
        assert log == LOG
        for n in range(first, last + 1):
            if n in self.raw:
                yield n, codec.entry(self.raw[n])

    def entry_bytes(self, log: str, n: int) -> bytes | None:
        assert log == LOG
        return self.raw.get(n)

    def blob(self, name: str) -> bytes:
        return self.blobs[name]

    def row(self, table: str, key: bytes) -> Any | None:
        return None

    def rows(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        return iter(())


TALK = (
    Entry(role="user", text="rename parse_cfg to parse_config", sender="user"),
    Entry(
        role="assistant",
        text="looking",
        calls=(Call(id="c.1", name="grep", args={"pattern": "parse_cfg", "path": "src/ä"}),),
    ),
    Entry(role="tool", call="c.1", name="grep", text="src/app.py:3: cfg = parse_cfg(path)"),
    Entry(role="assistant", text="There is one use, in the application."),
    Entry(role="user", text="thanks", sender="user"),
)


def keeper(log: Log | None = None, first: int = 1, last: int = 4, saved: Any = None) -> Keeper:
    args = {"log": LOG, "first": first, "last": last, "title": "t-1"}
    spec = act.Spec(name="s-1/keeper-1", kind="keeper", session="s-1", args=args)
    return BEHAVIOUR.init(
        act.Birth(spec=spec, saved=saved, effects=(), reader=log or Log(*TALK), settings={})
    )


def hears(state: Keeper, body: Body, sender: str = "s-1/lead") -> list[act.Change]:
    mail = act.Mailed(2, f"{sender}/1.1", sender, body)
    return BEHAVIOUR.step(state, mail, 1.0)[1]


def sends(changes: list[act.Change]) -> list[tuple[Any, Body]]:
    return [(c.to, c.body) for c in changes if isinstance(c, act.Send)]


def asks(state: Keeper, **recall: Any) -> Recalled:
    answer = BEHAVIOUR.answer(state, Recall(**recall), state.reader)
    assert isinstance(answer, Recalled)
    return answer


def test_a_new_keeper_says_what_it_holds_once():
    state = keeper()
    ((to, ready),) = sends(BEHAVIOUR.step(state, act.Init(), 0.0)[1])
    assert to == "s-1/team"
    assert isinstance(ready, KeeperReady)
    assert (ready.keeper, ready.span) == ("s-1/keeper-1", Span(log=LOG, first=1, last=4))
    assert ready.line.startswith("s-1/keeper-1: entries 1-4 of s-1/coder-1 (t-1): parse_cfg")


def test_exact_gives_the_bytes_of_the_log_with_tool_arguments():
    log = Log(*TALK)
    found = asks(keeper(log), mode="exact", first=2, last=3)
    assert [(hit.entry, hit.raw) for hit in found.hits] == [(2, log.raw[2]), (3, log.raw[3])]
    assert codec.entry(found.hits[0].raw) == TALK[1]
    assert '"path": "src/ä"' in found.hits[0].text
    assert found.hits[1].text == TALK[2].text
    assert not found.truncated


def test_exact_of_one_entry_of_all_and_of_what_it_does_not_hold():
    assert [hit.entry for hit in asks(keeper(), mode="exact", first=3).hits] == [3]
    assert [hit.entry for hit in asks(keeper(), mode="exact").hits] == [1, 2, 3, 4]
    assert [hit.entry for hit in asks(keeper(), mode="exact", first=4, last=9).hits] == [4]
    missing = asks(keeper(), mode="exact", first=5, last=9)
    assert missing.hits == () and "holds entries 1-4" in missing.error


@settings(deadline=None)
@given(st.text(max_size=200), st.dictionaries(st.text(max_size=9), st.text(max_size=30)))
def test_any_entry_comes_back_byte_for_byte(text, args):
    entry = Entry(role="assistant", text=text, calls=(Call(id="c", name="edit", args=args),))
    log = Log(entry)
    (hit,) = asks(keeper(log, 1, 1), mode="exact", first=1).hits
    assert hit.raw == log.raw[1] and codec.entry(hit.raw) == entry


def test_search_finds_arguments_results_and_words_of_identifiers():
    found = asks(keeper(), mode="search", query="parse_cfg")
    assert {hit.entry for hit in found.hits} == {1, 2, 3}
    assert found.hits[0].score >= found.hits[-1].score > 0
    assert [hit.entry for hit in asks(keeper(), query="application").hits] == [4]
    assert asks(keeper(), query="thanks").hits == (), "entry 5 is not in the stretch"
    assert len(asks(keeper(), query="parse", limit=1).hits) == 1
    assert asks(keeper(), query="zebra").hits == ()


def test_a_plain_ask_is_answered_at_once_with_quotes():
    found = asks(keeper(), mode="ask", query="where is parse_cfg used in app.py?")
    assert "[s-1/coder-1 entry 3] src/app.py:3" in found.answer
    assert asks(keeper(), mode="ask", query="zebra").answer == ""


def test_a_recall_by_mail_is_answered_to_its_sender_with_its_id():
    ((to, found),) = sends(hears(keeper(), Recall(id="r-1", query="application"), "s-1/coder-2"))
    assert to == "s-1/coder-2"
    assert isinstance(found, Recalled) and found.id == "r-1"
    assert [hit.entry for hit in found.hits] == [4]


def test_an_ask_by_mail_is_answered_by_a_model_from_the_best_entries():
    state = keeper()
    ((to, request),) = sends(hears(state, Recall(id="r-1", mode="ask", query="parse_cfg uses?")))
    assert to == "models" and isinstance(request, ModelRequest)
    assert (request.purpose, request.tools, request.session) == ("ask", (), "s-1")
    assert {(span.log, span.first) for span in request.view.spans} >= {(LOG, 3)}
    assert any("parse_cfg uses?" in block for block in request.view.pinned)
    state = keeper(saved=codec.unpack(codec.encode(BEHAVIOUR.save(state))))  # a crash meanwhile
    outcome = ModelOutcome(request=request.id, outcome=FinalAnswer(text="In app.py [entry 3]."))
    ((to, found),) = sends(hears(state, outcome, "models"))
    assert to == "s-1/lead" and isinstance(found, Recalled)
    assert (found.id, found.answer) == ("r-1", "In app.py [entry 3].")
    assert 3 in [hit.entry for hit in found.hits]
    assert hears(state, outcome, "models") == []


@pytest.mark.parametrize("how", ["failed", "undelivered"])
def test_without_a_model_an_ask_is_answered_with_quotes(how):
    state = keeper()
    ((_, request),) = sends(hears(state, Recall(id="r-1", mode="ask", query="application")))
    assert isinstance(request, ModelRequest)
    reply: Body = ModelOutcome(request=request.id, outcome=Failed(kind="budget"))
    if how == "undelivered":
        reply = Undelivered(id="m", to="models", reason="full", body=codec.encode(request))
    ((_, found),) = sends(hears(state, reply, "hub"))
    assert isinstance(found, Recalled) and "entry 4" in found.answer


def test_many_open_asks_stay_small_and_the_next_is_answered_at_once():
    state = keeper()
    query = "application " + "ü" * 100_000
    for n in range(MAX_OPEN):
        hears(state, Recall(id=f"r-{n}", mode="ask", query=query))
    assert len(codec.encode(BEHAVIOUR.save(state))) < codec.BLOB_LIMIT
    ((to, found),) = sends(hears(state, Recall(id="r", mode="ask", query=query)))
    assert to == "s-1/lead" and isinstance(found, Recalled) and found.answer


def test_an_answer_fits_into_a_frame_and_says_that_it_was_cut():
    log = Log(*[Entry(role="tool", text="zebra " * 15_000) for _ in range(20)])
    state = keeper(log, 1, 20)
    found = asks(state, mode="exact", first=1, last=20)
    assert found.truncated and 0 < len(found.hits) < 20
    assert len(codec.encode(found)) <= ANSWER_BYTES * 1.1
    last = found.hits[-1].entry
    assert asks(state, mode="exact", first=last + 1, last=20).hits[0].entry == last + 1
    found = asks(state, query="zebra", limit=20)
    assert found.truncated and all(len(hit.text) <= HIT_TEXT + 6 for hit in found.hits)
    assert len(codec.encode(found)) < codec.SOFT_LIMIT


def test_one_huge_entry_still_comes_whole():
    log = Log(Entry(role="user", text="z" * 900_000), Entry(role="user", text="next"))
    found = asks(keeper(log, 1, 2), mode="exact", first=1, last=2)
    assert [hit.raw for hit in found.hits] == [log.raw[1]] and found.truncated
    assert len(codec.encode(found)) < codec.SOFT_LIMIT


def test_what_lies_in_a_blob_is_searched_and_shown():
    entry = Entry(role="tool", name="shell", call="c", blob="b" * 64)
    log = Log(entry, blobs={"b" * 64: b"a zebra \xff crossed"})
    (hit,) = asks(keeper(log, 1, 1), query="zebra").hits
    assert "zebra" in hit.text
    (hit,) = asks(keeper(log, 1, 1), mode="exact", first=1).hits
    assert hit.raw == log.raw[1] and "crossed" in hit.text


def test_reasoning_is_searched_if_it_is_words():
    log = Log(
        Entry(role="assistant", text="a", reasoning="perhaps the zebra did it"),
        Entry(role="assistant", text="b", reasoning="packed:zebra_4f2a1c"),
    )
    state = keeper(log, 1, 2)
    assert [hit.entry for hit in asks(state, query="zebra").hits] == [1]
    assert "zebra_4f2a1c" not in state.memory.line()


def test_other_questions_are_refused_and_other_mail_is_nothing():
    with pytest.raises(LoomError):
        BEHAVIOUR.answer(keeper(), Say(text="?"), Log())
    assert isinstance(BEHAVIOUR.answer(keeper(), Note(), Log()), Note)
    assert hears(keeper(), Say(text="hello")) == []
    assert hears(keeper(), Undelivered(id="m", to="x", reason="full", body=b"\xc1")) == []


def test_a_window_shows_the_place():
    text = "a" * 1_000 + " zebra " + "b" * 1_000
    assert "zebra" in window(text, "the zebra", 100)
    assert window("short", "x", 100) == "short"
    assert len(window(text, "nothing", 100)) <= 106
