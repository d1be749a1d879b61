"""Patches: the grammar, and what they make of files."""

import os

import pytest

from loomd.tools import Context, Proposal, ToolError
from loomd.tools.builtin.apply_patch import apply_patch
from loomd.tools.patch import PatchError, apply, parse
from loomd.tools.propose import name_of
from tests.tools.stand import git_repo


def patch(*lines):
    return "\n".join(["*** Begin Patch", *lines, "*** End Patch"])


def after(text, *hunks, changed=False, **files):
    """The content of f.py after hunks."""
    disk = {"f.py": text.encode() if isinstance(text, str) else text, **files}
    made = apply(parse(patch("*** Update File: f.py", *hunks)), disk.get, lambda path: changed)
    return made["f.py"][1].decode()


def refused(said, code, text, *hunks, **more):
    with pytest.raises(PatchError) as caught:
        after(text, *hunks, **more)
    assert said in caught.value.text and caught.value.code == code, caught.value.text


FILE = "def f():\n    return 1\n\n\ndef g():\n    return 1\n"


def test_hunks():
    assert after("a\nb\nc\n", " a", "-b", "+B", " c") == "a\nB\nc\n"
    assert after("a\nb\nc\n", "@@", "-a", "@@", "-c", "+C") == "b\nC\n"
    assert after(FILE, "@@ def g():", "-    return 1", "+    return 2") == FILE[:-2] + "2\n"
    assert after(FILE, "@@ def g():", " def g():", "-    return 1", "+    x") == FILE[:-9] + "x\n"
    assert after(FILE, "@@ def f():", "+    # new").startswith("def f():\n    # new\n")
    assert after("a\nb\n", "+c") == "a\nb\nc\n"
    assert after("x\nx\n", "-x", "+y", "*** End of File", changed=False) == "x\ny\n"
    assert after("a\nb\n", "@@ -1,2 +1,2 @@", " a", "-b", "+B") == "a\nB\n"
    assert after("c:\n a\nd:\n a\n", "@@ -1,2 +1,2 @@ d:", "- a", "+ b") == "c:\n a\nd:\n b\n"
    assert after("a\n\nb\n", " a", "", "-b", "+c") == "a\n\nc\n"
    text = "class A:\n def f\n  x\nclass B:\n def f\n  x\n"
    assert after(text, "@@ class B:", "@@ def f", "-  x", "+  y") == text[:-2] + "y\n"


def test_what_stays_stays_as_it_is():
    assert after("a  \nb\n", " a", "-b", "+c") == "a  \nc\n"  # white space at the end of context
    assert after("a\r\nb\r\n", " a", "-b", "+c", "+d") == "a\r\nc\r\nd\r\n"
    assert after("a\r\nb\nc\n", "-a", "-b", "+A", "+B") == "A\r\nB\nc\n"
    assert after("\ufeffa\nb\n", "-a", "+c") == "\ufeffc\nb\n"
    assert after("a\nb", "-b", "+c") == "a\nc"
    assert after("a\nb", "-a", "+c") == "c\nb"
    assert after("a\nb", " b", "+c") == "a\nb\nc"
    assert after("a\x0cb\nc\n", "-c", "+d") == "a\x0cb\nd\n"
    assert after("", "+a") == "a\n"


def test_a_hunk_that_does_not_fit_is_named_with_the_nearest_lines():
    refused("hunk 1 of f.py (line 3 of the patch) stands nowhere. It differs only in white space "
            "from lines 2-2:\n    return 1", "failed", FILE, "-return 1", "+x")  # fmt: skip
    refused("nearest real text is lines 5-6:\ndef g():\n    return 1", "failed",
            FILE, " def g(x):", "-    return 2", "+x")  # fmt: skip
    refused("stands 2 times (lines 2, 6): give more", "failed", FILE, "-    return 1", "+x")
    refused("hunk 2 of f.py (line 5 of the patch) stands at line 1, before", "failed",
            "a\nb\nc\n", "-c", "+C", "@@", "-a", "+A")  # fmt: skip
    refused("`@@ def h():` stands nowhere. The nearest", "failed", FILE, "@@ def h():", "-x", "+y")
    refused("not stand at the end of the file, but at line 1", "failed",
            "a\nb\n", "-a", "+c", "*** End of File")  # fmt: skip
    refused("Nothing there is like it", "failed", FILE, "-zzzzzzzzzz", "+y")
    refused("not UTF-8", "failed", b"caf\xe9\n", "-x", "+y")


def test_a_file_that_has_changed_takes_only_what_stands_once():
    assert after("a\nb\n", "-a", "+c", changed=True) == "c\nb\n"
    refused("stands 2 times (lines 2, 6), and f.py has changed", "conflict",
            FILE, "@@ def g():", "-    return 1", "+x", changed=True)  # fmt: skip
    refused("stands nowhere", "conflict", FILE, "-zzzzzz", "+y", changed=True)
    with pytest.raises(PatchError, match="has changed"):
        apply(parse(patch("*** Delete File: f.py")), lambda path: b"x", lambda path: True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begins with"), ("hello", "begins with"),
        ("*** Begin Patch\n*** Add File: a", "no end"),
        (patch(), "changes no file"), (patch("+x"), "line 2 of the patch"),
        (patch("*** Add File: a", "x"), "behind a +"), (patch("*** Update File: a"), "no change"),
        (patch("*** Update File: a", "x"), "a space, - or +"),
        (patch("*** Update File: a", " x"), "changes nothing"),
        (patch("*** Update File: a", "*** End of File"), "after the lines"),
        (patch("*** Update File: a", "*** Rename File: b"), "the next file"),
        (patch("*** Delete File: a", "-x"), "the next file"),
        (patch("*** Add File: a", "+x", "*** Move to: b"), "right under"),
    ],
)  # fmt: skip
def test_what_is_no_patch(text, said):
    with pytest.raises(PatchError) as caught:
        parse(text)
    assert said in caught.value.text and caught.value.code == "bad_args"


