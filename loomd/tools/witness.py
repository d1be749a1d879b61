"""Watches the calls that write the checkout itself, for the journal. The waiting half of
`snapshot`: one look at the checkout at a time, in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from loomd.actor.behaviour import OpenEffect
from loomd.tools.snapshot import Snapshots
from loomd.wire.bodies import Changed, ToolCall

REASON: Final = 200


class Witness:
    """`folder`: of this session, for what must be kept."""

    def __init__(self, repo: Path, folder: Path, blobs: Path) -> None:
        self._snapshots = Snapshots(repo, folder, blobs)
        self._looking = asyncio.Lock()
        self._interrupted: dict[str, Changed | None] = {}

    async def begin(self, effect: OpenEffect, call: ToolCall) -> None:
        """Before a call that may write the checkout. One that was under way when the host died is
        not made again: what it has changed is looked for instead. OSError: the disk is full."""
        async with self._looking:
            if effect.attempt > 1:
                self._interrupted[effect.id] = await asyncio.to_thread(
                    self._snapshots.interrupted, effect.id, call, reason(call)
                )
            else:
                await asyncio.to_thread(self._snapshots.before, effect.id)

    async def end(self, effect: OpenEffect, call: ToolCall) -> Changed | None:
        """What it has changed; None: nothing. OSError as above."""
        if effect.id in self._interrupted:
            self._snapshots.forget(effect.id)
            return self._interrupted.pop(effect.id)
        async with self._looking:
            return await asyncio.to_thread(self._snapshots.after, effect.id, call, reason(call))

    async def wrote(self, paths: Iterable[str]) -> None:
        """An edit was applied: no call's doing."""
        async with self._looking:
            await asyncio.to_thread(self._snapshots.wrote, paths)

    def close(self) -> None:
        """At an orderly end."""
        self._snapshots.close()


def reason(call: ToolCall) -> str:
    """`shell: pytest -q`; of other tools their name."""
    command = call.args.get("command")
    said = command if isinstance(command, str) else ""
    return f"{call.name}: {said[:REASON]}" if said else call.name
