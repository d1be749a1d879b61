"""Who looks on while an answer comes, and keeps what is told."""

from __future__ import annotations

from collections.abc import Sequence

from loomd.gateway.types import CallPiece


class Looking:
    """A `Watcher` that keeps what it is told."""

    def __init__(self, pieces: list[str] | None = None) -> None:
        self.texts = pieces if pieces is not None else []
        self.calls: list[CallPiece] = []
        self.phases: list[str] = []
        self.unwanted = False

    def phase(self, phase: str) -> None:
        self.phases.append(phase)

    def pieces(self, text: str, reasoning: str, calls: Sequence[CallPiece]) -> bool:
        self.texts.append(text)
        self.calls += calls
        return True

    def cancelled(self) -> bool:
        return self.unwanted
