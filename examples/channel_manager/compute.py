"""Stage two: reads the data of a mask at the last moment, and shapes it for each channel that shows the property."""

from __future__ import annotations

from collections.abc import Iterator

from channel_manager.application import app
from channel_manager.messages import PushCalendar, SyncProperty
from channel_manager.property import PropertyDatabase
from chappe import Context


@app.handles(SyncProperty)
def compute(mask: SyncProperty, properties: PropertyDatabase, context: Context) -> Iterator[PushCalendar]:
    """Split a mask by channel: a channel without rates is not told of new ones.

    The channels are rows of the property database, so a new one changes nothing here.
    """
    for listing in properties.listings(mask.property_id):
        if "availability" in mask.what or listing.rates:
            nights = tuple(properties.expected(listing))
            yield PushCalendar(channel=listing.channel, listing=listing.listing, nights=nights, requested_at=context.sent_at)
