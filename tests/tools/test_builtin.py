"""The built-in tools as functions. Their texts are what models depend on."""

import dataclasses
import os
import re

import pytest

from loomd.gateway.offline.results import whole
from loomd.tools import Context, Proposal, Result, ToolError
from loomd.tools.builtin._checkout import MAX_FILE
from loomd.tools.builtin.edit import edit
from loomd.tools.builtin.glob import glob
from loomd.tools.builtin.grep import grep
from loomd.tools.builtin.list import list_
from loomd.tools.builtin.outline import outline
from loomd.tools.builtin.read import read
from loomd.tools.builtin.shell import shell
from loomd.tools.builtin.todo import todo
from loomd.tools.builtin.tree import tree
from loomd.tools.builtin.write import write
from loomd.tools.contract import NewFile
from loomd.tools.paths import translate
from loomd.tools.propose import name_of
from loomd.tools.worker import checked_state
from loomd.wire import codec
from tests.support import patiently
from tests.tools.stand import git_repo, nobody, open_repo


@pytest.fixture
def ctx(tmp_path):
    repo = git_repo(
        tmp_path / "repo",
        {
            "a.py": "def f():\n    return 1\n\n\ndef g():\n    return 1\n",
            "pkg/b.py": "from a import f\n",
            "pkg/deep/c.txt": "text\n",
            ".gitignore": "*.log\n",
            "x.log": "def f\n",
            "empty.py": "",
        },
    )
    (repo / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (repo / "out").symlink_to(tmp_path)
    (tmp_path / "secret").write_text("secret")
    return Context(repo=repo, env={"PATH": os.environ["PATH"]}, scratch=tmp_path)


def refused(code, said, function, *args, **kwargs):
    with pytest.raises(ToolError) as caught:
        function(*args, **kwargs)
    assert caught.value.code == code and said in caught.value.text, caught.value.text


# --- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "out/secret", "pkg/../../secret"])
def test_nothing_outside_of_the_checkout(ctx, path):
    refused("denied", "outside of the checkout", read, path, ctx)
    refused("denied", "outside of the checkout", write, path, "x", ctx)
    refused("denied", "outside of the checkout", edit, path, "a", "b", ctx)
    refused("denied", "outside of the checkout", grep, "x", ctx, path)
    refused("denied", "outside of the checkout", list_, ctx, path)


def test_an_absolute_path_inside_is_taken(ctx):
    assert read(str(ctx.repo / "pkg/b.py"), ctx).text == "     1\tfrom a import f\n"


# --- read ----------------------------------------------------------------------------------------


def test_read_gives_the_exact_lines_behind_their_numbers(ctx):
    found = read("a.py", ctx)
    assert found.text.startswith("     1\tdef f():\n     2\t    return 1\n     3\t\n")
    assert bare(found.text) == whole(found.text) == (ctx.repo / "a.py").read_text()
    hash = name_of((ctx.repo / "a.py").read_bytes())
    assert found.data == {"path": "a.py", "first": 1, "last": 6, "lines": 6, "hash": hash}
    (ctx.repo / "odd.txt").write_bytes(b"1\tone\r\n\r\n     3\tx\x0cy\nno end")
    assert whole(read("odd.txt", ctx).text) == "1\tone\r\n\r\n     3\tx\x0cy\nno end"


def bare(text):
    return re.sub(r"^ *\d+\t", "", text, flags=re.M)


def test_read_of_a_part_says_how_to_go_on(ctx):
    assert read("a.py", ctx, offset=2, limit=2).text == (
        "     2\t    return 1\n     3\t\n[lines 2-3 of 6; there is more: continue with offset=4]"
    )
    assert bare(read("a.py", ctx, offset=5).text) == "def g():\n    return 1\n"


def test_read_of_an_empty_file_is_empty(ctx):
    found = read("empty.py", ctx)
    assert (found.text, found.data["last"], found.data["lines"]) == ("", 0, 0)


def test_read_of_a_whole_large_source_file(ctx):
    text = "x = 1\n" * 40_000
    (ctx.repo / "big.py").write_text(text)
    assert whole(read("big.py", ctx, limit=100_000).text) == text


def test_read_refuses_what_is_no_text(ctx):
    refused("failed", "image.png is a binary file (PNG image, 10 bytes)", read, "image.png", ctx)
    for start, kind in (
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP image"), (b"\xff\xd8\xff\xe0", "JPEG image"),
        (b"GIF89a", "GIF image"), (b"%PDF-1.7", "PDF document"), (b"\0\0\0\x20ftypisom", "MP4"),
        (b"MZ\x90\0", "Windows program"), (b"x" * 257 + b"ustar", "tar archive"),
        (b"a\0b", "data"), ("x".encode("utf-16"), "UTF-16 text"),
    ):  # fmt: skip
        (ctx.repo / "some.bin").write_bytes(start)
        refused("failed", kind, read, "some.bin", ctx)
    refused("bad_args", "is a folder", read, "pkg", ctx)
    refused("not_found", "b.py does not exist; there is pkg/b.py", read, "b.py", ctx)
    refused("bad_args", "has 6 lines; there is no line 9", read, "a.py", ctx, offset=9)
    refused("bad_args", "count from 1", read, "a.py", ctx, offset=0)
    with open(ctx.repo / "huge.txt", "wb") as file:
        file.truncate(MAX_FILE + 1)
    refused("too_large", "are not read", read, "huge.txt", ctx)
    os.mkfifo(ctx.repo / "pipe")
    refused("failed", "no plain file", read, "pipe", ctx)


# --- edit and write ------------------------------------------------------------------------------


def test_edit_proposes_and_writes_nothing(ctx):
    before = (ctx.repo / "a.py").read_bytes()
    made = edit("a.py", "def f():\n    return 1", "def f():\n    return 2", ctx, reason="why")
    after = before.replace(b"return 1", b"return 2", 1)
    assert made == Proposal((NewFile("a.py", before, after, 0o644),), "why")
    assert (ctx.repo / "a.py").read_bytes() == before


def test_edit_must_be_unique_unless_all_are_meant(ctx):
    refused("failed", "stands 2 times in a.py (lines 2, 6)", edit, "a.py", "return 1", "x", ctx)
    made = edit("a.py", "return 1", "return 2", ctx, replace_all=True)
    assert made.files[0].after.count(b"return 2") == 2


def test_a_miss_shows_the_nearest_real_lines(ctx):
    refused(
        "failed",
        "differs only in white space from lines 1-2:\ndef f():\n    return 1",
        edit, "a.py", "def f():\n  return 1", "x", ctx,
    )  # fmt: skip
    refused(
        "failed", "nearest real text is lines 1-1:\ndef f():", edit, "a.py", "def ff():", "x", ctx
    )
    refused("failed", "may have been made", edit, "a.py", "nothing", "def g():", ctx)
    refused("bad_args", "use write", edit, "a.py", "", "x", ctx)
    refused("bad_args", "the same", edit, "a.py", "x", "x", ctx)
    refused("not_found", "does not exist", edit, "nope.py", "x", "y", ctx)


def test_edit_keeps_line_ends_bom_and_mode(ctx):
    path = ctx.repo / "w.py"
    path.write_bytes("\ufeffone\r\ntwo\r\nthree\r\n".encode())
    path.chmod(0o755)
    [file] = edit("w.py", "one\ntwo\n", "1\n2\n", ctx).files
    assert file.after == "\ufeff1\r\n2\r\nthree\r\n".encode() and file.mode == 0o755
    [file] = edit("w.py", "two\r\n", "2\r\n", ctx).files
    assert file.after == "\ufeffone\r\n2\r\nthree\r\n".encode()


def test_edit_takes_the_line_ends_of_what_it_replaces(ctx):
    path = ctx.repo / "m.txt"
    path.write_bytes(b"one\r\ntwo\nthree\r\nfour\n")

    def after(old, new, **more):
        return edit("m.txt", old, new, ctx, **more).files[0].after

    assert after("one\ntwo", "1\n2") == b"1\r\n2\nthree\r\nfour\n"
    assert after("three\n", "3\n33\n") == b"one\r\ntwo\n3\r\n33\r\nfour\n"
    assert after("two\nthree", "2\n3") == b"one\r\n2\n3\r\nfour\n"
    assert after("four", "4\n5") == b"one\r\ntwo\nthree\r\n4\n5\n"
    assert after("e\n", "E\n", replace_all=True) == b"onE\r\ntwo\nthreE\r\nfour\n"
    path.write_bytes(b"a\r\nb")
    assert after("a\nb", "a\nc") == b"a\r\nc"
    refused("bad_args", "line ends only", edit, "m.txt", "a\r\nb", "a\nb", ctx)


def test_write_keeps_line_ends_mark_and_mode(ctx):
    path = ctx.repo / "w.bat"
    path.write_bytes("\ufeffone\r\ntwo\r\n".encode())
    path.chmod(0o755)
    [file] = write("w.bat", "one\n2\n", ctx).files
    assert file.after == "\ufeffone\r\n2\r\n".encode() and file.mode == 0o755
    assert isinstance(write("w.bat", "one\ntwo\n", ctx), Result)


def test_what_has_changed_since_it_was_read(ctx):
    """The agent knows a content that is no longer there."""
    stale = dataclasses.replace(ctx, seen=lambda path: [name_of(b"as it was")])
    refused("conflict", "a.py has changed since you read it", write, "a.py", "x", stale)
    assert edit("a.py", "def f():", "def h():", stale).files[0].after.startswith(b"def h():")
    refused("failed", "stands 2 times", edit, "a.py", "return 1", "return 2", stale)
    refused(
        "conflict", "has changed", edit, "a.py", "return 1", "return 2", stale, replace_all=True
    )
    refused("conflict", "read it again", edit, "a.py", "return 7", "x", stale)
    fresh = dataclasses.replace(ctx, seen=lambda path: [name_of((ctx.repo / path).read_bytes())])
    assert write("a.py", "x", fresh).files and write("new.py", "x", stale).files


def test_edit_of_what_is_no_utf8_is_refused(ctx):
    (ctx.repo / "l.py").write_bytes(b"# caf\xe9\nx = 1\n")
    refused("failed", "not UTF-8", edit, "l.py", "x = 1", "x = 2", ctx)


def test_write_makes_and_replaces(ctx):
    assert write("new/x.py", "x\n", ctx).files == (NewFile("new/x.py", None, b"x\n", 0o644),)
    assert write("pkg/b.py", "x\n", ctx).files[0].base == b"from a import f\n"
    assert isinstance(write("pkg/b.py", "from a import f\n", ctx), Result)
    refused("bad_args", "is a folder", write, "pkg", "x", ctx)
    refused("bad_args", "is a file, not a folder", write, "a.py/x", "x", ctx)
    refused("denied", ".git", write, ".git/config", "x", ctx)


# --- looking around ------------------------------------------------------------------------------


def test_list_glob_and_grep(ctx):
    assert list_(ctx).split("\n") == [
        ".gitignore", "a.py", "empty.py", "image.png", "out/", "pkg/", "x.log",
    ]  # fmt: skip
    assert glob("**/*.py", ctx) == "a.py\nempty.py\npkg/b.py"
    assert glob("*.{py,txt}", ctx) == "a.py\nempty.py"
    assert glob("pkg/**", ctx) == "pkg/b.py\npkg/deep/c.txt"
    assert glob("*.log", ctx) == ""
    assert grep("def ", ctx) == "a.py:1:def f():\na.py:5:def g():"
    assert grep("import", ctx, "pkg") == "pkg/b.py:1:from a import f"
    assert grep("import", ctx, "pkg/b.py") == "pkg/b.py:1:from a import f"
    assert grep("zzz", ctx).startswith("nothing found")
    refused("bad_args", "no regular expression", grep, "(", ctx)
    refused("not_found", "does not exist", grep, "x", ctx, "nope")
    refused("bad_args", "is a file", list_, ctx, "a.py")


def test_tree_shows_folders_first_and_counts_what_it_leaves_out(ctx):
    assert tree(ctx) == (
        "./  (6 files)\n"
        "  pkg/\n    deep/\n      c.txt\n    b.py\n"
        "  .gitignore\n  a.py\n  empty.py\n  image.png"
    )
    assert tree(ctx, depth=1).split("\n")[1] == "  pkg/  (2 files)"
    assert tree(ctx, "pkg", depth=1) == "pkg/  (2 files)\n  deep/  (1 file)\n  b.py"
    refused("bad_args", "is a file", tree, ctx, "a.py")
    refused("not_found", "does not exist", tree, ctx, "nope")
    refused("bad_args", "1 to 50", tree, ctx, depth=0)


def test_a_large_tree_is_shown_less_deep(ctx, monkeypatch):
    monkeypatch.setattr("loomd.tools.builtin.tree.LIMIT", 7)
    for n in range(5):
        (ctx.repo / f"d{n}").mkdir()
        (ctx.repo / f"d{n}/x").touch()
    lines = tree(ctx, depth=9).split("\n")
    assert lines[1] == "  d0/  (1 file)" and lines[-1] == "[3 more names not shown]"


@pytest.mark.parametrize("git", [True, False])
def test_what_may_not_be_read_is_said_and_nothing_else_is_lost(git):
    with open_repo({"a.py": "x\n", "b.py": "x\n", "in/c.py": "x\n"}, git=git) as repo:
        (repo / "b.py").chmod(0)
        (repo / "in").chmod(0)
        (repo / "new").mkdir(0)
        with nobody():
            said = grep("x", Context(repo=repo)).split("\n")
    assert said[0] == "a.py:1:x"
    inside = "in/c.py" if git else "in/"  # git knows what is in there
    assert {"b.py", inside, "new/"} <= {
        one.removeprefix("[not searched: ").removesuffix(": Permission denied]") for one in said[1:]
    }


def test_a_large_file_is_searched_line_by_line_and_a_pipe_is_not_waited_for(ctx, monkeypatch):
    whole = grep("def f|empty", ctx)
    monkeypatch.setattr("loomd.tools.builtin.grep.WHOLE", 15)
    os.mkfifo(ctx.repo / "pipe")
    assert grep("def f|empty", ctx) == whole == "a.py:1:def f():"
    assert "[not searched: pipe: no plain file]" in grep("x", ctx, "pipe")


def test_an_environment_that_git_does_not_ignore_is_left_out_too(ctx):
    (ctx.repo / "venv").mkdir()
    (ctx.repo / "venv/x.py").touch()
    (ctx.repo / "new.py").touch()
    assert glob("**/*.py", ctx) == "a.py\nempty.py\nnew.py\npkg/b.py"


def test_without_git_everything_but_caches_is_found(ctx, tmp_path):
    repo = tmp_path / "plain"
    (repo / "node_modules").mkdir(parents=True)
    (repo / "node_modules/x.py").touch()
    (repo / "a.py").touch()
    assert glob("**/*.py", Context(repo=repo)) == "a.py"


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*.py", "a.py", True), ("*.py", "b/a.py", False), ("**/a.py", "a.py", True),
        ("**/a.py", "x/y/a.py", True), ("a/**/b", "a/b", True), ("a/**/b", "a/x/y/b", True),
        ("[ab].py", "a.py", True), ("[!ab].py", "a.py", False), ("a?c", "a/c", False),
        ("{a,b/c}.py", "b/c.py", True), ("a+b", "a+b", True), ("[", "[", True),
    ],
)  # fmt: skip
def test_patterns(pattern, path, fits):
    assert bool(re.fullmatch(translate(pattern), path)) is fits


