"""Shapes of providers in, outcomes out."""

from __future__ import annotations

from typing import Any

import pytest

from loomd.gateway import classify
from loomd.gateway.classify import Assembly, failure
from loomd.gateway.counts import tokens
from loomd.gateway.types import ToolSchema
from loomd.wire import codec
from loomd.wire.bodies import Call, Failed, FinalAnswer, Outcome, Repair, ToolCalls

TOOLS = (ToolSchema("read"), ToolSchema("grep"))


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def outcome(*chunks: dict[str, Any]) -> Outcome:
    assembly = Assembly()
    for chunk in chunks:
        assembly.feed(chunk)
    return classify.outcome(assembly.answer(), TOOLS)


def kind(*chunks: dict[str, Any]) -> str:
    made = outcome(*chunks)
    assert isinstance(made, Failed)
    return made.kind


def call(arguments: Any, finish: str = "tool_calls", **more: Any) -> Call:
    function = {"name": "read", "arguments": arguments}
    made = outcome(delta(finish, tool_calls=[{"index": 0, "id": "c", "function": function} | more]))
    assert isinstance(made, ToolCalls)
    return made.calls[0]


def test_pieces_of_text_are_put_together_and_told_as_they_come() -> None:
    assembly = Assembly()
    assert assembly.feed(delta(content="Hel")) == ("Hel", "", ())
    assert assembly.feed(delta(content="lo", reasoning_content="why")) == ("lo", "why", ())
    assembly.feed(delta("stop"))
    assert classify.outcome(assembly.answer(), TOOLS) == FinalAnswer(text="Hello", reasoning="why")


def test_a_whole_answer_is_read_like_a_stream_of_one() -> None:
    message = {"role": "assistant", "content": "Hi"}
    assert outcome({"choices": [{"message": message, "finish_reason": "stop"}]}) == FinalAnswer(
        text="Hi"
    )


def test_arguments_in_pieces_and_calls_side_by_side() -> None:
    made = outcome(
        delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "read", "arguments": ""}}]),
        delta(tool_calls=[{"index": 1, "id": "b", "function": {"name": "grep"}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"path": '}}]),
        delta(tool_calls=[{"index": 1, "function": {"arguments": '{"pattern": "x"}'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '"a.py"}'}}]),
        delta("tool_calls"),
    )
    assert made == ToolCalls(
        calls=(
            Call(id="a", name="read", args={"path": "a.py"}, provider_id="a"),
            Call(id="b", name="grep", args={"pattern": "x"}, provider_id="b"),
        )
    )


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    made = outcome(
        delta(tool_calls=[{"id": "a", "function": {"name": "read", "arguments": "{}"}}]),
        delta(tool_calls=[{"id": "b", "function": {"name": "grep", "arguments": "{}"}}]),
        delta("tool_calls"),
    )
    assert isinstance(made, ToolCalls) and [c.name for c in made.calls] == ["read", "grep"]


def test_calls_said_with_the_reason_stop_are_still_calls() -> None:
    assert call("{}", finish="stop").name == "read"


@pytest.mark.parametrize(
    "arguments",
    ['{"path": "a"}', {"path": "a"}, '"{\\"path\\": \\"a\\"}"', '```json\n{"path": "a"}\n```'],
)
def test_arguments_are_read_in_the_forms_that_servers_send(arguments: Any) -> None:
    assert call(arguments).args == {"path": "a"} and call(arguments).error == ""


@pytest.mark.parametrize("arguments", ["", "   ", "null", "{}", None])
def test_no_arguments_are_an_empty_object(arguments: Any) -> None:
    assert call(arguments) == Call(id="c", name="read", provider_id="c")


@pytest.mark.parametrize("arguments", ['{"path": ', "[1]", "7", "path=a", "[" * 100_000])
def test_arguments_that_cannot_be_read_are_an_error_of_the_call_alone(arguments: str) -> None:
    made = call(arguments)
    assert made.args == {} and made.error and len(made.error) < 1000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"content": "a\\ud800b"}', "half of a character"),
        ('{"\\udc00": 1}', "half of a character"),
        ({"content": ["\ud83d"]}, "half of a character"),
        ('{"offset": 1' + "0" * 30 + "}", "64 bits"),
        ('{"offset": -9223372036854775809}', "64 bits"),
        ('{"offset": NaN}', "nan"),
        ('{"offset": 1e400}', "inf"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "nesting"),
        ({"a": {"b": float("-inf")}}, "-inf"),
    ],
)
def test_arguments_that_no_message_can_hold_are_an_error_of_the_call_alone(
    arguments: Any, said: str
) -> None:
    made = call(arguments)
    assert made.args == {} and said in made.error
    codec.encode(made)


