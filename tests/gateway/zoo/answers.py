"""Answers: content and thoughts in all forms, ends that contradict, refusals, filters."""

from __future__ import annotations

import json

from tests.gateway.zoo.server import JSON, Case, delta, events, fragment, status, whole

CASES = (
    Case(
        "a text in pieces",
        events(delta(content="Hel"), delta(content="lo"), delta("stop")),
        text="Hello",
    ),
    Case("a whole answer", whole(content="Hello"), text="Hello", kind=JSON, stream=False),
    Case(
        "a whole answer to one who asked for a stream",
        whole(content="Hello"),
        text="Hello",
        kind=JSON,
        repairs=[("whole", 0)],
    ),
    Case(
        "content as parts, whole",
        whole(content=[{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]),
        text="Hello",
        kind=JSON,
        stream=False,
    ),
    Case(
        "content as parts, streamed",
        events(
            delta(content=[{"type": "text", "text": "Hel"}]),
            delta(content=[{"type": "text", "text": "lo"}]),
            delta("stop"),
        ),
        text="Hello",
    ),
    Case(
        "a part of thought before the part of text",
        events(
            delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
            delta(content=[{"type": "text", "text": "yes"}]),
            delta("stop"),
        ),
        text="yes",
        reasoning="hm",
    ),
    Case(
        "reasoning_content",
        events(
            delta(reasoning_content="h"),
            delta(reasoning_content="m"),
            delta(content="yes"),
            delta("stop"),
        ),
        text="yes",
        reasoning="hm",
    ),
    Case(
        "reasoning under two names",
        events(delta(reasoning="hm", reasoning_content="hm"), delta(content="yes"), delta("stop")),
        text="yes",
        reasoning="hm",
    ),
    Case(
        "reasoning and text in turns",
        events(
            delta(reasoning_content="one. "),
            delta(content="First, "),
            delta(reasoning_content="two."),
            delta(content="second."),
            delta("stop"),
        ),
        text="First, second.",
        reasoning="one. two.",
    ),
    Case(
        "<think>",
        events(delta(content="<thi"), delta(content="nk>\nhm\n</think>\n\nyes"), delta("stop")),
        text="yes",
        reasoning="hm",
    ),
    Case(
        "<think>, whole",
        whole(content="<think>hm</think>yes"),
        text="yes",
        reasoning="hm",
        kind=JSON,
        stream=False,
    ),
    Case(
        "</think> whose beginning the template has swallowed",
        events(delta(content="hm\n</think>\n\nyes"), delta("stop")),
        text="yes",
        reasoning="hm",
    ),
    Case(
        "<think> between texts",
        events(
            delta(content="First.\n<think>and now?</think>\nSecond.\n<think>so</think>\nThird."),
            delta("stop"),
        ),
        text="First.\nSecond.\nThird.",
        reasoning="and now?\n\nso",
    ),
    Case(
        "<think> that is quoted",
        events(delta(content="Put it into `<think>` and `</think>`."), delta("stop")),
        text="Put it into `<think>` and `</think>`.",
    ),
    Case(
        "thoughts and no answer",
        events(delta(content="<think>I shall"), delta("stop")),
        failed=("empty", "nothing but thoughts"),
        retryable=True,
    ),
    # ends
    Case(
        "`stop` behind a call",
        events(
            delta(tool_calls=[fragment('{"path": "a"}', "read", index=0, id="a")]), delta("stop")
        ),
        calls=[("read", {"path": "a"})],
        repairs=[("finish", 0)],
    ),
    Case(
        "`tool_calls` behind a text",
        events(delta(content="done"), delta("tool_calls")),
        text="done",
        repairs=[("finish", 0)],
    ),
    Case(
        "`tool_calls` and nothing",
        events(delta(content=""), delta("tool_calls")),
        failed=("empty", "answered nothing"),
    ),
    Case(
        "an end that nobody knows",
        events(delta(content="done"), delta("satisfied")),
        text="done",
        repairs=[("finish", 0)],
    ),
    Case(
        "an end in capitals",
        events(delta(content="half"), delta("MAX_TOKENS")),
        failed=("malformed", "cut off at the limit of output tokens: half"),
    ),
    Case(
        "cut off before anything was said",
        events(delta(reasoning_content="hm"), delta("length")),
        failed=("malformed", "before it had begun"),
    ),
    Case(
        "the end comes with the last text",
        events(delta(content="Hel"), delta("stop", content="lo")),
        text="Hello",
    ),
    Case(
        "the server could not read the model's call",
        events(delta("MALFORMED_FUNCTION_CALL")),
        failed=("malformed", "could not read the call"),
    ),
    Case(
        "the server ended it with an error",
        events(delta(content="half"), delta("error")),
        failed=("server", "ended the answer with an error"),
        retryable=True,
    ),
    # refusals and filters
    Case(
        "a refusal in pieces",
        events(delta(refusal="I can't "), delta(refusal="help with that."), delta("stop")),
        failed=("refused", "I can't help with that."),
        retryable=False,
    ),
    Case(
        "a refusal, whole",
        whole(content=None, refusal="No."),
        failed=("refused", "No."),
        kind=JSON,
        stream=False,
    ),
    Case(
        "a refusal as the end",
        events(delta(content="I must not."), delta("refusal")),
        failed=("refused", "I must not."),
    ),
    Case(
        "a filter stopped the answer",
        events(delta(content="half"), delta("content_filter")),
        failed=("filtered", "filter"),
        retryable=False,
    ),
    Case(
        "a filter refused the question",
        (
            json.dumps(
                {
                    "error": {
                        "message": "The response was filtered",
                        "code": "content_filter",
                        "status": 400,
                    }
                }
            ).encode(),
        ),
        head=status("400 Bad Request"),
        failed=("filtered", "filtered"),
    ),
    # nothing
    Case("nothing but an end", events(delta("stop")), failed=("empty", "nothing"), retryable=True),
    Case("spaces", events(delta(content=" \n"), delta("stop")), failed=("empty", "nothing")),
    Case(
        "no choices",
        events({"id": "c", "choices": []}),
        failed=("malformed", "no answer of a chat model"),
    ),
    Case(
        "no choices, whole",
        (b'{"id": "c", "object": "chat.completion", "choices": []}',),
        kind=JSON,
        stream=False,
        failed=("malformed", "no answer of a chat model"),
    ),
    Case(
        "choices are null",
        (b'{"id": "c", "choices": null}',),
        kind=JSON,
        stream=False,
        failed=("malformed", "no answer of a chat model"),
    ),
    Case(
        "a server that completes texts",
        events({"choices": [{"index": 0, "text": "Hello", "finish_reason": "stop"}]}),
        text="Hello",
    ),
)
