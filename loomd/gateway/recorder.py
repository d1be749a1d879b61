"""A session's recording, read from the state: what gateways have been asked, and what came of it.

Every step of a gateway is in table `inputs`: the orders as mails, their ends as effects. The views
are read from the logs again, which only grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from loomd.actor.behaviour import Reader
from loomd.gateway import replay, view
from loomd.store.schema import name_key
from loomd.wire import codec
from loomd.wire.bodies import Body, Failed, Perform, Performed
from loomd.wire.errors import LoomError

PAGE: Final = 256 << 10
"""Bytes of lines in one answer, but for the last line."""


def page(reader: Reader, session: str, after: int) -> dict[str, Any]:
    """{lines, next}: from request `after` on (0: with the head); `next` 0: that was all."""
    lines = [replay.head(session)] if after == 0 else []
    size = 0
    for number, (order, end) in enumerate(_ended(reader, session), 1):
        if number <= after:
            continue
        try:
            where = replay.place(view.resolve(reader, order.request, order.model))
        except LoomError:
            continue  # its log is gone
        line = replay.line(where, end.model, end.outcome, end.usage)
        lines.append(line)
        size += len(line)
        if size > PAGE:
            return {"lines": lines, "next": number}
    return {"lines": lines, "next": 0}


def _ended(reader: Reader, session: str) -> Iterator[tuple[Perform, Performed]]:
    """Every request of the session with its last end: its answer, if it had one."""
    found: dict[str, tuple[Perform, Performed]] = {}
    for key, _ in reader.rows("actors", b"gateway-"):
        name = key.partition(b"\0")[0].decode()
        orders: dict[tuple[str, int], Perform] = {}
        for _, row in reader.rows("inputs", name_key(name)):
            body = _body(row)
            if isinstance(body, Perform) and body.request.session == session:
                orders[body.request.id, body.attempt] = body
            elif isinstance(body, Performed) and (body.request, body.attempt) in orders:
                order = orders.pop((body.request, body.attempt))
                if body.request in found and isinstance(body.outcome, Failed):
                    _, before = found[body.request]
                    if before.attempt > body.attempt or not isinstance(before.outcome, Failed):
                        continue
                found[body.request] = order, body
    yield from found.values()


def _body(row: Any) -> Body | None:
    """What a step has consumed."""
    raw = row.get("body") if row["kind"] == "effect" else (row.get("mail") or {}).get("body")
    try:
        return codec.body(raw) if raw else None
    except LoomError:
        return None  # of a kind that this code does not know
