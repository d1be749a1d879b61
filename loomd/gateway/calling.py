"""Tool calls in a chunk, as they grow, for those who watch. Pure, and of no consequence: what a
turn calls is decided by `classify`, when all of it is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loomd.gateway.classify import characters
from loomd.gateway.types import CallPiece


def pieces(chunk: Mapping[str, Any]) -> tuple[CallPiece, ...]:
    """What a chunk adds to calls. A call without an index is taken for the first one."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        return ()
    message = choices[0].get("delta") or choices[0].get("message")
    if not isinstance(message, Mapping):
        return ()
    calls = message.get("tool_calls")
    found = [_piece(call, n) for n, call in enumerate(calls if isinstance(calls, list) else ())]
    if isinstance(message.get("function_call"), Mapping):
        found.append(_piece({"function": message["function_call"]}, 0))
    return tuple(piece for piece in found if piece is not None)


def _piece(call: Any, place: int) -> CallPiece | None:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return None
    index, name, text = call.get("index"), function.get("name"), function.get("arguments")
    return CallPiece(
        index if isinstance(index, int) else place,
        characters(name) if isinstance(name, str) else "",
        characters(text) if isinstance(text, str) else "",
    )