def test_what_messages_can_hold_is_left_as_it_is() -> None:
    given = {"a": [1, -(1 << 63), (1 << 64) - 1, 0.5, None, True, "\U0001f600", {"b": "\0"}]}
    assert call(given).args == given
    assert call('{"a": "\\ud83d\\ude00"}').args == {"a": "\U0001f600"}


def test_half_a_character_is_joined_with_its_other_half_or_replaced() -> None:
    assembly = Assembly()
    assert assembly.feed(delta(content="a\ud83d")) == ("a\ufffd", "", ())
    assembly.feed(delta(content="\ude00b\udfff", reasoning_content="\ud800"))
    assembly.feed(delta("stop"))
    made = classify.outcome(assembly.answer(), TOOLS)
    assert made == FinalAnswer(
        text="a\U0001f600b\ufffd", reasoning="\ufffd", repairs=(Repair(kind="characters"),)
    )
    codec.encode(made)
    codec.encode(outcome(delta("stop", refusal="no\ud800")))
    codec.encode(failure(("APIError",), 500, "no\ud800"))
    function = {"name": "read\ud800", "arguments": "{\ud800"}
    named = outcome(delta("tool_calls", tool_calls=[{"id": "c\ud800", "function": function}]))
    codec.encode(named)


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -1.0, 10**400, "1"])
def test_a_cost_that_is_no_sum_of_money_is_untold(cost: Any) -> None:
    assembly = Assembly()
    assembly.feed({"usage": {"prompt_tokens": 10**30, "completion_tokens": 1, "cost": cost}})
    told, _ = tokens(assembly.usage)
    assert told is not None and told.cost_usd is None
    codec.encode(told)


def test_arguments_cut_off_by_the_limit_say_so() -> None:
    assert "cut off" in call('{"path": "a', finish="length").error


def test_a_line_break_inside_a_string_is_forgiven() -> None:
    assert call('{"path": "a\nb"}').args == {"path": "a\nb"}


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([delta(content="half")], "network"),
        ([delta("stop")], "empty"),
        ([delta("stop", content=" \n")], "empty"),
        ([delta("length", content="half")], "malformed"),
        ([delta("content_filter", content="half")], "filtered"),
        ([delta("stop", refusal="I will not")], "refused"),
        ([], "malformed"),
        ([{"nonsense": 1}, {"choices": [None]}, {"choices": "x"}], "malformed"),
        ([{"error": {"message": "Overloaded", "code": 529}}], "overloaded"),
        ([{"error": "broken"}], "server"),
    ],
)
def test_what_is_no_answer_is_a_failure_of_its_own_kind(
    chunks: list[dict[str, Any]], expected: str
) -> None:
    assert kind(*chunks) == expected


def test_an_answer_over_the_limit_is_refused_before_a_commit_would_be() -> None:
    assert kind(delta("stop", content="x" * (classify.ANSWER_LIMIT + 1))) == "malformed"


def test_thoughts_in_tags_or_typed_parts_are_reasoning() -> None:
    assert outcome(delta("stop", content="<think>hm</think>\nyes")) == FinalAnswer(
        text="yes", reasoning="hm"
    )
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]
    assert outcome(delta("stop", content=parts)) == FinalAnswer(text="yes", reasoning="hm")


