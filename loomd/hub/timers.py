"""The timers of all actors, as the state has them armed: which are due, and who was told. Pure."""

from __future__ import annotations

import heapq


class Timers:
    def __init__(self) -> None:
        self._armed: dict[str, dict[str, tuple[float, bytes]]] = {}
        self._heap: list[tuple[float, str, str]] = []
        self._told: set[tuple[str, str]] = set()

    def arm(self, name: str, key: str, due: float | None, body: bytes) -> None:
        """due: epoch seconds; None: it is armed no more."""
        self._told.discard((name, key))
        if due is None:
            keys = self._armed.get(name)
            if keys is not None:
                keys.pop(key, None)
                if not keys:
                    del self._armed[name]
            return
        self._armed.setdefault(name, {})[key] = (due, body)
        heapq.heappush(self._heap, (due, name, key))

    def soonest(self) -> float | None:
        """When one may be due; it may have been taken back since."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[tuple[str, str]]:
        """(name, key) of those that came due since this was asked last."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            due, name, key = heapq.heappop(self._heap)
            armed = self._armed.get(name, {}).get(key)
            if armed is not None and armed[0] == due:
                found.append((name, key))
        return found

    def due_of(self, name: str, now: float) -> list[str]:
        """Keys of an actor that are due by now."""
        return [key for key, (due, _) in self._armed.get(name, {}).items() if due <= now]

    def of(self, name: str, key: str) -> tuple[float, bytes]:
        """(due, body) of one that is armed."""
        return self._armed[name][key]

    def tell(self, name: str, key: str) -> bool:
        """False if its actor was told that it is due, and has not answered yet."""
        if (name, key) in self._told:
            return False
        self._told.add((name, key))
        return True

    def forget(self, name: str) -> None:
        """An actor that has been told nothing: it is a new incarnation."""
        self._told = {told for told in self._told if told[0] != name}
