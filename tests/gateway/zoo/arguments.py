"""Arguments: what is mended, and what goes back to the model."""

from __future__ import annotations

import json

from tests.gateway.zoo.server import JSON, Case, arguments, called, delta, events, fragment, whole

A = {"path": "a.py"}


def mended(name: str, raw: str, args: object, *kinds: str) -> Case:
    return Case(name, arguments(raw), calls=[("read", args)], repairs=[(kind, 1) for kind in kinds])


def wrong(name: str, raw: str, said: str) -> Case:
    return Case(name, arguments(raw), calls=[("read", said)])


UMLAUT = '{"path": "gr\u00fcn.py"}'.encode()
SPLIT = UMLAUT.index(b"\xc3") + 1


def halves(left: bytes, right: bytes) -> tuple[bytes, ...]:
    """Two events whose texts are cut inside a character's bytes, as servers that cut tokens do."""
    quoted = [one.replace(b'"', b'\\"') for one in (left, right)]
    return events(
        b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":'
        b'"read","arguments":"' + quoted[0] + b'"}}]},"finish_reason":null}]}',
        b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"'
        + quoted[1]
        + b'"}}]},"finish_reason":null}]}',
        delta("tool_calls"),
    )


CASES = (
    mended("no arguments", "", {}),
    mended("an empty object", "{}", {}),
    mended("spaces", "  \n", {}),
    mended("null", "null", {}, "null"),
    Case(
        "the key of the arguments is missing",
        called({"index": 0, "id": "a", "type": "function", "function": {"name": "read"}}),
        calls=[("read", {})],
    ),
    Case(
        "null, not as a text",
        whole("tool_calls", content=None, tool_calls=[fragment(None, "read", id="a")]),
        calls=[("read", {})],
        kind=JSON,
        stream=False,
    ),
    Case(
        "an object for a text",
        called(fragment(A, "read", index=0, id="a")),
        calls=[("read", A)],
        repairs=[("object", 1)],
    ),
    mended("encoded twice", json.dumps(json.dumps(A)), A, "encoded"),
    mended("encoded three times", json.dumps(json.dumps(json.dumps(A))), A, "encoded"),
    mended("a trailing comma", '{"path": "a.py",}', A, "commas"),
    mended("trailing commas inside", '{"path": [1, 2,], }', {"path": [1, 2]}, "commas"),
    mended("single quotes", "{'path': 'a.py'}", A, "quotes"),
    mended(
        "single quotes around double ones",
        "{'path': 'say \"hi\"'}",
        {"path": 'say "hi"'},
        "quotes",
    ),
    mended(
        "literals of Python",
        '{"path": None, "all": True, "none": False}',
        {"path": None, "all": True, "none": False},
        "literals",
    ),
    mended(
        "a dictionary of Python",
        "{'path': 'it\\'s', 'all': True,}",
        {"path": "it's", "all": True},
        "quotes",
        "literals",
        "commas",
    ),
    mended("a code fence", '```json\n{"path": "a.py"}\n```', A, "fence"),
    mended("a line break in a string", '{"path": "a\nb"}', {"path": "a\nb"}, "controls"),
    mended("a bracket too many", '{"path": "a.py"}}', A, "brackets"),
    mended("an emoji in two escapes", '{"path": "\\ud83d\\ude00"}', {"path": "\U0001f600"}),
    Case(
        "split between the halves of an escaped pair",
        events(
            b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":'
            b'"read","arguments":"{\\"path\\": \\"\\ud83d"}}]}}]}',
            b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":'
            b'"\\ude00\\"}"}}]}}]}',
            delta("tool_calls"),
        ),
        calls=[("read", {"path": "\U0001f600"})],
    ),
    Case(
        "split inside the bytes of a character",
        halves(UMLAUT[:SPLIT], UMLAUT[SPLIT:]),
        calls=[("read", {"path": "gr\u00fcn.py"})],
    ),
    Case(
        "bytes that are no UTF-8",
        halves(b'{"path": "gr\xfc', b'n.py"}'),
        calls=[("read", "half of a character")],
    ),
    wrong("half of an escaped pair", '{"path": "a\\ud800b"}', "half of a character"),
    wrong("an unclosed object", '{"path": "a.py"', "the text ends before the closing }"),
    wrong("an unclosed string", '{"path": "a.p', "the string that began has no end"),
    wrong("a missing comma", '{"path": "a.py" "offset": 1}', "a comma is missing"),
    wrong("a missing colon", '{"path" "a.py"}', "the colon after the key 'path' is missing"),
    wrong("a bare key", '{path: "a.py"}', "a key in quotes is missing at character 2"),
    wrong("quotes inside quotes", '{"path": "say "hi" now"}', "a comma is missing"),
    wrong("two objects", '{"path": "a"}{"path": "b"}', "something follows the end of the value"),
    wrong("a list", '["a.py"]', "the arguments are a list, not an object"),
    wrong("a number", "7", "the arguments are a number, not an object"),
    wrong("words", "path=a.py", "the arguments are not JSON"),
    wrong("an escape that is none", '{"path": "C:\\dir"}', "the escape \\d"),
    wrong("a number that is none", '{"offset": NaN}', "nan, which is no number of JSON"),
    wrong("a number of 80 bits", '{"offset": 99999999999999999999999}', "more than 64 bits"),
    wrong("a bottomless list", '{"path": ' + "[" * 5000, "levels of nesting"),
    Case(
        "cut off by the limit of output tokens",
        arguments('{"path": "a.py", "content": "half of', finish="length"),
        calls=[("read", "cut off at the limit of output tokens")],
    ),
    Case(
        "cut off by the limit, behind a call that is whole",
        called(
            fragment('{"path": "a.py"}', "read", index=0, id="a"),
            fragment('{"path": "b', "read", index=1, id="b"),
            finish="length",
        ),
        calls=[("read", A), ("read", "cut off at the limit of output tokens")],
    ),
)
