"""What travels through the auction house: bids, and what everybody hears of them. Money is in cents."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from chappe import Command, Event, Exchange, Retry

Name = Annotated[str, Meta(min_length=1, max_length=60)]
Number = Annotated[str, Meta(pattern=r"^\d{1,20}$")]
Cents = Annotated[int, Meta(ge=1, le=10**12)]

HALL = Exchange("auctions", archive=30 * 86400.0)


class OpenAuction(Command, queue="bids", key="{auction}"):
    """Offer an item for some seconds."""

    auction: Number
    item: Annotated[str, Meta(min_length=1, max_length=200)]
    opening: Cents
    seconds: Annotated[float, Meta(gt=0, le=30 * 86400.0)]


class RaiseBid(Command, queue="bids", key="{auction}", retry=Retry(5, delay=0.2), results=True):
    """Bid more than the price."""

    auction: Number
    bidder: Name
    cents: Cents


class CloseAuction(Command, queue="bids", key="{auction}"):
    """Let nobody bid any more."""

    auction: Number


class AuctionOpened(Event, exchange=HALL, routing_key="auction.{auction}.opened"):
    """An item is offered."""

    auction: str
    item: str
    opening: int
    ends_at: float


class BidRaised(Event, exchange=HALL, routing_key="auction.{auction}.raised"):
    """The price went up."""

    auction: str
    bidder: str
    cents: int
    bids: int
    at: float


class BidRefused(Event, exchange=HALL, routing_key="refused.{to}"):
    """A bid was not taken: only its bidder listens for that. `to` is the name as one word of a routing key."""

    to: str
    auction: str
    bidder: str
    cents: int
    reason: str


def word_of(name: str) -> str:
    """Return a name, whatever is in it, as one word of a routing key."""
    return name.encode().hex()


class AuctionClosed(Event, exchange=HALL, routing_key="auction.{auction}.closed"):
    """Nobody may bid any more."""

    auction: str
    winner: str | None
    cents: int | None
