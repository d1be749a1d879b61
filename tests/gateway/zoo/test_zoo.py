"""Every case of the zoo: bytes on a socket, through litellm, to one outcome."""

from __future__ import annotations

import pytest

from loomd.gateway.repairs import KINDS
from tests.gateway.zoo import (
    answers,
    arguments,
    calls,
    dialects,
    server,
    servers,
    texts,
    tokens,
    wire,
)

pytestmark = [
    # litellm's own, and pydantic's about litellm's models; nothing of ours is let through
    pytest.mark.filterwarnings("ignore:.*ReadOnly.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]

TABLES = {
    "calls": calls.CASES,
    "arguments": arguments.CASES,
    "texts": texts.CASES,
    "answers": answers.CASES,
    "tokens": tokens.CASES,
    "wire": wire.CASES,
    "dialects": dialects.CASES,
    "servers": servers.CASES,
}
ALL = [(table, case) for table, cases in TABLES.items() for case in cases]


@pytest.fixture(scope="module")
def results() -> list[server.Result]:
    """Once for all tests, before the first of them counts descriptors and threads."""
    backend = __import__("loomd.gateway.litellm_backend", fromlist=["litellm"])
    for model in ("openai/gpt-5-mini", "anthropic/claude-sonnet-4-5"):
        backend.litellm.token_counter(model=model, text="x")  # loads its tokenizer, with threads
    return server.run([case for _, case in ALL])


@pytest.mark.parametrize(
    "number", range(len(ALL)), ids=[f"{table}: {case.name}" for table, case in ALL]
)
def test_the_zoo(number: int, results: list[server.Result]) -> None:
    server.check(ALL[number][1], results[number])


def test_the_names_of_cases_are_unique_and_every_kind_of_repair_is_shown() -> None:
    names = [(table, case.name) for table, case in ALL]
    assert len(names) == len(set(names)) >= 80
    shown = {kind for _, case in ALL for kind, _ in case.repairs}
    assert shown == set(KINDS)
