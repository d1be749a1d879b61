"""Scripts, and both kinds of files behind the performer."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from loomd.gateway import script
from loomd.gateway.types import Resolved
from loomd.wire import bodies as b
from loomd.wire.errors import LoomError
from tests.gateway.test_gateway import LOG, Bench, FakeStage
from tests.gateway.test_replay import asked
from tests.gateway.test_view import request

SCRIPT = """
# a script
{"role": "coder", "contains": "hello", "text": "hello yourself"}
{"agent": "coder-1", "calls": [{"name": "read", "args": {"path": "a"}}], "text": "I look"}
{"role": "coder", "text": "two"}
{"role": "reviewer", "fail": {"kind": "refused", "detail": "no"}}
"""


@pytest.mark.parametrize(
    ("resolved", "outcome"),
    [
        (
            asked("x"),
            b.ToolCalls(calls=(b.Call(id="", name="read", args={"path": "a"}),), text="I look"),
        ),
        (asked("x", turn=2), b.FinalAnswer(text="two")),
        (asked("x", agent="coder-2"), b.FinalAnswer(text="two")),
        (asked("x", "oh hello", turn=77), b.FinalAnswer(text="hello yourself")),
        (asked("x", role="reviewer", agent="r"), b.Failed(kind="refused", detail="no")),
        (
            asked("x", role="lead", agent="lead"),
            b.Failed(kind="malformed", detail="the script has no answer for turn 1 of lead"),
        ),
    ],
)
def test_who_is_answered_what(resolved: Resolved, outcome: b.Outcome) -> None:
    assert script.parse(SCRIPT).answer(resolved).outcome() == outcome


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n{", "line 2: "),
        ('{"txt": "a"}', "line 1: Object contains unknown field `txt`"),
        ("{}", "line 1: it answers nothing"),
        ('{"fail": {"kind": "tired"}}', "line 1: Invalid enum value 'tired'"),
        ('{"text": "a", "delay_s": -1}', "line 1: a negative number"),
        ('{"text": "a", "delay_s": NaN}', "line 1: it holds nan"),
        ('{"text": "a", "every_s": Infinity}', "line 1: it holds inf"),
        ('{"text": "\\ud800"}', "line 1: it holds half of a character"),
        ('{"calls": [{"name": "x", "args": {"n": 1e400}}]}', "line 1: it holds inf"),
    ],
)
def test_a_faulty_line_is_named(text: str, said: str) -> None:
    with pytest.raises(LoomError) as error:
        script.parse(text)
    assert said in error.value.message


def one(model: str, cancel: bool = False) -> tuple[b.Performed, list[str]]:
    stage = FakeStage(LOG)

    async def run() -> b.Performed:
        async with Bench(stage) as bench:
            id = bench.start(b.Perform(request=request((1, 1)), model=model))
            if cancel:
                await asyncio.sleep(0)
                bench.performer.cancel(id)
                bench.performer.cancel(id)
            return await bench.result(id)

    done = asyncio.run(run())
    return done, [data["text"] for _, data in stage.published if data["type"] == "delta"]


def test_a_scripted_answer_is_streamed_and_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a script.jsonl"
    file.write_text('{"text": "abcdef", "piece": 4, "every_s": 0.0}\n')
    done, pieces = one(f"scripted/{file}")
    assert done.outcome == b.FinalAnswer(text="abcdef") and "".join(pieces) == "abcdef"
    assert (done.usage.cost_usd, done.cost_known, done.price) == (0.0, "computed", (0.0, 0.0))


def test_an_answer_that_no_message_can_hold_is_none(tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_text('{"text": "' + "x" * 10_000_000 + '"}')
    done, pieces = one(f"scripted/{file}")
    assert isinstance(done.outcome, b.Failed) and done.outcome.kind == "malformed"
    assert "over 393216 bytes" in done.outcome.detail and pieces == []


def test_a_scripted_delay_can_be_cancelled(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text('{"text": "late", "delay_s": 3600}')
    done, _ = one(f"scripted/{file}", cancel=True)
    assert isinstance(done.outcome, b.Failed) and done.outcome.kind == "cancelled"


@pytest.mark.parametrize("provider", ["scripted", "replay"])
def test_a_file_that_cannot_be_read_is_an_unknown_model(tmp_path: Path, provider: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "faulty").write_text("nonsense")
    for name, said in (
        ("gone", "No such file"),
        ("pipe", "no file of at most"),
        ("", "no file of at most"),  # the folder
        ("bytes", "is not UTF-8"),
        ("faulty", "line 1"),
    ):
        done, _ = one(f"{provider}/{tmp_path}/{name}")
        assert isinstance(done.outcome, b.Failed), name
        assert (done.outcome.kind, said in done.outcome.detail) == ("unknown_model", True), name


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    from loomd.gateway.played import Played

    played = Played(tmp_path)
    (tmp_path / "s").write_text('{"text": "one"}')
    first = played.load("scripted/s")
    assert played.load("scripted/s") is first
    (tmp_path / "s").write_text('{"text": "another"}')
    assert played.load("scripted/s").lines[0].text == "another"
