"""Which generation of code a process is born from. Pure.

A generation is what one set of templates has imported. A newer one takes every birth as soon as its
templates are formed; the one before is kept for those whose new code fails before its first commit:
each is pinned to what it ran on last until the next upgrade, which gives it another chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Generations:
    """The numbers. `number` counts up with each upgrade; `births` is what is born now: `number`
    itself, or what was before it while that is being formed and if it was withdrawn."""

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self.births = number
        self.previous = 0  # 0: there is none
        self.pins: dict[str, int] = {}
        self._falls: dict[str, int] = {}  # where those fall back to that were pinned before

    def begin(self) -> int:
        """A newer generation is being formed; its number. Births go on where they were."""
        self.number += 1
        return self.number

    def take(self) -> None:
        """It is formed, and takes the births."""
        if self.births == self.number:
            return
        self.previous = self.births
        self._falls, self.pins = self.pins, {}
        self.births = self.number

    def withdraw(self) -> None:
        """Nothing more is born from the newest generation: it, or its hub, could not run."""
        if self.births == self.number and self.previous:
            self.births = self.previous
            self.pins, self._falls = self._falls, {}

    def of(self, name: str) -> int:
        """What the next process of this name is born from."""
        return self.pins.get(name, self.births)

    def fallback(self, name: str) -> int:
        """What it runs on if the newest code fails; 0: nothing."""
        if name in self.pins or self.births != self.number:
            return 0
        return self._falls.get(name, self.previous)

    def pin(self, name: str) -> int:
        """It falls back, until the next upgrade; to which generation."""
        self.pins[name] = self.fallback(name)
        return self.pins[name]

    def unpin(self, name: str) -> None:
        self.pins.pop(name, None)

    def needed(self, *, on_trial: bool) -> frozenset[int]:
        """Generations whose templates are kept. `on_trial`: somebody may yet fall back."""
        needed = {self.births, *self.pins.values()}
        if on_trial:
            needed |= {self.previous, *self._falls.values()}
        return frozenset(needed - {0})

    def freeze(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "births": self.births,
            "previous": self.previous,
            "pins": dict(self.pins),
            "falls": dict(self._falls),
        }

    @classmethod
    def thaw(cls, frozen: Mapping[str, Any]) -> Generations:
        made = cls(frozen["number"])
        made.births = frozen["births"]
        made.previous = frozen["previous"]
        made.pins = dict(frozen["pins"])
        made._falls = dict(frozen["falls"])
        return made