def test_tokens_are_as_told_and_none_if_untold() -> None:
    assembly = Assembly()
    assert tokens(assembly.usage) == (None, False)
    assembly.feed(
        {
            "choices": [],
            "usage": {
                "prompt_tokens": 7,
                "completion_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 2},
                "cost": 0.5,
            },
        }
    )
    usage, whole = tokens(assembly.usage)
    assert usage is not None and whole
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (7, 3, 2)
    assert usage.cost_usd == 0.5


def test_our_numbers_are_unique_and_the_models_own_are_kept() -> None:
    twice = ToolCalls(calls=(Call(id="x", name="a", provider_id="x"), Call(id="x", name="b")))
    made = classify.number(twice, "s-1/lead:4")
    assert isinstance(made, ToolCalls)
    assert [c.id for c in made.calls] == ["s-1/lead:4.1", "s-1/lead:4.2"]
    assert made.calls[0].provider_id == "x"


@pytest.mark.parametrize(
    ("names", "status", "message", "expected"),
    [
        (("AuthenticationError",), 401, "Incorrect API key", "auth"),
        (("PermissionDeniedError",), 403, "no", "auth"),
        (("RateLimitError",), 429, "slow down", "rate_limited"),
        (("RateLimitError",), 429, "You exceeded your current quota", "quota"),
        (("PaymentRequiredError", "BadRequestError"), 402, "no credit", "quota"),
        (("BadRequestError",), 400, "maximum context length is 8192 tokens", "context_overflow"),
        (("ContextWindowExceededError", "BadRequestError"), 400, "x", "context_overflow"),
        (("BadRequestError",), 400, "temperature must be a number", "malformed"),
        (("BadRequestError",), 400, "LLM Provider NOT provided", "unknown_model"),
        (("NotFoundError",), 404, "The model `x` does not exist", "unknown_model"),
        (("ContentPolicyViolationError", "BadRequestError"), 400, "x", "filtered"),
        (("InternalServerError",), 500, "oops", "server"),
        (("InternalServerError", "ConnectError", "OSError"), 500, "refused", "network"),
        (("InternalServerError",), 500, "Missing credentials", "auth"),
        (("ServiceUnavailableError",), 503, "busy", "overloaded"),
        (("APIError",), 529, "Overloaded", "overloaded"),
        (("Timeout", "APITimeoutError", "APIConnectionError"), 408, "x", "timeout"),
        (("MidStreamFallbackError", "ReadError"), 503, "peer closed", "network"),
        (("APIConnectionError",), 500, "Connection error.", "network"),
        (("JSONDecodeError", "ValueError"), None, "Expecting value", "malformed"),
        (("ValueError",), None, "something new", "malformed"),
        (("APIError",), None, "something new", "server"),
    ],
)
def test_errors_by_name_status_and_text(
    names: tuple[str, ...], status: int | None, message: str, expected: str
) -> None:
    failed = failure(names, status, message)
    assert failed.kind == expected
    assert failed.retryable == (expected in classify.RETRYABLE)


def test_a_broken_installation_is_not_tried_again() -> None:
    assert not failure(("ModuleNotFoundError", "ImportError"), 500, "No module").retryable


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Mon, 01 Jan 99999999999 00:00:00 GMT"}, None),
        ({"retry-after": "nan"}, 0.0),
        ({}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], expected: float | None) -> None:
    assert failure(("RateLimitError",), 429, "x", headers, now=60.0).retry_after == expected


def test_a_page_of_html_is_told_by_its_text_and_long_details_are_cut() -> None:
    page = "<!DOCTYPE html><html><body><h1>Bad\n gateway</h1></body></html>"
    assert failure((), 502, page).detail == "an HTML page: Bad gateway"
    assert failure((), 200, page).kind == "malformed"
    assert len(failure((), 500, "x" * 10_000).detail) <= classify.DETAIL_LIMIT
