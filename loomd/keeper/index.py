"""Ranked search over short documents: BM25 with identifiers split into their words. Pure.

`parseConfigFile` is found by itself, by `parse`, by `config file`; `parse_cfg` by both halves. The
whole identifier weighs more than its words, because it is rarer.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

K1: Final = 1.2
B: Final = 0.6

_WORD: Final = re.compile(r"[^\W_]+(?:_+[^\W_]+)*|_+[^\W_]+", re.UNICODE)
_CAMEL: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\WA-Za-z0-9_]+")
_MAX_TOKEN: Final = 64
"""Longer runs (hashes, base64) are cut: nobody types them whole."""


@lru_cache(maxsize=65_536)
def _parts(word: str) -> tuple[str, ...]:
    """The word itself, and its parts if it has several; lower case."""
    whole = word.strip("_").lower()[:_MAX_TOKEN]
    parts = [part.lower()[:_MAX_TOKEN] for part in _CAMEL.findall(word)]
    if len(parts) < 2:
        return (whole,) if whole else ()
    return (whole, *parts)


def tokens(text: str) -> Iterator[str]:
    """Search terms of `text` in order: each identifier whole, then its words."""
    for word in _WORD.findall(text):
        yield from _parts(word)


class Index:
    """An inverted index. Documents are numbered by the order in which they were added."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._postings: dict[str, array[int]] = {}  # term -> doc, count, doc, count, ...
        self._lengths: list[int] = []
        postings = self._postings
        for doc, text in enumerate(texts):
            # Words are counted first and split once each: a text repeats itself a lot.
            counts: Counter[str] = Counter()
            for word, n in Counter(_WORD.findall(text)).items():
                for term in _parts(word):
                    counts[term] += n
            self._lengths.append(sum(counts.values()))
            for term, n in counts.items():
                known = postings.get(term)
                if known is None:
                    postings[term] = array("L", (doc, n))
                else:
                    known.extend((doc, n))
        self._mean = sum(self._lengths) / len(self._lengths) if self._lengths else 1.0

    def __len__(self) -> int:
        return len(self._lengths)

    def _rarity(self, term: str) -> float:
        having = len(self._postings.get(term, ())) // 2
        return math.log(1 + (len(self) - having + 0.5) / (having + 0.5))

    def search(self, query: str, limit: int) -> list[tuple[int, float]]:
        """The best documents with their scores, best first; among equals the later one first."""
        scores: dict[int, float] = {}
        mean = self._mean or 1.0
        for term in dict.fromkeys(tokens(query)):
            postings = self._postings.get(term)
            if postings is None:
                continue
            rarity = self._rarity(term)
            for doc, n in zip(postings[::2], postings[1::2], strict=True):
                norm = K1 * (1 - B + B * self._lengths[doc] / mean)
                scores[doc] = scores.get(doc, 0.0) + rarity * n * (K1 + 1) / (n + norm)
        ranked = sorted(scores.items(), key=lambda one: (-one[1], -one[0]))
        return ranked[: max(0, limit)]

    def terms(self, limit: int) -> list[str]:
        """What the documents are about: identifiers and words that are frequent, yet not
        everywhere. For an index line, so only plain ones of some length."""
        size = len(self)
        weights = {}
        for term, postings in self._postings.items():
            having = len(postings) // 2
            if len(term) < 4 or term.isdigit() or (size > 3 and having == size):
                continue
            weights[term] = (
                sum(postings[1::2]) ** 0.5
                * (1.0 + ("_" in term))
                * (math.log(1 + size / having) + 0.5)
            )
        return sorted(weights, key=lambda term: (-weights[term], term))[: max(0, limit)]
