"""Exports in CSV: Pocket's of 2024 and Instapaper's."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Final

from read_later.links import Link, at_seconds
from read_later.messages import Source

_STATES: Final = {"unread", "archive", "starred"}  # Instapaper's own folders; every other one is a tag
_LONGEST_FIELD: Final = 1024 * 1024


def read(text: str) -> tuple[Source, Iterable[Link]] | None:
    """Return the links of a CSV whose header is known, or None."""
    csv.field_size_limit(_LONGEST_FIELD)
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [name.strip().casefold() for name in next(rows, list[str]())]
    except csv.Error:
        return None
    if {"title", "url", "time_added", "status"} <= set(header):
        return "pocket", _pocket(header, rows)
    if {"url", "title", "selection", "folder"} <= set(header):
        return "instapaper", _instapaper(header, rows)
    return None


def _rows(header: list[str], rows: Iterator[list[str]]) -> Iterator[dict[str, str]]:
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:  # one row that cannot be read costs no other
            continue
        if any(row):
            yield dict(zip(header, row, strict=False))


def _pocket(header: list[str], rows: Iterator[list[str]]) -> Iterator[Link]:
    for row in _rows(header, rows):
        yield Link(
            row.get("url", ""),
            row.get("title", ""),
            at_seconds(row.get("time_added")),
            tuple(re.split(r"[|,]", row.get("tags", ""))),
            archived=row.get("status") == "archive",
            starred=row.get("favorite") == "1",
        )


def _instapaper(header: list[str], rows: Iterator[list[str]]) -> Iterator[Link]:
    for row in _rows(header, rows):
        folder = row.get("folder", "")
        state = folder.casefold()
        tags = [] if state in _STATES else [folder]
        tags += re.findall(r'"((?:[^"\\]|\\.)*)"', row.get("tags", ""))  # newer files have a list of JSON
        yield Link(
            row.get("url", ""),
            row.get("title", ""),
            at_seconds(row.get("timestamp")),
            tuple(tags),
            archived=state == "archive",
            starred=state == "starred",
        )
