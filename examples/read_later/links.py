"""A link as every export knows it, and the refusal of a file."""

from __future__ import annotations

import datetime as dt
from typing import Any

from msgspec import Struct


class Refused(Exception):
    """The file cannot be imported; the message is a sentence for whoever uploaded it."""


class Link(Struct, frozen=True):
    """One link: its title, when it was saved, and what its user made of it."""

    url: str
    title: str = ""
    added: dt.datetime | None = None
    tags: tuple[str, ...] = ()
    archived: bool = False
    starred: bool = False


def at_seconds(seconds: Any, unit: float = 1.0, since: float = 0.0) -> dt.datetime | None:
    """Return the time that a number of units since an epoch says; None for what is none."""
    try:
        value = float(seconds) / unit - since
        return dt.datetime.fromtimestamp(value, dt.UTC) if value > 0 else None
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def at_iso(text: Any) -> dt.datetime | None:
    """Return the time that an ISO 8601 text says, in UTC where it names no zone; None for what is none."""
    try:
        value = dt.datetime.fromisoformat(text)
        return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
    except (TypeError, ValueError, OverflowError):
        return None
