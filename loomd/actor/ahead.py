"""What a process can have behind it before it knows which actor it will be.

Called by a template's spares (`Start.ahead`). The first use of a page that the template has made
copies it, some microseconds each, and an actor touches more than a thousand of them until it has
answered for the first time; most of these it touches here, while nobody waits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loomd.actor.behaviour import Init
from loomd.actor.commit import Author, build, encode_state
from loomd.store.env import Store
from loomd.wire import codec, sockets
from loomd.wire.bodies import Note
from loomd.wire.endpoints import Instance
from loomd.wire.errors import LoomError
from loomd.wire.messages import WORK, Asked, Committed, Hello, Mail, Welcome


def prepare(args: Mapping[str, Any]) -> None:
    """Makes the sockets' context, opens the state if it is there, and uses both codecs once."""
    sockets.prepare()
    places = Instance(
        config=Path(args["config"]),
        state=Path(args["state_dir"]),
        runtime=Path(args["runtime_dir"]),
    )
    with contextlib.suppress(LoomError):  # not there yet, or newer: the actor will say so
        store = Store.prepare(places)
        store.actor("models")
        store.effects("models")
    note = codec.encode(Note(data={}))
    codec.body(note)
    author = Author("", 0, 0, 1)
    commit = build(author, Init(1), 0.0, [], encode_state({})).commit
    for message in (Hello(actor="", incarnation=0, token=""), commit):
        codec.encode(message)
    for frame in (
        Welcome(epoch=1, step=0),
        Committed(step=1),
        Mail(seq=1, lane=WORK, id="", sender="", body=note),
        Asked(route=b"", id="", sender="", body=note),
    ):
        codec.to_actor(codec.encode(frame))
