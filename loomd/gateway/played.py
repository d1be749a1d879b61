"""The models that need no provider: no key, no network, and no cost. `offline/rules`, and
`replay/FILE` and `scripted/FILE`.

FILE is absolute (`replay//home/...`), begins with `~`, or lies beside `config.toml`. It is read
again when it has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from loomd import plainfile
from loomd.gateway import offline, replay, script
from loomd.gateway.classify import ANSWER_LIMIT
from loomd.gateway.types import Reply, Resolved, Watcher
from loomd.wire.bodies import Failed, FinalAnswer, Outcome, ToolCalls, Usage
from loomd.wire.errors import LoomError
from loomd.wire.models import OFFLINE

MAX_FILE: Final = 256 << 20
PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "replay": replay.parse,
    "scripted": script.parse,
}

_log = structlog.get_logger()

FREE: Final = Usage(cost_usd=0.0, calls=1)


class Played:
    """`folder`: of `config.toml`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[tuple[int, int, int], Any]] = {}

    def path(self, name: str) -> Path:
        return self._folder / Path(name).expanduser()

    def load(self, model: str) -> Any:
        """The file of `replay/...` or `scripted/...`, parsed. Raises LoomError(config)."""
        provider, _, name = model.partition("/")
        path = self.path(name)
        large = LoomError("config", f"{path}: no file of at most {MAX_FILE} bytes")
        try:
            with plainfile.opened(path) as (file, status):
                mark = (status.st_ino, status.st_size, status.st_mtime_ns)
                if status.st_size > MAX_FILE:
                    raise large
                known, parsed = self._read.get(model, (None, None))
                if known == mark:
                    return parsed
                text = file.read().decode()
        except OSError as error:
            raise LoomError("config", f"{path}: cannot be read: {error.strerror}") from None
        except plainfile.NotPlainError:
            raise large from None
        except UnicodeDecodeError as error:
            raise LoomError("config", f"{path}: is not UTF-8: {error}") from None
        try:
            parsed = PARSERS[provider](text)
        except LoomError as error:
            raise LoomError("config", f"{path}: {error.message}", error.hint) from None
        self._read[model] = mark, parsed
        return parsed

    async def complete(self, resolved: Resolved, watcher: Watcher) -> Reply:
        try:
            parsed = await asyncio.to_thread(self.load, resolved.model)
        except LoomError as error:
            failed = Failed(kind="unknown_model", detail=error.message, hint=error.hint)
            return _reply(failed, FREE)
        if isinstance(parsed, replay.Recording):
            outcome, usage = parsed.answer(parsed.place(resolved), resolved.session)
            _show(outcome, watcher)
            return _reply(outcome, usage)
        line: script.Line = parsed.answer(resolved)
        await asyncio.sleep(line.delay_s)
        outcome = line.outcome()
        if line.piece and line.fail is None:
            for start in range(0, len(line.text), line.piece):
                watcher.pieces(line.text[start : start + line.piece], "", ())
                await asyncio.sleep(line.every_s)
        else:
            _show(outcome, watcher)
        return _reply(outcome, FREE)


def offline_reply(resolved: Resolved) -> Reply:
    """The rules' answer. An error in them is an answer too: it must not end the gateway."""
    usage = Usage(cost_usd=0.0, calls=1)
    if resolved.model != OFFLINE:
        hint = f"the offline model is {OFFLINE}"
        detail = f"there is no model {resolved.model}"
        return Reply(Failed(kind="unknown_model", detail=detail, hint=hint), usage, "computed")
    try:
        outcome = offline.complete(resolved)
    except Exception as error:  # noqa: BLE001 - told to the asker, with its place in our log
        _log.exception("offline/rules failed", request=resolved.request)
        detail = f"offline/rules failed: {type(error).__name__}: {error}"
        outcome = Failed(kind="server", detail=detail)
    return Reply(outcome, usage, "computed", (0.0, 0.0))


def _show(outcome: Outcome, watcher: Watcher) -> None:
    if _size(outcome) <= ANSWER_LIMIT and isinstance(outcome, ToolCalls | FinalAnswer):
        watcher.pieces(outcome.text, outcome.reasoning, ())


def _size(outcome: Outcome) -> int:
    return len(msgspec.msgpack.encode(outcome))


def _reply(outcome: Outcome, usage: Usage) -> Reply:
    if _size(outcome) > ANSWER_LIMIT:
        outcome = Failed(kind="malformed", detail=f"the answer is over {ANSWER_LIMIT} bytes")
    return Reply(outcome, usage, "computed", (0.0, 0.0))
