"""Rows as clients see them."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from loomd.hub import boards
from loomd.hub.checkouts import head
from loomd.store.schema import text_key
from loomd.store.tables import Memory, SessionRow
from loomd.wire import codec
from loomd.wire.errors import LoomError


def test_boards_are_of_one_session_but_the_graph_is_the_projects() -> None:
    memory = Memory()
    for session in ("s-1", "s-10"):
        row = codec.pack({"title": session, "blob": b"\xff"})
        memory.put("tasks", text_key(session, "t-1"), row)
    for project, session in (("/r", "s-0"), ("/x", "s-1"), ("/x", "s-9")):
        node = {"id": f"n{project}{session}", "session": session}
        memory.put("decisions", text_key(project, node["id"]), codec.pack(node))
    one = SessionRow(session="s-1", repo="/r")
    (task,) = boards.board(memory, one, "tasks")
    assert task == {"id": "t-1", "title": "s-1", "blob": "\ufffd"}
    assert {node["session"] for node in boards.board(memory, one, "decisions")} == {"s-0", "s-1"}
    with pytest.raises(LoomError):
        boards.board(memory, one, "actors")


def test_a_board_is_cut_to_a_page() -> None:
    memory = Memory()
    for n in range(600):
        memory.put("tasks", text_key("s-1", f"t-{n:04}"), codec.pack({"id": n}))
    assert len(boards.board(memory, SessionRow(session="s-1", repo=""), "tasks")) == 500


def test_boards_are_in_the_order_of_their_numbers() -> None:
    memory = Memory()
    for n in (1, 2, 10):
        memory.put("tasks", text_key("s-1", f"t-{n}"), codec.pack({"id": f"t-{n}"}))
        node = {"id": f"d-s-1-{n}", "session": "s-1", "ts": 5.0}
        memory.put("decisions", text_key("/r", node["id"]), codec.pack(node))
    session = SessionRow(session="s-1", repo="/r")
    assert [row["id"] for row in boards.board(memory, session, "tasks")] == ["t-1", "t-2", "t-10"]
    graph = [row["id"] for row in boards.board(memory, session, "decisions")]
    assert graph == ["d-s-1-1", "d-s-1-2", "d-s-1-10"]


def edit(n: int, path: str, base: str, after: str, state: str = "applied") -> dict:
    return {"state": state, "ended": n, "files": [{"path": path, "base": base, "after": after}]}


def test_a_change_that_was_taken_back_is_none() -> None:
    assert boards.changes([edit(1, "a", "x", "y"), edit(2, "a", "y", "x")]) == {}


def test_edits_count_in_the_order_in_which_they_were_applied() -> None:
    edits = [edit(2, "a", "y", "z"), edit(1, "a", "x", "y"), edit(3, "b", "x", "", "undone")]
    assert boards.changes(edits) == {"a": ("x", "z")}


def test_a_diff_says_what_a_patch_needs() -> None:
    blobs = {"x": b"one", "y": b"two\n", "z": b"\0binary"}
    edits = [edit(1, "a", "x", "y"), edit(2, "gone", "y", ""), edit(3, "bin", "x", "z")]
    said = boards.diff(edits, blobs.__getitem__)
    assert said["files_changed"] == ["a", "bin", "gone"]
    assert "-one\n\\ No newline at end of file\n+two\n" in said["diff"]
    assert "Binary files a/bin and b/bin differ\n" in said["diff"]
    assert "--- a/gone\n+++ /dev/null\n" in said["diff"]


def test_a_mode_that_has_changed_is_told_as_git_does() -> None:
    def chmod(n: int, base: str, after: str, was: int, mode: int) -> dict:
        made = edit(n, "a", base, after)
        made["files"][0] |= {"was": was, "mode": mode}
        return made

    blobs = {"x": b"one\n", "y": b"two\n"}
    only = boards.diff([chmod(1, "x", "x", 0o644, 0o755)], blobs.__getitem__)
    head = "diff --git a/a b/a\nold mode 100644\nnew mode 100755\n"
    assert only == {"files_changed": ["a"], "diff": head}
    both = chmod(1, "x", "y", 0o644, 0o755)
    assert boards.diff([both], blobs.__getitem__)["diff"].startswith(f"{head}--- a/a\n+++ b/a\n")
    assert boards.diff_of(both, blobs.__getitem__) == boards.diff([both], blobs.__getitem__)
    back = chmod(2, "y", "x", 0o755, 0o644)
    assert boards.diff([both, back], blobs.__getitem__) == {"files_changed": [], "diff": ""}


def test_what_was_taken_back_is_shown_so_and_is_no_change_even_if_others_wrote_since() -> None:
    memory = Memory()
    rows = [
        {"id": "e-1", "place": 1, **edit(1, "a", "x", "y")},
        {"id": "e-2", "place": 2, "undoes": ["e-1"], **edit(2, "a", "dirty", "mine")},
        {"id": "e-3", "place": 3, **edit(3, "b", "x", "y")},
    ]
    for row in rows:
        memory.put("edits", text_key("s-1", str(row["id"])), codec.pack(row))
    shown = boards.board(memory, SessionRow(session="s-1", repo="/r"), "edits")
    assert [row["state"] for row in shown] == ["undone", "applied", "applied"]
    assert shown[0]["undone_by"] == "e-2"
    assert boards.changes(rows) == {"b": ("x", "y")}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ""),
        (
            {".git/HEAD": "c0ffee0000000000000000000000000000000000\n"},
            "c0ffee0000000000000000000000000000000000",
        ),
        (
            {
                ".git/HEAD": "ref: refs/heads/m\n",
                ".git/refs/heads/m": "abc0000000000000000000000000000000000000\n",
            },
            "abc0000000000000000000000000000000000000",
        ),
        (
            {
                ".git/HEAD": "ref: refs/heads/m\n",
                ".git/packed-refs": "# pack\n" + "def".ljust(40, "0") + " refs/heads/m\n",
            },
            "def".ljust(40, "0"),
        ),
        ({".git/HEAD": "ref: refs/heads/unborn\n"}, ""),
        (
            {
                ".git": "gitdir: elsewhere/wt\n",
                "elsewhere/wt/HEAD": "ref: refs/heads/m\n",
                "elsewhere/wt/commondir": "..\n",
                "elsewhere/refs/heads/m": "fed0000000000000000000000000000000000000\n",
            },
            "fed0000000000000000000000000000000000000",
        ),
        ({".git/HEAD/x": ""}, ""),
    ],
)
def test_the_head_of_a_repo_is_read_without_git(
    tmp_path: Path, files: dict[str, str], expected: str
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert head(tmp_path) == expected


def plain(old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), "a/p", "b/p"
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def shown(old: str, new: str) -> str:
    return boards._file_diff("p", "o", "n", {"o": old.encode(), "n": new.encode()}.__getitem__)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a\nb\nc\n", "a\nx\nc\n"),
        ("a\n", ""),
        ("", "a\nb"),
        ("a", "a\n"),
        ("a\nb", "a\nb\nc"),
        ("\n".join("abcdefghijklmnop"), "\n".join("abXdefghijklYmnop")),
        ("same\n", "same\n"),
    ],
)
def test_a_diff_is_difflib_s(old: str, new: str) -> None:
    assert shown(old, new) == plain(old, new)


def test_a_diff_that_difflib_would_take_minutes_for_is_told_all_the_same() -> None:
    old = [f"value {i * 7919 % 150}\n" for i in range(60_000)]
    new = list(old)
    for i in (10, 30_000, 59_990):
        new[i] = f"changed {i}\n"
    said = shown("".join(old), "".join(new))
    assert [line for line in said.splitlines() if line.startswith("+c")] == [
        "+changed 10", "+changed 30000", "+changed 59990"
    ]  # fmt: skip
    longer = shown("".join(old), "".join([*new[:100], "more\n", *new[100:]]))
    assert "+more\n" in longer and "+changed 59990\n" in longer
