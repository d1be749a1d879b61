from typing import Any, Literal

import pytest

from loomd.tools import Context, ToolError, tool
from loomd.tools.contract import ContractError, check_arguments, describe, tools_of


@tool(access="write", exclusive=True)
def sample(
    path: str,
    ctx: Context,
    count: int = 3,
    ratio: float = 0.5,
    deep: bool = False,
    names: list[str] | None = None,
    how: Literal["a", "b"] = "a",
    more: dict[str, Any] = {},  # noqa: B006
) -> str:
    """Does a thing.

    In two paragraphs.

    Args:
        path: where it is,
            in the checkout
        count: how many
    """
    return path


SPEC = describe(sample)


def test_schema_comes_from_signature_and_docstring():
    assert SPEC.name == "sample" and SPEC.access == "write" and SPEC.exclusive
    assert SPEC.description == "Does a thing.\n\nIn two paragraphs."
    assert SPEC.context == "ctx"
    assert SPEC.schema == {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "where it is, in the checkout"},
            "count": {"type": "integer", "description": "how many", "default": 3},
            "ratio": {"type": "number", "default": 0.5},
            "deep": {"type": "boolean", "default": False},
            "names": {"type": "array", "items": {"type": "string"}},
            "how": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "more": {"type": "object"},
        },
        "required": ["path"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"path": "x"}, {"path": "x"}),
        ({"path": "x", "count": "7"}, {"path": "x", "count": 7}),
        ({"path": "x", "count": 7.0, "deep": "true"}, {"path": "x", "count": 7, "deep": True}),
        ({"path": "x", "ratio": 2}, {"path": "x", "ratio": 2.0}),
        ({"path": "x", "names": ["a"], "how": "b"}, {"path": "x", "names": ["a"], "how": "b"}),
        ({"path": "x", "names": None, "count": None}, {"path": "x"}),
    ],
)
def test_arguments_that_fit_are_taken_and_harmless_slips_mended(given, taken):
    assert check_arguments(SPEC, given) == taken


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "`path` is missing"),
        ({"path": 3}, "`path` must be string, not 3"),
        ({"path": "x", "count": "many"}, "`count` must be integer, not 'many'"),
        ({"path": "x", "count": True}, "`count` must be integer"),
        ({"path": "x", "how": "c"}, "`how` must be one of 'a', 'b', not 'c'"),
        ({"path": "x", "names": "a"}, "`names` must be array"),
        ({"path": "x", "paht": "y"}, "`paht` is unknown"),
        ({"path": "x", "ctx": {}}, "`ctx` is unknown"),
    ],
)
def test_arguments_that_do_not_fit_are_named(given, said):
    with pytest.raises(ToolError) as caught:
        check_arguments(SPEC, given)
    assert caught.value.code == "bad_args"
    assert said in caught.value.text and "Usage: sample(path: string" in caught.value.text


def no_docstring(path: str) -> str:
    return path


def no_annotation(path) -> str:
    """Doc."""


def strange(path: bytes) -> str:
    """Doc."""


def variadic(*path: str) -> str:
    """Doc."""


async def coroutine(path: str) -> str:
    """Doc."""


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_docstring, "no docstring"),
        (no_annotation, "`path` has no annotation"),
        (strange, "`path` is of type"),
        (variadic, "must have a plain name"),
        (coroutine, "async def"),
    ],
)
def test_function_that_cannot_be_a_tool_is_refused_with_the_reason(function, said):
    with pytest.raises(ContractError, match=said):
        describe(tool(function))


def test_access_must_be_one_of_four():
    with pytest.raises(ContractError, match="access is 'admin'"):
        tool(access="admin")(no_docstring)


def test_only_a_modules_own_tools_are_its_tools():
    assert [spec.name for spec in tools_of({"x": sample, "y": 3}, __name__)] == ["sample"]
    assert tools_of({"x": sample}, "elsewhere") == []
