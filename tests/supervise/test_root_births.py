"""Births that end at once, in a root without a loop."""

import os
import signal

import pytest

from loomd.supervise.link import Link, encode
from loomd.supervise.root import Config, Process, Root
from loomd.supervise.spec import parse_supervisor, parse_worker

TREE = {"id": "root", "type": "supervisor", "children": []}


def test_a_child_that_died_at_its_birth_is_reaped_by_name(tmp_path):
    """It told its pid after the root had last looked, and was killed: whoever meets its corpse
    first must not take it away before the message is read, or the pid means nothing any more."""
    root = Root(Config(tree=parse_supervisor(TREE), output=str(tmp_path)))
    ours, theirs = Link.pair()
    told = os.fork()
    if told == 0:
        theirs.send(encode({"op": "pid"}))
        os._exit(0)
    untold = os.fork()
    if untold == 0:
        os._exit(0)
    theirs.close()
    for pid in (told, untold):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    process = Process("a", 1, parse_worker({"id": "a", "start": {"command": ["a"]}}), ours, None)
    process.slot = root.slots.take()
    root.processes["a"] = process
    try:
        root.orphans._reap_unborn(told)
        root.orphans._reap_unborn(untold)
        assert process.pid == told
        assert os.waitpid(told, 0) == (told, 0)
        with pytest.raises(ChildProcessError):
            os.waitpid(untold, 0)
    finally:
        root.ends.bury(process)
        root.orphans.close()
        root.selector.close()
        os.close(root.slots.fd)


def test_who_was_taken_for_an_orphan_before_it_told_its_pid_is_not_born(tmp_path):
    """Its template is dead, so nobody knew it: it is killed, and its order is placed again."""
    root = Root(Config(tree=parse_supervisor(TREE), output=str(tmp_path)))
    ours, theirs = Link.pair()
    pid = os.fork()
    if pid == 0:
        for op in ("pid", "ready"):
            theirs.send(encode({"op": op}))
        signal.pause()
        os._exit(0)
    theirs.close()
    process = Process("a", 1, parse_worker({"id": "a", "start": {"command": ["a"]}}), ours, None)
    process.slot = root.slots.take()
    root.processes["a"] = process
    try:
        root.orphans._watch(pid, None, unborn=False)
        orphan = root.orphans._known[pid]
        assert root.read_link(process) or not process.pid
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert not root.read_link(process), "its link has ended"
        assert process.pid == 0 and pid not in root.by_pid
        root.orphans._on_end(orphan)
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, 0)
        assert not root.orphans.holds(pid)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        root.ends.bury(process)
        root.orphans.close()
        root.selector.close()
        os.close(root.slots.fd)