def test_wrappings_of_models_are_seen_through():
    text = patch("*** Add File: a", "+x")
    for wrapped in (f"```\n{text}\n```", f"\n{text}\n\n", f"<<'EOF'\n{text}\nEOF",
                    text.replace("\n", "\r\n")):  # fmt: skip
        [section] = parse(wrapped)
        assert (section.kind, section.path, section.content) == ("add", "a", ["x"])


def test_sections_build_on_each_other():
    disk = {"a": b"1\n2\n", "b": b"b\n"}
    made = apply(
        parse(
            patch(
                "*** Update File: a", "-1", "+one",
                "*** Update File: a", "*** Move to: c", "-2", "+two",
                "*** Delete File: b",
                "*** Add File: b", "+new",
                "*** Add File: d",
                "*** Update File: d", "+x",
                "*** Add File: e", "+x",
                "*** Delete File: e",
            )
        ),
        disk.get,
    )  # fmt: skip
    assert made == {
        "a": (b"1\n2\n", None, "a"), "c": (None, b"one\ntwo\n", "a"),
        "b": (b"b\n", b"new\n", "b"), "d": (None, b"x\n", "d"),
    }  # fmt: skip
    for lines, said in (
        (("*** Add File: a", "+x"), "exists already"),
        (("*** Update File: a", "*** Move to: b"), "b exists already"),
        (("*** Delete File: zz",), "does not exist"),
        (("*** Update File: zz", "-x", "+y"), "does not exist"),
    ):
        with pytest.raises(PatchError, match=said):
            apply(parse(patch(*lines)), disk.get)


# --- the tool ------------------------------------------------------------------------------------


@pytest.fixture
def ctx(tmp_path):
    files = {"a.py": "one\ntwo\n", "b.py": "b\n", "run.sh": "#!/bin/sh\necho\n"}
    repo = git_repo(tmp_path / "repo", files)
    (repo / "run.sh").chmod(0o755)
    (repo / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    return Context(repo=repo, env={"PATH": os.environ["PATH"]})


def test_one_proposal_for_all_files(ctx):
    made = apply_patch(
        patch(
            "*** Update File: ./a.py", " one", "-two", "+2",
            "*** Update File: run.sh", "*** Move to: bin/run", " #!/bin/sh", "-echo", "+echo x",
            "*** Delete File: b.py",
            "*** Add File: new/c.py", "+c",
        ),
        ctx,
    )  # fmt: skip
    assert isinstance(made, Proposal) and made.reason.startswith("patch a.py, run.sh, bin/run")
    assert {(f.path, f.after, f.mode) for f in made.files} == {
        ("a.py", b"one\n2\n", 0o644), ("run.sh", None, 0o755),
        ("bin/run", b"#!/bin/sh\necho x\n", 0o755), ("b.py", None, 0o644),
        ("new/c.py", b"c\n", 0o644),
    }  # fmt: skip
    assert (ctx.repo / "a.py").read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("lines", "code", "said"),
    [
        (("*** Update File: ../x", "-a", "+b"), "denied", "outside of the checkout"),
        (("*** Add File: /etc/x", "+b"), "denied", "outside of the checkout"),
        (("*** Update File: .git/config", "-a", "+b"), "denied", ".git"),
        (("*** Update File: a.py", "*** Move to: ../x"), "denied", "outside"),
        (("*** Update File: image.png", "-a", "+b"), "failed", "PNG image"),
        (("*** Add File: a.py/x", "+b"), "bad_args", "is a file, not a folder"),
        (("*** Add File: .", "+b"), "bad_args", "is a folder"),
        (("*** Update File: zz.py", "-a", "+b"), "not_found", "does not exist"),
        (("*** Update File: a.py", "-three", "+b"), "failed", "hunk 1 of a.py"),
        (("*** Update File: a.py", "-one", "+one"), "bad_args", "leaves every file"),
        (("*** Update File: a.py", "-one", "+x", "*** Update File: ./a.py", "-two", "+y"),
         "bad_args", "by two paths"),
        (("zz",), "bad_args", "line 2 of the patch"),
    ],
)  # fmt: skip
def test_what_the_tool_refuses(ctx, lines, code, said):
    with pytest.raises(ToolError) as caught:
        apply_patch(patch(*lines), ctx)
    assert caught.value.code == code and said in caught.value.text, caught.value.text


def test_what_has_changed_since_it_was_read(ctx):
    stale = Context(repo=ctx.repo, seen=lambda path: [name_of(b"before")])
    assert apply_patch(patch("*** Update File: a.py", "-one", "+1"), stale).files
    (ctx.repo / "a.py").write_text("one\none\n")
    with pytest.raises(ToolError) as caught:
        apply_patch(patch("*** Update File: a.py", "-one", "+1", "*** End of File"), stale)
    assert caught.value.code == "conflict"
