"""What clients see of an answer as it comes, and what one gets that attaches later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomctl.answers import Answers
from loomd.gateway.classify import ANSWER_LIMIT
from loomd.gateway.streams import Streams
from loomd.gateway.types import CallPiece
from loomd.wire import bodies as b
from tests.gateway.test_gateway import LOG, ORDER, FakeStage


def deltas(stage: FakeStage) -> list[dict[str, Any]]:
    return [data for _, data in stage.published if data["type"] == "delta"]


def test_the_first_piece_comes_at_once_and_what_follows_together() -> None:
    async def run() -> list[Any]:
        stage = FakeStage(LOG)
        answer = Streams(stage).open("r#1", ORDER, 1)
        answer.pieces("He", "", ())
        assert [d["text"] for d in deltas(stage)] == ["He"]
        for piece in ("l", "lo"):
            answer.pieces(piece, "", ())
        answer.pieces("", "why", ())
        assert len(deltas(stage)) == 1
        answer.flush()
        answer.flush()
        assert {topic for topic, _ in stage.published} == {"d/s-1/"}
        return [(d["kind"], d["offset"], d["text"]) for d in deltas(stage)]

    assert asyncio.run(run()) == [("text", 0, "He"), ("text", 2, "llo"), ("reasoning", 0, "why")]


def test_what_is_kept_comes_by_itself() -> None:
    async def run() -> list[str]:
        stage = FakeStage(LOG)
        answer = Streams(stage).open("r#1", ORDER, 1)
        answer.pieces("a", "", ())
        stage.first = asyncio.get_running_loop().create_future()
        answer.pieces("b", "", ())
        await asyncio.wait_for(stage.first, 15)
        return [d["text"] for d in deltas(stage)]

    assert asyncio.run(run()) == ["a", "b"]


def test_each_call_has_a_stream_of_its_own() -> None:
    async def run() -> list[dict[str, Any]]:
        stage = FakeStage(LOG)
        streams = Streams(stage)
        answer = streams.open("r#1", ORDER, 2)
        answer.pieces("", "", (CallPiece(0, "read", ""), CallPiece(1, "grep", '{"a')))
        answer.pieces("", "", (CallPiece(0, "", '{"path": 1}'), CallPiece(1, "", '": 2}')))
        streams.close("r#1")
        return deltas(stage)

    said: dict[tuple[str, str], str] = {}
    for delta in asyncio.run(run()):
        key = delta["stream"], delta["name"]
        said[key] = said.get(key, "") + delta["text"]
    assert said == {
        ("r#1.2/call.0", "read"): '{"path": 1}',
        ("r#1.2/call.1", "grep"): '{"a": 2}',
    }


@pytest.mark.parametrize(("lasting", "told"), [(True, ["answer", ""]), (False, [])])
def test_phases_that_last_are_said_and_their_end_too(lasting: bool, told: list[str]) -> None:
    async def run() -> list[str]:
        stage = FakeStage(LOG)
        streams = Streams(stage)
        answer = streams.open("r#1", ORDER, 1)
        for phase in ("connect", "first_byte", "answer"):
            answer.phase(phase)
        if lasting:
            stage.first = asyncio.get_running_loop().create_future()
            await asyncio.wait_for(stage.first, 15)
            stage.first = None
        streams.close("r#1")
        streams.close("r#1")
        return [data["phase"] for _, data in stage.published if data["type"] == "call"]

    assert asyncio.run(run()) == told


def test_more_than_any_answer_may_have_is_not_read() -> None:
    async def run() -> tuple[bool, bool]:
        answer = Streams(FakeStage(LOG)).open("r#1", ORDER, 1)
        half = "x" * (ANSWER_LIMIT // 2)
        taken = answer.pieces(half, "", ()) and answer.pieces("", half, ())
        more = answer.pieces("", "", (CallPiece(0, "f", "x"),))
        answer.end()
        return taken, more

    assert asyncio.run(run()) == (True, False)


def test_only_the_answers_of_a_session_are_told_to_who_asks_for_it() -> None:
    async def run() -> tuple[Any, Any]:
        streams = Streams(FakeStage(LOG))
        streams.open("r#1", ORDER, 1).pieces("hello", "", ())
        mine, other = streams.snapshot("s-1", {}), streams.snapshot("s-2", {})
        streams.close("r#1")
        return mine, other

    mine, other = asyncio.run(run())
    assert [d["text"] for d in mine["deltas"]] == ["hello"]
    assert other == {"deltas": [], "more": False}


PIECES = st.lists(
    st.tuples(st.sampled_from(["text", "reasoning", "call"]), st.text(min_size=1, max_size=40)),
    max_size=30,
)


@given(PIECES, st.integers(0, 30), st.sets(st.integers(0, 60)), st.integers(1, 4000))
def test_a_client_that_comes_late_and_loses_pieces_has_neither_hole_nor_repeat(
    pieces: list[tuple[str, str]], attach: int, lost: set[int], among: int
) -> None:
    """A gateway, and a client that attaches before piece `attach` and does not get the `lost`
    publications; the text so far comes in small replies where `among` is large."""

    async def run() -> tuple[dict[str, str], dict[str, str]]:
        stage = FakeStage(LOG)
        streams = Streams(stage)
        answer = streams.open("r#1", ORDER, 1)
        client = Answers(lambda have: streams.snapshot("s-1", have, among))
        got: dict[str, str] = {}
        want: dict[str, str] = {}

        def show(delta: dict[str, Any]) -> None:
            before = got.get(delta["stream"], "")
            assert delta["offset"] == len(before)
            got[delta["stream"]] = before + delta["text"]

        seen = 0
        for n, (kind, text) in enumerate(pieces):
            if n == attach:
                seen = len(stage.published)
                for delta in client.catch_up():
                    show(delta)
            calls = (CallPiece(0, "f", text),) if kind == "call" else ()
            answer.pieces(*(text if kind == one else "" for one in ("text", "reasoning")), calls)
            answer.flush()
            stream = f"r#1.1/{'call.0' if kind == 'call' else kind}"
            want[stream] = want.get(stream, "") + text
            if n >= attach:
                for number in range(seen, len(stage.published)):
                    if number not in lost:
                        for delta in client.take(stage.published[number][1]):
                            show(delta)
                seen = len(stage.published)
        for delta in client.catch_up():
            show(delta)
        streams.close("r#1")
        return got, want

    got, want = asyncio.run(run())
    assert got == want


def test_a_hole_that_nobody_can_fill_stays_and_is_seen_by_its_offset() -> None:
    client = Answers(lambda have: {"deltas": [], "more": False})
    late = {"stream": "x", "kind": "text", "offset": 10, "text": "late"}
    assert list(client.take(late)) == [late]
    assert list(client.take({"kind": "output", "text": "1"})) == [{"kind": "output", "text": "1"}]


def test_the_performer_answers_who_asks_for_the_text_so_far() -> None:
    from tests.gateway.test_gateway import Bench

    async def run() -> b.Body | None:
        async with Bench(FakeStage(LOG)) as bench:
            question = b.Note(data={"streams": "s-1", "have": {}, "among": 1})
            assert await bench.performer.ask(b.Note(data={"what": 1})) is None
            return await bench.performer.ask(question)

    assert asyncio.run(run()) == b.Note(data={"deltas": [], "more": False})
