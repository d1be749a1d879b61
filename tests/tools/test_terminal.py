"""What is shown of an output."""

import pytest

from loomd.tools import terminal


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "textlink"),
        (b"\x1b(Bascii\x1b=\x1b7", "ascii"),
        (b"\x1b]never ended", "never ended"),
        (b"10%\r 50%\r100%\r\nnext", "100%\nnext"),
        (b"longer\rab", "abnger"),
        (b"typo\b\b\b\bword", "word"),
        (b"a\0b\x07", "a\N{SYMBOL FOR NULL}b\N{SYMBOL FOR BELL}"),
        ("é語".encode(), "é語"),
        (b"one bad \xff byte", "one bad \ufffd byte"),
        (bytes(range(128, 256)), "[binary output, 128 bytes]"),
        (b"", ""),
    ],
)
def test_an_output_is_shown_as_a_terminal_leaves_it(raw, shown):
    assert terminal.text_of(raw) == shown


def test_what_was_cut_out_is_counted_and_no_character_is_cut_in_two():
    assert terminal.cut(b"all of it\n", b"", 10) == "all of it"
    assert terminal.cut(b"head", b"tail\n", 9) == "headtail"
    tail = "é end\n".encode()[1:]
    assert (
        terminal.cut(b"head", tail, 100) == f"head\n[... {96 - len(tail)} bytes left out ...]\n end"
    )


def test_hostile_escapes_take_no_time():
    text = "\x1b]" * 18_000 + "\b" * 36_000 + "x\r" * 10_000
    assert terminal.plain(text) == "x"
