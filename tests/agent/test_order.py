"""Which calls of a turn wait for which: a table."""

import pytest

from loomd.agent.order import after, written
from loomd.wire.bodies import Call

PATCH = """*** Begin Patch
*** Update File: a.py
*** Move to: pkg/b.py
@@
-x
+y
*** Add File: c.py
+z
*** End Patch"""


def call(id, name="edit", **args):
    return Call(id=id, name=name, args=args)


@pytest.mark.parametrize(
    ("one", "files"),
    [
        (call("1", path="a.py"), {"a.py"}),
        (call("1", path="./pkg/../a.py"), {"a.py"}),
        (call("1", "write", path="/repo/pkg/a.py"), {"pkg/a.py"}),
        (call("1", "write", path="/elsewhere/a.py"), {"/elsewhere/a.py"}),
        (call("1", "apply_patch", patch=PATCH), {"a.py", "pkg/b.py", "c.py"}),
        (call("1", "propose", changes=[{"path": "a.py"}, {"path": "./b.py"}, 7]), {"a.py", "b.py"}),
        (call("1", "propose", changes="a.py"), set()),
        (call("1", "read", path="a.py"), set()),
        (call("1", "shell", command="touch a.py"), set()),
        (call("1", path=7), set()),
        (call("1", "apply_patch", patch=None), set()),
        (Call(id="1", name="edit", args={"path": "a.py"}, error="unreadable"), set()),
    ],
)
def test_the_files_that_a_call_names(one, files):
    assert written(one, "/repo") == files


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([call("1", path="a"), call("2", path="b"), call("3", "read", path="a")], {}),
        ([call("1", path="a"), call("2", path="./a")], {"2": ("1",)}),
        (
            [call("1", path="a"), call("2", path="a"), call("3", path="a")],
            {"2": ("1",), "3": ("2",)},
        ),
        (
            [call("1", path="a.py"), call("2", path="c.py"), call("3", "apply_patch", patch=PATCH)],
            {"3": ("1", "2")},
        ),
    ],
)
def test_calls_that_write_the_same_file_go_in_call_order(calls, expected):
    assert after(calls, "/repo") == expected