@pytest.mark.parametrize("pattern", ["[z-a]*", "{a,{b,c}", "a[b-a]"])
def test_what_is_no_pattern_is_told_without_a_traceback(ctx, pattern):
    refused("bad_args", "no pattern for paths", glob, pattern, ctx)
    refused("bad_args", "no pattern for paths", grep, "x", ctx, glob=pattern)


@pytest.mark.parametrize("tool", [read, list_, tree, outline])
def test_a_name_that_no_file_can_have(ctx, tool):
    args = (ctx, "x" * 300) if tool in (list_, tree) else ("x" * 300, ctx)
    refused("bad_args", "too long", tool, *args)
    refused("bad_args", "too long", write, "x" * 300, "text", ctx)
    refused("bad_args", "too long", edit, "x" * 300, "a", "b", ctx)
    refused("bad_args", "too long", grep, "x", ctx, path="x" * 300)


# --- todo ----------------------------------------------------------------------------------------


def test_each_agent_has_its_own_list(ctx):
    one, two = (dataclasses.replace(ctx, agent=f"s-1/coder-{n}") for n in (1, 2))
    assert todo(one) == "[the list is empty]"
    given = ["- [x] read it", "[>]  change\n it", "test it", "* [X] done"]
    shown = "[x] read it\n[>] change it\n[ ] test it\n[x] done\n(2 of 4 done)"
    assert todo(one, given) == todo(one) == shown
    assert todo(two, ["[ ] mine"]) == "[ ] mine\n(0 of 1 done)" and todo(one) == shown
    assert todo(one, []) == "[the list is empty]" and todo(two).startswith("[ ] mine")
    refused("bad_args", "the mark is one of", todo, one, ["[?] what"])
    refused("bad_args", "empty", todo, one, ["[x] "])
    refused("too_large", "at most 300", todo, one, ["x" * 301])
    refused("too_large", "101 items", todo, one, ["x"] * 101)
    assert todo(two).startswith("[ ] mine")
    for n in range(300):  # the oldest lists go before the state is too large to be kept
        todo(dataclasses.replace(ctx, agent=f"s-1/many-{n}"), ["y" * 250] * 5)
    assert len(codec.pack(checked_state(dict(ctx.state)))) < 48 << 10
    assert todo(dataclasses.replace(ctx, agent="s-1/many-299")).startswith("[ ] yyy")


