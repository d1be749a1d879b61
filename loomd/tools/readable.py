"""HTML as text that a model reads: headings, paragraphs, lists, links, code. Pure."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urljoin

_SKIPPED: Final = frozenset(
    {"script", "style", "noscript", "template", "svg", "head", "nav", "footer", "form", "button",
     "select", "iframe", "object", "canvas"}
)  # fmt: skip
_BLOCKS: Final = frozenset(
    {"p", "div", "section", "article", "main", "header", "aside", "ul", "ol", "dl", "dt", "dd",
     "table", "tr", "blockquote", "figure", "figcaption", "hr", "address", "details", "summary"}
)  # fmt: skip
_EMPTY: Final = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track",
     "wbr"}
)  # fmt: skip


def readable(html: str, base: str = "") -> tuple[str, str]:
    """(title, text). Links become `text (address)`, with `base` before relative ones."""
    page = _Page(base)
    page.feed(html)
    page.close()
    text = "".join(page.made)
    text = re.sub(r"[ \t]+\n", "\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text)
    return " ".join(page.title.split()), text.strip()


class _Page(HTMLParser):
    """skipped: the open elements below one whose content is left out; pre: open `pre`s."""

    def __init__(self, base: str) -> None:
        super().__init__(convert_charrefs=True)
        self.base = base
        self.made: list[str] = []
        self.title = ""
        self.skipped: list[str] = []
        self.in_title = False
        self.pre = 0
        self.lists: list[int | None] = []
        self.link = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title" and not self.title:
            self.in_title = True
        elif tag == "base" and (href := dict(attrs).get("href")):
            self.base = urljoin(self.base, href)
        if self.skipped or tag in _SKIPPED:
            if tag not in _EMPTY:
                self.skipped.append(tag)
            return
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self._block()
            self.made.append("#" * int(tag[1]) + " ")
        elif tag == "pre":
            self._block()
            self.made.append("```\n")
            self.pre += 1
        elif tag == "code" and not self.pre:
            self.made.append("`")
        elif tag == "br":
            self.made.append("\n")
        elif tag == "li":
            self._line()
            number = self.lists[-1] if self.lists else None
            mark = "- "
            if number is not None:
                mark, self.lists[-1] = f"{number}. ", number + 1
            self.made.append("  " * max(len(self.lists) - 1, 0) + mark)
        elif tag in ("ul", "ol"):
            self._line() if self.lists else self._block()
            self.lists.append(1 if tag == "ol" else None)
        elif tag in ("td", "th"):
            self.made.append(" | " if self.made and not self.made[-1].endswith("\n") else "")
        elif tag == "tr":
            self._line()
        elif tag == "a":
            self.link = dict(attrs).get("href") or ""
        elif tag == "img" and (alt := dict(attrs).get("alt")):
            self.made.append(f"[image: {alt}]")
        elif tag in _BLOCKS:
            self._block()

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self.in_title = False
        if self.skipped:
            if tag in self.skipped:
                while self.skipped.pop() != tag:
                    pass
            return
        if tag == "pre" and self.pre:
            self.pre -= 1
            self._line()
            self.made.append("```\n\n")
        elif tag == "code" and not self.pre:
            self.made.append("`")
        elif tag in ("ul", "ol") and self.lists:
            self.lists.pop()
            self._line() if self.lists else self._block()
        elif tag == "a":
            link, self.link = self.link, ""
            if link and not link.startswith(("#", "javascript:", "data:")):
                self.made.append(f" ({urljoin(self.base, link)})")
        elif tag in _BLOCKS or tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self._block()

    def handle_data(self, data: str) -> None:
        if self.in_title:
            self.title += data
        if self.skipped:
            return
        if self.pre:
            self.made.append(data)
            return
        text = re.sub(r"\s+", " ", data)
        if not self.made or self.made[-1].endswith(("\n", " ")):
            text = text.lstrip()
        if text:
            self.made.append(text)

    def _line(self) -> None:
        if self.made and not self.made[-1].endswith("\n"):
            self.made.append("\n")

    def _block(self) -> None:
        if self.made and not self.made[-1].endswith("\n\n"):
            self.made.append("\n\n")
