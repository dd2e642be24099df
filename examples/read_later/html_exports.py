"""Exports in HTML: Pocket's, and the bookmarks that began with Netscape and that Shaarli and every browser write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import lxml.html as _html

from read_later.links import Link, at_seconds
from read_later.messages import Source

html: Final[Any] = _html  # lxml brings no types


def read(text: str) -> tuple[Source, Iterable[Link]] | None:
    """Return the links of a page that says whose export it is, or None."""
    start = text[:2000].casefold()
    if "netscape-bookmark-file" in start:
        return "netscape", _netscape(_parsed(text))
    if "<title>pocket export</title>" in start:
        return "pocket", _pocket(_parsed(text))
    return None


def _parsed(text: str) -> Any:
    return html.document_fromstring(text.encode(), parser=html.HTMLParser(encoding="utf-8", huge_tree=True))


def _tags(link: Any) -> tuple[str, ...]:
    return tuple((link.get("tags") or "").split(","))


def _pocket(page: Any) -> Iterator[Link]:
    archived = False
    for element in page.iter("h1", "a"):
        if element.tag == "h1":
            archived = "archive" in element.text_content().casefold()
        elif element.get("href"):
            yield Link(element.get("href"), element.text_content(), at_seconds(element.get("time_added")), _tags(element), archived)


def _netscape(page: Any) -> Iterator[Link]:
    for link in page.iter("a"):
        if link.get("href"):
            yield Link(
                link.get("href"),
                link.text_content(),
                at_seconds(link.get("add_date")),
                _tags(link),
                archived=link.get("toread") == "0",
            )
