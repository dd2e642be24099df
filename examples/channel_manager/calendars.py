"""What the three channels show their guests, held in memory by the channel server."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any, Final

from msgspec import Struct

from channel_manager.shapes import Delta, FreeRooms, ShapeError, read_ical

CHANNELS: Final = ("alpine", "nimbus", "ical")
# A sender repeats a message soon or never; so many ids are minutes at full load.
REMEMBERED_IDS: Final = 200_000


class Feed(Struct):
    """A published iCal feed, read for its closed dates only when somebody asks."""

    body: bytes
    etag: str
    closed: dict[str, str] | None = None


class Calendars:
    """Every listing of every channel: a push replaces (alpine, ical) or changes (nimbus) one calendar."""

    def __init__(self) -> None:
        self._alpine: dict[str, dict[str, int]] = {}
        self._nimbus: dict[str, dict[str, dict[str, Any]]] = {}
        self._feeds: dict[str, Feed] = {}
        self._applied: OrderedDict[tuple[str, str], None] = OrderedDict()

    def take_alpine(self, listing: str, message: FreeRooms) -> None:
        """Show what the message says; a complete set also takes all other dates away."""
        shown = {date.isoformat(): free for date, free in message.free.items()}
        self._alpine[listing] = shown if message.complete else {**self._alpine.get(listing, {}), **shown}

    def take_nimbus(self, listing: str, message_id: str, deltas: list[Delta]) -> bool:
        """Change these nights, once for each message id; False where it was applied before."""
        if (listing, message_id) in self._applied:
            return False
        self._applied[listing, message_id] = None
        if len(self._applied) > REMEMBERED_IDS:
            self._applied.popitem(last=False)
        calendar = self._nimbus.setdefault(listing, {})
        for delta in deltas:
            calendar[delta.date.isoformat()] = {"free": delta.free, "price": delta.price}
        return True

    def take_ical(self, listing: str, body: bytes) -> str:
        """Publish a feed and give its ETag; the same feed again has the same one."""
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        known = self._feeds.get(listing)
        if known is None or known.etag != etag:
            self._feeds[listing] = Feed(body, etag)
        return etag

    def feed(self, listing: str) -> Feed | None:
        """Return the published feed, if there is one."""
        return self._feeds.get(listing)

    def state(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return {channel: {listing: {date: …}}}: units for alpine, units and price for nimbus, "closed" dates for ical."""
        return {"alpine": self._alpine, "nimbus": self._nimbus, "ical": {listing: _closed(feed) for listing, feed in self._feeds.items()}}


def _closed(feed: Feed) -> dict[str, str]:
    if feed.closed is None:
        try:
            feed.closed = {date.isoformat(): "closed" for date in sorted(read_ical(feed.body))}
        except ShapeError as error:
            feed.closed = {"unreadable": str(error)}
    return feed.closed
