"""Claims on regions of files: who holds, who waits, and how regions move with edits. Pure.

A region is a whole file (""), lines ("12-40", anchored: it moves with applied edits above it) or a
symbol's name. The team reads no files, so where a symbol stands is unknown: two different symbols
are apart, a symbol and lines overlap to be on the safe side.

A claim that cannot be granted waits behind every overlapping one that came before it. It is
refused instead if its holder waits, directly or through others, for the very agent that asks.
An agent works freely inside the claims of those who wait for it (whoever spawned it).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from loomd.wire.bodies import FileChange

_LINES: Final = re.compile(r"(\d{1,9})(?:\s*[-:]\s*(\d{1,9}))?")
_SYMBOL: Final = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*", re.UNICODE)

Span = tuple[int, int, int]
"""A hunk's extent: first line in the base (1-based), how many lines leave, how many come.
No line leaves: the new ones come before line `start`."""


class Claim(msgspec.Struct, kw_only=True):
    """`lines` [first, last] as they stand now; [] for a file or a symbol (then `symbol`)."""

    id: str
    path: str
    region: str  # as it was asked for
    agent: str
    task: str = ""
    state: Literal["held", "queued", "released"] = "queued"
    lines: list[int] = msgspec.field(default_factory=list)
    symbol: str = ""
    call: str = ""  # to be answered when granted

    @property
    def place(self) -> str:
        """For people: `path`, `path:12-40`, `path:symbol`."""
        if self.lines:
            return f"{self.path}:{self.lines[0]}-{self.lines[1]}"
        return f"{self.path}:{self.symbol}" if self.symbol else self.path


class BadRegion(ValueError):
    """The path or region cannot be meant; the message says why."""


def clean_path(path: str, repo: str = "") -> str:
    """`path` relative to the checkout, in one spelling. BadRegion if it leads out of it."""
    path = path.strip()
    if not path or "\0" in path or "\n" in path:
        raise BadRegion(f"{path!r} is not a path")
    if path.startswith("/"):
        root = posixpath.normpath(repo) if repo else ""
        path = posixpath.normpath(path)
        if not root or not (path == root or path.startswith(root.rstrip("/") + "/")):
            raise BadRegion(f"{path} is outside the checkout")
        path = posixpath.relpath(path, root)
    path = posixpath.normpath(path)
    if path == ".." or path.startswith("../"):
        raise BadRegion(f"{path} is outside the checkout")
    return path


def parse_region(region: str) -> tuple[list[int], str]:
    """(lines, symbol) of a region's text. BadRegion."""
    region = region.strip()
    if region in ("", "*"):
        return [], ""
    lines = _LINES.fullmatch(region)
    if lines:
        first = int(lines[1])
        last = int(lines[2] or first)
        if first < 1 or last < first:
            raise BadRegion(f"{region!r}: lines count from 1, the last is not before the first")
        return [first, last], ""
    if len(region) <= 200 and _SYMBOL.fullmatch(region):
        return [], region
    raise BadRegion(f'region {region!r} is none of "" (whole file), "12-40" and a symbol\'s name')


def _within(path: str, folder: str) -> bool:
    return folder == "." or path.startswith(folder + "/")


def overlap(a: Claim, b: Claim) -> bool:
    """Could an edit lie in both?"""
    if a.path != b.path:
        return _within(a.path, b.path) or _within(b.path, a.path)
    if a.symbol and b.symbol:
        one, other = a.symbol + ".", b.symbol + "."
        return one.startswith(other) or other.startswith(one)
    if a.lines and b.lines:
        return a.lines[0] <= b.lines[1] and b.lines[0] <= a.lines[1]
    return True


# --- anchoring ---------------------------------------------------------------------------------


def spans_of(change: FileChange) -> tuple[Span, ...]:
    """The extents of a file's hunks, ascending."""
    return tuple(sorted((h.start, len(h.old), len(h.new)) for h in change.hunks))


def shift(lines: Sequence[int], spans: Iterable[Span], own: bool = False) -> list[int]:
    """Where lines [first, last] stand after the hunks. What replaces a part of them belongs to
    them whole; what is inserted right before `first` does only if the edit is the holder's `own`.
    """
    first, last = lines
    new_first, new_last = first, last
    for start, old, new in sorted(spans):
        delta = new - old
        end = start + old  # the first line after the hunk
        if end <= first and (old or not (own and start == first)):
            new_first += delta
            new_last += delta
        elif start > last:
            continue
        else:
            if start < first:  # reaches in from above: all of the new lines belong to us
                new_first -= first - start
            if end - 1 > last:  # reaches out below
                new_last += end - 1 - last
            new_last += delta
    return [max(1, new_first), max(1, new_first, new_last)]


def touches(lines: Sequence[int], span: Span) -> bool:
    """Does a hunk change these lines? An insertion right before or after them does not."""
    start, old, _ = span
    first, last = lines
    return first < start <= last if old == 0 else start <= last and start + old - 1 >= first


def _defines(change: FileChange, symbol: str) -> bool:
    name = re.escape(symbol.rpartition(".")[2])
    defining = re.compile(rf"\s*(?:(?:async\s+)?def|class)\s+{name}\b|{name}\s*(?::[^=]*)?=(?!=)")
    return any(defining.match(line) for hunk in change.hunks for line in (*hunk.old, *hunk.new))


