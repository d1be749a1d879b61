"""The root's log: one line per start, exit, restart and escalation, to stderr.

JSON lines where stderr is not a terminal, plain ones with a journald priority under systemd. A line
is written only when stderr takes it at once; what it does not take waits, to a limit, and is then
dropped and counted: a stopped terminal or a full pipe never stops the root.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

MAX_LINES = 1000
MAX_LINE = 3900  # below PIPE_BUF: a pipe that polls writable takes it whole
PRIORITIES = {"error": 3, "warning": 4, "info": 6}


class Log:
    """Writes to descriptor `fd`. `style`: json, text or journal; chosen by looking at `fd`."""

    def __init__(self, fd: int = 2, style: str = "", env: Mapping[str, str] = os.environ) -> None:
        self._fd = fd
        self._style = style or self._look(env)
        self._lines: deque[bytes] = deque()
        self.dropped = 0

    def _look(self, env: Mapping[str, str]) -> str:
        if os.isatty(self._fd):
            return "text"
        try:
            status = os.fstat(self._fd)
        except OSError:
            return "json"
        if env.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}":
            return "journal"
        return "json"

    def line(self, level: str, event: str, **facts: object) -> None:
        """One line. `level`: error, warning or info."""
        if len(self._lines) >= MAX_LINES:
            self.dropped += 1
            return
        self._lines.append(self._format(level, event, facts))
        self.flush()

    def _format(self, level: str, event: str, facts: dict[str, object]) -> bytes:
        facts = {k: v for k, v in facts.items() if v not in (None, "")}
        facts = {k: v[:1500] if isinstance(v, str) else v for k, v in facts.items()}
        if self._style == "json":
            whole = {"ts": round(time.time(), 3), "level": level, "event": event, **facts}
            text = json.dumps(whole, default=str)
        else:
            text = " ".join([event, *(f"{k}={_plain(v)}" for k, v in facts.items())])
            if self._style == "journal":
                text = f"<{PRIORITIES.get(level, 6)}>{text}"
            else:
                text = f"{time.strftime('%H:%M:%S')} {level:7} {text}"
        return text.encode("utf-8", "replace")[:MAX_LINE] + b"\n"

    def flush(self) -> None:
        """Writes what stderr takes now."""
        while self._lines:
            try:
                if not select.select([], [self._fd], [], 0)[1]:
                    return
                os.write(self._fd, self._lines[0])
            except (OSError, ValueError):
                self._lines.clear()  # nobody will ever read it
                return
            self._lines.popleft()

    def freeze(self) -> dict[str, Any]:
        """What is not written yet, for a successor of this process."""
        return {
            "lines": [line.decode(errors="replace") for line in self._lines],
            "dropped": self.dropped,
        }

    def thaw(self, frozen: Mapping[str, Any]) -> None:
        self._lines.extend(line.encode() for line in frozen["lines"])
        self.dropped += frozen["dropped"]

    @property
    def waiting(self) -> bool:
        return bool(self._lines)


def _plain(value: object) -> str:
    text = str(value)
    return json.dumps(text) if any(c.isspace() or c == '"' for c in text) else text
