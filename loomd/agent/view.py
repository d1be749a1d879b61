"""The view: which entries of the log the model sees, in which order. Pure.

A view is a list of blocks. A block is what belongs together: one message, or an assistant entry
with the results of its calls in call order. Blocks enter at the end and leave at the front, whole,
so a call is never split from its result. Their entries are kept as ranges of the log: `[4, 6]` is
entries 4 to 6.

When the view grows over its threshold, its oldest blocks are offered to a keeper (`oldest`); they
stay until the keeper says that it holds them (`leave`), then one index line stands for them. What
leaves the view is a reference: the log itself never loses anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from loomd.wire.bodies import Entry, Span

MAX_BLOCKS: Final = 400
"""More blocks than this leave too, however short: the state stays small."""

MAX_LINES: Final = 48
MAX_LINE: Final = 240
"""Of the index: lines, and bytes of one."""

BLOB_TOKENS: Final = 16_000
"""What a result in a blob counts for: it is over 64 KiB."""


class Range(msgspec.Struct, array_like=True):
    """Entries first..last, inclusive."""

    first: int
    last: int

    def numbers(self) -> range:
        return range(self.first, self.last + 1)


class Block(msgspec.Struct, array_like=True):
    """Entries that enter and leave the view together."""

    tokens: int
    ranges: list[Range]

    def numbers(self) -> Iterator[int]:
        for one in self.ranges:
            yield from one.numbers()


class Line(msgspec.Struct, array_like=True):
    """The index line of a stretch that a keeper holds."""

    log: str
    first: int
    last: int
    text: str


class ViewState(msgspec.Struct, omit_defaults=True):
    """`leaving`: the stretch that was offered and not yet taken over."""

    blocks: list[Block] = msgspec.field(default_factory=list)
    leaving: Range | None = None
    index: list[Line] = msgspec.field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(block.tokens for block in self.blocks)

    def ranges(self) -> Iterator[Range]:
        for block in self.blocks:
            yield from block.ranges


def entry_tokens(entry: Entry) -> int:
    """A rough size in tokens: a quarter of the characters, and a little for the frame."""
    size = len(entry.text) + len(entry.name)
    for call in entry.calls:
        size += len(call.name) + sum(len(key) + _length(value) for key, value in call.args.items())
    return 4 + size // 4 + (BLOB_TOKENS if entry.blob else 0)


def _length(value: object) -> int:
    return len(value) if isinstance(value, str) else len(repr(value))


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same entries in the same order with neighbours joined."""
    out: list[Range] = []
    for one in ranges:
        if out and one.first == out[-1].last + 1:
            out[-1] = Range(out[-1].first, one.last)
        else:
            out.append(Range(one.first, one.last))
    return out


def add(view: ViewState, numbers: Sequence[int], tokens: int) -> None:
    """Appends one block of the given entries, in the given order."""
    view.blocks.append(Block(tokens, merged(Range(n, n) for n in numbers)))


def spans(view: ViewState, log: str, limit: int = 0, needed: int = 0) -> tuple[Span, ...]:
    """The view as references into `log`. With `limit`, its newest blocks of so many tokens: at
    least the last one, and everything from entry `needed` on (0: nothing more)."""
    blocks = view.blocks
    if limit:
        room = limit
        start = len(blocks)
        for i, block in reversed(list(enumerate(blocks))):
            room -= block.tokens
            must = i == len(blocks) - 1 or (needed and max(block.numbers()) >= needed)
            if room < 0 and not must:
                break
            start = i
        blocks = blocks[start:]
    ranges = (one for block in blocks for one in block.ranges)
    return tuple(Span(log=log, first=r.first, last=r.last) for r in merged(ranges))


def oldest(view: ViewState, threshold: int, needed: int = 0) -> Range | None:
    """What should leave: the oldest stretch whose end brings the view to half of `threshold`.

    None if the view is below it, if a stretch is leaving already, or if no stretch is complete. A
    stretch is a set of whole blocks whose entries are one unbroken range of the log; the last
    block always stays, and so does everything from entry `needed` on (0: nothing more).
    """
    total = view.tokens
    if view.leaving is not None or (total <= threshold and len(view.blocks) <= MAX_BLOCKS):
        return None
    found: Range | None = None
    first, last, count, left = 0, 0, 0, total
    for index, block in enumerate(view.blocks[:-1]):
        numbers = list(block.numbers())
        if needed and max(numbers) >= needed:
            break
        first = min([first or numbers[0], *numbers])
        last = max(last, *numbers)
        count += len(numbers)
        left -= block.tokens
        if last - first + 1 == count:
            found = Range(first, last)
            enough = left <= threshold // 2
            if enough and len(view.blocks) - index - 1 <= MAX_BLOCKS // 2:
                break
    return found


def stretch(view: ViewState, keep: int, needed: int = 0) -> Range | None:
    """The longest complete stretch of the oldest blocks that leaves the last `keep` blocks (at
    least one) and everything from entry `needed` on (0: nothing more); None if there is none, or
    if one is leaving already."""
    if view.leaving is not None:
        return None
    found: Range | None = None
    first, last, count = 0, 0, 0
    for block in view.blocks[: len(view.blocks) - max(keep, 1)]:
        numbers = list(block.numbers())
        if needed and max(numbers) >= needed:
            break
        first = min([first or numbers[0], *numbers])
        last = max(last, *numbers)
        count += len(numbers)
        if last - first + 1 == count:
            found = Range(first, last)
    return found


def leave(view: ViewState, log: str, span: Span, line: str) -> bool:
    """A keeper holds `span`: its blocks leave, one line stays. False if nothing left the view.

    A stretch of another's log only adds its line: its keeper may be asked like any other.
    """
    left = 0
    if span.log == log:
        kept = []
        for block in view.blocks:
            if all(span.first <= n <= span.last for n in block.numbers()):
                left += 1
            else:
                kept.append(block)
        view.blocks = kept
        leaving = view.leaving
        if leaving is not None and span.first <= leaving.first and leaving.last <= span.last:
            view.leaving = None
    known = any((one.log, one.first, one.last) == (span.log, span.first, span.last)
                for one in view.index)  # fmt: skip
    if not known:
        view.index.append(Line(span.log, span.first, span.last, _cut(line)))
        _fold(view)
    return left > 0


def lines(view: ViewState) -> list[str]:
    """The index, one line per stretch that keepers hold."""
    return [line.text for line in view.index]


def _cut(line: str) -> str:
    raw = " ".join(line.split()).encode()
    if len(raw) <= MAX_LINE:
        return raw.decode()
    return raw[: MAX_LINE - 3].decode("utf-8", "ignore") + "..."


def _fold(view: ViewState) -> None:
    """Keeps the index short: two oldest lines of one log become one. They stay searchable."""
    while len(view.index) > MAX_LINES:
        a = view.index.pop(0)
        at = next((i for i, one in enumerate(view.index) if one.log == a.log), None)
        if at is None:
            continue
        b = view.index[at]
        first, last = min(a.first, b.first), max(a.last, b.last)
        text = f"entries {first}-{last} of {a.log}: several keepers; use recall"
        view.index[at] = Line(a.log, first, last, text)
