"""Which new versions of a tool a call that waits for a person stands in the way of."""

import pytest

from loomd.tools.compatible import clash, fits, wrong


def row(access="execute", required=("a",), **properties):
    return {
        "access": access,
        "parameters": {"properties": properties, "required": list(required)},
    }


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
OLD = row(a=TEXT, b=NUMBER)
ARGS = {"a": "x"}


@pytest.mark.parametrize(
    ("new", "args", "said"),
    [
        (OLD, ARGS, ""),
        (row(a={**TEXT, "description": "new words"}, b=NUMBER), ARGS, ""),
        (row(a=TEXT), ARGS, ""),  # what the call does not use may go
        (row(a=TEXT, b=TEXT), ARGS, ""),
        (row(a=TEXT, c=TEXT), ARGS, ""),
        (row(required=(), a=TEXT), ARGS, ""),
        (row(a={"type": "string", "enum": ["x", "y"]}), ARGS, ""),
        (row(a={"anyOf": [NUMBER, TEXT]}), ARGS, ""),
        (None, ARGS, "it is gone"),
        (row("read", a=TEXT), ARGS, "its access changes from execute to read"),
        (row("network", a=TEXT), ARGS, "its access changes from execute to network"),
        (row(required=("a", "c"), a=TEXT, c=TEXT), ARGS, "`c` would be missing"),
        (row(required=(), b=NUMBER), ARGS, "`a` would be unknown"),
        (row(a=NUMBER), ARGS, "`a` would be of another type"),
        (row(a={"type": "string", "enum": ["y"]}), ARGS, "`a` would be of another type"),
        (row(a=TEXT), {"a": "x", "b": 1}, "`b` would be unknown"),
        # It was of no type before: the old code mends that, and so does the new.
        (row(a=TEXT, b=NUMBER), {"a": "x", "b": "1"}, ""),
    ],
)
def test_what_clashes(new, args, said):
    assert clash(OLD, new, args) == said


@pytest.mark.parametrize(
    ("schema", "value", "good"),
    [
        ({}, object(), True),
        ({"type": "boolean"}, True, True),
        ({"type": "integer"}, True, False),
        ({"type": "number"}, 1, True),
        ({"type": "integer"}, 1.5, False),
        ({"type": "array", "items": {"type": "string"}}, ["a"], True),
        ({"type": "array", "items": {"type": "string"}}, ["a", 1], False),
        ({"type": "object"}, {"a": 1}, True),
        ({"type": "object"}, [], False),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, 1.5, False),
    ],
)
def test_what_fits(schema, value, good):
    assert fits(schema, value) is good


def test_what_is_wrong_with_a_call():
    schema = OLD["parameters"]
    assert wrong(schema, {"a": 1}) == ""
    assert wrong(schema, {"c": 1}) == "`a` is missing; `c` is unknown. It takes: a, b"
