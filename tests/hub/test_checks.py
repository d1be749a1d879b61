"""What is made of a model's answer to the question whether it is there."""

from __future__ import annotations

import pytest

from loomd.hub.checks import Checks, said
from loomd.wire import codec
from loomd.wire.bodies import Failed, FinalAnswer, ModelOutcome, Note, Outcome, Usage

READY = FinalAnswer(text="ready")


@pytest.mark.parametrize(
    ("model", "outcome", "usage", "ok"),
    [
        ("openai/m", READY, Usage(output_tokens=1), True),
        ("openai/m", Failed(kind="empty"), Usage(), True),
        ("openai/m", Failed(kind="malformed"), Usage(output_tokens=64), True),
        ("openai/m", Failed(kind="malformed"), Usage(), False),
        ("openai/m", Failed(kind="auth", hint="set it"), Usage(), False),
        ("openai/m", Failed(kind="budget"), Usage(), False),
        ("replay/f", Failed(kind="refused"), Usage(), True),
        ("replay/f", Failed(kind="unknown_model"), Usage(), False),
    ],
)
def test_who_answers_is_there(model: str, outcome: Outcome, usage: Usage, ok: bool) -> None:
    made = said(ModelOutcome(request="r", outcome=outcome, usage=usage, model=model), 0.25)
    assert (made["ok"], made["ms"], made["cost_usd"]) == (ok, 250, usage.cost_usd)
    assert made["hint"] == ("set it" if made["kind"] == "auth" else "")
    assert made["kind"] == ("" if ok or not isinstance(outcome, Failed) else outcome.kind)


def test_only_what_was_asked_is_told_and_once() -> None:
    told: list[bool] = []
    checks = Checks({"r": (0.0, lambda check: told.append(check["ok"]))})
    for body in (
        Note(data={}),
        ModelOutcome(request="other", outcome=READY),
        ModelOutcome(request="r", outcome=READY),
        ModelOutcome(request="r", outcome=READY),
    ):
        checks.told(codec.encode(body))
    assert told == [True] and not checks.open
