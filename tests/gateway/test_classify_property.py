"""Whatever a server sends, however it is cut: one outcome, storable, and the same for every cut."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loomd.gateway import classify, lenient, written
from loomd.gateway.assembly import Assembly
from loomd.gateway.counts import tokens
from loomd.gateway.events import Events
from loomd.gateway.offered import Offered
from loomd.gateway.types import ToolSchema
from loomd.wire import codec
from loomd.wire.bodies import Outcome, ToolCalls

PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOLS = (ToolSchema("read", "", PATH), ToolSchema("grep"))

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
KEYS = """
choices delta message content tool_calls function name arguments index id finish_reason error
usage text type code prompt_tokens completion_tokens function_call refusal
"""
keys = st.sampled_from(KEYS.split())
values = st.recursive(
    leaves
    | st.sampled_from(["stop", "length", "read", '{"path": "a"}', "<tool_call>", "thinking"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=25,
)
fragments = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({}, optional={"name": values, "arguments": values})},
    optional={"index": st.integers(0, 2) | values, "id": st.sampled_from(["a", "b", ""]) | values},
)
choices = st.fixed_dictionaries(
    {},
    optional={
        "delta": st.dictionaries(keys, values, max_size=3)
        | st.fixed_dictionaries({"tool_calls": st.lists(fragments, max_size=3)}),
        "message": values,
        "finish_reason": values,
        "error": values,
    },
)
chunks = st.lists(
    st.dictionaries(keys, values, max_size=4)
    | st.fixed_dictionaries({"choices": st.lists(choices, max_size=2)}),
    max_size=6,
)


def received(packets: list[bytes]) -> tuple[Outcome, Assembly]:
    events, assembly = Events(), Assembly()
    for packet in packets:
        for chunk in events.feed(packet):
            assembly.feed(chunk)
    for chunk in events.end():
        assembly.feed(chunk)
    assembly.received(events)
    return classify.outcome(assembly.answer(), TOOLS), assembly


@settings(max_examples=300, deadline=None)
@given(chunks)
def test_any_objects_are_one_outcome_that_can_be_stored(sent: list[dict[str, Any]]) -> None:
    raw = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in sent)
    made, assembly = received([raw])
    codec.encode(classify.number(made, "r"))
    usage, _ = tokens(assembly.usage)
    codec.encode(usage)
    if isinstance(made, ToolCalls):
        for call in made.calls:
            assert call.error or call.fault or call.name in ("read", "grep")
            assert not (call.error and call.args)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_are_one_outcome_that_can_be_stored(packets: list[bytes]) -> None:
    made, _ = received(packets)
    codec.encode(made)


ANSWER = "".join(
    f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\n"
    for choice in (
        {"delta": {"content": "Gr\u00fc\u00dfe \U0001f600 "}},
        {"delta": {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "read"}}]}},
        {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"path": "\u00e4'}}]}},
        {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '.py"}'}}]}},
        {"delta": {}, "finish_reason": "tool_calls"},
    )
).encode()


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, len(ANSWER) + 40), max_size=12))
def test_the_cuts_of_the_network_change_nothing(ends: bytes, cuts: list[int]) -> None:
    raw = ANSWER.replace(b"\n", ends)
    places = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    packets = [raw[a:b] for a, b in itertools.pairwise(places)]
    made, _ = received(packets)
    assert isinstance(made, ToolCalls) and made.text == "Gr\u00fc\u00dfe \U0001f600 "
    assert [(call.name, call.args) for call in made.calls] == [("read", {"path": "\u00e4.py"})]
    assert made.repairs == ()


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(plain)
def test_json_is_read_as_it_is_and_a_dictionary_of_python_as_the_same(value: Any) -> None:
    assert lenient.read(json.dumps(value)) == (json.loads(json.dumps(value)), [])
    mended, _ = lenient.read(json.dumps({"a": value})[:-1] + ",}")
    assert mended == {"a": json.loads(json.dumps(value))}


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text("{}[]'\":,\\ aTrue\n0.e-"))
def test_no_text_is_read_with_another_error_than_its_own(text: str) -> None:
    with contextlib.suppress(lenient.Unreadable):
        value, _ = lenient.read(text)
        json.dumps(value)


marks = st.sampled_from(
    ["<tool_call>", "</tool_call>", "<function=read>", "</function>", "[TOOL_CALLS]", "```json\n",
     "\n```", '{"name": "read", "arguments": {"path": "a"}}', "read", "words ", "`", "[ARGS]",
     "<parameter=path>", "a</parameter>", '<invoke name="read">', "</invoke>",
     "<|tool_call_begin|>",
     "<|tool_call_argument_begin|>", "<|channel|>commentary to=functions.read<|message|>",
     "<|python_tag|>", "<think>", "</think>", "\n", "{", "}"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(marks, max_size=9))
def test_a_text_is_an_answer_or_calls_with_names_and_without_tools_always_an_answer(
    parts: list[str],
) -> None:
    text = "".join(parts)
    assert written.written(text, Offered(())) is None
    found = written.written(text, Offered(TOOLS))
    if found is not None:
        assert found.calls and all(piece.name for piece in found.calls)
        assert found.doubt or len(found.text) < len(text)
