"""The frames that a call speaks in: between the tool host, the guard and the worker.

A frame is four bytes of length (big-endian) and a MessagePack map.

    host -> guard    call {tool, args, ...}; state {value}; cancel {}; to the worker of a job:
                     input {bytes, eof}, terminate {seconds until it is killed}
    guard -> host    born {} (before anything runs); lock {} (from the worker: first touch of the
                     state); progress {text, offset}; of a job: started {pid}, taken {bytes of its
                     input}; result {...}; end {exit, signal, reason, output, size}
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Any, Final

from loomd.tools.contract import ToolError
from loomd.wire import codec

MAX_FRAME: Final = 64 << 20

_LENGTH = struct.Struct(">I")


class Gone(Exception):
    """The other side of a frame socket has closed it."""


def frame(value: Mapping[str, Any]) -> bytes:
    """ToolError(too_large)."""
    raw = codec.pack(value)
    if len(raw) > MAX_FRAME:
        raise ToolError(f"a result of {len(raw)} bytes is over {MAX_FRAME}", "too_large")
    return _LENGTH.pack(len(raw)) + raw


def send_frame(sock: socket.socket, value: Mapping[str, Any]) -> None:
    """ToolError(too_large); Gone."""
    raw = frame(value)
    try:
        sock.sendall(raw)
    except (BrokenPipeError, ConnectionResetError):
        raise Gone from None


class Frames:
    """Takes a byte stream apart."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The frames that `data` completes. ValueError: no frame of ours."""
        self._buffer += data
        found = []
        while len(self._buffer) >= 4:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            if len(self._buffer) < 4 + length:
                break
            value = codec.unpack(bytes(self._buffer[4 : 4 + length]))
            del self._buffer[: 4 + length]
            if not isinstance(value, dict):
                raise ValueError("a frame that is no map")
            found.append(value)
        return found


def receive_frame(sock: socket.socket) -> dict[str, Any]:
    """Blocks for one frame. Gone."""
    frames = Frames()
    while True:
        data = sock.recv(1 << 20)
        if not data:
            raise Gone
        if found := frames.feed(data):
            return found[0]


class Channel:
    """The worker's end of a frame socket, for a built-in tool that is spoken to while it runs."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = Frames()

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> list[dict[str, Any]]:
        """What has been said; blocks if nothing is there. Gone."""
        data = self._sock.recv(1 << 20)
        if not data:
            raise Gone
        return self._frames.feed(data)

    def say(self, value: Mapping[str, Any]) -> None:
        """Gone."""
        send_frame(self._sock, value)
