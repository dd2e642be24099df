"""Real bids, replayed, and who must win them; an invented sample where the real ones are not at hand."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

_HERE = Path(__file__).resolve().parent


class Bid(Struct, frozen=True):
    """A bid at a part of the auction's time, from 0 to 1."""

    auction: str
    item: str
    bidder: str
    cents: int
    opening: int
    part: float


def find_bids() -> Path:
    """Return the real bids, or our sample."""
    real = Path(os.environ.get("CHAPPE_SHARED", "/work/shared")) / "data/auctions/ebay_bids.csv"
    return real if real.exists() else _HERE / "sample_bids.csv"


def replay(path: Path | None = None, busiest: int | None = None) -> list[Bid]:
    """Return bids in the order of their time, of all auctions or of the busiest."""
    with (path or find_bids()).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = Counter(row["auctionid"] for row in rows)
    chosen = {auction for auction, _ in counts.most_common(busiest)}
    bids = [
        Bid(
            row["auctionid"], row["item"], row["bidder"], _cents(row["bid"]), max(1, _cents(row["openbid"])),
            float(row["bidtime"]) / float(row["auction_type"].split()[0]),
        )
        for row in rows
        if row["auctionid"] in chosen
    ]  # fmt: skip
    return sorted(bids, key=lambda bid: bid.part)


def winners(bids: Iterable[Bid]) -> dict[str, tuple[str, int, int]]:
    """Return of each auction who wins, the price, and how many bids are taken: as a plain loop computes it."""
    found: dict[str, tuple[str, int, int]] = {}
    for bid in bids:
        _, price, taken = found.get(bid.auction, ("", bid.opening - 1, 0))
        if bid.cents > price:
            found[bid.auction] = (bid.bidder, bid.cents, taken + 1)
    return found


def _cents(amount: str) -> int:
    return round(float(amount) * 100)
