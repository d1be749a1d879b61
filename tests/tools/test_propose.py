import subprocess

from hypothesis import given
from hypothesis import strategies as st

from loomd.tools.propose import apply_hunks, capped, change, cut, lines_of

TEXTS = st.lists(st.sampled_from(["a", "b", "", "c\r", "  d"]), max_size=30).map("\n".join)


@given(TEXTS, TEXTS)
def test_hunks_give_the_new_content_byte_for_byte(before, now):
    made = change("f", before.encode(), now.encode())
    patched = apply_hunks(lines_of(before), made.hunks)
    assert patched is not None and "".join(patched) == now
    for hunk in made.hunks:
        assert tuple(lines_of(before)[hunk.start - 1 :][: len(hunk.old)]) == hunk.old


@given(before=TEXTS, now=TEXTS)
def test_the_diff_is_one_that_git_takes(tmp_path_factory, before, now):
    folder = tmp_path_factory.mktemp("git")
    made = change("f", before.encode(), now.encode())
    if not made.hunks:
        return
    (folder / "f").write_bytes(before.encode())
    command = ["git", "apply", "--unidiff-zero" if not before else "-p1", "-"]
    done = subprocess.run(command, cwd=folder, input=made.diff.encode(), capture_output=True)
    assert done.returncode == 0, (made.diff, done.stderr)
    assert (folder / "f").read_bytes() == now.encode()


def test_no_file_is_dev_null_on_its_side():
    assert change("f", None, b"x\n").diff.startswith("--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@")
    assert change("f", b"x\n", None).diff.startswith("--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@")
    assert change("f", None, b"x").base == "" and change("f", b"x", None).after == ""


def test_a_binary_file_has_no_hunks():
    made = change("f", b"\0", b"\0\1")
    assert made.hunks == () and "Binary files" in made.diff


def test_a_long_diff_is_cut_and_says_so():
    long = "x" * 50 + "\n"
    assert "[cut: " in cut(long * 100, 300)
    files = tuple(change(n, None, (long * 1500).encode()) for n in "abc")
    made = capped(files)
    assert (
        sum(len(f.diff) for f in made) < 110_000 and made[2].diff.splitlines()[-1][:6] == "[cut: "
    )
