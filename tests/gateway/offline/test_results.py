"""Tools' texts read as data."""

from __future__ import annotations

import pytest

from loomd.gateway.offline.results import hit_paths, python_paths, whole
from loomd.gateway.offline.results import tests as read_tests


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\nb\n", "a\nb\n"),
        ("a\n[lines 1-1 of 9; there is more: continue with offset=2]", None),
        ("x = [offset]\n", "x = [offset]\n"),
        ("", ""),
    ],
)
def test_a_read_is_the_file_s_text(text, wanted):
    assert whole(text) == wanted


def test_hits_and_listings_name_files():
    hits = "a.py:3: x\nb/c.py:10:  y: 1\n./d.py:1:z\na.py:9: w\n[3 more]"
    assert hit_paths(hits) == ["a.py", "b/c.py", "d.py"]
    assert python_paths("a.py\n./b.pyi\nc.txt\nd/\n") == ["a.py", "b.pyi"]


@pytest.mark.parametrize(
    ("text", "ok", "state", "failed"),
    [
        ("..\n2 passed in 0.01s\n", True, "passed", 0),
        ("== 1 failed, 2 passed, 1 error in 3s ==\nexit 1", False, "failed", 2),
        ("no tests ran in 0.00s\nexit status 5", False, "none", 0),
        ("/usr/bin/python: No module named pytest\nexit code: 1", False, "absent", 0),
        ("timed out after 120 s", False, "unknown", 0),
        ("Traceback ...\nImportError\nexit 4", False, "failed", 1),
        ("denied", False, "unknown", 0),
        ("all fine\nexit code 0", True, "passed", 0),
    ],
)
def test_a_test_run_is_told(text, ok, state, failed):
    came = read_tests(text, ok)
    assert (came.state, came.failed) == (state, failed)
