"""The process of an actor: `run` is the whole life of one incarnation.

Order at birth: `ready` to the root, Hello to the hub, Welcome (only now may the state be read),
`init`, effects that a predecessor left open counted once more, then mail. `Pump` does the work;
two loops turn it: a bare poll for actors that only think (it costs nothing when idle) and asyncio
for those with a performer.
"""

from __future__ import annotations

import os
import select
import sys
import time
import traceback
from typing import Any, NoReturn

from loomd.actor.behaviour import Behaviour, Performer
from loomd.actor.perform import perform
from loomd.actor.pump import Leave, Pump, logger
from loomd.supervise.link import LinkClosed, ProcessBirth
from loomd.supervise.spec import NORMAL


def run(
    birth: ProcessBirth, behaviour: Behaviour[Any], performer: Performer | None = None
) -> NoReturn:
    """The life of one incarnation of an actor in this process. Never returns.

    Exit statuses: 0 stopped; 1 crashed; 70 fenced; 74 cannot ever start (the state is unreadable);
    the end of the link means that the root is dead, and this process with it.
    """
    status = 1
    try:
        birth.link.ready()
        pump = Pump(birth, behaviour)
        pump.hello()
        pump.open_state()
        try:
            if performer is None:
                _poll(pump)
            else:
                logger()  # performers and the libraries that they call do log
                perform(pump, performer)
        except Leave as leave:
            status = leave.status
            pump.log.info("left", reason=leave.reason, status=status)
        pump.close()
    except LinkClosed:
        os._exit(NORMAL)
    except BaseException:  # noqa: BLE001 - every death is reported, then it is one
        report = traceback.format_exc()
        logger().error("crashed", actor=birth.name, traceback=report)
        try:
            birth.link.send({"op": "crash", "traceback": report[-16_000:]})
        except LinkClosed:
            os._exit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _poll(pump: Pump) -> NoReturn:
    """The loop of an actor that only thinks."""
    link = pump.birth.link.fileno()
    poll = select.poll()
    poll.register(pump.fd, select.POLLIN)
    poll.register(link, select.POLLIN)
    while True:
        pump.turn()
        if pump.deadline is None:
            timeout = None
        else:
            timeout = max(0.0, pump.deadline - time.monotonic()) * 1000
        ready = poll.poll(timeout)
        for fd, _ in ready:
            if fd == link:
                pump.link_readable()
        if pump.deadline is not None and time.monotonic() >= pump.deadline:
            pump.timed_out()
