"""A task whose model fails it twice goes on with the next model of the chain, then back.

Only failures that another model may not repeat count; those of a server are the breaker's. One
success on the next model leads back to the usual one; each time that it fails the task again, it
has to be twice as many, so that a task that is too hard for a model does not commute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FAILURES = 2
MOST_SUCCESSES = 8
REMEMBERED = 200
"""Tasks; the one that was touched least recently is forgotten first."""

COUNTED = frozenset({"malformed", "empty", "refused", "filtered", "context_overflow"})


@dataclass
class Standing:
    """level      steps up the chain
    failures   in a row on the level's model
    successes  on it, since it came there; times: that it was reached
    """

    level: int = 0
    failures: int = 0
    successes: int = 0
    times: int = 0


def key_of(session: str, task: str, agent: str, model: str) -> str:
    """A task with the model that it usually runs on; without a task, the agent."""
    return f"{session}/{task}|{model}" if task else f"{agent}|{model}"


@dataclass
class Escalation:
    standings: dict[str, Standing] = field(default_factory=dict)

    def level(self, key: str) -> int:
        found = self.standings.get(key)
        return 0 if found is None else found.level

    def failed(self, key: str, kind: str, link: int, last: int) -> bool:
        """An attempt on `link` of a chain whose last one is `last`. True: one step up from here."""
        if kind not in COUNTED:
            return False
        one = self.standings.pop(key, None) or Standing()
        self.standings[key] = one
        while len(self.standings) > REMEMBERED:
            del self.standings[next(iter(self.standings))]
        if link != one.level:
            return False  # a fallback for this one request
        one.failures += 1
        one.successes = 0
        if one.failures < FAILURES or one.level >= last:
            return False
        one.level, one.failures, one.times = one.level + 1, 0, one.times + 1
        return True

    def succeeded(self, key: str, link: int) -> bool:
        """True: one step down again."""
        one = self.standings.get(key)
        if one is None or link != one.level:
            return False
        one.failures = 0
        if not one.level:
            if not one.times:
                del self.standings[key]
            return False
        one.successes += 1
        if one.successes < min(MOST_SUCCESSES, 2 ** (one.times - 1)):
            return False
        one.level, one.successes = one.level - 1, 0
        return True

    def saved(self) -> dict[str, list[int]]:
        return {
            key: [one.level, one.failures, one.successes, one.times]
            for key, one in self.standings.items()
        }

    @staticmethod
    def of(saved: dict[str, Any]) -> Escalation:
        return Escalation({key: Standing(*fields) for key, fields in saved.items()})
