"""The process of an actor: `run` is the whole life of one incarnation.

Order at birth: `ready` to the root, Hello to the hub, Welcome (only now may the state be read),
`init`, effects that a predecessor left open counted once more, then mail. `Pump` does the work;
two loops turn it: a bare poll for actors that only think (it costs nothing when idle) and asyncio
for those with a performer.
"""

from __future__ import annotations

import contextlib
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
    try:
        birth.link.ready()
        pump = Pump(birth, behaviour)
        pump.hello()
        pump.open_state()
        if performer is None:
            _poll(pump)
        logger()  # performers and the libraries that they call do log
        perform(pump, performer, lambda error: _end(birth, error))
    except BaseException as error:  # noqa: BLE001 - every death is reported, then it is one
        _end(birth, error)


def _end(birth: ProcessBirth, error: BaseException) -> NoReturn:
    """Ends the process at once, with what `error` comes to. No thread is waited for."""
    status = 1
    match error:
        case LinkClosed():
            status = NORMAL
        case Leave():
            status = error.status
            logger().info("left", actor=birth.name, reason=error.reason, status=status)
        case _:
            report = "".join(traceback.format_exception(error))
            logger().error("crashed", actor=birth.name, traceback=report)
            with contextlib.suppress(LinkClosed):
                birth.link.send({"op": "crash", "traceback": report[-16_000:]})
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
