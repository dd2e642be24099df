"""Exports in JSON: Readability's, Pinboard's, wallabag's, and the bookmarks of Firefox and Chrome."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

import msgspec

from read_later.links import Link, at_iso, at_seconds
from read_later.messages import Source

_MICROSECONDS: Final = 1_000_000.0
_FROM_1601: Final = 11_644_473_600.0  # Chrome counts from there


def read(text: str) -> tuple[Source, Iterable[Link]] | None:
    """Return the links of a JSON file by the names that stand in it, or None."""
    try:
        found: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    if isinstance(found, list):
        entries = _objects(found)
        first = entries[0] if entries else {}
        if "href" in first:
            return "pinboard", _pinboard(entries)
        return ("wallabag", _wallabag(entries)) if "url" in first and "is_archived" in first else None
    if not isinstance(found, dict):
        return None
    tree = cast("dict[str, Any]", found)
    if "bookmarks" in tree:
        return "readability", _readability(_objects(tree["bookmarks"]))
    if isinstance(tree.get("roots"), dict):
        return "chrome", _chrome(tree["roots"])
    if tree.get("type") == "text/x-moz-place-container" or "root" in tree:
        return "firefox", _firefox(tree)
    return None


def _objects(found: Any) -> list[dict[str, Any]]:
    return [cast("dict[str, Any]", one) for one in cast("list[Any]", found) if isinstance(one, dict)] if isinstance(found, list) else []


def _text(found: Any) -> str:
    return found if isinstance(found, str) else ""


def _readability(entries: list[dict[str, Any]]) -> Iterator[Link]:
    for one in entries:
        yield Link(
            _text(one.get("article__url")),
            _text(one.get("article__title")),
            at_iso(one.get("date_added")),
            archived=bool(one.get("archive")),
            starred=bool(one.get("favorite")),
        )


def _pinboard(entries: list[dict[str, Any]]) -> Iterator[Link]:
    for one in entries:
        tags = tuple(_text(one.get("tags")).split())
        unread = one.get("toread") == "yes"
        yield Link(_text(one.get("href")), _text(one.get("description")), at_iso(one.get("time")), tags, archived=not unread)


def _wallabag(entries: list[dict[str, Any]]) -> Iterator[Link]:
    for one in entries:
        tags = tuple(tag if isinstance(tag, str) else _text(tag.get("label")) for tag in one.get("tags") or ())
        states = (bool(one.get("is_archived")), bool(one.get("is_starred")))
        yield Link(_text(one.get("url")), _text(one.get("title")), at_iso(one.get("created_at")), tags, *states)


def _firefox(tree: dict[str, Any]) -> Iterator[Link]:
    for one in _walk(tree):
        if one.get("type") == "text/x-moz-place" or "uri" in one:
            tags = tuple(_text(one.get("tags")).split(","))
            yield Link(_text(one.get("uri")), _text(one.get("title")), at_seconds(one.get("dateAdded"), _MICROSECONDS), tags)


def _chrome(roots: dict[str, Any]) -> Iterator[Link]:
    for root in _objects(list(roots.values())):
        for one in _walk(root):
            if one.get("type") == "url":
                added = at_seconds(one.get("date_added"), _MICROSECONDS, _FROM_1601)
                yield Link(_text(one.get("url")), _text(one.get("name")), added)


def _walk(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return every object of a tree of folders, without recursion: a file may be as deep as it likes."""
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        yield one
        waiting.extend(reversed(_objects(one.get("children"))))
