"""Edits taken back, by hand: blobs in a dict, the checkout in another."""

from __future__ import annotations

import pytest

from loomd.tools.propose import name_of
from loomd.tools.reversal import Content, plan
from loomd.wire.bodies import FileChange, Taken
from loomd.wire.errors import LoomError

OLD = "".join(f"line {n}\n" for n in range(1, 10))
NEW = OLD.replace("line 4", "line four")
NEWER = NEW.replace("line 8", "line eight")


class Stage:
    def __init__(self, **disk: str | None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.disk = {name: text for name, text in disk.items()}
        self.modes: dict[str, int] = {}

    def look(self, path: str) -> Content:
        text = self.disk.get(path)
        if text is None:
            return Content(None)
        return Content(text.encode("utf-8", "surrogateescape"), self.modes.get(path, 0o644))

    def file(
        self, path: str, base: str | None, after: str | None, was: int = 0o644, mode: int = 0o644
    ) -> FileChange:
        names = []
        for text in (base, after):
            data = None if text is None else text.encode("utf-8", "surrogateescape")
            names.append(name_of(data))
            if data is not None:
                self.blobs[names[-1]] = data
        return FileChange(path=path, base=names[0], after=names[1], was=was, mode=mode)

    def undo(self, *edits: list[FileChange]) -> dict[str, str | None]:
        """What the disk would be; edits newest first."""
        taken = [Taken(edit=f"e-{len(edits) - n}", files=tuple(e)) for n, e in enumerate(edits)]
        made = plan(taken, self.look, self.blobs.__getitem__)
        assert not made.clashes, made.clashes
        for path, (was, _) in made.files.items():
            assert was == self.look(path)
        return {
            path: None if new.data is None else new.data.decode("utf-8", "surrogateescape")
            for path, (_, new) in made.files.items()
        }

    def clashes(self, *edits: list[FileChange]) -> list[tuple[str, str]]:
        taken = [Taken(edit=f"e-{len(edits) - n}", files=tuple(e)) for n, e in enumerate(edits)]
        made = plan(taken, self.look, self.blobs.__getitem__)
        assert not made.files, "all or nothing"
        return [(clash.path, clash.reason) for clash in made.clashes]


DIRTY = NEW + "mine\n"

ONE = [
    # base, after, now, then
    (OLD, NEW, NEW, OLD),
    (OLD, NEW, DIRTY, OLD + "mine\n"),
    (None, NEW, NEW, None),
    (OLD, None, None, OLD),
    (OLD, NEW, OLD, "as it is"),
    (None, NEW, None, "as it is"),
    ("a\r\nb\r\n", "a\r\nB\r\n", "a\r\nB\r\n", "a\r\nb\r\n"),
    ("\udcff 1\nx\ny\nz\n", "\udcff 2\nx\ny\nz\n", "\udcff 2\nx\ny\nZ\n", "\udcff 1\nx\ny\nZ\n"),
    ("\0one", "\0two", "\0two", "\0one"),
]


@pytest.mark.parametrize(("base", "after", "now", "then"), ONE)
def test_one_edit_goes_and_what_others_did_stays(base, after, now, then):
    stage = Stage(a=now)
    made = stage.undo([stage.file("a", base, after)])
    assert made == ({} if then == "as it is" else {"a": then})


@pytest.mark.parametrize(
    ("base", "after", "now", "why"),
    [
        (OLD, NEW, NEW.replace("line four", "line IV"), "same lines"),
        (OLD, NEW, None, "not there any more"),
        (OLD, None, NEWER, "another file in its place"),
        (None, NEW, DIRTY, "would be lost"),
        ("\0one", "\0two", "\0three", "binary"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_else_is_done(base, after, now, why):
    stage = Stage(a=now, b=NEW)
    ((path, reason),) = stage.clashes(
        [stage.file("a", base, after), stage.file("b", OLD, NEW)],
    )
    assert path == "a" and why in reason


def test_a_clash_is_shown_as_a_diff_with_markers():
    stage = Stage(a=NEW.replace("line four", "line IV"))
    files = (stage.file("a", OLD, NEW),)
    made = plan([Taken(edit="e-1", files=files)], stage.look, stage.blobs.__getitem__)
    (clash,) = made.clashes
    assert clash.lines == ((4, 4),) and clash.edits == ("e-1",)
    assert clash.diff.splitlines()[3:] == [
        " line 1", " line 2", " line 3", "+<<<<<<< now", " line IV", "+=======", "+line 4",
        "+>>>>>>> before e-1", " line 5", " line 6", " line 7",
    ]  # fmt: skip


def test_edits_that_follow_upon_each_other_are_one():
    stage = Stage(a=NEWER + "mine\n")
    first, second = [stage.file("a", OLD, NEW)], [stage.file("a", NEW, NEWER)]
    assert stage.undo(second, first) == {"a": OLD + "mine\n"}
    assert stage.undo(second) == {"a": NEW + "mine\n"}
    assert stage.undo(first) == {"a": NEWER.replace("line four", "line 4") + "mine\n"}


def test_a_file_that_was_made_and_then_changed_goes():
    stage = Stage(a=NEWER)
    assert stage.undo([stage.file("a", NEW, NEWER)], [stage.file("a", None, NEW)]) == {"a": None}


def test_a_move_goes_back_and_takes_along_what_others_did():
    stage = Stage(b=NEW)
    move = [stage.file("a", OLD, None), stage.file("b", None, NEW)]
    assert stage.undo(move) == {"a": OLD, "b": None}
    stage.disk["b"] = DIRTY
    assert stage.undo(move) == {"a": OLD + "mine\n", "b": None}
    stage.disk["a"] = "somebody's\n"
    assert {path for path, _ in stage.clashes(move)} == {"a", "b"}


def test_a_move_after_a_change_goes_back_all_the_way():
    stage = Stage(b=DIRTY)
    edit = [stage.file("a", OLD, NEW)]
    move = [stage.file("a", NEW, None), stage.file("b", None, NEW)]
    assert stage.undo(move, edit) == {"a": OLD + "mine\n", "b": None}
    assert stage.undo(move) == {"a": DIRTY, "b": None}


@pytest.mark.parametrize(
    ("was", "mode", "now", "then"),
    [
        (0o644, 0o755, 0o755, 0o644),
        (0o755, 0o644, 0o644, 0o755),
        (0o600, 0o640, 0o640, 0o600),
        (0o644, 0o755, 0o644, 0o644),  # somebody has done it already
        (0o644, 0o755, 0o700, 0o600),  # the executable bit only: the others are somebody's
        (0, 0o755, 0o755, 0o755),  # not known how it was
    ],
)
def test_modes_go_back_unless_others_have_changed_them(was, mode, now, then):
    stage = Stage(a=NEW)
    stage.modes["a"] = now
    files = (stage.file("a", NEW, NEW, was, mode),)
    made = plan([Taken(edit="e-1", files=files)], stage.look, stage.blobs.__getitem__)
    assert made.files.get("a", (None, Content(b"", now)))[1].mode == then


def test_a_deleted_file_comes_back_with_its_mode():
    stage = Stage()
    files = (stage.file("a", OLD, None, was=0o750),)
    made = plan([Taken(edit="e-1", files=files)], stage.look, stage.blobs.__getitem__)
    assert made.files["a"][1] == Content(OLD.encode(), 0o750)


def test_what_is_no_file_is_a_clash():
    stage = Stage()

    def look(path: str) -> Content:
        raise LoomError("bad_request", "a is no plain file")

    files = (stage.file("a", OLD, NEW),)
    made = plan([Taken(edit="e-1", files=files)], look, stage.blobs.__getitem__)
    assert [clash.reason for clash in made.clashes] == ["a is no plain file"]
