"""grep with ripgrep and without: the same on everything that a tree may hold."""

import asyncio
import os
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loomd.tools import Context
from loomd.tools.builtin.grep import _Search, grep
from loomd.tools.prefilter import prefilter
from tests.tools.stand import git_repo, hosting, nobody, open_repo

PATTERNS = [
    "needle", "needle$", "^needle", "^$", r"\bneedle\b", r"n(e)\1dle", "(?i)NEEDLE", "(?i)[k-s]ilo",
    r"caf.$", "café", "\ufffd", r"\d+", r"\w+\s\w+", r"^\s+x", r"[^a-z\s]{3}", "a(?=b)", "(?<!x)y",
    r"(?x) need  le # a comment", r"(?:ne|no)+dle?", "x{,2}z", r"\Aneedle\Z", "é|ü",
    "[\u0430-\u044f]+",
    r"[\]\-^]", r"\.", "(?s).", "q*", r"a\tb", r"(?P<n>x)(?P=n)", "(a)?(?(1)b|c)", "a++b",
    "[[a]",
    "[^\\W\\d]{6}", "\u2028",
    "x\\r", "~", "#", "[a&&b]", "[a|b]", "\\\\", "(?a)\\w+é", "ⅷ", "\u212a",
    "\u017f",
]  # fmt: skip


def plant(repo):
    """A tree that holds what trees hold."""
    files = {
        "plain.txt": b"a needle\nno\n  needle here\n",
        "no-end.txt": b"x\nneedle",
        "empty.txt": b"",
        "only-ends.txt": b"\n\n\n",
        "crlf.txt": b"needle\r\nx needle\r\n\r\nab\r\n",
        "mixed.txt": b"needle\r\nneedle\nx\rneedle\r\r\n",
        "latin.txt": b"caf\xe9\nneedle caf\xe9\n\xff\xfe\xfd needle\nabc\xc3\n",
        "utf8.txt": (
            "café\nnaïve über\n\u043f\u0440\u0438 \u043c\n\u2028sep\nⅷ ² ½\n\u017filo Kilo\n"
        ).encode(),
        "bom.txt": "\ufeffneedle\nx\n".encode(),
        "utf16.txt": "needle\n".encode("utf-16"),
        "nul-early.bin": b"needle\0needle\n",
        "nul-late.txt": (b"x" * 99 + b"\n") * 700 + b"needle\n\0\n",
        "image.png": b"\x89PNG\r\n\x1a\nneedle\n",
        "long.txt": b"x" * 1000 + b"needle" + b"y" * 2000 + b"\nneedle\n",
        ".hidden": b"needle\n",
        ".config/deep/.x": b"needle\n",
        "ignored.log": b"needle\n",
        "kept.log": b"needle, tracked though ignored\n",
        "node_modules/x.js": b"needle\n",
        "dir with space/a b.txt": b"needle\n",
        "-dash.txt": b"needle\n",
        "--help": b"needle\n",
        "new\nline.txt": b"needle\n",
        "\u043a\u043e\u043b:1:x.txt": b"needle\n",
        "tab\tquote'\".txt": b"needle\n",
        "code.py": b"def f(x):\n\treturn x.needle  # 12345\n\nxx = [a]\n^]-\\ ~ a&&b xxz z\n",
        "words.txt": b"nnodle nedle aab ab ac y xy\na\tb\nqqq c d\nfoo_bar1 ABCdef\nKILO silo\n",
    }
    for name, data in files.items():
        path = repo / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (repo / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"needle\n")
    for n in range(120):  # enough for ripgrep to be worth its start
        (repo / f"fill-{n}.txt").write_text(f"nothing {n}\n")
    (repo / "link.txt").symlink_to("plain.txt")
    (repo / "linked").symlink_to("dir with space")
    (repo / "dangling").symlink_to("nowhere")
    (repo / "loop").symlink_to("loop")
    os.mkfifo(repo / "pipe")
    (repo / "deleted.txt").unlink()


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    repo = git_repo(
        tmp_path_factory.mktemp("grep") / "repo",
        {"kept.log": "x\n", "deleted.txt": "needle\n", ".gitignore": ""},
    )
    (repo / ".gitignore").write_text("*.log\n")
    plant(repo)
    return repo


def both(repo, monkeypatch, pattern, **kwargs):
    """The answers with ripgrep and with our own walk."""
    ctx = Context(repo=repo, env={"PATH": os.environ["PATH"]})
    found = grep(pattern, ctx, **kwargs)
    with monkeypatch.context() as patched:
        patched.setattr("loomd.tools.builtin.grep.shutil.which", lambda *a, **k: None)
        return found, grep(pattern, ctx, **kwargs)


needs_ripgrep = pytest.mark.skipif(shutil.which("rg") is None, reason="ripgrep is not installed")


@needs_ripgrep
def test_ripgrep_and_our_own_walk_find_the_same(tree, monkeypatch):
    differ = []
    for pattern in PATTERNS:
        for ignore_case in (False, True):
            fast, slow = both(tree, monkeypatch, pattern, ignore_case=ignore_case)
            if fast != slow:
                differ.append((pattern, ignore_case, set(fast.split("\n")) ^ set(slow.split("\n"))))
    assert differ == []


