"""What goes to subscribers. Events are in the log before they are here; the rest may be lost."""

from __future__ import annotations

from typing import Any

from loomd.wire import codec, sockets, topics
from loomd.wire.messages import Delta


class Publisher:
    """The XPUB. Nothing is encoded or sent for a topic that nobody has asked for."""

    def __init__(self, socket: sockets.Socket) -> None:
        self.socket = socket
        self._prefixes: set[bytes] = set()
        self._heard: dict[bytes, bool] = {}

    def subscriptions(self) -> None:
        """Takes what subscribers have said; anything else that they send is dropped."""
        while (frames := self.socket.receive_nowait()) is not None:
            said = frames[0]
            if len(frames) != 1 or not said or len(said) > 512:
                continue
            if said[0] == 1:
                self._prefixes.add(said[1:])
            elif said[0] == 0:
                self._prefixes.discard(said[1:])
            self._heard.clear()

    def wanted(self, topic: bytes) -> bool:
        heard = self._heard.get(topic)
        if heard is None:
            if len(self._heard) > 10_000:
                self._heard.clear()
            heard = any(topic.startswith(prefix) for prefix in self._prefixes)
            self._heard[topic] = heard
        return heard

    def raw(self, topic: bytes, frame: bytes) -> None:
        """An encoded `Published`. Never blocks: XPUB drops for whoever is slow."""
        if self.wanted(topic):
            self.socket.send_multipart((topic, frame), sockets.NOBLOCK)

    def event(self, session: str, frame: bytes) -> None:
        self.raw(topics.events(session).encode(), frame)

    def delta(self, topic: str, actor: str, data: dict[str, Any]) -> None:
        name = topic.encode()
        if self.wanted(name):
            self.raw(name, codec.encode(Delta(topic=topic, actor=actor, data=data)))