# --- shell ---------------------------------------------------------------------------------------


def test_shell_tells_output_and_exit_code(ctx):
    done = shell("echo one; echo two >&2; exit 3", ctx)
    assert re.fullmatch(r"one\ntwo\n\[exit code 3, \d+\.\d s\]", done.text)
    assert (done.ok, done.error, done.data["exit"]) == (False, "failed", 3)
    assert shell("true", ctx).ok
    assert "killed by SIGKILL" in shell("kill -9 $$", ctx).text


def test_shell_that_takes_too_long_is_killed_and_says_what_it_said(ctx):
    seconds, done = patiently(
        lambda seconds: (seconds, shell("echo early; sleep 1000", ctx, timeout_s=seconds)),
        lambda found: "early" in found[1].text,
    )
    assert done.error == "timeout" and not done.ok
    assert done.text == f"early\n[killed after {seconds:g} s; it had not ended]"


def test_shell_refuses_what_it_cannot_do(ctx):
    refused("failed", "nothing here keeps a job", shell, "true", ctx, background=True)
    refused("bad_args", "empty", shell, " ", ctx)
    refused("bad_args", "NUL", shell, "echo \0", ctx)
    refused("bad_args", "more than 0", shell, "true", ctx, timeout_s=0)
    refused("bad_args", "from 1 to 1000", shell, "true", ctx, pty=True, rows=0)
