"""What is done with a bid: three handlers in order, each marked when it is done, so that a retry goes on at the one that failed."""

from __future__ import annotations

from typing import Any

from auctions.application import app
from auctions.house import House, money
from auctions.messages import AuctionClosed, AuctionOpened, BidRaised, BidRefused, CloseAuction, OpenAuction, RaiseBid, word_of
from chappe import Context, Reject


@app.handles(RaiseBid)
def add_user_to_auction(bid: RaiseBid, house: House) -> None:
    """Note that somebody takes part."""
    try:
        house.join(bid.auction, bid.bidder)
    except KeyError:
        raise Reject(f"there is no auction {bid.auction}") from None


@app.handles(RaiseBid)
def check_bid_amount(bid: RaiseBid, house: House, context: Context) -> None:
    """Take the bid or refuse it, once for each bid: it may come again after a crash."""
    house.decide(context.id, bid.auction, bid.bidder, bid.cents, context.sent_at)


@app.handles(RaiseBid)
def notify_participants(bid: RaiseBid, house: House, context: Context) -> dict[str, Any]:
    """Tell everybody of a new price, and a bidder of a refusal."""
    decision = house.decision(context.id)
    if decision.reason is None:
        context.send(BidRaised(auction=bid.auction, bidder=bid.bidder, cents=bid.cents, bids=decision.bids, at=context.sent_at))
        return {"outcome": "raised", "price": money(bid.cents)}
    refused = BidRefused(to=word_of(bid.bidder), auction=bid.auction, bidder=bid.bidder, cents=bid.cents, reason=decision.reason)
    context.send(refused)
    return {"outcome": "refused", "reason": decision.reason}


@app.handles(OpenAuction)
def open_auction(command: OpenAuction, house: House, context: Context) -> None:
    """Offer the item, tell everybody, and close in time."""
    lot = house.open(command.auction, command.item, command.opening, context.sent_at + command.seconds)
    context.send(AuctionOpened(auction=lot.id, item=lot.item, opening=lot.opening, ends_at=lot.ends_at))
    context.send(CloseAuction(auction=lot.id), delay=max(0.0, lot.ends_at - context.now()))


@app.handles(CloseAuction)
def close_auction(command: CloseAuction, house: House, context: Context) -> None:
    """Tell everybody who has it."""
    lot = house.close(command.auction)
    context.send(AuctionClosed(auction=lot.id, winner=lot.leader, cents=lot.price))
