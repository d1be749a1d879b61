"""Births that end at once, in a root without a loop."""

import os

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