# --- the table ---------------------------------------------------------------------------------

Related = Callable[[str, str], bool]
"""related(a, b): b waits for a to end (it spawned it), so a may work inside b's claims."""


@dataclass(frozen=True)
class Asked:
    """What came of a request. `blocker` holds (or claimed before) what is in the way."""

    state: Literal["held", "queued", "conflict"]
    blocker: Claim | None = None


class Claims:
    """Held and queued claims, oldest first. Released ones leave."""

    def __init__(self, items: Iterable[Claim] = ()) -> None:
        self.items: dict[str, Claim] = {claim.id: claim for claim in items}

    def of(self, agent: str) -> list[Claim]:
        return [claim for claim in self.items.values() if claim.agent == agent]

    def blockers(self, claim: Claim, related: Related) -> list[Claim]:
        """Claims of others that must end before `claim` can be held."""
        found = []
        for other in self.items.values():
            if other.id == claim.id:
                break  # later ones wait for us
            if other.agent == claim.agent or related(claim.agent, other.agent):
                continue
            if overlap(claim, other):
                found.append(other)
        # A claim granted although an older one still waits (it was in nobody's way then) counts.
        older = {other.id for other in found}
        found += [
            other
            for other in self.items.values()
            if other.state == "held"
            and other.id not in older
            and other.id != claim.id
            and other.agent != claim.agent
            and not related(claim.agent, other.agent)
            and overlap(claim, other)
        ]
        return found

    def waits(self, related: Related) -> dict[str, set[str]]:
        """Who waits for whom, because of claims."""
        edges: dict[str, set[str]] = {}
        for claim in self.items.values():
            if claim.state == "queued":
                blocking = {other.agent for other in self.blockers(claim, related)}
                edges.setdefault(claim.agent, set()).update(blocking)
        return edges

    def request(
        self, claim: Claim, related: Related, waiting: Mapping[str, Iterable[str]] | None = None
    ) -> Asked:
        """Grants, queues, or refuses because waiting would never end.

        `waiting`: other reasons to wait (who has spawned whom and waits for the report).
        """
        blocking = self.blockers(claim, related)
        if not blocking:
            claim.state = "held"
            self.items[claim.id] = claim
            return Asked("held")
        edges = self.waits(related)
        for agent, others in (waiting or {}).items():
            edges.setdefault(agent, set()).update(others)
        for other in blocking:
            if claim.agent in _reachable(edges, other.agent):
                return Asked("conflict", other)
        claim.state = "queued"
        self.items[claim.id] = claim
        return Asked("queued", blocking[0])

    def release(self, agent: str, task: str | None = None) -> list[Claim]:
        """Ends all claims of an agent (or those of one of its tasks); `grant` comes next."""
        gone = [claim for claim in self.of(agent) if task is None or claim.task == task]
        for claim in gone:
            claim.state = "released"
            del self.items[claim.id]
        return gone

    def grant(self, related: Related) -> list[Claim]:
        """Grants what nothing blocks any more, oldest first."""
        granted = []
        for claim in list(self.items.values()):
            if claim.state == "queued" and not self.blockers(claim, related):
                claim.state = "held"
                granted.append(claim)
        return granted

    def guarding(
        self, author: str, change: FileChange, spans: Sequence[Span], related: Related
    ) -> Claim | None:
        """The claim of another that this change of a file (extents: `spans`) would break into."""
        own = any(
            claim.state == "held"
            and (claim.path == change.path or _within(change.path, claim.path))
            for claim in self.of(author)
        )
        for claim in self.items.values():
            if claim.state != "held" or claim.agent == author or related(author, claim.agent):
                continue
            if claim.path != change.path:
                if _within(change.path, claim.path):
                    return claim
            elif claim.lines and spans and change.after:
                if any(touches(claim.lines, span) for span in spans):
                    return claim
            elif claim.symbol and own and change.after:
                if _defines(change, claim.symbol):
                    return claim
            else:
                return claim
        return None

    def moved(self, author: str, path: str, spans: Sequence[Span]) -> list[Claim]:
        """Anchors: after an applied edit, the claims on `path` whose lines have moved."""
        changed = []
        for claim in self.items.values():
            if claim.path == path and claim.lines:
                lines = shift(claim.lines, spans, claim.agent == author)
                if lines != claim.lines:
                    claim.lines = lines
                    changed.append(claim)
        return changed


def reaches(edges: Mapping[str, Iterable[str]], agent: str, other: str) -> bool:
    """Does `agent` wait, directly or through others, for `other`?"""
    return agent != other and other in _reachable(edges, agent)


def waits_for_itself(edges: Mapping[str, Iterable[str]], agent: str) -> bool:
    """Is there a way from `agent` back to it? For tests: it must never happen."""
    return any(agent in _reachable(edges, other) for other in edges.get(agent, ()))


def _reachable(edges: Mapping[str, Iterable[str]], start: str) -> set[str]:
    seen, todo = {start}, [start]
    while todo:
        for other in edges.get(todo.pop(), ()):
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return seen


def row(claim: Claim) -> dict[str, Any]:
    plain = msgspec.to_builtins(claim)
    assert isinstance(plain, dict)
    return plain


def from_row(value: Any) -> Claim:
    return msgspec.convert(value, Claim)
