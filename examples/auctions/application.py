"""The application, and what its handlers are given: the books of the house."""

from __future__ import annotations

import os
from collections.abc import Iterator

from auctions.house import House
from auctions.messages import AuctionClosed, AuctionOpened, BidRaised, BidRefused
from chappe import App

app = App("auctions")
app.knows(AuctionOpened, BidRaised, BidRefused, AuctionClosed)

if folder := os.environ.get("AUCTIONS_ZEROMQ"):  # where programs bid that speak ZeroMQ
    from chappe.integrations.zeromq import Doors

    place = f"ipc://{folder}"
    Doors(app, requests=f"{place}/requests", pushes=f"{place}/pushes", events=f"{place}/events", pattern="auction.#")


@app.provides
def house() -> Iterator[House]:
    """The books, in the file that AUCTIONS_DATABASE names."""
    with House(os.environ.get("AUCTIONS_DATABASE", "auctions.db")) as books:
        yield books
