"""The sentences that are understood, and those that are not."""

from __future__ import annotations

import pytest

from loomd.gateway.offline.goals import Bad, Outline, Rename, Uses, parse


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("rename parse_cfg to parse_config", Rename("parse_cfg", "parse_config")),
        ("Rename `a` to `b` everywhere.", Rename("a", "b")),
        ("please rename the function 'a()' to \"b()\"!", Rename("a", "b", "", "function")),
        ("rename\n  method C.a\n  to b", Rename("a", "b", "C", "method")),
        ("rename pkg.mod:a to b", Rename("a", "b", "pkg.mod")),
        ("rename pkg.mod:C.a to b", Rename("a", "b", "pkg.mod:C")),
        ("rename pkg/mod.py:a to b", Rename("a", "b", "pkg/mod.py")),
        ("rename pkg.a to pkg.b", Rename("a", "b", "pkg")),
        ("rename class A to B in the whole repo", Rename("A", "B", "", "class")),
        ("rename a to b across all files, please", Rename("a", "b")),
        ("rename constant A to B throughout the codebase", Rename("A", "B", "", "variable")),
        ("rename everywhere to nowhere", Rename("everywhere", "nowhere")),
        ("rename größe to weite", Rename("größe", "weite")),
        ("find the uses of a", Uses("a")),
        ("find uses of the class A", Uses("A", "", "class")),
        ("list all references to m:a", Uses("a", "m")),
        ("Where is `a` used?", Uses("a")),
        ("who calls a", Uses("a")),
        ("outline pkg/mod.py", Outline("pkg/mod.py")),
        ("show me an outline of the module pkg.mod", Outline("pkg.mod")),
    ],
)
def test_known(text, goal):
    assert parse(text) == goal


@pytest.mark.parametrize(
    "text",
    [
        "rename a to class",
        "rename a to 1b",
        "rename a-b to c",
        "rename a to a",
        "rename a to x.b",
        "rename __init__ to b",
        "rename a to b-c everywhere",
        "find uses of a-b",
    ],
)
def test_impossible(text):
    assert isinstance(parse(text), Bad)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "make it faster",
        "rename a to b and c to d",
        "rename a to b, then run the tests",
        "rename a",
        "find the bug",
        "Rename a to b. Also document it.",
    ],
)
def test_unknown(text):
    assert parse(text) is None
