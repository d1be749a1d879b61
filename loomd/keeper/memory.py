"""What a keeper knows of its stretch. Pure; raw bytes are read by the caller from the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from loomd.keeper.index import Index, tokens
from loomd.wire.bodies import Entry, Hit, Span

ANSWER_BYTES: Final = 512 << 10
"""Of one answer, raw bytes and texts together. One entry alone may be larger (`ONE_ENTRY`)."""

ONE_ENTRY: Final = 960 << 10
"""An entry up to here is always given whole, alone and without the second copy in `text`."""

HIT_TEXT: Final = 16 << 10
EXTRACT: Final = 1_200
LINE_TERMS: Final = 8


def rendered(entry: Entry) -> str:
    """An entry as people and models read it, tool arguments included."""
    parts = [entry.text] if entry.text else []
    parts += [
        f"{call.name} {json.dumps(call.args, ensure_ascii=False, sort_keys=True, default=repr)}"
        for call in entry.calls
    ]
    return "\n".join(parts)


def searchable(entry: Entry) -> str:
    """What search looks at: besides what is read, names and the reasoning.

    Reasoning without a space is packed data (some models keep their state there), not words.
    """
    reasoning = entry.reasoning if " " in entry.reasoning[:500] else ""
    return "\n".join((rendered(entry), entry.name, entry.sender, reasoning))


class Memory:
    """A stretch of a log. Holds an index and texts to show, never the truth: exact
    answers are made of the bytes in the log."""

    def __init__(
        self, keeper: str, span: Span, title: str, entries: Sequence[tuple[int, Entry]]
    ) -> None:
        self.keeper = keeper
        self.span = span
        self.title = title
        self.numbers = [n for n, _ in entries]
        self.texts = {n: rendered(entry) for n, entry in entries}
        self.index = Index(searchable(entry) for _, entry in entries)

    def overlap(self, first: int, last: int) -> range:
        """The asked entries that this keeper holds; `last` 0: only `first`; both 0: all."""
        if first == 0 and last == 0:
            return range(self.span.first, self.span.last + 1)
        return range(max(first, self.span.first), min(last or first, self.span.last) + 1)

    def search(self, query: str, limit: int) -> tuple[list[Hit], bool]:
        """Ranked hits, and whether something was cut."""
        hits: list[Hit] = []
        size, truncated = 0, False
        for doc, score in self.index.search(query, limit):
            n = self.numbers[doc]
            text = self.texts[n]
            if len(text) > HIT_TEXT:
                text, truncated = window(text, query, HIT_TEXT), True
            size += len(text.encode())
            if size > ANSWER_BYTES:
                truncated = True
                break
            hits.append(
                Hit(
                    keeper=self.keeper,
                    log=self.span.log,
                    entry=n,
                    score=round(score, 4),
                    text=text,
                )
            )
        return hits, truncated

    def extract(self, query: str, hits: Sequence[Hit]) -> str:
        """An answer without a model: the best hits quoted, each with the entry it is from."""
        return "\n\n".join(
            f"[{hit.log} entry {hit.entry}] {window(hit.text, query, EXTRACT)}" for hit in hits[:3]
        )

    def line(self) -> str:
        """The index line that stands in the view for this stretch."""
        about = ", ".join(self.index.terms(LINE_TERMS))
        title = f" ({self.title})" if self.title else ""
        line = f"{self.keeper}: entries {self.span.first}-{self.span.last} of {self.span.log}"
        return f"{line}{title}: {about}" if about else f"{line}{title}"


def window(text: str, query: str, size: int) -> str:
    """At most `size` characters of `text` around the first of the query's rarest-looking words."""
    if len(text) <= size:
        return text
    low = text.lower()
    terms = sorted(set(tokens(query)), key=len, reverse=True)
    at = next((found for term in terms if (found := low.find(term)) >= 0), 0)
    start = max(0, min(at - size // 4, len(text) - size))
    piece = text[start : start + size]
    return f"{'...' if start else ''}{piece}{'...' if start + size < len(text) else ''}"
