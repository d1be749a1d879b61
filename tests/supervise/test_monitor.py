"""The monitor of a service: output in files that do not grow beyond their limit."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from loomd.supervise.link import Link, LinkClosed
from loomd.supervise.monitor import CappedFile, fork_monitor
from tests.support import BOUND_S, eventually


def test_a_file_never_grows_beyond_its_limit_and_one_older_is_kept(tmp_path):
    file = CappedFile(str(tmp_path / "out"), 100)
    for i in range(50):
        file.write(f"{i:09}\n".encode())
        assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    file.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out~"]
    text = (tmp_path / "out~").read_text() + (tmp_path / "out").read_text()
    assert text.splitlines()[-1] == f"{49:09}" and len(text) > 100


def test_one_write_that_is_larger_than_the_limit_is_split(tmp_path):
    file = CappedFile(str(tmp_path / "out"), 10)
    file.write(b"0123456789abcde")
    file.close()
    assert (tmp_path / "out~").read_bytes() == b"0123456789"
    assert (tmp_path / "out").read_bytes() == b"abcde"


def test_what_there_is_no_room_for_is_counted(tmp_path):
    folder = tmp_path / "gone"
    file = CappedFile(str(folder / "out"), 100)
    file.write(b"lost")
    folder.mkdir()
    file.write(b"kept\n")
    file.close()
    assert (folder / "out").read_bytes() == b"[4 bytes lost: no room]\nkept\n"


@pytest.fixture
def monitored(tmp_path) -> Iterator[tuple[int, Link, Path]]:
    """A monitor that waits for `line:^up$`; the pipe to write to, the root's end of its link."""
    out, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(out, False)
    link, theirs = Link.pair()
    file = CappedFile(str(tmp_path / "out"), 1 << 20)
    fork_monitor("a", os.getpid(), out, theirs, ("line", "^up$", 0), None, file, os.getpid())
    theirs.close()
    os.close(out)
    yield write, link, tmp_path / "out"
    link.close()
    with contextlib.suppress(OSError):
        os.close(write)
    os.wait()


def message(link: Link) -> dict[str, object] | None:
    """The next message; None at the end of the link."""
    assert select.select([link], [], [], BOUND_S)[0]
    try:
        got = link.receive()
    except LinkClosed:
        return None
    assert got is not None
    return got[0]


def test_output_is_copied_and_a_line_makes_it_ready(monitored):
    write, link, path = monitored
    os.write(write, b"not yet up\nup\n")
    assert message(link) == {"op": "ready"}
    os.write(write, b"more\n")
    eventually(lambda: path.read_bytes() == b"not yet up\nup\nmore\n", what="all of it")


def test_the_last_words_are_copied_and_count(monitored):
    write, link, path = monitored
    os.write(write, b"x" * 30_000 + b"\nup")
    os.close(write)
    link.sock.shutdown(1)
    assert message(link) == {"op": "ready"}
    assert message(link) is None
    assert path.stat().st_size == 30_003


def test_it_ends_with_the_link_though_somebody_still_writes(monitored):
    write, link, path = monitored
    os.write(write, b"still here\n")  # and the pipe stays open
    link.sock.shutdown(1)
    assert message(link) is None
    assert path.read_bytes() == b"still here\n"


def test_signals_do_not_end_it(monitored):
    write, link, path = monitored
    pid = int(Path("/proc/thread-self/children").read_text().split()[-1])
    os.write(write, b"up\n")
    assert message(link) == {"op": "ready"}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    os.write(write, b"more\n")
    eventually(lambda: path.read_bytes() == b"up\nmore\n", what="all of it")
