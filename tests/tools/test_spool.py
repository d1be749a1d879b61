"""Outputs on disk: whole, bounded, and read without trust."""

import errno
import os

import pytest

from loomd.tools import spool
from loomd.tools.progress import PIECE, PIECE_S, Progress
from loomd.tools.spool import Spool


def spooled(folder, *pieces, head=10, segment=4):
    made = Spool(folder, head, segment)
    for piece in pieces:
        made.write(piece)
    made.close()
    return made


def test_what_fits_is_kept_whole(tmp_path):
    made = spooled(tmp_path, b"0123", b"456789")
    assert made.size == spool.size(tmp_path) == 10
    assert b"".join(spool.pieces(tmp_path)) == b"0123456789"
    assert os.listdir(tmp_path) == ["output.0"]


def test_of_an_endless_output_the_first_and_the_last_are_kept(tmp_path):
    made = spooled(tmp_path, b"0123456789ABCDEFGHIJKLMNO", b"P")
    assert made.size == spool.size(tmp_path) == 26
    assert sorted(os.listdir(tmp_path)) == ["output.0", "output.18", "output.22"]
    whole = b"".join(spool.pieces(tmp_path))
    assert whole == b"0123456789\n[... 8 bytes were not kept ...]\nIJKLMNOP"
    assert spool.read(tmp_path, 8, 100) == (8, b"89")
    assert spool.read(tmp_path, 10, 3) == (18, b"IJK")
    assert spool.read(tmp_path, 26, 3) == (26, b"")


@pytest.mark.parametrize(
    ("start", "ends"),
    [(0, (b"0123", b"MNOP", 26)), (20, (b"KLMNOP", b"", 6)), (26, (b"", b"", 0))],
)
def test_the_ends_of_what_came_since(tmp_path, start, ends):
    spooled(tmp_path, b"0123456789ABCDEFGHIJKLMNOP")
    assert spool.ends(tmp_path, 4, 4, start) == ends


def test_no_file_of_another_is_read(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (folder / "output.0").symlink_to(secret)
    os.link(secret, folder / "output.6")
    os.mkfifo(folder / "output.12")
    (folder / "output.18").mkdir()
    assert spool.size(folder) == 0
    assert list(spool.pieces(folder)) == []
    assert spool.read(folder, 0, 100) == (0, b"")


def test_a_full_disk_ends_the_keeping_and_not_the_command(tmp_path, monkeypatch):
    made = Spool(tmp_path)
    made.write(b"one")

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        made.write(b"two")
    made.write(b"three")
    made.close()
    assert made.size == 11 and made.trouble == "No space left on device"
    assert spool.size(tmp_path) == 3


def test_pieces_are_put_together_and_of_a_flood_the_last_is_said():
    now, said = [0.0], []
    progress = Progress(lambda text, offset: said.append((offset, text)), lambda: now[0])
    progress.add(b"first")
    progress.add(b" sec")
    progress.add(b"ond\xc3")
    assert said == [(0, "first")] and progress.due() == PIECE_S
    now[0] = PIECE_S
    progress.tick()
    progress.add(b"\xa9")
    assert said[1:] == [(5, " second")] and progress.due() == 2 * PIECE_S
    progress.flush()
    assert said[2:] == [(13, "é")] and progress.due() == float("inf")
    for _ in range(10):
        progress.add(b"x" * PIECE)
    progress.flush()
    assert said[3:] == [(14 + 9 * PIECE, "x" * PIECE)]