@needs_ripgrep
def test_so_they_do_without_git_and_below_a_folder(tree, tmp_path, monkeypatch):
    plain = tmp_path / "plain"
    shutil.copytree(tree, plain, symlinks=True, ignore=shutil.ignore_patterns(".git", "pipe"))
    for kwargs in ({}, {"path": "dir with space"}, {"glob": "*.txt"}, {"context": 2}):
        for repo in (plain, tree):
            fast, slow = both(repo, monkeypatch, "needle", **kwargs)
            assert fast == slow
    assert "ignored.log:1" in both(plain, monkeypatch, "needle")[0]


@needs_ripgrep
def test_ripgrep_is_really_asked_and_what_it_cannot_read_is_said(monkeypatch):
    files = {f"f{n}.txt": "needle\n" if n % 10 == 0 else "x\n" for n in range(110)}
    with open_repo(files) as repo:
        (repo / "f1.txt").chmod(0)
        ctx = Context(repo=repo, env={"PATH": os.environ["PATH"]})
        read = []
        real = _Search._file

        def noted(search, name):
            read.append(name)
            return real(search, name)

        monkeypatch.setattr(_Search, "_file", noted)
        with nobody():
            said = grep("needle", ctx).split("\n")
        assert len([line for line in said if ":1:needle" in line]) == 11
        assert said[-1] == "[not searched: f1.txt: Permission denied]"
        assert len(read) == 12  # the hits, and the one that could not be read


def test_a_ripgrep_that_is_broken_changes_nothing(tree, tmp_path):
    ctx = Context(repo=tree, env={"PATH": os.environ["PATH"]})
    rg = tmp_path / "rg"
    for script in ("exit 2", "echo nonsense", "exec /nonexistent", "kill -9 $$"):
        rg.write_text(f"#!/bin/sh\n{script}\n")
        rg.chmod(0o755)
        broken = Context(repo=tree, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
        assert grep("needle", broken) == grep("needle", ctx)


def test_ripgrep_runs_inside_a_call(instance):
    """One that rules every file out is believed: so it was really run, confined as the call is."""
    repo = git_repo(instance.base / "repo", {f"f{n}.txt": "needle\n" for n in range(120)})
    rg = instance.base / "bin/rg"
    rg.parent.mkdir()
    rg.write_text("#!/bin/sh\nexec git ls-files -z\n")
    rg.chmod(0o755)

    async def search(path):
        async with hosting(instance.places, repo, env={"PATH": path}) as host:
            await host.ready()
            return (await host.result("grep", pattern="needle")).text

    path = os.environ["PATH"]
    assert asyncio.run(search(path)).count("\n") == 119
    assert asyncio.run(search(f"{rg.parent}:{path}")) == "nothing found in 120 files"


def test_what_is_found_is_shown(tree):
    ctx = Context(repo=tree, env={"PATH": os.environ["PATH"]})
    said = grep("needle", ctx)
    lines = said.split("\n")
    assert "plain.txt:1:a needle" in lines and "crlf.txt:2:x needle" in lines
    assert "bom.txt:1:needle" in grep("^needle", ctx) and ".hidden:1:needle" in lines
    assert "kept.log:1:needle, tracked though ignored" in lines
    for name in ("link.txt", "ignored.log", "node_modules", "nul-early", "image.png", "deleted"):
        assert name not in said
    assert grep("needle", ctx, glob="*.py") == "code.py:2:\treturn x.needle  # 12345"
    assert grep("needle", ctx, glob="dir*/**") == "dir with space/a b.txt:1:needle"
    assert grep("NEEDLE", ctx, "crlf.txt", ignore_case=True).count("\n") == 1
    assert grep("return", ctx, "code.py", context=1) == (
        "code.py-1-def f(x):\ncode.py:2:\treturn x.needle  # 12345\ncode.py-3-"
    )


# --- the filter ----------------------------------------------------------------------------------

ATOMS = ["a", "b", "k", "s", "é", "\u017f", "\ufffd", ".", r"\w", r"\W", r"\d", r"\s", r"\S", r"\b",
         "^", "$", "[ab]", "[^a]", "[é-ü]", r"[\w-]", "(?:ab|b)", "(a)", r"\1", "(?=a)", "(?!b)",
         "(?i:S)", r"\.", "-", "(?<=a)"]  # fmt: skip
REPEATS = ["", "", "", "*", "+", "?", "{2}", "{0,2}", "*?", "?+"]


@settings(max_examples=250, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(ATOMS), st.sampled_from(REPEATS)), min_size=1, max_size=6),
    st.lists(st.sampled_from([b"a", b"b", b"K", b"s", b" ", b"1", b"-", b".", "é".encode(),
                              "\u017f".encode(), b"\xe9", b"\xff", b"\xc3", b"\r"]), max_size=8),
    st.booleans(),
)  # fmt: skip
def test_the_filter_misses_no_line(parts, line, any_case):
    """Python's own engine runs what is made for ripgrep: it is the same in both."""
    pattern = "".join(atom + repeat for atom, repeat in parts)
    flags = re.IGNORECASE if any_case else 0
    raw = b"".join(line)
    try:
        compiled = re.compile(pattern, flags)
    except re.error:
        return
    made = prefilter(pattern, flags)
    assert made is not None
    text = raw.decode("utf-8", "replace").removesuffix("\r")
    if compiled.search(text):
        assert re.search(made.removeprefix("(?-u)").encode(), raw), (pattern, made, raw)


def test_a_plain_word_stays_one():
    assert prefilter("needle") == "(?-u)needle"
    assert prefilter("a\nb") is None and prefilter("(") is None
