"""Where a provider is told to keep what it has read of a prompt. Pure.

Some providers keep the beginning of a prompt by themselves; others keep what ends at a mark, for
some minutes, and charge a quarter more for writing it and a tenth for reading it again. A mark pays
where the same beginning comes again soon: in an agent's turns, not in what is asked once. So a
request is ordered by how long its parts stay the same: the tools, what all agents of a role see,
what one agent sees, the conversation as far as it was sent before, the newest messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from loomd.wire.models import split

MARK: Final = {"type": "ephemeral"}

SPEAKS: Final = frozenset({"anthropic"})
"""Providers that take marks for every model."""

SELLS: Final = frozenset({"azure_ai", "bedrock", "databricks", "openrouter", "vertex_ai"})
"""Providers that take them for the models of one of SPEAKS."""

TURNS: Final = frozenset({"turn", "review"})
"""Purposes whose requests begin like the one before."""


def wanted(model: str, configured: Mapping[str, Any], purpose: str) -> bool:
    """Whether a request has marks. `model`: PROVIDER/NAME; `configured`: its provider's table, of
    which `cache` decides, if it is there."""
    if purpose not in TURNS:
        return False
    said = configured.get("cache")
    if said is not None:
        return bool(said)
    provider, name = split(model)
    return provider in SPEAKS or (provider in SELLS and "claude" in name.lower())


def marked(
    messages: Sequence[Mapping[str, Any]], pinned: Sequence[str], shared: int
) -> list[dict[str, Any]]:
    """The same messages with at most four marks: behind the first `shared` pinned texts, behind all
    of them, behind the last message that was sent before, behind the last one of all."""
    made = [dict(message) for message in messages]
    parts = [part for part in (pinned[:shared], pinned[shared:]) if any(part)]
    if parts and made[0]["role"] == "system":
        texts = ["\n\n".join(part) for part in parts]
        # What stands between them goes with the first: together they are the text as it was.
        texts = [*(f"{text}\n\n" for text in texts[:-1]), texts[-1]]
        made[0]["content"] = [
            {"type": "text", "text": text, "cache_control": MARK} for text in texts
        ]
    for at in _ends(made):
        _mark(made[at])
    return made


def _ends(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The last message, and the last one before the newest answer: there the request before this
    one has ended, so what was written there can be read again."""
    said = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    ends = [said[-1] - 1, len(messages) - 1] if said else [len(messages) - 1]
    return [at for at in ends if at >= 0 and messages[at]["role"] in ("user", "tool")]


def _mark(message: dict[str, Any]) -> None:
    if message["role"] == "tool":  # its content is one text, by the common kind's rules
        message["cache_control"] = MARK
    else:
        text = message["content"]
        message["content"] = [{"type": "text", "text": text, "cache_control": MARK}]
