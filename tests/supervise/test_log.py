"""The root's log never blocks."""

from __future__ import annotations

import json
import os

from loomd.supervise.log import MAX_LINES, Log


def test_lines_are_json_where_nobody_watches():
    reader, writer = os.pipe()
    try:
        log = Log(writer)
        log.line("info", "started", name="s-1/lead", pid=7, reason="", text="a\nb")
        line = json.loads(os.read(reader, 65536))
        assert line["event"] == "started" and line["name"] == "s-1/lead" and line["pid"] == 7
        assert "reason" not in line and line["text"] == "a\nb"
    finally:
        os.close(reader)
        os.close(writer)


def test_the_journal_gets_a_priority():
    reader, writer = os.pipe()
    try:
        status = os.fstat(writer)
        log = Log(writer, env={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        log.line("warning", "exited", name="hub", reason="no luck")
        assert os.read(reader, 65536) == b'<4>exited name=hub reason="no luck"\n'
    finally:
        os.close(reader)
        os.close(writer)


def test_a_full_pipe_never_blocks_and_drops_at_the_limit():
    reader, writer = os.pipe()
    try:
        log = Log(writer, style="json")
        for _ in range(3 * MAX_LINES):
            log.line("info", "x", text="y" * 500)
        assert log.waiting and log.dropped > 0
        while log.waiting:
            os.read(reader, 65536)
            log.flush()
    finally:
        os.close(reader)
        os.close(writer)


def test_a_closed_reader_is_nobody_s_problem():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        log = Log(writer)
        log.line("info", "x")
        assert not log.waiting
    finally:
        os.close(writer)
