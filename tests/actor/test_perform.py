"""The loop of an actor with a performer, against a hub that the test plays."""

from __future__ import annotations

import asyncio
import time

import pytest
import zmq

from loomd.actor import pump
from loomd.actor.echo import EchoPerformer
from loomd.actor.perform import _Loop
from loomd.wire import messages as m
from loomd.wire.bodies import Note
from loomd.wire.errors import LoomError
from tests.actor.test_pump import Stand, mail, seqs, stands
from tests.support import BOUND_S

__all__ = ["stands"]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that is slow to be scheduled is not asked again: that would be another frame."""
    for name in ("HELLO_S", "RESEND_S"):
        monkeypatch.setattr(pump, name, BOUND_S)


async def taken(stand: Stand) -> m.FromActor:
    """The next frame that the actor's own loop has sent."""
    async with asyncio.timeout(BOUND_S):
        while True:
            if (message := stand.hub.take()) is not None:
                return message
            await asyncio.sleep(0)


async def begun(stand: Stand, performer: EchoPerformer) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(_Loop(stand.pump, performer).run())
    assert isinstance(await taken(stand), m.Hello)
    stand.hub.say(m.Welcome(epoch=1, step=0))
    assert isinstance(await taken(stand), m.Commit)
    stand.hub.say(m.Committed(step=1))
    while True:
        if performer.stage is not None:
            return task
        await asyncio.sleep(0)


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def swallowed(stand: Stand) -> None:
    """Mail is there, and the socket's descriptor does not say so: what a send may do, whenever it
    comes right after the mail."""
    until = time.monotonic() + BOUND_S
    while not stand.pump.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
        assert time.monotonic() < until, "the mail does not come"


def test_mail_that_has_come_before_a_publication_is_taken(stands):
    async def run() -> None:
        stand, performer = stands(), EchoPerformer()
        task = await begun(stand, performer)
        stand.hub.say(mail(1, op="add", n=1))
        swallowed(stand)
        performer.stage.publish("d/s-1/", {"n": 1})
        assert isinstance(await taken(stand), m.Publish)
        assert seqs(await taken(stand)) == ("mail", m.WORK, 1)
        await end(task)

    asyncio.run(run())


def test_mail_that_has_come_before_a_question_is_taken(stands):
    async def run() -> None:
        stand, performer = stands(), EchoPerformer()
        task = await begun(stand, performer)

        async def asks() -> None:
            stand.hub.say(mail(1, op="add", n=1))
            swallowed(stand)
            with pytest.raises(LoomError, match="it is gone"):
                await performer.stage.ask("s-1/other", Note(data=1))

        asking = asyncio.create_task(asks())
        asked = await taken(stand)
        assert isinstance(asked, m.Ask)
        assert seqs(await taken(stand)) == ("mail", m.WORK, 1)
        stand.hub.say(m.Answered(id=asked.id, error="actor_died", detail="it is gone"))
        await asking
        await end(task)

    asyncio.run(run())
