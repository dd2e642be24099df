"""What a page says: its text without menus and advertisements, its author and its date."""

from __future__ import annotations

from typing import Any

import trafilatura
from msgspec import Struct


class NoText(Exception):
    """There is nothing to read on this page."""


class Extracted(Struct, frozen=True):
    """The readable part of a page."""

    text: str
    title: str
    author: str | None
    published: str | None


def extract(html: str, url: str) -> Extracted:
    """Return what a page says; raises `NoText`."""
    found: Any = trafilatura.bare_extraction(html, url=url, with_metadata=True, include_comments=False)
    if found is None or not (text := (found.text or "").strip()):
        raise NoText("there is no text on it that could be read")
    return Extracted(text, found.title or "", found.author, found.date)
