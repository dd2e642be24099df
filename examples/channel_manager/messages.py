"""What travels through the channel manager: the mask, the push made from it, and what a channel says to it."""

from __future__ import annotations

from typing import Literal, Self

from channel_manager.property import Night
from chappe import Command, Event, Rate, Retry, replace

What = Literal["availability", "rates"]


class SyncProperty(Command, queue="compute", key="{property_id}"):
    """A mask: what of a property changed, never the data. The data is read when the sync runs."""

    property_id: int
    what: frozenset[What]

    def merge(self, newer: Self) -> Self:
        """Two pending masks of one property become one."""
        return replace(self, what=self.what | newer.what)


class PushCalendar(
    Command,
    exchange="channels",
    routing_key="push.{channel}.{listing}",
    key="{listing}",
    rate=Rate("500/s", key="{channel}", burst=50),
    retry=Retry(30, delay=0.5, factor=1.5, most=5.0),
    timeout=10.0,
):
    """Nights of one listing as its channel shall show them; the pushes of a listing arrive in order."""

    channel: str
    listing: str
    nights: tuple[Night, ...]
    requested_at: float

    def merge(self, newer: Self) -> Self:
        """Of each night only the newest is worth pushing."""
        nights = {night.date: night for night in (*self.nights, *newer.nights)}
        return replace(
            newer, nights=tuple(nights[date] for date in sorted(nights)), requested_at=min(self.requested_at, newer.requested_at)
        )


class ConfirmPush(Command, queue="confirm"):
    """What a channel says later about a push, by the id of its message."""

    message_id: str
    listing: str
    status: Literal["ok", "refused"]
    code: str | None = None


class CalendarPushed(Event):
    """A channel took the nights of a listing."""

    channel: str
    listing: str
    nights: int
