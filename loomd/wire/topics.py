"""Topics of the XPUB. A subscription is a prefix, so every topic ends in a separator."""

from __future__ import annotations


def events(session: str) -> str:
    """Journaled events of one session (also its wake-up: read the log from your cursor)."""
    return f"e/{session}/"


def deltas(session: str) -> str:
    """What may be lost of one session: token deltas, shell output, progress."""
    return f"d/{session}/"


OBITUARIES = "o/"
"""Exits of incarnations: data is {name, incarnation, status, reason}."""

STATUS = "s/"
"""Changes of any actor's status line."""
