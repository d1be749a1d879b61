"""What came of a call: what its agent, or the team, is told."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from loomd.store.blobs import put_blob
from loomd.tools import outputs, spool, terminal
from loomd.tools.contract import ToolError
from loomd.tools.places import Places
from loomd.tools.propose import name_of
from loomd.tools.undo import with_modes
from loomd.tools.worker import checked_state
from loomd.wire import codec
from loomd.wire.bodies import Body, FileChange, Propose, ToolCall, ToolResult

SHOWN: Final = 16_000
"""Characters of a result that stand beside its blob, for people and for the log."""

NOTE: Final = 48_000

PRINTED: Final = 16 << 10
"""Bytes that are shown of what a command had printed that has no result."""

MAX_RESULT: Final = 448 << 10
"""Bytes of what a call's end is told as. A commit carries it twice, as input and as mail, and the
state of the tool too; a frame holds 1 MiB."""


@dataclass
class Ending:
    """What came of a call's process: its result frame, and how it ended. born: its guard spoke."""

    born: bool = False
    result: dict[str, Any] | None = None
    end: dict[str, Any] | None = None


class Results:
    """`places` says where the blobs lie."""

    def __init__(self, places: Places) -> None:
        self.places = places

    async def came_of(
        self,
        call: ToolCall,
        ending: Ending,
        limits: dict[str, Any],
        spooled: Path | None = None,
    ) -> tuple[Body, dict[str, Any] | None]:
        """What is told, and what is kept. A tool may have written its result frame itself, and
        the disk may be full: neither ends the host and with it the calls of others.

        spooled: the folder with the output of a command."""
        try:
            body = await self._body(call, ending, limits, spooled)
            size = len(codec.encode(body))
            if size > MAX_RESULT:
                text = f"the result has {size} bytes; at most {MAX_RESULT} can be told"
                return ToolResult(id=call.id, ok=False, error="too_large", text=text), None
            state = (ending.result or {}).get("state") if _fine(body) else None
            return body, None if state is None else checked_state(state)
        except OSError as error:
            text = f"the result could not be stored: {error.strerror or error}"
            return ToolResult(id=call.id, ok=False, error="failed", text=text), None
        except ToolError as error:
            return ToolResult(id=call.id, ok=False, error=error.code, text=error.text), None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            text = f"the process of the call sent no result of ours: {error!r}"[:1000]
            return ToolResult(id=call.id, ok=False, error="crashed", text=text), None

    async def _body(
        self, call: ToolCall, ending: Ending, limits: dict[str, Any], spooled: Path | None
    ) -> Body:
        """What the agent, or the team, is told."""
        end = ending.end or {"exit": 0, "signal": 0, "reason": "gone", "output": b"", "size": 0}
        printed = end["output"].decode("utf-8", "replace").strip()
        result = ending.result
        if result is None or end["reason"]:
            if spooled is not None:
                ends = await asyncio.to_thread(spool.ends, spooled, PRINTED // 2, PRINTED // 2)
                printed = f"{terminal.cut(*ends)}\n{printed}".strip()
            error, text = _ended(end, limits)
            if printed:
                text += f"\n[it had printed:]\n{printed}"
            return ToolResult(id=call.id, ok=False, error=error, text=text)
        if spooled is not None and (kept := (result.get("data") or {}).pop("spooled", "")):
            await self._whole(call, result, spooled, told=kept == "cut")
        if "files" in result:
            return await self._propose(call, result, printed)
        text = result["text"]
        if printed:
            text += f"\n[printed:]\n{printed}"
        data = {k: v for k, v in result["data"].items() if k != "reason"}
        if result["output"]:
            data["output"] = await self._blob(result["output"])
        raw = text.encode("utf-8", "replace")
        blob = ""
        if len(raw) > codec.BLOB_LIMIT:
            blob = await self._blob(raw)
            text = f"{text[:SHOWN]}\n[{len(text)} characters in all]"
        return ToolResult(
            id=call.id,
            ok=bool(result["ok"]),
            error=result["error"] if not result["ok"] else "",
            text=text,
            blob=blob,
            data=_bounded(data),
        )

    async def _propose(self, call: ToolCall, result: dict[str, Any], printed: str) -> Body:
        for content in result["blobs"]:
            await self._blob(content)
        changes = tuple(msgspec.convert(file, FileChange) for file in result["files"])
        note = result["note"] + (f"\n[printed:]\n{printed}" if printed else "")
        if result["output"]:
            note += f"\n[whole output: blob {await self._blob(result['output'])}]"
        return Propose(
            call=call.id,
            agent=call.agent,
            tool=call.name,
            reason=result["reason"][:2000],
            files=await asyncio.to_thread(with_modes, self.places.repo, changes),
            task=call.task,
            note=note.encode()[:NOTE].decode("utf-8", "ignore"),
            review=bool(result.get("review")),
        )

    async def _whole(
        self, call: ToolCall, result: dict[str, Any], spooled: Path, *, told: bool
    ) -> None:
        """An output that is not shown whole is kept whole; `told`: the model is told where."""
        name = name_of(call.id.encode())[:8]
        p = self.places
        path, blob = await asyncio.to_thread(outputs.keep, spooled, p.scratch, name, p.blobs)
        if told:
            part = "note" if "files" in result else "text"
            result[part] += f"\n[the whole output, for your commands: {path}]"
        if "files" not in result:
            result["data"]["output"] = blob

    async def _blob(self, content: bytes) -> str:
        return await asyncio.to_thread(put_blob, self.places.blobs, content)


def _fine(body: Body) -> bool:
    return isinstance(body, Propose) or (isinstance(body, ToolResult) and body.ok)


def killed(ending: Ending) -> bool:
    """Whether the call's process, or its guard, was killed and not by us."""
    end = ending.end
    if end is None:
        return True
    return ending.result is None and not end["reason"] and end["signal"] == signal.SIGKILL


def _bounded(data: dict[str, Any]) -> dict[str, Any]:
    """Data of a user's tool may be anything; beyond 16 KiB it is left out."""
    try:
        return data if len(codec.pack(data)) <= 16 << 10 else {}
    except (TypeError, ValueError, OverflowError):
        return {}


def _ended(end: Mapping[str, Any], limits: Mapping[str, Any]) -> tuple[str, str]:
    """(error, text) of a call that has no result."""
    match end["reason"]:
        case "timeout":
            return "timeout", f"killed: the call had not ended after {limits['call_s']:g} s"
        case "cancelled":
            return "cancelled", "cancelled while it ran; it was killed"
        case "memory":
            return "crashed", f"killed: out of memory, a call may use {limits['memory_mb']} MB"
        case "processes":
            return "crashed", f"killed: it had more than {limits['processes']} processes"
        case "gone":
            return "crashed", "the process of the call was killed from outside"
    if end["signal"]:
        name = f"signal {end['signal']}"  # not all have a name
        with contextlib.suppress(ValueError):
            name = signal.Signals(end["signal"]).name
        if name == "SIGXCPU":
            used = f"more than {limits['cpu_s']:g} s of processor time"
            return "crashed", f"killed: it used {used} (limits.cpu_s)"
        hint = " (from outside, or by the kernel for want of memory)" if name == "SIGKILL" else ""
        return "crashed", f"the process of the call died of {name}{hint}"
    return "crashed", f"the process of the call ended itself (exit code {end['exit']})"
