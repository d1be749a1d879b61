"""Calls: their ids, indexes, names, and how they come in pieces."""

from __future__ import annotations

import json

from tests.gateway.zoo.server import JSON, Case, called, delta, events, fragment, whole

A, B = {"path": "a.py"}, {"path": "b.py"}
RAW_A, RAW_B = json.dumps(A), json.dumps(B)

CASES = (
    Case(
        "a call in the common form",
        (
            b'data: {"id":"chatcmpl-9","object":"chat.completion.chunk","created":1732,"model":"m",'
            b'"system_fingerprint":"fp","choices":[{"index":0,"delta":{"role":"assistant","content"'
            b':null,"tool_calls":[{"index":0,"id":"call_abc","type":"function","function":{"name":'
            b'"read","arguments":""}}],"refusal":null},"logprobs":null,"finish_reason":null}]}\n\n',
            b'data: {"id":"chatcmpl-9","object":"chat.completion.chunk","created":1732,"model":"m",'
            b'"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\\"'
            b'path\\":"}}]},"finish_reason":null}]}\n\n',
            b'data: {"id":"chatcmpl-9","object":"chat.completion.chunk","created":1732,"model":"m",'
            b'"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":" \\"'
            b'a.py\\"}"}}]},"finish_reason":null}]}\n\n',
            b'data: {"id":"chatcmpl-9","object":"chat.completion.chunk","created":1732,"model":"m",'
            b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}]}\n\n',
            b'data: {"id":"chatcmpl-9","object":"chat.completion.chunk","created":1732,"model":"m",'
            b'"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}\n'
            b"\n",
            b"data: [DONE]\n\n",
        ),
        calls=[("read", A)],
        ids=["call_abc"],
        usage={"input_tokens": 11, "output_tokens": 7},
        cost="computed",
    ),
    Case(
        "two calls side by side, in turns",
        called(
            fragment("", "read", index=0, id="a"),
            fragment("", "grep", index=1, id="b"),
            fragment('{"path": ', index=0),
            fragment('{"pattern": "x"}', index=1),
            fragment('"a.py"}', index=0),
        ),
        calls=[("read", A), ("grep", {"pattern": "x"})],
        ids=["a", "b"],
    ),
    Case(
        "several calls in one delta",
        events(
            delta(
                tool_calls=[
                    fragment(RAW_A, "read", index=0, id="a"),
                    fragment(RAW_B, "read", index=1, id="b"),
                ]
            ),
            delta("tool_calls"),
        ),
        calls=[("read", A), ("read", B)],
        ids=["a", "b"],
    ),
    Case(
        "several calls in one delta, without indexes and ids",
        events(
            delta(tool_calls=[fragment(RAW_A, "read"), fragment(RAW_B, "read")]),
            delta("tool_calls"),
        ),
        calls=[("read", A), ("read", B)],
        repairs=[("index", 1), ("index", 2), ("id", 1), ("id", 2)],
    ),
    Case(
        "no indexes: a new id begins a new call",
        called(
            fragment('{"path": ', "read", id="a"),
            fragment('"a.py"}'),
            fragment(RAW_B, "read", id="b"),
        ),
        calls=[("read", A), ("read", B)],
        ids=["a", "b"],
        repairs=[("index", 1), ("index", 2)],
    ),
    Case(
        "all indexes are 0",
        called(fragment(RAW_A, "read", index=0, id="a"), fragment(RAW_B, "read", index=0, id="b")),
        calls=[("read", A), ("read", B)],
        ids=["a", "b"],
        repairs=[("index", 2)],
    ),
    Case(
        "all indexes are 0 and there are no ids",
        called(fragment(RAW_A, "read", index=0), fragment(RAW_B, "read", index=0)),
        calls=[("read", A), ("read", B)],
        repairs=[("index", 2), ("id", 1), ("id", 2)],
    ),
    Case(
        "indexes begin at 1",
        called(fragment(RAW_A, "read", index=1, id="a"), fragment(RAW_B, "read", index=2, id="b")),
        calls=[("read", A), ("read", B)],
    ),
    Case(
        "the second call comes before the first",
        called(fragment(RAW_B, "read", index=1, id="b"), fragment(RAW_A, "read", index=0, id="a")),
        calls=[("read", A), ("read", B)],
        ids=["a", "b"],
    ),
    Case(
        "an id that comes late",
        called(
            fragment("", "read", index=0),
            fragment('{"path": "a.p', index=0),
            fragment('y"}', index=0, id="late"),
        ),
        calls=[("read", A)],
        ids=["late"],
    ),
    Case(
        "an index that comes late: null at first",
        called(fragment(RAW_A, "read", index=None, id="a")),
        calls=[("read", A)],
        repairs=[("index", 1)],
    ),
    Case(
        "id and name again with every piece",
        called(
            fragment('{"path"', "read", index=0, id="a", type="function"),
            fragment(': "a', "read", index=0, id="a", type="function"),
            fragment('.py"}', "read", index=0, id="a", type="function"),
        ),
        calls=[("read", A)],
        ids=["a"],
    ),
    Case(
        "another id with every piece",
        called(
            fragment('{"path"', "read", index=0, id="chatcmpl-tool-1"),
            fragment(': "a', index=0, id="chatcmpl-tool-2"),
            fragment('.py"}', index=0, id="chatcmpl-tool-3"),
        ),
        calls=[("read", A)],
        ids=["chatcmpl-tool-1"],
    ),
    Case(
        "empty ids and names in the pieces behind the first",
        called(
            fragment("", "read", index=0, id="a", type="function"),
            {"index": 0, "id": "", "type": "", "function": {"name": "", "arguments": RAW_A}},
        ),
        calls=[("read", A)],
        ids=["a"],
    ),
    Case(
        "two calls with one id",
        called(
            fragment(RAW_A, "read", index=0, id="same"),
            fragment(RAW_B, "read", index=1, id="same"),
        ),
        calls=[("read", A), ("read", B)],
        ids=["same", "same"],
        repairs=[("id", 2)],
    ),
    Case(
        "a call that comes whole twice",
        called(fragment(RAW_A, "read", index=0, id="a"), fragment(RAW_A, "read", index=0, id="a")),
        calls=[("read", A)],
        repairs=[("repeated", 1)],
    ),
    Case(
        "a name in two pieces",
        called(
            fragment("", "re", index=0, id="a"),
            fragment("", "ad", index=0),
            fragment(RAW_A, index=0),
        ),
        calls=[("read", A)],
    ),
    Case(
        "function_call of old servers, streamed",
        events(
            delta(function_call={"name": "read", "arguments": ""}),
            delta(function_call={"arguments": RAW_A}),
            delta("function_call"),
        ),
        calls=[("read", A)],
        repairs=[("legacy", 1), ("id", 1)],
    ),
    Case(
        "function_call of old servers, whole",
        whole("function_call", content=None, function_call={"name": "read", "arguments": RAW_A}),
        calls=[("read", A)],
        kind=JSON,
        stream=False,
        repairs=[("legacy", 1), ("id", 1)],
    ),
    Case(
        "calls of a whole answer have no indexes",
        whole(
            "tool_calls",
            content=None,
            tool_calls=[
                fragment(RAW_A, "read", id="a", type="function"),
                fragment(RAW_B, "read", id="a", type="function"),
            ],
        ),
        calls=[("read", A), ("read", B)],
        kind=JSON,
        stream=False,
        repairs=[("id", 2)],
    ),
    Case(
        "an object for a list of calls",
        whole("tool_calls", content=None, tool_calls=fragment(RAW_A, "read", id="a")),
        calls=[("read", A)],
        kind=JSON,
        stream=False,
    ),
    Case(
        "name and arguments without `function` around them",
        called({"index": 0, "id": "a", "name": "read", "arguments": RAW_A}),
        calls=[("read", A)],
    ),
    Case(
        "words before a call",
        events(
            delta(role="assistant", content="I look at it."),
            delta(tool_calls=[fragment(RAW_A, "read", index=0, id="a")]),
            delta("tool_calls"),
        ),
        calls=[("read", A)],
        text="I look at it.",
    ),
    Case(
        "several calls wrapped into one",
        called(
            fragment(
                json.dumps(
                    {
                        "tool_uses": [
                            {"recipient_name": "functions.read", "parameters": A},
                            {"recipient_name": "functions.grep", "parameters": {"pattern": "x"}},
                        ]
                    }
                ),
                "multi_tool_use.parallel",
                index=0,
                id="a",
            )
        ),
        calls=[("read", A), ("grep", {"pattern": "x"})],
        repairs=[("parallel", 1), ("namespace", 1), ("namespace", 2)],
    ),
    # names
    *(
        Case(
            f"the name {name!r}",
            called(fragment(RAW_A, name, index=0, id="a")),
            calls=[("read", A)],
            repairs=[(repair, 1)],
        )
        for name, repair in (
            ("Read", "case"),
            ("READ", "case"),
            ("functions.read", "namespace"),
            ("default_api:read", "namespace"),
            ("mcp__loom__read", "namespace"),
            ("tools/Read", "namespace"),
            ("read<|channel|>commentary", "namespace"),
            ("read()", "namespace"),
        )
    ),
    Case(
        "a name with other dashes",
        called(fragment("{}", "list-files", index=0, id="a")),
        calls=[("list_files", {})],
        repairs=[("case", 1)],
    ),
    Case(
        "a tool that does not exist",
        called(fragment(RAW_A, "open_file", index=0, id="a")),
        calls=[("open_file", A)],
    ),
    Case(
        "a tool that nearly exists",
        called(fragment(RAW_A, "raed", index=0, id="a")),
        calls=[("raed", A)],
    ),
    Case(
        "one good call beside one of no tool",
        called(
            fragment(RAW_A, "read", index=0, id="a"), fragment("{}", "frobnicate", index=1, id="b")
        ),
        calls=[("read", A), ("frobnicate", {})],
    ),
    Case(
        "a name that no tool can have",
        called(fragment(RAW_A, "read the file", index=0, id="a")),
        calls=[("read the file", "there is no tool 'read the file'; there are read")],
    ),
    Case(
        "a call without a name",
        called({"index": 0, "id": "a", "type": "function", "function": {"arguments": RAW_A}}),
        calls=[("", "the call names no tool")],
    ),
    Case(
        "a call though no tools were offered",
        called(fragment(RAW_A, "read", index=0, id="a")),
        failed=("malformed", "no tools were offered, but it called read"),
        tools=(),
    ),
)
