"""Settings that are newer than what the root has read when it started: see loomd.hub.configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from loomd.actor.behaviour import Reader
from loomd.store.schema import name_key

_KEY: Final = name_key("settings")


def generation(reader: Reader) -> int:
    """Counts the changes; 0: nothing is newer."""
    return int(_row(reader).get("generation") or 0)


def in_force(settings: Mapping[str, Any], reader: Reader) -> dict[str, Any]:
    """The settings that the root has read, with what has been put in force since."""
    return {**settings, **(_row(reader).get("tables") or {})}


def _row(reader: Reader) -> Mapping[str, Any]:
    row = reader.row("config", _KEY)
    return row if isinstance(row, Mapping) else {}
